//! The subject of limits: the windows of a key, with their names in Redis, built once for many requests.

use std::{
    fmt::Write,
    net::{IpAddr, Ipv6Addr},
    sync::Arc,
};

use super::policy::{Kind, Per, Policy};
use crate::base::id::{Identity, Tenant};

/// Texts up to this length are used unchanged in Redis's keys.
const PLAIN: usize = 64;

/// One window, and what it counts.
#[derive(Clone, Debug)]
pub(super) struct Window {
    pub(super) key: Arc<str>,
    pub(super) policy: Arc<Policy>,
    /// The number of the type whose items it counts; 0 for all items.
    pub(super) of: u32,
}

/// A key's requests of one kind, with all windows that count them.
#[derive(Debug)]
pub struct Subject {
    /// The hash tag of the tenant's windows, including braces.
    pub(super) slot: Arc<str>,
    /// The windows of the tenant and of the key.
    pub(super) fixed: Arc<[Window]>,
    /// Policies with a window for each type.
    pub(super) by_type: Vec<Arc<Policy>>,
    /// Policies with a window for each address.
    pub(super) by_address: Vec<Arc<Policy>>,
    /// The key for its requests in flight, which are counted together for all kinds.
    pub(super) in_flight: Arc<str>,
}

impl Subject {
    /// The requests of a tenant's key, with all policies that apply to them. `key` is the key's id, or another name of the sender within
    /// the tenant.
    pub fn new(tenant: &Tenant, key: &str, kind: Kind, policies: &[Arc<Policy>]) -> Self {
        let slot: Arc<str> = format!("{{{tenant}}}").into();
        let mut in_flight = format!("{slot}:in_flight:");
        put(&mut in_flight, key);
        let mut subject = Self {
            slot,
            fixed: Arc::default(),
            by_type: Vec::new(),
            by_address: Vec::new(),
            in_flight: in_flight.into(),
        };
        let mut fixed = Vec::new();
        for policy in policies.iter().filter(|p| p.applies(kind)) {
            let of = match policy.per {
                Per::Ip => {
                    subject.by_address.push(Arc::clone(policy));
                    continue;
                }
                Per::Type => {
                    subject.by_type.push(Arc::clone(policy));
                    continue;
                }
                Per::Tenant => None,
                Per::Key => Some(("key", key)),
            };
            fixed.push(Window {
                key: subject.window_key(policy, of),
                policy: Arc::clone(policy),
                of: 0,
            });
        }
        subject.fixed = fixed.into();
        subject
    }

    /// Whether no window counts its items.
    pub fn is_unlimited(&self) -> bool {
        self.fixed.is_empty() && self.by_type.is_empty() && self.by_address.is_empty()
    }

    pub(super) fn window_key(&self, policy: &Policy, of: Option<(&str, &str)>) -> Arc<str> {
        let mut key = String::with_capacity(64);
        key.push_str(&self.slot);
        key.push_str(":window:");
        put(&mut key, &policy.name);
        if let Some((what, name)) = of {
            key.push(':');
            key.push_str(what);
            key.push(':');
            put(&mut key, name);
        }
        key.into()
    }
}

/// The hash tag of an address's windows; for IPv6 that of its /64. A tenant's name has no slash, so the two never collide.
pub(super) fn network_slot(address: IpAddr) -> Arc<str> {
    let network = match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(
            address.to_bits() & !u128::from(u64::MAX),
        )),
    };
    format!("{{ip/{network}}}").into()
}

/// Appends a text to a key: unchanged, or hashed if it is long or ambiguous.
fn put(key: &mut String, text: &str) {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b'/');
    if text.len() <= PLAIN && text.bytes().all(plain) {
        key.push_str(text);
    } else {
        // Writing to a `String` cannot fail.
        let _ = write!(key, "#{}", Identity::of("limit", &[text]));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::ask::{Ask, Run};

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
        let subject = Subject::new(&tenant, "k1", Kind::Events, &policies);
        let types = ["t", "u}:v", "t", "t"];
        let address = || "2001:db8:1:2:3::4".parse().unwrap();
        let ask = Ask::items(&subject, address, types).in_flight(&subject, 5);
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
        let address = &ask.address.unwrap().windows[0];
        assert_eq!(&*address.key, "{ip/2001:db8:1:2::}:window:d");
        assert_eq!(&*ask.tenant.in_flight.unwrap().key, "{acme}:in_flight:k1");
        let run = |of, count| Run { of, count };
        assert_eq!(ask.runs[..], [run(1, 1), run(2, 1), run(1, 2)]);
    }
}
