//! Metrics of calls.

use metrics::Counter;

use super::answer::{Answer, Ended};
use crate::telemetry::metrics::{WORKER_CALLS, WORKER_CALLS_HELD};

pub(super) struct Meters {
    succeeded: Counter,
    accepted: Counter,
    failed: Counter,
    no_answer: Counter,
}

impl Meters {
    pub(super) fn new() -> Self {
        let of = |outcome| WORKER_CALLS.counter(&[outcome]);
        Self {
            succeeded: of("succeeded"),
            accepted: of("accepted"),
            failed: of("failed"),
            no_answer: of("no_answer"),
        }
    }

    pub(super) fn called(&self, answer: &Answer) {
        let counter = match &answer.ended {
            None => &self.accepted,
            Some(Ended::Succeeded(_)) => &self.succeeded,
            Some(Ended::Failed(failed)) if failed.answered => &self.failed,
            Some(Ended::Failed(_)) => &self.no_answer,
        };
        counter.increment(1);
    }

    pub(super) fn held(reason: &str) {
        let disabled = reason == "workers" || reason.starts_with("tool:");
        let reason = if disabled { "disabled" } else { reason };
        WORKER_CALLS_HELD.counter(&[reason]).increment(1);
    }
}
