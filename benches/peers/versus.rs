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

/// The same records, worked off by each.
struct Round {
    copied: Drained,
    lane: Worked,
    /// Each new event passed on with its count; the counts alone.
    pass: (Worked, f64),
    count: (Worked, f64),
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
        let streams = |form: &str| {
            let differs = Differs::default().with("peer.form", form);
            streams.drain(&bed, &differs, load)
        };
        Round {
            copied: steps::copy(&scratch, &bed.names.events, &copy, load.events),
            lane: bed.drain(EVENTS, &bed.names.events, &lane, load),
            pass: streams("pass"),
            count: streams("count"),
        }
    };
    let rounds: Vec<Round> = (0..asked.rounds).map(round).collect();
    let rate = |of: fn(&Round) -> &Drained| median(rounds.iter().map(|r| of(r).steady));
    let copied = rate(|r| &r.copied);
    Row::new("limit: librdkafka, transactional copy", copied, "rec/s")
        .note(rounds[0].copied.note())
        .print();
    let pass = rate(|r| &r.pass.0.drained);
    let count = rate(|r| &r.count.0.drained);
    for (name, rate, of) in [
        (
            "Kafka Streams: dedupe + count, records passed on",
            pass,
            &rounds[0].pass,
        ),
        (
            "Kafka Streams: dedupe + count, counts alone",
            count,
            &rounds[0].count,
        ),
    ] {
        Row::new(name, rate, "rec/s")
            .against(copied, "plain copy")
            .note(of.0.drained.note())
            .print();
        report::cpu(name, &of.0.parts, asked.events as f64);
        memory(name, of.1);
    }
    let name = "OmniLink: map, dedupe, rate_limit, one stage";
    let lane = rate(|r| &r.lane.drained);
    Row::new(name, lane, "rec/s")
        .against(copied, "plain copy")
        .asks_ratio(OF_COPY)
        .note(rounds[0].lane.drained.note())
        .print();
    report::cpu(name, &rounds[0].lane.parts, asked.events as f64);
    Row::new("OmniLink's lane beside the faster Streams", lane, "rec/s")
        .against(pass.max(count), "Kafka Streams")
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
