//! Limits of `POST /v1/events` on nodes that share a Redis, which is stopped, restarted, and loses what it held.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use hyper::{Method, StatusCode};
use omnilink::{
    audit::Entry,
    base::clock::SystemClock,
    controls::{Constraints, Scopes},
    limits::{Limiter, OnBackendDown, Per, Policy, RedisOptions},
    telemetry::Status,
};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{
    audit_entries,
    port::{Mode, Node, Response},
    redis::{Server, url},
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
    let url = url(&server.url());
    let options = RedisOptions {
        // A busy machine answers late, and is not down for that.
        answer: Duration::from_secs(1),
        ..RedisOptions::new(&url, prefix)
    };
    let limiter = Limiter::with_redis(Arc::new(SystemClock), &options).unwrap();
    is(&limiter, Status::Ok).await;
    let dir = TempDir::new().unwrap();
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

/// Two nodes on one Redis, driven at ten times what a policy allows, while Redis is restarted and loses all: no window holds more
/// than the limit.
async fn never_more_than_the_limit(limit: u32, window_s: u32, lasts: Duration) {
    let Some(mut server) = Server::start(&[]) else {
        return;
    };
    let policies = || vec![policy(limit, window_s, Per::Tenant, OnBackendDown::Closed)];
    let nodes = [
        node(&server, "t.", policies()).await,
        node(&server, "t.", policies()).await,
    ];
    let window = Duration::from_secs(window_s.into());
    let stop = Arc::new(AtomicBool::new(false));
    // Each request is one event; both nodes together send 10 times the limit.
    let pause = window / (10 * limit / 2);
    let mut tasks = Vec::new();
    let limiters = nodes.each_ref().map(|(_, limiter)| limiter.clone());
    for (node, _) in nodes {
        let stop = Arc::clone(&stop);
        tasks.push(tokio::spawn(async move {
            let (mut admitted, mut limited, mut unavailable) = (Vec::new(), 0, 0);
            let mut tick = tokio::time::interval(pause);
            let mut sent = 0_u64;
            while !stop.load(Ordering::Relaxed) {
                tick.tick().await;
                sent += 1;
                let begin = Instant::now();
                let response = post(&node, &node.admin, &event(&sent.to_string())).await;
                match response.status.as_u16() {
                    202 => admitted.push((begin, Instant::now())),
                    429 => limited += 1,
                    503 => unavailable += 1,
                    other => panic!("{other}: {}", response.text),
                }
            }
            (admitted, limited, unavailable)
        }));
    }
    let begin = Instant::now();
    tokio::time::sleep(lasts / 3).await;
    server.kill();
    let killed = Instant::now();
    tokio::time::sleep((window / 4).min(Duration::from_secs(5))).await;
    server.up();
    for limiter in &limiters {
        is(limiter, Status::Ok).await;
    }
    let back = Instant::now();
    // Time for a whole window after the one for which it counts as down.
    let least = 2 * window + Duration::from_secs(3);
    let left = lasts.saturating_sub(begin.elapsed()).max(least);
    tokio::time::sleep(left).await;
    stop.store(true, Ordering::Relaxed);

    let mut admitted: Vec<(Instant, Instant)> = Vec::new();
    for task in tasks {
        let (its, limited, unavailable) = task.await.unwrap();
        assert!(limited > 0 && unavailable > 0, "{limited}, {unavailable}");
        admitted.extend(its);
    }
    let before = admitted.iter().filter(|(_, end)| *end < killed).count();
    let after = admitted.iter().filter(|(begin, _)| *begin > back).count();
    println!("{before} before Redis was killed, {after} after it was back");
    assert!(before >= limit as usize && after >= limit as usize);
    // What begins after the end of the first and ends in less than a window is in one window; clocks read milliseconds.
    let window = window.saturating_sub(Duration::from_millis(5));
    let mut most = 0;
    for (_, first) in &admitted {
        let inside = admitted
            .iter()
            .filter(|(begin, end)| begin >= first && end.duration_since(*first) < window)
            .count();
        most = most.max(inside);
    }
    assert!(most <= limit as usize, "{most} in a window");
    println!("{most} in the fullest window of {limit}");
}

#[tokio::test(flavor = "multi_thread")]
async fn never_more_than_the_limit_through_a_restart() {
    never_more_than_the_limit(40, 2, Duration::from_secs(9)).await;
}

/// The same with 600 a minute, for 5 minutes, or as many seconds as `OMNILINK_TEST_LIMITS_S` says.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "lasts 5 minutes"]
async fn never_more_than_600_a_minute_for_long() {
    let given = std::env::var("OMNILINK_TEST_LIMITS_S").ok();
    let seconds = given.and_then(|s| s.parse().ok()).unwrap_or(300);
    never_more_than_the_limit(600, 60, Duration::from_secs(seconds)).await;
}
