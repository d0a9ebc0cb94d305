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
//! [`Transform::timer_failed`] when it comes again. Where a transform fails when it closes, the transaction is made again with half
//! of what it had, until one record or timer is left, which is the one that is remembered. Where something that a record or a
//! timer needs is not at hand, its partition alone stands still, and goes on from there after a pause.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use bytes::Bytes;

use super::{
    Context, Failure, Origin, Processor, Rejected, Timer, Transform, dlq, lag,
    lag::{LaneProgress, Progress},
    timers::Timers,
    transform::Gathered,
};
pub use crate::backoff::Backoff;
use crate::{
    chaos::{Bug, planted},
    clock::{Clock, Millis},
    log::{Class, Fetched, Lane, Log, LogError, Output, Polled, Transaction, Watermarks},
    state::{Space, StateStore},
};

/// How long a poll waits when there is nothing to do.
const IDLE: Duration = Duration::from_millis(100);
/// A lane's stack: a topology's programs drop and copy values that may lie deep within each other. What is not used is never there.
pub(super) const STACK: usize = 256 << 20;
/// Timers fired in one transaction, and what a partition's may emit, and how long they may take: what they emit leaves soon
/// after the time that they were told.
const TIMERS: usize = 1_000;
const TIMERS_EMIT: usize = 10_000;
const TIMERS_TAKE: Duration = Duration::from_millis(200);
/// Times that a transform may fail to say what becomes of a timer.
const FAILED_AGAIN: u32 = 8;
/// After this long without a record, all that lies before the end seen are markers of transactions.
const QUIET: Duration = Duration::from_millis(250);
const BACKOFF: Backoff = Backoff {
    first: Duration::from_millis(50),
    most: Duration::from_secs(5),
};

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
    /// Where it tells how it is.
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
                progress,
                processor,
                setup,
                stop: flag,
                poison: HashMap::new(),
                poison_timers: HashMap::new(),
                doubtful: 0,
                suspect: None,
            }
            .run();
        })?;
    Ok(Running {
        stop,
        thread: Some(thread),
    })
}

type At = (usize, u32, u64);

struct Runner {
    processor: Arc<dyn Processor>,
    topics: Vec<String>,
    setup: Setup,
    progress: LaneProgress,
    stop: Arc<AtomicBool>,
    /// Records that panicked, and why: they go to the dead-letter queue when they come again.
    poison: HashMap<At, Rejected>,
    /// Timers that failed, by partition and key: the transform is asked what becomes of them when they come again.
    poison_timers: HashMap<(u32, Bytes), PoisonTimer>,
    /// A transform failed when it closed: so many of the records and timers that come next hold the one that it fails for. 0: none.
    doubtful: usize,
    /// It was alone in a transaction that failed when it closed: the second time it is to blame.
    suspect: Option<Culprit>,
}

#[derive(Clone)]
struct PoisonTimer {
    due: Millis,
    rejected: Rejected,
    /// How often the transform failed with it.
    failures: u32,
}

/// One input partition.
struct Task {
    space: Space,
    transform: Box<dyn Transform>,
    timers: Timers,
    /// What was read of each input topic.
    inputs: BTreeMap<usize, Input>,
    /// What it has gathered in the open transaction. `None`: nothing was taken.
    gathered: Option<Gathered>,
    /// Timers were due at this time, and the inputs then ended here: they fire when that was read.
    due: Option<Due>,
    /// Something is not at hand: what comes meanwhile is passed over, and read again afterwards.
    stands: Option<Standstill>,
    /// How often in a row.
    stood: u32,
}

struct Input {
    next: u64,
    /// When the last record came.
    last: Instant,
    /// Records were taken since that was noted.
    taken: bool,
}

impl Input {
    fn at(next: u64) -> Self {
        Self {
            next,
            last: Instant::now(),
            taken: false,
        }
    }
}

struct Standstill {
    why: String,
    until: Instant,
}

struct Due {
    at: Millis,
    asked: Instant,
    ends: Vec<(usize, u64)>,
}

