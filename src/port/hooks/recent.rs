//! Bodies that have neither an id nor a time, such as those of Odoo's webhook action without `write_date`. The same body again within a
//! few seconds is a duplicate; later it is a new event. A restart forgets them.

use std::collections::VecDeque;

use parking_lot::Mutex;

use crate::base::{
    clock::Millis,
    id::{Identity, IdentityMap},
};

/// The number of bodies remembered at once; beyond it, the oldest is forgotten.
const BODIES: usize = 65_536;

#[derive(Default)]
pub(super) struct Recent(Mutex<Bodies>);

#[derive(Default)]
struct Bodies {
    by_body: IdentityMap<First>,
    /// Bodies with the ids of their events, oldest first.
    order: VecDeque<(Identity, Identity)>,
}

/// The event that a body became when it was first received.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct First {
    id: Identity,
    until: Millis,
    durable: bool,
}

/// A body that was received before.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Known {
    /// The identity of its event.
    pub(super) id: Identity,
    /// Whether the event is in the log.
    pub(super) durable: bool,
}

/// A body whose event is not submitted yet. If it is dropped because the client hung up, the body is new again.
pub(super) struct Reserved<'r> {
    recent: &'r Recent,
    pub(super) body: Identity,
    pub(super) id: Identity,
    submitted: bool,
}

impl Reserved<'_> {
    /// From now on, [`Recent::settle`] must be called with the outcome.
    pub(super) fn submitted(mut self) {
        self.submitted = true;
    }
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        if !self.submitted {
            self.recent.settle(self.body, self.id, false);
        }
    }
}

impl Recent {
    /// Reserves a body that would become the event `id`. The error: it was received before, less than `for_ms` ago.
    pub(super) fn reserve(
        &self,
        body: Identity,
        id: Identity,
        now: Millis,
        for_ms: i64,
    ) -> Result<Reserved<'_>, Known> {
        let mut bodies = self.0.lock();
        if let Some(first) = bodies.by_body.get(&body)
            && now < first.until
        {
            return Err(Known {
                id: first.id,
                durable: first.durable,
            });
        }
        let first = First {
            id,
            until: Millis(now.0.saturating_add(for_ms)),
            durable: false,
        };
        bodies.by_body.insert(body, first);
        bodies.order.push_back((body, id));
        bodies.forget(now);
        Ok(Reserved {
            recent: self,
            body,
            id,
            submitted: false,
        })
    }

    /// Ends the reservation: the event is durable, or the append failed and the body is new again.
    pub(super) fn settle(&self, body: Identity, id: Identity, durable: bool) {
        let mut bodies = self.0.lock();
        let Some(first) = bodies.by_body.get_mut(&body).filter(|first| first.id == id) else {
            return;
        };
        if durable {
            first.durable = true;
        } else {
            bodies.by_body.remove(&body);
        }
    }
}

impl Bodies {
    fn forget(&mut self, now: Millis) {
        while let Some((body, id)) = self.order.front() {
            let first = self.by_body.get(body).filter(|first| first.id == *id);
            if self.order.len() <= BODIES && first.is_some_and(|first| now < first.until) {
                return;
            }
            if first.is_some() {
                self.by_body.remove(body);
            }
            self.order.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(n: usize) -> Identity {
        Identity::of("t", &[&n.to_string()])
    }

    #[test]
    fn the_first_id_counts_until_the_window_ends() {
        let recent = Recent::default();
        let (body, first, second) = (identity(0), identity(1), identity(2));
        let again = |id, now| recent.reserve(body, id, Millis(now), 10_000).map(drop);
        let known = |id, durable| Err(Known { id, durable });
        recent
            .reserve(body, first, Millis(0), 10_000)
            .ok()
            .unwrap()
            .submitted();
        assert_eq!(again(second, 1), known(first, false));
        recent.settle(body, first, true);
        assert_eq!(again(second, 9_999), known(first, true));
        // This one was dropped before it was submitted, so the next one is the first.
        assert_eq!(again(second, 10_000), Ok(()));
        assert_eq!(again(first, 10_000), Ok(()));
        // A late result of an earlier append does not change a later one.
        let later = recent.reserve(body, second, Millis(10_000), 10_000);
        recent.settle(body, first, false);
        assert_eq!(again(first, 10_001), known(second, false));
        drop(later);
        assert_eq!(again(first, 10_001), Ok(()));
    }

    #[test]
    fn memory_is_bounded() {
        let recent = Recent::default();
        for n in 0..BODIES + 1_000 {
            let reserved = recent.reserve(identity(n), identity(n + 1), Millis(0), 10_000);
            reserved.ok().unwrap().submitted();
        }
        let bodies = recent.0.lock();
        assert_eq!((bodies.by_body.len(), bodies.order.len()), (BODIES, BODIES));
        drop(bodies);
        let last = recent.reserve(identity(0), identity(1), Millis(10_000), 10_000);
        assert!(last.is_ok());
        assert_eq!(recent.0.lock().order.len(), 1);
    }
}
