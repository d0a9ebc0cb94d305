//! The embedded log: one process, one directory, group commits.
//!
//! Appends and transactions are queued under one lock ([`sequencer`]). One thread ([`committer`]) takes all that are queued, writes them
//! as one atomic batch of the store (log, keyed state, positions), syncs, and wakes the waiting callers: each commit is a group commit.
//! Lanes may read records that are sequenced but not yet durable, because their own commit comes later in the same order; other readers
//! read up to the durable end.

mod batch;
mod catalogue;
mod committer;
mod error;
mod lane;
mod reader;
mod retention;
mod sequencer;

use std::{
    path::{Path, PathBuf},
    sync::{Arc, atomic::AtomicBool},
    thread::JoinHandle,
};

use catalogue::Catalogue;
pub use error::LocalError;
use fjall::Keyspace;
use parking_lot::{Condvar, Mutex, RwLock};
use sequencer::Sequencer;

use super::{
    Acknowledged, Append, Cleanup, Described, Lane, Log, LogError, OffsetRange, Output, Reader,
    Source, ThreadError, TopicSpec, Work,
    identity::{Place, StoredPosition, resolve},
};
use crate::{
    base::clock::{Clock, Millis},
    state::{self, Changes, DiskStore, StateError, StateStore},
};

/// The options of the embedded log.
#[derive(Clone)]
pub struct LocalOptions {
    /// Appends are refused ([`LogError::DiskFull`]) while the disk has less free space than this, so that the disk is never full for the
    /// store itself.
    pub min_free_bytes: u64,
    /// The clock that stamps records.
    pub clock: Arc<dyn Clock>,
}

impl LocalOptions {
    /// The defaults: 256 MiB are kept free.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            min_free_bytes: 256 << 20,
            clock,
        }
    }
}

/// The embedded log. Dropping it commits the queued appends and stops its threads.
///
/// ```
/// use std::{sync::Arc, time::Duration};
///
/// use omnilink::{
///     base::{clock::SystemClock, record::{Append, Record}},
///     log::{Cleanup, Log, TopicSpec, local::{LocalLog, LocalOptions}},
/// };
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let dir = tempfile::tempdir()?;
/// let log = LocalLog::open(dir.path(), LocalOptions::new(Arc::new(SystemClock)))?;
/// let topic: Arc<str> = "orders".into();
/// let spec = TopicSpec { name: topic.clone(), partitions: 1, cleanup: Cleanup::Keep };
/// log.provision(&[spec], true)?;
///
/// let record = Record { key: Some("4711".into()), value: Some("paid".into()), headers: vec![] };
/// let acknowledged = log.append(vec![Append { topic, record }], None);
/// let positions = acknowledged.blocking_recv()??;
///
/// let mut reader = log.reader("orders")?;
/// reader.assign(positions[0].partition, positions[0].offset)?;
/// let mut fetched = Vec::new();
/// reader.poll(Duration::from_secs(1), &mut fetched)?;
/// assert_eq!(fetched[0].record.value.as_deref(), Some(&b"paid"[..]));
/// # Ok(())
/// # }
/// ```
pub struct LocalLog {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    store: DiskStore,
    /// The same store, as the state store of lanes.
    state: StateStore,
    batches: Keyspace,
    dir: PathBuf,
    options: LocalOptions,
    catalogue: RwLock<Catalogue>,
    sequencer: Mutex<Sequencer>,
    /// Something was appended, or the log is closing.
    gathered: Condvar,
    /// Less than `min_free_bytes` is free.
    full: AtomicBool,
    closing: Mutex<bool>,
    closed: Condvar,
}

impl From<fjall::Error> for LogError {
    fn from(error: fjall::Error) -> Self {
        StateError::from(error).into()
    }
}

/// The size of the memtable of the batches.
const BATCHES_MEMTABLE_BYTES: u64 = 16 << 20;
/// Batches of at least this size are stored separately from their keys.
const SEPARATED_BYTES: u32 = 256;

