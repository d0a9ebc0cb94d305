//! Replays of a long history: all events into Parquet and JSON lines, and one entity without and with an index.
//! `cargo bench --bench replay -- [local | kafka] [EVENTS]` (default: 10,000,000 events on both logs)
#![allow(
    missing_docs,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::print_stdout
)]

#[path = "../common/report.rs"]
mod report;

use std::{
    fs::File,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use omnilink::{
    base::{
        clock::{Millis, SystemClock},
        id::Tenant,
    },
    envelope::{Data, Entity, Event, TimeSource, avro},
    log::{
        Acknowledged, Append, Log, Record,
        kafka::{KafkaLog, KafkaOptions},
        local::{LocalLog, LocalOptions},
        topics::Names,
    },
    replay::{EntityName, History, Lines, Parquet, Query, Sink, replay},
};
use report::Row;

const PARTITIONS: u32 = 8;
/// Events of an entity, spread over the whole history.
const EACH: u64 = 100;
/// Bytes of an event's data.
const DATA: usize = 400;

fn main() {
    let Some(given) = report::Arguments::given() else {
        return;
    };
    let events = given.number(0, 10_000_000) as u64;
    let named = |name: &str| given.named(name);
    let all = !named("local") && !named("kafka");
    let dir = tempfile::tempdir().unwrap();
    if all || named("local") {
        let options = LocalOptions::new(Arc::new(SystemClock));
        let log = LocalLog::open(&dir.path().join("log"), options).unwrap();
        measure("embedded", &log, &Names::new("bench."), dir.path(), events);
    }
    if all || named("kafka") {
        let Ok(brokers) = std::env::var("OMNILINK_TEST_KAFKA") else {
            println!("SKIPPED: OMNILINK_TEST_KAFKA is not set (eval \"$(scripts/stack env)\")");
            return;
        };
        let prefix = format!("bench{}.", uuid::Uuid::now_v7().simple());
        let options = KafkaOptions {
            brokers,
            prefix: prefix.clone(),
            node: "bench".into(),
            ..KafkaOptions::default()
        };
        let log = KafkaLog::connect_stateless(options).unwrap();
        measure("Kafka", &log, &Names::new(&prefix), dir.path(), events);
    }
}

fn measure(name: &str, log: &dyn Log, names: &Names, dir: &Path, events: u64) {
    log.provision(&names.specs(PARTITIONS), true).unwrap();
    let began = Instant::now();
    fill(log, names, events);
    let row = |what: &str, value: f64, unit| Row::new(format!("{name}: {what}"), value, unit);
    let rate = |events: u64, began: Instant| events as f64 / began.elapsed().as_secs_f64();
    row("append", rate(events, began), "events/s").print();

    let history = |index: &str| History {
        log,
        names,
        index_dir: dir.join(index),
    };
    let run = |index: &str, query: &Query, sink: &mut dyn Sink| {
        replay(&history(index), query, sink, &mut |_| true).unwrap()
    };
    let everything = Query::default();

    let path = dir.join("events.parquet");
    let began = Instant::now();
    let mut parquet = Parquet::new(File::create(&path).unwrap()).unwrap();
    assert_eq!(run("none", &everything, &mut parquet).events, events);
    let bytes = std::fs::metadata(&path).unwrap().len();
    row("all into Parquet", rate(events, began), "events/s")
        .against(200_000.0, "asked")
        .note(format!("{} bytes an event", bytes / events))
        .print();
    std::fs::remove_file(path).unwrap();

    let began = Instant::now();
    let mut lines = Lines::new(std::io::sink(), &names.events);
    assert_eq!(run("none", &everything, &mut lines).events, events);
    row("all into lines of JSON", rate(events, began), "events/s").print();

    let entity = |n: u64, tenant: bool| Query {
        tenant: tenant.then(|| Tenant::new("acme").unwrap()),
        entity: Some(EntityName {
            kind: "order".into(),
            external_id: n.to_string(),
        }),
        ..Query::default()
    };
    let entities = (events / EACH).max(1);
    for tenant in [true, false] {
        let index = if tenant { "one" } else { "all" };
        let what = if tenant {
            "one entity of a tenant"
        } else {
            "one entity, any tenant"
        };
        let times: Vec<Duration> = (0..21)
            .map(|n| {
                // All are in the partition of the first, so that they use its index.
                let n = if tenant { 0 } else { n * 37 % entities };
                let began = Instant::now();
                let mut lines = Lines::new(std::io::sink(), &names.events);
                let done = run(index, &entity(n, tenant), &mut lines);
                assert_eq!(done.events, events / entities);
                began.elapsed()
            })
            .collect();
        row(&format!("{what}, first time"), times[0].as_secs_f64(), "s").print();
        let mut later = times[1..].to_vec();
        later.sort_unstable();
        row(&format!("{what}, later"), later[10].as_secs_f64(), "s")
            .against(2.0, "asked")
            .note(format!("slowest of 20: {:.3} s", later[19].as_secs_f64()))
            .print();
    }
    let index: u64 = std::fs::read_dir(dir.join("all"))
        .unwrap()
        .map(|file| file.unwrap().metadata().unwrap().len())
        .sum();
    row("index", index as f64 / events as f64, "B/event").print();

    let since = Query {
        since: Some(Millis(i64::MAX / 2)),
        ..Query::default()
    };
    let began = Instant::now();
    let mut lines = Lines::new(std::io::sink(), &names.events);
    assert_eq!(run("none", &since, &mut lines).events, 0);
    row("seek by time", began.elapsed().as_secs_f64(), "s").print();
    for index in ["none", "one", "all"] {
        let _ = std::fs::remove_dir_all(dir.join(index));
    }
}

/// Appends events in chunks, with a few in flight.
fn fill(log: &dyn Log, names: &Names, events: u64) {
    let entities = (events / EACH).max(1);
    let tenant = Tenant::new("acme").unwrap();
    let mut under_way: std::collections::VecDeque<Acknowledged> = std::collections::VecDeque::new();
    let mut n = 0;
    while n < events {
        let piece: Vec<Append> = (n..(n + 1_000).min(events))
            .map(|n| {
                let data = format!(
                    "{{\"n\":{n},\"text\":\"{:x>DATA$}\"}}",
                    n.wrapping_mul(0x9E37_79B9_7F4A_7C15)
                );
                let event = Event {
                    tenant: tenant.clone(),
                    id: n.to_string().into(),
                    source: "/shop".into(),
                    kind: "order.paid".into(),
                    subject: None,
                    entity: Some(Entity {
                        kind: "order".into(),
                        external_id: (n % entities).to_string().into(),
                        display_name: None,
                    }),
                    correlation_id: None,
                    causation_id: None,
                    time: 1_700_000_000_000_000 + n as i64,
                    time_source: TimeSource::Producer,
                    data: Data::Json(data.into()),
                    extensions: "{}".into(),
                    tombstone: false,
                    idempotency_key: None,
                };
                let mut value = Vec::new();
                avro::encode_event(&event, Millis(1_700_000_000_000), &mut value);
                Append {
                    topic: Arc::clone(&names.events),
                    record: Record {
                        key: Some(event.record_key().into()),
                        value: Some(value.into()),
                        headers: Vec::new(),
                    },
                }
            })
            .collect();
        n += piece.len() as u64;
        under_way.push_back(log.append(piece, None));
        while under_way.len() > 8 || n == events && !under_way.is_empty() {
            under_way
                .pop_front()
                .unwrap()
                .blocking_recv()
                .unwrap()
                .unwrap();
        }
    }
}
