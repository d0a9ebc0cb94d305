//! Two nodes and one Redis: what one has in flight or has seen, the other knows.

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

use crate::{
    port_node::{Mode, Node},
    support::part,
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

#[tokio::test(flavor = "multi_thread")]
async fn another_node_knows_what_is_in_flight_and_what_was_seen() {
    let Some(url) = part("OMNILINK_TEST_REDIS") else {
        return;
    };
    let prefix = format!("t{}.", uuid::Uuid::now_v7().simple());
    let start = async || {
        let nodes = connect(&url, &prefix);
        connected(&nodes).await;
        Node::start_with(TempDir::new().unwrap(), Some(nodes)).await
    };
    let (a, b) = (start().await, start().await);

    a.log.set(Mode::Held);
    let one = event("1");
    let mut first = std::pin::pin!(a.post(&one));
    let early = tokio::time::timeout(Duration::from_millis(300), &mut first).await;
    assert!(early.is_err(), "answered too early");
    let batch = json!([event("1"), event("2"), event("1")]);
    let answer = b.post(&batch).await;
    assert_eq!(answer.result(0)["error"]["code"], "idempotency_in_flight");
    assert_eq!(answer.result(1)["status"], "ingested");
    assert_eq!(answer.result(2)["error"]["code"], "idempotency_in_flight");
    let mut other = event("1");
    other["data"] = json!(2);
    assert_eq!(b.post(&other).await.code(), "idempotency_mismatch");

    a.log.set(Mode::Works);
    assert_eq!(first.await.result(0)["status"], "ingested");
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(b.post(&event("1")).await.result(0)["status"], "duplicate");
    assert_eq!(a.post(&event("2")).await.result(0)["status"], "duplicate");
    assert_eq!(b.post(&other).await.code(), "idempotency_mismatch");
}

/// A body that was never accepted keeps no other one out, on no node: its append failed, or its sender hung up before.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_never_accepted_keeps_no_other_body_out() {
    let Some(url) = part("OMNILINK_TEST_REDIS") else {
        return;
    };
    let prefix = format!("t{}.", uuid::Uuid::now_v7().simple());
    let start = async || {
        let nodes = connect(&url, &prefix);
        connected(&nodes).await;
        Node::start_with(TempDir::new().unwrap(), Some(nodes)).await
    };
    let (a, b) = (start().await, start().await);
    let other = |id: &str| {
        let mut other = event(id);
        other["data"] = json!(2);
        other
    };

    a.log.set(Mode::Fails);
    assert_eq!(a.post(&event("1")).await.code(), "log_unavailable");
    let batch = json!([event("2"), event("3")]);
    assert_eq!(a.post(&batch).await.code(), "log_unavailable");
    tokio::time::sleep(Duration::from_millis(300)).await;
    for id in ["1", "2", "3"] {
        let answer = b.post(&other(id)).await;
        assert_eq!(answer.result(0)["status"], "ingested", "{}", answer.text);
    }
    // What the other node has taken since stays: the failed node deletes its own mark alone.
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(b.post(&event("1")).await.code(), "idempotency_mismatch");
    a.log.set(Mode::Works);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(a.post(&event("1")).await.code(), "idempotency_mismatch");

    // An answer that was too late for its sender: durable in the end, and so it is for all.
    a.log.set(Mode::Held);
    assert_eq!(a.post(&event("4")).await.code(), "log_unavailable");
    a.log.set(Mode::Works);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(b.post(&event("4")).await.result(0)["status"], "duplicate");
    assert_eq!(b.post(&other("4")).await.code(), "idempotency_mismatch");
}

/// A node that is gone leaves what it had in flight to the first that asks, whatever the body.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_node_left_in_flight_is_taken_over_once() {
    let Some(url) = part("OMNILINK_TEST_REDIS") else {
        return;
    };
    let prefix = format!("t{}.", uuid::Uuid::now_v7().simple());
    let start = async || {
        let nodes = connect(&url, &prefix);
        connected(&nodes).await;
        Node::start_with(TempDir::new().unwrap(), Some(nodes)).await
    };
    let (a, b) = (start().await, start().await);
    let client = redis::Client::open(&*url).unwrap();
    let mut redis = client.get_multiplexed_async_connection().await.unwrap();
    let identity = Identity::of("event", &["acme", "/s", "1"]);
    let key = format!("{prefix}idempotency:{identity}");
    // As a node of the version before marks it: in flight, another body, 11 s ago.
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
    let taken = [&one, &two].map(|answer| answer.text.contains("ingested"));
    assert!(taken[0] != taken[1], "{} {}", one.text, two.text);
    let refused = if taken[0] { two } else { one };
    assert_eq!(refused.code(), "idempotency_mismatch");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_redis_a_node_goes_by_its_own_window() {
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
