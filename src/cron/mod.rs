//! Starts workflows with cron triggers.
//!
//! Every node checks the clock and may start what is due. Starts of the same time have the same identity `["cron", tenant,
//! workflow, time]`, so they become one run, however many nodes append one. After the starts are durable, the node writes a mark
//! to the compacted topic `state.cron` ([`marks`]), one for each expression of a workflow. Times after the mark are due, also
//! after a restart or a time without running nodes. After a crash between start and mark the start is appended again; the saga
//! processor drops the duplicate.
//!
//! | file | holds |
//! |---|---|
//! | `due` | which times are due; pure |
//! | `marks` | up to which time each schedule was started |
//! | `start` | the start record of a time |
//! | `thread` | the thread that checks the clock |

mod due;
mod marks;
mod start;
mod thread;

use std::sync::Arc;

use self::{
    due::{Due, due},
    marks::{MarkKey, Marks},
};
pub use self::{start::BadStart, thread::Running};
use crate::{
    base::clock::{Clock, Millis},
    log::{Append, Log, LogError, Record, Unavailable, topics::Names},
    telemetry::metrics::TRIGGERS,
    workflows::{CronTrigger, Current, ToStart},
};

/// Why a due time was not started. It is retried.
#[derive(Debug, thiserror::Error)]
pub enum CronError {
    /// Starts or marks cannot be appended, or marks cannot be read.
    #[error(transparent)]
    Log(#[from] LogError),
    /// A start cannot be written.
    #[error(transparent)]
    Start(#[from] BadStart),
    /// A mark cannot be written.
    #[error("the mark of a schedule cannot be written: {0}")]
    Mark(#[from] serde_json::Error),
}

/// The cron triggers of the current catalog.
pub struct Cron {
    log: Arc<dyn Log>,
    names: Names,
    workflows: Current,
    clock: Arc<dyn Clock>,
    marks: Marks,
    started: metrics::Counter,
}

impl Cron {
    /// Reads and writes `state.cron`, and writes `commands`.
    pub fn new(
        log: Arc<dyn Log>,
        names: &Names,
        workflows: Current,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            marks: Marks::new(Arc::clone(&log), Arc::clone(&names.cron)),
            log,
            names: names.clone(),
            workflows,
            clock,
            started: TRIGGERS.counter(&["cron", "started"]),
        }
    }

    /// Whether a time is due by the marks that this node knows. Another node may have started it already.
    pub fn is_due(&self) -> bool {
        let now = self.clock.now();
        let triggers = self.workflows.triggers();
        triggers.of_times().any(|(to_start, trigger)| {
            let key = MarkKey::of(&to_start.workflow.name, trigger);
            match self.marks.get(&key) {
                None => true,
                Some(last) => trigger.schedule.after(last).is_some_and(|next| next <= now),
            }
        })
    }

    /// Starts what is due and returns the number of starts. Blocks until they are durable. A trigger that fails stays due, and
    /// does not affect the others.
    pub fn start_due(&mut self) -> Result<usize, CronError> {
        let triggers = self.workflows.triggers();
        self.marks.read()?;
        let now = self.clock.now();
        let (mut count, mut failed) = (0, None);
        for (to_start, trigger) in triggers.of_times() {
            match self.start_one(to_start, trigger, now) {
                Ok(started) => count += started,
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        failed.map_or(Ok(count), Err)
    }

    fn start_one(
        &mut self,
        to_start: &ToStart,
        trigger: &CronTrigger,
        now: Millis,
    ) -> Result<usize, CronError> {
        let key = MarkKey::of(&to_start.workflow.name, trigger);
        // A new expression begins now: it has no missed times.
        let found = self.marks.get(&key).map_or(
            Due {
                times: Vec::new(),
                mark: Some(now),
            },
            |last| due(&trigger.schedule, trigger.catch_up, last, now),
        );
        let Some(mark) = found.mark else {
            return Ok(0);
        };
        let mut starts = Vec::with_capacity(found.times.len());
        for time in &found.times {
            let command = start::command(to_start, &trigger.tenant, *time, now)?;
            let record = command.encode().map_err(|e| BadStart::of(&command, &e))?;
            starts.push(record);
        }
        let count = starts.len();
        self.append(&self.names.commands, starts)?;
        self.started.increment(count as u64);
        // Written last, so that a time stays due until its start is durable.
        self.append(&self.names.cron, vec![key.record(mark)?])?;
        self.marks.set(key, mark);
        Ok(count)
    }

    /// Appends records, and waits until they are durable.
    fn append(&self, topic: &Arc<str>, records: Vec<Record>) -> Result<(), LogError> {
        if records.is_empty() {
            return Ok(());
        }
        let append = |record| Append {
            topic: Arc::clone(topic),
            record,
        };
        let appended = self
            .log
            .append(records.into_iter().map(append).collect(), None);
        appended
            .blocking_recv()
            .map_err(|_| LogError::Unavailable(Unavailable::Closing))??;
        Ok(())
    }
}
