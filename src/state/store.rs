//! The keyed state of a node.

use std::path::Path;

use bytes::Bytes;

use super::{Changes, DiskStore, Space, StateError, memory::MemoryStore};

/// Rows by space and key, and bookkeeping rows beside them. Cheap to clone; clones share the rows.
///
/// ```
/// use omnilink::state::{Changes, Space, StateStore};
///
/// let store = StateStore::in_memory();
/// let space = Space::new("counter", 0);
/// let mut changes = Changes::default();
/// changes.put(&space, "a", "1");
/// store.apply(&changes, &[])?;
/// assert_eq!(store.get(&space, b"a")?.as_deref(), Some(&b"1"[..]));
/// # Ok::<(), omnilink::state::StateError>(())
/// ```
#[derive(Clone)]
pub struct StateStore(Backend);

#[derive(Clone)]
enum Backend {
    Disk(DiskStore),
    Memory(MemoryStore),
}

/// A row of a scan: key within the space, value.
pub type Row = (Bytes, Bytes);

impl StateStore {
    /// Opens or makes the store in `dir`, which no other process may hold.
    pub fn open(dir: &Path) -> Result<Self, StateError> {
        Ok(Self(Backend::Disk(DiskStore::open(dir)?)))
    }

    /// A store that is gone with its last clone, for tests and simulation.
    pub fn in_memory() -> Self {
        Self(Backend::Memory(MemoryStore::default()))
    }

    /// Why the store cannot be written any more; the process is to end.
    pub fn failure(&self) -> Option<String> {
        match &self.0 {
            Backend::Disk(disk) => disk.failure(),
            Backend::Memory(_) => None,
        }
    }

    /// The value of a key.
    pub fn get(&self, space: &Space, key: &[u8]) -> Result<Option<Bytes>, StateError> {
        match &self.0 {
            Backend::Disk(disk) => disk.get(space, key),
            Backend::Memory(memory) => Ok(memory.get(space, key)),
        }
    }

    /// All rows whose key begins with `prefix`, in order of their keys.
    pub fn scan(
        &self,
        space: &Space,
        prefix: &[u8],
    ) -> Box<dyn Iterator<Item = Result<Row, StateError>>> {
        self.scan_from(space, prefix, b"", usize::MAX)
    }

    /// Up to `most` rows whose key begins with `prefix` and is at or after `prefix` + `from`, in order of their keys.
    pub fn scan_from(
        &self,
        space: &Space,
        prefix: &[u8],
        from: &[u8],
        most: usize,
    ) -> Box<dyn Iterator<Item = Result<Row, StateError>>> {
        let skip = space.prefix_len();
        let prefix = space.row(prefix);
        let mut first = prefix.clone();
        first.extend_from_slice(from);
        match &self.0 {
            Backend::Disk(disk) => {
                let rows = disk.rows_from(&prefix, first).take(most);
                Box::new(rows.map(move |row| {
                    let (key, value) = row?;
                    Ok((key.slice(skip..), value))
                }))
            }
            Backend::Memory(memory) => {
                let rows = memory.scan(&prefix, first, most);
                Box::new(
                    rows.into_iter()
                        .map(move |(key, value)| Ok((key.slice(skip..), value))),
                )
            }
        }
    }

    /// Writes changes at once, without waiting for the disk: for state that its changelog can restore.
    pub fn apply(&self, changes: &Changes, meta: &[(Vec<u8>, Vec<u8>)]) -> Result<(), StateError> {
        match &self.0 {
            Backend::Disk(disk) => disk.apply(changes, meta),
            Backend::Memory(memory) => {
                memory.apply(changes, meta);
                Ok(())
            }
        }
    }

    /// A bookkeeping row.
    #[cfg(any(feature = "kafka", test))]
    pub(crate) fn meta(&self, key: &[u8]) -> Result<Option<Bytes>, StateError> {
        match &self.0 {
            Backend::Disk(disk) => disk.meta(key),
            Backend::Memory(memory) => Ok(memory.meta(key)),
        }
    }

    /// Drops a whole space: its rows are restored from the changelog.
    pub fn clear(&self, space: &Space) -> Result<(), StateError> {
        match &self.0 {
            Backend::Disk(disk) => disk.clear(space),
            Backend::Memory(memory) => {
                memory.clear(space);
                Ok(())
            }
        }
    }

    /// Makes everything written so far durable.
    pub fn sync(&self) -> Result<(), StateError> {
        match &self.0 {
            Backend::Disk(disk) => disk.sync(),
            Backend::Memory(_) => Ok(()),
        }
    }
}

impl From<DiskStore> for StateStore {
    fn from(disk: DiskStore) -> Self {
        Self(Backend::Disk(disk))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Both kinds of store answer alike.
    #[test]
    fn stores_on_disk_and_in_memory_are_alike() {
        let dir = tempfile::tempdir().unwrap();
        for store in [
            StateStore::open(dir.path()).unwrap(),
            StateStore::in_memory(),
        ] {
            let (one, two) = (Space::new("p", 1), Space::new("p", 2));
            let mut changes = Changes::default();
            for key in ["a1", "a2", "a3", "b1"] {
                changes.put(&one, key, key);
            }
            changes.put(&two, "a2", "other");
            changes.delete(&one, "a3");
            store
                .apply(&changes, &[(b"m".to_vec(), b"7".to_vec())])
                .unwrap();
            let keys = |rows: Box<dyn Iterator<Item = Result<Row, StateError>>>| -> Vec<String> {
                rows.map(|row| String::from_utf8(row.unwrap().0.to_vec()).unwrap())
                    .collect()
            };
            assert_eq!(keys(store.scan(&one, b"a")), ["a1", "a2"]);
            assert_eq!(keys(store.scan(&one, b"")), ["a1", "a2", "b1"]);
            assert_eq!(keys(store.scan_from(&one, b"a", b"2", 9)), ["a2"]);
            assert_eq!(keys(store.scan_from(&one, b"", b"", 1)), ["a1"]);
            assert_eq!(
                store.get(&two, b"a2").unwrap().as_deref(),
                Some(&b"other"[..])
            );
            assert_eq!(store.meta(b"m").unwrap().as_deref(), Some(&b"7"[..]));
            store.clear(&one).unwrap();
            assert!(keys(store.scan(&one, b"")).is_empty());
            assert_eq!(keys(store.scan(&two, b"")), ["a2"]);
        }
    }
}
