//! Kafka Streams, and Kafka Connect with Debezium's JDBC sink, compared with OmniLink: the same broker, Postgres and records,
//! each with the fastest settings found (`benches/peers/settings`). `scripts/bench peers` downloads and compiles them.
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
mod connect_comparison;
mod java;
mod quoted;
mod streams;
mod streams_comparison;
mod tune;

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
#[path = "../common/paced_latency.rs"]
mod paced_latency;
#[path = "../common/postgres.rs"]
mod postgres;
#[path = "../common/project.rs"]
mod project;
#[path = "../common/report.rs"]
mod report;
#[path = "../common/topologies.rs"]
mod topologies;

use java::{Differs, Kit};
use kafka::Scratch;

/// The parameters of a bench.
pub struct Parameters {
    pub events: usize,
    /// Duration of the latency measurement.
    pub seconds: usize,
    pub rounds: usize,
    /// Settings to try in addition to the files.
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
    let parameters = |peer: &str| Parameters {
        // A JVM needs some seconds to reach its full rate.
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
        tries: if tune { tune::read(peer) } else { Vec::new() },
    };
    let all = !named("streams") && !named("connect");
    let runs = |peer: &str| all || named(peer);
    if runs("streams") {
        streams_comparison::measure(&kit, &scratch, &parameters("streams"));
    }
    if runs("connect") {
        connect_comparison::measure(&kit, &scratch, &parameters("connect"));
    }
    if !tune {
        println!("\nother figures");
        quoted::print(runs);
    }
}
