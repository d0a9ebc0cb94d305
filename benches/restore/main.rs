//! Restores a lane's keyed state from its changelog on Kafka, compared with plain consumption of the same topic.
//!
//! `cargo bench --bench restore -- [KEYS [ROUNDS]]`
#![allow(
    missing_docs,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::print_stdout
)]

#[path = "../common/disk.rs"]
mod disk;
#[path = "../common/kafka.rs"]
mod kafka;
#[path = "../common/lanes.rs"]
mod lanes;
#[path = "../common/machine.rs"]
mod machine;
#[path = "../common/report.rs"]
mod report;

use std::{
    collections::BTreeMap,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use kafka::Scratch;
use machine::{Cpu, Peak};
use omnilink::{
    log::{Cleanup, Fetched, Lane, Polled, Record, TopicSpec},
    state::{Space, StateError, StateStore, Table},
    stream::{Context, Failure, Processor, Transform},
};
use report::{Row, median};

const NAME: &str = "keep";
const PARTITIONS: u32 = 8;
const VALUE: usize = 100;
/// The target for a million keys, in seconds.
const TARGET: f64 = 10.0;
const DEADLINE: Duration = Duration::from_mins(2);

fn main() {
    let Some(given) = report::Arguments::given() else {
        return;
    };
    let number = |at, default| given.number(at, default);
    let (keys, rounds) = (number(0, 1_000_000), number(1, 3));
    println!(
        "{keys} keys with values of {VALUE} B, {PARTITIONS} partitions, {rounds} rounds; medians"
    );
    let Some(scratch) = Scratch::new() else {
        return;
    };
    let fixture = Fixture::fill(&scratch, keys);
    let rounds: Vec<Round> = (0..rounds).map(|_| fixture.round()).collect();
    report(keys as f64, &rounds);
}

/// Keeps the last value of each key.
struct Keep(String);

impl Processor for Keep {
    fn name(&self) -> &'static str {
        NAME
    }
    fn topics(&self) -> Vec<String> {
        vec![self.0.clone()]
    }
    fn transform(&self, _: &Space, _: &StateStore) -> Result<Box<dyn Transform>, StateError> {
        Ok(Box::new(KeepOne))
    }
}

struct KeepOne;

const VALUES: Table<Bytes, Bytes> = Table::new("values", b'v');

impl Transform for KeepOne {
    fn process(&mut self, input: &Fetched, cx: &mut Context<'_>) -> Result<(), Failure> {
        let (key, value) = (&input.record.key, &input.record.value);
        cx.put(&VALUES, key.as_ref().unwrap(), value.as_ref().unwrap());
        Ok(())
    }
}

/// A changelog, written by a lane.
struct Fixture<'a> {
    scratch: &'a Scratch,
    input: Arc<str>,
    changelog: String,
    keys: usize,
}

/// One restore, and plain consumption.
struct Round {
    /// Seconds of plain consumption, records and bytes.
    plain: (f64, u64, u64),
    /// Seconds from the assignment until all partitions are open.
    restored: f64,
    /// Seconds from opening the lane.
    whole: f64,
    /// The same with existing local state, in milliseconds.
    again: f64,
    parts: BTreeMap<&'static str, f64>,
    peak: f64,
}

impl<'a> Fixture<'a> {
    fn fill(scratch: &'a Scratch, keys: usize) -> Self {
        let dir = disk::scratch();
        let log = scratch.log("first", dir.path());
        let spec = |name: &str, cleanup| TopicSpec {
            name: scratch.name(name).into(),
            partitions: PARTITIONS,
            cleanup,
        };
        let specs = [
            spec("in", Cleanup::Keep),
            spec("dlq", Cleanup::Keep),
            spec(&format!("state.{NAME}"), Cleanup::Compact),
        ];
        log.provision(&specs, true).unwrap();
        let [input, dlq, changelog] = specs.map(|spec| spec.name);
        let took = lanes::fill(&*log, &input, keys, |n| Record {
            key: Some(format!("order-{n:010}").into()),
            value: Some(vec![b'x'; VALUE].into()),
            headers: Vec::new(),
        });
        let start = Instant::now();
        let (running, progress) = lanes::start(&log, &dlq, Arc::new(Keep(input.to_string())));
        lanes::wait(&*log, &progress, &input);
        drop(running);
        println!(
            "    written in {took:.1} s, taken in by a lane in {:.1} s",
            start.elapsed().as_secs_f64()
        );
        Self {
            scratch,
            input,
            changelog: changelog.to_string(),
            keys,
        }
    }

