//! Kafka Streams: dedupe and count with `exactly_once_v2`, from the same topic as OmniLink's lane.

use std::{cell::Cell, collections::HashMap, sync::Arc, time::Duration};

use rdkafka::message::Message;

use crate::{
    disk,
    drain::Drain,
    java::{self, Differs, Java, Kit},
    load::Load,
    machine::{self, Cpu, Peak},
    paced_latency, topologies,
    topologies::{Fixture, PARTITIONS, Worked},
};

const DEADLINE: Duration = Duration::from_mins(10);
const FILE: &str = "streams.properties";

pub struct Streams<'a> {
    pub kit: &'a Kit,
    /// Each run has its own application id.
    pub runs: Cell<u32>,
}

impl Streams<'_> {
    fn start(
        &self,
        fixture: &Fixture<'_>,
        differs: &Differs,
        dir: &std::path::Path,
    ) -> (Java, String, Arc<str>) {
        let run = self.runs.get();
        self.runs.set(run + 1);
        let group = format!("streams{run}");
        let output = fixture.topic(&format!("streams{run}.out"));
        let all = differs
            .clone()
            .with("bootstrap.servers", &*fixture.own.brokers)
            .with("application.id", fixture.foreign.name(&group))
            .with("state.dir", dir.join("state").to_str().unwrap());
        let settings = java::settings(FILE, &all);
        let file = java::write(&settings, &dir.join(FILE));
        let args = [&*file, &*fixture.names.events, &*output];
        let java = Java::start(self.kit, differs, "StreamsPeer", &args, dir);
        (java, group, output)
    }

    /// Processes a full topic; returns the peak memory in MB.
    pub fn drain(&self, fixture: &Fixture<'_>, differs: &Differs, load: Load) -> (Worked, f64) {
        let dir = disk::scratch();
        let mut drain = Drain::begin();
        let (mut java, group, output) = self.start(fixture, differs, dir.path());
        let mut others = vec![("the JVM", java.pid())];
        others.extend(machine::broker(&fixture.own.brokers).map(|pid| ("Kafka", pid)));
        let cpu = Cpu::of(std::process::id(), |_| "the bench", others);
        let peak = Peak::watch(java.pid());
        let watch = fixture
            .foreign
            .watch(&group, "own.events", PARTITIONS as i32);
        let end = topologies::ends(&*fixture.log, &fixture.names.events);
        drain.watch(DEADLINE, || {
            java.check();
            let done = watch.done();
            (vec![done], done == end)
        });
        let mut parts = cpu.used();
        // The name is set already.
        parts.remove("child processes");
        let peak = peak.end();
        drop(java);
        let settings = java::settings(FILE, differs);
        if java::value(&settings, "peer.form") == "count" {
            check_counts(fixture, &output, load);
        } else {
            fixture.check(&output, load);
        }
        let worked = Worked {
            drained: drain.end(load.events),
            parts,
        };
        (worked, peak)
    }

    /// Latencies from append to reader in milliseconds, for this many seconds.
    pub fn latency(&self, fixture: &Fixture<'_>, differs: &Differs, seconds: usize) -> Vec<f64> {
        let dir = disk::scratch();
        let (_java, _, output) = self.start(fixture, differs, dir.path());
        let topics = (&fixture.names.events, &*output);
        paced_latency::measure(&fixture.log, topics, topologies::load(100_000), seconds)
    }
}

/// Checks that the last counts of all keys add up to the distinct events.
fn check_counts(fixture: &Fixture<'_>, output: &str, load: Load) {
    topologies::eventually(load.distinct() as u64, || {
        let mut counts: HashMap<Vec<u8>, u64> = HashMap::new();
        fixture.foreign.read(output, PARTITIONS as i32, |message| {
            let count = message.payload().unwrap().try_into().unwrap();
            counts.insert(message.key().unwrap().to_vec(), u64::from_be_bytes(count));
        });
        counts.values().sum()
    });
}
