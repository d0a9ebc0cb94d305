//! A pipe for projections whose rows depend on nothing but their record: a batch of records is one transaction.

use std::{
    collections::{BTreeMap, HashSet},
    ops::RangeInclusive,
    sync::Arc,
    time::{Duration, Instant},
};

use sqlx::PgConnection;

use super::{
    error::ProjectionError,
    link::{Link, TIMEOUT, execute},
    offsets::{self, Advance, Owned},
    pipe::{self, Pipe},
    reject::{Reject, Rejection},
};
use crate::{
    envelope::Invalid,
    log::{Fetched, TopicId},
    store::StoreError,
    stream::dlq::redriven,
};

/// The times that rows may have: the years 1 to 9999, in microseconds since 1970.
pub(super) const TIMES: RangeInclusive<i64> = -62_135_596_800_000_000..=253_402_300_799_999_999;

/// A batch is full at this many records…
const MAX_RECORDS: usize = 10_000;
/// … or at this many bytes of them.
const MAX_BYTES: usize = 8 << 20;

/// The longest pause between two transactions. The records of a run come over tens of milliseconds, and Postgres takes twice as
/// long for a run whose rows are written in several transactions as for one that begins and ends in one.
const MAX_PAUSE: Duration = Duration::from_millis(200);
/// A transaction of at least this many records is followed by [`MAX_PAUSE`], one of fewer by a part of it: an idle system writes
/// its few records without delay.
const BUSY_RECORDS: u32 = 2_000;

/// How often offsets advance past records without rows, at least.
const ADVANCE_INTERVAL: Duration = Duration::from_secs(1);

/// Turns records into rows, and writes them.
pub(super) trait Rows: Send + 'static {
    /// The rows of a batch.
    type Batch: Default;

    /// Whether a record may have rows. Cheap: most records of a topic may have none.
    fn may_have_rows(&self, _record: &Fetched) -> bool {
        true
    }

    /// Adds the rows of a record. `Err`: it is none of the topic's, and becomes a dead letter.
    fn add(&self, batch: &mut Self::Batch, record: &Fetched) -> Result<(), Invalid>;

    /// Writes the rows, in the caller's transaction. The same rows again must change nothing.
    fn write(
        &mut self,
        transaction: &mut PgConnection,
        batch: &Self::Batch,
    ) -> impl Future<Output = Result<(), sqlx::Error>>;

    /// Drops what it has in memory of rows: a transaction failed, or others may have written meanwhile.
    fn forget(&mut self) {}
}

/// Called on each commit with the committed offsets.
pub(super) type OnCommit = Box<dyn FnMut(&BTreeMap<u32, Owned>) + Send>;

/// Projects records in batches.
pub(super) struct Batches<R: Rows> {
    link: Link,
    projection: &'static str,
    rows: R,
    reject: Arc<dyn Reject>,
    on_commit: OnCommit,
    owned: BTreeMap<u32, Owned>,
    /// The partitions of the last [`Pipe::take`], each with its committed offset.
    taken: BTreeMap<u32, Owned>,
    /// The records that are not written yet, and their bytes.
    pending: Vec<Fetched>,
    bytes: usize,
    connection: Option<PgConnection>,
    /// Uncommitted records that were rejected, by partition and offset: they must not be rejected again.
    rejected: HashSet<(u32, u64)>,
    commits: u64,
    /// A batch that is not full is not committed before this time.
    commit_not_before: Instant,
    /// When offsets without rows are advanced.
    advance_at: Instant,
}

/// How far a transaction advances the offsets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum UpTo {
    /// Past its records.
    ItsRecords,
    /// Past everything that was read.
    AllRead,
}

impl<R: Rows> Batches<R> {
    pub(super) fn new(
        link: Link,
        projection: &'static str,
        rows: R,
        reject: Arc<dyn Reject>,
        on_commit: OnCommit,
    ) -> Self {
        Self {
            link,
            projection,
            rows,
            reject,
            on_commit,
            owned: BTreeMap::new(),
            taken: BTreeMap::new(),
            pending: Vec::new(),
            bytes: 0,
            connection: None,
            rejected: HashSet::new(),
            commits: 0,
            commit_not_before: Instant::now(),
            advance_at: Instant::now(),
        }
    }

