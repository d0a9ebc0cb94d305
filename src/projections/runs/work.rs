//! A run of a batch, and how it is made from its records.

use std::collections::BTreeMap;

use super::{
    Stored,
    fold::{Happened, Run},
    happened,
};
use crate::runs::RunRecord;

/// A run, and its records in a batch.
pub(super) struct Work<'a> {
    /// Not empty.
    records: Vec<&'a RunRecord>,
    /// Those that are not stored yet.
    pub(super) fresh: Vec<&'a RunRecord>,
    pub(super) run: Run,
}

impl<'a> Work<'a> {
    /// The records follow those that made the run.
    pub(super) fn folded(mut run: Run, records: Vec<&'a RunRecord>) -> Self {
        for record in &records {
            run.apply(happened(record));
        }
        Self {
            fresh: records.clone(),
            records,
            run,
        }
    }

    /// What the run was before is not known.
    pub(super) fn unread(records: Vec<&'a RunRecord>) -> Self {
        Self {
            records,
            fresh: Vec::new(),
            run: Run::default(),
        }
    }

    /// As [`Self::unread`].
    pub(super) fn again(self) -> Self {
        Self::unread(self.records)
    }

    /// Makes the run from stored records and its own.
    pub(super) fn fold(&mut self, stored: &[Stored]) {
        let mut all: BTreeMap<i64, Happened<'_>> = BTreeMap::new();
        for stored in stored {
            let happened = Happened {
                seq: stored.seq,
                kind: &stored.kind,
                at: stored.at,
                body: &stored.record,
            };
            all.insert(stored.seq, happened);
        }
        self.fresh.clear();
        for record in &self.records {
            all.entry(record.seq).or_insert_with(|| {
                self.fresh.push(*record);
                happened(record)
            });
        }
        for happened in all.into_values() {
            self.run.apply(happened);
        }
    }

    /// The numbers of the records that are not stored yet.
    #[cfg(test)]
    pub(super) fn fresh_numbers(&self) -> Vec<i64> {
        self.fresh.iter().map(|record| record.seq).collect()
    }

    /// Tenant and run.
    pub(super) fn key(&self) -> (&'a str, &'a str) {
        let first = self.records.first();
        first.map_or_else(Default::default, |first| (&*first.tenant, &*first.run_id))
    }

    /// The run, written.
    pub(super) fn finish(self) -> (&'a str, &'a str, Run) {
        let (tenant, run_id) = self.key();
        let mut run = self.run;
        (run.started, run.plan) = (None, None);
        for step in &mut run.steps {
            (step.stored, step.changed, step.output) = (true, false, None);
        }
        for approval in run.approvals.values_mut() {
            (approval.stored, approval.changed, approval.asked) = (true, false, None);
        }
        (tenant, run_id, run)
    }
}
