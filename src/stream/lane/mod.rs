//! A lane: one thread that runs a transform over its share of the input, exactly once.
//!
//! ```text
//!            ┌────────────── poll ──────────────┐
//!            ▼                                  │
//!  open ─► process what is ready ─► fire timers ─► commit (one transaction) ─┐
//!   ▲                                                                        │
//!   └── abort: drop what is uncommitted, make the transforms anew ◄──────────┘
//! ```
//!
//! A transaction is a group commit: it ends as soon as the input is drained, so an idle system answers in one transaction, and
//! a busy one amortises it over what came meanwhile. A record that panics is remembered, the transaction is aborted, and
//! when the record comes again it goes to the dead-letter queue. A timer that fails is remembered in the same way, and handed to
//! [`Transform::timer_failed`](super::Transform::timer_failed) when it comes again. Where a transform fails when it closes, the
//! transaction is made again with half of what it had, until one record or timer is left, which is the one that is remembered.
//! Where something that a record or a timer needs is not at hand, its partition alone is paused, and resumes from there.

mod failures;
mod task;
mod transact;

use std::{
    borrow::Cow,
    cell::RefCell,
    collections::{BTreeMap, HashSet},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

pub(crate) use failures::panic_message;
use failures::{Failed, Failures};
use task::{Input, Task};

use super::{
    Processor,
    progress::{LaneProgress, Progress},
    size_limits::SizeLimits,
    timers::Timers,
};
pub use crate::base::backoff::Backoff;
use crate::{
    base::clock::Clock,
    log::{Class, Fetched, Lane, Log, LogError, Polled},
    state::Space,
};

/// How long a poll waits when there is nothing to do.
const IDLE: Duration = Duration::from_millis(100);
/// A lane's stack: a topology's programs drop and copy values that may lie deep within each other. What is not used is never there.
pub(crate) const STACK: usize = 256 << 20;
const BACKOFF: Backoff = Backoff {
    first: Duration::from_millis(50),
    max: Duration::from_secs(1),
};
/// What a lane waits for before it has partitions.
pub(crate) const JOINING: &str = "its consumer group shares out the partitions";

/// A running lane. Dropping it stops the lane after the transaction in hand.
pub struct Running {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Running {
    /// Asks it to stop; does not wait.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop();
        if let Some(thread) = self.thread.take() {
            // A lane that panicked has said why.
            let _ = thread.join();
        }
    }
}

/// What a lane needs.
pub struct Setup {
    /// The log.
    pub log: Arc<dyn Log>,
    /// The whole name of the dead-letter topic.
    pub dlq: Arc<str>,
    /// For timers.
    pub clock: Arc<dyn Clock>,
    /// Where it reports how it is.
    pub progress: Arc<Progress>,
}

/// Starts a lane of a processor on a thread of its own.
pub fn start(processor: Arc<dyn Processor>, setup: Setup) -> std::io::Result<Running> {
    let stop = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&stop);
    let progress = setup.progress.lane();
    let thread = std::thread::Builder::new()
        .name(format!("lane-{}", processor.name()))
        .stack_size(STACK)
        .spawn(move || {
            Runner {
                topics: processor.topics(),
                limits: SizeLimits::new(&setup.log, processor.name()),
                progress,
                processor,
                setup,
                stop: flag,
                failures: Failures::default(),
                rejected: RefCell::default(),
            }
            .run();
        })?;
    Ok(Running {
        stop,
        thread: Some(thread),
    })
}

struct Runner {
    processor: Arc<dyn Processor>,
    topics: Vec<String>,
    setup: Setup,
    progress: LaneProgress,
    stop: Arc<AtomicBool>,
    /// What failed, and comes again.
    failures: Failures,
    /// What topics and keyed state take.
    limits: Arc<SizeLimits>,
    /// Codes of the dead letters of the open transaction: they count once it is committed.
    rejected: RefCell<Vec<Cow<'static, str>>>,
}

