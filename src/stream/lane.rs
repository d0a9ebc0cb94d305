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
//! when the record comes again it goes to the dead-letter queue. Where something that a record needs is not at hand, its partition
//! alone stands still, and reads on from that record after a pause.

use std::{
    borrow::Cow,
    cell::RefCell,
    collections::{BTreeMap, HashMap, HashSet},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use super::{
    Context, Failure, Origin, Processor, Rejected, Transform, dlq,
    progress::{self, LaneProgress, Progress},
    size_limits::{SizeLimits, TRANSACTION_BYTES},
    timers::Timers,
    transform::{Dead, Gathered, Oversize},
};
pub use crate::backoff::Backoff;
use crate::{
    chaos::{Bug, planted},
    clock::{Clock, Millis},
    log::{
        Class, Fetched, Lane, Log, LogError, Output, Polled, Transaction, Watermarks, record_size,
    },
    state::{Space, StateStore},
};

/// How long a poll waits when there is nothing to do.
const IDLE: Duration = Duration::from_millis(100);
/// Timers fired in one transaction.
const TIMERS: usize = 1_000;
/// After this long without a record, all that lies before the end seen are markers of transactions.
const QUIET: Duration = Duration::from_millis(250);
const BACKOFF: Backoff = Backoff {
    first: Duration::from_millis(50),
    most: Duration::from_secs(1),
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
        .spawn(move || {
            Runner {
                topics: processor.topics(),
                limits: SizeLimits::new(&setup.log, processor.name()),
                progress,
                processor,
                setup,
                stop: flag,
                poison: HashMap::new(),
                rejected: RefCell::default(),
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
    /// What topics and keyed state take.
    limits: Arc<SizeLimits>,
    /// Codes of the dead letters of the open transaction: they count once it is committed.
    rejected: RefCell<Vec<Cow<'static, str>>>,
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
    /// What it waits for, until the record that needs it was taken.
    waits_for: Option<String>,
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
        self.waits_for = Some(why);
        self.stands = Some(Standstill {
            until: Instant::now() + pause,
        });
    }

    fn next_due(&self) -> Option<Millis> {
        // What stands still fires nothing: its input is not read to the end.
        if self.stands.is_some() {
            return None;
        }
        self.timers.next_due()
    }

    /// Bytes that it has gathered.
    fn bytes(&self) -> usize {
        self.gathered.as_ref().map_or(0, |gathered| gathered.bytes)
    }

    fn caught_up(&self, due: &Due) -> bool {
        due.ends.iter().all(|(topic, end)| {
            self.inputs.get(topic).is_some_and(|input| {
                input.next >= *end || due.asked.elapsed() > QUIET && input.last.elapsed() > QUIET
            })
        })
    }
}

/// Why a batch did not become a transaction.
enum Failed {
    /// This record panicked, or failed after it had changed state.
    Poison(At, Rejected),
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
            self.stalled(&error, attempt);
            attempt += 1;
        }
    }

    fn stalled(&self, error: &LogError, attempt: u32) {
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
        let mut ours: HashSet<(usize, u32)> = HashSet::new();
        let mut member = false;
        while !self.stopping() {
            batch.clear();
            Self::go_on(&mut *lane, &mut tasks)?;
            let wait = self.wait(&mut tasks);
            let failed = match lane.poll(wait, &mut batch)? {
                Polled::Records => self.work_off(&mut *lane, &mut tasks, &batch).err(),
                Polled::Assigned(partitions) => {
                    ours.extend(&partitions);
                    member = true;
                    self.progress.assigned(|topic, partition| {
                        ours.iter()
                            .any(|(t, p)| self.topics[*t] == topic && *p == partition)
                    });
                    self.open(&mut *lane, &mut tasks, &partitions)
                        .err()
                        .map(Failed::Log)
                }
                Polled::Revoked(partitions) | Polled::Lost(partitions) => {
                    // Each poll ends in its own transaction: nothing is open here.
                    for at in &partitions {
                        ours.remove(at);
                        tasks.remove(&at.1);
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
            match failed {
                Failed::Poison(at, rejected) => {
                    self.poison.insert(at, rejected);
                }
                Failed::Log(error) if error.class() == Class::Fatal => return Err(error),
                Failed::Log(error) => {
                    self.stalled(&error, *attempt);
                    *attempt += 1;
                }
            }
            self.limits.forget();
            tasks.clear();
            self.rejected.borrow_mut().clear();
            // The next start takes up what is committed; to ask for it now may take long.
            if self.stopping() {
                break;
            }
            let again: Vec<_> = ours.iter().copied().collect();
            self.open(&mut *lane, &mut tasks, &again)?;
        }
        Ok(())
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
                let task = Task {
                    transform: self.processor.transform(&space, lane.state())?,
                    timers: Timers::load(lane.state(), &space)?,
                    space,
                    inputs: BTreeMap::new(),
                    gathered: None,
                    due: None,
                    stands: None,
                    stood: 0,
                    waits_for: None,
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
        let next = tasks.values().filter_map(Task::next_due).min();
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

    /// Processes what was read and what is due, in as many transactions as the outputs' sizes ask for.
    fn work_off(
        &mut self,
        lane: &mut dyn Lane,
        tasks: &mut BTreeMap<u32, Task>,
        mut batch: &[Fetched],
    ) -> Result<(), Failed> {
        self.limits.refresh();
        loop {
            let taken = self.transact(lane, tasks, batch)?;
            batch = &batch[taken..];
            // What was read and is left comes again after a stop.
            if batch.is_empty() || self.stopping() {
                return Ok(());
            }
        }
    }

    /// Processes what was read and what is due, and commits it. Answers with the number of records that it took; timers fire only
    /// when these were all.
    fn transact(
        &mut self,
        lane: &mut dyn Lane,
        tasks: &mut BTreeMap<u32, Task>,
        batch: &[Fetched],
    ) -> Result<usize, Failed> {
        let store = lane.state().clone();
        let mut transaction = Transaction::default();
        for task in tasks.values_mut() {
            task.timers
                .refill(&store, &task.space)
                .map_err(LogError::from)?;
        }
        let (mut taken, mut bytes) = (0, 0);
        for input in batch {
            if bytes > TRANSACTION_BYTES {
                break;
            }
            taken += 1;
            let Some(task) = tasks.get_mut(&input.partition) else {
                continue;
            };
            if task.stands.is_some() {
                continue;
            }
            let (first, before) = (task.gathered.is_none(), task.bytes());
            if let Some(why) = self.process(task, &store, input)? {
                task.stand(why);
                if first {
                    // Nothing of this partition was taken: there is nothing to commit.
                    task.gathered = None;
                }
                continue;
            }
            task.stood = 0;
            task.waits_for = None;
            if let Some(gathered) = task.gathered.as_mut().filter(|g| !g.rejected.is_empty()) {
                let origin = task.transform.origin(input);
                let (topic, record) = match &origin {
                    Some(origin) => (&*origin.topic, &origin.record),
                    None => (&*self.topics[input.topic], input),
                };
                for rejected in std::mem::take(&mut gathered.rejected) {
                    let bare = !gathered.may_repeat(record);
                    let letter = self.dead_letter(topic, record, rejected, bare)?;
                    bytes += record_size(&letter.record);
                    if !planted(Bug::LossyDlq) {
                        transaction.outputs.push(letter);
                    }
                }
            }
            bytes += task.bytes() - before;
            if let Some(read) = task.inputs.get_mut(&input.topic) {
                read.next = input.offset + 1;
                read.taken = true;
            }
        }
        // The time when they were worked off: after a slow batch a partition must not look quiet, or its timers would fire too soon.
        let now = Instant::now();
        for read in tasks.values_mut().flat_map(|task| task.inputs.values_mut()) {
            if std::mem::take(&mut read.taken) {
                read.last = now;
            }
        }
        let looked = self.setup.clock.now();
        if taken == batch.len() {
            self.fire(looked, lane, &store, tasks)?;
        }
        for (partition, task) in tasks.iter_mut() {
            let Some(mut gathered) = task.gathered.take() else {
                continue;
            };
            let mut context = Context {
                space: &task.space,
                store: &store,
                timers: &mut task.timers,
                gathered: &mut gathered,
            };
            context.timers.upgrade(&mut context.gathered.writes);
            task.transform.close(&mut context);
            Self::orphan(&mut gathered)?;
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
            let mut changes = gathered.writes.take(&task.space);
            transaction.state.0.append(&mut changes.0);
            for (topic, input) in &task.inputs {
                transaction.positions.push((*topic, *partition, input.next));
            }
        }
        let positions = transaction.positions.clone();
        if !positions.is_empty() {
            lane.commit(transaction)?;
            for code in self.rejected.borrow_mut().drain(..) {
                self.progress.rejected(self.processor.name(), &code);
            }
        }
        let next = tasks.values().filter_map(Task::next_due).min();
        self.progress
            .timers_checked(progress::Timers { at: looked, next });
        for (topic, partition, next) in positions {
            self.progress
                .set_position(&self.topics[topic], partition, next);
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
    ) -> Result<Option<String>, Failed> {
        let gathered = task
            .gathered
            .get_or_insert_with(|| Gathered::within(&self.limits));
        let at = (input.topic, input.partition, input.offset);
        let mark = gathered.mark();
        if let Some(rejected) = self.poison.get(&at) {
            gathered.rejected.push(rejected.clone());
            return Ok(None);
        }
        let mut context = Context {
            space: &task.space,
            store,
            timers: &mut task.timers,
            gathered,
        };
        let transform = &mut task.transform;
        // The transform is dropped after a panic: nothing sees what it left half done.
        let result = catch_unwind(AssertUnwindSafe(|| transform.process(input, &mut context)));
        let rejected = match result {
            Ok(Ok(())) => match gathered.take_oversize() {
                None => return Ok(None),
                // The transform keeps in memory that it is done with the record, which only a new start can take back.
                Some(oversize) => oversize.rejected,
            },
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
            Err(panic) => Rejected {
                code: "panic".into(),
                message: panic_message(&*panic),
                value: None,
            },
        };
        Err(Failed::Poison(at, rejected))
    }

    /// A letter, cut to what the dead-letter topic takes.
    fn dead_letter(
        &self,
        topic: &str,
        input: &Fetched,
        rejected: Rejected,
        bare: bool,
    ) -> Result<Output, LogError> {
        let queue = &self.setup.dlq;
        let reason = dlq::Reason {
            topic,
            stage: self.processor.name(),
            code: &rejected.code,
            message: &rejected.message,
            failed_at: self.setup.clock.now(),
        };
        let limit = self.limits.topic(queue);
        let letter = dlq::fitted(input, rejected.value, &reason, bare, limit);
        let record = letter.ok_or_else(|| dlq::too_narrow(queue, limit))?;
        self.rejected.borrow_mut().push(rejected.code);
        Ok(Output {
            topic: Arc::clone(queue),
            partition: None,
            record,
        })
    }

    /// What was emitted with no input to blame, and is too large, goes to the dead letters by itself. A row of state has no other
    /// place: nothing goes on before it fits.
    fn orphan(gathered: &mut Gathered) -> Result<(), LogError> {
        let Some(Oversize { rejected, record }) = gathered.take_oversize() else {
            return Ok(());
        };
        let Some(record) = record else {
            return Err(LogError::Unavailable(rejected.message));
        };
        let origin = Origin {
            topic: "".into(),
            record: Fetched {
                topic: 0,
                partition: 0,
                offset: 0,
                timestamp: Millis(0),
                record,
            },
        };
        gathered.dead.push(Dead {
            origin,
            rejected,
            bare: false,
        });
        Ok(())
    }

    /// Fires the timers that are due and whose input has been read to the end that was seen at or after their time.
    fn fire(
        &self,
        now: Millis,
        lane: &dyn Lane,
        store: &StateStore,
        tasks: &mut BTreeMap<u32, Task>,
    ) -> Result<(), LogError> {
        let mut budget = TIMERS;
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
            let gathered = task
                .gathered
                .get_or_insert_with(|| Gathered::within(&self.limits));
            while budget > 0
                && gathered.bytes < TRANSACTION_BYTES
                && let Some((at, key)) = task.timers.take(due.at, &mut gathered.writes)
            {
                budget -= 1;
                let mut context = Context {
                    space: &task.space,
                    store,
                    timers: &mut task.timers,
                    gathered,
                };
                context.gathered.mark();
                task.transform.fire(&key, at, &mut context);
                Self::orphan(gathered)?;
            }
        }
        Ok(())
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
