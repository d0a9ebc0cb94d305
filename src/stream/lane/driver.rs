//! The lane as a value that is stepped.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use rand::{SeedableRng, rngs::StdRng};

use super::{Setup, failures::Failures, transforms::Transforms};
use crate::{
    log::LogError,
    stream::{
        Processor,
        consumer::{Consumer, Member, Step},
        size_limits::SizeLimits,
    },
};

/// A lane of a processor. Dropping it between two steps is what a crash is: all that counts is committed.
pub struct Driver(Consumer<Transforms>);

impl Driver {
    /// A lane that has not joined its group yet.
    pub fn new(processor: Arc<dyn Processor>, setup: Setup) -> Self {
        Self::seeded(processor, setup, rand::random())
    }

    /// As [`Driver::new`]; the jitter of its pauses follows from `seed`.
    pub fn seeded(processor: Arc<dyn Processor>, setup: Setup, seed: u64) -> Self {
        let topics = processor.topics();
        let progress = Arc::new(setup.progress.lane());
        let of = Member {
            name: processor.name().to_owned(),
            topics: topics.clone(),
            progress: Arc::clone(&progress),
        };
        let transforms = Transforms {
            limits: SizeLimits::new(&setup.log, &setup.clock, processor.name()),
            processor,
            topics,
            setup,
            progress,
            stop: Arc::default(),
            tasks: BTreeMap::new(),
            aborted: false,
            held: None,
            paused: false,
            failures: Failures::default(),
            rejected: RefCell::default(),
            jitter: StdRng::seed_from_u64(seed),
        };
        Self(Consumer::new(of, transforms, seed))
    }

    /// Set to true, it ends a step early: a commit that waits for the log gives up, and of a batch only the transaction in hand is
    /// made.
    pub fn stop_flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.0.handler.stop)
    }

    /// Does one round: joins the group, or restores what was aborted, or polls once, for `wait` at most, and handles what came of it.
    pub fn step(&mut self, wait: Duration) -> Step {
        // A panic outside a record's own processing is a fault of the transform: the lane is opened anew, and says so.
        let stepped = catch_unwind(AssertUnwindSafe(|| self.0.step(wait)));
        stepped.unwrap_or_else(|panic| self.0.over(LogError::panicked("the lane", &*panic)))
    }

    /// How long until the next timer is due or a paused partition resumes, by the clock; `None`: neither is waited for. For whoever
    /// moves the clock.
    pub fn wakes_in(&self) -> Option<Duration> {
        self.0.handler.wakes_in()
    }
}
