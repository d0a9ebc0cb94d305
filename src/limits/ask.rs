//! What one request asks of the limiter, and the answer.
//!
//! The windows of one tenant and its requests in flight form one group: they are in one hash slot of Redis and are decided together. The
//! windows of a client's address form another group, because an address may be used by many tenants.

use std::{net::IpAddr, sync::Arc};

use smallvec::SmallVec;

use super::subject::{Subject, Window, network_slot};

/// Small lists of one request: most requests have one run of items and few windows.
pub(super) type Runs = SmallVec<[Run; 2]>;
pub(super) type Rooms = SmallVec<[Room; 4]>;

/// The demand of a request: items in windows, and to count as in flight.
#[derive(Clone, Debug)]
pub struct Ask {
    pub(super) tenant: Group,
    pub(super) address: Option<Group>,
    pub(super) runs: Runs,
}

/// Windows and requests in flight that are decided together.
#[derive(Clone, Debug)]
pub(super) struct Group {
    /// The hash tag of all its keys, including braces.
    pub(super) slot: Arc<str>,
    pub(super) windows: Arc<[Window]>,
    pub(super) in_flight: Option<InFlight>,
}

#[derive(Clone, Debug)]
pub(super) struct InFlight {
    pub(super) key: Arc<str>,
    pub(super) limit: u32,
}

/// Consecutive items that the same windows count.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Run {
    /// The number of their type; 0 if no window counts by type.
    pub(super) of: u32,
    pub(super) count: u32,
}

impl Ask {
    /// Asks for items in order, each with its type. `address` returns the client's address, determined behind trusted proxies, and is
    /// only called if a window counts by address. A subject without limits by type or address needs no allocation.
    pub fn items<'t>(
        subject: &Subject,
        address: impl FnOnce() -> IpAddr,
        types: impl IntoIterator<Item = &'t str>,
    ) -> Self {
        let mut runs = Runs::new();
        let mut seen: SmallVec<[&str; 8]> = SmallVec::new();
        for name in types {
            let of = if subject.by_type.is_empty() {
                0
            } else {
                let known = seen.iter().position(|seen| *seen == name);
                let at = known.unwrap_or_else(|| {
                    seen.push(name);
                    seen.len() - 1
                });
                at as u32 + 1
            };
            match runs.last_mut() {
                Some(run) if run.of == of => run.count += 1,
                _ => runs.push(Run { of, count: 1 }),
            }
        }
        let windows = if subject.by_type.is_empty() {
            Arc::clone(&subject.fixed)
        } else {
            let of_types = subject.by_type.iter().flat_map(|policy| {
                let each = (1..).zip(&seen);
                each.map(|(of, name)| Window {
                    key: subject.window_key(policy, Some(("type", name))),
                    policy: Arc::clone(policy),
                    of,
                })
            });
            subject.fixed.iter().cloned().chain(of_types).collect()
        };
        let address = (!subject.by_address.is_empty()).then(|| {
            let slot = network_slot(address());
            let windows = subject.by_address.iter().map(|policy| Window {
                key: format!("{slot}:window:{}", policy.name).into(),
                policy: Arc::clone(policy),
                of: 0,
            });
            Group {
                windows: windows.collect(),
                slot,
                in_flight: None,
            }
        });
        Self {
            tenant: Group {
                slot: Arc::clone(&subject.slot),
                windows,
                in_flight: None,
            },
            address,
            runs,
        }
    }

    /// Asks to count as in flight, without items, if fewer than `limit` requests of the same key are in flight. A limit of 0 means no
    /// limit.
    pub fn enter(subject: &Subject, limit: u32) -> Self {
        let ask = Self {
            tenant: Group {
                slot: Arc::clone(&subject.slot),
                windows: Arc::default(),
                in_flight: None,
            },
            address: None,
            runs: Runs::new(),
        };
        ask.in_flight(subject, limit)
    }

    /// Also asks to count as in flight. A limit of 0 means no limit.
    #[must_use]
    pub fn in_flight(mut self, subject: &Subject, limit: u32) -> Self {
        self.tenant.in_flight = (limit > 0).then(|| InFlight {
            key: Arc::clone(&subject.in_flight),
            limit,
        });
        self
    }
}

