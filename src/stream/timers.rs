//! Durable timers: rows of the keyed state, with a heap in memory.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap},
};

use bytes::Bytes;

use crate::{
    clock::Millis,
    state::{Changes, Space, StateError, StateStore},
};

const ROW: u8 = b't';

fn row(key: &[u8]) -> Bytes {
    let mut row = Vec::with_capacity(key.len() + 1);
    row.push(ROW);
    row.extend_from_slice(key);
    row.into()
}

/// The timers of one partition.
#[derive(Default)]
pub(super) struct Timers {
    due: HashMap<Bytes, Millis>,
    /// Entries whose time is not the one in `due` are stale.
    heap: BinaryHeap<Reverse<(Millis, Bytes)>>,
}

impl Timers {
    pub(super) fn load(store: &StateStore, space: &Space) -> Result<Self, StateError> {
        let mut timers = Self::default();
        for entry in store.scan(space, &[ROW]) {
            let (key, value) = entry?;
            let due = value
                .as_ref()
                .try_into()
                .map(i64::from_be_bytes)
                .map_err(|_| StateError("a timer's row is damaged".into()))?;
            timers.schedule(key.slice(1..), Millis(due));
        }
        Ok(timers)
    }

    fn schedule(&mut self, key: Bytes, due: Millis) {
        self.heap.push(Reverse((due, key.clone())));
        self.due.insert(key, due);
    }

    pub(super) fn set(&mut self, key: Bytes, due: Millis, space: &Space, changes: &mut Changes) {
        changes.put(space, row(&key), due.0.to_be_bytes().to_vec());
        self.schedule(key, due);
    }

    pub(super) fn cancel(&mut self, key: &[u8], space: &Space, changes: &mut Changes) {
        if self.due.remove(key).is_some() {
            changes.delete(space, row(key));
        }
    }

    /// Puts back what [`Self::take`] took, as if it had not.
    pub(super) fn put_back(&mut self, key: Bytes, due: Millis, changes: &mut Changes) {
        // Its deletion is the last change.
        changes.0.pop();
        self.schedule(key, due);
    }

    /// When the first one is due.
    pub(super) fn next_due(&mut self) -> Option<Millis> {
        while let Some(Reverse((due, key))) = self.heap.peek() {
            if self.due.get(key) == Some(due) {
                return Some(*due);
            }
            self.heap.pop();
        }
        None
    }

    /// Takes the first one due at or before `now`.
    pub(super) fn take(
        &mut self,
        now: Millis,
        space: &Space,
        changes: &mut Changes,
    ) -> Option<(Millis, Bytes)> {
        if self.next_due()? > now {
            return None;
        }
        let Reverse((due, key)) = self.heap.pop()?;
        self.due.remove(&key);
        changes.delete(space, row(&key));
        Some((due, key))
    }
}
