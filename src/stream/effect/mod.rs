//! An effect: calls to external systems for the records of a topic, at least once; every call has an idempotency key.
//!
//! A bounded number of calls runs concurrently. Finished offsets are stored out of order ([`Finished`]), so that one slow call does not
//! cause the repetition of others after a restart. A call appends its results to the log itself, before it returns. A call that panics or
//! exceeds its deadline is retried a few times and then becomes a dead letter ([`super::attempts`]), so that it does not block later ones
//! for ever. A partition with more unfinished calls than can be stored is paused until some have ended, and the others go on.

mod attempts;

use std::{
    collections::BTreeMap,
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    runtime::Handle,
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
};

use attempts::Attempts;

use super::{
    consumer::{Consumer, Fault, Handler, Member, Next, Partitions, Step},
    progress::{LaneProgress, Progress},
};
use crate::{
    base::{clock::Clock, threads},
    log::{Fetched, Finished, Log, LogError, Work},
};

/// Processes one record. Returns when the work is done and its results are durable in the log; it has its own rules for retries.
pub trait Effect: Send + Sync + 'static {
    /// Does the work. Called again with the same record after a crash, a panic or a cancellation at its deadline, even if the work was
    /// done: then `repeated` is true. It is also true of records that an earlier owner of the partition may have read, called or not. It
    /// must not block its thread, because a deadline only ends calls that await.
    fn call(&self, input: Fetched, repeated: bool)
    -> Pin<Box<dyn Future<Output = ()> + Send + '_>>;
}

/// The dependencies and limits of an effect.
#[derive(Clone)]
pub struct Setup {
    /// The log.
    pub log: Arc<dyn Log>,
    /// Its name, which is also its consumer group.
    pub name: String,
    /// The full name of its input topic.
    pub topic: String,
    /// The full name of the dead-letter topic.
    pub dlq: Arc<str>,
    /// The maximum number of concurrent calls.
    pub concurrency: usize,
    /// Time limit of one call.
    pub deadline: Duration,
    /// How long a stop waits for calls in flight; the next owner repeats those that have not ended by then.
    pub drain: Duration,
    /// The clock for dead letters and for storing finished offsets.
    pub clock: Arc<dyn Clock>,
    /// The runtime for calls.
    pub runtime: Handle,
    /// Receives its reports.
    pub progress: Arc<Progress>,
}

/// What an effect waits for while calls last long and nothing else happens.
pub const CALL: &str = "a call in flight";
const POLL: Duration = Duration::from_millis(20);
/// How often finished offsets are stored.
const COMMIT: Duration = Duration::from_millis(200);

/// A running effect. Dropping it waits for calls in flight, for [`Setup::drain`] at most.
pub struct Running {
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            threads::join(thread);
        }
    }
}

/// Starts an effect on its own thread; its calls run on the runtime. One that has never run reads its topic from the first record on.
pub fn start(effect: Arc<dyn Effect>, setup: Setup) -> std::io::Result<Running> {
    start_from(effect, setup, None)
}

/// As [`start`], but one that has never run reads what is appended after this call.
pub fn start_at_end(effect: Arc<dyn Effect>, setup: Setup) -> std::io::Result<Running> {
    let partitions = setup.log.partitions(&setup.topic).unwrap_or(0);
    let end = |partition| {
        let range = setup.log.offset_range(&setup.topic, partition).ok()?;
        Some((partition, range.end))
    };
    let ends: Ends = (0..partitions).filter_map(end).collect();
    start_from(effect, setup, Some(Arc::new(ends)))
}

/// Where an effect begins in partitions in which it has no position yet.
type Ends = BTreeMap<u32, u64>;

fn start_from(
    effect: Arc<dyn Effect>,
    setup: Setup,
    begin: Option<Arc<Ends>>,
) -> std::io::Result<Running> {
    let stop = Arc::new(AtomicBool::new(false));
    let stopping = Arc::clone(&stop);
    let progress = Arc::new(setup.progress.lane());
    let of = Member {
        name: setup.name.clone(),
        topics: vec![setup.topic.clone()],
        progress: Arc::clone(&progress),
    };
    let name = format!("effect-{}", setup.name);
    let calls = Calls::new(effect, setup, begin, progress, Arc::clone(&stop));
    let consumer = Consumer::new(of, calls, rand::random());
    let thread = std::thread::Builder::new()
        .name(name)
        .spawn(move || consumer.run(|| stopping.load(Ordering::Relaxed)))?;
    Ok(Running {
        stop,
        thread: Some(thread),
    })
}

/// A finished call.
#[derive(Clone, Copy)]
struct Done {
    partition: u32,
    offset: u64,
    /// The code of the dead letter, if the record became one.
    rejected: Option<&'static str>,
}

