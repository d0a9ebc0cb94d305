//! Upkeep of the embedded store: rotates memtables, and notices when the store cannot be written any more.
//!
//! The store's own rotation can jam its workers for good, and a commit that waits for them on a full disk may never
//! return (`docs/decisions/0001-embedded-store.md`).

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
        mpsc::{RecvTimeoutError, SyncSender, sync_channel},
    },
    time::{Duration, Instant},
};

use fjall::{AbstractTree, Database, Keyspace, PersistMode};
use parking_lot::RwLock;

/// How often it is checked whether the store can be written.
const LOOK: Duration = Duration::from_secs(1);
/// A commit that takes longer than this will not return.
const STUCK: Duration = Duration::from_secs(30);

pub(super) struct Keeper {
    database: Database,
    watched: RwLock<Vec<(Keyspace, u64)>>,
    due: SyncSender<()>,
    start: Instant,
    /// When the newest commit under way began, in milliseconds after `start`, plus one; 0: none.
    since: AtomicU64,
    failure: OnceLock<String>,
}

/// A commit under way.
pub(super) struct UnderWay<'a>(&'a Keeper);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.since.store(0, Ordering::Relaxed);
    }
}

impl Keeper {
    pub(super) fn start(database: Database) -> std::io::Result<Arc<Self>> {
        let (due, asked) = sync_channel(1);
        let keeper = Arc::new(Self {
            database,
            watched: RwLock::default(),
            due,
            start: Instant::now(),
            since: AtomicU64::new(0),
            failure: OnceLock::new(),
        });
        // The thread holds the store only while it works, so that dropping the store closes it.
        let weak = Arc::downgrade(&keeper);
        std::thread::Builder::new()
            .name("store-keeper".into())
            .spawn(move || {
                while asked.recv_timeout(LOOK) != Err(RecvTimeoutError::Disconnected) {
                    let Some(keeper) = weak.upgrade() else { return };
                    keeper.look();
                    keeper.rotate();
                }
            })?;
        Ok(keeper)
    }

    pub(super) fn watch(&self, keyspace: &Keyspace, memtable_bytes: u64) {
        self.watched
            .write()
            .push((keyspace.clone(), memtable_bytes));
    }

    pub(super) fn begin(&self) -> UnderWay<'_> {
        let now = self.start.elapsed().as_millis() as u64;
        self.since.store(now + 1, Ordering::Relaxed);
        UnderWay(self)
    }

    pub(super) fn failure(&self) -> Option<String> {
        self.failure.get().cloned()
    }

    fn full(keyspace: &Keyspace, limit: u64) -> bool {
        keyspace.tree.active_memtable().size() > limit
    }

    /// Wakes the thread if a memtable is full.
    pub(super) fn rotate_if_due(&self) {
        if self
            .watched
            .read()
            .iter()
            .any(|(k, limit)| Self::full(k, *limit))
        {
            // It is awake already if this one does not fit.
            let _ = self.due.try_send(());
        }
    }

    fn rotate(&self) {
        for (keyspace, limit) in self.watched.read().iter() {
            if Self::full(keyspace, *limit)
                && let Err(error) = keyspace.rotate_memtable()
            {
                self.fail(&error.to_string());
            }
        }
    }

    fn fail(&self, why: &str) {
        if self.failure.set(why.to_owned()).is_ok() {
            tracing::error!(why, "the store cannot be written any more");
        }
    }

    fn look(&self) {
        if let Err(error) = self.database.persist(PersistMode::Buffer) {
            self.fail(&error.to_string());
        }
        let since = self.since.load(Ordering::Relaxed);
        let now = self.start.elapsed().as_millis() as u64;
        if since > 0 && now.saturating_sub(since) > STUCK.as_millis() as u64 {
            self.fail(&format!(
                "a write has not returned for {} s",
                STUCK.as_secs()
            ));
        }
    }
}
