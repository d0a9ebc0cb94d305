//! Kafka Streams: dedupe and count with `exactly_once_v2`, from the very topic that OmniLink's lane reads.

use std::{cell::Cell, collections::HashMap, sync::Arc, time::Duration};

use rdkafka::message::Message;

use crate::{
    disk,
    drain::Drain,
    java::{self, Differs, Java, Kit},
    load::Load,
    machine::{self, Cpu, Peak},
    pace, steps,
    steps::{Bed, PARTITIONS, Worked},
};

const DEADLINE: Duration = Duration::from_mins(10);
const FILE: &str = "streams.properties";

pub struct Streams<'a> {
    pub kit: &'a Kit,
    /// Each run is an application of its own.
    pub runs: Cell<u32>,
}

impl Streams<'_> {
    fn start(
        &self,
        bed: &Bed<'_>,
        differs: &Differs,
        dir: &std::path::Path,
    ) -> (Java, String, Arc<str>) {
        let run = self.runs.get();
        self.runs.set(run + 1);
        let group = format!("streams{run}");
        let output = bed.topic(&format!("streams{run}.out"));
        let all = differs
            .clone()
            .with("bootstrap.servers", &*bed.own.brokers)
            .with("application.id", bed.foreign.name(&group))
            .with("state.dir", dir.join("state").to_str().unwrap());
        let settings = java::settings(FILE, &all);
        let file = java::write(&settings, &dir.join(FILE));
        let args = [&*file, &*bed.names.events, &*output];
        let java = Java::start(self.kit, differs, "StreamsPeer", &args, dir);
        (java, group, output)
    }

    /// Works a full topic off, and says the most memory it took in MB.
    pub fn drain(&self, bed: &Bed<'_>, differs: &Differs, load: Load) -> (Worked, f64) {
        let dir = disk::scratch();
        let mut drain = Drain::begin();
        let (mut java, group, output) = self.start(bed, differs, dir.path());
        let mut others = vec![("the JVM", java.pid())];
        others.extend(machine::broker(&bed.own.brokers).map(|pid| ("Kafka", pid)));
        let cpu = Cpu::of(std::process::id(), |_| "the bench", others);
        let peak = Peak::watch(java.pid());
        let watch = bed.foreign.watch(&group, "own.events", PARTITIONS as i32);
        let end = steps::ends(&*bed.log, &bed.names.events);
        drain.watch(DEADLINE, || {
            java.check();
            let done = watch.done();
            (vec![done], done == end)
        });
        let mut parts = cpu.used();
        // It is named already.
        parts.remove("child processes");
        let peak = peak.end();
        drop(java);
        let settings = java::settings(FILE, differs);
        if java::value(&settings, "peer.form") == "count" {
            check_counts(bed, &output, load);
        } else {
            bed.check(&output, load);
        }
        let worked = Worked {
            drained: drain.end(load.events),
            parts,
        };
        (worked, peak)
    }

    /// Milliseconds from the append to the reader, for so many seconds.
    pub fn latency(&self, bed: &Bed<'_>, differs: &Differs, seconds: usize) -> Vec<f64> {
        let dir = disk::scratch();
        let (_java, _, output) = self.start(bed, differs, dir.path());
        let topics = (&bed.names.events, &*output);
        pace::measure(&bed.log, topics, steps::load(100_000), seconds)
    }
}

/// The last count of each key counts; together they are the events that came once.
fn check_counts(bed: &Bed<'_>, output: &str, load: Load) {
    steps::eventually(load.distinct() as u64, || {
        let mut counts: HashMap<Vec<u8>, u64> = HashMap::new();
        bed.foreign.read(output, PARTITIONS as i32, |message| {
            let count = message.payload().unwrap().try_into().unwrap();
            counts.insert(message.key().unwrap().to_vec(), u64::from_be_bytes(count));
        });
        counts.values().sum()
    });
}
