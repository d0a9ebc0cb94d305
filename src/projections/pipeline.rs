//! Two batches at a time: while Postgres works on one, the next is read, decoded, merged and encoded.
//!
//! ```text
//!   this thread:  assemble 1 │ assemble 2      │ assemble 3      │ …
//!   Postgres:                │ write 1         │ write 2         │ …
//! ```
//!
//! As a rule each batch is a transaction. While there is a backlog, batches come full, and up to [`BATCHES`] of them are
//! one: then an entity that they all name is written once.
//!
//! The next batch is built on what the last says about entities, so when one fails, all that is not committed is dropped,
//! with all that memory knows ([`Pipeline::reset`]); the table tells where to go on.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::Arc,
    time::{Duration, Instant},
    vec::IntoIter,
};

use sqlx::PgConnection;

use super::{
    assemble::{Assembler, Batch, Counts, Dirty, FIRST_CHUNK, LOOKUP_BYTES},
    cache::Cache,
    error::ProjectionError,
    link::{DEADLINE, Link},
    offsets::{self, Owned},
    reject::{Reject, Rejection},
    target::Target,
    write::{Place, read_entities},
    writer::Writer,
};
use crate::{
    base::{
        backoff::{FULL_TRANSACTION, commit_pause},
        clock::Clock,
    },
    log::{Fetched, TopicId},
    store::{
        Session,
        months::{self, Month},
    },
};

/// How long after a partition could not be made it is tried again.
const MONTHS_REST: Duration = Duration::from_mins(1);

/// Full batches in one transaction, at most…
const BATCHES: u32 = 8;
/// … and how long it may stay open. Its rows are seen, and others may take over, when it ends.
const OPEN: Duration = Duration::from_secs(1);
/// How long is waited for what is dropped anyway.
const SOON: Duration = Duration::from_secs(5);
/// Memory that is kept for the next batch while there is nothing to do.
const IDLE_BYTES: usize = 1 << 20;

/// Told of each commit: how much was written since the last, and the positions.
pub(super) type OnCommit = Box<dyn FnMut(Counts, &BTreeMap<u32, Owned>) + Send>;

/// The transaction that is being filled.
#[derive(Debug, Default)]
struct Open {
    /// From 1, in the order of commits.
    number: u64,
    /// Batches handed over, and when the first was.
    batches: u32,
    since: Option<Instant>,
    dirty: Dirty,
}

/// What was written since the last commit.
#[derive(Debug, Default)]
struct Pending {
    counts: Counts,
    /// The positions behind it.
    ends: BTreeMap<u32, u64>,
}

/// Takes records in and commits them in batches. Blocks; for a thread of its own, outside the runtime.
pub(super) struct Pipeline {
    link: Link,
    target: Arc<Target>,
    clock: Arc<dyn Clock>,
    reject: Arc<dyn Reject>,
    on_commit: OnCommit,
    owned: BTreeMap<u32, Owned>,
    /// What was taken over last, each with the position that was committed.
    taken: BTreeMap<u32, Owned>,
    cache: Cache,
    chunk: usize,
    open: Open,
    pending: Pending,
    batch: Batch,
    spare: Option<Batch>,
    writer: Writer,
    /// For reading entities and making partitions while the writer works.
    side: Option<PgConnection>,
    months: BTreeSet<Month>,
    /// Until then no partition is made: the last time it did not work.
    months_rest: Option<Instant>,
    /// Records that are not to become rows.
    skip: HashSet<(u32, u64)>,
    /// Up to where records were read when a row among them was refused: they are taken with care when they come again.
    suspects: BTreeMap<u32, u64>,
    /// Transactions committed.
    commits: u64,
    /// No new transaction ends before, unless it has many records.
    rests: Instant,
}

