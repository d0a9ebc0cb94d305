//! The latency from the append of a record to the reader of its output, at a constant rate.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use omnilink::log::{Append, Log};

use crate::{
    load::{self, Load},
    report::{Row, percentile},
};

pub const RATE: f64 = 200.0;
/// The target for a lane in milliseconds: p50 and p99.
pub const TARGET: (f64, f64) = (12.0, 30.0);
/// Records before the measurement, during which a JVM compiles.
const WARM_UP: usize = 1_000;
/// Time limit for the first record, which includes the start of the processor.
const START: Duration = Duration::from_mins(1);
const DEADLINE: Duration = Duration::from_secs(30);

/// Sends events for this many seconds and reads the output; returns latencies in milliseconds without the warm-up.
pub fn measure(
    log: &Arc<dyn Log>,
    (input, output): (&Arc<str>, &str),
    load: Load,
    seconds: usize,
) -> Vec<f64> {
    let base = Instant::now();
    let nanos = move || base.elapsed().as_nanos() as u64;
    let mut reader = log.reader(output).unwrap();
    for partition in 0..log.partitions(output).unwrap() {
        reader.assign(partition, 0).unwrap();
    }
    let count = WARM_UP + (RATE * seconds as f64) as usize;
    let append = {
        let (log, input) = (Arc::clone(log), Arc::clone(input));
        move |n: usize| {
            let record = load.stamped(n, nanos());
            let topic = Arc::clone(&input);
            // A failed append shows as a missing output.
            drop(log.append(vec![Append { topic, record }], None));
        }
    };
    let mut taken = Vec::new();
    let mut batch = Vec::new();
    let mut poll = |taken: &mut Vec<f64>| {
        reader.poll(Duration::from_millis(100), &mut batch).unwrap();
        let now = nanos();
        for fetched in batch.drain(..) {
            let sent = load::sent(&fetched.record.value.unwrap());
            taken.push((now - sent) as f64 / 1e6);
        }
    };
    // The first output shows that the processor runs.
    append(0);
    while taken.is_empty() {
        assert!(base.elapsed() < START, "no output");
        poll(&mut taken);
    }
    let sender = std::thread::spawn(move || {
        let start = Instant::now();
        for n in 1..count {
            let due = start + Duration::from_secs_f64(n as f64 / RATE);
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            append(n);
        }
    });
    let (mut last, mut seen) = (Instant::now(), taken.len());
    while taken.len() < count {
        poll(&mut taken);
        if taken.len() > seen {
            (last, seen) = (Instant::now(), taken.len());
        }
        assert!(
            last.elapsed() < DEADLINE,
            "{seen} of {count} records in the output"
        );
    }
    sender.join().unwrap();
    taken.split_off(WARM_UP)
}

/// Prints p50 and p99, each with its target and that of a limit.
pub fn print(
    name: &str,
    taken: &[f64],
    target: Option<(f64, f64)>,
    limit: Option<((f64, f64), &'static str)>,
) {
    for (share, what) in [(0.5, "p50"), (0.99, "p99")] {
        let pick = |(half, most): (f64, f64)| if share < 0.9 { half } else { most };
        let value = percentile(taken.to_vec(), share);
        let mut row = Row::new(format!("{name}, {what}"), value, "ms");
        if let Some((limit, of)) = limit {
            row = row.against(pick(limit), of);
        }
        if let Some(target) = target {
            row = row.target_below(pick(target));
        }
        row.print();
    }
}
