//! The handler of a lane's input: one transform for each input partition.

use std::{
    borrow::Cow,
    cell::RefCell,
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use rand::rngs::StdRng;

use super::{
    Setup,
    failures::{Failed, Failures},
    task::{Input, Task},
};
use crate::{
    log::{Class, Fetched, Lane, LogError},
    state::Space,
    stream::{
        Processor,
        consumer::{Fault, Handler, Next, Partitions, State, Step},
        progress::LaneProgress,
        size_limits::SizeLimits,
        timers::Timers,
    },
};

/// The transforms of a lane, and what survives an abort.
pub(super) struct Transforms {
    pub(super) processor: Arc<dyn Processor>,
    pub(super) topics: Vec<String>,
    pub(super) setup: Setup,
    pub(super) progress: Arc<LaneProgress>,
    pub(super) stop: Arc<AtomicBool>,
    /// By input partition.
    pub(super) tasks: BTreeMap<u32, Task>,
    /// Whether a transaction was aborted, so that the tasks must be recreated.
    pub(super) aborted: bool,
    /// Why an operator holds the processor: records that arrive meanwhile are skipped, and read again afterwards.
    pub(super) held: Option<String>,
    /// Whether the lane was paused, so that it fetches nothing.
    pub(super) paused: bool,
    /// Records and timers that failed and will be repeated.
    pub(super) failures: Failures,
    /// Size limits of topics and keyed state.
    pub(super) limits: Arc<SizeLimits>,
    /// Codes of the dead letters in the open transaction, counted after its commit.
    pub(super) rejected: RefCell<Vec<Cow<'static, str>>>,
    /// The random source for the jitter of pauses.
    pub(super) jitter: StdRng,
}

impl Handler for Transforms {
    type Input = dyn Lane;

    fn join(&mut self) -> Result<Box<dyn Lane>, LogError> {
        let log = &self.setup.log;
        let mut lane = log.lane(self.processor.name(), &self.topics)?;
        lane.stop_with(Arc::clone(&self.stop));
        if self.processor.is_awaited() {
            lane.hurry();
        }
        Ok(lane)
    }

    fn next(&mut self, lane: &mut Self::Input, assigned: &Partitions) -> Result<Next, Fault> {
        if self.aborted {
            let assigned: Vec<_> = assigned.iter().copied().collect();
            self.open(lane, &assigned)?;
            self.aborted = false;
            return Ok(Next::Done(Step::Restored));
        }
        self.held = self.processor.held();
        if self.held.is_some() {
            if !self.paused && !self.tasks.is_empty() {
                lane.pause();
                self.paused = true;
            }
            return Ok(Next::Poll(Duration::MAX));
        }
        if std::mem::take(&mut self.paused) {
            self.read_on(lane)?;
        }
        self.resume(lane)?;
        self.wake();
        Ok(Next::Poll(self.wakes_in().unwrap_or(Duration::MAX)))
    }

    fn records(
        &mut self,
        lane: &mut Self::Input,
        batch: &mut Vec<Fetched>,
        _: &Partitions,
    ) -> Result<Step, Fault> {
        if self.held.is_some() {
            return Ok(Step::Processed {
                records: 0,
                timers: 0,
            });
        }
        self.process_batch(lane, batch)
            .or_else(|failed| self.abort(failed))
    }

    fn assigned(
        &mut self,
        lane: &mut Self::Input,
        partitions: &[(usize, u32)],
    ) -> Result<(), Fault> {
        let opened = self.open(lane, partitions);
        opened.or_else(|error| self.abort(Failed::Log(error)).map(drop))
    }

    fn revoked(
        &mut self,
        _: &mut Self::Input,
        partitions: &[(usize, u32)],
        _: bool,
    ) -> Result<(), LogError> {
        // Each poll is committed in its own transaction, so nothing is uncommitted here.
        for (_, partition) in partitions {
            self.tasks.remove(partition);
            self.failures.revoked(*partition);
        }
        Ok(())
    }

    fn over(&mut self) {
        self.drop_uncommitted();
        self.aborted = false;
        self.paused = false;
    }

    fn state(&self) -> Option<State<'_>> {
        if let Some(why) = &self.held {
            return Some(State::Held(why));
        }
        let waits_for = self.tasks.values().find_map(|task| task.waits_for.as_ref());
        Some(waits_for.map_or(State::Running, |what| State::Waiting(what)))
    }
}

