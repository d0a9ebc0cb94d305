//! The projection of the topic `runs`: the tables `runs`, `run_steps`, `run_history` and `approvals`.
//!
//! A run's rows depend only on its whole history, not on how the records were split into batches. Runs that have not ended are
//! kept in memory between batches. A run that is not in memory, for example after a restart, is rebuilt from its rows in
//! `run_history`, with one query for all such runs of a batch, and its rows are replaced. So it does no harm if a record is read
//! twice, or late.
//!
//! | file | holds |
//! |---|---|
//! | `body` | the fields that are read of a record |
//! | `fold`, `state` | the state of a run, and applying records to it |
//! | `recent` | the cache of runs in memory |
//! | `work` | a run with its records in a batch |
//! | `write` | the statements that write rows |

mod body;
mod fold;
mod recent;
mod state;
#[cfg(test)]
mod tests;
mod work;
mod write;

use std::{collections::HashMap, sync::Arc};

use futures_util::TryStreamExt;
use sqlx::{AssertSqlSafe, PgConnection, Row};

use self::{
    fold::{HistoryRecord, Run},
    recent::RecentRuns,
    work::Work,
    write::Statements,
};
use super::{
    batches::{Batches, Rows, TIMES},
    lane::{Projector, Setup},
    pipe::Pipe,
    target::RUNS,
};
use crate::{envelope::Invalid, log::Fetched, runs::RunRecord};

impl Projector {
    /// Starts the projector of the topic `runs`, whose full name is in `setup`.
    pub fn start_runs(setup: &Setup, lanes: usize) -> std::io::Result<Self> {
        let reject = setup.dead_letters(RUNS);
        let topic = Arc::clone(&setup.topic);
        Self::run(
            setup,
            RUNS,
            lanes,
            &reject,
            &move |parts| -> Box<dyn Pipe> {
                let on_commit = parts.report(&topic);
                let rows = RunRows::of("");
                Box::new(Batches::new(
                    parts.link,
                    RUNS,
                    rows,
                    parts.reject,
                    on_commit,
                ))
            },
        )
    }
}

/// The rows of the topic `runs`.
pub(super) struct RunRows {
    statements: Statements,
    recent: RecentRuns,
}

impl RunRows {
    /// For the tables whose names end in `suffix`.
    pub(super) fn of(suffix: &str) -> Self {
        Self {
            statements: Statements::of(suffix),
            recent: RecentRuns::default(),
        }
    }
}

/// A record that is already stored in `run_history`.
struct Stored {
    seq: i64,
    kind: String,
    at: i64,
    record: String,
}

fn record_of(record: &RunRecord) -> HistoryRecord<'_> {
    HistoryRecord {
        seq: record.seq,
        kind: &record.kind,
        at: record.at,
        body: &record.body,
    }
}

/// Groups records by run, in order of each run's first record.
fn by_run(records: &[RunRecord]) -> Vec<Vec<&RunRecord>> {
    let mut groups: Vec<Vec<&RunRecord>> = Vec::new();
    let mut places: HashMap<(&str, &str), usize> = HashMap::new();
    for record in records {
        let place = *places
            .entry((&record.tenant, &record.run_id))
            .or_insert(groups.len());
        match groups.get_mut(place) {
            Some(group) => group.push(record),
            None => groups.push(vec![record]),
        }
    }
    groups
}

impl Rows for RunRows {
    type Batch = Vec<RunRecord>;

    fn add(&self, batch: &mut Vec<RunRecord>, record: &Fetched) -> Result<(), Invalid> {
        let value = record.record.value.as_deref().unwrap_or_default();
        let record = RunRecord::decode(value)
            .ok_or_else(|| Invalid::payload("not a record of the schema of `runs`"))?;
        if !TIMES.contains(&record.at.saturating_mul(1000)) {
            return Err(Invalid::payload("`at` lies outside the years 1 to 9999"));
        }
        if record.seq < 1 {
            return Err(Invalid::payload("`seq` begins at 1"));
        }
        // Postgres checks the rest when it takes the row.
        if !record.body.starts_with('{') {
            return Err(Invalid::payload("`body` is not a JSON object"));
        }
        batch.push(record);
        Ok(())
    }

    async fn write(
        &mut self,
        transaction: &mut PgConnection,
        batch: &Vec<RunRecord>,
    ) -> Result<(), sqlx::Error> {
        let (mut known, mut new, mut replaced) = (Vec::new(), Vec::new(), Vec::new());
        for records in by_run(batch) {
            let Some(first) = records.first().copied() else {
                continue;
            };
            let follows = records.windows(2).all(|two| two[0].seq + 1 == two[1].seq);
            let plans = records.iter().any(|record| record.kind == "plan_ready");
            let run = self.recent.take(&first.tenant, &first.run_id);
            let is_new = run.is_none() && first.seq == 1;
            // A second plan replaces the steps, so the rows must be replaced too.
            let run =
                run.filter(|run| run.seq + 1 == first.seq && (!plans || run.steps.is_empty()));
            match run {
                Some(run) if follows => known.push(Work::folded(run, records)),
                None if follows && is_new => new.push(Work::folded(Run::default(), records)),
                _ => replaced.push(Work::unread(records)),
            }
        }
        let statements = &self.statements;
        if statements.insert_runs(transaction, &new).await? < new.len() as u64 {
            // Some have rows already, so these records were projected before.
            replaced.extend(new.drain(..).map(Work::unread_again));
        }
        if !replaced.is_empty() {
            self.read_histories(transaction, &mut replaced).await?;
            statements.delete(transaction, &replaced).await?;
            statements.insert_runs(transaction, &replaced).await?;
        }
        statements.update_runs(transaction, &known).await?;
        let mut all = known;
        all.append(&mut new);
        all.append(&mut replaced);
        statements.write_history(transaction, &all).await?;
        statements.write_steps(transaction, &all).await?;
        statements.write_approvals(transaction, &all).await?;
        for work in all {
            self.recent.put(work.finish());
        }
        Ok(())
    }

    fn forget(&mut self) {
        self.recent.clear();
    }
}

impl RunRows {
    /// Rebuilds runs from their stored records and those of the batch.
    async fn read_histories(
        &self,
        transaction: &mut PgConnection,
        works: &mut [Work<'_>],
    ) -> Result<(), sqlx::Error> {
        let keys = works.iter().map(Work::key);
        let (tenants, run_ids): (Vec<_>, Vec<_>) = keys.unzip();
        let mut rows = sqlx::query(AssertSqlSafe(self.statements.history.as_str()))
            .bind(tenants)
            .bind(run_ids)
            .fetch(transaction);
        // One history at a time, because each may be long.
        let mut works = works.iter_mut().enumerate();
        let mut current = works.next();
        let mut stored = Vec::new();
        while let Some(row) = rows.try_next().await? {
            let of = row.try_get::<i64, _>(0)? as usize - 1;
            while let Some((n, work)) = current.take() {
                if n == of {
                    current = Some((n, work));
                    break;
                }
                work.fold(&std::mem::take(&mut stored));
                current = works.next();
            }
            stored.push(Stored {
                seq: row.try_get(1)?,
                kind: row.try_get(2)?,
                at: row.try_get(3)?,
                record: row.try_get(4)?,
            });
        }
        for (_, work) in current.into_iter().chain(works) {
            work.fold(&std::mem::take(&mut stored));
        }
        Ok(())
    }
}