impl LocalLog {
    /// Opens or creates the log in `dir`, and recovers the state of the last process.
    pub fn open(dir: &Path, options: LocalOptions) -> Result<Self, LogError> {
        let store = DiskStore::open(dir)?;
        // Batches are compressed already. Even small ones are stored separately, so that compaction moves only their keys.
        let keyspace = state::keyspace(SEPARATED_BYTES);
        let batches = store.keyspace("log", keyspace, BATCHES_MEMTABLE_BYTES)?;
        let catalogue = Catalogue::load(&store)?;
        let sequencer = Sequencer::recover(&batches, &catalogue)?;
        let shared = Arc::new(Shared {
            state: store.clone().into(),
            store,
            batches,
            dir: dir.to_owned(),
            options,
            catalogue: RwLock::new(catalogue),
            sequencer: Mutex::new(sequencer),
            gathered: Condvar::new(),
            full: AtomicBool::new(false),
            closing: Mutex::new(false),
            closed: Condvar::new(),
        });
        shared.measure_disk();
        let run = |name: &'static str, body: fn(&Shared)| {
            let shared = Arc::clone(&shared);
            std::thread::Builder::new()
                .name(name.into())
                .spawn(move || body(&shared))
                .map_err(|error| ThreadError::new(name, error))
        };
        let threads = vec![
            run("log-commit", committer::run)?,
            run("log-upkeep", retention::run)?,
        ];
        Ok(Self { shared, threads })
    }

    /// The keyed state beside the log, committed with it.
    pub fn state(&self) -> &StateStore {
        &self.shared.state
    }
}

impl Drop for LocalLog {
    fn drop(&mut self) {
        *self.shared.closing.lock() = true;
        self.shared.closed.notify_all();
        self.shared.sequencer.lock().close();
        self.shared.gathered.notify_all();
        for thread in self.threads.drain(..) {
            // The panic of a thread has been reported.
            let _ = thread.join();
        }
    }
}

impl Log for LocalLog {
    fn provision(&self, topics: &[TopicSpec], create: bool) -> Result<(), LogError> {
        let mut catalogue = self.shared.catalogue.write();
        let before = catalogue.slots();
        catalogue.provision(&self.shared.store, topics, create)?;
        self.shared
            .sequencer
            .lock()
            .add_partitions(catalogue.slots() - before);
        Ok(())
    }

    fn partitions(&self, topic: &str) -> Result<u32, LogError> {
        Ok(self.shared.catalogue.read().topic(topic)?.partitions)
    }

    fn describe(&self, topic: &str) -> Result<Option<Described>, LogError> {
        let catalogue = self.shared.catalogue.read();
        Ok(Some(Described {
            id: catalogue.topic_id(topic),
            partitions: catalogue.topic(topic)?.partitions,
        }))
    }

    fn append(&self, records: Vec<Append>, state: Option<Changes>) -> Acknowledged {
        self.shared.append(&records, state)
    }

    fn append_to(&self, records: Vec<Output>, state: Option<Changes>) -> Acknowledged {
        self.shared.append(&records, state)
    }

    fn reader(&self, topic: &str) -> Result<Box<dyn Reader>, LogError> {
        Ok(Box::new(reader::LocalReader::new(
            Arc::clone(&self.shared),
            &[topic],
            reader::UpTo::Durable,
        )?))
    }

    fn lane(&self, processor: &str, topics: &[String]) -> Result<Box<dyn Lane>, LogError> {
        Ok(Box::new(lane::LocalLane::new(
            Arc::clone(&self.shared),
            processor,
            topics,
        )?))
    }

    fn source(&self, _processor: &str, topic: &str) -> Result<Box<dyn Source>, LogError> {
        Ok(Box::new(lane::LocalSource::new(
            Arc::clone(&self.shared),
            topic,
        )?))
    }

    fn work(&self, processor: &str, topic: &str) -> Result<Box<dyn Work>, LogError> {
        Ok(Box::new(lane::LocalWork::new(
            Arc::clone(&self.shared),
            processor,
            topic,
        )?))
    }