impl Transforms {
    fn stopping(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn drop_uncommitted(&mut self) {
        self.tasks.clear();
        self.limits.forget();
        self.rejected.borrow_mut().clear();
    }

    /// Handles a failed transaction, of which nothing was committed: the next step recreates the transforms.
    fn abort(&mut self, failed: Failed) -> Result<Step, Fault> {
        self.drop_uncommitted();
        self.aborted = true;
        match self.note(failed) {
            None => Ok(Step::Aborted),
            Some(error) if error.class() == Class::Fatal => Err(Fault::Over(error)),
            Some(error) => Err(Fault::Retry(error)),
        }
    }

    /// Records the cause of a failed transaction. Returns the error if the cause is not one of its records or timers.
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

    /// Restores the state and creates the transforms.
    fn open(&mut self, lane: &mut dyn Lane, partitions: &[(usize, u32)]) -> Result<(), LogError> {
        lane.prepare(partitions)?;
        for (topic, partition) in partitions {
            let name = &self.topics[*topic];
            self.progress
                .starting(format!("the state of {name}/{partition} is restored"));
            let next = lane.open(*topic, *partition)?;
            self.progress.set_position(name, *partition, next);
            if !self.tasks.contains_key(partition) {
                let space = Space::new(self.processor.name(), *partition);
                let transform = self.processor.transform(&space, lane.state())?;
                let timers = Timers::load(lane.state(), &space)?;
                self.tasks
                    .insert(*partition, Task::new(space, transform, timers));
            }
            if let Some(task) = self.tasks.get_mut(partition) {
                task.inputs
                    .insert(*topic, Input::at(next, self.setup.clock.monotonic()));
            }
        }
        if self.held.is_some() && !partitions.is_empty() {
            lane.pause();
            self.paused = true;
        }
        Ok(())
    }

    /// Reads all partitions from where they were when the processor was held.
    fn read_on(&mut self, lane: &mut dyn Lane) -> Result<(), LogError> {
        let now = self.setup.clock.monotonic();
        for (partition, task) in &mut self.tasks {
            task.paused_until = None;
            for (topic, input) in &mut task.inputs {
                lane.seek(*topic, *partition, input.next)?;
                input.last = now;
            }
        }
        Ok(())
    }

    /// How long until the next timer is due or a paused partition resumes; `None` if there is neither.
    pub(super) fn wakes_in(&self) -> Option<Duration> {
        let (now, monotonic) = (self.setup.clock.now(), self.setup.clock.monotonic());
        let tasks = self.tasks.values();
        let paused = tasks.clone().filter_map(|task| task.paused_until);
        let resumes = paused.min().map(|until| until.saturating_sub(monotonic));
        let due = tasks.filter_map(Task::next_due).min().map(|due| {
            // A timer that is due already waits until the input is read.
            let left = due.0.saturating_sub(now.0).max(1);
            Duration::from_millis(left as u64)
        });
        resumes.into_iter().chain(due).min()
    }

    /// Resumes partitions whose pause has ended.
    fn resume(&mut self, lane: &mut dyn Lane) -> Result<(), LogError> {
        let now = self.setup.clock.monotonic();
        for (partition, task) in &mut self.tasks {
            if task.paused_until.take_if(|until| *until <= now).is_some() {
                for (topic, input) in &mut task.inputs {
                    lane.seek(*topic, *partition, input.next)?;
                    input.last = now;
                }
            }
        }
        Ok(())
    }

    /// Lets a timer fire in each partition whose transform asks for it.
    fn wake(&mut self) {
        let now = self.setup.clock.now();
        for task in self.tasks.values_mut() {
            if let Some(key) = task.transform.wakes() {
                task.timers.fire_now(key, now);
            }
        }
    }

    /// Processes records and due timers in one transaction, or in several if outputs are large or a transaction failed before.
    fn process_batch(&mut self, lane: &mut dyn Lane, batch: &[Fetched]) -> Result<Step, Failed> {
        self.limits.refresh();
        let (mut left, mut timers) = (batch, 0);
        // After a failure they are recreated.
        let mut tasks = std::mem::take(&mut self.tasks);
        loop {
            let committed = self.transact(lane, &mut tasks, left)?;
            self.failures.committed(committed.items);
            timers += committed.timers;
            left = &left[committed.records..];
            // The remaining records are read again after a stop.
            if left.is_empty() || self.stopping() {
                self.tasks = tasks;
                return Ok(Step::Processed {
                    records: batch.len() - left.len(),
                    timers,
                });
            }
        }
    }
}
