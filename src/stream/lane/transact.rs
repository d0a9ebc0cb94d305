//! One transaction of a lane: records, timers, `close` of the transforms, and the commit.

use std::{
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;

use super::{
    failures::{Culprit, Failed, InputOffset, KnownTimer, panicked},
    task::{Due, Task},
    transforms::Transforms,
};
use crate::{
    base::clock::Millis,
    chaos::{Bug, planted},
    log::{Fetched, Lane, LogError, OffsetRange, Output, Transaction, record_size},
    state::StateStore,
    stream::{
        Context, Failure, Origin, Rejected, Timer, Transform, dlq, progress,
        size_limits::TRANSACTION_BYTES,
        transform::{Dead, Gathered},
    },
};

/// Limits of the timers in one transaction: their number, the outputs of a partition, and their duration, so that outputs are written
/// soon after the time that the timers were given.
const TIMERS: usize = 1_000;
const TIMERS_EMIT: usize = 10_000;
const TIMERS_TAKE: Duration = Duration::from_millis(200);

/// The content of a committed transaction.
pub(super) struct Committed {
    /// The number of records of the batch that were consumed.
    pub(super) records: usize,
    /// The number of records and timers that transforms processed.
    pub(super) items: usize,
    /// The number of timers.
    pub(super) timers: usize,
}

/// A fired timer: partition, key, due time.
type Fired = (u32, Bytes, Millis);

/// The result of firing a timer.
enum Firing {
    Done(Bytes, Millis),
    /// Something that it needs is unavailable; the timer was put back.
    Waiting(String),
}

impl Transforms {
    /// Processes records and due timers, and commits. Timers fire only after the whole batch was processed.
    pub(super) fn transact(
        &mut self,
        lane: &mut dyn Lane,
        tasks: &mut BTreeMap<u32, Task>,
        batch: &[Fetched],
    ) -> Result<Committed, Failed> {
        let store = lane.state().clone();
        let mut transaction = Transaction::default();
        for task in tasks.values_mut() {
            task.timers
                .refill(&store, &task.space)
                .map_err(LogError::from)?;
        }
        // The same time for the whole transaction; it is later than the previous commit.
        let now = self.setup.clock.now();
        let (mut records, mut items, mut bytes) = (0, 0, 0);
        let mut last = None;
        for input in batch {
            if bytes > TRANSACTION_BYTES || items >= self.failures.batch_limit() {
                break;
            }
            records += 1;
            let Some(task) = tasks.get_mut(&input.partition) else {
                continue;
            };
            if task.paused_until.is_some() {
                continue;
            }
            let at = (input.topic, input.partition, input.offset);
            if self.failures.record(&at).is_none() {
                items += 1;
                last = Some(Culprit::Record(at));
            }
            let (first, before) = (task.gathered.is_none(), task.bytes());
            if let Some(why) = self.process(task, &store, input, now)? {
                task.pause(why, self.setup.clock.monotonic(), &mut self.jitter);
                if first {
                    // No record of this partition was processed, so there is nothing to commit.
                    task.gathered = None;
                }
                continue;
            }
            task.pauses = 0;
            task.waits_for = None;
            bytes += self.letters(task, input, &mut transaction)?;
            bytes += task.bytes() - before;
            if let Some(read) = task.inputs.get_mut(&input.topic) {
                read.next = input.offset + 1;
                read.taken = true;
            }
        }
        // The time when they were processed: after a slow batch a partition must not look quiet.
        let processed = self.setup.clock.monotonic();
        for read in tasks.values_mut().flat_map(|task| task.inputs.values_mut()) {
            if std::mem::take(&mut read.taken) {
                read.last = processed;
            }
        }
        let mut fired = Vec::new();
        if records == batch.len() {
            let budget = TIMERS.min(self.failures.batch_limit().saturating_sub(items));
            fired = self.fire((now, processed), budget, lane, &store, tasks)?;
        }
        let timers = fired.len();
        items += timers;
        if let Some((partition, key, due)) = fired.last() {
            last = Some(Culprit::Timer(*partition, key.clone(), *due));
        }
        let mut parts = Vec::new();
        for (partition, task) in tasks.iter_mut() {
            let Some(gathered) = task.gathered.take() else {
                continue;
            };
            self.close(task, gathered, (&store, now), &mut transaction)
                .map_err(|failed| match failed {
                    Failed::Close(rejected, ..) => Failed::Close(rejected, items, last.clone()),
                    other => other,
                })?;
            parts.push(*partition);
            for (topic, input) in &task.inputs {
                transaction.positions.push((*topic, *partition, input.next));
            }
        }
        self.commit(lane, tasks, transaction, &parts)?;
        for (partition, key, _) in fired {
            self.failures.forget_timer(partition, key);
        }
        let next = tasks.values().filter_map(Task::next_due).min();
        self.progress
            .timers_checked(progress::Timers { at: now, next });
        Ok(Committed {
            records,
            items,
            timers,
        })
    }

    fn commit(
        &mut self,
        lane: &mut dyn Lane,
        tasks: &mut BTreeMap<u32, Task>,
        transaction: Transaction,
        parts: &[u32],
    ) -> Result<(), LogError> {
        let positions = transaction.positions.clone();
        if positions.is_empty() {
            return Ok(());
        }
        lane.commit(transaction)?;
        for code in self.rejected.borrow_mut().drain(..) {
            self.progress.rejected(self.processor.name(), &code);
        }
        let left = self.setup.clock.now();
        for partition in parts {
            if let Some(task) = tasks.get_mut(partition) {
                task.transform.committed(left);
            }
        }
        for (topic, partition, next) in positions {
            self.progress
                .set_position(&self.topics[topic], partition, next);
            self.failures.forget_records((topic, partition, next));
        }
        Ok(())
    }

    /// Returns a reason if the record was not processed because something is unavailable.
    fn process(
        &self,
        task: &mut Task,
        store: &StateStore,
        input: &Fetched,
        now: Millis,
    ) -> Result<Option<String>, Failed> {
        let gathered = task
            .gathered
            .get_or_insert_with(|| Gathered::within(&self.limits));
        let at: InputOffset = (input.topic, input.partition, input.offset);
        let mark = gathered.mark();
        if let Some(rejected) = self.failures.record(&at) {
            gathered.rejected.push(rejected.clone());
            return Ok(None);
        }
        let mut context = Context {
            space: &task.space,
            store,
            timers: &mut task.timers,
            gathered,
            now,
        };
        let transform = &mut task.transform;
        // The transform is dropped after a panic, so its inconsistent state is never used.
        let result = catch_unwind(AssertUnwindSafe(|| transform.process(input, &mut context)));
        let rejected = match result {
            Ok(Ok(())) => match gathered.take_oversize() {
                None => return Ok(None),
                // The transform's memory already reflects the record, which only an abort can revert.
                Some(rejected) => rejected,
            },
            Ok(Err(Failure::Waiting(why))) if gathered.take_back(&mark) => return Ok(Some(why)),
            // State was changed already, which only an abort can revert.
            Ok(Err(Failure::Waiting(why))) => {
                return Err(Failed::waits_for(why));
            }
            Ok(Err(Failure::State(error))) => return Err(Failed::Log(error.into())),
            Ok(Err(Failure::Rejected(rejected))) if gathered.take_back(&mark) => {
                gathered.rejected.push(rejected);
                return Ok(None);
            }
            Ok(Err(Failure::Rejected(rejected))) => rejected,
            Err(panic) => panicked(&*panic),
        };
        Err(Failed::Poison(Box::new((Culprit::Record(at), rejected))))
    }

    /// Adds the dead letters of a record to the transaction; returns their size in bytes.
    fn letters(
        &self,
        task: &mut Task,
        input: &Fetched,
        transaction: &mut Transaction,
    ) -> Result<usize, LogError> {
        let Some(gathered) = task.gathered.as_mut().filter(|g| !g.rejected.is_empty()) else {
            return Ok(0);
        };
        let origin = origin(&*task.transform, input);
        let (topic, record) = match &origin {
            Some(origin) => (&*origin.topic, &origin.record),
            None => (&*self.topics[input.topic], input),
        };
        let mut bytes = 0;
        for rejected in std::mem::take(&mut gathered.rejected) {
            let bare = !gathered.may_repeat(record);
            let letter = self.dead_letter(topic, record, rejected, bare)?;
            bytes += record_size(&letter.record);
            if !planted(Bug::LossyDlq) {
                transaction.outputs.push(letter);
            }
        }
        Ok(bytes)
    }

    /// Adds the results of a partition to the transaction.
    fn close(
        &self,
        task: &mut Task,
        mut gathered: Gathered,
        (store, now): (&StateStore, Millis),
        transaction: &mut Transaction,
    ) -> Result<(), Failed> {
        let mut context = Context {
            space: &task.space,
            store,
            timers: &mut task.timers,
            gathered: &mut gathered,
            now,
        };
        context.timers.upgrade(&mut context.gathered.writes);
        let transform = &mut task.transform;
        // As in `process`, inconsistent state after a panic is never used.
        let closed = catch_unwind(AssertUnwindSafe(|| transform.close(&mut context)));
        let closed = closed.unwrap_or_else(|panic| Err(panicked(&*panic).into()));
        let oversize = gathered.take_oversize();
        match (closed, oversize) {
            (Ok(()), None) => {}
            (Err(Failure::State(error)), _) => return Err(Failed::Log(error.into())),
            (Err(Failure::Waiting(why)), _) => {
                return Err(Failed::waits_for(why));
            }
            (Err(Failure::Rejected(rejected)), _) => {
                return Err(Failed::Close(Box::new(rejected), 0, None));
            }
            // All records of the transaction contribute: fewer of them may fit, and a single one is the cause.
            (Ok(()), Some(rejected)) => return Err(Failed::Close(Box::new(rejected), 0, None)),
        }
        transaction.outputs.append(&mut gathered.outputs);
        for Dead {
            origin,
            rejected,
            bare,
        } in gathered.dead.drain(..)
        {
            let letter = self.dead_letter(&origin.topic, &origin.record, rejected, bare)?;
            transaction.outputs.push(letter);
        }
        for (key, due, rejected) in gathered.dead_timers.drain(..) {
            let letter = self.dead_timer(task.space.partition, key, due, rejected);
            transaction.outputs.push(letter);
        }
        let mut changes = gathered.writes.take(&task.space);
        transaction.state.0.append(&mut changes.0);
        Ok(())
    }

    fn reason<'a>(&'a self, topic: &'a str, rejected: &'a Rejected) -> dlq::Reason<'a> {
        dlq::Reason {
            topic,
            stage: rejected.stage.as_deref().unwrap_or(self.processor.name()),
            code: &rejected.code,
            message: &rejected.message,
            failed_at: self.setup.clock.now(),
        }
    }

    /// A dead letter, truncated to the size limit of the dead-letter topic.
    fn dead_letter(
        &self,
        topic: &str,
        input: &Fetched,
        mut rejected: Rejected,
        bare: bool,
    ) -> Result<Output, LogError> {
        let queue = &self.setup.dlq;
        let value = rejected.value.take();
        let reason = self.reason(topic, &rejected);
        let limit = self.limits.topic(queue);
        let letter = dlq::fitted(input, value, &reason, bare, limit);
        let record = letter.ok_or_else(|| dlq::too_narrow(queue, limit))?;
        self.rejected.borrow_mut().push(rejected.code);
        Ok(Output {
            topic: Arc::clone(queue),
            partition: None,
            record,
        })
    }

    fn dead_timer(&self, partition: u32, key: Bytes, due: Millis, rejected: Rejected) -> Output {
        let record = dlq::timer(key, due, partition, &self.reason("", &rejected));
        self.rejected.borrow_mut().push(rejected.code);
        Output {
            topic: Arc::clone(&self.setup.dlq),
            partition: None,
            record,
        }
    }

    /// Fires due timers whose input was read to the end offset seen when they became due. Returns the fired ones.
    fn fire(
        &mut self,
        (now, began): (Millis, Duration),
        mut budget: usize,
        lane: &mut dyn Lane,
        store: &StateStore,
        tasks: &mut BTreeMap<u32, Task>,
    ) -> Result<Vec<Fired>, Failed> {
        let mut fired = Vec::new();
        for (partition, task) in tasks {
            if task.next_due().is_none_or(|due| due > now) {
                task.due = None;
                continue;
            }
            let mut due = match task.due.take() {
                Some(due) => due,
                None => ends(lane, *partition, task, (now, began))?,
            };
            if !task.caught_up(&mut due, lane, began)? {
                task.due = Some(due);
                continue;
            }
            let first = task.gathered.is_none();
            let mut waiting = None;
            let before = fired.len();
            while budget > 0
                && self.setup.clock.monotonic().saturating_sub(began) < TIMERS_TAKE
                && task.gathered.as_ref().is_none_or(|gathered| {
                    gathered.outputs.len() < TIMERS_EMIT && gathered.bytes < TRANSACTION_BYTES
                })
                && let Some(one) = self.fire_one(*partition, task, store, due.at, now)?
            {
                budget -= 1;
                match one {
                    Firing::Done(key, due) => fired.push((*partition, key, due)),
                    Firing::Waiting(why) => {
                        waiting = Some(why);
                        break;
                    }
                }
            }
            let none = fired.len() == before;
            if !none {
                task.pauses = 0;
                task.waits_for = None;
            }
            if let Some(why) = waiting {
                task.pause(why, self.setup.clock.monotonic(), &mut self.jitter);
            }
            if first && none {
                // No timer of this partition fired, so there is nothing to commit.
                task.gathered = None;
            }
        }
        Ok(fired)
    }

    /// Fires the first timer due by `by`; returns `None` if there is none.
    fn fire_one(
        &self,
        partition: u32,
        task: &mut Task,
        store: &StateStore,
        by: Millis,
        now: Millis,
    ) -> Result<Option<Firing>, Failed> {
        let gathered = task
            .gathered
            .get_or_insert_with(|| Gathered::within(&self.limits));
        let Some((due, key)) = task.timers.take(by, &mut gathered.writes) else {
            return Ok(None);
        };
        let mark = gathered.mark();
        let mut cx = Context {
            space: &task.space,
            store,
            timers: &mut task.timers,
            gathered,
            now,
        };
        let timer = Timer {
            key: &key,
            due,
            // The clock may have gone back since the timer became due.
            now: now.max(due),
        };
        let transform = &mut task.transform;
        let result = match self.failures.timer(partition, &key, due) {
            None => catch_unwind(AssertUnwindSafe(|| transform.fire(timer, &mut cx))),
            Some(KnownTimer::Failed(rejected)) => catch_unwind(AssertUnwindSafe(|| {
                transform.timer_failed(timer, rejected, &mut cx)
            })),
            Some(KnownTimer::GivenUp(rejected)) => {
                cx.reject_timer(timer, rejected);
                Ok(Ok(()))
            }
        };
        let poison = |rejected, key| {
            let culprit = Culprit::Timer(partition, key, due);
            Err(Failed::Poison(Box::new((culprit, rejected))))
        };
        match result.unwrap_or_else(|panic| Err(panicked(&*panic).into())) {
            Ok(()) => match gathered.take_oversize() {
                None => Ok(Some(Firing::Done(key, due))),
                Some(rejected) => poison(rejected, key),
            },
            Err(Failure::State(error)) => Err(Failed::Log(error.into())),
            Err(Failure::Waiting(why)) if gathered.take_back(&mark) => {
                task.timers.put_back(key, due, &mut gathered.writes);
                Ok(Some(Firing::Waiting(why)))
            }
            Err(Failure::Waiting(why)) => Err(Failed::waits_for(why)),
            Err(Failure::Rejected(rejected)) => poison(rejected, key),
        }
    }
}

/// The current end offsets of a partition's inputs.
fn ends(
    lane: &dyn Lane,
    partition: u32,
    task: &Task,
    (now, checked): (Millis, Duration),
) -> Result<Due, LogError> {
    let end = |topic: &usize| {
        let OffsetRange { end, .. } = lane.offset_range(*topic, partition)?;
        Ok((*topic, end))
    };
    let ends: Result<_, LogError> = task.inputs.keys().map(end).collect();
    Ok(Due {
        at: now,
        checked,
        ends: ends?,
    })
}

/// [`Transform::origin`], or `None` (the input itself) if it panics.
fn origin(transform: &dyn Transform, input: &Fetched) -> Option<Origin> {
    catch_unwind(AssertUnwindSafe(|| transform.origin(input))).unwrap_or_default()
}
