//! Two batches at a time: while Postgres writes one, the next is read, decoded, merged and encoded.
//!
//! ```text
//!   this thread:  assemble 1 │ assemble 2      │ assemble 3      │ …
//!   Postgres:                │ write 1         │ write 2         │ …
//! ```
//!
//! Usually each batch is one transaction. While there is a backlog, batches are full, and up to [`MAX_BATCHES`] of them share a
//! transaction, so that an entity that occurs in several batches is written once.
//!
//! Each batch builds on the entities as the previous one left them. When a batch fails, everything uncommitted is therefore discarded,
//! the cache included ([`Pipeline::reset`]), and the offsets in the table tell where to continue.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::Arc,
    time::{Duration, Instant},
    vec::IntoIter,
};

use sqlx::PgConnection;

use super::{
    assemble::{Assembler, Batch, Counts, DirtyEntities, INITIAL_LOOKUP_RECORDS, MAX_LOOKUP_BYTES},
    cache::Cache,
    error::ProjectionError,
    link::{Link, TIMEOUT},
    offsets::{self, Owned},
    partitions::MonthlyPartitions,
    pipe::{self, Pipe},
    reject::{Reject, Rejection},
    target::Target,
    write::{TransactionPart, read_entities},
    writer::Writer,
};
use crate::{
    base::{
        backoff::{FULL_TRANSACTION, commit_pause},
        clock::Clock,
    },
    log::{Fetched, TopicId},
    store::months,
};

/// The most full batches in one transaction…
const MAX_BATCHES: u32 = 8;
/// … and how long a transaction may stay open. Until it ends, its rows are invisible and its partitions cannot be taken over.
const MAX_OPEN: Duration = Duration::from_secs(1);
/// How long a reset waits for each batch in flight, which is discarded anyway.
const RESET_TIMEOUT: Duration = Duration::from_secs(5);
/// A larger batch is freed while there is nothing to do.
const IDLE_BYTES: usize = 1 << 20;

/// Called on each commit with the numbers of rows written since the previous one, and the offsets.
pub(super) type OnCommit = Box<dyn FnMut(Counts, &BTreeMap<u32, Owned>) + Send>;

/// The transaction to which batches are added.
#[derive(Debug, Default)]
struct OpenTransaction {
    /// Counts from 1, in the order of commits.
    number: u64,
    /// The batches submitted so far, and when the first was.
    batches: u32,
    opened_at: Option<Instant>,
    dirty: DirtyEntities,
}

/// The batches written since the last commit.
#[derive(Debug, Default)]
struct Uncommitted {
    counts: Counts,
    /// The next offset of each partition.
    offsets: BTreeMap<u32, u64>,
}

/// Projects records in batches. Its methods block, and must be called from a thread outside the runtime.
pub(super) struct Pipeline {
    link: Link,
    target: Arc<Target>,
    clock: Arc<dyn Clock>,
    reject: Arc<dyn Reject>,
    on_commit: OnCommit,
    owned: BTreeMap<u32, Owned>,
    /// The partitions of the last [`Pipeline::take`], each with its committed offset.
    taken: BTreeMap<u32, Owned>,
    cache: Cache,
    lookup_records: usize,
    open: OpenTransaction,
    uncommitted: Uncommitted,
    batch: Batch,
    spare_batch: Option<Batch>,
    writer: Writer,
    /// For reading entities and creating partitions while the writer works.
    lookup_connection: Option<PgConnection>,
    partitions: MonthlyPartitions,
    /// Uncommitted records that were rejected, by partition and offset.
    rejected: HashSet<(u32, u64)>,
    /// For each partition, the offset before which a refused row may be: these records are bisected when they are read again.
    suspects: BTreeMap<u32, u64>,
    /// The number of committed transactions.
    commits: u64,
    /// A transaction with fewer than [`FULL_TRANSACTION`] records is not committed before this time.
    commit_not_before: Instant,
}

