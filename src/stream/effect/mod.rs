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
    time::{Duration, Instant},
};

use tokio::{
    runtime::Handle,
    sync::{Semaphore, mpsc},
};

use super::{
    effect::attempts::Attempts,
    lane::Backoff,
    progress::{LaneProgress, Progress},
};
use crate::log::{Fetched, Finished, Log, LogError, Polled, Work};

/// What is done with one record. It returns when the work is done and its results are durable in the log; it retries by its own rules.
pub trait Effect: Send + Sync + 'static {
    /// Does the work. Called again with the same record after a crash, a panic, and when it was dropped at its deadline: it may
    /// have done its work then. It must not block its thread, for a deadline ends only what waits.
    fn call(&self, input: Fetched) -> Pin<Box<dyn Future<Output = ()> + Send + '_>>;
}

/// What an effect needs.
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
    /// Where calls run.
    pub runtime: Handle,
    /// Where it reports how it is.
    pub progress: Arc<Progress>,
}

const POLL: Duration = Duration::from_millis(20);
/// How often what is finished is kept.
const COMMIT: Duration = Duration::from_millis(200);
const BACKOFF: Backoff = Backoff {
    first: Duration::from_millis(50),
    max: Duration::from_secs(1),
};

/// A running effect. Dropping it waits for nothing: calls in flight are done again by whoever comes next.
pub struct Running {
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has said why.
            let _ = thread.join();
        }
    }
}

/// Starts an effect on a thread of its own; its calls run on the runtime.
pub fn start(effect: Arc<dyn Effect>, setup: Setup) -> std::io::Result<Running> {
    let stop = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&stop);
    let progress = setup.progress.lane();
    let thread = std::thread::Builder::new()
        .name(format!("effect-{}", setup.name))
        .spawn(move || {
            let mut attempt = 0;
            while !flag.load(Ordering::Relaxed) {
                let served = setup
                    .log
                    .work(&setup.name, &setup.topic)
                    .and_then(|work| serve(&effect, (&setup, &progress), work, &flag, &mut attempt));
                if let Err(error) = served {
                    tracing::warn!(effect = setup.name, %error, "the effect stalls and tries again");
                    progress.retrying(error.to_string());
                    std::thread::sleep(BACKOFF.pause(attempt));
                    attempt += 1;
                }
            }
        })?;
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

fn serve(
    effect: &Arc<dyn Effect>,
    (setup, progress): (&Setup, &LaneProgress),
    mut work: Box<dyn Work>,
    stop: &AtomicBool,
    attempt: &mut u32,
) -> Result<(), LogError> {
    let slots = Arc::new(Semaphore::new(setup.concurrency));
    let attempts = Arc::new(Attempts::new(Arc::clone(effect), setup));
    let (tell, mut done) = mpsc::unbounded_channel::<Done>();
    let mut taken: BTreeMap<u32, Taken> = BTreeMap::new();
    let mut batch = Vec::new();
    let mut kept = Instant::now();
    let calls = progress.calls();
    while !stop.load(Ordering::Relaxed) {
        while let Ok(done) = done.try_recv() {
            finish(&mut taken, (setup, progress), done);
            progress.progressed();
        }
        if kept.elapsed() > COMMIT {
            keep(&mut *work, (setup, progress), &mut taken)?;
            kept = Instant::now();
        }
        batch.clear();
        match work.poll(POLL, &mut batch)? {
            Polled::Records => *attempt = 0,
            Polled::Assigned(partitions) => {
                for (_, partition) in partitions {
                    let finished = work.open(partition)?;
                    let read_to = finished.next();
                    progress.set_position(&setup.topic, partition, read_to);
                    taken.insert(
                        partition,
                        Taken {
                            finished,
                            changed: false,
                            running: BTreeSet::default(),
                            read_to,
                        },
                    );
                }
            }
            Polled::Revoked(partitions) => {
                keep(&mut *work, (setup, progress), &mut taken)?;
                drop_partitions((setup, progress), &mut taken, &partitions);
                work.release(&partitions)?;
            }
            Polled::Lost(partitions) => {
                drop_partitions((setup, progress), &mut taken, &partitions);
                work.release(&partitions)?;
            }
        }
        progress.running();
        for input in batch.drain(..) {
            let (partition, offset) = (input.partition, input.offset);
            let Some(mine) = taken.get_mut(&partition) else {
                continue;
            };
            mine.read_to = offset + 1;
            if mine.finished.contains(offset) {
                continue;
            }
            mine.running.insert(offset);
            // The bound on calls is the bound on everything: no further input is read meanwhile.
            let slot = loop {
                if let Ok(slot) = Arc::clone(&slots).try_acquire_owned()
                    && !taken[&partition].finished.too_far(offset)
                {
                    break slot;
                }
                if stop.load(Ordering::Relaxed) {
                    return Ok(());
                }
                if let Some(done) = wait(&mut done, &setup.runtime) {
                    finish(&mut taken, (setup, progress), done);
                    progress.progressed();
                }
            };
            let (attempts, tell) = (Arc::clone(&attempts), tell.clone());
            let call = calls.begin("a call in flight");
            setup.runtime.spawn(async move {
                let rejected = attempts.run(&input).await;
                drop(call);
                // Nobody listens any more: the work is done again by the next owner.
                let _ = tell.send(Done {
                    partition,
                    offset,
                    rejected,
                });
                drop(slot);
            });
        }
    }
    while let Ok(done) = done.try_recv() {
        finish(&mut taken, (setup, progress), done);
    }
    keep(&mut *work, (setup, progress), &mut taken)
}

fn wait(done: &mut mpsc::UnboundedReceiver<Done>, runtime: &Handle) -> Option<Done> {
    runtime.block_on(async { tokio::time::timeout(POLL, done.recv()).await.ok().flatten() })
}

fn finish(
    taken: &mut BTreeMap<u32, Taken>,
    (setup, progress): (&Setup, &LaneProgress),
    done: Done,
) {
    if let Some(code) = done.rejected {
        progress.rejected(&setup.name, code);
    }
    if let Some(mine) = taken.get_mut(&done.partition) {
        mine.running.remove(&done.offset);
        mine.finished.insert(done.offset);
        mine.changed = true;
    }
}

fn keep(
    work: &mut dyn Work,
    (setup, progress): (&Setup, &LaneProgress),
    taken: &mut BTreeMap<u32, Taken>,
) -> Result<(), LogError> {
    for (partition, mine) in taken {
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
            progress.set_position(&setup.topic, *partition, next);
        }
    }
    Ok(())
}

fn drop_partitions(
    (setup, progress): (&Setup, &LaneProgress),
    taken: &mut BTreeMap<u32, Taken>,
    partitions: &[(usize, u32)],
) {
    for (_, partition) in partitions {
        progress.revoked(&setup.topic, *partition);
        taken.remove(partition);
    }
}
