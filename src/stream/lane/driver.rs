//! A lane as a value that is driven step by step.

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

/// A lane of a processor. Dropping it between two steps has the effect of a crash: only committed work remains.
pub struct Driver(Consumer<Transforms>);

impl Driver {
    /// Creates a lane, which joins its group in the first step.
    pub fn new(processor: Arc<dyn Processor>, setup: Setup) -> Self {
        Self::seeded(processor, setup, rand::random())
    }

    /// As [`Driver::new`]; `seed` determines the jitter of its pauses.
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

    /// If set to true, the current step ends early: a commit stops waiting for the log, and only the current transaction of a batch is
    /// finished.
    pub fn stop_flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.0.handler.stop)
    }

    /// Runs one round: joins the group, or restores the state after an abort, or polls once (at most for `wait`) and processes the result.
    pub fn step(&mut self, wait: Duration) -> Step {
        // A panic outside the processing of a record is a bug of the transform: the lane is restarted and reports it.
        let stepped = catch_unwind(AssertUnwindSafe(|| self.0.step(wait)));
        stepped.unwrap_or_else(|panic| self.0.over(LogError::panicked("the lane", &*panic)))
    }

    /// How long until the next timer is due or a paused partition resumes, by the clock; `None` if there is neither. For simulations that
    /// move the clock.
    pub fn wakes_in(&self) -> Option<Duration> {
        self.0.handler.wakes_in()
    }
}
