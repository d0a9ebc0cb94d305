//! The limiter through its public door: alone, and with servers of Redis that stall, restart and lose what they held.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use omnilink::{
    base::{clock::SystemClock, id::Tenant},
    limits::{
        Ask, Decision, Kind, Lease, Limiter, OnBackendDown, Outcome, Per, Policy, RedisOptions,
        Subject,
    },
    telemetry::Status,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{
    env_or_skip,
    redis::{Server, url},
};

async fn node(text: &str, lapse: Duration) -> Limiter {
    let answer = RedisOptions::new(&url(text), "t.").answer;
    node_that_waits(text, lapse, answer).await
}

async fn node_that_waits(text: &str, lapse: Duration, answer: Duration) -> Limiter {
    let url = url(text);
    let options = RedisOptions {
        lapse,
        answer,
        ..RedisOptions::new(&url, "t.")
    };
    let limiter = Limiter::with_redis(Arc::new(SystemClock), &options).unwrap();
    up(&limiter).await;
    limiter
}

const LAPSE: Duration = Duration::from_secs(30);

async fn up(limiter: &Limiter) {
    let probe = limiter.probe();
    eventually(|| probe().status == Status::Ok).await;
}

async fn eventually(mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < end, "it does not come to hold");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn know_each_other(nodes: &[Limiter]) {
    let count = nodes.len() as u32;
    eventually(|| nodes.iter().all(|node| node.nodes() == count)).await;
}

fn policy(limit: u32, window_s: u32, per: Per, on_backend_down: OnBackendDown) -> Arc<Policy> {
    Arc::new(Policy {
        name: format!("{per:?}-{on_backend_down:?}").to_lowercase().into(),
        limit,
        window_s,
        per,
        on_backend_down,
        on: None,
    })
}

fn subject(policies: &[Arc<Policy>]) -> Subject {
    Subject::new(&Tenant::new("acme").unwrap(), "k1", Kind::Events, policies)
}

/// Items of one client, each with its type.
fn items<'t>(policies: &[Arc<Policy>], types: impl IntoIterator<Item = &'t str>) -> Ask {
    Ask::items(&subject(policies), || "192.0.2.1".parse().unwrap(), types)
}

async fn take(limiter: &Limiter, policies: &[Arc<Policy>], count: usize) -> Decision {
    limiter
        .take(&items(policies, std::iter::repeat_n("t", count)))
        .await
}

async fn enter(limiter: &Limiter, limit: u32) -> Decision {
    limiter.take(&Ask::enter(&subject(&[]), limit)).await
}

fn degraded(decision: &Decision) -> bool {
    !decision.degraded.is_empty()
}

fn count(decision: &Decision) -> u32 {
    match &decision.outcome {
        Outcome::Granted { grants, .. } => grants.count(),
        other => panic!("{other:?}"),
    }
}

fn lease(decision: Decision) -> Option<Lease> {
    match decision.outcome {
        Outcome::Granted { lease, .. } => lease,
        _ => None,
    }
}

#[tokio::test]
async fn all_policies_hold_and_the_tightest_is_told() {
    let limiter = Limiter::in_memory(Arc::new(SystemClock));
    let policies = [
        policy(100, 60, Per::Tenant, OnBackendDown::Local),
        policy(4, 60, Per::Key, OnBackendDown::Local),
        policy(3, 60, Per::Type, OnBackendDown::Local),
        policy(50, 60, Per::Ip, OnBackendDown::Local),
    ];
    let types = ["a", "b", "a", "a", "a", "b"];
    let ask = items(&policies, types);
    let decision = limiter.take(&ask).await;
    let Outcome::Granted { grants, .. } = &decision.outcome else {
        panic!("{decision:?}");
    };
    let passed: Vec<_> = grants.each().collect();
    assert_eq!(passed, [true, true, true, true, false, false]);
    let tightest = decision.tightest.as_ref().unwrap();
    assert_eq!((&*tightest.policy, tightest.remaining), ("key-local", 0));
    assert!((59_000..=60_000).contains(&tightest.wait_ms));
    assert!(!degraded(&decision));

    // Requests in flight, beside it.
    let first = enter(&limiter, 1).await;
    assert!(matches!(enter(&limiter, 1).await.outcome, Outcome::Busy));
    drop(first);
    assert!(lease(enter(&limiter, 1).await).is_some());
}

