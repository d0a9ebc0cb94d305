//! The projector beside a bare `COPY` of the same rows into the same tables, over the same kind of connection: how much of
//! what Postgres can take in is left when there is a fence, decoding, merging and upserts.

use std::{
    fmt::Write as _,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::runtime::Handle;

use super::{
    cache::Cache,
    error::ProjectionError,
    link::{DEADLINE, Link, Stop},
    pipeline::Pipeline,
    reject::LeaveOut,
    target::Target,
};
use crate::{
    clock::{Clock, Millis, SystemClock},
    envelope::{Data, Entity, Event, TimeSource, avro},
    id::Tenant,
    log::{Fetched, Record, partition_for},
    store::{CopyRows, Session, Store},
};

/// How the events of one entity lie among the others.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Order {
    /// A hundred entities at a time, their events mixed: a batch holds most events of an entity.
    Near,
    /// All entities mixed: a batch meets most of its entities once.
    Spread,
}

/// What is fed in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Load {
    /// Events.
    pub events: usize,
    /// Events of each entity.
    pub each: usize,
    /// How the entities' events lie.
    pub order: Order,
    /// Bytes of JSON data an event.
    pub bytes: usize,
    /// Lanes of the projector; `COPY` has one connection.
    pub lanes: u32,
}

/// One way to write the load.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    /// Events a second.
    pub per_second: f64,
    /// Processor time of the server's process, in microseconds an event; 0 where it is not on this machine. It says on a
    /// busy machine what the rate says on an idle one.
    pub server_us: f64,
}

/// The three ways.
#[derive(Clone, Copy, Debug)]
pub struct Measured {
    /// `COPY` of the rows of `events` alone.
    pub copy_events: Rate,
    /// `COPY` of the rows of `events`, and of the final rows of `entities`.
    pub copy_both: Rate,
    /// The projector.
    pub projector: Rate,
    /// Processor time of the projector's own thread, in microseconds an event.
    pub thread_us: f64,
}

const POLL: usize = 2_000;
const NEAR: usize = 100;
const PARTITIONS: u32 = 8;

/// Measures once; empties the tables before each part.
pub fn measure(runtime: &Handle, store: &Store, load: Load) -> Result<Measured, ProjectionError> {
    let input = input(load);
    let (events, entities) = rows(&input);
    let count = load.events as f64;
    let rate = |took: Duration, server: Duration| Rate {
        per_second: count / took.as_secs_f64(),
        server_us: server.as_secs_f64() * 1e6 / count,
    };
    let target = Target::live();
    let copy = |both: bool| -> Result<Rate, ProjectionError> {
        runtime.block_on(async {
            let mut connection = store.connect(Session::Projection).await?;
            empty(&mut connection).await?;
            let process = sqlx::query_scalar::<_, i32>("SELECT pg_backend_pid()")
                .fetch_one(&mut connection)
                .await?;
            let (began, busy) = (Instant::now(), busy(process));
            for rows in &events {
                rows.send(&mut connection, &target.copy_events).await?;
            }
            for rows in entities.iter().filter(|_| both) {
                rows.send(&mut connection, &target.copy_entities).await?;
            }
            Ok(rate(began.elapsed(), since(process, busy)))
        })
    };
    let copy_events = copy(false)?;
    let copy_both = copy(true)?;

    runtime.block_on(async {
        let mut connection = store.connect(Session::Projection).await?;
        empty(&mut connection).await
    })?;
    let mut polls: Vec<Vec<Vec<Fetched>>> = vec![Vec::new(); load.lanes as usize];
    for poll in input.chunks(POLL) {
        for (lane, polls) in (0..).zip(&mut polls) {
            let ours = poll
                .iter()
                .filter(|record| record.partition % load.lanes == lane);
            polls.push(ours.cloned().collect());
        }
    }
    let began = Instant::now();
    let lanes: Vec<_> = (0..load.lanes)
        .zip(polls)
        .map(|(lane, polls)| {
            let (runtime, store) = (runtime.clone(), store.clone());
            std::thread::spawn(move || {
                project(
                    &runtime,
                    &store,
                    (lane..PARTITIONS).step_by(load.lanes as usize),
                    polls,
                )
            })
        })
        .collect();
    let (mut server, mut own) = (Duration::ZERO, Duration::ZERO);
    for lane in lanes {
        let used = lane.join().unwrap_or(Err(ProjectionError::Fenced))?;
        server += used.0;
        own += used.1;
    }
    Ok(Measured {
        copy_events,
        copy_both,
        projector: rate(began.elapsed(), server),
        thread_us: own.as_secs_f64() * 1e6 / count,
    })
}

