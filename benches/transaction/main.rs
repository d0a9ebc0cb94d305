//! Transactions of a lane on Kafka and the embedded log: latency of single records at 200 per second, and throughput of a
//! copy.
//!
//! `cargo bench --bench transaction -- [SECONDS [RECORDS]]`
#![allow(
    missing_docs,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout
)]

mod copy;

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
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use copy::Copy;
use kafka::{BYTES, Scratch};
use machine::Cpu;
use omnilink::{
    base::clock::SystemClock,
    log::{
        Append, Cleanup, Log, Record, TopicSpec,
        local::{LocalLog, LocalOptions},
    },
};
use report::{Row, percentile};

const PARTITIONS: u32 = 8;
const PACE: f64 = 200.0;
const WARM_UP: usize = 400;
/// Records per plain transaction, the maximum of a lane's poll.
const BATCH: u64 = 10_000;
const PLAIN: Duration = Duration::from_secs(4);
const DEADLINE: Duration = Duration::from_secs(30);

fn main() {
    let Some(given) = report::Arguments::given() else {
        return;
    };
    let number = |at, default| given.number(at, default);
    let (seconds, records) = (number(0, 10), number(1, 500_000));
    local(seconds, records);
    if let Some(scratch) = Scratch::new() {
        on_kafka(&scratch, seconds, records);
    }
}

/// A log with the topics that lanes copy between.
struct Fixture {
    name: &'static str,
    log: Arc<dyn Log>,
    /// Topics for latency, for throughput, and for dead letters.
    topics: [Arc<str>; 5],
    broker: Option<u32>,
}

/// In milliseconds.
struct Latencies {
    /// From the append to the copy's reader.
    whole: Vec<f64>,
    /// From the time at which the lane processes the record.
    processed: Vec<f64>,
}

impl Fixture {
    fn new(name: &'static str, log: Arc<dyn Log>, prefix: &str, broker: Option<u32>) -> Self {
        let topics = ["slow", "slow.copy", "fast", "fast.copy", "dlq"]
            .map(|topic| Arc::<str>::from(format!("{prefix}{topic}")));
        let specs = topics.each_ref().map(|name| TopicSpec {
            name: Arc::clone(name),
            partitions: PARTITIONS,
            cleanup: Cleanup::Keep,
        });
        log.provision(&specs, true).unwrap();
        Self {
            name,
            log,
            topics,
            broker,
        }
    }

    /// Nearly always one record per transaction, because a lane commits when its input is drained.
    fn latencies(&self, seconds: usize) -> Latencies {
        let [input, output, _, _, dlq] = &self.topics;
        let base = Instant::now();
        let copy = Copy {
            name: "slow",
            input: Arc::clone(input),
            output: Arc::clone(output),
            base: Some(base),
            first: Arc::default(),
        };
        let (running, progress) = lanes::start(&self.log, dlq, Arc::new(copy));
        lanes::ready(&progress, PARTITIONS as usize);
        let count = WARM_UP + (PACE as usize) * seconds;
        let sender = {
            let (log, input) = (Arc::clone(&self.log), Arc::clone(input));
            std::thread::spawn(move || send(&*log, &input, base, count))
        };
        let mut reader = self.log.reader(output).unwrap();
        for partition in 0..PARTITIONS {
            reader.assign(partition, 0).unwrap();
        }
        let (mut whole, mut processed, mut batch) = (Vec::new(), Vec::new(), Vec::new());
        let mut seen = 0;
        let mut last = Instant::now();
        while seen < count {
            reader.poll(Duration::from_millis(100), &mut batch).unwrap();
            let now = base.elapsed().as_nanos() as u64;
            for copy in batch.drain(..) {
                let key = copy.record.key.as_deref().unwrap();
                let n: usize = std::str::from_utf8(key).unwrap().parse().unwrap();
                let (sent, done) = copy::stamps(&copy.record.value.unwrap());
                if n >= WARM_UP {
                    whole.push((now - sent) as f64 / 1e6);
                    processed.push((now - done) as f64 / 1e6);
                }
                (seen, last) = (seen + 1, Instant::now());
            }
            assert!(last.elapsed() < DEADLINE, "{seen} of {count} copies");
        }
        sender.join().unwrap();
        drop(running);
        Latencies { whole, processed }
    }

    /// Appends per second, then copies per second through a lane.
    fn throughput(&self, records: usize) -> (f64, f64) {
        let [_, _, input, output, dlq] = &self.topics;
        let value = bytes::Bytes::from(vec![b'x'; BYTES]);
        let filled = lanes::fill(&*self.log, input, records, |n| Record {
            key: Some(n.to_string().into()),
            value: Some(value.clone()),
            headers: Vec::new(),
        });
        let first = Arc::new(OnceLock::new());
        let copy = Copy {
            name: "fast",
            input: Arc::clone(input),
            output: Arc::clone(output),
            base: None,
            first: Arc::clone(&first),
        };
        let others = self.broker.map(|pid| ("Kafka", pid));
        let cpu = Cpu::of(
            std::process::id(),
            lanes::part,
            others.into_iter().collect(),
        );
        let (running, progress) = lanes::start(&self.log, dlq, Arc::new(copy));
        lanes::wait(&*self.log, &progress, input);
        let took = first.get().expect("it has copied").elapsed();
        let parts = cpu.used();
        drop(running);
        let name = format!("{}: transactional copy", self.name);
        report::cpu(&name, &parts, records as f64);
        let records = records as f64;
        (records / filled, records / took.as_secs_f64())
    }
}

