//! What a decision about limits costs: in memory in nanoseconds, and in Redis at 1,000 a second.
#![allow(
    missing_docs,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::print_stdout
)]

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use omnilink::{
    base::{
        clock::{Clock, SystemClock},
        id::Tenant,
    },
    config::{Config, Sources},
    limits::{Ask, Kind, Limiter, OnBackendDown, Outcome, Per, Policy, RedisOptions, Subject},
    telemetry::Status,
};
use parking_lot::Mutex;
use tokio::{task::JoinSet, time::sleep};

#[path = "../common/report.rs"]
mod report;

use report::{Arguments, Row, percentile};

/// Decisions of a figure in memory.
const DECISIONS: u32 = 1_000_000;
const KEYS: usize = 8;
/// Decisions a second, and in all, in Redis.
const PER_SECOND: u32 = 1_000;
const IN_REDIS: usize = 20_000;
/// What a decision may take in Redis, at the 99th percentile, in microseconds.
const REDIS_US: f64 = 300.0;
/// So much that nothing is refused.
const LIMIT: u32 = 100_000_000;

fn main() {
    if Arguments::given().is_none() {
        return;
    }
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        in_memory().await;
        in_redis().await;
    });
}

/// What limits a standard key's requests: its own `max_rpm`, and a policy of its tenant.
fn subjects() -> Vec<Subject> {
    let tenant_policy = Policy {
        name: "tenant".into(),
        per: Per::Tenant,
        on_backend_down: OnBackendDown::Local,
        ..Policy::of_key(LIMIT).unwrap()
    };
    let policies = [
        Arc::new(Policy::of_key(LIMIT).unwrap()),
        Arc::new(tenant_policy),
    ];
    let subject = |n| {
        let tenant = Tenant::new("acme").unwrap();
        let key = format!("01998a55-0c1e-7b60-9f3b-3a3c8a5b1f0{n}");
        Subject::new(&tenant, &key, Kind::Events, &policies)
    };
    (0..KEYS).map(subject).collect()
}

/// As the port does: a place in flight, then the rate. The place is given back.
async fn decide(limiter: &Limiter, subject: &Subject) {
    let entered = limiter.take(&Ask::enter(subject, LIMIT)).await;
    rate(limiter, subject).await;
    assert!(matches!(entered.outcome, Outcome::Granted { .. }));
}

/// The rate alone.
async fn rate(limiter: &Limiter, subject: &Subject) {
    let ask = Ask::items(subject, || [127, 0, 0, 1].into(), ["order.paid"]);
    let taken = limiter.take(&ask).await;
    assert!(matches!(taken.outcome, Outcome::Granted { .. }));
}

async fn in_memory() {
    let clock = SystemClock;
    let windows = Mutex::new(HashMap::from([("{acme}:window:tenant".to_owned(), 0_u64)]));
    let looked_up = each(DECISIONS, || {
        let at = clock.now();
        let mut windows = windows.lock();
        *windows.get_mut("{acme}:window:tenant").unwrap() += at.0 as u64;
    });
    let limiter = Limiter::in_memory(Arc::new(SystemClock));
    let subjects = subjects();
    for keys in [1, KEYS] {
        let begin = Instant::now();
        for n in 0..DECISIONS as usize {
            decide(&limiter, &subjects[n % keys]).await;
        }
        let took = begin.elapsed().as_secs_f64() * 1e9 / f64::from(DECISIONS);
        let plural = if keys == 1 { "key" } else { "keys" };
        Row::new(
            format!("limits: in memory, place and two windows, {keys} {plural}"),
            took,
            "ns",
        )
        .against(looked_up, "clock and one look-up under a lock")
        .target_below(2_000.0)
        .print();
    }
    // A key that nothing limits asks nothing (the port does not come here); the least that may be asked:
    let none = Subject::new(&Tenant::new("acme").unwrap(), "k", Kind::Events, &[]);
    let begin = Instant::now();
    for _ in 0..DECISIONS {
        drop(limiter.take(&Ask::enter(&none, LIMIT)).await);
    }
    let took = begin.elapsed().as_secs_f64() * 1e9 / f64::from(DECISIONS);
    Row::new("limits: in memory, a place alone", took, "ns")
        .against(looked_up, "clock and one look-up under a lock")
        .print();
}

