//! The limits of the machine, measured first in each run.

use std::{
    net::SocketAddr,
    process::{Child, Command},
    sync::Arc,
    time::Duration,
};

use crate::{
    disk,
    kafka::{BYTES, Scratch},
    load::{self, Plan, Until, What},
    report::{Row, percentile},
    server::{self, CONNECTIONS, Log},
};

/// Events per request in the parts that post batches.
pub const BATCH: usize = 50;
const SECONDS: f64 = 4.0;
const PARTITIONS: i32 = 8;
/// Transactions of one record a second, at most.
const PACE: f64 = 200.0;

pub struct Limits {
    /// Bare axum responses to single events, in events per second.
    pub single: f64,
    /// Bare axum responses to batches, in events per second.
    pub batches: f64,
    /// The median time to write 16 KiB and sync them, in milliseconds.
    pub sync_ms: f64,
    /// On Kafka: the median of transactions of one record by librdkafka, one after another, in milliseconds.
    pub transaction_ms: Option<f64>,
}

/// `None` without Kafka.
pub fn measure(log: Log) -> Option<Limits> {
    let sync_ms = disk::measure().sync_ms.0;
    let bare = Bare::start();
    let mut limits = Limits {
        single: bare.answers("limit: bare axum answer, single, c=64", 1),
        batches: bare.answers("limit: bare axum answer, batches of 50, c=64", BATCH),
        sync_ms,
        transaction_ms: None,
    };
    drop(bare);
    if log == Log::Kafka {
        let scratch = Scratch::new()?;
        let topic = scratch.topic("limit", PARTITIONS);
        scratch.produce(&topic, PARTITIONS, Duration::from_secs(1));
        let rate = scratch.produce(&topic, PARTITIONS, Duration::from_secs(3));
        let name = format!("limit: librdkafka, idempotent, acks=all, {BYTES} B");
        Row::new(name, rate, "rec/s").print();
        let taken = scratch.small_transactions(&topic, PACE, Duration::from_secs(4));
        let (half, most) = (percentile(taken.clone(), 0.5), percentile(taken, 0.99));
        Row::new("limit: librdkafka, one-record transaction, p50", half, "ms")
            .note(format!(
                "p99 {most:.2} ms; without positions, consumer or reader"
            ))
            .print();
        limits.transaction_ms = Some(half);
    }
    Some(limits)
}

/// A bare axum handler for the same requests, in its own process.
struct Bare {
    child: Child,
    address: SocketAddr,
}

impl Bare {
    fn start() -> Self {
        let address = server::free_port();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["bare", &address.to_string()])
            .spawn()
            .unwrap();
        server::wait_for(address, "/", &mut child);
        Self { child, address }
    }

    fn answers(&self, name: &str, batch: usize) -> f64 {
        let drive = |seconds| {
            load::run(Plan {
                address: self.address,
                key: "omni.none.none".into(),
                connections: CONNECTIONS,
                what: What::Events {
                    batch,
                    entities: 1000,
                },
                until: Until::Seconds(seconds),
                rate: None,
                accepted: Arc::default(),
            })
        };
        drive(1.0);
        let outcome = drive(SECONDS);
        Row::new(name, outcome.per_second(), "ev/s")
            .note(format!(
                "{}; load generator {:.2} us CPU an event",
                outcome.note(),
                outcome.cpu / outcome.accepted as f64
            ))
            .print();
        outcome.per_second()
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs the process `bare`.
pub fn serve(address: &str) {
    use axum::{
        Router,
        body::Bytes,
        http::StatusCode,
        routing::{get, post},
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let answer = |body: Bytes| async move {
            let text = r#"{"request_id":"0123456789abcdef","results":[{"status":"ingested","record_id":"01234567-89ab-cdef-0123-456789abcdef","index":0}]}"#;
            (StatusCode::ACCEPTED, if body.is_empty() { "" } else { text })
        };
        let app = Router::new()
            .route("/v1/events", post(answer))
            .route("/", get(|| async { "" }));
        let listener = tokio::net::TcpListener::bind(address).await.unwrap();
        axum::serve(listener, app).await.unwrap();
    });
}
