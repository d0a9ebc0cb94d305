//! The projector from Kafka into Postgres, compared with a `COPY` of the same rows into the same tables; in a temporary database
//! on the Postgres of `OMNILINK_TEST_POSTGRES`, from a temporary topic on the Kafka of `OMNILINK_TEST_KAFKA`.
//!
//! `cargo bench --bench projector -- [EVENTS [ROUNDS [LANES]]]`
#![allow(
    missing_docs,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::print_stdout
)]

#[path = "../common/copy.rs"]
mod copy;
#[path = "../common/disk.rs"]
mod disk;
#[path = "../common/kafka.rs"]
mod kafka;
#[path = "../common/lanes.rs"]
mod lanes;
#[path = "../common/load.rs"]
mod load;
#[path = "../common/machine.rs"]
mod machine;
#[path = "../common/postgres.rs"]
mod postgres;
#[path = "../common/project.rs"]
mod project;
#[path = "../common/report.rs"]
mod report;

use std::{collections::BTreeMap, sync::Arc};

use copy::{Tables, Took};
use kafka::Scratch;
use load::{Load, Order};
use omnilink::store::Store;
use postgres::Database;
use project::{Projected, Run};
use report::{Row, median};
use tokio::runtime::Runtime;

const PARTITIONS: i32 = 8;
/// Bytes of an event's data.
const BYTES: usize = 500;

fn main() {
    let Some(given) = report::Arguments::given() else {
        return;
    };
    let number = |at, default| given.number(at, default);
    // As `omnilink up` has on Kafka.
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let (events, rounds, lanes) = (number(0, 300_000), number(1, 3), number(2, cores.min(2)));
    println!("{events} events of about 500 B, {rounds} rounds, {lanes} lanes; medians");

    let Some(scratch) = Scratch::new() else {
        return;
    };
    let Some(database) = Database::new() else {
        println!("SKIPPED: OMNILINK_TEST_POSTGRES is not set (eval \"$(scripts/stack env)\")");
        return;
    };
    // As the runtime of `up`, with a name that shows in the processor time.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("sql")
        .build()
        .unwrap();
    let store = Store::with_options(database.options.clone());
    runtime.block_on(store.migrate()).unwrap();
    let state = disk::scratch();
    let log = scratch.log("bench", state.path());
    let dlq: Arc<str> = scratch.topic("dlq", 1).into();

    let near = "one entity to ten events, close together";
    let spread = "one entity to ten events, spread over all";
    let single = "one entity to one event";
    for (case, name, each, order, least) in [
        ("near", near, 10, Order::Near, 0.6),
        ("spread", spread, 10, Order::Spread, 0.6),
        ("single", single, 1, Order::Near, 0.35),
    ] {
        let topic = scratch.topic(&format!("events.{case}"), PARTITIONS).into();
        let load = Load {
            events,
            each,
            order,
            bytes: BYTES,
            repeats: None,
        };
        load.produce(&*log, &topic);
        let run = Run {
            runtime: runtime.handle(),
            store: &store,
            log: &log,
            topic: &topic,
            dlq: &dlq,
            brokers: &scratch.brokers,
            events,
            entities: load.entities(),
            lanes,
        };
        let rounds: Vec<Round> = (0..rounds)
            .map(|_| Round::measure(&run, &runtime, &database))
            .collect();
        report(name, &rounds, events as f64, least);
    }
}

struct Round {
    projected: Projected,
    both: Took,
    events_only: Took,
    bytes: usize,
}

impl Round {
    fn measure(run: &Run<'_>, runtime: &Runtime, database: &Database) -> Self {
        // So that no measurement pays for the writes of another.
        let calm = || database.run("CHECKPOINT");
        calm();
        let projected = run.project();
        let tables = runtime.block_on(Tables::read(&mut run.connect()));
        calm();
        let both = runtime.block_on(tables.write(run.store, true));
        calm();
        Self {
            projected,
            both,
            events_only: runtime.block_on(tables.write(run.store, false)),
            bytes: tables.bytes(),
        }
    }
}

fn report(name: &str, rounds: &[Round], events: f64, least: f64) {
    let middle = |of: &dyn Fn(&Round) -> f64| median(rounds.iter().map(of));
    let copied = |name: &str, of: fn(&Round) -> Took| {
        let rate = middle(&|r| events / of(r).seconds);
        let server = middle(&|r| of(r).server / events);
        let bytes = middle(&|r| r.bytes as f64 / events);
        Row::new(name, rate, "ev/s")
            .note(format!(
                "server process {server:.2} us CPU an event; {bytes:.0} B of rows an event"
            ))
            .print();
        rate
    };
    println!("\n{name}");
    let both = copied("limit: COPY of events and entities", |r| r.both);
    let events_only = copied("limit: COPY of events alone", |r| r.events_only);
    let rate = middle(&|r| events / r.projected.seconds);
    Row::new(format!("projector: {name}"), rate, "ev/s")
        .against(both, "COPY of both")
        .target_ratio(least)
        .note(format!(
            "{:.2} x COPY of events alone; the rounds' ratios to COPY of both: {}",
            rate / events_only,
            ratios(rounds)
        ))
        .print();
    // The rate after the start.
    let steady = middle(&|r| {
        let p = &r.projected;
        (events - p.at_first as f64) / (p.seconds - p.first).max(1e-3)
    });
    Row::new("    after the first commit", steady, "ev/s")
        .against(both, "COPY of both")
        .note(format!(
            "the first commit was seen {:.2} s after the start (joining the group, taking over)",
            middle(&|r| r.projected.first)
        ))
        .print();
    let mut parts = BTreeMap::new();
    for part in rounds[0].projected.parts.keys() {
        let used = middle(&|r| r.projected.parts.get(part).copied().unwrap_or_default());
        parts.insert(*part, used);
    }
    // The server's own processes are apart from those that do the projector's work.
    let server = middle(&|r| r.projected.server);
    if let Some(all) = parts.remove("Postgres, all of it") {
        parts.insert("Postgres: the rest", (all - server).max(0.0));
    }
    parts.insert("Postgres: the projector's", server);
    report::cpu(&format!("projector: {name}"), &parts, events);
}

fn ratios(rounds: &[Round]) -> String {
    let ratios = rounds
        .iter()
        .map(|r| format!("{:.2}", r.both.seconds / r.projected.seconds));
    ratios.collect::<Vec<_>>().join(", ")
}