impl Pipeline {
    /// `memory`: bytes for entities.
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
            chunk: FIRST_CHUNK,
            open: Open {
                number: 1,
                ..Open::default()
            },
            pending: Pending::default(),
            batch: Batch::default(),
            spare: None,
            side: None,
            months: BTreeSet::new(),
            months_rest: None,
            skip: HashSet::new(),
            suspects: BTreeMap::new(),
            commits: 0,
            rests: Instant::now(),
        }
    }

    /// Partitions that are ours, each with the next offset to hand in.
    pub(super) fn owned(&self) -> impl Iterator<Item = (u32, u64)> {
        self.owned
            .iter()
            .map(|(partition, owned)| (*partition, owned.read))
    }

    /// Takes partitions over, all of those that are to be ours, and forgets all others. `topic`: which one is there now.
    pub(super) fn take(
        &mut self,
        partitions: impl IntoIterator<Item = u32>,
        topic: Option<TopicId>,
    ) -> Result<(), ProjectionError> {
        self.reset();
        let (projection, events) = (self.target.projection, self.target.events);
        let partitions: Vec<u32> = partitions.into_iter().collect();
        let taking = async {
            let mut writer = self.writer.connection().await?;
            let mut owned = BTreeMap::new();
            for partition in partitions {
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
        (self.owned, self.months) = (owned, months);
        self.writer.keep(writer);
        self.taken.clone_from(&self.owned);
        Ok(())
    }

    /// The tables are empty, and so many records at most will come.
    pub(super) fn start_fresh(&mut self, records: u64) {
        self.cache.start_fresh(records);
    }

    /// What was taken over last, each with the position that was committed; kept over a reset.
    pub(super) fn last_taken(&self) -> &BTreeMap<u32, Owned> {
        &self.taken
    }

    /// The partitions taken over last that have another owner by now.
    pub(super) fn taken_by_others(&self) -> Result<Vec<u32>, ProjectionError> {
        let now = self.link.wait("reading positions", async {
            let mut connection = self.link.store.connect(Session::Service).await?;
            Ok(offsets::positions(&mut connection, self.target.projection).await?)
        })?;
        let others = now.into_iter().filter(|(partition, owned)| {
            let taken = self.taken.get(partition);
            taken.is_some_and(|taken| taken.epoch != owned.epoch)
        });
        Ok(others.map(|(partition, _)| partition).collect())
    }

    /// How many transactions were committed.
    pub(super) fn commits(&self) -> u64 {
        self.commits
    }

    /// Adds records, each partition's in order; those of partitions that are not ours, and those that are in already, are
    /// dropped. Full batches are handed over; the rest waits for [`Pipeline::push`].
    ///
    /// After [`ProjectionError::Row`] the partitions must be taken over and their records come again: then each bad one is
    /// found, and rejected.
    pub(super) fn add(&mut self, records: Vec<Fetched>) -> Result<(), ProjectionError> {
        if self.suspects.is_empty() {
            return self.fill(records);
        }
        self.flush(DEADLINE)?;
        self.halve(&records)?;
        let owned = &self.owned;
        self.suspects
            .retain(|partition, until| owned.get(partition).is_some_and(|at| at.read < *until));
        Ok(())
    }

    fn fill(&mut self, records: Vec<Fetched>) -> Result<(), ProjectionError> {
        let mut records = records.into_iter();
        while !records.as_slice().is_empty() {
            self.assemble(&mut records)?;
            let full = self.open.dirty.is_full();
            if full || self.batch.is_full() {
                self.hand_over(full || self.open.batches + 1 >= BATCHES, DEADLINE)?;
            }
        }
        Ok(())
    }

    fn assemble(&mut self, records: &mut IntoIter<Fetched>) -> Result<(), ProjectionError> {
        let (link, target, side) = (&self.link, &self.target, &mut self.side);
        let mut look_up = |keys: &[[&str; 3]]| {
            link.wait("reading entities", async {
                let mut connection = link.connection(side).await?;
                let found = read_entities(&mut connection, target, keys, LOOKUP_BYTES).await;
                let whole = found
                    .as_ref()
                    .is_ok_and(|found| found.answered == keys.len());
                if whole || matches!(found, Err(ProjectionError::Row(_))) {
                    *side = Some(connection);
                }
                found
            })
        };
        let mut assembler = Assembler {
            target,
            cache: &mut self.cache,
            transaction: self.open.number,
            dirty: &mut self.open.dirty,
            owned: &mut self.owned,
            reject: &*self.reject,
            skip: &mut self.skip,
            chunk: &mut self.chunk,
        };
        let result = assembler.add(&mut self.batch, records, &mut look_up);
        if matches!(result, Err(ProjectionError::Row(_))) {
            self.suspect();
        }
        result
    }

    /// Among the records read so far is one that Postgres refuses: they are taken with care when they come again.
    fn suspect(&mut self) {
        if self.suspects.is_empty() {
            let read = |(partition, at): (&u32, &Owned)| (*partition, at.read);
            self.suspects = self.owned.iter().map(read).collect();
        }
    }

    /// Whether all that was added is under way or committed.
    pub(super) fn is_empty(&self) -> bool {
        self.batch.is_empty() && self.open.batches == 0
    }

    /// Hands the open batch over if Postgres is idle, and tells of what was committed meanwhile. `backlog`: more records are
    /// coming at once, so that a transaction of several batches may wait for the next full one.
    pub(super) fn push(&mut self, backlog: bool) -> Result<(), ProjectionError> {
        while self.reap(None)? {}
        if !self.writer.is_idle() {
            return Ok(());
        }
        if self.is_empty() {
            self.rest();
            return Ok(());
        }
        let young = self.open.since.is_some_and(|since| since.elapsed() < OPEN);
        if backlog && young {
            return Ok(());
        }
        if self.batch.records < FULL_TRANSACTION && Instant::now() < self.rests {
            return Ok(());
        }
        self.hand_over(true, DEADLINE)
    }

    /// Gives memory back that only a backlog needs.
    fn rest(&mut self) {
        self.spare = None;
        if self.batch.rows.capacity() > IDLE_BYTES {
            self.batch = Batch::default();
        }
    }

    /// Commits all that was added, and waits for so long.
    pub(super) fn flush(&mut self, patience: Duration) -> Result<(), ProjectionError> {
        if !self.is_empty() {
            self.hand_over(true, patience)?;
        }
        while self.reap(Some(patience))? {}
        Ok(())
    }

    /// Drops all that is not committed and all that memory knows. The partitions must be taken over again.
    pub(super) fn reset(&mut self) {
        // Whether it was committed shows in the table.
        loop {
            match self.reap(Some(SOON)) {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => tracing::debug!(%error, "dropped a batch"),
            }
        }
        if self.open.batches > 0 {
            self.writer.abandon();
        }
        self.open = Open {
            number: self.open.number + 1,
            ..Open::default()
        };
        self.pending = Pending::default();
        self.cache.clear();
        self.batch.clear();
        self.owned.clear();
    }

    /// Commits records one half after the other, until the bad ones stand alone; those are rejected.
    fn halve(&mut self, records: &[Fetched]) -> Result<(), ProjectionError> {
        let Err(error) = self.attempt(records) else {
            return Ok(());
        };
        let ProjectionError::Row(why) = &error else {
            return Err(error);
        };
        if let [record] = records {
            // Alone and twice: what only met a change of the tables has passed by now.
            let Err(ProjectionError::Row(_)) = self.attempt(records) else {
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
            self.skip.insert((record.partition, record.offset));
            return self.attempt(records);
        }
        let (first, second) = records.split_at(records.len() / 2);
        self.halve(first)?;
        self.halve(second)
    }

    /// One transaction, waited for. When it fails because of a row, the positions are as before.
    fn attempt(&mut self, records: &[Fetched]) -> Result<(), ProjectionError> {
        if records.is_empty() {
            return Ok(());
        }
        let owned = self.owned.clone();
        let result = self
            .fill(records.to_vec())
            .and_then(|()| self.flush(DEADLINE));
        if matches!(result, Err(ProjectionError::Row(_))) {
            self.reset();
            self.owned = owned;
        }
        result
    }

    /// Takes in what the writer did: a batch that is done, or, with `patience`, the next one. False: there was none.
    fn reap(&mut self, patience: Option<Duration>) -> Result<bool, ProjectionError> {
        let written = match self.writer.next(patience) {
            Ok(Some(written)) => written,
            Ok(None) => return Ok(false),
            Err(error) => {
                if matches!(error, ProjectionError::Row(_)) {
                    self.suspect();
                }
                return Err(error);
            }
        };
        let mut batch = written.batch;
        self.pending.counts.add(batch.counts);
        let ends = batch
            .rows
            .steps
            .iter()
            .map(|step| (step.partition, step.to));
        self.pending.ends.extend(ends);
        batch.clear();
        self.spare = Some(batch);
        if written.place.last {
            self.committed(written.number);
        }
        Ok(true)
    }

    /// All that is pending is in the table.
    fn committed(&mut self, transaction: u64) {
        let Pending { counts, ends } = std::mem::take(&mut self.pending);
        for (partition, end) in ends {
            if let Some(taken) = self.taken.get_mut(&partition) {
                taken.next = end;
            }
        }
        self.commits += 1;
        self.cache.shrink(transaction);
        (self.on_commit)(counts, &self.taken);
        if !self.skip.is_empty() {
            let ahead = |(partition, offset): &(u32, u64)| {
                let taken = self.taken.get(partition);
                taken.is_none_or(|taken| *offset >= taken.next)
            };
            self.skip.retain(ahead);
        }
    }

    /// Hands the open batch over, once there is room for it; `last`: the transaction ends with it.
    fn hand_over(&mut self, last: bool, patience: Duration) -> Result<(), ProjectionError> {
        self.make_months();
        let place = Place {
            first: self.open.batches == 0,
            last,
        };
        let number = self.open.number;
        self.batch.seal(&mut self.owned);
        if last {
            self.rests = Instant::now() + commit_pause(self.batch.records);
            self.batch
                .seal_entities(&mut self.cache, &mut self.open.dirty);
            self.open.number += 1;
            self.open.batches = 0;
            self.open.since = None;
        } else {
            self.open.batches += 1;
            self.open.since.get_or_insert_with(Instant::now);
        }
        // All that this side can do is done before it waits.
        while self.writer.is_full() {
            self.reap(Some(patience))?;
        }
        let next = self.spare.take().unwrap_or_default();
        let batch = std::mem::replace(&mut self.batch, next);
        self.writer.send(batch, place, number);
        Ok(())
    }

    /// Makes the partitions that the batch needs. Where that does not work now, rows go to the default partition, and
    /// are moved when it works.
    fn make_months(&mut self) {
        let Some(table) = self.target.events else {
            return;
        };
        let now = self.clock.now();
        let mut missing: BTreeSet<Month> = self.batch.months.clone();
        // The next one as well, so that a new month finds it there.
        missing.extend(
            self.batch
                .months
                .last()
                .filter(|m| **m == Month::of(now))
                .map(|m| m.next()),
        );
        missing.retain(|month| !self.months.contains(month) && month.gets_partition(now));
        if self.months_rest.is_some_and(|until| Instant::now() < until) {
            return;
        }
        for month in missing {
            let (link, side) = (&self.link, &mut self.side);
            let made = link.wait("making a partition", async {
                let mut connection = link.connection(side).await?;
                months::ensure(&mut connection, table, month).await?;
                *side = Some(connection);
                Ok(())
            });
            match made {
                Ok(()) => {
                    self.months.insert(month);
                }
                Err(error) => {
                    self.months_rest = Some(Instant::now() + MONTHS_REST);
                    tracing::warn!(?month, %error, "no partition yet: rows go to the default one");
                    return;
                }
            }
        }
    }
}
