//! Keyed state on disk, in an embedded LSM store, which the embedded log shares.

use std::{ops::Bound, path::Path, sync::Arc};

use bytes::Bytes;
use fjall::{
    CompressionType, Database, Keyspace, KeyspaceCreateOptions, KvSeparationOptions, PersistMode,
};

use super::{Changes, Space, StateError, ahead::Ahead, journal, keeper::Keeper};

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
pub(crate) struct DiskStore {
    pub(crate) database: Database,
    rows: Keyspace,
    /// Positions and other bookkeeping of the log.
    pub(crate) meta: Keyspace,
    keeper: Arc<Keeper>,
    ahead: Arc<Ahead>,
}

/// The file that whoever has the store open holds a lock on (the store's own).
const LOCK: &str = "lock";

/// Locks the store, until the file is dropped. `None`: there is no store yet.
fn hold(dir: &Path) -> Result<Option<std::fs::File>, StateError> {
    let file = match std::fs::File::open(dir.join(LOCK)) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(std::fs::TryLockError::WouldBlock) => Err(StateError::InUse {
            dir: dir.to_owned(),
        }),
        Err(std::fs::TryLockError::Error(error)) => Err(error.into()),
    }
}

/// Whether another process has the store in `dir` open.
pub fn in_use(dir: &Path) -> bool {
    hold(dir).is_err()
}

const MIB: u64 = 1 << 20;
/// Bytes of the store's block cache.
const CACHE_BYTES: u64 = 16 * MIB;
/// A journal is deleted once all of its writes are in tables; at this size keyspaces that are written seldom are flushed for it.
const JOURNAL_BYTES: u64 = 128 * MIB;
/// Memtables before they go to disk.
const ROWS_BYTES: u64 = 8 * MIB;
const META_BYTES: u64 = MIB;
/// Rows of state are small, but for the pages of windows.
const PAGE_BYTES: u32 = 4096;

/// The first key after all that begin with `prefix`; `None`: there is none.
fn successor(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|byte| *byte < 0xff)?;
    let mut after = prefix[..=last].to_vec();
    after[last] += 1;
    Some(after)
}

impl DiskStore {
    /// Opens or makes the store in `dir`, which no other process may hold.
    pub(crate) fn open(dir: &Path) -> Result<Self, StateError> {
        // The writes of another process that has the store open would look torn.
        let held = hold(dir)?;
        if let Some(cut) = journal::cut_torn_tail(dir)? {
            tracing::warn!(
                bytes = cut,
                "the last write before a power loss was torn; it was never acknowledged, and is set aside"
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
            ahead: Arc::new(Ahead::new(dir)),
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

    /// Commits a batch of about `bytes`, and waits until it is on the disk.
    pub(crate) fn commit_synced(
        &self,
        batch: fjall::OwnedWriteBatch,
        bytes: usize,
    ) -> Result<(), StateError> {
        self.ahead.make_room(bytes);
        self.commit(batch.durability(Some(PersistMode::SyncData)))
    }

    /// Commits a batch. Its durability says whether that waits for the disk: by default it does not.
    pub(crate) fn commit(&self, batch: fjall::OwnedWriteBatch) -> Result<(), StateError> {
        let under_way = self.keeper.begin();
        let committing = self.ahead.committing();
        batch.commit()?;
        drop(committing);
        drop(under_way);
        self.keeper.rotate_if_due();
        Ok(())
    }

    /// Why the store cannot be written any more; the process is to end.
    pub(crate) fn failure(&self) -> Option<String> {
        self.keeper.failure()
    }

    /// The value of a key.
    pub(super) fn get(&self, space: &Space, key: &[u8]) -> Result<Option<Bytes>, StateError> {
        Ok(self.rows.get(space.row(key))?.map(Bytes::from))
    }

    /// Rows of the stored keys from `first` to before the first that cannot begin with `prefix`, in order.
    pub(super) fn rows_from(
        &self,
        prefix: &[u8],
        first: Vec<u8>,
    ) -> impl Iterator<Item = Result<(Bytes, Bytes), StateError>> + use<> {
        let end = successor(prefix).map_or(Bound::Unbounded, Bound::Excluded);
        let rows = self.rows.range((Bound::Included(first), end));
        rows.map(|guard| {
            let (key, value) = guard.into_inner()?;
            Ok((Bytes::from(key), Bytes::from(value)))
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
    pub(crate) fn apply(
        &self,
        changes: &Changes,
        meta: &[(Vec<u8>, Vec<u8>)],
    ) -> Result<(), StateError> {
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
    pub(super) fn clear(&self, space: &Space) -> Result<(), StateError> {
        let mut batch = self.database.batch();
        for guard in self.rows.prefix(space.row(b"")) {
            batch.remove(&self.rows, guard.key()?);
        }
        self.commit(batch)
    }

    /// Makes everything written so far durable.
    pub(crate) fn sync(&self) -> Result<(), StateError> {
        Ok(self.database.persist(PersistMode::SyncAll)?)
    }
}
