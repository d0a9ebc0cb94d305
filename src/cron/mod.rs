//! Times that start workflows.
//!
//! Every node looks at the clock, and each may start what is due: the identity `["cron", tenant, workflow, time]` makes one run of it,
//! however many nodes append a start. What was started last is on the compacted topic `state.cron` ([`marks`]), one record for each
//! expression of a workflow, written once the starts are durable. After a restart, or when no node ran, times since then are due. A
//! crash between start and mark appends the start again, which the saga processor drops.
//!
//! | file | holds |
//! |---|---|
//! | `due` | which times are due, pure |
//! | `marks` | what was started last |
//! | `start` | the start record of a time |
//! | `thread` | looks at the clock as long as the node runs |

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

/// Why what is due was not started. It is tried again.
#[derive(Debug, thiserror::Error)]
pub enum CronError {
    /// The log does not take starts or marks, or cannot be read.
    #[error(transparent)]
    Log(#[from] LogError),
    /// A start cannot be written.
    #[error(transparent)]
    Start(#[from] BadStart),
    /// A mark cannot be written.
    #[error("what was started cannot be written down: {0}")]
    Mark(#[from] serde_json::Error),
}

/// The times of the workflows in force.
pub struct Cron {
    log: Arc<dyn Log>,
    names: Names,
    workflows: Current,
    clock: Arc<dyn Clock>,
    marks: Marks,
    started: metrics::Counter,
}

impl Cron {
    /// Reads `state.cron`, writes it and `commands`.
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

    /// Whether a time may be due, by what this node knows: another one may have started it.
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

    /// Starts what is due; returns how many runs. Blocks until they are durable. What fails stays due, and does not hold up the rest.
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
        // What was never seen before has missed nothing.
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
        // Only then: a time that was not started must stay due.
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