impl Pipe for Pipeline {
    fn owned(&self) -> Vec<(u32, u64)> {
        self.owned
            .iter()
            .map(|(partition, owned)| (*partition, owned.read))
            .collect()
    }

    fn take(&mut self, partitions: &[u32], topic: Option<TopicId>) -> Result<(), ProjectionError> {
        self.reset();
        let (projection, events) = (self.target.projection, self.target.events);
        let taking = async {
            let mut writer = self.writer.connection().await?;
            let mut owned = BTreeMap::new();
            for &partition in partitions {
                let taken = offsets::take(&mut writer, projection, partition, topic).await?;
                owned.insert(partition, taken);
            }
            let months = match events {
                Some(table) => months::existing(&mut writer, table.table).await?,
                None => BTreeSet::new(),
            };
            Ok((owned, months, writer))
        };
        let (owned, months, writer) = self.link.wait("taking partitions over", taking)?;
        self.owned = owned;
        self.partitions.set_existing(months);
        self.writer.put_back(writer);
        self.taken.clone_from(&self.owned);
        Ok(())
    }

    fn last_taken(&self) -> &BTreeMap<u32, Owned> {
        &self.taken
    }

    fn taken_by_others(&self) -> Result<Vec<u32>, ProjectionError> {
        pipe::taken_by_others(&self.link, self.target.projection, &self.taken)
    }

    fn commits(&self) -> u64 {
        self.commits
    }

    /// After [`ProjectionError::Row`] it finds each bad record by bisection, when the records are added again, and rejects it.
    fn add(&mut self, records: Vec<Fetched>) -> Result<(), ProjectionError> {
        if self.suspects.is_empty() {
            return self.append(records);
        }
        self.flush(TIMEOUT)?;
        self.bisect(&records)?;
        let owned = &self.owned;
        self.suspects
            .retain(|partition, until| owned.get(partition).is_some_and(|at| at.read < *until));
        Ok(())
    }

    /// The next batch then starts a new transaction.
    fn is_empty(&self) -> bool {
        self.batch.is_empty() && self.open.batches == 0
    }

    /// A batch is due when Postgres is idle. With `backlog` a transaction of several batches waits for the next full one.
    fn push(&mut self, backlog: bool) -> Result<(), ProjectionError> {
        while self.collect_written(None)? {}
        if !self.writer.is_idle() {
            return Ok(());
        }
        if self.is_empty() {
            self.release_memory();
            return Ok(());
        }
        let may_stay_open = self
            .open
            .opened_at
            .is_some_and(|opened_at| opened_at.elapsed() < MAX_OPEN);
        if backlog && may_stay_open {
            return Ok(());
        }
        if self.batch.records < FULL_TRANSACTION && Instant::now() < self.commit_not_before {
            return Ok(());
        }
        self.submit(true, TIMEOUT)
    }

    fn flush(&mut self, timeout: Duration) -> Result<(), ProjectionError> {
        if !self.is_empty() {
            self.submit(true, timeout)?;
        }
        while self.collect_written(Some(timeout))? {}
        Ok(())
    }

    /// Clears the cache too.
    fn reset(&mut self) {
        // Errors do not matter: the next take reads from the table what was committed.
        loop {
            match self.collect_written(Some(RESET_TIMEOUT)) {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => tracing::debug!(%error, "dropped a batch"),
            }
        }
        if self.open.batches > 0 {
            self.writer.abandon();
        }
        self.open = OpenTransaction {
            number: self.open.number + 1,
            ..OpenTransaction::default()
        };
        self.uncommitted = Uncommitted::default();
        self.cache.clear();
        self.batch.clear();
        self.owned.clear();
    }
}

