//! Two nodes that share a Redis: each knows the events that the other has in flight or has seen.

use std::time::Duration;

use omnilink::{
    base::{
        clock::{Clock, SystemClock},
        id::Identity,
    },
    config::{Config, Sources},
    port::Nodes,
    telemetry::Status,
};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{
    env_or_skip,
    port::{Mode, Node},
};

fn event(id: &str) -> Value {
    json!({ "id": id, "source": "/s", "type": "t", "data": { "n": 1 } })
}

fn connect(url: &str, prefix: &str) -> Nodes {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("omnilink.yaml");
    std::fs::write(&file, format!("redis: {{ url: \"{url}\" }}")).unwrap();
    let sources = Sources {
        file: Some(file),
        ..Sources::default()
    };
    let url = Config::load(&sources).unwrap().redis_url.unwrap();
    Nodes::start(&url, prefix, Duration::from_hours(1)).unwrap()
}

async fn connected(nodes: &Nodes) {
    let probe = nodes.probe();
    for _ in 0..200 {
        if probe().status == Status::Ok {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("{}", probe().detail);
}

/// Two nodes that share a Redis.
pub struct Cluster {
    url: String,
    prefix: String,
    pub a: Node,
    pub b: Node,
}

impl Cluster {
    /// `None` without a Redis.
    pub async fn start() -> Option<Self> {
        let url = env_or_skip("OMNILINK_TEST_REDIS")?;
        let prefix = format!("t{}.", uuid::Uuid::now_v7().simple());
        let node = async || {
            let nodes = connect(&url, &prefix);
            connected(&nodes).await;
            Node::start_with(TempDir::new().unwrap(), Some(nodes)).await
        };
        let (a, b) = (node().await, node().await);
        Some(Self { url, prefix, a, b })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_share_events_in_flight_and_duplicates() {
    let Some(Cluster { a, b, .. }) = Cluster::start().await else {
        return;
    };

    a.log.set_mode(Mode::Held);
    let one = event("1");
    let mut first = std::pin::pin!(a.post(&one));
    let early = tokio::time::timeout(Duration::from_millis(300), &mut first).await;
    assert!(early.is_err(), "responded too early");
    let batch = json!([event("1"), event("2"), event("1")]);
    let response = b.post(&batch).await;
    assert_eq!(response.result(0)["error"]["code"], "idempotency_in_flight");
    assert_eq!(response.result(1)["status"], "ingested");
    assert_eq!(response.result(2)["error"]["code"], "idempotency_in_flight");
    let mut other = event("1");
    other["data"] = json!(2);
    assert_eq!(b.post(&other).await.code(), "idempotency_mismatch");

    a.log.set_mode(Mode::Works);
    assert_eq!(first.await.result(0)["status"], "ingested");
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(b.post(&event("1")).await.result(0)["status"], "duplicate");
    assert_eq!(a.post(&event("2")).await.result(0)["status"], "duplicate");
    assert_eq!(b.post(&other).await.code(), "idempotency_mismatch");
}

/// A body that was not accepted, because its append failed, does not block another body with the same identity on any node.
#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_was_not_accepted_does_not_block_another() {
    let Some(Cluster { a, b, .. }) = Cluster::start().await else {
        return;
    };
    let other = |id: &str| {
        let mut other = event(id);
        other["data"] = json!(2);
        other
    };

    a.log.set_mode(Mode::Fails);
    assert_eq!(a.post(&event("1")).await.code(), "log_unavailable");
    let batch = json!([event("2"), event("3")]);
    assert_eq!(a.post(&batch).await.code(), "log_unavailable");
    tokio::time::sleep(Duration::from_millis(300)).await;
    for id in ["1", "2", "3"] {
        let response = b.post(&other(id)).await;
        assert_eq!(
            response.result(0)["status"],
            "ingested",
            "{}",
            response.text
        );
    }
    // The failed node deletes only its own entries, not those of events that the other node has accepted since.
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(b.post(&event("1")).await.code(), "idempotency_mismatch");
    a.log.set_mode(Mode::Works);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(a.post(&event("1")).await.code(), "idempotency_mismatch");

    // The append succeeds after the response: all nodes then treat the event as accepted.
    a.log.set_mode(Mode::Held);
    assert_eq!(a.post(&event("4")).await.code(), "log_unavailable");
    a.log.set_mode(Mode::Works);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(b.post(&event("4")).await.result(0)["status"], "duplicate");
    assert_eq!(b.post(&other("4")).await.code(), "idempotency_mismatch");
}

/// An event that a dead node had in flight is taken over by the first request, whatever its body.
#[tokio::test(flavor = "multi_thread")]
async fn an_event_of_a_dead_node_is_taken_over_once() {
    let Some(Cluster { url, prefix, a, b }) = Cluster::start().await else {
        return;
    };
    let client = redis::Client::open(&*url).unwrap();
    let mut redis = client.get_multiplexed_async_connection().await.unwrap();
    let identity = Identity::of("event", &["acme", "/s", "1"]);
    let key = format!("{prefix}idempotency:{identity}");
    // An entry of an earlier release: in flight, with another body, since 11 s.
    let since = SystemClock.now().0 - 11_000;
    let mark = [&b"f"[..], &[7; 16], &since.to_be_bytes()].concat();
    redis::cmd("SET")
        .arg(&key)
        .arg(mark)
        .query_async::<()>(&mut redis)
        .await
        .unwrap();
    let (mut one, mut two) = (event("1"), event("1"));
    one["data"] = json!(1);
    two["data"] = json!(2);
    let (one, two) = tokio::join!(a.post(&one), b.post(&two));
    let accepted = [&one, &two].map(|response| response.text.contains("ingested"));
    assert!(accepted[0] != accepted[1], "{} {}", one.text, two.text);
    let refused = if accepted[0] { two } else { one };
    assert_eq!(refused.code(), "idempotency_mismatch");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_redis_a_node_uses_its_own_window() {
    let nodes = connect("redis://:hush@127.0.0.1:9", "t.");
    let probe = nodes.probe();
    let node = Node::start_with(TempDir::new().unwrap(), Some(nodes)).await;
    assert_eq!(node.post(&event("1")).await.result(0)["status"], "ingested");
    assert_eq!(
        node.post(&event("1")).await.result(0)["status"],
        "duplicate"
    );
    let status = probe();
    assert_eq!(status.status, Status::Degraded);
    assert!(!status.detail.contains("hush"), "{}", status.detail);
}
