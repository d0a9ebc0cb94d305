//! A topology with `map`, `dedupe` and `rate_limit` on Kafka, exactly once: throughput on a full topic, compared with a
//! transactional copy with librdkafka, and the latency from append to reader at 200 per second.
//!
//! `cargo bench --bench topology -- [EVENTS [SECONDS [ROUNDS]]]`
#![allow(
    missing_docs,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout
)]

#[path = "../common/disk.rs"]
mod disk;
#[path = "../common/drain.rs"]
mod drain;
#[path = "../common/kafka.rs"]
mod kafka;
#[path = "../common/lanes.rs"]
mod lanes;
#[path = "../common/load.rs"]
mod load;
#[path = "../common/machine.rs"]
mod machine;
#[path = "../common/paced_latency.rs"]
mod paced_latency;
#[path = "../common/report.rs"]
mod report;
#[path = "../common/topologies.rs"]
mod topologies;

use std::{sync::Arc, time::Duration};

use drain::Drained;
use kafka::Scratch;
use load::Load;
use report::{Row, median, percentile};
use topologies::{EVENTS, FOREIGN, Fixture, PARTITIONS, Worked};

/// The target of a stage with all its lanes.
const OF_COPY: f64 = 0.55;
const PLAIN: Duration = Duration::from_secs(4);

fn main() {
    let Some(given) = report::Arguments::given() else {
        return;
    };
    let number = |at, default| given.number(at, default);
    let (events, seconds, rounds) = (number(0, 500_000), number(1, 20), number(2, 3));
    let Some(scratch) = Scratch::new() else {
        return;
    };
    let load = topologies::load(events);
    let weight = load.weight();
    println!("{events} records of {weight} B, {PARTITIONS} partitions, {rounds} rounds; medians");
    let rounds: Vec<Round> = (0..rounds)
        .map(|n| Round::measure(&scratch.within(&format!("{n}.")), load))
        .collect();
    let middle = |of: fn(&Round) -> f64| median(rounds.iter().map(of));
    let copied = middle(|r| r.copied.steady);
    Row::new("limit: librdkafka, transactional copy", copied, "rec/s")
        .note(rounds[0].copied.note())
        .print();
    let lane = |name: &str, of: fn(&Round) -> &Worked, least: Option<f64>| {
        let rate = median(rounds.iter().map(|r| of(r).drained.steady));
        let mut row = Row::new(name, rate, "rec/s").against(copied, "plain copy");
        if let Some(least) = least {
            row = row.target_ratio(least);
        }
        row.note(of(&rounds[0]).drained.note()).print();
        report::cpu(name, &of(&rounds[0]).parts, events as f64);
    };
    let name = "map, dedupe, rate_limit: one stage";
    lane(name, |r| &r.one, Some(OF_COPY));
    lane(
        "the same from a foreign topic: two stages",
        |r| &r.two,
        None,
    );
    latency(&scratch.within("slow."), seconds);
}

/// One round over the same records.
struct Round {
    copied: Drained,
    one: Worked,
    two: Worked,
}

impl Round {
    fn measure(scratch: &Scratch, load: Load) -> Self {
        let dir = disk::scratch();
        let fixture = Fixture::new(scratch, dir.path());
        let [foreign, copy, one, two] =
            ["foreign", "copy", "one", "two"].map(|name| fixture.topic(name));
        load.produce(&*fixture.log, &fixture.names.events);
        load.produce_foreign(&*fixture.log, &foreign);
        let input = Arc::clone(&fixture.names.events);
        Self {
            copied: topologies::copy(scratch, &input, &copy, load.events),
            one: fixture.drain(EVENTS, &input, &one, load),
            two: fixture.drain(FOREIGN, &foreign, &two, load),
        }
    }
}

fn latency(scratch: &Scratch, seconds: usize) {
    let topic = scratch.topic("limit", PARTITIONS as i32);
    let small = scratch.small_transactions(&topic, paced_latency::RATE, PLAIN);
    let small = (percentile(small.clone(), 0.5), percentile(small, 0.99));
    let dir = disk::scratch();
    let fixture = Fixture::new(scratch, dir.path());
    let output = fixture.topic("out");
    let deployment = fixture.deploy(EVENTS, &fixture.names.events, &output);
    let topics = (&fixture.names.events, &*output);
    let taken = paced_latency::measure(&fixture.log, topics, topologies::load(100_000), seconds);
    drop(deployment);
    let limit = Some((small, "librdkafka's one-record transaction"));
    paced_latency::print(
        "one stage at 200/s, append to reader",
        &taken,
        Some(paced_latency::TARGET),
        limit,
    );
}
