//! The keys of a partition that are in memory, in two generations: those used recently, and older ones, which are dropped when the
//! recent ones have become many.

use super::key_state::KeyState;
use crate::{
    base::id::{Identity, IdentityMap},
    state::StateError,
};

/// Keys in memory.
#[derive(Default)]
pub(super) struct KeyCache {
    recent: IdentityMap<KeyState>,
    older: IdentityMap<KeyState>,
    /// What the recent ones weigh, in admissions.
    pub(super) weight: usize,
}

impl KeyCache {
    /// A key; `stored` reads its row.
    pub(super) fn key(
        &mut self,
        id: Identity,
        stored: impl FnOnce(&Identity) -> Result<Option<KeyState>, StateError>,
    ) -> Result<&mut KeyState, StateError> {
        use std::collections::hash_map::Entry;
        match self.recent.entry(id) {
            Entry::Occupied(key) => Ok(key.into_mut()),
            Entry::Vacant(vacant) => {
                let key = match self.older.remove(&id) {
                    Some(key) => key,
                    None => stored(&id)?.unwrap_or_default(),
                };
                self.weight += key.weight();
                Ok(vacant.insert(key))
            }
        }
    }

    pub(super) fn in_memory(&mut self, id: &Identity) -> Option<&mut KeyState> {
        let recent = self.recent.get_mut(id);
        recent.or_else(|| self.older.get_mut(id))
    }

    /// Between transactions: where the recent keys weigh more than `max`, they become the older ones, and those are dropped.
    pub(super) fn shrink(&mut self, max: usize) {
        if self.weight > max {
            let dropped = std::mem::replace(&mut self.older, std::mem::take(&mut self.recent));
            // What the journal has of a key is in no other row.
            let pending = dropped.into_iter().filter(|(_, key)| key.is_pending());
            self.recent.extend(pending);
            self.weight = self.recent.values().map(KeyState::weight).sum();
        }
    }
}