impl Group {
    pub(super) fn is_empty(&self) -> bool {
        self.windows.is_empty() && self.in_flight.is_none()
    }
}

/// Consecutive items, the first of which are granted.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Grants(pub(super) SmallVec<[(u32, u32); 2]>);

impl Grants {
    pub(super) fn new(requested: &[Run], granted: &[Run]) -> Self {
        let pairs = requested.iter().zip(granted);
        Self(pairs.map(|(a, g)| (a.count, g.count)).collect())
    }

    /// The number of granted items.
    pub fn count(&self) -> u32 {
        self.0.iter().map(|(_, granted)| granted).sum()
    }

    /// The number of requested items.
    pub fn requested(&self) -> u32 {
        self.0.iter().map(|(requested, _)| requested).sum()
    }

    /// Whether all items are granted.
    pub fn all(&self) -> bool {
        self.0
            .iter()
            .all(|(requested, granted)| requested == granted)
    }

    /// For each item, in order, whether it is granted.
    pub fn each(&self) -> impl Iterator<Item = bool> + '_ {
        let run = |(requested, granted): &(u32, u32)| {
            let granted = *granted;
            (0..*requested).map(move |at| at < granted)
        };
        self.0.iter().flat_map(run)
    }
}

/// The state of a limit after a request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Standing {
    /// The policy's name.
    pub policy: Arc<str>,
    /// The limit of the policy.
    pub limit: u32,
    /// Its window in seconds; `None` for requests in flight.
    pub window_s: Option<u32>,
    /// The number of items that may come now.
    pub remaining: u32,
    /// The time until an item may come again, in milliseconds; 0 while some remain.
    pub wait_ms: u64,
    /// The time until the whole limit is free again if no more items come, in milliseconds.
    pub full_ms: u64,
}

/// The room in one window.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Room {
    pub(super) remaining: u32,
    pub(super) wait_ms: u64,
    pub(super) full_ms: u64,
}

impl Room {
    /// Combines two limits that both apply.
    pub(super) fn tighter(self, other: Self) -> Self {
        Self {
            remaining: self.remaining.min(other.remaining),
            wait_ms: self.wait_ms.max(other.wait_ms),
            full_ms: self.full_ms.max(other.full_ms),
        }
    }
}

/// A backend's answer for a group.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Verdict {
    /// The maximum number of requests is in flight; nothing was taken.
    Busy,
    Granted {
        /// The granted items of each run.
        runs: Runs,
        /// The room in each window.
        rooms: Rooms,
    },
}

/// Grants items from the room of the windows, in order; an item that one window refuses takes nothing from the others.
pub(super) fn grant(runs: &[Run], windows: &[Window], left: &mut [u32]) -> Runs {
    let counted = |window: &Window, run: &Run| window.of == 0 || window.of == run.of;
    let each = runs.iter().map(|run| {
        let room = windows
            .iter()
            .zip(&*left)
            .filter(|(window, _)| counted(window, run))
            .map(|(_, left)| *left);
        let count = room.fold(run.count, u32::min);
        for (window, left) in windows.iter().zip(&mut *left) {
            if counted(window, run) {
                *left -= count;
            }
        }
        Run { of: run.of, count }
    });
    each.collect()
}

/// The number of these items that a window counts.
pub(super) fn counted(runs: &[Run], window: &Window) -> u32 {
    let its = runs.iter().filter(|r| window.of == 0 || window.of == r.of);
    its.map(|run| run.count).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_items_pass_each_under_its_own_windows() {
        let grants = Grants([(2, 1), (1, 1), (2, 0)].into_iter().collect());
        assert_eq!(
            grants.each().collect::<Vec<_>>(),
            [true, false, true, false, false]
        );
        assert_eq!(grants.count(), 2);
        assert!(!grants.all());
    }
}
