//! Orders appends and transactions, and queues them for the committer.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, atomic::Ordering},
};

use fjall::Keyspace;
use tokio::sync::oneshot;

use super::{
    Outgoing, Shared,
    batch::{Batch, Builder},
    catalogue::{Catalogue, base_of, batch_key},
    reader::Signal,
};
use crate::{
    base::clock::Millis,
    chaos::{Bug, planted},
    log::{
        Acknowledged, Fenced, LogError, OffsetRange, Position, Unavailable, partition_for,
        record_size,
    },
    state::Changes,
};

pub(super) type Answer = oneshot::Sender<Result<Vec<Position>, LogError>>;

/// The bytes of recent batches in memory for each partition, for readers near the end.
const RECENT_BYTES: usize = 1 << 20;
/// A batch is closed at this size, which limits the cost of reading a single record.
const BATCH_BYTES: usize = 512 << 10;
/// Appends are refused while more bytes than this wait to be written.
const PENDING_BYTES: usize = 64 << 20;
/// The largest record, as [`record_size`] counts: a batch that holds it can be read back.
pub(super) const RECORD_BYTES: usize = 16 << 20;

/// The tail of one partition.
pub(super) struct Tail {
    start: u64,
    next: u64,
    /// One past the last sequenced record, which is in a batch that is being written.
    sequenced: u64,
    durable: u64,
    latest: i64,
    building: Vec<Builder>,
    recent: VecDeque<Batch>,
    recent_bytes: usize,
    signals: Vec<Arc<Signal>>,
}

impl Tail {
    fn new(start: u64, next: u64) -> Self {
        Self {
            start,
            next,
            sequenced: next,
            durable: next,
            latest: i64::MIN,
            building: Vec::new(),
            recent: VecDeque::new(),
            recent_bytes: 0,
            signals: Vec::new(),
        }
    }
}

/// The queued work since the committer took the last.
#[derive(Default)]
pub(super) struct Pending {
    touched: Vec<usize>,
    pub(super) state: Vec<Changes>,
    pub(super) positions: Vec<(Vec<u8>, Vec<u8>)>,
    pub(super) waiters: Vec<(Answer, Vec<Position>)>,
    bytes: usize,
}

impl Pending {
    fn is_empty(&self) -> bool {
        self.waiters.is_empty()
    }
}

/// The work of one commit.
pub(super) struct Commit {
    pub(super) batches: Vec<(usize, Batch)>,
    pub(super) pending: Pending,
}

pub(super) struct Sequencer {
    tails: Vec<Tail>,
    pending: Pending,
    /// The newest owner of each processor's lane.
    owners: HashMap<Arc<str>, u64>,
    closing: bool,
    failed: Option<LogError>,
}

impl Sequencer {
    /// Recovers the offsets of all partitions.
    pub(super) fn recover(batches: &Keyspace, catalogue: &Catalogue) -> Result<Self, LogError> {
        let mut tails = Vec::new();
        for slot in 0..catalogue.slots() {
            let prefix = (slot as u32).to_be_bytes();
            let first = batches.prefix(prefix).next();
            let last = batches.prefix(prefix).next_back();
            let start = match first {
                Some(guard) => base_of(&guard.key()?),
                None => 0,
            };
            let next = match last {
                Some(guard) => {
                    let (key, value) = guard.into_inner()?;
                    let base = base_of(&key);
                    Batch::open(base, value.into())
                        .ok_or_else(|| catalogue.damaged(slot, base))?
                        .next
                }
                None => 0,
            };
            tails.push(Tail::new(start, next));
        }
        Ok(Self {
            tails,
            pending: Pending::default(),
            owners: HashMap::new(),
            closing: false,
            failed: None,
        })
    }

    pub(super) fn add_partitions(&mut self, count: usize) {
        self.tails
            .extend(std::iter::repeat_with(|| Tail::new(0, 0)).take(count));
    }

    pub(super) fn close(&mut self) {
        self.closing = true;
    }

    pub(super) fn fail(&mut self, error: &LogError) {
        self.failed = Some(error.clone());
    }

    pub(super) fn failed(&self) -> Option<&LogError> {
        self.failed.as_ref()
    }

    pub(super) fn durable(&self, slot: usize) -> OffsetRange {
        let tail = &self.tails[slot];
        OffsetRange {
            start: tail.start,
            end: tail.durable,
        }
    }

