//! Records authentications in the audit log: successful ones once an hour for each key and client address, and failed ones.
//!
//! If a use is already recorded, a request only reads one cache line and writes nothing.

use std::{
    net::IpAddr,
    sync::atomic::{AtomicU64, Ordering},
};

use hyper::{
    HeaderMap,
    header::{HeaderValue, USER_AGENT},
};
use serde_json::Map;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::auth::network;
use crate::{
    audit::{Audit, Entry, Outcome},
    base::clock::Millis,
    controls::Key,
};

/// The number of uses remembered, over all keys; 512 KiB. Beyond it some are recorded more than once an hour.
const BUCKETS: usize = 8192;
const WAYS: usize = 8;
/// The maximum number of entries of each kind in a second.
const PER_SECOND: u32 = 100;
/// The bits of a slot that hold the hour; the others hold a hash of key and address.
const HOUR_BITS: u32 = 20;
const HOUR_MS: i64 = 3_600_000;

/// Remembers which uses were recorded in which hour.
pub(super) struct Uses {
    buckets: Box<[Bucket]>,
    seed: u64,
    used: PerSecond,
    failed: PerSecond,
}

#[derive(Default)]
#[repr(align(64))]
struct Bucket([AtomicU64; WAYS]);

impl Default for Uses {
    fn default() -> Self {
        Self {
            buckets: (0..BUCKETS).map(|_| Bucket::default()).collect(),
            // The random seed keeps clients from choosing addresses that share a bucket.
            seed: rand::random(),
            used: PerSecond::default(),
            failed: PerSecond::default(),
        }
    }
}

impl Uses {
    /// Records a successful authentication, if it is the first of this key from this address in this hour.
    pub(super) fn used(
        &self,
        audit: &Audit,
        key: &Key,
        address: IpAddr,
        headers: &HeaderMap,
        now: Millis,
    ) {
        if !self.is_first(&key.id, address, now) {
            return;
        }
        let (action, kind, id) = match &key.issuer {
            None => ("key.used", "key", key.id.as_str()),
            Some(issuer) => ("token.used", "issuer", &**issuer),
        };
        let entry = Entry::new(Some(&key.tenant), action, Outcome::Ok, now)
            .by(&key.principal, None)
            .resource(kind, id);
        audit.record(client(entry, address, headers));
    }

    /// Records a failed authentication.
    pub(super) fn failed(
        &self,
        audit: &Audit,
        reason: &str,
        address: IpAddr,
        headers: &HeaderMap,
        now: Millis,
    ) {
        if !self.failed.take(now) {
            return;
        }
        let detail = Map::from_iter([("reason".to_owned(), reason.into())]);
        let entry = Entry::new(None, "authentication.failed", Outcome::Denied, now).detail(detail);
        audit.record(client(entry, address, headers));
    }

    fn is_first(&self, key: &str, address: IpAddr, now: Millis) -> bool {
        let hash = xxh3_64_with_seed(key.as_bytes(), self.seed);
        let hash = match network(address) {
            IpAddr::V4(v4) => xxh3_64_with_seed(&v4.octets(), hash),
            IpAddr::V6(v6) => xxh3_64_with_seed(&v6.octets(), hash),
        };
        let hours = (1 << HOUR_BITS) - 1;
        let hour = (now.0 / HOUR_MS) as u64 & hours;
        let slot_now = hash & !hours | hour;
        let Bucket(slots) = &self.buckets[hash as usize % BUCKETS];
        // Replaces the slot of an earlier hour, or if all are of this hour, any slot.
        let mut victim = (hash >> HOUR_BITS) as usize % WAYS;
        for (index, slot) in slots.iter().enumerate() {
            let held = slot.load(Ordering::Relaxed);
            if held == slot_now {
                return false;
            }
            if held & hours != hour {
                victim = index;
            }
        }
        let held = slots[victim].load(Ordering::Relaxed);
        // If the budget is exhausted or another thread was faster, the next request tries again.
        held != slot_now
            && self.used.take(now)
            && slots[victim]
                .compare_exchange(held, slot_now, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
    }
}

fn client(entry: Entry, address: IpAddr, headers: &HeaderMap) -> Entry {
    let agent = headers.get(USER_AGENT).map(HeaderValue::as_bytes);
    entry.client(address, agent)
}

/// Limits entries to a number per second.
#[derive(Default)]
struct PerSecond(AtomicU64);

impl PerSecond {
    fn take(&self, now: Millis) -> bool {
        let second = (now.0 / 1000) as u64;
        let taken = self
            .0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |held| {
                let count = if held >> 32 == second & u64::from(u32::MAX) {
                    held & u64::from(u32::MAX)
                } else {
                    0
                };
                (count < u64::from(PER_SECOND)).then_some(second << 32 | (count + 1))
            });
        taken.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The start of an hour.
    const THEN: i64 = 500_000 * HOUR_MS;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_use_is_the_first_once_an_hour_for_each_key_and_address() {
        let uses = Uses::default();
        let first =
            |key: &str, address: &str, at: i64| uses.is_first(key, ip(address), Millis(THEN + at));
        assert!(first("a", "10.0.0.1", 0));
        assert!(!first("a", "10.0.0.1", HOUR_MS - 1));
        assert!(first("b", "10.0.0.1", 0));
        assert!(first("a", "10.0.0.2", 0));
        assert!(first("a", "10.0.0.1", HOUR_MS));
        assert!(!first("a", "10.0.0.1", HOUR_MS + 1));
        // A client has a whole /64.
        assert!(first("a", "2001:db8::1", 0));
        assert!(!first("a", "2001:db8::2", 0));
        assert!(first("a", "2001:db8:0:1::1", 0));
    }

    #[test]
    fn entries_are_bounded_by_a_number_a_second() {
        let uses = Uses::default();
        let firsts = |at: i64| {
            let addresses = (0..1000u32).map(|n| IpAddr::from(n.to_be_bytes()));
            addresses
                .filter(|address| uses.is_first("a", *address, Millis(THEN + at)))
                .count()
        };
        assert_eq!(firsts(0), PER_SECOND as usize);
        // Those that were not recorded are recorded later, and the others not again.
        assert_eq!(
            (1..10).map(|second| firsts(second * 1000)).sum::<usize>(),
            900
        );
        assert_eq!(firsts(20_000), 0);
        // When memory is full, the number of recorded uses stays bounded.
        let many = (0..200_000u32).map(|n| IpAddr::from(n.to_be_bytes()));
        let recorded = many.filter(|address| uses.is_first("b", *address, Millis(THEN + 30_000)));
        assert_eq!(recorded.count(), PER_SECOND as usize);
    }
}