impl Pipeline {
    /// `memory` is the size of the entity cache in bytes.
    pub(super) fn new(
        link: Link,
        target: Target,
        clock: Arc<dyn Clock>,
        reject: Arc<dyn Reject>,
        memory: usize,
        on_commit: OnCommit,
    ) -> Self {
        let target = Arc::new(target);
        Self {
            writer: Writer::new(link.clone(), Arc::clone(&target)),
            link,
            target,
            clock,
            reject,
            on_commit,
            owned: BTreeMap::new(),
            taken: BTreeMap::new(),
            cache: Cache::new(memory),
            lookup_records: INITIAL_LOOKUP_RECORDS,
            open: OpenTransaction {
                number: 1,
                ..OpenTransaction::default()
            },
            uncommitted: Uncommitted::default(),
            batch: Batch::default(),
            spare_batch: None,
            lookup_connection: None,
            partitions: MonthlyPartitions::default(),
            rejected: HashSet::new(),
            suspects: BTreeMap::new(),
            commits: 0,
            commit_not_before: Instant::now(),
        }
    }

    /// Declares that the tables are empty, so that new entities need no lookup. `records` is an upper bound of the records to come.
    pub(super) fn assume_empty_tables(&mut self, records: u64) {
        self.cache.assume_empty_tables(records);
    }

    fn append(&mut self, records: Vec<Fetched>) -> Result<(), ProjectionError> {
        let mut records = records.into_iter();
        while !records.as_slice().is_empty() {
            self.assemble(&mut records)?;
            let full = self.open.dirty.is_full();
            if full || self.batch.is_full() {
                self.submit(full || self.open.batches + 1 >= MAX_BATCHES, TIMEOUT)?;
            }
        }
        Ok(())
    }

    fn assemble(&mut self, records: &mut IntoIter<Fetched>) -> Result<(), ProjectionError> {
        let (link, target, idle) = (&self.link, &self.target, &mut self.lookup_connection);
        let mut look_up = |keys: &[[&str; 3]]| {
            link.wait("reading entities", async {
                let mut connection = link.connection(idle).await?;
                let lookup = read_entities(&mut connection, target, keys, MAX_LOOKUP_BYTES).await;
                let is_complete = lookup
                    .as_ref()
                    .is_ok_and(|lookup| lookup.answered == keys.len());
                if is_complete || matches!(lookup, Err(ProjectionError::Row(_))) {
                    *idle = Some(connection);
                }
                lookup
            })
        };
        let mut assembler = Assembler {
            target,
            cache: &mut self.cache,
            transaction: self.open.number,
            dirty: &mut self.open.dirty,
            owned: &mut self.owned,
            reject: &*self.reject,
            rejected: &mut self.rejected,
            lookup_records: &mut self.lookup_records,
        };
        let result = assembler.add(&mut self.batch, records, &mut look_up);
        if matches!(result, Err(ProjectionError::Row(_))) {
            self.mark_suspects();
        }
        result
    }

    /// Marks the records read so far for bisection, because Postgres refuses the row of one of them.
    fn mark_suspects(&mut self) {
        if self.suspects.is_empty() {
            let read = |(partition, at): (&u32, &Owned)| (*partition, at.read);
            self.suspects = self.owned.iter().map(read).collect();
        }
    }

    /// Frees memory that is only needed during a backlog.
    fn release_memory(&mut self) {
        self.spare_batch = None;
        if self.batch.rows.capacity() > IDLE_BYTES {
            self.batch = Batch::default();
        }
    }

    /// Commits records in ever smaller halves, until each bad record is alone in a transaction, and rejects it.
    fn bisect(&mut self, records: &[Fetched]) -> Result<(), ProjectionError> {
        let Err(error) = self.try_commit(records) else {
            return Ok(());
        };
        let ProjectionError::Row(why) = &error else {
            return Err(error);
        };
        if let [record] = records {
            // A second attempt, in case the first failed only because the tables were being replaced.
            let Err(ProjectionError::Row(_)) = self.try_commit(records) else {
                return Ok(());
            };
            let code = why
                .sqlstate()
                .map_or_else(|| "invalid_row".to_owned(), |s| format!("postgres_{s}"));
            self.reject.reject(&[Rejection {
                record,
                code: code.into(),
                message: why.to_string(),
            }])?;
            self.rejected.insert((record.partition, record.offset));
            return self.try_commit(records);
        }
        let (first, second) = records.split_at(records.len() / 2);
        self.bisect(first)?;
        self.bisect(second)
    }

