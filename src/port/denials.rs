//! Limits the audit entries about denied requests to a few a minute for each key, so that a client that keeps trying fills neither the
//! log nor the table.

use std::{collections::HashMap, net::IpAddr};

use parking_lot::Mutex;
use serde_json::{Map, Value};

use super::Shared;
use crate::{
    audit::{Entry, Outcome, REQUEST_DENIED},
    base::clock::Millis,
    controls::{ACT_AS, Key},
};

/// The number of entries of a key in a window.
const MOST: u32 = 10;
/// The window, in milliseconds.
const WINDOW_MS: i64 = 60_000;
/// The number of keys remembered at once.
const KEYS: usize = 4_096;

/// A request that was answered with 403.
pub(super) struct Denied<'a> {
    pub(super) key: &'a Key,
    /// The user for whom the request is made, as it says.
    pub(super) on_behalf_of: Option<&'a str>,
    /// Method and path, as in the table of routes.
    pub(super) route: &'a str,
    /// The permission that the route requires.
    pub(super) permission: &'a str,
    /// The code of the answer.
    pub(super) code: &'a str,
    /// The client's address and `User-Agent`.
    pub(super) client: (IpAddr, Option<&'a [u8]>),
}

impl Shared {
    /// Records a denied request, unless its key already has many entries.
    pub(super) fn audit_denied(&self, denied: &Denied<'_>) {
        let (key, now) = (denied.key, self.clock.now());
        let Some(omitted) = self.denials.admit(&key.id, now) else {
            return;
        };
        let mut detail = Map::new();
        detail.insert("route".into(), denied.route.into());
        detail.insert("permission".into(), denied.permission.into());
        detail.insert("code".into(), denied.code.into());
        if let Some(issuer) = &key.issuer {
            detail.insert("issuer".into(), (**issuer).into());
        }
        // Who may not act for others is not recorded as acting for one.
        let may_act_as = key.scopes.permits(ACT_AS);
        if let Some(named) = denied.on_behalf_of.filter(|_| !may_act_as) {
            detail.insert("named_user".into(), named.into());
        }
        if omitted > 0 {
            detail.insert("omitted_before".into(), Value::from(omitted));
        }
        let entry = Entry::new(Some(&key.tenant), REQUEST_DENIED, Outcome::Denied, now);
        let (address, user_agent) = denied.client;
        self.audit.record(
            entry
                .by(&key.principal, denied.on_behalf_of.filter(|_| may_act_as))
                .resource("key", &key.id)
                .client(address, user_agent)
                .detail(detail),
        );
    }
}

/// The denied requests of the last minute, by key.
#[derive(Default)]
pub(super) struct Denials(Mutex<HashMap<Box<str>, Window>>);

struct Window {
    began: i64,
    recorded: u32,
    /// The denied requests since the last entry that got no entry.
    omitted: u64,
}

impl Denials {
    /// Decides whether a denied request of this key gets an entry. If so, returns how many before it got none.
    pub(super) fn admit(&self, key: &str, now: Millis) -> Option<u64> {
        let mut all = self.0.lock();
        if all.len() >= KEYS && !all.contains_key(key) {
            all.retain(|_, window| now.0 - window.began < WINDOW_MS);
            if all.len() >= KEYS {
                // Very many keys were denied; clearing keeps memory bounded.
                all.clear();
            }
        }
        let window = all.entry(key.into()).or_insert(Window {
            began: now.0,
            recorded: 0,
            omitted: 0,
        });
        if now.0 - window.began >= WINDOW_MS {
            window.began = now.0;
            window.recorded = 0;
        }
        if window.recorded >= MOST {
            window.omitted += 1;
            return None;
        }
        window.recorded += 1;
        Some(std::mem::take(&mut window.omitted))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_a_few_entries_a_minute() {
        let denials = Denials::default();
        for n in 0..i64::from(MOST) {
            assert_eq!(denials.admit("a", Millis(n)), Some(0));
        }
        assert_eq!(denials.admit("a", Millis(100)), None);
        assert_eq!(denials.admit("a", Millis(WINDOW_MS - 1)), None);
        assert_eq!(denials.admit("b", Millis(200)), Some(0));
        // The next entry reports how many were left out.
        assert_eq!(denials.admit("a", Millis(WINDOW_MS)), Some(2));
        assert_eq!(denials.admit("a", Millis(WINDOW_MS + 1)), Some(0));
    }

    #[test]
    fn memory_is_bounded() {
        let denials = Denials::default();
        for n in 0..3 * KEYS {
            denials.admit(&n.to_string(), Millis(0));
        }
        assert!(denials.0.lock().len() <= KEYS);
    }
}