    pub(super) fn sequenced(&self, slot: usize) -> OffsetRange {
        let tail = &self.tails[slot];
        OffsetRange {
            start: tail.start,
            end: tail.sequenced,
        }
    }

    pub(super) fn set_start(&mut self, slot: usize, start: u64) {
        self.tails[slot].start = start;
    }

    pub(super) fn watch(&mut self, slot: usize, signal: &Arc<Signal>) {
        self.tails[slot].signals.push(Arc::clone(signal));
    }

    pub(super) fn unwatch(&mut self, slot: usize, signal: &Arc<Signal>) {
        self.tails[slot].signals.retain(|s| !Arc::ptr_eq(s, signal));
    }

    /// The batch in memory that holds `offset`.
    pub(super) fn recent(&self, slot: usize, offset: u64) -> Option<Batch> {
        let recent = &self.tails[slot].recent;
        let after = recent.partition_point(|batch| batch.next <= offset);
        recent
            .get(after)
            .filter(|batch| batch.base <= offset)
            .cloned()
    }

    /// Forgets batches in memory that compaction has rewritten.
    pub(super) fn forget_recent(&mut self, slot: usize) {
        let tail = &mut self.tails[slot];
        // Batches that are not durable yet are only in memory.
        let durable = tail.durable;
        tail.recent.retain(|batch| batch.next > durable);
        tail.recent_bytes = tail.recent.iter().map(|b| b.bytes.len()).sum();
    }

    /// Registers a new owner of a processor's lane, which fences the previous one.
    pub(super) fn own(&mut self, processor: &Arc<str>) -> u64 {
        let epoch = self.owners.entry(Arc::clone(processor)).or_default();
        *epoch += 1;
        *epoch
    }

    fn check_owner(&self, processor: &Arc<str>, epoch: u64) -> Result<(), LogError> {
        let newest = self.owners.get(processor).copied().unwrap_or_default();
        if newest == epoch {
            return Ok(());
        }
        let processor = Arc::clone(processor);
        Err(LogError::Fenced(Fenced::NewerLane { processor }))
    }

    fn push(&mut self, slot: usize, record: &crate::log::Record, now: Millis) -> u64 {
        let tail = &mut self.tails[slot];
        // LogAppendTime never decreases within a partition, whatever the clock does.
        tail.latest = tail.latest.max(now.0);
        let timestamp = Millis(tail.latest);
        if tail.building.is_empty() {
            self.pending.touched.push(slot);
        }
        let offset = tail.next;
        let full = tail.building.last().is_none_or(|b| b.len() >= BATCH_BYTES);
        if full {
            tail.building.push(Builder::new(offset, timestamp));
        }
        if let Some(builder) = tail.building.last_mut() {
            let before = builder.len();
            builder.push(offset, timestamp, record);
            self.pending.bytes += builder.len() - before;
        }
        tail.next += 1;
        offset
    }

    /// Whether the committer has nothing to do, and is not asked to stop.
    pub(super) fn idle(&self) -> bool {
        self.pending.is_empty() && !self.closing
    }

    /// Takes the queued work; `None`: there is none, and the log is closing.
    pub(super) fn take(&mut self) -> Option<Commit> {
        if self.pending.is_empty() {
            return None;
        }
        let pending = std::mem::take(&mut self.pending);
        let mut batches = Vec::with_capacity(pending.touched.len());
        for slot in &pending.touched {
            let tail = &mut self.tails[*slot];
            for builder in std::mem::take(&mut tail.building) {
                let batch = builder.finish(None);
                tail.recent_bytes += batch.bytes.len();
                tail.recent.push_back(batch.clone());
                batches.push((*slot, batch));
            }
            tail.sequenced = tail.next;
            for signal in &tail.signals {
                signal.raise_sequenced();
            }
        }
        Some(Commit { batches, pending })
    }

    /// Marks a commit as durable, and drops old batches in memory.
    pub(super) fn durable_now(&mut self, commit: &Commit) {
        for (slot, batch) in &commit.batches {
            let tail = &mut self.tails[*slot];
            tail.durable = batch.next;
            while tail.recent_bytes > RECENT_BYTES
                && tail.recent.front().is_some_and(|b| b.next <= tail.durable)
            {
                if let Some(old) = tail.recent.pop_front() {
                    tail.recent_bytes -= old.bytes.len();
                }
            }
            for signal in &tail.signals {
                signal.raise_durable();
            }
        }
    }
}

