//! Limits of `POST /v1/events` on nodes that share a Redis, which is stopped, restarted, and loses what it held.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use hyper::{Method, StatusCode};
use omnilink::{
    audit::Entry,
    base::clock::{Clock, SystemClock},
    controls::{Constraints, Scopes},
    limits::{Limiter, OnBackendDown, Per, Policy, RedisOptions},
    telemetry::Status,
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    task::JoinSet,
    time::{MissedTickBehavior, interval},
};

use crate::support::{
    append, audit_entries,
    port::{Mode, Node, Response},
    read_all,
    redis::{Admission, Admissions, Server, url},
};

fn event(id: &str) -> Value {
    json!({ "id": id, "source": "/s", "type": "t", "data": { "n": 1 } })
}

fn policy(limit: u32, window_s: u32, per: Per, on_backend_down: OnBackendDown) -> Arc<Policy> {
    Arc::new(Policy {
        name: on_backend_down.name().into(),
        limit,
        window_s,
        per,
        on_backend_down,
        on: None,
    })
}

/// A node with its limiter on a Redis.
async fn node(server: &Server, prefix: &str, policies: Vec<Arc<Policy>>) -> (Node, Limiter) {
    node_in(TempDir::new().unwrap(), server, prefix, policies).await
}

async fn node_in(
    dir: TempDir,
    server: &Server,
    prefix: &str,
    policies: Vec<Arc<Policy>>,
) -> (Node, Limiter) {
    let url = url(&server.url());
    let options = RedisOptions {
        // A busy machine answers late, and is not down for that.
        answer: Duration::from_secs(1),
        ..RedisOptions::new(&url, prefix)
    };
    let limiter = Limiter::with_redis(Arc::new(SystemClock), &options).unwrap();
    is(&limiter, Status::Ok).await;
    let node = Node::start_limited(dir, None, limiter.clone(), policies).await;
    (node, limiter)
}

async fn is(limiter: &Limiter, status: Status) {
    let probe = limiter.probe();
    eventually(|| probe().status == status).await;
}

async fn eventually(mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < end, "it does not come to hold");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn post(node: &Node, key: &str, body: &Value) -> Response {
    node.request(Method::POST, "/v1/events", key, body).await
}

fn scopes(max_concurrency: u32) -> Scopes {
    Scopes {
        permissions: vec!["events:write".into()],
        constraints: Constraints {
            max_rpm: 0,
            max_concurrency,
            ..Constraints::default()
        },
    }
}

fn batch(name: &str, items: usize) -> Value {
    let items = (0..items).map(|n| event(&format!("{name}-{n}")));
    json!(items.collect::<Vec<_>>())
}

fn ingested(response: &Response) -> usize {
    let body = response.json();
    let results = body["results"].as_array().unwrap().iter();
    results.filter(|r| r["status"] == "ingested").count()
}

/// The entries that say that limits were decided without Redis.
async fn degraded(node: &Node, at_least: usize) -> Vec<Entry> {
    audit_entries(node, "limit.degraded", at_least).await
}

