//! Metrics, and the counts of one transaction.

use crate::{
    runs::RunStatus,
    telemetry::metrics::{RUNS_ENDED, RUNS_STARTED, SAGA_IGNORED},
};

/// The final statuses.
const ENDS: [RunStatus; 4] = [
    RunStatus::Succeeded,
    RunStatus::Failed,
    RunStatus::Denied,
    RunStatus::Cancelled,
];

/// The metrics.
pub(super) struct Meters {
    started: metrics::Counter,
    ended: [metrics::Counter; 4],
    ignored: metrics::Counter,
}

impl Meters {
    pub(super) fn new() -> Self {
        Self {
            started: RUNS_STARTED.counter(&[]),
            ended: ENDS.map(|status| RUNS_ENDED.counter(&[status.name()])),
            ignored: SAGA_IGNORED.counter(&[]),
        }
    }

    /// Adds the counts of a transaction. Called at its end, so that a repeated transaction does not count twice.
    pub(super) fn add(&self, counts: &Counts) {
        self.started.increment(counts.started);
        self.ignored.increment(counts.ignored);
        for (meter, count) in self.ended.iter().zip(counts.ended) {
            meter.increment(count);
        }
    }
}

/// The counts of one transaction.
#[derive(Default)]
pub(super) struct Counts {
    pub(super) started: u64,
    ended: [u64; 4],
    /// Inputs that changed nothing, such as results of attempts that are over.
    pub(super) ignored: u64,
}

impl Counts {
    pub(super) fn end(&mut self, status: RunStatus) {
        if let Some(at) = ENDS.iter().position(|end| *end == status) {
            self.ended[at] += 1;
        }
    }
}
