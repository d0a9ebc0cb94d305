//! Uncommitted writes to keyed state: one row and one changelog record per key, however often it was set.

use std::{
    collections::{BTreeMap, HashMap},
    ops::Bound,
};

use bytes::Bytes;

use crate::state::{Changes, Row, Space, StateError, StateStore};

/// Uncommitted writes of one partition.
#[derive(Default)]
pub(crate) struct Writes {
    /// The last value of each key (`None` deletes it), ordered by the first write.
    rows: Vec<(Bytes, Option<Bytes>)>,
    by_key: HashMap<Bytes, usize>,
    /// The same, ordered by key; maintained from the first scan of the transaction on.
    sorted: Option<BTreeMap<Bytes, usize>>,
    /// Changes that were prepared elsewhere.
    others: Changes,
    /// The number of writes: if it is equal, the state is equal.
    count: u64,
}

impl Writes {
    pub(crate) fn put(&mut self, key: Bytes, value: Bytes) {
        match self.written(&key) {
            Some(row) => *row = Some(value),
            None => self.add_row(key, Some(value)),
        }
    }

    pub(crate) fn delete(&mut self, key: Bytes) {
        match self.written(&key) {
            Some(row) => *row = None,
            None => self.add_row(key, None),
        }
    }

    /// As [`Writes::put`]; copies the key if it is new.
    pub(super) fn put_borrowed(&mut self, key: &[u8], value: Bytes) {
        match self.written(key) {
            Some(row) => *row = Some(value),
            None => self.add_row(Bytes::copy_from_slice(key), Some(value)),
        }
    }

    /// As [`Writes::delete`]; copies the key if it is new.
    pub(super) fn delete_borrowed(&mut self, key: &[u8]) {
        match self.written(key) {
            Some(row) => *row = None,
            None => self.add_row(Bytes::copy_from_slice(key), None),
        }
    }

    /// Counts a write to a key, and returns its value if it was written before.
    fn written(&mut self, key: &[u8]) -> Option<&mut Option<Bytes>> {
        self.count += 1;
        let at = self.by_key.get(key)?;
        Some(&mut self.rows[*at].1)
    }

    fn add_row(&mut self, key: Bytes, value: Option<Bytes>) {
        let at = self.rows.len();
        self.by_key.insert(key.clone(), at);
        if let Some(sorted) = &mut self.sorted {
            sorted.insert(key.clone(), at);
        }
        self.rows.push((key, value));
    }

    pub(crate) fn add(&mut self, changes: Changes) {
        self.count += changes.0.len() as u64;
        self.others.0.extend(changes.0);
    }

    /// Records that a write was refused although the transform assumes success.
    pub(super) fn refuse(&mut self) {
        self.count += 1;
    }

    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// The uncommitted value of a key: `None` if it was not written, `Some(None)` if it was deleted.
    #[expect(
        clippy::option_option,
        reason = "set, deleted and untouched are three things"
    )]
    pub(crate) fn get(&self, key: &[u8]) -> Option<Option<Bytes>> {
        let at = self.by_key.get(key)?;
        Some(self.rows[*at].1.clone())
    }

    /// Rows whose key begins with `prefix`, ordered by key, including the uncommitted writes.
    pub(crate) fn scan(
        &mut self,
        store: &StateStore,
        space: &Space,
        prefix: &[u8],
    ) -> Result<Vec<Row>, StateError> {
        let Self { rows, by_key, .. } = self;
        let sorted = self
            .sorted
            .get_or_insert_with(|| by_key.iter().map(|(key, at)| (key.clone(), *at)).collect());
        let mut written = sorted
            .range::<[u8], _>((Bound::Included(prefix), Bound::Unbounded))
            .take_while(|(key, _)| key.starts_with(prefix))
            .map(|(key, at)| (key, &rows[*at].1))
            .peekable();
        let mut merged = Vec::new();
        let keep = |merged: &mut Vec<Row>, (key, value): (&Bytes, &Option<Bytes>)| {
            if let Some(value) = value {
                merged.push((key.clone(), value.clone()));
            }
        };
        for row in store.scan(space, prefix) {
            let row = row?;
            while let Some(before) = written.next_if(|(key, _)| **key < row.0) {
                keep(&mut merged, before);
            }
            match written.next_if(|(key, _)| **key == row.0) {
                Some(in_its_place) => keep(&mut merged, in_its_place),
                None => merged.push(row),
            }
        }
        written.for_each(|row| keep(&mut merged, row));
        Ok(merged)
    }

    /// Takes all writes, to be committed.
    pub(crate) fn take(&mut self, space: &Space) -> Changes {
        self.by_key.clear();
        self.sorted = None;
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
    use proptest::prelude::*;

    use super::*;

    fn key() -> impl Strategy<Value = Bytes> {
        prop::collection::vec(prop::sample::select(vec![0, 1, 0xff]), 0..4).prop_map(Bytes::from)
    }

    proptest! {
        /// A scan returns committed and uncommitted rows like a map that was written directly.
        #[test]
        fn scans_see_what_the_transaction_wrote(
            committed in prop::collection::vec(key(), 0..12),
            steps in prop::collection::vec((key(), prop::option::of(any::<u8>()), prop::option::of(key())), 1..40),
        ) {
            let (store, space) = (StateStore::in_memory(), Space::new("p", 0));
            let mut before = Changes::default();
            let mut model = BTreeMap::new();
            for key in committed {
                before.put(&space, key.clone(), "old");
                model.insert(key, Bytes::from_static(b"old"));
            }
            store.apply(&before, &[]).unwrap();
            let mut writes = Writes::default();
            for (key, value, prefix) in steps {
                if let Some(value) = value {
                    let value = Bytes::copy_from_slice(&[value]);
                    writes.put_borrowed(&key, value.clone());
                    model.insert(key, value);
                } else {
                    writes.delete_borrowed(&key);
                    model.remove(&key);
                }
                if let Some(prefix) = prefix {
                    let rows = writes.scan(&store, &space, &prefix).unwrap();
                    let expected = model.iter().filter(|(key, _)| key.starts_with(&prefix));
                    let expected: Vec<Row> = expected.map(|(k, v)| (k.clone(), v.clone())).collect();
                    prop_assert_eq!(rows, expected);
                }
            }
        }
    }

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
