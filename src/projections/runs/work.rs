//! A run with its records in a batch.

use std::collections::BTreeMap;

use super::{
    Stored,
    fold::{HistoryRecord, Run},
    record_of,
};
use crate::runs::RunRecord;

/// A run, and its records in a batch.
pub(super) struct Work<'a> {
    /// The records in the batch; not empty.
    records: Vec<&'a RunRecord>,
    /// The records that are not stored yet.
    pub(super) fresh: Vec<&'a RunRecord>,
    pub(super) run: Run,
}

impl<'a> Work<'a> {
    /// Applies records that continue the run's history.
    pub(super) fn folded(mut run: Run, records: Vec<&'a RunRecord>) -> Self {
        for record in &records {
            run.apply(record_of(record));
        }
        Self {
            fresh: records.clone(),
            records,
            run,
        }
    }

    /// A run whose stored history must be read first.
    pub(super) fn unread(records: Vec<&'a RunRecord>) -> Self {
        Self {
            records,
            fresh: Vec::new(),
            run: Run::default(),
        }
    }

    /// Discards the state: the stored history must be read first.
    pub(super) fn unread_again(self) -> Self {
        Self::unread(self.records)
    }

    /// Rebuilds the run from stored records and those of the batch.
    pub(super) fn fold(&mut self, stored: &[Stored]) {
        let mut all: BTreeMap<i64, HistoryRecord<'_>> = BTreeMap::new();
        for stored in stored {
            let record = HistoryRecord {
                seq: stored.seq,
                kind: &stored.kind,
                at: stored.at,
                body: &stored.record,
            };
            all.insert(stored.seq, record);
        }
        self.fresh.clear();
        for record in &self.records {
            all.entry(record.seq).or_insert_with(|| {
                self.fresh.push(*record);
                record_of(record)
            });
        }
        for record in all.into_values() {
            self.run.apply(record);
        }
    }

    /// The `seq` of the records that are not stored yet.
    #[cfg(test)]
    pub(super) fn fresh_numbers(&self) -> Vec<i64> {
        self.fresh.iter().map(|record| record.seq).collect()
    }

    /// Tenant and run.
    pub(super) fn key(&self) -> (&'a str, &'a str) {
        let first = self.records.first();
        first.map_or_else(Default::default, |first| (&*first.tenant, &*first.run_id))
    }

    /// The run for the cache, once everything is written.
    pub(super) fn finish(self) -> (&'a str, &'a str, Run) {
        let (tenant, run_id) = self.key();
        let mut run = self.run;
        (run.started, run.plan) = (None, None);
        (run.workflow, run.params) = (None, None);
        for step in &mut run.steps {
            (step.stored, step.changed, step.output) = (true, false, None);
        }
        for approval in run.approvals.values_mut() {
            (approval.stored, approval.changed, approval.request) = (true, false, None);
        }
        (tenant, run_id, run)
    }
}
