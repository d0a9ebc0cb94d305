//! What one request asks of the limiter, and what it is told.
//!
//! Windows of one tenant, and its requests in flight, are one group: they lie in one hash slot of Redis and are decided together.
//! The windows of a client's address are another, for an address may have many tenants.

use std::{
    fmt::Write,
    net::{IpAddr, Ipv6Addr},
    sync::Arc,
};

use super::policy::{Kind, Per, Policy};
use crate::base::id::{Identity, Tenant};

/// Texts up to this length stand in Redis's keys as they are.
const PLAIN: usize = 64;

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub struct Caller<'a> {
    /// The key's tenant.
    pub tenant: &'a Tenant,
    /// The key's id.
    pub key: &'a str,
    /// The client's address, behind trusted proxies.
    pub address: IpAddr,
    /// What the request is for.
    pub kind: Kind,
}

/// What a request asks for: items in windows, and to be in flight.
#[derive(Clone, Debug)]
pub struct Ask {
    pub(super) tenant: Group,
    pub(super) address: Group,
    pub(super) runs: Vec<Run>,
}

/// What is decided together.
#[derive(Clone, Debug)]
pub(super) struct Group {
    /// The hash tag of all its keys, braces included.
    pub(super) slot: String,
    pub(super) windows: Vec<Window>,
    pub(super) in_flight: Option<InFlight>,
}

#[derive(Clone, Debug)]
pub(super) struct Window {
    pub(super) key: String,
    pub(super) policy: Arc<Policy>,
    /// The number of the type whose items it counts; 0: all items.
    pub(super) of: u32,
}

#[derive(Clone, Debug)]
pub(super) struct InFlight {
    pub(super) key: String,
    pub(super) limit: u32,
}

/// Items in a row that the same windows count.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Run {
    /// The number of their type; 0: no window asks for it.
    pub(super) of: u32,
    pub(super) count: u32,
}

impl Ask {
    /// Asks for nothing yet.
    pub fn new(caller: &Caller<'_>) -> Self {
        let network = match caller.address.to_canonical() {
            IpAddr::V4(address) => IpAddr::V4(address),
            IpAddr::V6(address) => {
                let bits = address.to_bits() & !u128::from(u64::MAX);
                IpAddr::V6(Ipv6Addr::from_bits(bits))
            }
        };
        let group = |slot| Group {
            slot,
            windows: Vec::new(),
            in_flight: None,
        };
        Self {
            tenant: group(format!("{{{}}}", caller.tenant)),
            // A tenant's name has no slash.
            address: group(format!("{{ip/{network}}}")),
            runs: Vec::new(),
        }
    }

    /// To take items, one after another, each with its type, under all policies that apply to the caller's request.
    #[must_use]
    pub fn items<'t>(
        mut self,
        caller: &Caller<'_>,
        policies: &[Arc<Policy>],
        types: impl IntoIterator<Item = &'t str>,
    ) -> Self {
        let policies = || policies.iter().filter(|p| p.applies(caller.kind));
        let by_type = policies().any(|policy| policy.per == Per::Type);
        let mut seen: Vec<&str> = Vec::new();
        for name in types {
            let of = if by_type {
                let known = seen.iter().position(|seen| *seen == name);
                let at = known.unwrap_or_else(|| {
                    seen.push(name);
                    seen.len() - 1
                });
                at as u32 + 1
            } else {
                0
            };
            match self.runs.last_mut() {
                Some(run) if run.of == of => run.count += 1,
                _ => self.runs.push(Run { of, count: 1 }),
            }
        }
        for policy in policies() {
            match policy.per {
                Per::Ip => self.address.add(policy, None, 0),
                Per::Tenant => self.tenant.add(policy, None, 0),
                Per::Key => self.tenant.add(policy, Some(("key", caller.key)), 0),
                Per::Type => {
                    for (of, name) in (1..).zip(&seen) {
                        self.tenant.add(policy, Some(("type", name)), of);
                    }
                }
            }
        }
        self
    }

    /// To be in flight, beside at most `limit` − 1 others of the same key. A limit of 0 is none.
    #[must_use]
    pub fn in_flight(mut self, caller: &Caller<'_>, limit: u32) -> Self {
        self.tenant.in_flight = (limit > 0).then(|| {
            let mut key = format!("{}:in_flight:", self.tenant.slot);
            put(&mut key, caller.key);
            InFlight { key, limit }
        });
        self
    }
}

impl Group {
    fn add(&mut self, policy: &Arc<Policy>, subject: Option<(&str, &str)>, of: u32) {
        let mut key = String::with_capacity(64);
        key.push_str(&self.slot);
        key.push_str(":window:");
        put(&mut key, &policy.name);
        if let Some((what, name)) = subject {
            key.push(':');
            key.push_str(what);
            key.push(':');
            put(&mut key, name);
        }
        self.windows.push(Window {
            key,
            policy: Arc::clone(policy),
            of,
        });
    }