/// The part of a transaction that an append does not have.
pub(super) struct Ownership<'a> {
    pub(super) processor: &'a Arc<str>,
    pub(super) epoch: u64,
    pub(super) positions: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Shared {
    pub(super) fn append<T: Outgoing>(
        &self,
        records: &[T],
        state: Option<Changes>,
    ) -> Acknowledged {
        let (answer, acknowledged) = oneshot::channel();
        if let Err((answer, error)) = self.sequence(records, state, None, answer) {
            // The caller may have stopped waiting.
            let _ = answer.send(Err(error));
        }
        acknowledged
    }

    /// Adds records, state and positions to the next commit, atomically and in order.
    pub(super) fn sequence<T: Outgoing>(
        &self,
        records: &[T],
        state: Option<Changes>,
        ownership: Option<Ownership<'_>>,
        answer: Answer,
    ) -> Result<(), (Answer, LogError)> {
        if self.full.load(Ordering::Relaxed) {
            return Err((answer, self.disk_full()));
        }
        let mut slots = Vec::with_capacity(records.len());
        {
            let catalogue = self.catalogue.read();
            let mut topic: Option<&super::catalogue::Topic> = None;
            for outgoing in records {
                let (name, partition, record) = outgoing.parts();
                let size = record_size(record);
                if size > RECORD_BYTES {
                    return Err((answer, LogError::TooLarge(size)));
                }
                if topic.is_none_or(|t| t.name != *name) {
                    match catalogue.topic(name) {
                        Ok(found) => topic = Some(found),
                        Err(error) => return Err((answer, error)),
                    }
                }
                let Some(topic) = topic else { continue };
                let partition = partition.unwrap_or_else(|| {
                    let key = record.key.as_deref().unwrap_or_default();
                    partition_for(key, topic.partitions)
                });
                if partition >= topic.partitions {
                    let missing = LogError::UnknownTopic(format!("{name}/{partition}"));
                    return Err((answer, missing));
                }
                slots.push((topic.first_slot + partition as usize, partition));
            }
        }
        let now = self.options.clock.now();
        let mut sequencer = self.sequencer.lock();
        if let Some(error) = sequencer.failed() {
            return Err((answer, error.clone()));
        }
        if sequencer.closing {
            let error = LogError::Unavailable(Unavailable::Closing);
            return Err((answer, error));
        }
        if sequencer.pending.bytes > PENDING_BYTES {
            let error = LogError::Unavailable(Unavailable::QueueFull { of: "the disk" });
            return Err((answer, error));
        }
        if let Some(ownership) = ownership {
            if let Err(error) = sequencer.check_owner(ownership.processor, ownership.epoch) {
                return Err((answer, error));
            }
            sequencer.pending.positions.extend(ownership.positions);
        }
        let was_idle = sequencer.pending.is_empty();
        let positions: Vec<Position> = records
            .iter()
            .zip(slots)
            .map(|(outgoing, (slot, partition))| Position {
                partition,
                offset: sequencer.push(slot, outgoing.parts().2, now),
            })
            .collect();
        sequencer.pending.state.extend(state);
        let answer = if planted(Bug::AnswerBeforeDurable) {
            let _ = answer.send(Ok(positions));
            (oneshot::channel().0, Vec::new())
        } else {
            (answer, positions)
        };
        sequencer.pending.waiters.push(answer);
        drop(sequencer);
        if was_idle {
            self.gathered.notify_one();
        }
        Ok(())
    }

    /// The error for a batch in this slot that cannot be read.
    pub(super) fn damaged(&self, slot: usize, base: u64) -> LogError {
        self.catalogue.read().damaged(slot, base).into()
    }

    /// The batch that holds `offset`, from memory or the store; else the next one after it.
    pub(super) fn batch_at(&self, slot: usize, offset: u64) -> Result<Option<Batch>, LogError> {
        if let Some(batch) = self.sequencer.lock().recent(slot, offset) {
            return Ok(Some(batch));
        }
        let open = |guard: fjall::Guard| -> Result<Batch, LogError> {
            let (key, value) = guard.into_inner()?;
            let base = base_of(&key);
            Batch::open(base, value.into()).ok_or_else(|| self.damaged(slot, base))
        };
        let before = batch_key(slot, 0)..=batch_key(slot, offset);
        if let Some(guard) = self.batches.range(before).next_back() {
            let batch = open(guard)?;
            if batch.next > offset {
                return Ok(Some(batch));
            }
        }
        let after = batch_key(slot, offset)..=batch_key(slot, u64::MAX);
        self.batches.range(after).next().map(open).transpose()
    }
}