    /// Commits records and waits for it. If it fails because of a row, the offsets are as before.
    fn try_commit(&mut self, records: &[Fetched]) -> Result<(), ProjectionError> {
        if records.is_empty() {
            return Ok(());
        }
        let owned = self.owned.clone();
        let result = self
            .append(records.to_vec())
            .and_then(|()| self.flush(TIMEOUT));
        if matches!(result, Err(ProjectionError::Row(_))) {
            self.reset();
            self.owned = owned;
        }
        result
    }

    /// Collects a batch from the writer. Without a `timeout`, only one that is already written. Returns false if there was none.
    fn collect_written(&mut self, timeout: Option<Duration>) -> Result<bool, ProjectionError> {
        let written = match self.writer.next_written(timeout) {
            Ok(Some(written)) => written,
            Ok(None) => return Ok(false),
            Err(error) => {
                if matches!(error, ProjectionError::Row(_)) {
                    self.mark_suspects();
                }
                return Err(error);
            }
        };
        let mut batch = written.batch;
        self.uncommitted.counts.add(batch.counts);
        let advances = batch.rows.advances.iter();
        let offsets = advances.map(|advance| (advance.partition, advance.to));
        self.uncommitted.offsets.extend(offsets);
        batch.clear();
        self.spare_batch = Some(batch);
        if written.part.last {
            self.committed(written.number);
        }
        Ok(true)
    }

    /// Records that a transaction was committed.
    fn committed(&mut self, transaction: u64) {
        let Uncommitted { counts, offsets } = std::mem::take(&mut self.uncommitted);
        for (partition, next) in offsets {
            if let Some(taken) = self.taken.get_mut(&partition) {
                taken.next = next;
            }
        }
        self.commits += 1;
        self.cache.evict(transaction);
        (self.on_commit)(counts, &self.taken);
        if !self.rejected.is_empty() {
            let is_uncommitted = |(partition, offset): &(u32, u64)| {
                let taken = self.taken.get(partition);
                taken.is_none_or(|taken| *offset >= taken.next)
            };
            self.rejected.retain(is_uncommitted);
        }
    }

    /// Submits the open batch to the writer, and waits while the writer is full. With `last`, the transaction ends with it.
    fn submit(&mut self, last: bool, timeout: Duration) -> Result<(), ProjectionError> {
        self.create_partitions();
        let part = TransactionPart {
            first: self.open.batches == 0,
            last,
        };
        let number = self.open.number;
        self.batch.seal_offsets(&mut self.owned);
        if last {
            self.commit_not_before = Instant::now() + commit_pause(self.batch.records);
            self.batch
                .seal_entities(&mut self.cache, &mut self.open.dirty);
            self.open.number += 1;
            self.open.batches = 0;
            self.open.opened_at = None;
        } else {
            self.open.batches += 1;
            self.open.opened_at.get_or_insert_with(Instant::now);
        }
        // The batch is complete before this thread waits for the writer.
        while self.writer.is_full() {
            self.collect_written(Some(timeout))?;
        }
        let next = self.spare_batch.take().unwrap_or_default();
        let batch = std::mem::replace(&mut self.batch, next);
        self.writer.send(batch, part, number);
        Ok(())
    }

    fn create_partitions(&mut self) {
        if let Some(table) = self.target.events {
            let (link, idle) = (&self.link, &mut self.lookup_connection);
            let now = self.clock.now();
            self.partitions
                .create_missing(link, idle, table, &self.batch.months, now);
        }
    }
}
