//! An exact sliding window: no interval of the window's length ever has more admissions than the limit.
//!
//! It stores the times of the admissions that still count, at most as many as the limit. The window is half open: an admission at T
//! counts until just before T + window.

use std::collections::VecDeque;

use crate::base::{
    clock::Millis,
    varint::{self, VarintError},
};

/// At most `limit` admissions in any window of `window_ms`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limit {
    /// Admissions, at least 1.
    pub limit: u32,
    /// Milliseconds, at least 1.
    pub window_ms: i64,
}

/// Times of admissions, oldest first.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Times(VecDeque<i64>);

/// The bytes are not what [`Times::encode`] wrote.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Damaged;

impl From<VarintError> for Damaged {
    fn from(_: VarintError) -> Self {
        Self
    }
}

impl Times {
    /// Admits one item now, or returns when the next one may come. Times never go back: a `now` before the newest time counts as that
    /// time.
    pub fn admit(&mut self, limit: Limit, now: Millis) -> Result<(), Millis> {
        let now = self.0.back().map_or(now.0, |last| now.0.max(*last));
        self.prune(limit, now);
        match self.next_free(limit) {
            Some(at) if at.0 > now => Err(at),
            _ => {
                self.0.push_back(now);
                Ok(())
            }
        }
    }

    /// The number of items that may be admitted now. Expired admissions are removed.
    pub fn room(&mut self, limit: Limit, now: Millis) -> u32 {
        let now = self.0.back().map_or(now.0, |last| now.0.max(*last));
        self.prune(limit, now);
        limit.limit.saturating_sub(self.0.len() as u32)
    }

    /// When the next item may be admitted; `None` if at any time.
    pub fn next_free(&self, limit: Limit) -> Option<Millis> {
        // There are more than the limit if the limit was lowered.
        let oldest = self.0.len().checked_sub(limit.limit as usize)?;
        let at = self.0.get(oldest)?;
        Some(Millis(at.saturating_add(limit.window_ms)))
    }

    /// When the newest admission stops counting; nothing needs to be stored from then on.
    pub fn empty_at(&self, limit: Limit) -> Option<Millis> {
        let newest = self.0.back()?;
        Some(Millis(newest.saturating_add(limit.window_ms)))
    }

    /// The time of the newest admission.
    pub fn newest(&self) -> Option<Millis> {
        self.0.back().copied().map(Millis)
    }

    /// Adds an earlier admission, after all others.
    pub fn add(&mut self, at: Millis) {
        let at = self.0.back().map_or(at.0, |last| at.0.max(*last));
        self.0.push_back(at);
    }

    /// Moves the newest `count` admissions to `at`, unless they are already later.
    pub fn postpone_newest(&mut self, count: usize, at: Millis) {
        for time in self.0.iter_mut().rev().take(count) {
            *time = (*time).max(at.0);
        }
    }

    /// The number of admissions at the newest time.
    pub fn newest_count(&self) -> usize {
        let newest = self.0.back();
        self.0
            .iter()
            .rev()
            .take_while(|at| Some(*at) == newest)
            .count()
    }

    fn prune(&mut self, limit: Limit, now: i64) {
        while self
            .0
            .front()
            .is_some_and(|at| at.saturating_add(limit.window_ms) <= now)
        {
            self.0.pop_front();
        }
    }

    /// The number of stored times.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether no times are stored.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Appends the times as varints (LEB128): their number, the first, then differences.
    pub fn encode(&self, out: &mut Vec<u8>) {
        varint::put(self.0.len() as u64, out);
        let mut before = 0;
        for at in &self.0 {
            // The first time may be before 1970; the others never go back.
            varint::put(at.wrapping_sub(before) as u64, out);
            before = *at;
        }
    }

    /// Reads what [`Times::encode`] wrote from the front of `bytes`.
    pub fn decode(bytes: &mut &[u8]) -> Result<Self, Damaged> {
        let count = varint::take(bytes)?;
        let mut times = VecDeque::new();
        let mut at: i64 = 0;
        for _ in 0..count {
            at = at.wrapping_add(varint::take(bytes)? as i64);
            times.push_back(at);
        }
        Ok(Self(times))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// No window, wherever it starts, exceeds the limit; nothing is refused that could be admitted; and a refusal names the first
        /// time at which it could be.
        #[test]
        fn never_more_than_the_limit_in_any_window(
            limit in 1u32..8,
            window_ms in 1i64..200,
            steps in prop::collection::vec((-20i64..60, prop::bool::weighted(0.1)), 1..300)
        ) {
            let limit = Limit { limit, window_ms };
            let mut times = Times::default();
            let mut admitted: Vec<i64> = Vec::new();
            let mut now = 1_000;
            for (step, reload) in steps {
                now += step;
                let clock = admitted.last().map_or(now, |last| now.max(*last));
                let inside = admitted.iter().filter(|at| **at > clock - window_ms).count();
                match times.clone().admit(limit, Millis(now)) {
                    Ok(()) => prop_assert!(inside < limit.limit as usize),
                    Err(at) => {
                        prop_assert_eq!(inside, limit.limit as usize);
                        prop_assert!(times.clone().admit(limit, Millis(at.0 - 1)).is_err());
                        prop_assert!(times.clone().admit(limit, at).is_ok());
                    }
                }
                if times.admit(limit, Millis(now)).is_ok() {
                    admitted.push(clock);
                }
                prop_assert!(times.len() <= limit.limit as usize);
                if reload {
                    let mut bytes = Vec::new();
                    times.encode(&mut bytes);
                    let mut rest = &bytes[..];
                    prop_assert_eq!(Times::decode(&mut rest), Ok(times.clone()));
                    prop_assert!(rest.is_empty());
                }
            }
            for first in &admitted {
                let inside = admitted.iter().filter(|at| (*first..first + window_ms).contains(at)).count();
                prop_assert!(inside <= limit.limit as usize, "{} in a window from {}", inside, first);
            }
        }

        #[test]
        fn damaged_bytes_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            // Whatever the bytes are, decoding ends and does not panic.
            let _ = Times::decode(&mut &bytes[..]);
        }
    }

    #[test]
    fn a_lowered_limit_counts_what_was_admitted_before() {
        let mut times = Times::default();
        let wide = Limit {
            limit: 3,
            window_ms: 100,
        };
        for at in [0, 10, 20] {
            times.admit(wide, Millis(at)).unwrap();
        }
        let narrow = Limit {
            limit: 1,
            window_ms: 100,
        };
        assert_eq!(times.admit(narrow, Millis(30)), Err(Millis(120)));
        assert!(times.admit(narrow, Millis(120)).is_ok());
    }
}