#[tokio::test(flavor = "multi_thread")]
async fn each_policy_does_as_it_says_while_redis_is_down() {
    let Some(mut server) = Server::start(&[]) else {
        return;
    };
    let each = async |on_backend_down: OnBackendDown| {
        let policies = || vec![policy(10, 60, Per::Tenant, on_backend_down)];
        let prefix = format!("{}.", on_backend_down.name());
        let nodes = [
            node(&server, &prefix, policies()).await,
            node(&server, &prefix, policies()).await,
        ];
        eventually(|| nodes.iter().all(|(_, limiter)| limiter.nodes() == 2)).await;
        nodes
    };
    let open = each(OnBackendDown::Open).await;
    let closed = each(OnBackendDown::Closed).await;
    let local = each(OnBackendDown::Local).await;
    // Both nodes of each pair count in one window.
    for (pair, nodes) in [&open, &closed, &local].into_iter().enumerate() {
        for (node, _) in nodes {
            let name = format!("{pair}-before");
            let key = node.key("acme", scopes(0)).await;
            let two = post(node, &key, &batch(&name, 2)).await;
            assert_eq!(ingested(&two), 2, "{}", two.text);
        }
    }
    let remaining = async |node: &Node| {
        let response = post(node, &node.admin, &event("last")).await;
        response.headers["ratelimit"].to_str().unwrap().to_owned()
    };
    assert!(remaining(&open[0].0).await.starts_with("\"open\";r=5;"));
    assert!(remaining(&closed[1].0).await.starts_with("\"closed\";r=5;"));
    assert!(remaining(&local[0].0).await.starts_with("\"local\";r=5;"));

    server.kill();
    for (_, limiter) in open.iter().chain(&closed).chain(&local) {
        is(limiter, Status::Degraded).await;
    }
    let begin = Instant::now();
    let all = post(&open[0].0, &open[0].0.admin, &batch("down", 40)).await;
    assert_eq!(ingested(&all), 40);
    assert!(!all.headers.contains_key("ratelimit"));

    let (node, _) = &closed[0];
    let none = post(node, &node.admin, &batch("down", 3)).await;
    assert_eq!(none.code(), "limiter_unavailable", "{}", none.text);
    assert_eq!(none.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(none.headers["retry-after"], "2");
    assert_eq!(none.result(2)["status"], "error");
    assert_eq!(none.result(2)["retry_after_seconds"], 2);
    // What is wrong otherwise is said first, as ever.
    let wrong = post(node, &node.admin, &json!({ "id": "1" })).await;
    assert_eq!(wrong.status, StatusCode::BAD_REQUEST);

    // Of the 5 that were left each node takes its part: half of them.
    for (node, _) in &local {
        let part = post(node, &node.admin, &batch("down", 9)).await;
        let taken = ingested(&part);
        assert!((1..=3).contains(&taken), "{taken}: {}", part.text);
    }
    assert!(begin.elapsed() < Duration::from_secs(3), "held up");

    // Recorded once for each policy, whatever the number of decisions.
    for _ in 0..5 {
        post(node, &node.admin, &event("again")).await;
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    let entries = degraded(node, 1).await;
    assert_eq!(entries.len(), 1, "{entries:?}");
    let entry = &entries[0];
    assert_eq!(entry.resource_id.as_deref(), Some("closed"));
    assert_eq!((&*entry.tenant, &*entry.outcome), ("-", "denied"));
    let detail: Value = serde_json::from_str(&entry.detail).unwrap();
    assert_eq!(detail["on_backend_down"], "closed");
    assert_eq!(detail["nodes"], 2);
    // And counted.
    let metrics = node.call(Method::GET, "/metrics", &[], "").await.text;
    for mode in ["open", "closed", "local"] {
        let line = format!("omnilink_limits_degraded_total{{on_backend_down=\"{mode}\"}}");
        assert!(metrics.contains(&line), "{line}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn places_in_flight_lie_in_redis_and_lapse() {
    let Some(server) = Server::start(&[]) else {
        return;
    };
    let (a, _) = node(&server, "t.", Vec::new()).await;
    let key = a.key("acme", scopes(1)).await;
    let id = a.controls.keys(None).iter().find_map(|key| {
        let limited = key.scopes.constraints.max_concurrency == 1;
        limited.then(|| key.id.clone())
    });
    a.log.set_mode(Mode::Held);
    let held_event = event("1");
    let mut held = std::pin::pin!(post(&a, &key, &held_event));
    let early = tokio::time::timeout(Duration::from_millis(300), &mut held).await;
    assert!(early.is_err(), "responded too early");
    // All nodes see the place taken.
    let in_flight = format!("t.limits:{{acme}}:in_flight:{}", id.unwrap());
    let mut count = redis::cmd("ZCARD");
    count.arg(&in_flight);
    eventually(|| server.ask::<u32>(&count) == 1).await;
    let busy = post(&a, &key, &event("2")).await;
    assert_eq!(busy.code(), "concurrency_limit_exceeded");
    a.log.set_mode(Mode::Works);
    assert_eq!(ingested(&held.await), 1);
    eventually(|| server.ask::<u32>(&count) == 0).await;

    // Places of a node that is gone, until they lapse.
    let mut add = redis::cmd("EVAL");
    add.arg(include_str!("../../src/limits/shared/renew.lua"))
        .arg(1)
        .arg(&in_flight)
        .arg(1_500_000)
        .arg("gone:1");
    let _: i64 = server.ask(&add);
    let busy = post(&a, &key, &event("3")).await;
    assert_eq!(busy.code(), "concurrency_limit_exceeded");
    tokio::time::sleep(Duration::from_millis(1_600)).await;
    assert_eq!(ingested(&post(&a, &key, &event("3")).await), 1);
}

/// Two nodes with one key that both know, as nodes of a cluster do. Each of these has a log of its own, so the record of the key is
/// copied from one to the other, which opens it because they have the same secret.
async fn pair(server: &Server, policies: &[Arc<Policy>]) -> ([(Node, Limiter); 2], String) {
    let (first, limiter) = node(server, "t.", policies.to_vec()).await;
    let dir = TempDir::new().unwrap();
    fs::copy(
        first.dir.path().join("secret.key"),
        dir.path().join("secret.key"),
    )
    .unwrap();
    let second = node_in(dir, server, "t.", policies.to_vec()).await;
    let key = first.key("acme", scopes(0)).await;
    let (from, to) = (first.log.clone(), second.0.log.clone());
    let topic = first.names.controls.clone();
    tokio::task::spawn_blocking(move || {
        let records = read_all(&*from, &topic, 1);
        let is_key = |key: &[u8]| key.starts_with(b"acme/key/");
        let keys = records.into_iter().map(|fetched| fetched.record);
        let keys = keys.filter(|record| record.key.as_deref().is_some_and(is_key));
        append(&*to, &topic, keys.collect()).unwrap();
    })
    .await
    .unwrap();
    let known = || second.0.controls.authenticate(&key, SystemClock.now());
    eventually(|| known().is_some()).await;
    ([(first, limiter), second], key)
}

/// What became of what one node was sent.
#[derive(Default)]
struct Sent {
    admitted: u64,
    limited: u64,
    unavailable: u64,
}

/// Sends an event each time it is due, whatever the answers take.
async fn drive(node: Node, key: String, every: Duration, stop: Arc<AtomicBool>) -> Sent {
    let node = Arc::new(node);
    let mut due = interval(every);
    due.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut requests = JoinSet::new();
    while !stop.load(Ordering::Relaxed) {
        due.tick().await;
        let (node, key) = (Arc::clone(&node), key.clone());
        let event = event(&requests.len().to_string());
        requests.spawn(async move {
            let response = post(&node, &key, &event).await;
            (response.status.as_u16(), response.text)
        });
    }
    let mut sent = Sent::default();
    for (status, text) in requests.join_all().await {
        match status {
            202 => sent.admitted += 1,
            429 => sent.limited += 1,
            503 => sent.unavailable += 1,
            other => panic!("{other}: {text}"),
        }
    }
    sent
}

/// The most that a window held, wherever it begins.
fn fullest(admissions: &[Admission], window: Duration) -> u64 {
    let length = i64::try_from(window.as_micros()).unwrap();
    let (mut held, mut most, mut oldest) = (0, 0, 0);
    for admission in admissions {
        held += admission.count;
        // What is as old as the window is long has left it.
        while admissions[oldest].at + length <= admission.at {
            held -= admissions[oldest].count;
            oldest += 1;
        }
        most = most.max(held);
    }
    most
}

/// Two nodes on one Redis, driven with one key at ten times what a policy allows, while Redis is restarted and loses all: no window
/// holds more than the limit, by the times that the limiter's script used.
async fn never_more_than_the_limit(limit: u32, window_s: u32, lasts: Duration) {
    let Some(mut server) = Server::start(&[]) else {
        return;
    };
    let recorder = Admissions::record(&server);
    let policies = [policy(limit, window_s, Per::Key, OnBackendDown::Closed)];
    let (nodes, key) = pair(&server, &policies).await;
    let id = nodes[1].0.controls.authenticate(&key, SystemClock.now());
    let its_window = format!("t.limits:{{acme}}:window:closed:key:{}", id.unwrap().id);
    let window = Duration::from_secs(window_s.into());
    let stop = Arc::new(AtomicBool::new(false));
    let limiters = nodes.each_ref().map(|(_, limiter)| limiter.clone());
    // Each request is one event; both nodes together send 10 times the limit.
    let every = window / (10 * limit / 2);
    let driven = nodes.map(|(node, _)| tokio::spawn(drive(node, key.clone(), every, stop.clone())));
    let begin = Instant::now();
    tokio::time::sleep(lasts / 3).await;
    server.kill();
    let killed = SystemClock.now().0 * 1000;
    tokio::time::sleep((window / 4).min(Duration::from_secs(5))).await;
    server.up();
    recorder.wait_for(2);
    for limiter in &limiters {
        is(limiter, Status::Ok).await;
    }
    let back = SystemClock.now().0 * 1000;
    // Time for a whole window after the one for which it counts as down.
    let least = 2 * window + Duration::from_secs(3);
    let left = lasts.saturating_sub(begin.elapsed()).max(least);
    tokio::time::sleep(left).await;
    stop.store(true, Ordering::Relaxed);
    let lasted = begin.elapsed();

    let mut all = Sent::default();
    for sent in driven {
        let sent = sent.await.unwrap();
        assert!(sent.limited > 0 && sent.unavailable > 0);
        all.admitted += sent.admitted;
        all.limited += sent.limited;
        all.unavailable += sent.unavailable;
    }
    let sent = all.admitted + all.limited + all.unavailable;
    let due = lasted.as_secs_f64() / window.as_secs_f64() * f64::from(10 * limit);
    assert!(sent as f64 > 0.9 * due, "{sent} of {due} were sent");
    let mut admissions = recorder.finish();
    admissions.retain(|admission| admission.window == its_window);
    let count = |admissions: &[Admission]| admissions.iter().map(|a| a.count).sum::<u64>();
    // The record is whole, but for what Redis decided just before it was killed. It may have more, of which no answer came in time.
    assert!(count(&admissions) + 10 >= all.admitted);
    assert!(admissions.is_sorted_by_key(|admission| admission.at));
    let before = count(&admissions[..admissions.partition_point(|a| a.at < killed)]);
    let after = count(&admissions[admissions.partition_point(|a| a.at <= back)..]);
    let most = fullest(&admissions, window);
    println!(
        "{sent} sent in {lasted:.0?}: {} admitted, {} limited, {} while Redis was down or had lost its data; {before} before it was \
         killed, {after} after it was back; {most} in the fullest window of {limit} in {window_s} s, by Redis's clock",
        all.admitted, all.limited, all.unavailable
    );
    assert!(before >= limit.into() && after >= limit.into());
    assert!(most <= limit.into(), "{most} in a window");
}

#[tokio::test(flavor = "multi_thread")]
async fn never_more_than_the_limit_through_a_restart() {
    never_more_than_the_limit(40, 2, Duration::from_secs(9)).await;
}

#[test]
fn the_fullest_window_is_found() {
    let admissions = [
        (0, 3),
        (1_000_000, 2),
        (1_999_999, 1),
        (2_000_000, 1),
        (5_000_000, 4),
    ];
    let admissions = admissions.map(|(at, count)| Admission {
        window: String::new(),
        at,
        count,
    });
    assert_eq!(fullest(&admissions, Duration::from_secs(2)), 6);
    assert_eq!(fullest(&admissions, Duration::from_secs(1)), 4);
    assert_eq!(fullest(&admissions, Duration::from_secs(9)), 11);
}

/// The same with 600 a minute, for 5 minutes, or as many seconds as `OMNILINK_TEST_LIMITS_S` says. Run by `scripts/bench windows`.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "lasts 5 minutes"]
async fn never_more_than_600_a_minute_for_long() {
    let given = std::env::var("OMNILINK_TEST_LIMITS_S").ok();
    let seconds = given.and_then(|s| s.parse().ok()).unwrap_or(300);
    never_more_than_the_limit(600, 60, Duration::from_secs(seconds)).await;
}