    fn offset_range(&self, topic: &str, partition: u32) -> Result<OffsetRange, LogError> {
        let slot = self.shared.catalogue.read().slot(topic, partition)?;
        Ok(self.shared.sequencer.lock().durable(slot))
    }

    fn offset_at(&self, topic: &str, partition: u32, at: Millis) -> Result<u64, LogError> {
        self.shared.offset_at(topic, partition, at)
    }

    fn committed(
        &self,
        processor: &str,
        topic: &str,
        partition: u32,
    ) -> Result<Option<u64>, LogError> {
        self.shared.committed(processor, topic, partition)
    }

    fn cleanup(&self, topic: &str) -> Result<Option<Cleanup>, LogError> {
        Ok(self.shared.catalogue.read().topic(topic)?.cleanup)
    }

    fn record_limit(&self, _topic: &str) -> usize {
        sequencer::RECORD_BYTES
    }

    fn state_limit(&self, _processor: &str) -> usize {
        sequencer::RECORD_BYTES
    }

    fn failure(&self) -> Option<String> {
        let failed = self
            .shared
            .sequencer
            .lock()
            .failed()
            .map(ToString::to_string);
        failed.or_else(|| self.shared.store.failure())
    }

    fn tidy(&self) -> Result<(), LogError> {
        self.shared.tidy()
    }

    fn health(&self) -> Result<(), LogError> {
        if self.shared.full.load(std::sync::atomic::Ordering::Relaxed) {
            return Err(self.shared.disk_full());
        }
        Ok(())
    }
}

impl Shared {
    fn committed(
        &self,
        processor: &str,
        topic: &str,
        partition: u32,
    ) -> Result<Option<u64>, LogError> {
        let row = self
            .store
            .meta(&position_row(processor, topic, partition))?;
        Ok(row
            .and_then(|row| row.get(..8).and_then(|next| next.try_into().ok()))
            .map(u64::from_be_bytes))
    }

    /// The offset from which a processor continues. Reports records that retention has deleted in the meantime.
    fn read_on(
        &self,
        processor: &str,
        topic: &str,
        partition: u32,
        next: u64,
    ) -> Result<u64, LogError> {
        let slot = self.catalogue.read().slot(topic, partition)?;
        let range = self.sequencer.lock().sequenced(slot);
        let place = Place {
            processor,
            topic,
            partition,
        };
        // Positions and records are in the same store, so topic ids are not needed.
        let resolved = resolve(place, Some(StoredPosition { next, id: None }), None, range)?;
        if let Some(reset) = resolved.reset {
            reset.announce(place);
        }
        Ok(resolved.next)
    }

    fn disk_full(&self) -> LogError {
        LogError::DiskFull {
            dir: self.dir.clone(),
            min_free_mib: self.options.min_free_bytes >> 20,
        }
    }

    /// Measures the free space. If that fails, the disk is taken as not full, and the store reports errors.
    fn measure_disk(&self) {
        let full = rustix::fs::statvfs(&self.dir)
            .is_ok_and(|disk| disk.f_bavail * disk.f_frsize < self.options.min_free_bytes);
        self.full.store(full, std::sync::atomic::Ordering::Relaxed);
    }
}

fn position_row(processor: &str, topic: &str, partition: u32) -> Vec<u8> {
    format!("position/{processor}/{topic}/{partition}").into_bytes()
}

/// An output or an append: topic, chosen partition, record.
trait Outgoing {
    fn parts(&self) -> (&Arc<str>, Option<u32>, &super::Record);
}

impl Outgoing for Append {
    fn parts(&self) -> (&Arc<str>, Option<u32>, &super::Record) {
        (&self.topic, None, &self.record)
    }
}

impl Outgoing for Output {
    fn parts(&self) -> (&Arc<str>, Option<u32>, &super::Record) {
        (&self.topic, self.partition, &self.record)
    }
}
