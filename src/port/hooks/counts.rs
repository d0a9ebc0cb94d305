//! Counts by source and address in a sliding window.

use std::{collections::HashMap, net::IpAddr};

use parking_lot::Mutex;

use crate::{
    base::clock::Millis,
    limits::{Limit, Times},
    port::auth,
};

/// The number of pairs of source and address remembered at once; a few MiB.
const PAIRS: usize = 16_384;

pub(super) struct Counts {
    limit: Limit,
    pairs: Mutex<HashMap<(Box<str>, IpAddr), Times>>,
}

impl Counts {
    pub(super) fn new(limit: u32, window_s: u32) -> Self {
        Self {
            limit: Limit {
                limit,
                window_ms: i64::from(window_s) * 1000,
            },
            pairs: Mutex::default(),
        }
    }

    /// Counts one; beyond the limit, the error is the number of seconds until another one is admitted.
    pub(super) fn admit(&self, source: &str, address: IpAddr, now: Millis) -> Result<(), u32> {
        let mut pairs = self.pairs.lock();
        if pairs.len() >= PAIRS {
            let counts = |times: &Times| times.empty_at(self.limit).is_some_and(|at| at > now);
            pairs.retain(|_, times| counts(times));
            if pairs.len() >= PAIRS {
                // An attack from very many addresses; clearing keeps memory bounded.
                pairs.clear();
            }
        }
        let times = pairs
            .entry((source.into(), auth::network(address)))
            .or_default();
        let admitted = times.admit(self.limit, now);
        admitted.map_err(|at| ((at.0 - now.0 + 999) / 1000).max(1) as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_source_and_address_has_a_window_of_its_own() {
        let counts = Counts::new(2, 60);
        let address = IpAddr::from([10, 0, 0, 1]);
        let admit = |source: &str, address, now| counts.admit(source, address, Millis(now));
        assert_eq!(admit("a", address, 0), Ok(()));
        assert_eq!(admit("a", address, 30_000), Ok(()));
        assert_eq!(admit("a", address, 40_000), Err(20));
        assert_eq!(admit("b", address, 40_000), Ok(()));
        assert_eq!(admit("a", [10, 0, 0, 2].into(), 40_000), Ok(()));
        assert_eq!(admit("a", address, 60_000), Ok(()));
    }

    #[test]
    fn memory_is_bounded() {
        let counts = Counts::new(30, 60);
        for n in 0..40_000_u32 {
            let _ = counts.admit("a", IpAddr::from(n.to_be_bytes()), Millis(i64::from(n)));
        }
        assert!(counts.pairs.lock().len() <= PAIRS);
    }
}