impl Task {
    fn stand(&mut self, why: String) {
        let pause = BACKOFF.pause(self.stood);
        if self.stood == 0 {
            tracing::info!(processor = %self.space.processor, partition = self.space.partition, %why, "the partition waits");
        }
        self.stood += 1;
        self.stands = Some(Standstill {
            why,
            until: Instant::now() + pause,
        });
    }

    fn next_due(&mut self) -> Option<Millis> {
        // What stands still fires nothing: its input is not read to the end.
        if self.stands.is_some() {
            return None;
        }
        self.timers.next_due()
    }

    fn caught_up(&self, due: &Due) -> bool {
        due.ends.iter().all(|(topic, end)| {
            self.inputs.get(topic).is_some_and(|input| {
                input.next >= *end || due.asked.elapsed() > QUIET && input.last.elapsed() > QUIET
            })
        })
    }
}

/// What a transaction failed for.
#[derive(Clone, PartialEq, Eq)]
enum Culprit {
    Record(At),
    Timer(u32, Bytes, Millis),
}

/// Why a batch did not become a transaction.
enum Failed {
    /// This record panicked, or failed after it had changed state; or this timer failed.
    Poison(Culprit, Rejected),
    /// A transform failed when it closed. So many records and timers were in the transaction, this one last.
    Close(Rejected, usize, Option<Culprit>),
    Log(LogError),
}

impl From<LogError> for Failed {
    fn from(error: LogError) -> Self {
        Self::Log(error)
    }
}