/// With two nodes, through a restart that loses all: no window holds more than the limit, each policy does as it says, and all that
/// is decided meanwhile is marked.
#[tokio::test(flavor = "multi_thread")]
async fn a_restart_in_between() {
    let Some(mut server) = Server::start(&[]) else {
        return;
    };
    // A busy machine answers late, and then each node decides by its share while the other does not: not what is tested here.
    let answer = Duration::from_secs(1);
    let nodes = [
        node_that_waits(&server.url(), LAPSE, answer).await,
        node_that_waits(&server.url(), LAPSE, answer).await,
    ];
    know_each_other(&nodes).await;
    let window = Duration::from_secs(4);
    let local = [policy(20, 4, Per::Tenant, OnBackendDown::Local)];
    let open = [policy(20, 4, Per::Key, OnBackendDown::Open)];
    let closed = [policy(20, 4, Per::Type, OnBackendDown::Closed)];

    let stop = Arc::new(AtomicBool::new(false));
    let mut tasks = Vec::new();
    for limiter in nodes.clone() {
        let (local, stop) = (local.clone(), Arc::clone(&stop));
        tasks.push(tokio::spawn(async move {
            let mut admitted = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                let before = Instant::now();
                let decision = take(&limiter, &local, 1).await;
                if count(&decision) > 0 {
                    admitted.push((before, Instant::now()));
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            admitted
        }));
    }
    assert!(!degraded(&take(&nodes[0], &open, 1).await));
    tokio::time::sleep(Duration::from_secs(2)).await;

    server.kill();
    for limiter in &nodes {
        let probe = limiter.probe();
        eventually(|| probe().status == Status::Degraded).await;
    }
    let check_down = async || {
        let begin = Instant::now();
        let opened = take(&nodes[0], &open, 100).await;
        assert_eq!(count(&opened), 100);
        assert!(degraded(&opened) && opened.tightest.is_none());
        let refused = take(&nodes[0], &closed, 1).await;
        let Outcome::Unavailable(name) = &refused.outcome else {
            panic!("{refused:?}");
        };
        assert_eq!(&**name, "type-closed");
        assert!(degraded(&refused));
        assert!(begin.elapsed() < Duration::from_secs(1));
    };
    check_down().await;
    tokio::time::sleep(Duration::from_secs(1)).await;

    server.up();
    let back = Instant::now();
    for limiter in &nodes {
        up(limiter).await;
    }
    // Redis is there, and lost what it held: down for one window.
    assert!(degraded(&take(&nodes[1], &local, 0).await));
    check_down().await;
    // Another node that comes now is told of it.
    let third = node(&server.url(), LAPSE).await;
    assert!(degraded(&take(&third, &open, 1).await));
    tokio::time::sleep(window.saturating_sub(back.elapsed()) + Duration::from_secs(2)).await;
    let whole = take(&nodes[0], &closed, 1).await;
    assert_eq!(count(&whole), 1);
    assert!(!degraded(&whole));
    assert!(!degraded(&take(&nodes[0], &open, 1).await));
    tokio::time::sleep(Duration::from_secs(3)).await;
    stop.store(true, Ordering::Relaxed);

    let mut admitted = Vec::new();
    for task in tasks {
        admitted.extend(task.await.unwrap());
    }
    assert!(admitted.len() > 30, "{}", admitted.len());
    // What begins after the end of the first and ends in less than a window is in one window; clocks read milliseconds.
    let window = window.saturating_sub(Duration::from_millis(5));
    for (_, first) in &admitted {
        let inside = admitted
            .iter()
            .filter(|(begin, end)| begin >= first && end.duration_since(*first) < window)
            .count();
        assert!(inside <= 20, "{inside} in a window");
    }
}

/// What a node let in while it could not reach Redis counts there afterwards.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_let_in_alone_is_told_to_redis() {
    let Some(server) = Server::start(&[]) else {
        return;
    };
    let proxy = Proxy::start(server.port).await;
    let (a, b) = (
        node(&proxy.url(), LAPSE).await,
        node(&server.url(), LAPSE).await,
    );
    know_each_other(&[a.clone(), b.clone()]).await;
    let policies = [policy(20, 60, Per::Tenant, OnBackendDown::Local)];
    assert_eq!(count(&take(&a, &policies, 4).await), 4);
    proxy.stall(true);
    let alone = take(&a, &policies, 20).await;
    // Half of the limit, less what it took before.
    assert_eq!(count(&alone), 6);
    assert!(degraded(&alone));
    proxy.stall(false);
    up(&a).await;
    assert!(!degraded(&take(&a, &policies, 1).await));
    // 4 + 6 + 1 are taken; the call that got no answer may have taken all that was left.
    let rest = take(&b, &policies, 20).await;
    assert!(count(&rest) <= 9, "{}", count(&rest));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_redis_holds_nobody_up() {
    let Some(server) = Server::start(&[]) else {
        return;
    };
    let limiter = node(&server.url(), LAPSE).await;
    let policies = [
        policy(1_000, 60, Per::Tenant, OnBackendDown::Local),
        policy(1_000, 60, Per::Ip, OnBackendDown::Local),
    ];
    assert!(!degraded(&take(&limiter, &policies, 1).await));
    let sleeper = std::thread::spawn({
        let client = redis::Client::open(server.url()).unwrap();
        move || {
            let mut redis = client.get_connection().unwrap();
            let mut sleep = redis::cmd("DEBUG");
            sleep.arg("SLEEP").arg(3).query::<()>(&mut redis).unwrap();
        }
    });
    tokio::time::sleep(Duration::from_millis(200)).await;
    let mut slowest = Duration::ZERO;
    let mut late = 0;
    for _ in 0..20 {
        let begin = Instant::now();
        let asked = (0..8).map(|_| take(&limiter, &policies, 1));
        for decision in futures_util::future::join_all(asked).await {
            assert!(degraded(&decision));
            assert_eq!(count(&decision), 1);
        }
        slowest = slowest.max(begin.elapsed());
        late += u32::from(begin.elapsed() > Duration::from_millis(40));
    }
    // The time-out is 50 ms; the rest is for a busy machine.
    assert!(slowest < Duration::from_millis(500), "{slowest:?}");
    // Only the first ones wait for it.
    assert!(late <= 3, "{late} waited");
    sleeper.join().unwrap();
    up(&limiter).await;
    assert!(!degraded(&take(&limiter, &policies, 1).await));
}

#[tokio::test(flavor = "multi_thread")]
async fn leases_end_and_lapse() {
    let Some(server) = Server::start(&[]) else {
        return;
    };
    let lapse = Duration::from_millis(1_500);
    let (a, b) = (
        node(&server.url(), lapse).await,
        node(&server.url(), lapse).await,
    );
    let held = lease(enter(&a, 2).await).unwrap();
    let other = lease(enter(&b, 2).await).unwrap();
    let busy = enter(&a, 2).await;
    assert!(matches!(busy.outcome, Outcome::Busy));
    let told = busy.tightest.unwrap();
    assert_eq!(
        (&*told.policy, told.limit, told.window_s),
        ("max_concurrency", 2, None)
    );
    // Renewed for as long as the request lasts.
    tokio::time::sleep(3 * lapse).await;
    assert!(matches!(enter(&b, 2).await.outcome, Outcome::Busy));
    drop(other);
    tokio::time::sleep(Duration::from_millis(200)).await;
    let again = lease(enter(&a, 2).await).unwrap();
    drop((held, again));

    // Whoever hangs up while Redis is asked leaves nothing behind.
    for _ in 0..20 {
        let asked = enter(&a, 2);
        let _ = tokio::time::timeout(Duration::from_micros(1), asked).await;
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    let (one, two) = (enter(&a, 2).await, enter(&b, 2).await);
    assert!(lease(one).is_some() && lease(two).is_some());
    tokio::time::sleep(Duration::from_millis(200)).await;

    // As of a node that is gone: nobody renews them.
    for name in ["gone:1", "gone:2"] {
        let mut add = redis::cmd("EVAL");
        add.arg(include_str!("../../src/limits/shared/renew.lua"))
            .arg(1);
        add.arg("t.limits:{acme}:in_flight:k1")
            .arg(lapse.as_micros() as u64)
            .arg(name);
        let _: i64 = server.ask(&add);
    }
    assert!(matches!(enter(&a, 2).await.outcome, Outcome::Busy));
    tokio::time::sleep(lapse).await;
    assert!(lease(enter(&a, 2).await).is_some());
}

/// Requests that were in flight when Redis lost all are counted by it again.
#[tokio::test(flavor = "multi_thread")]
async fn leases_outlive_a_restart() {
    let Some(mut server) = Server::start(&[]) else {
        return;
    };
    let (a, b) = (
        node(&server.url(), LAPSE).await,
        node(&server.url(), LAPSE).await,
    );
    know_each_other(&[a.clone(), b.clone()]).await;
    let held = lease(enter(&a, 4).await).unwrap();
    server.kill();
    eventually(|| a.probe()().status == Status::Degraded).await;
    let alone = enter(&a, 4).await;
    assert!(degraded(&alone));
    let alone = lease(alone).unwrap();
    assert!(
        matches!(enter(&a, 4).await.outcome, Outcome::Busy),
        "half of 4 on this node"
    );
    server.up();
    up(&a).await;
    let mut count = redis::cmd("ZCARD");
    count.arg("t.limits:{acme}:in_flight:k1");
    eventually(|| server.ask::<u32>(&count) == 2).await;
    drop((held, alone));
    eventually(|| server.ask::<u32>(&count) == 0).await;
}

/// Data that somebody deleted is lost as by a restart; a connection that was lost alone is no loss.
#[tokio::test(flavor = "multi_thread")]
async fn deleted_data_are_missed_and_a_lost_connection_is_not() {
    let Some(server) = Server::start(&[]) else {
        return;
    };
    let limiter = node(&server.url(), LAPSE).await;
    let policies = [policy(20, 60, Per::Tenant, OnBackendDown::Local)];
    assert_eq!(count(&take(&limiter, &policies, 5).await), 5);
    let mut kill = redis::cmd("CLIENT");
    let killed: u32 = server.ask(kill.arg("KILL").arg("TYPE").arg("normal"));
    assert!(killed > 0);
    // It is seen within a second.
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    up(&limiter).await;
    let whole = take(&limiter, &policies, 5).await;
    assert!(!degraded(&whole));
    assert_eq!(whole.tightest.unwrap().remaining, 10);

    let () = server.ask(&redis::cmd("FLUSHALL"));
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    let lost = take(&limiter, &policies, 50).await;
    assert!(degraded(&lost));
    // What it had before counts here still.
    assert_eq!(count(&lost), 10);
}

/// Keys of a call lie in one slot, and a script names all that it touches: a cluster of one node checks both.
#[tokio::test(flavor = "multi_thread")]
async fn by_the_rules_of_a_cluster() {
    let Some(server) = Server::start(&["--cluster-enabled", "yes"]) else {
        return;
    };
    let mut slots = redis::cmd("CLUSTER");
    slots.arg("ADDSLOTSRANGE").arg(0).arg(16_383);
    let () = server.ask(&slots);
    let healthy = || {
        let mut info = redis::cmd("CLUSTER");
        let info: String = server.ask(info.arg("INFO"));
        info.contains("cluster_state:ok")
    };
    eventually(healthy).await;
    let limiter = node(&server.url(), LAPSE).await;
    let policies = [
        policy(5, 60, Per::Tenant, OnBackendDown::Closed),
        policy(5, 60, Per::Key, OnBackendDown::Closed),
        policy(5, 60, Per::Type, OnBackendDown::Closed),
        policy(5, 60, Per::Ip, OnBackendDown::Closed),
    ];
    let types = ["a", "b", "a", "b", "a", "b"];
    let ask = items(&policies, types).in_flight(&subject(&[]), 1);
    let decision = limiter.take(&ask).await;
    assert_eq!(count(&decision), 5);
    assert!(!degraded(&decision));
    let held = lease(decision).unwrap();
    assert!(matches!(enter(&limiter, 1).await.outcome, Outcome::Busy));
    drop(held);
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(lease(enter(&limiter, 1).await).is_some());
}

/// What a decision costs; it prints and asserts nothing of time.
#[tokio::test(flavor = "multi_thread")]
async fn cost_of_a_decision() {
    let policies = [
        policy(1_000_000, 60, Per::Tenant, OnBackendDown::Local),
        policy(1_000_000, 60, Per::Key, OnBackendDown::Local),
    ];
    let ask = items(&policies, ["t"]).in_flight(&subject(&[]), 1_000_000);
    let print = |what: &str, mut took: Vec<Duration>| {
        took.sort_unstable();
        let at = |share: f64| took[(took.len() as f64 * share) as usize];
        println!("{what}: p50 {:?}, p99 {:?}", at(0.5), at(0.99));
    };
    let memory = Limiter::in_memory(Arc::new(SystemClock));
    let mut took = Vec::new();
    for _ in 0..20_000 {
        let begin = Instant::now();
        let decision = memory.take(&ask).await;
        took.push(begin.elapsed());
        assert_eq!(count(&decision), 1);
    }
    print("two windows and a lease, in memory", took);

    let Some(text) = env_or_skip("OMNILINK_TEST_REDIS") else {
        return;
    };
    let url = url(&text);
    let prefix = format!("t{}.", uuid::Uuid::now_v7().simple());
    let options = RedisOptions {
        answer: Duration::from_secs(2),
        ..RedisOptions::new(&url, &prefix)
    };
    let shared = Limiter::with_redis(Arc::new(SystemClock), &options).unwrap();
    up(&shared).await;
    let mut took = Vec::new();
    let mut tick = tokio::time::interval(Duration::from_millis(1));
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..3_000 {
        tick.tick().await;
        let (shared, ask) = (shared.clone(), ask.clone());
        tasks.spawn(async move {
            let begin = Instant::now();
            let decision = shared.take(&ask).await;
            assert_eq!(count(&decision), 1);
            begin.elapsed()
        });
    }
    while let Some(one) = tasks.join_next().await {
        took.push(one.unwrap());
    }
    print("two windows and a lease, in Redis at 1,000 a second", took);
    // All leases are given back.
    let mut redis = redis::Client::open(text).unwrap().get_connection().unwrap();
    let mut held = redis::cmd("ZCARD");
    held.arg(format!("{prefix}limits:{{acme}}:in_flight:k1"));
    eventually(|| held.query::<u32>(&mut redis).unwrap() == 0).await;
}

/// Passes bytes on, or holds them back.
struct Proxy {
    port: u16,
    stalled: Arc<AtomicBool>,
}

impl Proxy {
    async fn start(to: u16) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let stalled = Arc::new(AtomicBool::new(false));
        let held = Arc::clone(&stalled);
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let far = tokio::net::TcpStream::connect(("127.0.0.1", to)).await;
                let (near, far) = (near.into_split(), far.unwrap().into_split());
                for (mut from, mut into) in [(near.0, far.1), (far.0, near.1)] {
                    let held = Arc::clone(&held);
                    tokio::spawn(async move {
                        let mut bytes = vec![0; 4_096];
                        while let Ok(read) = from.read(&mut bytes).await {
                            while held.load(Ordering::Relaxed) {
                                tokio::time::sleep(Duration::from_millis(5)).await;
                            }
                            if read == 0 || into.write_all(&bytes[..read]).await.is_err() {
                                return;
                            }
                        }
                    });
                }
            }
        });
        Self { port, stalled }
    }

    fn stall(&self, stalled: bool) {
        self.stalled.store(stalled, Ordering::Relaxed);
    }

    fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/", self.port)
    }
}
