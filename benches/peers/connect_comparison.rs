//! Kafka Connect and OmniLink's projector with the same events from Kafka into Postgres, compared with a `COPY`.

use std::{cell::Cell, sync::Arc};

use omnilink::store::Store;

use crate::{
    Parameters,
    connect::Connect,
    copy::Tables,
    disk,
    drain::Drained,
    java::{Differs, Kit},
    kafka::Scratch,
    load::{Load, Order},
    postgres::Database,
    project::{Projected, Run},
    report::{Row, median},
    topologies::Fixture,
    tune,
};

/// Ten events per entity, close together; 500 bytes in total.
fn load(events: usize) -> Load {
    Load {
        events,
        each: 10,
        order: Order::Near,
        bytes: 358,
        repeats: None,
    }
}

struct Round {
    /// Seconds of a `COPY` into `events`, and into both tables.
    events: f64,
    both: f64,
    projected: Projected,
    connect: (Drained, f64),
}

pub fn measure(kit: &Kit, scratch: &Scratch, parameters: &Parameters) {
    let events = parameters.events;
    let load = load(events);
    let weight = load.weight();
    println!("\nKafka Connect, Debezium's JDBC sink: {events} records of {weight} B");
    let Some(database) = Database::new() else {
        println!("SKIPPED: OMNILINK_TEST_POSTGRES is not set (eval \"$(scripts/stack env)\")");
        return;
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("sql")
        .build()
        .unwrap();
    let store = Store::with_options(database.options.clone());
    runtime.block_on(store.migrate()).unwrap();
    let scratch = scratch.within("rows.");
    let dir = disk::scratch();
    let fixture = Fixture::new(&scratch, dir.path());
    load.produce(&*fixture.log, &fixture.names.events);
    let connect = Connect {
        kit,
        runtime: &runtime,
        database: &database,
        brokers: &scratch.brokers,
        topic: &fixture.names.events,
        events,
        runs: Cell::new(0),
    };
    if !parameters.tries.is_empty() {
        tune(&connect, parameters);
        return;
    }
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let run = Run {
        runtime: runtime.handle(),
        store: &store,
        log: &fixture.log,
        topic: &fixture.names.events,
        dlq: &Arc::clone(&fixture.names.dlq),
        brokers: &scratch.brokers,
        events,
        entities: load.entities(),
        // As `omnilink up` has on Kafka.
        lanes: cores.min(2),
    };
    let round = |_| {
        let calm = || database.run("CHECKPOINT");
        calm();
        let projected = run.project();
        let tables = runtime.block_on(Tables::read(&mut run.connect()));
        calm();
        let both = runtime.block_on(tables.write(&store, true)).seconds;
        calm();
        Round {
            events: runtime.block_on(tables.write(&store, false)).seconds,
            both,
            projected,
            connect: connect.drain(&Differs::default()),
        }
    };
    let rounds: Vec<Round> = (0..parameters.rounds).map(round).collect();
    report(&rounds, events as f64);
}

fn report(rounds: &[Round], events: f64) {
    let middle = |of: &dyn Fn(&Round) -> f64| median(rounds.iter().map(of));
    let alone = middle(&|r| events / r.events);
    Row::new("limit: COPY of events alone", alone, "ev/s").print();
    let both = middle(&|r| events / r.both);
    Row::new("limit: COPY of events and entities", both, "ev/s").print();
    let connect = middle(&|r| r.connect.0.steady);
    Row::new(
        "Kafka Connect: events alone, at least once",
        connect,
        "ev/s",
    )
    .against(alone, "COPY of events")
    .note(rounds[0].connect.0.note())
    .print();
    Row::new("Kafka Connect: resident, most", rounds[0].connect.1, "MB").print();
    let steady = |r: &Round| {
        let p = &r.projected;
        let left = events - p.at_first as f64;
        if left > events / 10.0 {
            left / (p.seconds - p.first)
        } else {
            events / p.seconds
        }
    };
    let projected = middle(&steady);
    let whole = middle(&|r| events / r.projected.seconds);
    Row::new(
        "OmniLink: events and entities, exactly once",
        projected,
        "ev/s",
    )
    .against(both, "COPY of both")
    .note(format!(
        "after the first commit; {whole:.0}/s from the start"
    ))
    .print();
    Row::new("OmniLink's projector beside Connect", projected, "ev/s")
        .against(connect, "Kafka Connect")
        .print();
}

/// Measures the default settings and each variation.
fn tune(connect: &Connect<'_>, parameters: &Parameters) {
    tune::each("connect", parameters, |differs| connect.drain(differs));
}