/// One lane: processor time of the server's process and of this thread.
fn project(
    runtime: &Handle,
    store: &Store,
    partitions: impl Iterator<Item = u32>,
    polls: Vec<Vec<Fetched>>,
) -> Result<(Duration, Duration), ProjectionError> {
    let mut pipeline = Pipeline::new(
        Link {
            runtime: runtime.clone(),
            store: store.clone(),
            stop: Stop::default(),
        },
        Target::live(),
        Arc::new(SystemClock),
        Arc::new(LeaveOut),
        32 << 20,
        Box::new(|_, _| {}),
    );
    pipeline.take(partitions)?;
    let process = pipeline.process()?;
    let (server, own) = (busy(process), own_time());
    for poll in polls {
        pipeline.add(poll)?;
        pipeline.push(true)?;
    }
    pipeline.flush(DEADLINE)?;
    Ok((since(process, server), own_time().saturating_sub(own)))
}

/// Processor time of a process; nothing where there is no `/proc`.
fn busy(process: i32) -> Duration {
    schedstat(&format!("/proc/{process}/schedstat"))
}

fn since(process: i32, before: Duration) -> Duration {
    busy(process).saturating_sub(before)
}

/// Processor time of this thread.
fn own_time() -> Duration {
    schedstat("/proc/thread-self/schedstat")
}

fn schedstat(path: &str) -> Duration {
    // On-processor time in nanoseconds is the first field.
    std::fs::read_to_string(path)
        .ok()
        .and_then(|text| text.split(' ').next()?.parse().ok())
        .map_or(Duration::ZERO, Duration::from_nanos)
}

async fn empty(connection: &mut sqlx::PgConnection) -> Result<(), ProjectionError> {
    sqlx::raw_sql("TRUNCATE omnilink.events, omnilink.entities, omnilink.projection_offsets")
        .execute(connection)
        .await?;
    Ok(())
}

/// Records of the topic `events`.
fn input(load: Load) -> Vec<Fetched> {
    let now = SystemClock.now();
    let entities = load.events.div_ceil(load.each);
    let mut next = [0_u64; PARTITIONS as usize];
    (0..load.events)
        .map(|n| {
            let key = match load.order {
                Order::Near => n / (NEAR * load.each) * NEAR + n % NEAR,
                // A stride that meets each entity once a round.
                Order::Spread => n * 7_919 % entities,
            };
            let id = format!("evt-{n:012}");
            let external_id = format!("order-{:010}", key as u64 * 2_654_435_761 % 10_000_000_000);
            let data = data(n, key, load.bytes);
            // The tenant's name is a good one.
            let Ok(tenant) = Tenant::new("acme") else {
                unreachable!()
            };
            let event = Event {
                tenant,
                id: id.as_str().into(),
                source: "/shop/orders".into(),
                kind: "order.paid".into(),
                subject: None,
                entity: Some(Entity {
                    kind: "order".into(),
                    external_id: external_id.as_str().into(),
                    display_name: None,
                }),
                correlation_id: Some("c-5d0e3b".into()),
                causation_id: None,
                time: now.0 * 1000 + n as i64,
                time_source: TimeSource::Producer,
                data: Data::Json(data.into()),
                extensions: "{}".into(),
                tombstone: false,
                idempotency_key: None,
            };
            let partition = partition_for(event.record_key().as_bytes(), PARTITIONS);
            let offset = next[partition as usize];
            next[partition as usize] += 1;
            let received_at = Millis(now.0 + n as i64 / 20);
            let mut value = Vec::new();
            avro::encode_event(&event, received_at, &mut value);
            Fetched {
                topic: 0,
                partition,
                offset,
                timestamp: received_at,
                record: Record {
                    key: Some(event.record_key().into()),
                    value: Some(Bytes::from(value)),
                    headers: Vec::new(),
                },
            }
        })
        .collect()
}

fn data(n: usize, key: usize, bytes: usize) -> String {
    let mut text = format!(
        r#"{{"order":{key},"seq":{n},"state":"paid","amount":{}.5,"customer":{{"id":{},"name":"Customer {}"}},"lines":["#,
        n % 1_000,
        key % 500,
        key % 500
    );
    while text.len() + 40 < bytes {
        let sku = (n + text.len()) % 10_000;
        // Writing to a string does not fail.
        let _ = write!(text, r#"{{"sku":"A-{sku:04}","quantity":{}}},"#, n % 9);
    }
    text.push_str(r#""end"],"note":""#);
    while text.len() + 2 < bytes {
        text.push((b'a' + (text.len() % 26) as u8) as char);
    }
    text.push_str("\"}");
    text
}

/// The same rows as the projector writes, in batches of its size.
fn rows(input: &[Fetched]) -> (Vec<CopyRows>, Vec<CopyRows>) {
    let mut cache = Cache::new(usize::MAX);
    super::assemble::all_rows(&Target::live(), &mut cache, input)
}
