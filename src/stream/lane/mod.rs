//! A lane: runs a transform over its assigned partitions, exactly once.
//!
//! [`Driver`] is the lane itself: a value that runs one round per [`Driver::step`], takes all times from its clock, and never sleeps.
//! [`start`] runs one on its own thread; a simulation steps many on one thread, with a simulated clock.
//!
//! ```text
//!            ┌────────────── poll ──────────────┐
//!            ▼                                  │
//!  open ─► process the batch ─────► fire timers ─► commit (one transaction) ─┐
//!   ▲                                                                        │
//!   └── abort: drop uncommitted work, recreate the transforms ◄──────────────┘
//! ```
//!
//! A transaction is a group commit: it ends as soon as the input is drained, so an idle system commits after each record, and a busy one
//! amortises the commit over many. A record that panics is remembered, the transaction is aborted, and when the record is read again it
//! goes to the dead-letter queue. A timer that fails is remembered in the same way, and passed to
//! [`Transform::timer_failed`](super::Transform::timer_failed) when it is due again. If a transform fails in `close`, the transaction is
//! repeated with half of its records and timers until only the cause is left, which is remembered. If something that a record or timer
//! needs is unavailable, only its partition is paused, and later resumes at that record.

mod driver;
mod failures;
mod task;
mod transact;
mod transforms;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
};

pub use driver::Driver;

pub use super::consumer::Step;
use super::{
    Processor,
    consumer::{self, IDLE},
    progress::Progress,
};
use crate::{
    base::{clock::Clock, threads},
    log::Log,
};

/// Stack size of a lane's thread: programs of topologies drop and copy deeply nested values. Unused stack takes no memory.
pub(crate) const STACK: usize = 256 << 20;

/// A running lane. Dropping it stops the lane after the current transaction.
pub struct Running {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Running {
    /// Requests a stop, without waiting for it.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop();
        if let Some(thread) = self.thread.take() {
            threads::join(thread);
        }
    }
}

/// The dependencies of a lane.
pub struct Setup {
    /// The log.
    pub log: Arc<dyn Log>,
    /// The full name of the dead-letter topic.
    pub dlq: Arc<str>,
    /// The clock for timers, pauses and ages.
    pub clock: Arc<dyn Clock>,
    /// Receives its reports.
    pub progress: Arc<Progress>,
}

/// Starts a lane of a processor on its own thread.
pub fn start(processor: Arc<dyn Processor>, setup: Setup) -> std::io::Result<Running> {
    let name = format!("lane-{}", processor.name());
    let mut driver = Driver::new(processor, setup);
    let stop = driver.stop_flag();
    let stopping = Arc::clone(&stop);
    let thread = std::thread::Builder::new()
        .name(name)
        .stack_size(STACK)
        .spawn(move || {
            let stopping = || stopping.load(Ordering::Relaxed);
            consumer::run(stopping, || driver.step(IDLE));
        })?;
    Ok(Running {
        stop,
        thread: Some(thread),
    })
}