    pub(super) fn is_empty(&self) -> bool {
        self.windows.is_empty() && self.in_flight.is_none()
    }
}

/// A text as a part of a key: as it is, or hashed where it is long or could be taken for something else.
fn put(key: &mut String, text: &str) {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b'/');
    if text.len() <= PLAIN && text.bytes().all(plain) {
        key.push_str(text);
    } else {
        // Writing to a `String` cannot fail.
        let _ = write!(key, "#{}", Identity::of("limit", &[text]));
    }
}

/// Items in a row of which the first ones pass.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Grants(pub(super) Vec<(u32, u32)>);

impl Grants {
    pub(super) fn new(asked: &[Run], granted: &[Run]) -> Self {
        let pairs = asked.iter().zip(granted);
        Self(pairs.map(|(a, g)| (a.count, g.count)).collect())
    }

    /// How many pass.
    pub fn count(&self) -> u32 {
        self.0.iter().map(|(_, granted)| granted).sum()
    }

    /// Whether all that was asked for passes.
    pub fn all(&self) -> bool {
        self.0.iter().all(|(asked, granted)| asked == granted)
    }

    /// For each item, in order, whether it passes.
    pub fn each(&self) -> impl Iterator<Item = bool> + '_ {
        let run = |(asked, granted): &(u32, u32)| {
            let granted = *granted;
            (0..*asked).map(move |at| at < granted)
        };
        self.0.iter().flat_map(run)
    }
}

/// How a limit stands after a request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Standing {
    /// The policy's name.
    pub policy: Arc<str>,
    /// The limit of the policy.
    pub limit: u32,
    /// Its window in seconds; `None` for requests in flight.
    pub window_s: Option<u32>,
    /// How many more may come now.
    pub remaining: u32,
    /// Until when none may come, in milliseconds from now; 0 while some remain.
    pub wait_ms: u64,
    /// Until when all of the limit is free again if nothing more comes, in milliseconds from now.
    pub full_ms: u64,
}

/// How much is left of one window.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Room {
    pub(super) remaining: u32,
    pub(super) wait_ms: u64,
    pub(super) full_ms: u64,
}

impl Room {
    /// What holds where two limits do.
    pub(super) fn tighter(self, other: Self) -> Self {
        Self {
            remaining: self.remaining.min(other.remaining),
            wait_ms: self.wait_ms.max(other.wait_ms),
            full_ms: self.full_ms.max(other.full_ms),
        }
    }
}

/// What a backend says to a group.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Verdict {
    /// As many are in flight as may be; nothing was taken.
    Busy,
    Taken {
        /// Of each run, how many pass.
        runs: Vec<Run>,
        /// Of each window.
        rooms: Vec<Room>,
    },
}

/// Gives items what the windows have, in order: an item that one window refuses takes nothing of the others.
pub(super) fn grant(runs: &[Run], windows: &[Window], left: &mut [u32]) -> Vec<Run> {
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

/// How many of these items a window counts.
pub(super) fn counted(runs: &[Run], window: &Window) -> u32 {
    let its = runs.iter().filter(|r| window.of == 0 || window.of == r.of);
    its.map(|run| run.count).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_lie_in_one_slot_and_never_meet() {
        let tenant = Tenant::new("acme").unwrap();
        let policy = |name: &str, per| {
            Arc::new(Policy {
                name: name.into(),
                per,
                ..Policy::of_key(1).unwrap()
            })
        };
        let policies = [
            policy("a", Per::Key),
            policy("b", Per::Tenant),
            policy("c", Per::Type),
            policy("d", Per::Ip),
        ];
        let caller = Caller {
            tenant: &tenant,
            key: "k1",
            address: "2001:db8:1:2:3::4".parse().unwrap(),
            kind: Kind::Events,
        };
        let types = ["t", "u}:v", "t", "t"];
        let ask = Ask::new(&caller)
            .items(&caller, &policies, types)
            .in_flight(&caller, 5);
        let keys: Vec<_> = ask.tenant.windows.iter().map(|w| &*w.key).collect();
        let hashed = Identity::of("limit", &["u}:v"]);
        assert_eq!(
            keys,
            [
                "{acme}:window:a:key:k1",
                "{acme}:window:b",
                "{acme}:window:c:type:t",
                &format!("{{acme}}:window:c:type:#{hashed}"),
            ]
        );
        assert_eq!(ask.address.windows[0].key, "{ip/2001:db8:1:2::}:window:d");
        assert_eq!(ask.tenant.in_flight.unwrap().key, "{acme}:in_flight:k1");
        let run = |of, count| Run { of, count };
        assert_eq!(ask.runs, [run(1, 1), run(2, 1), run(1, 2)]);
    }

    #[test]
    fn the_first_items_pass_each_under_its_own_windows() {
        let grants = Grants(vec![(2, 1), (1, 1), (2, 0)]);
        assert_eq!(
            grants.each().collect::<Vec<_>>(),
            [true, false, true, false, false]
        );
        assert_eq!(grants.count(), 2);
        assert!(!grants.all());
    }
}
