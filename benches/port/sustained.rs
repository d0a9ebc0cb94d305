//! Full load for a minute, with rows. The lag must not grow; if it does, the sustained rate is that of the rows.

use std::time::{Duration, Instant};

use crate::{
    limits::Limits,
    load::{Outcome, Until},
    machine::{Cpu, Peak},
    report::{self, Row},
    server::{ENTITIES, Server},
};

/// Warm-up in seconds, during which caches fill and the lag stabilises.
const WARM_UP: f64 = 5.0;
/// A lag that grows by less than this share of the rate counts as constant.
const LEVEL: f64 = 0.01;
const DRAIN: Duration = Duration::from_mins(5);

pub struct Sustained {
    /// Rows per second.
    pub rows: f64,
    /// Peak resident memory, in MB.
    pub peak: f64,
}

/// A sample after the warm-up.
struct Sample {
    seconds: f64,
    accepted: u64,
    rows: u64,
}

impl Sample {
    /// Accepted events without a row yet.
    fn lag(&self) -> f64 {
        self.accepted as f64 - self.rows as f64
    }
}

/// `OMNILINK_BENCH_SECONDS`, or a minute.
pub fn seconds() -> f64 {
    let given = std::env::var("OMNILINK_BENCH_SECONDS").ok();
    given.and_then(|s| s.parse().ok()).unwrap_or(60.0)
}

/// All events accepted before must have rows, because the server counts rows from the start of its process.
pub fn measure(server: &Server, name: &str, limits: &Limits) -> Sustained {
    let name = format!("{name}: sustained into Postgres, single, c=64");
    let seconds = seconds();
    let base = Base {
        accepted: server.accepted(),
        rows: server.projected(),
        in_table: server.rows(crate::rows::Rows::events),
    };
    let cpu = server.cpu(true);
    let peak = Peak::watch(server.pid());
    let (outcome, samples) = load_and_sample(server, &base, seconds);
    let peak = peak.end();

    let (first, last) = (samples.first().unwrap(), samples.last().unwrap());
    let time = last.seconds - first.seconds;
    let accepted = (last.accepted - first.accepted) as f64 / time;
    let rows = (last.rows - first.rows) as f64 / time;
    let growth = slope(&samples);
    Row::new(&name, rows, "rows/s")
        .against(limits.single, "bare axum")
        .note(format!(
            "over {time:.0} s; accepted {accepted:.0} a second; {}",
            outcome.note()
        ))
        .print();
    for (when, sample) in [("start", first), ("end", last)] {
        Row::new(format!("{name}: lag at the {when}"), sample.lag(), "events")
            .note(format!("{:.2} s of rows", sample.lag() / rows))
            .print();
    }
    Row::new(format!("{name}: the lag grows"), growth, "ev/s")
        .target_below((LEVEL * accepted).round())
        .note(if growth < LEVEL * accepted {
            "it does not: all that is accepted is sustained"
        } else {
            "it does: only what became rows is sustained"
        })
        .print();
    finish(server, &name, &base, &cpu, &outcome);
    Row::new(format!("{name}: resident memory, most"), peak, "MB").print();
    Sustained { rows, peak }
}

/// Counts before the load.
struct Base {
    accepted: u64,
    rows: u64,
    in_table: u64,
}

fn load_and_sample(server: &Server, base: &Base, seconds: f64) -> (Outcome, Vec<Sample>) {
    // This thread samples; the other one generates the load.
    let plan = server.plan(1, ENTITIES, Until::Seconds(seconds));
    let start = Instant::now();
    let load = std::thread::spawn(move || crate::load::run(plan));
    let warm = WARM_UP.min(seconds / 3.0);
    let every = (seconds / 60.0).clamp(0.25, 1.0);
    let mut samples = Vec::new();
    while start.elapsed().as_secs_f64() < seconds - every / 2.0 {
        std::thread::sleep(Duration::from_secs_f64(every));
        let sample = Sample {
            // Rows first, so that events accepted in between count as lag.
            rows: server.projected() - base.rows,
            accepted: server.accepted() - base.accepted,
            seconds: start.elapsed().as_secs_f64(),
        };
        if sample.seconds >= warm {
            samples.push(sample);
        }
    }
    (load.join().unwrap(), samples)
}

/// Growth of the lag in events per second, by linear regression.
fn slope(samples: &[Sample]) -> f64 {
    let count = samples.len() as f64;
    let time = samples.iter().map(|s| s.seconds).sum::<f64>() / count;
    let lag = samples.iter().map(Sample::lag).sum::<f64>() / count;
    let (mut both, mut square) = (0.0, 0.0);
    for sample in samples {
        both += (sample.seconds - time) * (sample.lag() - lag);
        square += (sample.seconds - time).powi(2);
    }
    if square == 0.0 { 0.0 } else { both / square }
}

/// Waits for the last rows, and counts them.
fn finish(server: &Server, name: &str, base: &Base, cpu: &Cpu, outcome: &Outcome) {
    let start = Instant::now();
    let accepted = server.accepted() - base.accepted;
    while server.projected() - base.rows < accepted && start.elapsed() < DRAIN {
        std::thread::sleep(Duration::from_millis(10));
    }
    let drained = start.elapsed().as_secs_f64();
    let mut parts = cpu.used();
    parts.insert("load generator", outcome.cpu);
    report::cpu(name, &parts, accepted as f64);
    let rows = server.rows(crate::rows::Rows::events) - base.in_table;
    Row::new(format!("{name}: until the last row"), drained, "s")
        .note(if rows == accepted {
            format!("all {rows} events have their row")
        } else {
            format!("MISMATCH: {accepted} events were accepted, {rows} have a row")
        })
        .print();
}
