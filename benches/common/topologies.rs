//! Topologies on Kafka, run as `omnilink up` does, and a plain copy of the same records.
#![allow(dead_code, reason = "not every bench uses all of it")]

use std::{
    collections::BTreeMap,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use omnilink::{
    base::clock::SystemClock,
    envelope::foreign::NoRegistry,
    log::{Log, topics::Names},
    stream::progress::Progress,
    topology::{Deployment, Setup, check},
};

use crate::{
    drain::{Drain, Drained},
    kafka::Scratch,
    lanes,
    load::{Load, Order},
    machine::{self, Cpu},
};

pub const PARTITIONS: u32 = 8;
/// `map`, `dedupe` and `rate_limit` in one stage.
pub const EVENTS: &str = include_str!("../topology/events.yaml");
/// The same from a foreign topic, in two stages.
pub const FOREIGN: &str = include_str!("../topology/foreign.yaml");
/// Records per plain transaction, the maximum of a lane's poll.
const BATCH: u64 = 10_000;
/// Lanes per stage, as `omnilink up` has on Kafka with two or more cores.
const LANES: usize = 2;
const DEADLINE: Duration = Duration::from_mins(10);
const SETTLED: Duration = Duration::from_secs(10);

/// Fifty events per order, interleaved; one in twenty is repeated; 500 bytes including the key.
pub fn load(events: usize) -> Load {
    Load {
        events,
        each: 50,
        order: Order::Spread,
        bytes: 358,
        repeats: Some(20),
    }
}

/// A log with OmniLink's topics under a longer prefix, so that others of the bench are foreign.
pub struct Fixture<'a> {
    pub foreign: &'a Scratch,
    pub own: Scratch,
    pub names: Names,
    pub log: Arc<dyn Log>,
}

impl<'a> Fixture<'a> {
    pub fn new(foreign: &'a Scratch, state: &Path) -> Self {
        let own = foreign.within("own.");
        let log = own.log("bench", state);
        let names = Names::new(&own.prefix);
        log.provision(&names.specs(PARTITIONS), true).unwrap();
        Self {
            foreign,
            own,
            names,
            log,
        }
    }

    /// A foreign topic.
    pub fn topic(&self, name: &str) -> Arc<str> {
        self.foreign.topic(name, PARTITIONS as i32).into()
    }

    /// Deploys the topology of a file.
    pub fn deploy(&self, text: &str, input: &str, output: &str) -> Deployment {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("bench.yaml");
        let text = text.replace("INPUT", input).replace("OUTPUT", output);
        std::fs::write(&file, text).unwrap();
        let checked = check(&[file], &self.own.prefix);
        let problems: Vec<_> = checked.problems.iter().map(|p| p.render(false)).collect();
        let set = checked.set.unwrap_or_else(|| panic!("{problems:?}"));
        let mut deployment = Deployment::new(Setup {
            log: Arc::clone(&self.log),
            names: self.names.clone(),
            clock: Arc::new(SystemClock),
            partitions: PARTITIONS,
            provision: true,
            make_foreign: false,
            lanes: LANES,
            schemas: Arc::new(NoRegistry),
        });
        deployment.deploy(&set).unwrap();
        deployment
    }

    /// Processes a full topic, and checks that `output` has each event once.
    pub fn drain(&self, text: &str, input: &str, output: &str, load: Load) -> Worked {
        let others = machine::broker(&self.own.brokers).map(|pid| ("Kafka", pid));
        let cpu = Cpu::of(
            std::process::id(),
            lanes::part,
            others.into_iter().collect(),
        );
        let mut drain = Drain::begin();
        let mut deployment = self.deploy(text, input, output);
        let stages: Vec<Arc<Progress>> = deployment.progress().into_iter().map(|p| p.1).collect();
        let end = ends(&*self.log, input);
        let mut looked = Instant::now();
        drain.watch(DEADLINE, || {
            let done: Vec<_> = stages.iter().map(|stage| together(stage)).collect();
            let mut all = done[0] == end;
            // The end of the topic between two lanes is known only when the first lane is done.
            if all && stages.len() > 1 && looked.elapsed() > Duration::from_millis(20) {
                looked = Instant::now();
                all = stages[1..].iter().all(|stage| self.is_through(stage));
            } else {
                all &= stages.len() == 1;
            }
            (done, all)
        });
        let parts = cpu.used();
        for stage in &stages {
            assert_eq!((stage.trouble(), stage.rejections()), (None, 0));
        }
        deployment.stop();
        self.check(output, load);
        Worked {
            drained: drain.end(load.events),
            parts,
        }
    }

    /// Checks that each event was written once.
    pub fn check(&self, output: &str, load: Load) {
        eventually(load.distinct() as u64, || {
            self.foreign.consume(output, PARTITIONS as i32).1
        });
    }

    /// Whether a lane has read its input, except for the last markers of each partition: one of each lane that writes to it.
    fn is_through(&self, stage: &Progress) -> bool {
        let positions = stage.positions();
        positions.len() == PARTITIONS as usize
            && positions.iter().all(|(topic, partition, next)| {
                next + LANES as u64 >= self.log.offset_range(topic, *partition).unwrap().end
            })
    }
}

/// The sum of the end offsets of all partitions.
pub fn ends(log: &dyn Log, topic: &str) -> u64 {
    let end = |p| log.offset_range(topic, p).unwrap().end;
    (0..PARTITIONS).map(end).sum()
}

/// Waits for the expected count: the markers of the last transaction may be written after its positions.
pub fn eventually(expected: u64, mut count: impl FnMut() -> u64) {
    let start = Instant::now();
    loop {
        let came = count();
        if came == expected {
            return;
        }
        assert!(
            came < expected && start.elapsed() < SETTLED,
            "{came} records of {expected} came out"
        );
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// Copies a topic in plain transactions, in this process.
pub fn copy(foreign: &Scratch, input: &str, output: &str, records: usize) -> Drained {
    let mut drain = Drain::begin();
    foreign.copy((input, output), PARTITIONS as i32, BATCH, |done| {
        drain.record(vec![done]);
    });
    drain.end(records)
}

/// The result of a run, with processor time by part.
pub struct Worked {
    pub drained: Drained,
    pub parts: BTreeMap<&'static str, f64>,
}

fn together(progress: &Progress) -> u64 {
    progress.positions().iter().map(|(_, _, next)| next).sum()
}
