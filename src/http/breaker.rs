//! A circuit breaker. Pure. It opens when at least half of the last calls, and at least `breaker.failures`, failed in the server that is
//! called (5xx, no answer, no connection). After `breaker.open_s` one call is let through as a probe: its success closes the breaker,
//! its failure keeps it open for the same time again.

use crate::{
    base::clock::Millis,
    config::{BREAKER_CALLS, BreakerSettings},
};

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
pub enum Pass {
    /// The call may be sent.
    Call,
    /// The call may be sent as a probe: its outcome decides whether the breaker closes.
    Probe,
    /// The call may not be sent before this time.
    Held(Millis),
}

/// The breaker of one server, or of one tool.
#[derive(Debug)]
pub struct Breaker {
    settings: BreakerSettings,
    /// The last calls, the newest in the lowest bit; 1: it failed.
    failed: u32,
    /// The number of calls in `failed`, at most [`BREAKER_CALLS`].
    calls: u32,
    /// While it is open: when a probe may be sent.
    open: Option<Millis>,
    /// A probe is in flight.
    probing: bool,
}

impl Breaker {
    /// A closed breaker.
    pub fn new(settings: BreakerSettings) -> Self {
        Self {
            settings,
            failed: 0,
            calls: 0,
            open: None,
            probing: false,
        }
    }

    /// The state at a time.
    pub fn state(&self, now: Millis) -> State {
        match self.open {
            None => State::Closed,
            Some(until) if now < until => State::Open { until },
            Some(_) => State::HalfOpen,
        }
    }

    /// Whether a call may be sent now. A probe must end with [`Breaker::ended`] or [`Breaker::probe_lost`].
    pub fn pass(&mut self, now: Millis) -> Pass {
        match self.open {
            None => Pass::Call,
            Some(until) if now < until => Pass::Held(until),
            Some(_) if self.probing => Pass::Held(Millis(now.0 + PROBE_MS)),
            Some(_) => {
                self.probing = true;
                Pass::Probe
            }
        }
    }

    /// A call has ended. `jitter`: from 0 to 1.
    pub fn ended(&mut self, probe: bool, failed: bool, now: Millis, jitter: f64) {
        if probe {
            self.probing = false;
            if failed {
                self.open(now, jitter);
            } else {
                *self = Self::new(self.settings);
            }
            return;
        }
        // Results of calls that began before it opened do not count.
        if self.open.is_some() {
            return;
        }
        self.failed = (self.failed << 1 | u32::from(failed)) & ((1 << BREAKER_CALLS) - 1);
        self.calls = (self.calls + 1).min(BREAKER_CALLS);
        let failures = self.failed.count_ones();
        if failures >= self.settings.failures && failures * 2 >= self.calls {
            self.open(now, jitter);
        }
    }

    /// A probe ended without a result: it was never sent, or was cancelled.
    pub fn probe_lost(&mut self) {
        self.probing = false;
    }

    /// Opens it for nine tenths of the pause to the whole: not all nodes send their probes at once.
    fn open(&mut self, now: Millis, jitter: f64) {
        let whole = self.settings.open.as_millis() as f64;
        let pause = whole * (0.9 + 0.1 * jitter);
        self.open = Some(Millis(now.0 + pause as i64));
        self.failed = 0;
        self.calls = 0;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const SETTINGS: BreakerSettings = BreakerSettings {
        failures: 3,
        open: Duration::from_secs(2),
    };

    fn fail(breaker: &mut Breaker, times: usize, now: i64) {
        for _ in 0..times {
            breaker.ended(false, true, Millis(now), 1.0);
        }
    }

    #[test]
    fn it_opens_on_failures_and_closes_after_a_good_probe() {
        let mut breaker = Breaker::new(SETTINGS);
        fail(&mut breaker, 2, 0);
        assert_eq!(breaker.pass(Millis(0)), Pass::Call);
        fail(&mut breaker, 1, 0);
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
        // It stays open when the probe fails.
        breaker.ended(true, true, Millis(2_500), 0.0);
        assert_eq!(breaker.pass(Millis(2_500)), Pass::Held(Millis(4_300)));
        assert_eq!(breaker.pass(Millis(4_300)), Pass::Probe);
        breaker.probe_lost();
        assert_eq!(breaker.pass(Millis(4_300)), Pass::Probe);
        breaker.ended(true, false, Millis(4_400), 1.0);
        assert_eq!(breaker.state(Millis(4_400)), State::Closed);
        // And begins anew, with the same settings.
        fail(&mut breaker, 3, 7_000);
        assert_eq!(breaker.pass(Millis(7_000)), Pass::Held(Millis(9_000)));
    }

    #[test]
    fn a_minority_of_failures_does_not_open_it() {
        let mut breaker = Breaker::new(BreakerSettings::default());
        for n in 0..200 {
            breaker.ended(false, n % 3 == 0, Millis(n), 1.0);
            assert_eq!(breaker.pass(Millis(n)), Pass::Call, "{n}");
        }
    }

    #[test]
    fn the_defaults_are_five_failures_and_thirty_seconds() {
        let mut breaker = Breaker::new(BreakerSettings::default());
        fail(&mut breaker, 4, 0);
        assert_eq!(breaker.pass(Millis(0)), Pass::Call);
        fail(&mut breaker, 1, 0);
        assert_eq!(breaker.pass(Millis(0)), Pass::Held(Millis(30_000)));
    }
}
