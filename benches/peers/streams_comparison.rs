//! Kafka Streams and OmniLink's lane over the same full topic, and at a pace.

use std::cell::Cell;

use crate::{
    Asked, disk,
    drain::Drained,
    java::{Differs, Kit},
    kafka::Scratch,
    pace,
    report::{self, Row, median},
    steps::{self, Bed, EVENTS, Worked},
    streams::Streams,
    tried,
};

/// What is asked of the lane.
const OF_COPY: f64 = 0.55;
const OF_STREAMS: f64 = 1.2;

/// What Kafka Streams does with the records, and how its settings differ for it. The first is a lane's work: each new record goes
/// on. With its state in memory a window of 24 hours must fit there, and comes from the changelog whenever it starts; OmniLink's is
/// on disk.
const STREAMS: [(&str, &[(&str, &str)]); 3] = [
    ("records passed on", &[("peer.form", "pass")]),
    ("counts alone", &[("peer.form", "count")]),
    (
        "counts alone, state in memory",
        &[("peer.form", "count"), ("peer.store", "memory")],
    ),
];
/// So many of them keep their state on disk, as OmniLink does.
const ON_DISK: usize = 2;

/// The same records, worked off by each.
struct Round {
    copied: Drained,
    lane: Worked,
    /// What each of [`STREAMS`] did, and its memory.
    streams: Vec<(Worked, f64)>,
}

pub fn measure(kit: &Kit, scratch: &Scratch, asked: &Asked) {
    let streams = Streams {
        kit,
        runs: Cell::new(0),
    };
    let events = asked.events;
    let weight = steps::load(events).weight();
    println!("\nKafka Streams: {events} records of {weight} B");
    if asked.tries.is_empty() {
        throughput(&streams, scratch, asked);
        latency(&streams, scratch, asked.seconds);
    } else {
        tune(&streams, scratch, asked);
    }
}

fn throughput(streams: &Streams<'_>, scratch: &Scratch, asked: &Asked) {
    let load = steps::load(asked.events);
    let round = |n: usize| {
        let scratch = scratch.within(&format!("{n}."));
        let dir = disk::scratch();
        let bed = Bed::new(&scratch, dir.path());
        load.produce(&*bed.log, &bed.names.events);
        let [copy, lane] = ["copy", "lane"].map(|name| bed.topic(name));
        let streams = |(_, settings): &(&str, &[(&str, &str)])| {
            let with = |all: Differs, (name, value): &(&str, &str)| all.with(name, *value);
            let differs = settings.iter().fold(Differs::default(), with);
            streams.drain(&bed, &differs, load)
        };
        Round {
            copied: steps::copy(&scratch, &bed.names.events, &copy, load.events),
            lane: bed.drain(EVENTS, &bed.names.events, &lane, load),
            streams: STREAMS.iter().map(streams).collect(),
        }
    };
    let rounds: Vec<Round> = (0..asked.rounds).map(round).collect();
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
        report::cpu(&name, &worked.parts, asked.events as f64);
        memory(&name, *most);
    }
    let name = "OmniLink: map, dedupe, rate_limit, one stage";
    let steady = rate(&|r| r.lane.drained.steady);
    Row::new(name, steady, "rec/s")
        .against(copied, "plain copy")
        .asks_ratio(OF_COPY)
        .note(rounds[0].lane.drained.note())
        .print();
    report::cpu(name, &rounds[0].lane.parts, asked.events as f64);
    for (n, (name, _)) in STREAMS.iter().enumerate() {
        let name = format!("OmniLink's lane beside Streams, {name}");
        let streams = rate(&|r| r.streams[n].0.drained.steady);
        let row = Row::new(name, steady, "rec/s").against(streams, "Kafka Streams");
        if n < ON_DISK {
            row.asks_ratio(OF_STREAMS).print();
        } else {
            row.print();
        }
    }
    let streams = (0..STREAMS.len()).map(|n| rate(&|r| r.streams[n].0.drained.whole));
    let name = "OmniLink's lane beside the fastest of them, each from its start";
    Row::new(name, rate(&|r| r.lane.drained.whole), "rec/s")
        .against(streams.fold(0.0, f64::max), "Kafka Streams")
        .asks_ratio(OF_STREAMS)
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
        let bed = Bed::new(&scratch, dir.path());
        let taken = streams.latency(&bed, &differs, seconds);
        let name = format!("Kafka Streams at 200/s, {name}");
        pace::print(&name, &taken, None, None);
    }
    let scratch = scratch.within("slow.");
    let dir = disk::scratch();
    let bed = Bed::new(&scratch, dir.path());
    let output = bed.topic("out");
    let deployment = bed.deploy(EVENTS, &bed.names.events, &output);
    let topics = (&bed.names.events, &*output);
    let taken = pace::measure(&bed.log, topics, steps::load(100_000), seconds);
    drop(deployment);
    let name = "OmniLink: one stage at 200/s, append to reader";
    pace::print(name, &taken, Some(pace::ASKED), None);
}

/// The settings as they are, and each try, over one topic.
fn tune(streams: &Streams<'_>, scratch: &Scratch, asked: &Asked) {
    let load = steps::load(asked.events);
    let dir = disk::scratch();
    let bed = Bed::new(scratch, dir.path());
    load.produce(&*bed.log, &bed.names.events);
    tried::each("streams", asked, |differs| {
        let (worked, most) = streams.drain(&bed, differs, load);
        (worked.drained, most)
    });
}
