//! Limits concurrent replays. A replay that follows does not end by itself, and a slow client makes any replay long, so each key and each
//! tenant has its own limit below that of the node.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;

use crate::{
    api::problem::{CONCURRENCY_LIMIT_EXCEEDED, OVERLOADED},
    base::id::Tenant,
    controls::Key,
    port::problem::{Limit, Problem},
};

/// The number of replays of a key.
const PER_KEY: usize = 2;
/// The number of replays of a tenant.
const PER_TENANT: usize = 4;
/// The number of replays on a node; each needs threads and buffers. The second half is reserved for tenants without a replay.
const PER_NODE: usize = 16;
/// `Retry-After`, in seconds.
const RETRY_AFTER_S: u32 = 5;

/// The replay slots of a node.
#[derive(Default)]
pub(crate) struct ReplaySlots(Arc<Mutex<Taken>>);

#[derive(Default)]
struct Taken {
    keys: HashMap<Box<str>, usize>,
    tenants: HashMap<Tenant, usize>,
    all: usize,
}

/// A slot for a replay. Dropping it releases the slot.
pub(crate) struct ReplaySlot {
    taken: Arc<Mutex<Taken>>,
    key: Arc<Key>,
}

impl ReplaySlots {
    /// Takes a slot for a replay requested with this key.
    pub(crate) fn take(&self, key: &Arc<Key>) -> Result<ReplaySlot, Problem> {
        let mut taken = self.0.lock();
        let of_key = taken.keys.get(&*key.id).copied().unwrap_or_default();
        let of_tenant = taken.tenants.get(&key.tenant).copied().unwrap_or_default();
        for (of, held, most) in [("key", of_key, PER_KEY), ("tenant", of_tenant, PER_TENANT)] {
            if held >= most {
                let detail = format!(
                    "{most} replays of this {of} are already running; try again when one has ended"
                );
                let policy = format!("replays-of-{of}");
                let over = Limit {
                    policy: &policy,
                    quota: most as u32,
                    window_s: None,
                    wait_s: RETRY_AFTER_S,
                };
                return Err(Problem::limited(&CONCURRENCY_LIMIT_EXCEEDED, detail, &over));
            }
        }
        let most = if of_tenant == 0 {
            PER_NODE
        } else {
            PER_NODE / 2
        };
        if taken.all >= most {
            let detail = format!(
                "{} replays are already running on this node; try again when one has ended",
                taken.all
            );
            let problem = Problem::new(&OVERLOADED, detail);
            return Err(problem.retry_after(RETRY_AFTER_S));
        }
        *taken.keys.entry(key.id.as_str().into()).or_default() += 1;
        *taken.tenants.entry(key.tenant.clone()).or_default() += 1;
        taken.all += 1;
        Ok(ReplaySlot {
            taken: Arc::clone(&self.0),
            key: Arc::clone(key),
        })
    }
}

impl Drop for ReplaySlot {
    fn drop(&mut self) {
        let mut taken = self.taken.lock();
        taken.all -= 1;
        if let Some(held) = taken.keys.get_mut(&*self.key.id) {
            *held -= 1;
            if *held == 0 {
                taken.keys.remove(&*self.key.id);
            }
        }
        if let Some(held) = taken.tenants.get_mut(&self.key.tenant) {
            *held -= 1;
            if *held == 0 {
                taken.tenants.remove(&self.key.tenant);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        base::clock::Millis,
        controls::{KeyKind, NewKey, Scopes},
    };

    fn key(tenant: &str, id: &str) -> Arc<Key> {
        let new = NewKey {
            tenant: Tenant::new(tenant).unwrap(),
            name: String::new(),
            principal: String::new(),
            kind: KeyKind::Service,
            scopes: Scopes::all(),
            expires_at: None,
        };
        Arc::new(Key::new(id.into(), new, Default::default(), Millis(0)))
    }

    #[test]
    fn nobody_takes_the_slots_of_the_others() {
        let slots = ReplaySlots::default();
        let mut held = Vec::new();
        let refused = |key: &Arc<Key>| slots.take(key).err().map(|problem| problem.code());
        for tenant in 0..PER_NODE {
            let name = format!("t{tenant}");
            for id in 0..2 * PER_TENANT {
                let key = key(&name, &format!("{name}-{id}"));
                held.extend((0..2 * PER_KEY).filter_map(|_| slots.take(&key).ok()));
            }
        }
        // Two tenants are at their limit; each slot of the second half went to another tenant.
        assert_eq!(held.len(), PER_NODE);
        assert_eq!(
            slots.0.lock().tenants.len(),
            PER_NODE - 2 * (PER_TENANT - 1)
        );
        let late = key("late", "late");
        assert_eq!(refused(&late), Some(&OVERLOADED));
        let first = held.remove(0).key.clone();
        assert!(refused(&late).is_none());
        drop(held);
        assert!(slots.0.lock().keys.is_empty() && slots.0.lock().tenants.is_empty());
        let held: Vec<_> = (0..PER_KEY).map(|_| slots.take(&first).ok()).collect();
        assert_eq!(refused(&first), Some(&CONCURRENCY_LIMIT_EXCEEDED));
        drop(held);
        assert!(refused(&first).is_none());
    }
}