    fn round(&self) -> Round {
        let plain = self.scratch.consume(&self.changelog, PARTITIONS as i32);
        let dir = disk::scratch();
        let mut others = Vec::new();
        others.extend(machine::broker(&self.scratch.brokers).map(|pid| ("Kafka", pid)));
        let cpu = Cpu::of(std::process::id(), part, others);
        let peak = Peak::watch(std::process::id());
        let (restored, whole) = self.open(dir.path(), true);
        let (parts, peak) = (cpu.used(), peak.end());
        Round {
            plain,
            restored,
            whole,
            again: self.open(dir.path(), false).0 * 1000.0,
            parts,
            peak,
        }
    }

    /// Opens a lane on a store as a start of a node does, and optionally counts the keys.
    fn open(&self, dir: &Path, count: bool) -> (f64, f64) {
        let log = self.scratch.log("second", dir);
        let opened = Instant::now();
        let mut lane = log.lane(NAME, &[self.input.to_string()]).unwrap();
        let partitions = assigned(&mut *lane);
        let start = Instant::now();
        for (topic, partition) in &partitions {
            let next = lane.open(*topic, *partition).unwrap();
            let end = log.offset_range(&self.input, *partition).unwrap().end;
            assert_eq!(next, end, "the lane had read all of partition {partition}");
        }
        let took = (
            start.elapsed().as_secs_f64(),
            opened.elapsed().as_secs_f64(),
        );
        if count {
            let keys = |partition| {
                let space = Space::new(NAME, partition);
                VALUES.scan(lane.state(), &space).count()
            };
            assert_eq!((0..PARTITIONS).map(keys).sum::<usize>(), self.keys);
        }
        took
    }
}

fn assigned(lane: &mut dyn Lane) -> Vec<(usize, u32)> {
    let start = Instant::now();
    let mut none = Vec::new();
    loop {
        match lane.poll(Duration::from_millis(20), &mut none).unwrap() {
            Polled::Assigned(all) if all.len() == PARTITIONS as usize => return all,
            // The previous member may still be leaving the group.
            Polled::Assigned(_) | Polled::Records => {}
            Polled::Revoked(some) | Polled::Lost(some) => lane.release(&some).unwrap(),
        }
        assert!(start.elapsed() < DEADLINE, "no partitions");
    }
}

/// The part of this process to which a thread belongs.
fn part(thread: &str) -> &'static str {
    match lanes::part(thread) {
        // The main thread runs the lane.
        "the bench" => "restoring",
        part => part,
    }
}

fn report(keys: f64, rounds: &[Round]) {
    let middle = |of: fn(&Round) -> f64| median(rounds.iter().map(of));
    let plain = middle(|r| r.plain.0);
    Row::new("limit: plain consumption of the changelog", plain, "s")
        .note(format!(
            "{} records, {:.0} MB",
            rounds[0].plain.1,
            rounds[0].plain.2 as f64 / 1e6
        ))
        .print();
    let restored = middle(|r| r.restored);
    let name = format!("restore of {keys:.0} keys into an empty store");
    Row::new(&name, restored, "s")
        .against(plain, "plain consumption")
        .target_below(TARGET)
        .note(format!(
            "{:.0} keys a second; {:.2} s with joining the group",
            keys / restored,
            middle(|r| r.whole)
        ))
        .print();
    report::cpu(&name, &rounds[0].parts, keys);
    Row::new("restore: resident memory, most", middle(|r| r.peak), "MB")
        .note("of this whole process")
        .print();
    let name = "start with the state still there";
    Row::new(name, middle(|r| r.again), "ms").print();
}
