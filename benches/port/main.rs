//! Measures OmniLink from its port, with the limits of the machine in the same run. Run by `scripts/bench`.
#![allow(
    missing_docs,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout
)]

mod accept;
mod full;
mod goals;
mod hostile;
mod latency;
mod limited;
mod limits;
mod live;
mod load;
mod request;
mod rows;
mod runs;
mod server;
mod sustained;
mod webhooks;
mod worker;

#[path = "../../tests/it/support/hostile.rs"]
mod attackers;
#[path = "../common/disk.rs"]
mod disk;
#[path = "../../tests/it/support/frames.rs"]
mod frames;
#[path = "../common/kafka.rs"]
mod kafka;
#[path = "../common/machine.rs"]
mod machine;
#[path = "../common/postgres.rs"]
mod postgres;
#[path = "../common/report.rs"]
mod report;
#[path = "../../tests/it/support/tls.rs"]
#[allow(dead_code, reason = "the tests use all of it")]
mod tls;

use server::{Log, Server};

fn main() {
    // `cargo bench` adds `--bench`; `cargo test` runs benches with `--test` or `--list`, which must not measure.
    let args: Vec<String> = std::env::args()
        .skip(1)
        .filter(|a| !a.starts_with("--"))
        .collect();
    let names: Vec<&str> = args.iter().map(String::as_str).collect();
    match names.as_slice() {
        ["local", parts @ ..] => run(Log::Local, parts),
        ["kafka", parts @ ..] => run(Log::Kafka, parts),
        ["hostile"] => hostile::measure(),
        // Only load, for use with a profiler.
        ["drive", address, key, batch, seconds] => drive(address, key, batch, seconds),
        // The bare handler with which the port is compared, in its own process.
        ["bare", address] => limits::serve(address),
        ["worker", address] => worker::serve(address),
        _ => println!("{USAGE}"),
    }
}

const USAGE: &str = "local | kafka [limits | accept | sustained | latency | limited | webhooks | runs | runs-sustained | runs-live | runs-finished | goals | full]…; all but the last six where none is named
hostile
drive ADDRESS KEY BATCH SECONDS";

fn run(log: Log, parts: &[&str]) {
    let known = [
        "limits",
        "accept",
        "sustained",
        "latency",
        "limited",
        "webhooks",
        "runs",
        "runs-sustained",
        "runs-live",
        "runs-finished",
        "goals",
        "full",
    ];
    if let Some(part) = parts.iter().find(|part| !known.contains(part)) {
        eprintln!("there is no part `{part}`: {USAGE}");
        std::process::exit(2);
    }
    let apart = [
        "full",
        "runs",
        "runs-sustained",
        "runs-live",
        "runs-finished",
        "goals",
    ];
    let wants = |part: &str| parts.contains(&part) || parts.is_empty() && !apart.contains(&part);
    if measure(log, &wants).is_none() {
        std::process::exit(1);
    }
}

/// Warms up the broker, whose JVM compiles for most of a minute of load.
fn warm_up(log: Log) -> Option<()> {
    if log == Log::Kafka {
        let given = std::env::var("OMNILINK_BENCH_WARM_UP").ok();
        let seconds = given.and_then(|s| s.parse().ok()).unwrap_or(60.0);
        println!("    the broker is warmed up for {seconds} s");
        let server = Server::up(log, true)?;
        server.drive(1, server::ENTITIES, load::Until::Seconds(seconds));
    }
    Some(())
}

/// `None` without Kafka.
fn measure(log: Log, wants: &dyn Fn(&str) -> bool) -> Option<()> {
    warm_up(log)?;
    let limits = limits::measure(log)?;
    let name = log.name();
    if wants("accept") {
        accept::measure(&Server::up(log, false)?, name, &limits);
    }
    if wants("sustained") {
        sustained::measure(&Server::up(log, true)?, name, &limits);
    }
    if wants("latency") {
        latency::measure(&Server::up(log, true)?, name);
    }
    if wants("limited") {
        limited::measure(log)?;
    }
    if wants("webhooks") {
        webhooks::measure(log)?;
    }
    if wants("runs") {
        runs::accepted(log, &limits)?;
    }
    if wants("runs-sustained") {
        runs::sustained(log, &limits)?;
    }
    if wants("runs-live") {
        live::live(log)?;
    }
    if wants("runs-finished") {
        live::finished(log)?;
    }
    if wants("goals") {
        goals::measure(log, &limits)?;
    }
    if wants("full") {
        full::measure(log, &limits)?;
    }
    Some(())
}

fn drive(address: &str, key: &str, batch: &str, seconds: &str) {
    let outcome = load::run(load::Plan {
        address: address.parse().unwrap(),
        key: key.to_owned(),
        connections: server::CONNECTIONS,
        what: load::What::Events {
            batch: batch.parse().unwrap(),
            entities: server::ENTITIES,
        },
        until: load::Until::Seconds(seconds.parse().unwrap()),
        rate: None,
        accepted: std::sync::Arc::default(),
    });
    println!("{:.0} events/s; {}", outcome.per_second(), outcome.note());
}