struct PartitionCalls {
    finished: Finished,
    changed: bool,
    /// All records before it have been taken.
    read_to: u64,
    /// Records before it may have been called by an earlier owner.
    new_from: u64,
    /// Nothing is read until there is room for the record at `read_to`.
    paused: bool,
}

/// What becomes of a record.
enum Read {
    /// It is to be called; `repeated` as in [`Effect::call`].
    Call { repeated: bool },
    /// It has been taken before, or its partition is paused.
    Leave,
    /// Its partition is to be paused.
    Pause,
}

impl PartitionCalls {
    /// Takes the record at an offset, after all before it.
    fn read(&mut self, offset: u64) -> Read {
        if self.paused || offset < self.read_to {
            return Read::Leave;
        }
        if offset > self.read_to {
            // Those between have no records.
            self.finished.insert_range(self.read_to, offset);
            self.read_to = offset;
            self.changed = true;
        }
        if self.finished.too_far(offset) {
            self.paused = true;
            return Read::Pause;
        }
        self.read_to = offset + 1;
        if self.finished.contains(offset) {
            return Read::Leave;
        }
        Read::Call {
            repeated: offset < self.new_from,
        }
    }
}

/// Calls since the group was joined.
struct Calls {
    effect: Arc<dyn Effect>,
    setup: Setup,
    /// `None`: at the first record.
    begin_at: Option<Arc<Ends>>,
    progress: Arc<LaneProgress>,
    stop: Arc<AtomicBool>,
    /// Permits for concurrent calls.
    slots: Arc<Semaphore>,
    attempts: Arc<Attempts>,
    tell: mpsc::UnboundedSender<Done>,
    done: mpsc::UnboundedReceiver<Done>,
    taken: BTreeMap<u32, PartitionCalls>,
    /// When finished offsets were last stored, in the clock's monotonic time.
    kept: Duration,
}

impl Calls {
    fn new(
        effect: Arc<dyn Effect>,
        setup: Setup,
        begin_at: Option<Arc<Ends>>,
        progress: Arc<LaneProgress>,
        stop: Arc<AtomicBool>,
    ) -> Self {
        let (tell, done) = mpsc::unbounded_channel();
        Self {
            attempts: Arc::new(Attempts::new(Arc::clone(&effect), &setup)),
            slots: Arc::new(Semaphore::new(setup.concurrency)),
            kept: setup.clock.monotonic(),
            taken: BTreeMap::new(),
            effect,
            setup,
            begin_at,
            progress,
            stop,
            tell,
            done,
        }
    }

    /// Records the calls that have finished.
    fn drain(&mut self) {
        while let Ok(done) = self.done.try_recv() {
            self.finish(done);
        }
    }

    fn finish(&mut self, done: Done) {
        if let Some(code) = done.rejected {
            self.progress.rejected(&self.setup.name, code);
        }
        if let Some(mine) = self.taken.get_mut(&done.partition) {
            mine.finished.insert(done.offset);
            mine.changed = true;
        }
        self.progress.progressed();
    }

    /// Waits for the calls in flight, for [`Setup::drain`] at most.
    fn finish_in_flight(&mut self) {
        let until = self.setup.clock.monotonic() + self.setup.drain;
        while self.slots.available_permits() < self.setup.concurrency {
            let left = until.saturating_sub(self.setup.clock.monotonic());
            if left.is_zero() {
                return;
            }
            let done = async { tokio::time::timeout(left.min(POLL), self.done.recv()).await };
            if let Ok(Some(done)) = self.setup.runtime.block_on(done) {
                self.finish(done);
            }
        }
        self.drain();
    }

    /// Stores the finished offsets.
    fn store_finished(&mut self, work: &mut dyn Work) -> Result<(), LogError> {
        for (partition, mine) in &mut self.taken {
            if mine.changed {
                work.commit(*partition, &mine.finished)?;
                mine.changed = false;
                let next = mine.finished.next();
                self.progress
                    .set_position(&self.setup.topic, *partition, next);
            }
        }
        Ok(())
    }

    /// Reads on in paused partitions that have room again.
    fn resume(&mut self, work: &mut dyn Work) -> Result<(), LogError> {
        for (partition, mine) in &mut self.taken {
            if mine.paused && mine.finished.has_room(mine.read_to) {
                work.resume(*partition, mine.read_to)?;
                mine.paused = false;
            }
        }
        Ok(())
    }

    /// Waits for a permit for a call; returns `None` if the effect is stopping.
    fn slot(&mut self) -> Option<OwnedSemaphorePermit> {
        loop {
            if let Ok(slot) = Arc::clone(&self.slots).try_acquire_owned() {
                return Some(slot);
            }
            if self.stop.load(Ordering::Relaxed) {
                return None;
            }
            let done = async { tokio::time::timeout(POLL, self.done.recv()).await };
            if let Ok(Some(done)) = self.setup.runtime.block_on(done) {
                self.finish(done);
            }
        }
    }

