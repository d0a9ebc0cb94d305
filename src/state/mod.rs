//! Keyed state: what a transform remembers, one space a processor and input partition, on disk in an embedded
//! LSM store. Derived: on Kafka it is restored from its changelog topic, on the local log it is committed together with the log.

mod filter;
mod journal;
mod keeper;
mod window;

use std::{path::Path, sync::Arc};

use bytes::Bytes;
pub(crate) use filter::{Filter, Probe};
use fjall::{
    CompressionType, Database, Keyspace, KeyspaceCreateOptions, KvSeparationOptions, PersistMode,
};
use keeper::Keeper;
pub use window::{Located, Page, Window, WindowOptions};

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

impl From<std::io::Error> for StateError {
    fn from(error: std::io::Error) -> Self {
        Self(error.to_string())
    }
}

impl From<fjall::Error> for StateError {
    fn from(error: fjall::Error) -> Self {
        Self(error.to_string())
    }
}

/// Options of a keyspace: the keeper alone rotates memtables, and values of `separated` bytes and more are written once, apart
/// from their keys, which compaction rewrites.
pub(crate) fn keyspace(separated: u32) -> KeyspaceCreateOptions {
    let values = KvSeparationOptions::default()
        .separation_threshold(separated)
        .compression(CompressionType::None)
        .file_target_size(16 * MIB);
    KeyspaceCreateOptions::default()
        .max_memtable_size(u64::MAX)
        .with_kv_separation(Some(values))
}

/// The embedded store. Cheap to clone.
#[derive(Clone)]
pub struct StateStore {
    pub(crate) database: Database,
    rows: Keyspace,
    /// Positions and other bookkeeping of the log.
    pub(crate) meta: Keyspace,
    keeper: Arc<Keeper>,
}

/// The file that whoever has the store open holds a lock on (the store's own).
const LOCK: &str = "lock";

/// Takes the lock for a moment. `None`: there is no store yet.
fn hold(dir: &Path) -> Result<Option<std::fs::File>, StateError> {
    let file = match std::fs::File::open(dir.join(LOCK)) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(std::fs::TryLockError::WouldBlock) => Err(StateError(format!(
            "another process has {} open",
            dir.display()
        ))),
        Err(std::fs::TryLockError::Error(error)) => Err(error.into()),
    }
}

/// Whether another process has the store in `dir` open.
pub fn in_use(dir: &Path) -> bool {
    hold(dir).is_err()
}

const MIB: u64 = 1 << 20;
/// Memory of the store's block cache.
const CACHE_BYTES: u64 = 16 * MIB;
/// A journal is dropped when all that it holds is in tables; a keyspace that is written seldom is made to let go at this size.
const JOURNAL_BYTES: u64 = 128 * MIB;
/// Memtables before they go to disk.
const ROWS_BYTES: u64 = 8 * MIB;
const META_BYTES: u64 = MIB;
/// Rows of state are small, but for the pages of windows.
const PAGE_BYTES: u32 = 4096;

impl StateStore {
    /// Opens or makes the store in `dir`, which no other process may hold.
    pub fn open(dir: &Path) -> Result<Self, StateError> {
        // Whoever holds the store is still writing what would look torn.
        let held = hold(dir)?;
        if let Some(cut) = journal::cut_torn_tail(dir)? {
            tracing::warn!(
                bytes = cut,
                "the last write before a power loss was torn; nobody was told of it, and it is set aside"
            );
        }
        drop(held);
        let database = Database::builder(dir)
            .cache_size(CACHE_BYTES)
            .worker_threads(1)
            .max_journaling_size(JOURNAL_BYTES)
            .max_cached_files(Some(256))
            // Batches of records are compressed already.
            .journal_compression(CompressionType::None)
            .open()?;
        let rows = database.keyspace("state", || keyspace(PAGE_BYTES))?;
        let meta = database.keyspace("meta", || keyspace(PAGE_BYTES))?;
        let keeper = Keeper::start(database.clone())?;
        keeper.watch(&rows, ROWS_BYTES);
        keeper.watch(&meta, META_BYTES);
        Ok(Self {
            database,
            rows,
            meta,
            keeper,
        })
    }

    /// One more keyspace, whose memtable goes to disk at `memtable_bytes`.
    pub(crate) fn keyspace(
        &self,
        name: &str,
        options: KeyspaceCreateOptions,
        memtable_bytes: u64,
    ) -> Result<Keyspace, StateError> {
        let keyspace = self.database.keyspace(name, || options)?;
        self.keeper.watch(&keyspace, memtable_bytes);
        Ok(keyspace)
    }

    /// Commits a batch.
    pub(crate) fn commit(&self, batch: fjall::OwnedWriteBatch) -> Result<(), StateError> {
        let under_way = self.keeper.begin();
        batch.commit()?;
        drop(under_way);
        self.keeper.rotate_if_due();
        Ok(())
    }

    /// Why the store cannot be written any more; the process is to end.
    pub fn failure(&self) -> Option<String> {
        self.keeper.failure()
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
        self.commit(batch)
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
        self.commit(batch)
    }

    /// Makes everything written so far durable.
    pub fn sync(&self) -> Result<(), StateError> {
        Ok(self.database.persist(PersistMode::SyncAll)?)
    }
}
