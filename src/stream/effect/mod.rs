//! An effect: work on the world outside, taken from a topic. At least once; every call carries an idempotency key.
//!
//! Calls run side by side, a bounded number of them; what is finished is kept out of order ([`Finished`]), so
//! that one slow call makes nothing else repeat after a restart. What a call has to say it appends to the log itself, before it ends.
//! A call that panics or takes too long is tried again a few times and then a dead letter ([`super::attempts`]): none holds up
//! what comes after it for ever.

mod attempts;

use std::{
    collections::{BTreeMap, BTreeSet},
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

/// What is done with one record. It returns when the work is done and its results are durable in the log; it retries by its own rules.
pub trait Effect: Send + Sync + 'static {
    /// Does the work. Called again with the same record after a crash, a panic, and when it was dropped at its deadline: it may
    /// have done its work then. It must not block its thread, for a deadline ends only what waits.
    fn call(&self, input: Fetched) -> Pin<Box<dyn Future<Output = ()> + Send + '_>>;
}

/// What an effect needs.
#[derive(Clone)]
pub struct Setup {
    /// The log.
    pub log: Arc<dyn Log>,
    /// Its name: the consumer group.
    pub name: String,
    /// The whole name of the topic that it takes work from.
    pub topic: String,
    /// The whole name of the topic of dead letters.
    pub dlq: Arc<str>,
    /// Calls at a time.
    pub concurrency: usize,
    /// The most time that one call may take.
    pub deadline: Duration,
    /// For dead letters, and for when what is finished is kept.
    pub clock: Arc<dyn Clock>,
    /// Where calls run.
    pub runtime: Handle,
    /// Where it reports how it is.
    pub progress: Arc<Progress>,
}

const POLL: Duration = Duration::from_millis(20);
/// How often what is finished is kept.
const COMMIT: Duration = Duration::from_millis(200);

/// A running effect. Dropping it waits for nothing: calls in flight are done again by whoever comes next.
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

/// Starts an effect on a thread of its own; its calls run on the runtime.
pub fn start(effect: Arc<dyn Effect>, setup: Setup) -> std::io::Result<Running> {
    let stop = Arc::new(AtomicBool::new(false));
    let stopping = Arc::clone(&stop);
    let progress = Arc::new(setup.progress.lane());
    let of = Member {
        name: setup.name.clone(),
        topics: vec![setup.topic.clone()],
        progress: Arc::clone(&progress),
    };
    let name = format!("effect-{}", setup.name);
    let calls = Calls::new(effect, setup, progress, Arc::clone(&stop));
    let consumer = Consumer::new(of, calls, rand::random());
    let thread = std::thread::Builder::new()
        .name(name)
        .spawn(move || consumer.run(|| stopping.load(Ordering::Relaxed)))?;
    Ok(Running {
        stop,
        thread: Some(thread),
    })
}

/// A call that has ended.
#[derive(Clone, Copy)]
struct Done {
    partition: u32,
    offset: u64,
    /// The record is a dead letter.
    rejected: Option<&'static str>,
}

struct Taken {
    finished: Finished,
    changed: bool,
    /// Offsets handed out and not finished: the low-water mark stops before the first.
    running: BTreeSet<u64>,
    read_to: u64,
}

/// Calls since the group was joined.
struct Calls {
    effect: Arc<dyn Effect>,
    setup: Setup,
    progress: Arc<LaneProgress>,
    stop: Arc<AtomicBool>,
    /// One for each call that may run.
    slots: Arc<Semaphore>,
    attempts: Arc<Attempts>,
    tell: mpsc::UnboundedSender<Done>,
    done: mpsc::UnboundedReceiver<Done>,
    taken: BTreeMap<u32, Taken>,
    /// When what is finished was kept, in the monotonic time of the clock.
    kept: Duration,
}

impl Calls {
    fn new(
        effect: Arc<dyn Effect>,
        setup: Setup,
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
            progress,
            stop,
            tell,
            done,
        }
    }

    /// Takes note of the calls that have ended.
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
            mine.running.remove(&done.offset);
            mine.finished.insert(done.offset);
            mine.changed = true;
        }
        self.progress.progressed();
    }

    /// Keeps what is finished.
    fn keep(&mut self, work: &mut dyn Work) -> Result<(), LogError> {
        for (partition, mine) in &mut self.taken {
            // Offsets without records are passed over.
            let low = mine.running.first().copied().unwrap_or(mine.read_to);
            if low > mine.finished.next() {
                mine.finished.skip_to(low);
                mine.changed = true;
            }
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

    /// A slot for the call of a record. `None`: it is asked to stop.
    fn slot(&mut self, partition: u32, offset: u64) -> Option<OwnedSemaphorePermit> {
        loop {
            if let Ok(slot) = Arc::clone(&self.slots).try_acquire_owned()
                && !self.taken[&partition].finished.too_far(offset)
            {
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

    fn begin(&self, input: Fetched, slot: OwnedSemaphorePermit) {
        let (attempts, tell) = (Arc::clone(&self.attempts), self.tell.clone());
        let call = self.progress.calls().begin("a call in flight");
        self.setup.runtime.spawn(async move {
            let rejected = attempts.run(&input).await;
            drop(call);
            // Nobody listens any more: the work is done again by the next owner.
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
        let now = self.setup.clock.monotonic();
        if now.saturating_sub(self.kept) > COMMIT {
            self.keep(work)?;
            self.kept = now;
        }
        Ok(Next::Poll(POLL))
    }

    fn records(
        &mut self,
        _: &mut Self::Input,
        batch: &mut Vec<Fetched>,
        _: &Partitions,
    ) -> Result<Step, Fault> {
        let records = batch.len();
        for input in batch.drain(..) {
            let (partition, offset) = (input.partition, input.offset);
            let Some(mine) = self.taken.get_mut(&partition) else {
                continue;
            };
            mine.read_to = offset + 1;
            if mine.finished.contains(offset) {
                continue;
            }
            mine.running.insert(offset);
            // The bound on calls is the bound on everything: no further input is read meanwhile.
            let Some(slot) = self.slot(partition, offset) else {
                break;
            };
            self.begin(input, slot);
        }
        Ok(Step::Processed { records, timers: 0 })
    }

    fn assigned(
        &mut self,
        work: &mut Self::Input,
        partitions: &[(usize, u32)],
    ) -> Result<(), Fault> {
        for (_, partition) in partitions {
            let finished = work.open(*partition)?;
            let read_to = finished.next();
            self.progress
                .set_position(&self.setup.topic, *partition, read_to);
            let taken = Taken {
                finished,
                changed: false,
                running: BTreeSet::default(),
                read_to,
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
            self.keep(work)?;
        }
        for (_, partition) in partitions {
            self.taken.remove(partition);
        }
        Ok(())
    }

    /// Calls in flight end on their own, and nobody hears of it: their records are read again.
    fn over(&mut self) {
        let (effect, setup) = (Arc::clone(&self.effect), self.setup.clone());
        *self = Self::new(
            effect,
            setup,
            Arc::clone(&self.progress),
            Arc::clone(&self.stop),
        );
    }

    fn stop(&mut self, work: &mut Self::Input, _: &Partitions) -> Result<(), LogError> {
        self.drain();
        self.keep(work)
    }
}