    fn is_full(&self) -> bool {
        self.pending.len() >= MAX_RECORDS || self.bytes >= MAX_BYTES
    }

    fn commit(&mut self, timeout: Duration) -> Result<(), ProjectionError> {
        let records = std::mem::take(&mut self.pending);
        self.bytes = 0;
        let busy = BUSY_RECORDS.min(records.len() as u32);
        self.commit_not_before = Instant::now() + MAX_PAUSE * busy / BUSY_RECORDS;
        self.advance_at = Instant::now() + ADVANCE_INTERVAL;
        match self.try_write(&records, UpTo::AllRead, timeout) {
            Err(ProjectionError::Row(_)) => self.bisect(&records, timeout),
            done => done,
        }
    }

    /// Commits records in ever smaller halves, until each that Postgres refuses is alone, and rejected.
    fn bisect(&mut self, records: &[Fetched], timeout: Duration) -> Result<(), ProjectionError> {
        if records.is_empty() {
            return Ok(());
        }
        let Err(error) = self.try_write(records, UpTo::ItsRecords, timeout) else {
            return Ok(());
        };
        let ProjectionError::Row(why) = &error else {
            return Err(error);
        };
        if let [record] = records {
            // A second attempt, in case the first failed only because the tables were being replaced.
            match self.try_write(records, UpTo::ItsRecords, timeout) {
                Err(ProjectionError::Row(_)) => {}
                done => return done,
            }
            let code = why
                .sqlstate()
                .map_or_else(|| "invalid_row".to_owned(), |s| format!("postgres_{s}"));
            self.reject(&[Rejection {
                record,
                code: code.into(),
                message: why.to_string(),
            }])?;
            return self.try_write(records, UpTo::ItsRecords, timeout);
        }
        tracing::warn!(%error, records = records.len(), "a row is refused: looking for it");
        let (first, second) = records.split_at(records.len() / 2);
        self.bisect(first, timeout)?;
        self.bisect(second, timeout)
    }

    /// Writes the rows and the offsets of records in one transaction.
    fn try_write(
        &mut self,
        records: &[Fetched],
        up_to: UpTo,
        timeout: Duration,
    ) -> Result<(), ProjectionError> {
        let batch = self.assemble(records)?;
        let advances = self.advances(records, up_to);
        if advances.is_empty() {
            return Ok(());
        }
        let (link, rows, projection) = (&self.link, &mut self.rows, self.projection);
        let idle = &mut self.connection;
        let writing = async {
            let mut connection = link.connection(idle).await?;
            let result = transact(&mut connection, projection, &advances, rows, &batch).await;
            let keep = match &result {
                Ok(()) => true,
                Err(error) => error.keeps_connection(),
            };
            *idle = keep.then_some(connection);
            result
        };
        let written = link.wait("writing a batch", async {
            let expired = |_| Err(StoreError::Timeout("writing a batch").into());
            tokio::time::timeout(timeout, writing)
                .await
                .unwrap_or_else(expired)
        });
        if let Err(error) = written {
            self.rows.forget();
            return Err(error);
        }
        for advance in &advances {
            for owned in [&mut self.owned, &mut self.taken] {
                if let Some(at) = owned.get_mut(&advance.partition) {
                    at.next = advance.to;
                }
            }
        }
        self.commits += 1;
        let taken = &self.taken;
        self.rejected
            .retain(|(partition, offset)| taken.get(partition).is_none_or(|at| *offset >= at.next));
        (self.on_commit)(&self.taken);
        Ok(())
    }

    fn assemble(&mut self, records: &[Fetched]) -> Result<R::Batch, ProjectionError> {
        let mut batch = R::Batch::default();
        let mut rejections = Vec::new();
        for record in records {
            // A record that was redriven for another processor has its rows already.
            if self.rejected.contains(&(record.partition, record.offset))
                || !redriven::concerns(&record.record, self.projection)
            {
                continue;
            }
            if let Err(invalid) = self.rows.add(&mut batch, record) {
                rejections.push(Rejection {
                    record,
                    code: invalid.code,
                    message: invalid.message,
                });
            }
        }
        self.reject(&rejections)?;
        Ok(batch)
    }

