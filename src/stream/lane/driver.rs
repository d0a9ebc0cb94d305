//! The lane as a value that is stepped.

use std::{
    borrow::Cow,
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use rand::{SeedableRng, rngs::StdRng};

use super::{
    BACKOFF, JOINING, Setup,
    failures::{Failed, Failures, panic_message},
    task::{Input, Task},
};
use crate::{
    log::{Class, Fetched, Lane, LogError, Polled},
    state::Space,
    stream::{Processor, progress::LaneProgress, size_limits::SizeLimits, timers::Timers},
};

/// What one step did.
#[derive(Clone, Debug)]
pub enum Step {
    /// A lane of the log was opened; its partitions are assigned in later steps.
    Opened,
    /// Partitions were assigned, and their state restored.
    Assigned,
    /// Partitions were given up.
    Revoked,
    /// So many records were read and timers fired, and what came of them is committed. Zero of both: there was nothing to do.
    Processed {
        /// Records.
        records: usize,
        /// Timers.
        timers: usize,
    },
    /// A transaction was aborted for what it was given: the next steps restore the state, and read the records again.
    Aborted,
    /// After an abort the transforms were made anew from the committed state.
    Restored,
    /// It failed for a reason outside. Before the next step the caller is to let `retry_after` pass.
    Failed {
        /// Why.
        error: LogError,
        /// It grows until a step succeeds.
        retry_after: Duration,
    },
}

/// A lane of a processor. Dropping it between two steps is what a crash is: all that counts is committed.
pub struct Driver {
    pub(super) processor: Arc<dyn Processor>,
    pub(super) topics: Vec<String>,
    pub(super) setup: Setup,
    pub(super) progress: LaneProgress,
    stop: Arc<AtomicBool>,
    /// What failed, and comes again.
    pub(super) failures: Failures,
    /// What topics and keyed state take.
    pub(super) limits: Arc<SizeLimits>,
    /// Codes of the dead letters of the open transaction: they count once it is committed.
    pub(super) rejected: RefCell<Vec<Cow<'static, str>>>,
    /// `None`: it is opened by the next step.
    open: Option<Open>,
    /// Failures since a step succeeded.
    attempt: u32,
    /// What pauses are spread by.
    pub(super) jitter: StdRng,
}

/// An open lane of the log.
pub(super) struct Open {
    pub(super) lane: Box<dyn Lane>,
    /// By input partition.
    pub(super) tasks: BTreeMap<u32, Task>,
    batch: Vec<Fetched>,
    /// Topic index and partition.
    assigned: BTreeSet<(usize, u32)>,
    /// Its group has given it a share, be it an empty one.
    member: bool,
    /// A transaction was aborted: the tasks are to be made anew.
    aborted: bool,
}

impl Driver {
    /// A lane that is not open yet.
    pub fn new(processor: Arc<dyn Processor>, setup: Setup) -> Self {
        Self::seeded(processor, setup, rand::random())
    }

    /// As [`Driver::new`]; the jitter of its pauses follows from `seed`.
    pub fn seeded(processor: Arc<dyn Processor>, setup: Setup, seed: u64) -> Self {
        Self {
            topics: processor.topics(),
            limits: SizeLimits::new(&setup.log, &setup.clock, processor.name()),
            progress: setup.progress.lane(),
            processor,
            setup,
            stop: Arc::default(),
            failures: Failures::default(),
            rejected: RefCell::default(),
            open: None,
            attempt: 0,
            jitter: StdRng::seed_from_u64(seed),
        }
    }

    /// Set to true, it ends a step early: a commit that waits for the log gives up, and of a batch only the transaction in hand is
    /// made.
    pub fn stop_flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.stop)
    }

    fn stopping(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Does one round: opens the lane, or restores what was aborted, or polls once, for `wait` at most, and handles what came of it.
    pub fn step(&mut self, wait: Duration) -> Step {
        // A panic outside a record's own processing is a fault of the transform: the lane is opened anew, and says so.
        let stepped = catch_unwind(AssertUnwindSafe(|| self.try_step(wait)));
        let stepped = stepped.unwrap_or_else(|panic| Err(LogError::Fatal(panic_message(&*panic))));
        stepped.unwrap_or_else(|error| self.failed(error))
    }

    /// On an error the lane of the log is over.
    fn try_step(&mut self, wait: Duration) -> Result<Step, LogError> {
        let Some(mut open) = self.open.take() else {
            self.progress.starting(JOINING);
            let mut lane = self.setup.log.lane(self.processor.name(), &self.topics)?;
            lane.stop_with(Arc::clone(&self.stop));
            self.open = Some(Open {
                lane,
                tasks: BTreeMap::new(),
                batch: Vec::new(),
                assigned: BTreeSet::new(),
                member: false,
                aborted: false,
            });
            return Ok(Step::Opened);
        };
        let step = if open.aborted {
            let assigned: Vec<_> = open.assigned.iter().copied().collect();
            self.open_partitions(&mut open, &assigned)?;
            open.aborted = false;
            Step::Restored
        } else {
            self.poll(&mut open, wait)?
        };
        self.open = Some(open);
        Ok(step)
    }

    /// Notes that it failed, and for how long to pause.
    fn failed(&mut self, error: LogError) -> Step {
        let retry_after = BACKOFF.pause_by(self.attempt, &mut self.jitter);
        tracing::warn!(processor = self.processor.name(), %error, pause = ?retry_after, "the lane stalls and tries again");
        self.progress.retrying(error.to_string());
        self.attempt += 1;
        Step::Failed { error, retry_after }
    }

    fn poll(&mut self, open: &mut Open, wait: Duration) -> Result<Step, LogError> {
        open.batch.clear();
        self.resume(open)?;
        let wait = self.wakes_after(open).map_or(wait, |left| left.min(wait));
        let done = match open.lane.poll(wait, &mut open.batch)? {
            Polled::Records => self.process_batch(open),
            Polled::Assigned(partitions) => {
                open.assigned.extend(&partitions);
                open.member = true;
                self.progress.assigned(|topic, partition| {
                    let mut assigned = open.assigned.iter();
                    assigned.any(|(t, p)| self.topics[*t] == topic && *p == partition)
                });
                self.open_partitions(open, &partitions)
                    .map(|()| Step::Assigned)
                    .map_err(Failed::Log)
            }
            Polled::Revoked(partitions) | Polled::Lost(partitions) => {
                // Each poll ends in its own transaction: nothing is open here.
                for at in &partitions {
                    open.assigned.remove(at);
                    open.tasks.remove(&at.1);
                    self.failures.revoked(at.1);
                    self.progress.revoked(&self.topics[at.0], at.1);
                }
                open.member = false;
                open.lane.release(&partitions)?;
                Ok(Step::Revoked)
            }
        };
        let failed = match done {
            Ok(step) => {
                self.attempt = 0;
                match open.tasks.values().find_map(|task| task.waits_for.as_ref()) {
                    Some(what) => self.progress.waiting(what),
                    None if open.member => self.progress.running(),
                    None => self.progress.starting(JOINING),
                }
                return Ok(step);
            }
            Err(failed) => failed,
        };
        self.limits.forget();
        self.rejected.borrow_mut().clear();
        open.tasks.clear();
        open.aborted = true;
        match self.note(failed) {
            None => Ok(Step::Aborted),
            Some(error) if error.class() == Class::Fatal => Err(error),
            Some(error) => Ok(self.failed(error)),
        }
    }

    /// Remembers what a transaction failed for. `Some`: for nothing that it was given.
    fn note(&mut self, failed: Failed) -> Option<LogError> {
        let processor = self.processor.name();
        match failed {
            Failed::Poison(failed) => {
                self.failures.note(processor, failed.0, failed.1);
                None
            }
            Failed::Close(rejected, items, last) => {
                self.failures.note_close(processor, *rejected, items, last)
            }
            Failed::Log(error) => Some(error),
        }
    }

    /// Restores state and makes transforms.
    fn open_partitions(
        &self,
        open: &mut Open,
        partitions: &[(usize, u32)],
    ) -> Result<(), LogError> {
        let Open { lane, tasks, .. } = open;
        lane.prepare(partitions)?;
        for (topic, partition) in partitions {
            let name = &self.topics[*topic];
            self.progress
                .starting(format!("the state of {name}/{partition} is restored"));
            let next = lane.open(*topic, *partition)?;
            self.progress.set_position(name, *partition, next);
            if !tasks.contains_key(partition) {
                let space = Space::new(self.processor.name(), *partition);
                let transform = self.processor.transform(&space, lane.state())?;
                let timers = Timers::load(lane.state(), &space)?;
                tasks.insert(*partition, Task::new(space, transform, timers));
            }
            if let Some(task) = tasks.get_mut(partition) {
                task.inputs
                    .insert(*topic, Input::at(next, self.setup.clock.monotonic()));
            }
        }
        Ok(())
    }

    /// How long until the next timer is due or a paused partition resumes, by the clock; `None`: neither is waited for. For whoever
    /// moves the clock.
    pub fn wakes_in(&self) -> Option<Duration> {
        self.open.as_ref().and_then(|open| self.wakes_after(open))
    }

    fn wakes_after(&self, open: &Open) -> Option<Duration> {
        let (now, monotonic) = (self.setup.clock.now(), self.setup.clock.monotonic());
        let tasks = open.tasks.values();
        let paused = tasks.clone().filter_map(|task| task.paused_until);
        let resumes = paused.min().map(|until| until.saturating_sub(monotonic));
        let due = tasks.filter_map(Task::next_due).min().map(|due| {
            // One that is due already waits for the end of the input.
            let left = due.0.saturating_sub(now.0).max(1);
            Duration::from_millis(left as u64)
        });
        resumes.into_iter().chain(due).min()
    }

    /// Partitions that were paused for long enough read on from where they stopped.
    fn resume(&self, open: &mut Open) -> Result<(), LogError> {
        let now = self.setup.clock.monotonic();
        for (partition, task) in &mut open.tasks {
            if task.paused_until.take_if(|until| *until <= now).is_some() {
                for (topic, input) in &mut task.inputs {
                    open.lane.seek(*topic, *partition, input.next)?;
                    input.last = now;
                }
            }
        }
        Ok(())
    }

    /// Processes what was read and what is due: in one transaction, unless outputs are large or a transaction has failed.
    fn process_batch(&mut self, open: &mut Open) -> Result<Step, Failed> {
        self.limits.refresh();
        let Open {
            lane, tasks, batch, ..
        } = open;
        let (mut left, mut timers) = (&batch[..], 0);
        loop {
            let committed = self.transact(&mut **lane, tasks, left)?;
            self.failures.committed(committed.items);
            timers += committed.timers;
            left = &left[committed.records..];
            // What was read and is left comes again after a stop.
            if left.is_empty() || self.stopping() {
                return Ok(Step::Processed {
                    records: batch.len() - left.len(),
                    timers,
                });
            }
        }
    }
}
