//! A lane: runs a transform over its share of the input, exactly once.
//!
//! [`Driver`] is the lane itself: a value that does one round at each [`Driver::step`], asks its clock for every decision, and never
//! sleeps. [`start`] runs one on a thread of its own; a simulation steps many on one thread, with a clock that it moves.
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

/// A lane's stack: a topology's programs drop and copy values that may lie deep within each other. What is not used is never there.
pub(crate) const STACK: usize = 256 << 20;

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
            threads::join(thread);
        }
    }
}

/// What a lane needs.
pub struct Setup {
    /// The log.
    pub log: Arc<dyn Log>,
    /// The whole name of the dead-letter topic.
    pub dlq: Arc<str>,
    /// For timers, pauses and ages.
    pub clock: Arc<dyn Clock>,
    /// Where it reports how it is.
    pub progress: Arc<Progress>,
}

/// Starts a lane of a processor on a thread of its own.
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
