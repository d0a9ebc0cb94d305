//! Keyed state in memory, for tests and simulation: no threads and files for each run.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use parking_lot::RwLock;

use super::{Changes, Space};

/// Rows and bookkeeping in memory. Clones share them.
#[derive(Clone, Default)]
pub(super) struct MemoryStore(Arc<RwLock<Rows>>);

#[derive(Default)]
struct Rows {
    state: BTreeMap<Vec<u8>, Bytes>,
    meta: BTreeMap<Vec<u8>, Bytes>,
}

impl MemoryStore {
    pub(super) fn get(&self, space: &Space, key: &[u8]) -> Option<Bytes> {
        self.0.read().state.get(&space.row(key)).cloned()
    }

    /// Up to `most` rows whose stored keys are at or after `from` and begin with `prefix`.
    pub(super) fn scan(&self, prefix: &[u8], from: Vec<u8>, most: usize) -> Vec<(Bytes, Bytes)> {
        self.0
            .read()
            .state
            .range(from..)
            .take_while(|(key, _)| key.starts_with(prefix))
            .take(most)
            .map(|(key, value)| (Bytes::copy_from_slice(key), value.clone()))
            .collect()
    }

    pub(super) fn apply(&self, changes: &Changes, meta: &[(Vec<u8>, Vec<u8>)]) {
        let mut rows = self.0.write();
        for change in &changes.0 {
            let row = change.space.row(&change.key);
            match &change.value {
                Some(value) => rows.state.insert(row, value.clone()),
                None => rows.state.remove(&row),
            };
        }
        for (key, value) in meta {
            rows.meta.insert(key.clone(), Bytes::copy_from_slice(value));
        }
    }

    #[cfg(any(feature = "kafka", test))]
    pub(super) fn meta(&self, key: &[u8]) -> Option<Bytes> {
        self.0.read().meta.get(key).cloned()
    }

    pub(super) fn clear(&self, space: &Space) {
        let prefix = space.row(b"");
        self.0
            .write()
            .state
            .retain(|key, _| !key.starts_with(&prefix));
    }
}
