//! The windows and requests in flight of this process: everything without Redis, and each node's share while Redis is down.
//!
//! With Redis, memory records what this node was granted there, so that the share accounts for it. What the node granted alone is owed:
//! it is reported to Redis with the next request for the window.

use std::{
    collections::{HashMap, hash_map::RandomState},
    hash::BuildHasher,
    sync::Arc,
};

use parking_lot::{Mutex, MutexGuard};
use smallvec::SmallVec;

use super::{
    ask::{Group, Room, Rooms, Run, Verdict, counted, grant},
    sliding::{Limit, Times},
};
use crate::{base::clock::Millis, telemetry::metrics::LIMITS_EVICTED};

/// The groups are distributed over this many maps, each with its own lock.
const SHARDS: usize = 16;
/// From this number of windows on, empty ones are removed.
const SWEEP: usize = 1_024;
/// The maximum number of windows of a map. Senders choose types and addresses, and a flood of them must not exhaust the memory.
const WINDOWS: usize = 16_384;

pub(super) struct Memory {
    shards: [Mutex<Shard>; SHARDS],
    hasher: RandomState,
}

#[derive(Default)]
struct Shard {
    windows: HashMap<Arc<str>, Window>,
    in_flight: HashMap<Arc<str>, u32>,
    /// The number of windows at which the next sweep runs.
    sweep_at: usize,
}

#[derive(Default)]
struct Window {
    times: Times,
    length_ms: i64,
    /// The number of these admissions that Redis does not know yet.
    owed: u32,
    report: Option<RedisReport>,
}

/// The last report of Redis about the admissions of all nodes.
#[derive(Clone, Copy)]
struct RedisReport {
    /// How many more could come. While each node decides alone, it may use its part of this until `until`.
    left: u32,
    /// When all reported admissions will have left the window.
    until: Millis,
}

/// The bounds of a group on this node.
pub(super) struct Bounds<'a> {
    /// The bound of each window; `None` if this node does not bound it.
    pub(super) windows: &'a [Option<u32>],
    /// The bound of requests in flight; `None` if this node does not bound them.
    pub(super) in_flight: Option<u32>,
    /// Whether Redis does not know about these admissions.
    pub(super) owed: bool,
    /// The number of nodes that decide alone, including this one.
    pub(super) nodes: u32,
    /// What Redis reported about each window after it granted the same request.
    pub(super) report: Option<&'a [Room]>,
}

impl Memory {
    pub(super) fn new() -> Self {
        Self {
            shards: std::array::from_fn(|_| Mutex::default()),
            hasher: RandomState::new(),
        }
    }

