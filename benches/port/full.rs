//! The same with ten million events in the log and a full dedupe window. Targets: at most 10 % slower, and memory below
//! 600 MB.

use std::time::{Duration, Instant};

use crate::{
    accept::{self, Accepted},
    latency::{self, Latency},
    limits::{BATCH, Limits},
    load::Until,
    machine::{self, Peak},
    report::Row,
    server::{Log, Server},
    sustained::{self, Sustained},
};

const SLOWER: f64 = 0.1;
const MEMORY_MB: f64 = 600.0;
const PROGRESS: Duration = Duration::from_secs(5);
/// Time without progress after which it counts as stalled.
const STALL_TIMEOUT: Duration = Duration::from_mins(2);

/// Events in a full log: `OMNILINK_BENCH_EVENTS`, or ten million.
fn events() -> u64 {
    let given = std::env::var("OMNILINK_BENCH_EVENTS").ok();
    given.and_then(|s| s.parse().ok()).unwrap_or(10_000_000)
}

struct Figures {
    accepted: Accepted,
    sustained: Sustained,
    latency: Latency,
}

pub fn measure(log: Log, limits: &Limits) -> Option<()> {
    let name = log.name();
    let (sustained, latency) = {
        let server = Server::up(log, true)?;
        with_rows(&server, &format!("{name}, empty"), limits)
    };
    let mut server = Server::up(log, false)?;
    let empty = Figures {
        accepted: accept::measure(&server, &format!("{name}, empty"), limits),
        sustained,
        latency,
    };

    let filling = fill(&server, name);
    rest(&server, name);
    let full = format!("{name}, full");
    let accepted = accept::measure(&server, &full, limits);
    let began = Instant::now();
    server.restart(true);
    Row::new(
        format!("{full}: start to ready"),
        began.elapsed().as_secs_f64(),
        "s",
    )
    .print();
    let projecting = catch_up(&server, name);
    let (sustained, latency) = with_rows(&server, &full, limits);
    let full = Figures {
        accepted,
        sustained,
        latency,
    };
    compare(name, &empty, &full);
    let peak = [filling, projecting, full.accepted.peak, full.sustained.peak];
    Row::new(
        format!("{name}, full: resident memory, most of all"),
        peak.into_iter().fold(0.0, f64::max),
        "MB",
    )
    .target_below(MEMORY_MB)
    .note(format!(
        "filling {:.0}, accepting {:.0}, projecting the whole log {:.0}, sustained {:.0}",
        peak[0], peak[2], peak[1], peak[3]
    ))
    .print();
    Some(())
}

fn with_rows(server: &Server, name: &str, limits: &Limits) -> (Sustained, Latency) {
    let latency = latency::measure(server, name);
    (sustained::measure(server, name, limits), latency)
}

/// Fills the log up to this many events; returns the peak memory.
fn fill(server: &Server, name: &str) -> f64 {
    // Including events of earlier measurements.
    let events = events().saturating_sub(server.accepted());
    let peak = Peak::watch(server.pid());
    let before = server.accepted();
    // Ten events per entity.
    let plan = server.plan(
        BATCH,
        (events / 10).max(1),
        Until::Requests(events.div_ceil(BATCH as u64)),
    );
    let load = std::thread::spawn(move || crate::load::run(plan));
    let mut said = Instant::now();
    while !load.is_finished() {
        std::thread::sleep(Duration::from_millis(50));
        if said.elapsed() >= PROGRESS {
            said = Instant::now();
            println!(
                "    … {:.2} of {:.2} million events, {:.0} MB resident",
                (server.accepted() - before) as f64 / 1e6,
                events as f64 / 1e6,
                server.resident_mb()
            );
        }
    }
    let outcome = load.join().unwrap();
    let settled = accept::settle(server);
    let peak = peak.end();
    Row::new(
        format!("{name}: filled with {} events", outcome.accepted),
        outcome.per_second(),
        "ev/s",
    )
    .note(format!(
        "{}; admission caught up {:.1} s later; {peak:.0} MB resident at most; data directory {:.0} MB",
        outcome.note(),
        settled.as_secs_f64(),
        server.data_mb()
    ))
    .print();
    peak
}

/// Waits until the store has finished compaction, so that a full log is measured, not the filling.
fn rest(server: &Server, name: &str) {
    const POLL_INTERVAL: Duration = Duration::from_secs(1);
    let start = Instant::now();
    let mut calm = 0;
    let mut before = machine::cpu_by_thread(server.pid()).values().sum::<f64>();
    while calm < 3 && start.elapsed() < STALL_TIMEOUT {
        std::thread::sleep(POLL_INTERVAL);
        let now = machine::cpu_by_thread(server.pid()).values().sum::<f64>();
        calm = if now - before < 20_000.0 { calm + 1 } else { 0 };
        before = now;
    }
    let took = start.elapsed().as_secs_f64() - 3.0;
    Row::new(format!("{name}: upkeep after the filling"), took, "s").print();
}

/// Waits until all events are rows; returns the peak memory.
fn catch_up(server: &Server, name: &str) -> f64 {
    let peak = Peak::watch(server.pid());
    let (start, all) = (Instant::now(), server.accepted());
    let (mut rows, mut moved, mut said) = (0, Instant::now(), Instant::now());
    while rows < all {
        std::thread::sleep(Duration::from_millis(100));
        let now = server.projected();
        if now > rows {
            (rows, moved) = (now, Instant::now());
        }
        assert!(
            moved.elapsed() < STALL_TIMEOUT,
            "{rows} of {all} rows, no more"
        );
        if said.elapsed() >= PROGRESS {
            said = Instant::now();
            println!(
                "    … {:.2} of {:.2} million rows, {:.0} MB resident",
                rows as f64 / 1e6,
                all as f64 / 1e6,
                server.resident_mb()
            );
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    Row::new(
        format!("{name}: the whole log into Postgres"),
        all as f64 / seconds,
        "rows/s",
    )
    .note(format!("{all} events in {seconds:.0} s"))
    .print();
    peak.end()
}

fn compare(name: &str, empty: &Figures, full: &Figures) {
    let (a, b) = (&empty.accepted, &full.accepted);
    for (what, before, now) in [
        ("accept-only, single", a.single, b.single),
        ("accept-only, batches of 50", a.batches, b.batches),
        ("sustained", empty.sustained.rows, full.sustained.rows),
    ] {
        Row::new(format!("{name}, full: {what}"), now, "ev/s")
            .against(before, "empty")
            .target_ratio(1.0 - SLOWER)
            .print();
    }
    for (what, before, now) in [
        ("p50", empty.latency.p50, full.latency.p50),
        ("p99", empty.latency.p99, full.latency.p99),
    ] {
        Row::new(format!("{name}, full: HTTP to row, {what}"), now, "ms")
            .against(before, "empty")
            .target_below(before * (1.0 + SLOWER))
            .print();
    }
}
