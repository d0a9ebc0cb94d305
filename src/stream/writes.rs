//! The keyed state that an open transaction writes: one row and one changelog record a key, however often it was set.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;

use crate::state::{Changes, Space, StateError, StateStore};

/// Writes of one partition that are not committed yet.
#[derive(Default)]
pub(crate) struct Writes {
    /// The last value of each key; `None` deletes. In the order in which keys were written first.
    rows: Vec<(Bytes, Option<Bytes>)>,
    by_key: HashMap<Bytes, usize>,
    /// Changes that a transform made by itself.
    others: Changes,
    /// How many writes there were: an equal count means an equal state.
    count: u64,
}

impl Writes {
    pub(crate) fn put(&mut self, key: Bytes, value: Bytes) {
        self.set(key, Some(value));
    }

    pub(crate) fn delete(&mut self, key: Bytes) {
        self.set(key, None);
    }

    fn set(&mut self, key: Bytes, value: Option<Bytes>) {
        self.count += 1;
        if let Some(at) = self.by_key.get(&key) {
            self.rows[*at].1 = value;
        } else {
            self.by_key.insert(key.clone(), self.rows.len());
            self.rows.push((key, value));
        }
    }

    pub(crate) fn add(&mut self, changes: Changes) {
        self.count += changes.0.len() as u64;
        self.others.0.extend(changes.0);
    }

    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// The value that a key will have, if this transaction has set it (outer) or deleted it (inner `None`).
    #[expect(
        clippy::option_option,
        reason = "set, deleted and untouched are three things"
    )]
    pub(crate) fn get(&self, key: &[u8]) -> Option<Option<Bytes>> {
        let at = self.by_key.get(key)?;
        Some(self.rows[*at].1.clone())
    }

    /// Rows whose key begins with `prefix`, as they will be, in order of their keys.
    pub(crate) fn scan(
        &self,
        store: &StateStore,
        space: &Space,
        prefix: &[u8],
    ) -> Result<Vec<(Bytes, Bytes)>, StateError> {
        let mut rows = BTreeMap::new();
        for row in store.scan(space, prefix) {
            let (key, value) = row?;
            rows.insert(key, value);
        }
        for (key, value) in &self.rows {
            if key.starts_with(prefix) {
                match value {
                    Some(value) => rows.insert(key.clone(), value.clone()),
                    None => rows.remove(key),
                };
            }
        }
        Ok(rows.into_iter().collect())
    }

    /// All of it, to be committed.
    pub(crate) fn take(&mut self, space: &Space) -> Changes {
        self.by_key.clear();
        let mut changes = Changes::default();
        for (key, value) in self.rows.drain(..) {
            match value {
                Some(value) => changes.put(space, key, value),
                None => changes.delete(space, key),
            }
        }
        changes.0.append(&mut self.others.0);
        changes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_written_once_and_read_as_it_will_be() {
        let store = StateStore::in_memory();
        let space = Space::new("p", 0);
        let mut before = Changes::default();
        for key in ["a", "ab", "b"] {
            before.put(&space, key, "old");
        }
        store.apply(&before, &[]).unwrap();
        let mut writes = Writes::default();
        writes.put("a".into(), "1".into());
        writes.put("ac".into(), "2".into());
        writes.delete("ab".into());
        writes.put("a".into(), "3".into());
        assert_eq!(writes.count(), 4);
        assert_eq!(writes.get(b"a"), Some(Some("3".into())));
        assert_eq!(writes.get(b"ab"), Some(None));
        assert_eq!(writes.get(b"b"), None);
        let rows = writes.scan(&store, &space, b"a").unwrap();
        assert_eq!(
            rows,
            [("a".into(), "3".into()), ("ac".into(), "2".into())] as [(Bytes, Bytes); 2]
        );
        let changes = writes.take(&space);
        let keys: Vec<_> = changes.0.iter().map(|change| &change.key[..]).collect();
        assert_eq!(keys, [&b"a"[..], b"ac", b"ab"]);
    }
}