    fn shard(&self, slot: &str) -> MutexGuard<'_, Shard> {
        self.shards[self.hasher.hash_one(slot) as usize % SHARDS].lock()
    }

    /// Admits what the bounds allow, and records it in all windows. The request counts as in flight unless items were requested and none
    /// is admitted.
    pub(super) fn take(
        &self,
        group: &Group,
        runs: &[Run],
        bounds: &Bounds<'_>,
        now: Millis,
    ) -> Verdict {
        let mut shard = self.shard(&group.slot);
        let shard = &mut *shard;
        if let (Some(wanted), Some(bound)) = (&group.in_flight, bounds.in_flight) {
            let held = shard.in_flight.get(&wanted.key).copied().unwrap_or(0);
            if held >= bound {
                return Verdict::Busy;
            }
        }
        let mut left: SmallVec<[u32; 4]> = SmallVec::with_capacity(group.windows.len());
        for (window, bound) in group.windows.iter().zip(bounds.windows) {
            left.push(match bound {
                Some(bound) => {
                    let kept = shard.windows.get_mut(&window.key);
                    kept.map_or(*bound, |kept| {
                        kept.left(window.policy.window(*bound), bounds.nodes, now)
                    })
                }
                None => u32::MAX,
            });
        }
        let granted = grant(runs, &group.windows, &mut left);
        let mut rooms = Rooms::with_capacity(group.windows.len());
        for (at, (window, bound)) in group.windows.iter().zip(bounds.windows).enumerate() {
            let whole = window.policy.window(window.policy.limit);
            let limit = window.policy.window(bound.unwrap_or(whole.limit));
            let count = counted(&granted, window);
            let report = bounds.report.and_then(|report| report.get(at));
            if count == 0 && report.is_none() && !shard.windows.contains_key(&window.key) {
                rooms.push(Room {
                    remaining: limit.limit,
                    wait_ms: 0,
                    full_ms: 0,
                });
                continue;
            }
            let kept = shard.window(&window.key, whole.window_ms, now);
            // Without a bound here, no more than the limit is recorded.
            let count = count.min(kept.times.room(whole, now));
            for _ in 0..count {
                kept.times.add(now);
            }
            if bounds.owed {
                kept.owed += count;
            }
            if let Some(room) = report {
                kept.report = Some(RedisReport {
                    left: room.remaining,
                    until: Millis(now.0.saturating_add_unsigned(room.full_ms)),
                });
            } else if let Some(report) = &mut kept.report {
                let all = count.saturating_mul(bounds.nodes);
                report.left = report.left.saturating_sub(all);
            }
            rooms.push(kept.room(limit, bounds.nodes, now));
        }
        if let Some(wanted) = &group.in_flight
            && (runs.is_empty() || granted.iter().any(|run| run.count > 0))
        {
            match shard.in_flight.get_mut(&wanted.key) {
                Some(held) => *held += 1,
                None => {
                    shard.in_flight.insert(Arc::clone(&wanted.key), 1);
                }
            }
        }
        Verdict::Granted {
            runs: granted,
            rooms,
        }
    }

    /// Ends a request in flight.
    pub(super) fn release(&self, slot: &str, key: &str) {
        let mut shard = self.shard(slot);
        if let Some(held) = shard.in_flight.get_mut(key) {
            *held -= 1;
            if *held == 0 {
                shard.in_flight.remove(key);
            }
        }
    }

    /// Returns what is owed to Redis for each window, and resets it.
    pub(super) fn take_owed(&self, group: &Group, now: Millis) -> Vec<u32> {
        let mut shard = self.shard(&group.slot);
        let windows = group.windows.iter();
        let owed = windows.map(|window| {
            let Some(kept) = shard.windows.get_mut(&window.key) else {
                return 0;
            };
            let owed = std::mem::take(&mut kept.owed);
            if owed == 0 {
                return 0;
            }
            kept.times
                .room(window.policy.window(window.policy.limit), now);
            owed.min(kept.times.len() as u32)
        });
        owed.collect()
    }

    /// Restores what is owed, because Redis could not be told.
    pub(super) fn owe(&self, group: &Group, owed: &[u32]) {
        let mut shard = self.shard(&group.slot);
        for (window, owed) in group.windows.iter().zip(owed) {
            if let Some(kept) = shard.windows.get_mut(&window.key) {
                kept.owed += owed;
            }
        }
    }
}

impl Shard {
    fn window(&mut self, key: &Arc<str>, length_ms: i64, now: Millis) -> &mut Window {
        if self.windows.len() >= self.sweep_at.max(SWEEP) && !self.windows.contains_key(key) {
            self.sweep(now);
        }
        let kept = self.windows.entry(Arc::clone(key)).or_default();
        kept.length_ms = length_ms;
        kept
    }

    fn sweep(&mut self, now: Millis) {
        self.windows.retain(|_, kept| {
            let limit = Limit {
                limit: u32::MAX,
                window_ms: kept.length_ms,
            };
            kept.times.empty_at(limit).is_some_and(|at| at > now)
                || kept.report.is_some_and(|report| report.until > now)
        });
        if self.windows.len() >= WINDOWS {
            self.evict();
        }
        self.sweep_at = WINDOWS.min(2 * self.windows.len());
    }

    /// Evicts a quarter of the windows: those with the fewest admissions, because each can then admit at most that many more, and among
    /// these the oldest. All others stay exact. Windows that owe something to Redis are evicted last.
    fn evict(&mut self) {
        let rank = |kept: &Window| {
            let newest = kept.times.newest().map_or(i64::MIN, |at| at.0);
            (kept.owed > 0, kept.times.len(), newest)
        };
        let mut left = self.windows.len() / 4;
        let mut ranks: Vec<_> = self.windows.values().map(rank).collect();
        let (_, last, _) = ranks.select_nth_unstable(left);
        let last = *last;
        let before = self.windows.len();
        self.windows.retain(|_, kept| {
            let goes = left > 0 && rank(kept) <= last;
            left -= usize::from(goes);
            !goes
        });
        let evicted = before - self.windows.len();
        LIMITS_EVICTED.counter(&[]).increment(evicted as u64);
    }
}