    fn reject(&mut self, rejections: &[Rejection<'_>]) -> Result<(), ProjectionError> {
        if rejections.is_empty() {
            return Ok(());
        }
        self.reject.reject(rejections)?;
        let at = |r: &Rejection<'_>| (r.record.partition, r.record.offset);
        self.rejected.extend(rejections.iter().map(at));
        Ok(())
    }

    /// How the offsets advance.
    fn advances(&self, records: &[Fetched], up_to: UpTo) -> Vec<Advance> {
        let ends: BTreeMap<u32, u64> = match up_to {
            UpTo::ItsRecords => records
                .iter()
                .map(|record| (record.partition, record.offset + 1))
                .collect(),
            UpTo::AllRead => self.owned.iter().map(|(p, at)| (*p, at.read)).collect(),
        };
        let advance = |(partition, to): (u32, u64)| {
            let at = self.owned.get(&partition).filter(|at| at.next < to)?;
            Some(Advance {
                partition,
                from: at.next,
                to,
                epoch: at.epoch,
                generation: at.generation,
            })
        };
        ends.into_iter().filter_map(advance).collect()
    }
}

/// One transaction. The offsets come first, so that a stale owner is fenced before it writes a row.
async fn transact<R: Rows>(
    connection: &mut PgConnection,
    projection: &str,
    advances: &[Advance],
    rows: &mut R,
    batch: &R::Batch,
) -> Result<(), ProjectionError> {
    execute(connection, "BEGIN").await?;
    let written = async {
        offsets::advance(connection, projection, advances).await?;
        rows.write(connection, batch)
            .await
            .map_err(ProjectionError::of_rows)?;
        Ok(execute(connection, "COMMIT").await?)
    };
    let written = written.await;
    if written
        .as_ref()
        .is_err_and(ProjectionError::keeps_connection)
    {
        execute(connection, "ROLLBACK").await?;
    }
    written
}

impl<R: Rows> Pipe for Batches<R> {
    fn owned(&self) -> Vec<(u32, u64)> {
        let read = |(partition, at): (&u32, &Owned)| (*partition, at.read);
        self.owned.iter().map(read).collect()
    }

    fn take(&mut self, partitions: &[u32], topic: Option<TopicId>) -> Result<(), ProjectionError> {
        self.reset();
        let (link, idle) = (&self.link, &mut self.connection);
        let projection = self.projection;
        self.owned = link.wait("taking partitions over", async {
            let mut connection = link.connection(idle).await?;
            let mut owned = BTreeMap::new();
            for &partition in partitions {
                let taken = offsets::take(&mut connection, projection, partition, topic).await?;
                owned.insert(partition, taken);
            }
            *idle = Some(connection);
            Ok(owned)
        })?;
        self.taken.clone_from(&self.owned);
        Ok(())
    }

    fn last_taken(&self) -> &BTreeMap<u32, Owned> {
        &self.taken
    }

    fn taken_by_others(&self) -> Result<Vec<u32>, ProjectionError> {
        pipe::taken_by_others(&self.link, self.projection, &self.taken)
    }

    fn commits(&self) -> u64 {
        self.commits
    }

    fn add(&mut self, records: Vec<Fetched>) -> Result<(), ProjectionError> {
        for record in records {
            let at = self.owned.get_mut(&record.partition);
            let Some(at) = at.filter(|at| record.offset >= at.read) else {
                continue;
            };
            at.read = record.offset + 1;
            if !self.rows.may_have_rows(&record) {
                continue;
            }
            self.bytes += record.record.value.as_ref().map_or(0, bytes::Bytes::len);
            self.pending.push(record);
            if self.is_full() {
                self.commit(TIMEOUT)?;
            }
        }
        Ok(())
    }

    fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    fn push(&mut self, _backlog: bool) -> Result<(), ProjectionError> {
        let now = Instant::now();
        let due = match self.pending.len() {
            0 => now >= self.advance_at,
            _ => now >= self.commit_not_before,
        };
        if due { self.commit(TIMEOUT) } else { Ok(()) }
    }

    fn flush(&mut self, timeout: Duration) -> Result<(), ProjectionError> {
        self.commit(timeout)
    }

    fn reset(&mut self) {
        self.pending.clear();
        self.bytes = 0;
        self.owned.clear();
        self.rows.forget();
    }
}
