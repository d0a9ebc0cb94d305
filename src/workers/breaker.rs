//! The circuit breaker of a tool. Pure. It opens when at least half of the last calls, and at least five, failed in the worker
//! (5xx, no answer, no connection). After a pause one call is let through as a probe: its success closes the breaker, its failure
//! doubles the pause.

use crate::base::clock::Millis;

/// The number of last calls that count.
const WINDOW: u32 = 20;
/// The minimum number of failures among them to open.
const FAILURES: u32 = 5;
/// The first pause, and the longest, in milliseconds.
const PAUSE_MS: i64 = 2_000;
const PAUSE_MAX_MS: i64 = 60_000;
/// How long other calls are held while a probe is in flight, in milliseconds.
const PROBE_MS: i64 = 1_000;

/// The state of a breaker.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// Calls are let through.
    Closed,
    /// No call is let through.
    Open {
        /// When a probe may be sent.
        until: Millis,
    },
    /// The pause is over, and one probe at a time is let through.
    HalfOpen,
}

/// Whether a call may be sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Pass {
    /// It may.
    Call,
    /// It may, and decides whether the breaker closes.
    Probe,
    /// It may not be sent before then.
    Held(Millis),
}

/// The breaker of one tool.
#[derive(Debug, Default)]
pub(super) struct Breaker {
    /// The last calls, the newest in the lowest bit; 1: it failed.
    failed: u32,
    /// The number of calls in `failed`, at most [`WINDOW`].
    calls: u32,
    /// While it is open: when a probe may be sent, and how often it opened in a row.
    open: Option<(Millis, u32)>,
    /// A probe is in flight.
    probing: bool,
}

impl Breaker {
    /// Its state.
    pub(super) fn state(&self, now: Millis) -> State {
        match self.open {
            None => State::Closed,
            Some((until, _)) if now < until => State::Open { until },
            Some(_) => State::HalfOpen,
        }
    }

    /// Whether a call may be sent now. A probe must end with [`Breaker::ended`] or [`Breaker::probe_lost`].
    pub(super) fn pass(&mut self, now: Millis) -> Pass {
        match self.open {
            None => Pass::Call,
            Some((until, _)) if now < until => Pass::Held(until),
            Some(_) if self.probing => Pass::Held(Millis(now.0 + PROBE_MS)),
            Some(_) => {
                self.probing = true;
                Pass::Probe
            }
        }
    }

    /// A call has ended. `jitter`: from 0 to 1.
    pub(super) fn ended(&mut self, probe: bool, failed: bool, now: Millis, jitter: f64) {
        if probe {
            self.probing = false;
            let (_, times) = self.open.unwrap_or((now, 0));
            if failed {
                self.open_for(times, now, jitter);
            } else {
                *self = Self::default();
            }
            return;
        }
        // Results of calls that began before it opened do not count.
        if self.open.is_some() {
            return;
        }
        self.failed = (self.failed << 1 | u32::from(failed)) & ((1 << WINDOW) - 1);
        self.calls = (self.calls + 1).min(WINDOW);
        let failures = self.failed.count_ones();
        if failures >= FAILURES && failures * 2 >= self.calls {
            self.open_for(0, now, jitter);
        }
    }

    /// A probe ended without a result: it was never sent, or was cancelled.
    pub(super) fn probe_lost(&mut self) {
        self.probing = false;
    }

    fn open_for(&mut self, times: u32, now: Millis, jitter: f64) {
        let whole = (PAUSE_MS << times.min(8)).min(PAUSE_MAX_MS);
        let pause = whole / 2 + (whole as f64 / 2.0 * jitter) as i64;
        self.open = Some((Millis(now.0 + pause), times + 1));
        self.failed = 0;
        self.calls = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failing(breaker: &mut Breaker, now: i64) {
        for _ in 0..FAILURES {
            breaker.ended(false, true, Millis(now), 1.0);
        }
    }

    #[test]
    fn it_opens_on_failures_and_closes_after_a_good_probe() {
        let mut breaker = Breaker::default();
        for _ in 0..4 {
            breaker.ended(false, true, Millis(0), 1.0);
        }
        assert_eq!(breaker.pass(Millis(0)), Pass::Call);
        breaker.ended(false, true, Millis(0), 1.0);
        assert_eq!(breaker.pass(Millis(0)), Pass::Held(Millis(2_000)));
        // A late success of an earlier call does not close it.
        breaker.ended(false, false, Millis(10), 1.0);
        assert_eq!(
            breaker.state(Millis(1_999)),
            State::Open {
                until: Millis(2_000)
            }
        );
        assert_eq!(breaker.pass(Millis(2_000)), Pass::Probe);
        assert_eq!(breaker.pass(Millis(2_000)), Pass::Held(Millis(3_000)));
        // The pause doubles when the probe fails.
        breaker.ended(true, true, Millis(2_500), 1.0);
        assert_eq!(breaker.pass(Millis(2_500)), Pass::Held(Millis(6_500)));
        assert_eq!(breaker.pass(Millis(6_500)), Pass::Probe);
        breaker.probe_lost();
        assert_eq!(breaker.pass(Millis(6_500)), Pass::Probe);
        breaker.ended(true, false, Millis(6_600), 1.0);
        assert_eq!(breaker.state(Millis(6_600)), State::Closed);
        // And the pause starts from its first value again.
        failing(&mut breaker, 7_000);
        assert_eq!(breaker.pass(Millis(7_000)), Pass::Held(Millis(9_000)));
    }

    #[test]
    fn a_minority_of_failures_does_not_open_it() {
        let mut breaker = Breaker::default();
        for n in 0..200 {
            breaker.ended(false, n % 3 == 0, Millis(n), 1.0);
            assert_eq!(breaker.pass(Millis(n)), Pass::Call, "{n}");
        }
    }

    #[test]
    fn the_pause_is_bounded() {
        let mut breaker = Breaker::default();
        failing(&mut breaker, 0);
        let mut now = 0;
        for _ in 0..20 {
            let State::Open { until } = breaker.state(Millis(now)) else {
                panic!("it is open");
            };
            assert!(until.0 - now <= PAUSE_MAX_MS);
            now = until.0;
            assert_eq!(breaker.pass(until), Pass::Probe);
            breaker.ended(true, true, until, 1.0);
        }
    }
}