impl Runner {
    fn stopping(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn run(mut self) {
        let mut attempt = 0;
        while !self.stopping() {
            self.progress.starting(JOINING);
            let error = match self.setup.log.lane(self.processor.name(), &self.topics) {
                // A panic outside a record's own processing is a fault of the transform: the lane is built anew, and says so.
                Ok(mut lane) => {
                    lane.stop_with(Arc::clone(&self.stop));
                    match catch_unwind(AssertUnwindSafe(|| self.serve(lane, &mut attempt))) {
                        Ok(Ok(())) => return,
                        Ok(Err(error)) => error,
                        Err(panic) => LogError::Fatal(panic_message(&*panic)),
                    }
                }
                Err(error) => error,
            };
            self.back_off(&error, attempt);
            attempt += 1;
        }
    }

    /// Says what failed, and pauses before the next attempt.
    fn back_off(&self, error: &LogError, attempt: u32) {
        let pause = BACKOFF.pause(attempt);
        tracing::warn!(processor = self.processor.name(), %error, ?pause, "the lane stalls and tries again");
        self.progress.retrying(error.to_string());
        let until = Instant::now() + pause;
        while !self.stopping() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(20).min(pause));
        }
    }

    /// Runs until asked to stop (`Ok`) or until the lane is over.
    fn serve(&mut self, mut lane: Box<dyn Lane>, attempt: &mut u32) -> Result<(), LogError> {
        let mut tasks: BTreeMap<u32, Task> = BTreeMap::new();
        let mut batch = Vec::new();
        let mut assigned: HashSet<(usize, u32)> = HashSet::new();
        let mut member = false;
        while !self.stopping() {
            batch.clear();
            Self::resume(&mut *lane, &mut tasks)?;
            let wait = self.wait(&tasks);
            let failed = match lane.poll(wait, &mut batch)? {
                Polled::Records => self.process_batch(&mut *lane, &mut tasks, &batch).err(),
                Polled::Assigned(partitions) => {
                    assigned.extend(&partitions);
                    member = true;
                    self.progress.assigned(|topic, partition| {
                        assigned
                            .iter()
                            .any(|(t, p)| self.topics[*t] == topic && *p == partition)
                    });
                    self.open(&mut *lane, &mut tasks, &partitions)
                        .err()
                        .map(Failed::Log)
                }
                Polled::Revoked(partitions) | Polled::Lost(partitions) => {
                    // Each poll ends in its own transaction: nothing is open here.
                    for at in &partitions {
                        assigned.remove(at);
                        tasks.remove(&at.1);
                        self.failures.revoked(at.1);
                        self.progress.revoked(&self.topics[at.0], at.1);
                    }
                    member = false;
                    lane.release(&partitions)?;
                    None
                }
            };
            let Some(failed) = failed else {
                *attempt = 0;
                match tasks.values().find_map(|task| task.waits_for.as_ref()) {
                    Some(what) => self.progress.waiting(what),
                    None if member => self.progress.running(),
                    None => self.progress.starting(JOINING),
                }
                continue;
            };
            if let Some(error) = self.note(failed) {
                if error.class() == Class::Fatal {
                    return Err(error);
                }
                self.back_off(&error, *attempt);
                *attempt += 1;
            }
            self.limits.forget();
            tasks.clear();
            self.rejected.borrow_mut().clear();
            // The next start takes up what is committed; to ask for it now may take long.
            if self.stopping() {
                break;
            }
            let again: Vec<_> = assigned.iter().copied().collect();
            self.open(&mut *lane, &mut tasks, &again)?;
        }
        Ok(())
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
    fn open(
        &self,
        lane: &mut dyn Lane,
        tasks: &mut BTreeMap<u32, Task>,
        partitions: &[(usize, u32)],
    ) -> Result<(), LogError> {
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
                task.inputs.insert(*topic, Input::at(next));
            }
        }
        Ok(())
    }

    /// How long the next poll may wait: until the next timer at most, and until the next partition resumes.
    fn wait(&self, tasks: &BTreeMap<u32, Task>) -> Duration {
        let now = self.setup.clock.now();
        let paused = tasks.values().filter_map(|task| task.paused_until);
        let paused = paused.map(|until| until.saturating_duration_since(Instant::now()));
        let resumes = paused.min().map_or(IDLE, |left| left.min(IDLE));
        let next = tasks.values().filter_map(Task::next_due).min();
        next.map_or(resumes, |due| {
            let left = u64::try_from(due.0.saturating_sub(now.0))
                .unwrap_or(0)
                .max(1);
            Duration::from_millis(left).min(resumes)
        })
    }

    /// Partitions that were paused for long enough read on from where they stopped.
    fn resume(lane: &mut dyn Lane, tasks: &mut BTreeMap<u32, Task>) -> Result<(), LogError> {
        let now = Instant::now();
        for (partition, task) in tasks {
            if task.paused_until.take_if(|until| *until <= now).is_some() {
                for (topic, input) in &mut task.inputs {
                    lane.seek(*topic, *partition, input.next)?;
                    input.last = now;
                }
            }
        }
        Ok(())
    }

    /// Processes what was read and what is due: in one transaction, unless outputs are large or a transaction has failed.
    fn process_batch(
        &mut self,
        lane: &mut dyn Lane,
        tasks: &mut BTreeMap<u32, Task>,
        mut batch: &[Fetched],
    ) -> Result<(), Failed> {
        self.limits.refresh();
        loop {
            let committed = self.transact(lane, tasks, batch)?;
            self.failures.committed(committed.items);
            batch = &batch[committed.records..];
            // What was read and is left comes again after a stop.
            if batch.is_empty() || self.stopping() {
                return Ok(());
            }
        }
    }
}
