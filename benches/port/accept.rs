//! Accepting events at full load, without rows. Admission runs, as on every node.

use std::time::{Duration, Instant};

use crate::{
    limits::{BATCH, Limits},
    load::Until,
    machine::Peak,
    report::{self, Row},
    server::{ENTITIES, Server},
};

const SECONDS: f64 = 8.0;
const SETTLE: Duration = Duration::from_mins(2);

/// Events a second.
pub struct Accepted {
    pub single: f64,
    pub batches: f64,
    /// Peak resident memory, in MB.
    pub peak: f64,
}

/// `name` is the prefix of each line of the report.
pub fn measure(server: &Server, name: &str, limits: &Limits) -> Accepted {
    Row::new(
        format!("{name}: resident memory, idle"),
        server.resident_mb(),
        "MB",
    )
    .print();
    let one = |what: &str, batch: usize, limit: f64| {
        loaded(
            server,
            &format!("{name}: accept-only, {what}, c=64"),
            batch,
            limit,
        )
    };
    let (single, first) = one("single", 1, limits.single);
    let (batches, second) = one("batches of 50", BATCH, limits.batches);
    println!("    data directory: {:.0} MB", server.data_mb());
    Accepted {
        single,
        batches,
        peak: first.max(second),
    }
}

fn loaded(server: &Server, name: &str, batch: usize, limit: f64) -> (f64, f64) {
    server.drive(batch, ENTITIES, Until::Seconds(2.0));
    let (cpu, peak) = (server.cpu(false), Peak::watch(server.pid()));
    let outcome = server.drive(batch, ENTITIES, Until::Seconds(SECONDS));
    let mut parts = cpu.used();
    let behind = server.accepted().saturating_sub(server.admitted());
    let took = settle(server);
    let peak = peak.end();
    Row::new(name, outcome.per_second(), "ev/s")
        .against(limit, "bare axum")
        .note(format!(
            "{}; admission was {behind} events behind, caught up in {:.2} s",
            outcome.note(),
            took.as_secs_f64()
        ))
        .print();
    parts.insert("load generator", outcome.cpu);
    report::cpu(name, &parts, outcome.accepted as f64);
    Row::new(format!("{name}: resident memory, most"), peak, "MB").print();
    (outcome.per_second(), peak)
}

/// Waits until admission has processed all events accepted since the process started.
pub fn settle(server: &Server) -> Duration {
    let start = Instant::now();
    let (accepted, mut looked) = (server.accepted(), server.admitted());
    while looked < accepted && start.elapsed() < SETTLE {
        std::thread::sleep(Duration::from_millis(20));
        looked = server.admitted();
    }
    // There may be more: an aborted transaction is processed again, and a refused request may have been written.
    if looked < accepted {
        println!("    MISMATCH: {accepted} events were accepted, admission has looked at {looked}");
    }
    start.elapsed()
}