fn send(log: &dyn Log, topic: &Arc<str>, base: Instant, count: usize) {
    let start = Instant::now();
    for n in 0..count {
        let due = start + Duration::from_secs_f64(n as f64 / PACE);
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        // A failed append shows as a missing copy.
        drop(log.append(
            vec![Append {
                topic: Arc::clone(topic),
                record: copy::stamped(base, n, BYTES),
            }],
            None,
        ));
    }
}

/// Prints p50 and p99, each with that of a limit.
fn print(name: &str, values: &[f64], limit: Option<((f64, f64), &'static str)>) {
    for (share, what) in [(0.5, "p50"), (0.99, "p99")] {
        let value = percentile(values.to_vec(), share);
        let mut row = Row::new(format!("{name}, {what}"), value, "ms");
        if let Some(((half, most), limit)) = limit {
            row = row.against(if share < 0.9 { half } else { most }, limit);
        }
        row.print();
    }
}

const WHOLE: &str = "one-record transactions at 200/s, append to reader";
const PROCESSED: &str = "one-record transactions at 200/s, lane to reader";

fn local(seconds: usize, records: usize) {
    let disk = disk::measure();
    let dir = disk::scratch();
    let options = LocalOptions::new(Arc::new(SystemClock));
    let log = Arc::new(LocalLog::open(dir.path(), options).unwrap());
    let fixture = Fixture::new("local", log, "", None);
    let latencies = fixture.latencies(seconds);
    let limit = Some((disk.sync_ms, "16 KiB + fdatasync"));
    print(&format!("local: {WHOLE}"), &latencies.whole, limit);
    print(&format!("local: {PROCESSED}"), &latencies.processed, limit);
    let (appended, copied) = fixture.throughput(records);
    Row::new(
        format!("limit: local: plain appends, {BYTES} B"),
        appended,
        "rec/s",
    )
    .print();
    Row::new(
        format!("local: transactional copy, {BYTES} B"),
        copied,
        "rec/s",
    )
    .against(appended, "plain appends")
    .print();
}

fn on_kafka(scratch: &Scratch, seconds: usize, records: usize) {
    let partitions = PARTITIONS as i32;
    let topic = scratch.topic("limit", partitions);
    let small = scratch.small_transactions(&topic, PACE, PLAIN);
    let small = (percentile(small.clone(), 0.5), percentile(small, 0.99));
    Row::new(
        "limit: librdkafka, one-record transaction, p50",
        small.0,
        "ms",
    )
    .note(format!(
        "p99 {:.2} ms; from begin to commit, without positions, consumer or reader",
        small.1
    ))
    .print();
    scratch.produce(&topic, partitions, Duration::from_secs(1));
    let idempotent = scratch.produce(&topic, partitions, PLAIN);
    Row::new(
        format!("limit: librdkafka, idempotent, {BYTES} B"),
        idempotent,
        "rec/s",
    )
    .print();
    let transactional = scratch.transactions(&topic, partitions, PLAIN, BATCH);
    Row::new(
        format!("limit: librdkafka, transactions of {BATCH}"),
        transactional,
        "rec/s",
    )
    .print();

    let dir = disk::scratch();
    let fixture = Fixture::new(
        "kafka",
        scratch.log("bench", dir.path()),
        &scratch.prefix,
        machine::broker(&scratch.brokers),
    );
    let latencies = fixture.latencies(seconds);
    let limit = Some((small, "librdkafka's own"));
    print(&format!("kafka: {WHOLE}"), &latencies.whole, limit);
    print(&format!("kafka: {PROCESSED}"), &latencies.processed, limit);
    let (appended, copied) = fixture.throughput(records);
    let topics = (
        &*fixture.topics[2],
        &*scratch.topic("plain.copy", partitions),
    );
    let plain = records as f64 / scratch.copy(topics, partitions, BATCH, |_| {});
    Row::new("limit: librdkafka, transactional copy", plain, "rec/s")
        .note("of the same topic, joining no group")
        .print();
    Row::new(
        format!("kafka: plain appends by the library, {BYTES} B"),
        appended,
        "rec/s",
    )
    .against(idempotent, "idempotent")
    .print();
    Row::new(
        format!("kafka: transactional copy, {BYTES} B"),
        copied,
        "rec/s",
    )
    .against(transactional, "transactions")
    .note(format!(
        "{:.2} x a plain copy, {:.2} x idempotent production; reading and positions included",
        copied / plain,
        copied / idempotent
    ))
    .print();
}
