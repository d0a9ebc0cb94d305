//! The projector of the tables `events` and `entities`.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    assemble::Counts,
    lane::{LaneParts, Projector, Setup},
    offsets::Owned,
    pipe::Pipe,
    pipeline::Pipeline,
    reject::Reject,
    target::{PROJECTION, Target},
};
use crate::telemetry::metrics;

/// The size of the entity caches of all lanes together, in bytes.
const MEMORY: usize = 32 << 20;

impl Projector {
    /// Starts the projector of `events` and `entities` with this many lanes. One is enough for a small machine.
    pub fn start(setup: &Setup, lanes: usize) -> std::io::Result<Self> {
        Self::start_with(setup, lanes, &setup.dead_letters(PROJECTION))
    }

    /// Like [`Projector::start`], with another destination for records that cannot become rows.
    pub fn start_with(
        setup: &Setup,
        lanes: usize,
        reject: &Arc<dyn Reject>,
    ) -> std::io::Result<Self> {
        let lanes = lanes.max(1);
        let pipe = |parts| -> Box<dyn Pipe> { Box::new(pipeline(setup, parts, MEMORY / lanes)) };
        Self::run(setup, PROJECTION, lanes, reject, &pipe)
    }
}

/// The pipeline of one lane, which counts and reports its commits.
fn pipeline(setup: &Setup, parts: LaneParts, memory: usize) -> Pipeline {
    let (report, topic) = (parts.progress, Arc::clone(&setup.topic));
    let written = metrics::PROJECTION_EVENTS.counter(&[]);
    let merged = metrics::PROJECTION_ENTITIES.counter(&[]);
    let commits = metrics::PROJECTION_COMMITS.counter(&[]);
    let delay = metrics::PROJECTION_DELAY.histogram(&[]);
    let clock = Arc::clone(&setup.clock);
    let on_commit = Box::new(move |counts: Counts, positions: &BTreeMap<u32, Owned>| {
        for (partition, at) in positions {
            report.set_position(&topic, *partition, at.next);
        }
        written.increment(counts.events);
        merged.increment(counts.entities);
        commits.increment(1);
        if let Some(oldest) = counts.oldest {
            delay.record((clock.now().0 - oldest.0).max(0) as f64 / 1000.0);
        }
    });
    let clock = Arc::clone(&setup.clock);
    Pipeline::new(
        parts.link,
        Target::live(),
        clock,
        parts.reject,
        memory,
        on_commit,
    )
}