    /// Keeps the end of a partition as its position, if it is to begin there and has none. It is kept before anything is read: what comes
    /// from then on is not missed, whoever reads it.
    fn begin_at_end(&self, work: &mut dyn Work, partition: u32) -> Result<(), LogError> {
        let (log, of) = (&self.setup.log, &self.setup);
        let Some(ends) = &self.begin_at else {
            return Ok(());
        };
        if log.committed(&of.name, &of.topic, partition)?.is_none() {
            let end = match ends.get(&partition) {
                Some(end) => *end,
                // The log did not answer at the start.
                None => log.offset_range(&of.topic, partition)?.end,
            };
            work.commit(partition, &Finished::from(end))?;
        }
        Ok(())
    }

    fn begin(&self, input: Fetched, repeated: bool, slot: OwnedSemaphorePermit) {
        let (attempts, tell) = (Arc::clone(&self.attempts), self.tell.clone());
        let call = self.progress.calls().begin(CALL);
        self.setup.runtime.spawn(async move {
            let rejected = attempts.run(&input, repeated).await;
            drop(call);
            // The effect has stopped: the next owner repeats the work.
            let _ = tell.send(Done {
                partition: input.partition,
                offset: input.offset,
                rejected,
            });
            drop(slot);
        });
    }
}

impl Handler for Calls {
    type Input = dyn Work;

    fn join(&mut self) -> Result<Box<dyn Work>, LogError> {
        self.setup.log.work(&self.setup.name, &self.setup.topic)
    }

    fn next(&mut self, work: &mut Self::Input, _: &Partitions) -> Result<Next, Fault> {
        self.drain();
        self.resume(work)?;
        let now = self.setup.clock.monotonic();
        if now.saturating_sub(self.kept) > COMMIT {
            self.store_finished(work)?;
            self.kept = now;
        }
        Ok(Next::Poll(POLL))
    }

    fn records(
        &mut self,
        work: &mut Self::Input,
        batch: &mut Vec<Fetched>,
        _: &Partitions,
    ) -> Result<Step, Fault> {
        let records = batch.len();
        for input in batch.drain(..) {
            let (partition, offset) = (input.partition, input.offset);
            let Some(mine) = self.taken.get_mut(&partition) else {
                continue;
            };
            match mine.read(offset) {
                Read::Leave => {}
                Read::Pause => {
                    tracing::warn!(
                        effect = self.setup.name,
                        partition,
                        offset,
                        "a partition waits: too many calls before this offset have not ended"
                    );
                    work.pause(partition)?;
                }
                Read::Call { repeated } => {
                    // Waiting here also bounds the input: nothing further is read meanwhile.
                    let Some(slot) = self.slot() else {
                        break;
                    };
                    self.begin(input, repeated, slot);
                }
            }
        }
        Ok(Step::Processed { records, timers: 0 })
    }

    fn assigned(
        &mut self,
        work: &mut Self::Input,
        partitions: &[(usize, u32)],
    ) -> Result<(), Fault> {
        let (log, of) = (&self.setup.log, &self.setup);
        let positions = log.positions(&of.name, &of.topic)?;
        for (_, partition) in partitions {
            self.begin_at_end(work, *partition)?;
            let end = log.offset_range(&of.topic, *partition)?.end;
            let finished = work.open(*partition)?;
            let position = positions.get(*partition as usize).copied().flatten();
            let new_from = if position.is_some() || self.begin_at.is_some() {
                end
            } else {
                // An owner leaves a position before it calls anything: a partition without one has had none.
                work.commit(*partition, &finished)?;
                finished.next()
            };
            let read_to = finished.next();
            self.progress
                .set_position(&self.setup.topic, *partition, read_to);
            let taken = PartitionCalls {
                finished,
                changed: false,
                read_to,
                new_from,
                paused: false,
            };
            self.taken.insert(*partition, taken);
        }
        Ok(())
    }

    fn revoked(
        &mut self,
        work: &mut Self::Input,
        partitions: &[(usize, u32)],
        lost: bool,
    ) -> Result<(), LogError> {
        if !lost {
            self.store_finished(work)?;
        }
        for (_, partition) in partitions {
            self.taken.remove(partition);
        }
        Ok(())
    }

    /// Forgets the calls in flight; their records are read again.
    fn over(&mut self) {
        let (effect, setup) = (Arc::clone(&self.effect), self.setup.clone());
        *self = Self::new(
            effect,
            setup,
            self.begin_at.clone(),
            Arc::clone(&self.progress),
            Arc::clone(&self.stop),
        );
    }

    fn stop(&mut self, work: &mut Self::Input, _: &Partitions) -> Result<(), LogError> {
        self.drain();
        self.finish_in_flight();
        self.store_finished(work)
    }
}
