//! Shared by benches of lanes: filling a topic, and waiting until a lane has read it.
#![allow(dead_code, reason = "not every bench uses all of it")]

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use omnilink::{
    base::clock::SystemClock,
    log::{Append, Log, Record},
    stream::{
        Processor,
        lane::{self, Running, Setup},
        progress::Progress,
    },
};

/// Records per append.
const CHUNK: usize = 5_000;
const DEADLINE: Duration = Duration::from_mins(10);

/// Appends records, with at most two chunks in flight. Returns seconds.
pub fn fill(
    log: &dyn Log,
    topic: &Arc<str>,
    count: usize,
    record: impl Fn(usize) -> Record,
) -> f64 {
    let start = Instant::now();
    let mut waiting = None;
    for from in (0..count).step_by(CHUNK) {
        let records = (from..count.min(from + CHUNK)).map(|n| Append {
            topic: Arc::clone(topic),
            record: record(n),
        });
        let next = log.append(records.collect(), None);
        if let Some(before) = waiting.replace(next) {
            before.blocking_recv().unwrap().unwrap();
        }
    }
    if let Some(last) = waiting {
        last.blocking_recv().unwrap().unwrap();
    }
    start.elapsed().as_secs_f64()
}

/// Starts a lane.
pub fn start(
    log: &Arc<dyn Log>,
    dlq: &Arc<str>,
    processor: Arc<dyn Processor>,
) -> (Running, Arc<Progress>) {
    let progress = Arc::<Progress>::default();
    let setup = Setup {
        log: Arc::clone(log),
        dlq: Arc::clone(dlq),
        clock: Arc::new(SystemClock),
        progress: Arc::clone(&progress),
    };
    (lane::start(processor, setup).unwrap(), progress)
}

/// Waits until a lane has committed all of a topic.
pub fn wait(log: &dyn Log, progress: &Progress, topic: &str) {
    let partitions = 0..log.partitions(topic).unwrap();
    let ends: Vec<u64> = partitions
        .map(|p| log.offset_range(topic, p).unwrap().end)
        .collect();
    let start = Instant::now();
    loop {
        let positions = progress.positions();
        let done = positions
            .iter()
            .filter(|(_, partition, next)| *next >= ends[*partition as usize]);
        if done.count() == ends.len() {
            return;
        }
        let trouble = progress.trouble();
        assert!(start.elapsed() < DEADLINE, "{positions:?} {trouble:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Waits until a lane has its partitions.
pub fn ready(progress: &Progress, partitions: usize) {
    let start = Instant::now();
    while progress.positions().len() < partitions {
        let trouble = progress.trouble();
        assert!(start.elapsed() < DEADLINE, "no partitions: {trouble:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The part of this process to which a thread belongs.
pub fn part(thread: &str) -> &'static str {
    match thread {
        t if t.starts_with("lane") => "lane",
        t if t.starts_with("log-") || t.starts_with("fjall") => "the embedded store",
        t if t.starts_with("rdk") => "librdkafka",
        _ => "the bench",
    }
}