impl Runner {
    fn stopping(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn run(mut self) {
        let mut attempt = 0;
        while !self.stopping() {
            let error = match self.setup.log.lane(self.processor.name(), &self.topics) {
                // A panic outside a record's own processing is a fault of the transform: the lane is built anew, and says so.
                Ok(lane) => match catch_unwind(AssertUnwindSafe(|| self.serve(lane, &mut attempt)))
                {
                    Ok(Ok(())) => return,
                    Ok(Err(error)) => error,
                    Err(panic) => LogError::Fatal(panic_message(&*panic)),
                },
                Err(error) => error,
            };
            self.stalled(&error, attempt);
            attempt += 1;
        }
    }

    fn stalled(&self, error: &LogError, attempt: u32) {
        let pause = BACKOFF.pause(attempt);
        tracing::warn!(processor = self.processor.name(), %error, ?pause, "the lane stalls and tries again");
        self.progress.stalled(error.to_string());
        let until = Instant::now() + pause;
        while !self.stopping() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(20).min(pause));
        }
    }

    /// Runs until asked to stop (`Ok`) or until the lane is over.
    fn serve(&mut self, mut lane: Box<dyn Lane>, attempt: &mut u32) -> Result<(), LogError> {
        let mut tasks: BTreeMap<u32, Task> = BTreeMap::new();
        let mut batch = Vec::new();
        let mut ours: HashSet<(usize, u32)> = HashSet::new();
        while !self.stopping() {
            batch.clear();
            Self::go_on(&mut *lane, &mut tasks)?;
            let wait = self.wait(&mut tasks);
            let failed = match lane.poll(wait, &mut batch)? {
                Polled::Records => self.work_off(&mut *lane, &mut tasks, &batch).err(),
                Polled::Assigned(partitions) => {
                    ours.extend(&partitions);
                    self.open(&mut *lane, &mut tasks, &partitions)
                        .err()
                        .map(Failed::Log)
                }
                Polled::Revoked(partitions) | Polled::Lost(partitions) => {
                    // Each poll ends in its own transaction: nothing is open here.
                    for at in &partitions {
                        ours.remove(at);
                        tasks.remove(&at.1);
                        self.poison_timers.retain(|timer, _| timer.0 != at.1);
                        self.progress.gave_up(&self.topics[at.0], at.1);
                    }
                    lane.release(&partitions)?;
                    None
                }
            };
            let Some(failed) = failed else {
                *attempt = 0;
                match tasks.values().find_map(|task| task.stands.as_ref()) {
                    Some(stands) => self.progress.stalled(stands.why.clone()),
                    None => self.progress.running(),
                }
                continue;
            };
            match failed {
                Failed::Poison(culprit, rejected) => self.remember(culprit, rejected),
                Failed::Close(rejected, 1, Some(culprit)) => {
                    if self.suspect.as_ref() == Some(&culprit) {
                        self.remember(culprit, rejected);
                    } else {
                        self.suspect = Some(culprit);
                        self.doubtful = 1;
                    }
                }
                Failed::Close(rejected, taken, _) if taken > 1 => {
                    let processor = self.processor.name();
                    tracing::warn!(%processor, code = %rejected.code, why = %rejected.message, taken, "a transaction fails when it closes, and is made again with half of it");
                    self.doubtful = taken;
                }
                // Nothing that it was given is to blame.
                Failed::Close(rejected, ..) => {
                    let why = format!("the transform fails when it closes: {}", rejected.message);
                    self.stalled(&LogError::Unavailable(why), *attempt);
                    *attempt += 1;
                }
                Failed::Log(error) if error.class() == Class::Fatal => return Err(error),
                Failed::Log(error) => {
                    self.stalled(&error, *attempt);
                    *attempt += 1;
                }
            }
            tasks.clear();
            let again: Vec<_> = ours.iter().copied().collect();
            self.open(&mut *lane, &mut tasks, &again)?;
        }
        Ok(())
    }

    /// What failed is told from the rest when it comes again.
    fn remember(&mut self, culprit: Culprit, rejected: Rejected) {
        match culprit {
            Culprit::Record(at) => {
                self.poison.insert(at, rejected);
            }
            Culprit::Timer(partition, key, due) => {
                let processor = self.processor.name();
                tracing::warn!(%processor, partition, code = %rejected.code, why = %rejected.message, "a timer failed");
                let known = self.poison_timers.entry((partition, key));
                let failed = known.or_insert(PoisonTimer {
                    due,
                    rejected,
                    failures: 0,
                });
                // The first failure is the reason; what follows is about the same.
                failed.failures = if failed.due == due {
                    failed.failures + 1
                } else {
                    1
                };
                failed.due = due;
            }
        }
    }

    /// Records and timers of the next transaction.
    fn most(&self) -> usize {
        match self.doubtful {
            0 => usize::MAX,
            doubtful => doubtful.div_ceil(2),
        }
    }

    /// Processes a batch, in more than one transaction where larger ones failed.
    fn work_off(
        &mut self,
        lane: &mut dyn Lane,
        tasks: &mut BTreeMap<u32, Task>,
        batch: &[Fetched],
    ) -> Result<(), Failed> {
        let mut rest = batch;
        loop {
            let (now, later) = rest.split_at(rest.len().min(self.most()));
            let taken = self.transact(lane, tasks, now)?;
            self.doubtful = self.doubtful.saturating_sub(taken);
            rest = later;
            if rest.is_empty() || self.stopping() {
                return Ok(());
            }
        }
    }

    /// Restores state and makes transforms.
    fn open(
        &self,
        lane: &mut dyn Lane,
        tasks: &mut BTreeMap<u32, Task>,
        partitions: &[(usize, u32)],
    ) -> Result<(), LogError> {
        for (topic, partition) in partitions {
            let next = lane.open(*topic, *partition)?;
            self.progress.at(&self.topics[*topic], *partition, next);
            if !tasks.contains_key(partition) {
                let space = Space::new(self.processor.name(), *partition);
                let task = Task {
                    transform: self.processor.transform(&space, lane.state())?,
                    timers: Timers::load(lane.state(), &space)?,
                    space,
                    inputs: BTreeMap::new(),
                    gathered: None,
                    due: None,
                    stands: None,
                    stood: 0,
                };
                tasks.insert(*partition, task);
            }
            if let Some(task) = tasks.get_mut(partition) {
                task.inputs.insert(*topic, Input::at(next));
            }
        }
        Ok(())
    }

    /// How long the next poll may wait: until the next timer at most.
    fn wait(&self, tasks: &mut BTreeMap<u32, Task>) -> Duration {
        let now = self.setup.clock.now();
        let stands = tasks.values().filter_map(|t| t.stands.as_ref());
        let stands = stands.map(|s| s.until.saturating_duration_since(Instant::now()));
        let stands = stands.min().map_or(IDLE, |left| left.min(IDLE));
        let next = tasks.values_mut().filter_map(Task::next_due).min();
        next.map_or(stands, |due| {
            let left = u64::try_from(due.0 - now.0).unwrap_or(0).max(1);
            Duration::from_millis(left).min(stands)
        })
    }

    /// Partitions that have stood still long enough read on from where they stopped.
    fn go_on(lane: &mut dyn Lane, tasks: &mut BTreeMap<u32, Task>) -> Result<(), LogError> {
        let now = Instant::now();
        for (partition, task) in tasks {
            if task.stands.take_if(|stands| stands.until <= now).is_some() {
                for (topic, input) in &mut task.inputs {
                    lane.again(*topic, *partition, input.next)?;
                    input.last = now;
                }
            }
        }
        Ok(())
    }

    /// Processes what was read and what is due, and commits it. Answers how many records and timers these were.
    fn transact(
        &mut self,
        lane: &mut dyn Lane,
        tasks: &mut BTreeMap<u32, Task>,
        batch: &[Fetched],
    ) -> Result<usize, Failed> {
        let store = lane.state().clone();
        let mut transaction = Transaction::default();
        // One time for all of it, and not before the last one's records had left.
        let now = self.setup.clock.now();
        let mut taken = 0;
        let mut last = None;
        for input in batch {
            let Some(task) = tasks.get_mut(&input.partition) else {
                continue;
            };
            if task.stands.is_some() {
                continue;
            }
            let first = task.gathered.is_none();
            let at = (input.topic, input.partition, input.offset);
            if !self.poison.contains_key(&at) {
                taken += 1;
                last = Some(Culprit::Record(at));
            }
            if let Some(why) = self.process(task, &store, input, now)? {
                task.stand(why);
                if first {
                    // Nothing of this partition was taken: there is nothing to commit.
                    task.gathered = None;
                }
                continue;
            }
            task.stood = 0;
            for rejected in task.gathered.iter_mut().flat_map(|g| g.rejected.drain(..)) {
                let record = match origin(&*task.transform, input) {
                    Some(origin) => self.dead_letter(&origin.topic, &origin.record, rejected),
                    None => self.dead_letter(&self.topics[input.topic], input, rejected),
                };
                if !planted(Bug::LossyDlq) {
                    transaction.outputs.push(record);
                }
            }
            if let Some(read) = task.inputs.get_mut(&input.topic) {
                read.next = input.offset + 1;
                read.taken = true;
            }
        }
        // The time when they were worked off: after a slow batch a partition must not look quiet, or its timers would fire too soon.
        let processed = Instant::now();
        for read in tasks.values_mut().flat_map(|task| task.inputs.values_mut()) {
            if std::mem::take(&mut read.taken) {
                read.last = processed;
            }
        }
        let budget = TIMERS.min(self.most().saturating_sub(taken));
        let fired = self.fire(now, budget, lane, &store, tasks)?;
        taken += fired.len();
        if let Some((partition, key, due)) = fired.last() {
            last = Some(Culprit::Timer(*partition, key.clone(), *due));
        }
        let mut parts = Vec::new();
        for (partition, task) in tasks.iter_mut() {
            let Some(mut gathered) = task.gathered.take() else {
                continue;
            };
            let mut context = Context {
                space: &task.space,
                store: &store,
                timers: &mut task.timers,
                gathered: &mut gathered,
                now,
            };
            let transform = &mut task.transform;
            // As in `process`, nothing sees what a panic left half done.
            let closed = catch_unwind(AssertUnwindSafe(|| transform.close(&mut context)));
            if let Err(failure) = closed.unwrap_or_else(|panic| Err(panicked(&*panic))) {
                return Err(match failure {
                    Failure::State(error) => Failed::Log(error.into()),
                    Failure::Waiting(why) => Failed::Log(LogError::Unavailable(why)),
                    Failure::Rejected(rejected) => Failed::Close(rejected, taken, last),
                });
            }
            parts.push(*partition);
            transaction.outputs.append(&mut gathered.outputs);
            for (origin, rejected) in gathered.dead.drain(..) {
                let record = self.dead_letter(&origin.topic, &origin.record, rejected);
                transaction.outputs.push(record);
            }
            for (key, due, rejected) in gathered.dead_timers.drain(..) {
                let record = self.dead_timer(*partition, key, due, &rejected);
                transaction.outputs.push(record);
            }
            transaction.state.0.append(&mut gathered.changes.0);
            for (topic, input) in &task.inputs {
                transaction.positions.push((*topic, *partition, input.next));
            }
        }
        let positions = transaction.positions.clone();
        if !positions.is_empty() {
            lane.commit(transaction)?;
            let left = self.setup.clock.now();
            for partition in parts {
                if let Some(task) = tasks.get_mut(&partition) {
                    task.transform.committed(left);
                }
            }
        }
        for (partition, key, _) in fired {
            self.poison_timers.remove(&(partition, key));
        }
        let next = tasks.values_mut().filter_map(Task::next_due).min();
        self.progress.looked(lag::Timers { at: now, next });
        for (topic, partition, next) in positions {
            self.progress.at(&self.topics[topic], partition, next);
            self.poison
                .retain(|at, _| (at.0, at.1) != (topic, partition) || at.2 >= next);
        }
        Ok(taken)
    }

    /// `Some`: it was not taken, for something is not at hand.
    fn process(
        &self,
        task: &mut Task,
        store: &StateStore,
        input: &Fetched,
        now: Millis,
    ) -> Result<Option<String>, Failed> {
        let gathered = task.gathered.get_or_insert_default();
        let at = (input.topic, input.partition, input.offset);
        if let Some(rejected) = self.poison.get(&at) {
            gathered.rejected.push(rejected.clone());
            return Ok(None);
        }
        let mark = gathered.mark();
        let mut context = Context {
            space: &task.space,
            store,
            timers: &mut task.timers,
            gathered,
            now,
        };
        let transform = &mut task.transform;
        // The transform is dropped after a panic: nothing sees what it left half done.
        let result = catch_unwind(AssertUnwindSafe(|| transform.process(input, &mut context)));
        let rejected = match result {
            Ok(Ok(())) => return Ok(None),
            Ok(Err(Failure::Waiting(why))) if gathered.take_back(&mark) => return Ok(Some(why)),
            // State was changed already, which only a new start can take back.
            Ok(Err(Failure::Waiting(why))) => {
                return Err(Failed::Log(LogError::Unavailable(why)));
            }
            Ok(Err(Failure::State(error))) => return Err(Failed::Log(error.into())),
            Ok(Err(Failure::Rejected(rejected))) => {
                if gathered.take_back(&mark) {
                    gathered.rejected.push(rejected);
                    return Ok(None);
                }
                rejected
            }
            Err(panic) => panic_rejected(&*panic),
        };
        Err(Failed::Poison(Culprit::Record(at), rejected))
    }

    fn reason<'a>(&'a self, topic: &'a str, rejected: &'a Rejected) -> dlq::Reason<'a> {
        dlq::Reason {
            topic,
            stage: self.processor.name(),
            code: &rejected.code,
            message: &rejected.message,
            failed_at: self.setup.clock.now(),
        }
    }

    fn dead_timer(&self, partition: u32, key: Bytes, due: Millis, rejected: &Rejected) -> Output {
        let reason = self.reason("", rejected);
        self.progress.rejected();
        Output {
            topic: Arc::clone(&self.setup.dlq),
            partition: None,
            record: dlq::timer(key, due, partition, &reason),
        }
    }

    fn dead_letter(&self, topic: &str, input: &Fetched, mut rejected: Rejected) -> Output {
        let value = rejected.value.take();
        let reason = self.reason(topic, &rejected);
        self.progress.rejected();
        Output {
            topic: Arc::clone(&self.setup.dlq),
            partition: None,
            record: dlq::record(input, value, &reason),
        }
    }

    /// Fires the timers that are due and whose input has been read to the end that was seen at or after their time. Answers which.
    fn fire(
        &self,
        now: Millis,
        mut budget: usize,
        lane: &dyn Lane,
        store: &StateStore,
        tasks: &mut BTreeMap<u32, Task>,
    ) -> Result<Vec<(u32, Bytes, Millis)>, Failed> {
        let mut fired = Vec::new();
        let began = Instant::now();
        for (partition, task) in tasks {
            if task.next_due().is_none_or(|due| due > now) {
                task.due = None;
                continue;
            }
            let due = if let Some(due) = task.due.take() {
                due
            } else {
                let end = |topic: &usize| {
                    let Watermarks { end, .. } = lane.watermarks(*topic, *partition)?;
                    Ok((*topic, end))
                };
                let ends: Result<_, LogError> = task.inputs.keys().map(end).collect();
                Due {
                    at: now,
                    asked: Instant::now(),
                    ends: ends?,
                }
            };
            if !task.caught_up(&due) {
                task.due = Some(due);
                continue;
            }
            let first = task.gathered.is_none();
            let mut waiting = None;
            let before = fired.len();
            while budget > 0
                && began.elapsed() < TIMERS_TAKE
                && task
                    .gathered
                    .as_ref()
                    .is_none_or(|g| g.outputs.len() < TIMERS_EMIT)
                && let Some(one) = self.fire_one(*partition, task, store, due.at, now)?
            {
                budget -= 1;
                match one {
                    Fired::Done(key, due) => fired.push((*partition, key, due)),
                    Fired::Waiting(why) => {
                        waiting = Some(why);
                        break;
                    }
                }
            }
            let none = fired.len() == before;
            if !none {
                task.stood = 0;
            }
            if let Some(why) = waiting {
                task.stand(why);
            }
            if first && none {
                // Nothing of this partition was done: there is nothing to commit.
                task.gathered = None;
            }
        }
        Ok(fired)
    }

    /// Fires the first timer due by `by`; `None`: there is none.
    fn fire_one(
        &self,
        partition: u32,
        task: &mut Task,
        store: &StateStore,
        by: Millis,
        now: Millis,
    ) -> Result<Option<Fired>, Failed> {
        let gathered = task.gathered.get_or_insert_default();
        let Some((due, key)) = task.timers.take(by, &task.space, &mut gathered.changes) else {
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
            // The clock may have stepped back since the timer was found to be due.
            now: now.max(due),
        };
        let transform = &mut task.transform;
        let at = (partition, key.clone());
        let failed = self
            .poison_timers
            .get(&at)
            .filter(|failed| failed.due == due);
        let result = match failed {
            None => catch_unwind(AssertUnwindSafe(|| transform.fire(timer, &mut cx))),
            Some(failed) if failed.failures <= FAILED_AGAIN => {
                let rejected = failed.rejected.clone();
                catch_unwind(AssertUnwindSafe(|| {
                    transform.timer_failed(timer, rejected, &mut cx)
                }))
            }
            Some(failed) => {
                cx.reject_timer(timer, failed.rejected.clone());
                Ok(Ok(()))
            }
        };
        match result.unwrap_or_else(|panic| Err(panicked(&*panic))) {
            Ok(()) => Ok(Some(Fired::Done(key, due))),
            Err(Failure::State(error)) => Err(Failed::Log(error.into())),
            Err(Failure::Waiting(why)) if gathered.take_back(&mark) => {
                task.timers.put_back(key, due, &mut gathered.changes);
                Ok(Some(Fired::Waiting(why)))
            }
            Err(Failure::Waiting(why)) => Err(Failed::Log(LogError::Unavailable(why))),
            Err(Failure::Rejected(rejected)) => Err(Failed::Poison(
                Culprit::Timer(partition, key, due),
                rejected,
            )),
        }
    }
}

/// What became of a timer that was due.
enum Fired {
    Done(Bytes, Millis),
    /// Something is not at hand: it is as if it had not fired.
    Waiting(String),
}

/// As [`Transform::origin`]: where that panics the record is the input itself.
fn origin(transform: &dyn Transform, input: &Fetched) -> Option<Origin> {
    catch_unwind(AssertUnwindSafe(|| transform.origin(input))).unwrap_or_default()
}

fn panicked(panic: &(dyn std::any::Any + Send)) -> Failure {
    Failure::Rejected(panic_rejected(panic))
}

fn panic_rejected(panic: &(dyn std::any::Any + Send)) -> Rejected {
    Rejected {
        code: "panic".into(),
        message: panic_message(panic),
        value: None,
    }
}

/// What a panic said.
pub(super) fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic
        .downcast_ref::<&str>()
        .map(|s| (*s).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned());
    text.unwrap_or_else(|| "panicked".to_owned())
}