impl Window {
    fn left(&mut self, limit: Limit, nodes: u32, now: Millis) -> u32 {
        let part = |report: RedisReport| report.left / nodes.max(1);
        let report = self.report.filter(|report| report.until > now);
        self.times
            .room(limit, now)
            .min(report.map_or(u32::MAX, part))
    }

    fn room(&mut self, limit: Limit, nodes: u32, now: Millis) -> Room {
        let remaining = self.left(limit, nodes, now);
        let until = |at: Option<Millis>| at.map_or(0, |at| (at.0 - now.0).max(0) as u64);
        let wait = if remaining > 0 {
            0
        } else if self.times.room(limit, now) > 0 {
            until(self.report.map(|report| report.until))
        } else {
            until(self.times.next_free(limit))
        };
        Room {
            remaining,
            wait_ms: wait,
            full_ms: until(self.times.empty_at(limit)).max(wait),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::limits::{policy::Policy, subject};

    fn group(limits: &[(u32, u32, u32)]) -> Group {
        let windows = limits
            .iter()
            .enumerate()
            .map(|(at, (limit, window_s, of))| subject::Window {
                key: format!("w{at}").into(),
                policy: Arc::new(Policy {
                    limit: *limit,
                    window_s: *window_s,
                    ..Policy::of_key(1).unwrap()
                }),
                of: *of,
            });
        Group {
            slot: "s".into(),
            windows: windows.collect(),
            in_flight: None,
        }
    }

    proptest! {
        /// Compares with plain counting, item by item: no window, wherever it starts, has more than its limit; an item is admitted if and
        /// only if all its windows have room; and a refusal names the first time at which one may come.
        #[test]
        fn windows_never_hold_more_than_their_limit(
            limits in prop::collection::vec((1u32..12, 1u32..4, 0u32..3), 1..4),
            asks in prop::collection::vec((0i64..900, prop::collection::vec((1u32..3, 1u32..6), 1..4)), 1..80),
        ) {
            let group = group(&limits);
            let memory = Memory::new();
            let bounds: Vec<_> = limits.iter().map(|(limit, ..)| Some(*limit)).collect();
            let bounds = Bounds { windows: &bounds, in_flight: None, owed: false, nodes: 1, report: None };
            let mut admitted: Vec<Vec<i64>> = vec![Vec::new(); limits.len()];
            let mut now = 1_000;
            for (step, runs) in asks {
                now += step;
                let runs: Vec<_> = runs.into_iter().map(|(of, count)| Run { of, count }).collect();
                let Verdict::Granted { runs: granted, rooms } = memory.take(&group, &runs, &bounds, Millis(now)) else {
                    panic!("busy");
                };
                for (wanted, granted) in runs.iter().zip(&granted) {
                    for item in 0..wanted.count {
                        let its = || group.windows.iter().enumerate().filter(|(_, w)| w.of == 0 || w.of == wanted.of);
                        let room = its().all(|(at, _)| {
                            let (limit, window_s, _) = limits[at];
                            let begin = now - i64::from(window_s) * 1000;
                            admitted[at].iter().filter(|at| **at > begin).count() < limit as usize
                        });
                        prop_assert_eq!(item < granted.count, room);
                        if room {
                            for (at, _) in its() {
                                admitted[at].push(now);
                            }
                        }
                    }
                }
                for (at, room) in rooms.iter().enumerate() {
                    let (limit, window_s, _) = limits[at];
                    let length = i64::from(window_s) * 1000;
                    let counts = |t: i64| admitted[at].iter().filter(|a| **a + length > t).count();
                    prop_assert_eq!(room.remaining as usize, limit as usize - counts(now));
                    let free = |t: i64| counts(t) < limit as usize;
                    prop_assert!(free(now + room.wait_ms as i64));
                    prop_assert!(room.wait_ms == 0 || !free(now + room.wait_ms as i64 - 1));
                    prop_assert_eq!(counts(now + room.full_ms as i64), 0);
                }
            }
            for (at, (limit, window_s, _)) in limits.iter().enumerate() {
                for first in &admitted[at] {
                    let end = first + i64::from(*window_s) * 1000;
                    let inside = admitted[at].iter().filter(|t| (*first..end).contains(t)).count();
                    prop_assert!(inside <= *limit as usize);
                }
            }
        }
    }

    /// A node that has a report of Redis about all admissions takes only its part of the rest, until these admissions have left the
    /// window.
    #[test]
    fn a_share_heeds_what_others_have_used() {
        let memory = Memory::new();
        let group = group(&[(10, 1, 0)]);
        let runs = |count| [Run { of: 0, count }];
        let mut report = [Room {
            remaining: 5,
            wait_ms: 0,
            full_ms: 800,
        }];
        let follow = |report: &[Room; 1], at| {
            let bounds = Bounds {
                windows: &[None],
                in_flight: None,
                owed: false,
                nodes: 2,
                report: Some(report),
            };
            memory.take(&group, &runs(0), &bounds, Millis(at));
        };
        let alone = |at| {
            let bounds = Bounds {
                windows: &[Some(5)],
                in_flight: None,
                owed: true,
                nodes: 2,
                report: None,
            };
            match memory.take(&group, &runs(9), &bounds, Millis(at)) {
                Verdict::Granted { runs, rooms } => (runs[0].count, rooms[0].wait_ms),
                Verdict::Busy => panic!("busy"),
            }
        };
        follow(&report, 1_000);
        assert_eq!(alone(1_100), (2, 700));
        assert_eq!(alone(1_799), (0, 1));
        assert_eq!(alone(1_800), (3, 300));
        report[0].remaining = 0;
        follow(&report, 3_000);
        assert_eq!(alone(3_799), (0, 1));
        assert_eq!(alone(3_800), (5, 1_000));
        assert_eq!(memory.take_owed(&group, Millis(3_800)), [5]);
    }

    #[test]
    fn what_counts_nothing_any_more_is_forgotten() {
        let memory = Memory::new();
        let bounds = Bounds {
            windows: &[Some(1)],
            in_flight: None,
            owed: false,
            nodes: 1,
            report: None,
        };
        for n in 0..3 * SWEEP {
            let mut group = group(&[(1, 1, 0)]);
            Arc::make_mut(&mut group.windows)[0].key = format!("w{n}").into();
            let now = Millis(n as i64);
            memory.take(&group, &[Run { of: 0, count: 1 }], &bounds, now);
        }
        let shard = memory.shard("s");
        assert!(shard.windows.len() <= 2 * SWEEP, "{}", shard.windows.len());
    }

    /// A flood of addresses evicts the windows with the fewest admissions; exhausted windows stay exhausted.
    #[test]
    fn a_flood_forgets_what_holds_least() {
        let memory = Memory::new();
        let bounds = Bounds {
            windows: &[Some(3)],
            in_flight: None,
            owed: false,
            nodes: 1,
            report: None,
        };
        let take = |name: String, count: u32, now: i64| {
            let mut group = group(&[(3, 60, 0)]);
            Arc::make_mut(&mut group.windows)[0].key = name.into();
            match memory.take(&group, &[Run { of: 0, count }], &bounds, Millis(now)) {
                Verdict::Granted { runs, .. } => runs[0].count,
                Verdict::Busy => panic!("busy"),
            }
        };
        for name in ["a", "b", "c"] {
            assert_eq!(take(name.into(), 3, 0), 3);
        }
        let flood = 3 * WINDOWS;
        for n in 0..flood {
            assert_eq!(take(format!("w{n}"), 1, n as i64 / 2), 1);
        }
        let now = flood as i64 / 2;
        assert!(now < 60_000);
        assert!(memory.shard("s").windows.len() <= WINDOWS);
        for name in ["a", "b", "c"] {
            assert_eq!(take(name.into(), 3, now), 0, "{name}");
        }
        // The newest windows of the flood are kept, the oldest are evicted.
        assert_eq!(take(format!("w{}", flood - 1), 3, now), 2);
        assert_eq!(take("w0".into(), 3, now), 3);
    }
}
