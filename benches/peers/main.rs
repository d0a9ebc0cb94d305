//! Kafka Streams, and Kafka Connect with Debezium's JDBC sink, beside OmniLink: the same broker, Postgres and records, each
//! with the fastest settings found (`benches/peers/settings`). `scripts/bench peers` fetches and compiles them.
//!
//! `cargo bench --bench peers -- [streams | connect | tune] [EVENTS [SECONDS [ROUNDS]]]`
#![allow(
    missing_docs,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout
)]

mod connect;
mod java;
mod quoted;
mod rows;
mod streams;
mod tried;
mod versus;

#[path = "../common/copy.rs"]
mod copy;
#[path = "../common/disk.rs"]
mod disk;
#[path = "../common/drain.rs"]
mod drain;
#[path = "../common/kafka.rs"]
mod kafka;
#[path = "../common/lanes.rs"]
mod lanes;
#[path = "../common/load.rs"]
mod load;
#[path = "../common/machine.rs"]
mod machine;
#[path = "../common/pace.rs"]
mod pace;
#[path = "../common/postgres.rs"]
mod postgres;
#[path = "../common/project.rs"]
mod project;
#[path = "../common/report.rs"]
mod report;
#[path = "../common/steps.rs"]
mod steps;

use java::{Differs, Kit};
use kafka::Scratch;

/// What to run.
pub struct Asked {
    pub events: usize,
    /// Of latency.
    pub seconds: usize,
    pub rounds: usize,
    /// Settings to try beside the files as they are.
    pub tries: Vec<(String, Differs)>,
}

fn main() {
    let Some(given) = report::Arguments::given() else {
        return;
    };
    let number = |at, default| given.number(at, default);
    let named = |name: &str| given.named(name);
    let tune = named("tune");
    let (Some(kit), Some(scratch)) = (Kit::find(), Scratch::new()) else {
        return;
    };
    let asked = |peer: &str| Asked {
        // A JVM works at its full rate after some seconds only.
        events: number(
            0,
            match (peer, tune) {
                ("streams", false) => 2_000_000,
                ("streams", true) => 1_000_000,
                (_, false) => 500_000,
                (_, true) => 300_000,
            },
        ),
        seconds: number(1, 20),
        rounds: number(2, if tune { 1 } else { 3 }),
        tries: if tune { tried::read(peer) } else { Vec::new() },
    };
    let all = !named("streams") && !named("connect");
    let runs = |peer: &str| all || named(peer);
    if runs("streams") {
        versus::measure(&kit, &scratch, &asked("streams"));
    }
    if runs("connect") {
        rows::measure(&kit, &scratch, &asked("connect"));
    }
    if !tune {
        println!("\nother figures");
        quoted::print(runs);
    }
}
