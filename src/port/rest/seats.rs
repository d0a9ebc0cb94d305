//! How many replays run at once. One that follows never ends, and one that is read slowly hardly does, so no key and no tenant
//! may hold what the others need.

use std::{collections::HashMap, sync::Arc};

use hyper::StatusCode;
use parking_lot::Mutex;

use crate::port::problem::Problem;
use crate::{base::id::Tenant, controls::Key};

/// Replays of a key.
const OF_KEY: usize = 2;
/// Replays of a tenant.
const OF_TENANT: usize = 4;
/// Replays of the node: each has threads and buffers of its own. The second half is for tenants that have none.
const OF_NODE: usize = 16;
/// Seconds until it is worth to ask again.
const WAIT: u32 = 5;

/// The seats of a node.
#[derive(Default)]
pub(crate) struct Seats(Arc<Mutex<Taken>>);

#[derive(Default)]
struct Taken {
    keys: HashMap<Box<str>, usize>,
    tenants: HashMap<Tenant, usize>,
    all: usize,
}

/// A replay's seat. Dropping it gives it back.
pub(crate) struct Seat {
    taken: Arc<Mutex<Taken>>,
    key: Arc<Key>,
}

impl Seats {
    /// A seat for a replay that is asked for with this key.
    pub(crate) fn take(&self, key: &Arc<Key>) -> Result<Seat, Problem> {
        let mut taken = self.0.lock();
        let of_key = taken.keys.get(&*key.id).copied().unwrap_or_default();
        let of_tenant = taken.tenants.get(&key.tenant).copied().unwrap_or_default();
        for (of, held, most) in [("key", of_key, OF_KEY), ("tenant", of_tenant, OF_TENANT)] {
            if held >= most {
                let detail = format!(
                    "{most} replays of this {of} run already; ask again when one has ended"
                );
                let policy = format!("replays-of-{of}");
                return Err(Problem::limited(
                    ("concurrency_limit_exceeded", detail),
                    (&policy, most as u32, None),
                    WAIT,
                ));
            }
        }
        let most = if of_tenant == 0 { OF_NODE } else { OF_NODE / 2 };
        if taken.all >= most {
            let detail = format!(
                "{} replays run on this node already; ask again when one has ended",
                taken.all
            );
            let problem = Problem::new(StatusCode::SERVICE_UNAVAILABLE, "overloaded", detail);
            return Err(problem.retry_after(WAIT));
        }
        *taken.keys.entry(key.id.as_str().into()).or_default() += 1;
        *taken.tenants.entry(key.tenant.clone()).or_default() += 1;
        taken.all += 1;
        Ok(Seat {
            taken: Arc::clone(&self.0),
            key: Arc::clone(key),
        })
    }
}

impl Drop for Seat {
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
        controls::{KeyKind, Scopes},
    };

    fn key(tenant: &str, id: &str) -> Arc<Key> {
        Arc::new(Key {
            id: id.into(),
            tenant: Tenant::new(tenant).unwrap(),
            prefix: [0; 8],
            hash: [0; 32],
            name: String::new(),
            principal: String::new(),
            kind: KeyKind::Service,
            scopes: Scopes::all(),
            created_at: Millis(0),
            expires_at: None,
            writes_events: false,
        })
    }

    #[test]
    fn nobody_takes_the_seats_of_the_others() {
        let seats = Seats::default();
        let mut held = Vec::new();
        let refused = |key: &Arc<Key>| seats.take(key).err().map(|p| (p.status.as_u16(), p.code));
        for tenant in 0..OF_NODE {
            let name = format!("t{tenant}");
            for id in 0..2 * OF_TENANT {
                let key = key(&name, &format!("{name}-{id}"));
                held.extend((0..2 * OF_KEY).filter_map(|_| seats.take(&key).ok()));
            }
        }
        // Two have all that they may have; of the second half each has one.
        assert_eq!(held.len(), OF_NODE);
        assert_eq!(seats.0.lock().tenants.len(), OF_NODE - 2 * (OF_TENANT - 1));
        let late = key("late", "late");
        assert_eq!(refused(&late), Some((503, "overloaded".into())));
        let first = held.remove(0).key.clone();
        assert!(refused(&late).is_none());
        drop(held);
        assert!(seats.0.lock().keys.is_empty() && seats.0.lock().tenants.is_empty());
        let held: Vec<_> = (0..OF_KEY).map(|_| seats.take(&first).ok()).collect();
        let limit = (429, "concurrency_limit_exceeded".into());
        assert_eq!(refused(&first), Some(limit));
        drop(held);
        assert!(refused(&first).is_none());
    }
}
