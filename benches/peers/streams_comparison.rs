//! Kafka Streams and OmniLink's lane: throughput on the same full topic, and latency at a constant rate.

use std::cell::Cell;

use crate::{
    Parameters, disk,
    drain::Drained,
    java::{Differs, Kit},
    kafka::Scratch,
    paced_latency,
    report::{self, Row, median},
    streams::Streams,
    topologies::{self, EVENTS, Fixture, Worked},
    tune,
};

/// The target of the lane.
const OF_COPY: f64 = 0.55;
const OF_STREAMS: f64 = 1.2;

/// Variants of Kafka Streams with their settings. The first does the same as a lane: it writes each new record. With its state in
/// memory, a window of 24 hours must fit in memory and is restored from the changelog at each start; OmniLink's is on disk.
const STREAMS: [(&str, &[(&str, &str)]); 3] = [
    ("records passed on", &[("peer.form", "pass")]),
    ("counts alone", &[("peer.form", "count")]),
    (
        "counts alone, state in memory",
        &[("peer.form", "count"), ("peer.store", "memory")],
    ),
];
/// How many of them keep their state on disk, as OmniLink does.
const ON_DISK: usize = 2;

/// One round over the same records.
struct Round {
    copied: Drained,
    lane: Worked,
    /// The result of each of [`STREAMS`], and its memory.
    streams: Vec<(Worked, f64)>,
}

pub fn measure(kit: &Kit, scratch: &Scratch, parameters: &Parameters) {
    let streams = Streams {
        kit,
        runs: Cell::new(0),
    };
    let events = parameters.events;
    let weight = topologies::load(events).weight();
    println!("\nKafka Streams: {events} records of {weight} B");
    if parameters.tries.is_empty() {
        throughput(&streams, scratch, parameters);
        latency(&streams, scratch, parameters.seconds);
    } else {
        tune(&streams, scratch, parameters);
    }
}

fn throughput(streams: &Streams<'_>, scratch: &Scratch, parameters: &Parameters) {
    let load = topologies::load(parameters.events);
    let round = |n: usize| {
        let scratch = scratch.within(&format!("{n}."));
        let dir = disk::scratch();
        let fixture = Fixture::new(&scratch, dir.path());
        load.produce(&*fixture.log, &fixture.names.events);
        let [copy, lane] = ["copy", "lane"].map(|name| fixture.topic(name));
        let streams = |(_, settings): &(&str, &[(&str, &str)])| {
            let with = |all: Differs, (name, value): &(&str, &str)| all.with(name, *value);
            let differs = settings.iter().fold(Differs::default(), with);
            streams.drain(&fixture, &differs, load)
        };
        Round {
            copied: topologies::copy(&scratch, &fixture.names.events, &copy, load.events),
            lane: fixture.drain(EVENTS, &fixture.names.events, &lane, load),
            streams: STREAMS.iter().map(streams).collect(),
        }
    };
    let rounds: Vec<Round> = (0..parameters.rounds).map(round).collect();
    let copied = median(rounds.iter().map(|r| r.copied.steady));
    Row::new("limit: librdkafka, transactional copy", copied, "rec/s")
        .note(rounds[0].copied.note())
        .print();
    let rate = |of: &dyn Fn(&Round) -> f64| median(rounds.iter().map(of));
    for (n, (name, _)) in STREAMS.iter().enumerate() {
        let name = format!("Kafka Streams: dedupe + count, {name}");
        let (worked, most) = &rounds[0].streams[n];
        Row::new(&name, rate(&|r| r.streams[n].0.drained.steady), "rec/s")
            .against(copied, "plain copy")
            .note(worked.drained.note())
            .print();
        report::cpu(&name, &worked.parts, parameters.events as f64);
        memory(&name, *most);
    }
    let name = "OmniLink: map, dedupe, rate_limit, one stage";
    let steady = rate(&|r| r.lane.drained.steady);
    Row::new(name, steady, "rec/s")
        .against(copied, "plain copy")
        .target_ratio(OF_COPY)
        .note(rounds[0].lane.drained.note())
        .print();
    report::cpu(name, &rounds[0].lane.parts, parameters.events as f64);
    for (n, (name, _)) in STREAMS.iter().enumerate() {
        let name = format!("OmniLink's lane beside Streams, {name}");
        let streams = rate(&|r| r.streams[n].0.drained.steady);
        let row = Row::new(name, steady, "rec/s").against(streams, "Kafka Streams");
        if n < ON_DISK {
            row.target_ratio(OF_STREAMS).print();
        } else {
            row.print();
        }
    }
    let streams = (0..STREAMS.len()).map(|n| rate(&|r| r.streams[n].0.drained.whole));
    let name = "OmniLink's lane beside the fastest of them, each from its start";
    Row::new(name, rate(&|r| r.lane.drained.whole), "rec/s")
        .against(streams.fold(0.0, f64::max), "Kafka Streams")
        .target_ratio(OF_STREAMS)
        .print();
}

fn memory(name: &str, most: f64) {
    Row::new(format!("{name}: resident, most"), most, "MB").print();
}

fn latency(streams: &Streams<'_>, scratch: &Scratch, seconds: usize) {
    let commit = |ms: &str| Differs::default().with("commit.interval.ms", ms);
    for (name, differs) in [
        ("default commit interval", commit("100")),
        ("commit interval 10 ms", commit("10")),
    ] {
        let scratch = scratch.within(&format!("slow{}.", streams.runs.get()));
        let dir = disk::scratch();
        let fixture = Fixture::new(&scratch, dir.path());
        let taken = streams.latency(&fixture, &differs, seconds);
        let name = format!("Kafka Streams at 200/s, {name}");
        paced_latency::print(&name, &taken, None, None);
    }
    let scratch = scratch.within("slow.");
    let dir = disk::scratch();
    let fixture = Fixture::new(&scratch, dir.path());
    let output = fixture.topic("out");
    let deployment = fixture.deploy(EVENTS, &fixture.names.events, &output);
    let topics = (&fixture.names.events, &*output);
    let taken = paced_latency::measure(&fixture.log, topics, topologies::load(100_000), seconds);
    drop(deployment);
    let name = "OmniLink: one stage at 200/s, append to reader";
    paced_latency::print(name, &taken, Some(paced_latency::TARGET), None);
}

/// Measures the default settings and each variation on one topic.
fn tune(streams: &Streams<'_>, scratch: &Scratch, parameters: &Parameters) {
    let load = topologies::load(parameters.events);
    let dir = disk::scratch();
    let fixture = Fixture::new(scratch, dir.path());
    load.produce(&*fixture.log, &fixture.names.events);
    tune::each("streams", parameters, |differs| {
        let (worked, most) = streams.drain(&fixture, differs, load);
        (worked.drained, most)
    });
}