/// Nanoseconds of each call.
fn each(calls: u32, mut call: impl FnMut()) -> f64 {
    let begin = Instant::now();
    for _ in 0..calls {
        call();
    }
    begin.elapsed().as_secs_f64() * 1e9 / f64::from(calls)
}

async fn in_redis() {
    let Some(text) = std::env::var("OMNILINK_TEST_REDIS")
        .ok()
        .filter(|t| !t.is_empty())
    else {
        println!("limits in Redis: not measured, for OMNILINK_TEST_REDIS is not set");
        return;
    };
    let client = redis::Client::open(text.as_str()).unwrap();
    let connection = client.get_multiplexed_async_connection().await.unwrap();
    let pings = paced(|| {
        let mut connection = connection.clone();
        async move {
            let () = redis::cmd("PING")
                .query_async(&mut connection)
                .await
                .unwrap();
        }
    })
    .await;

    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("omnilink.yaml");
    std::fs::write(&file, format!("redis: {{ url: \"{text}\" }}")).unwrap();
    let sources = Sources {
        file: Some(file),
        ..Sources::default()
    };
    let url = Config::load(&sources).unwrap().redis_url.unwrap();
    let prefix = format!("bench{}.", uuid::Uuid::now_v7().simple());
    let options = RedisOptions {
        answer: Duration::from_secs(2),
        ..RedisOptions::new(&url, &prefix)
    };
    let limiter = Limiter::with_redis(Arc::new(SystemClock), &options).unwrap();
    let probe = limiter.probe();
    while probe().status != Status::Ok {
        sleep(Duration::from_millis(10)).await;
    }
    let subjects: Arc<[Subject]> = subjects().into();
    let mut next = 0;
    let mut with = || {
        next += 1;
        (limiter.clone(), Arc::clone(&subjects), next % KEYS)
    };
    let windows = paced(|| {
        let (limiter, subjects, at) = with();
        async move { rate(&limiter, &subjects[at]).await }
    })
    .await;
    let both = paced(|| {
        let (limiter, subjects, at) = with();
        async move { decide(&limiter, &subjects[at]).await }
    })
    .await;
    for (name, share) in [("p50", 0.5), ("p99", 0.99)] {
        let at = |took: &[f64]| percentile(took.to_vec(), share);
        let row = |what, took: &[f64]| {
            let title = format!("limits: in Redis at {PER_SECOND}/s, {what}, {name}");
            Row::new(title, at(took), "us")
        };
        let row_of_windows = row("two windows", &windows).against(at(&pings), "a PING");
        match name {
            "p99" => row_of_windows.target_below(REDIS_US).print(),
            _ => row_of_windows.print(),
        }
        row("place and two windows, one after the other", &both)
            .against(2.0 * at(&pings), "two PINGs")
            .print();
    }
}

/// Microseconds that each call takes, at [`PER_SECOND`] in an open loop: one that is late delays no other.
async fn paced<F>(mut call: impl FnMut() -> F) -> Vec<f64>
where
    F: Future<Output = ()> + Send + 'static,
{
    let (begin, period) = (Instant::now(), Duration::from_secs(1) / PER_SECOND);
    let mut calls = JoinSet::new();
    for n in 0..IN_REDIS as u32 {
        // Timers of tokio are a millisecond or two late; this thread carries out none of the calls.
        std::thread::sleep((begin + period * n).saturating_duration_since(Instant::now()));
        let call = call();
        calls.spawn(async move {
            // A request is on a thread of the runtime already, so the way there is not counted.
            let begin = Instant::now();
            call.await;
            begin.elapsed().as_secs_f64() * 1e6
        });
    }
    calls.join_all().await
}
