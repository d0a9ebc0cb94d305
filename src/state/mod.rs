//! Keyed state: what a transform remembers, one space a processor and input partition, on disk in an embedded
//! LSM store. Derived: on Kafka it is restored from its changelog topic, on the local log it is committed together with the log.

mod filter;
mod window;

use std::{path::Path, sync::Arc};

use bytes::Bytes;
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};
pub use window::{Window, WindowOptions};

/// The state of one processor for one input partition.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Space {
    /// The processor, such as `admission`.
    pub processor: Arc<str>,
    /// The input partition.
    pub partition: u32,
}

impl Space {
    /// The space of a processor and partition.
    pub fn new(processor: &str, partition: u32) -> Self {
        Self {
            processor: processor.into(),
            partition,
        }
    }

    /// `processor 0x00 partition(2, big-endian) key`: a processor's name has no 0x00.
    fn row(&self, key: &[u8]) -> Vec<u8> {
        let mut row = Vec::with_capacity(self.processor.len() + 3 + key.len());
        row.extend_from_slice(self.processor.as_bytes());
        row.push(0);
        row.extend_from_slice(&(self.partition as u16).to_be_bytes());
        row.extend_from_slice(key);
        row
    }
}

/// One change of one key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Change {
    /// Where.
    pub space: Space,
    /// The key within the space.
    pub key: Bytes,
    /// The new value; `None` deletes.
    pub value: Option<Bytes>,
    /// Whether the changelog gets it. Upkeep that only rearranges rows on this node does not.
    pub logged: bool,
}

/// Changes in order; written all or not at all.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Changes(pub Vec<Change>);

impl Changes {
    /// Sets a key.
    pub fn put(&mut self, space: &Space, key: impl Into<Bytes>, value: impl Into<Bytes>) {
        self.push(space, key.into(), Some(value.into()), true);
    }

    /// Deletes a key.
    pub fn delete(&mut self, space: &Space, key: impl Into<Bytes>) {
        self.push(space, key.into(), None, true);
    }

    /// Sets (`Some`) or deletes a key on this node only.
    pub fn upkeep(&mut self, space: &Space, key: impl Into<Bytes>, value: Option<Bytes>) {
        self.push(space, key.into(), value, false);
    }

    fn push(&mut self, space: &Space, key: Bytes, value: Option<Bytes>, logged: bool) {
        self.0.push(Change {
            space: space.clone(),
            key,
            value,
            logged,
        });
    }
}

/// An error of the embedded store: its own words. Always fatal: the process ends and the next start recovers.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the store in the data directory: {0}")]
pub struct StateError(pub String);

impl From<fjall::Error> for StateError {
    fn from(error: fjall::Error) -> Self {
        Self(error.to_string())
    }
}

/// The embedded store. Cheap to clone.
#[derive(Clone)]
pub struct StateStore {
    pub(crate) database: Database,
    rows: Keyspace,
    /// Positions and other bookkeeping of the log.
    pub(crate) meta: Keyspace,
}

/// Memory of the store's block cache.
const CACHE_BYTES: u64 = 32 << 20;
/// A memtable of rows before it goes to disk.
const ROWS_MEMTABLE_BYTES: u64 = 16 << 20;

impl StateStore {
    /// Opens or makes the store in `dir`, which no other process may hold.
    pub fn open(dir: &Path) -> Result<Self, StateError> {
        let database = Database::builder(dir)
            .cache_size(CACHE_BYTES)
            .worker_threads(2)
            .max_journaling_size(256 << 20)
            .open()?;
        let rows = database.keyspace("state", || {
            KeyspaceCreateOptions::default().max_memtable_size(ROWS_MEMTABLE_BYTES)
        })?;
        let meta = database.keyspace("meta", || {
            KeyspaceCreateOptions::default().max_memtable_size(1 << 20)
        })?;
        Ok(Self {
            database,
            rows,
            meta,
        })
    }

    /// The value of a key.
    pub fn get(&self, space: &Space, key: &[u8]) -> Result<Option<Bytes>, StateError> {
        Ok(self.rows.get(space.row(key))?.map(Bytes::from))
    }

    /// All rows whose key begins with `prefix`, in order of their keys.
    pub fn scan(
        &self,
        space: &Space,
        prefix: &[u8],
    ) -> impl Iterator<Item = Result<(Bytes, Bytes), StateError>> + use<> {
        let skip = space.row(b"").len();
        self.rows.prefix(space.row(prefix)).map(move |guard| {
            let (key, value) = guard.into_inner()?;
            Ok((Bytes::from(key).slice(skip..), Bytes::from(value)))
        })
    }

    /// Adds changes to a batch of the store.
    pub(crate) fn stage(&self, batch: &mut fjall::OwnedWriteBatch, changes: &Changes) {
        for change in &changes.0 {
            let row = change.space.row(&change.key);
            match &change.value {
                Some(value) => batch.insert(&self.rows, row, value.clone()),
                None => batch.remove(&self.rows, row),
            }
        }
    }

    /// Writes changes at once, without waiting for the disk: for state that its changelog can restore.
    pub fn apply(&self, changes: &Changes, meta: &[(Vec<u8>, Vec<u8>)]) -> Result<(), StateError> {
        let mut batch = self.database.batch();
        self.stage(&mut batch, changes);
        for (key, value) in meta {
            batch.insert(&self.meta, key.as_slice(), value.as_slice());
        }
        Ok(batch.commit()?)
    }

    /// A bookkeeping row.
    pub(crate) fn meta(&self, key: &[u8]) -> Result<Option<Bytes>, StateError> {
        Ok(self.meta.get(key)?.map(Bytes::from))
    }

    /// Drops a whole space: its rows are restored from the changelog.
    pub fn clear(&self, space: &Space) -> Result<(), StateError> {
        let mut batch = self.database.batch();
        for guard in self.rows.prefix(space.row(b"")) {
            batch.remove(&self.rows, guard.key()?);
        }
        Ok(batch.commit()?)
    }

    /// Makes everything written so far durable.
    pub fn sync(&self) -> Result<(), StateError> {
        Ok(self.database.persist(PersistMode::SyncAll)?)
    }
}
