//! The port when something is slow, broken or hostile.

use std::time::{Duration, Instant};

use hyper::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{sleep, timeout},
};

use crate::port_node::{Mode, Node, scopes};

fn event(id: &str) -> Value {
    json!({ "id": id, "source": "/s", "type": "t", "data": { "n": 1 } })
}

/// Polls until the answer is as wanted, 10 s at most.
async fn until<T>(mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = ask().await {
            return found;
        }
        assert!(began.elapsed() < Duration::from_secs(10), "not within 10 s");
        sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_answered_before_it_is_durable() {
    let node = Node::start().await;
    node.log.set(Mode::Held);
    let twice = json!([event("1"), event("1")]);
    let mut first = std::pin::pin!(node.post(&twice));
    assert!(
        timeout(Duration::from_millis(300), &mut first)
            .await
            .is_err(),
        "answered too early"
    );

    let again = node.post(&event("1")).await;
    assert_eq!(
        (again.status.as_u16(), again.code().as_str()),
        (409, "idempotency_in_flight")
    );
    assert_eq!(again.headers["retry-after"], "1");
    assert_eq!(again.result(0)["retry_after_seconds"], 1);
    let mut other = event("1");
    other["data"] = json!(2);
    assert_eq!(node.post(&other).await.status.as_u16(), 422);

    node.log.set(Mode::Works);
    let first = first.await;
    assert_eq!(first.result(0)["status"], "ingested");
    assert_eq!(first.result(1)["status"], "duplicate");
    assert_eq!(
        node.post(&event("1")).await.result(0)["status"],
        "duplicate"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_does_not_confirm_is_answered_within_5_s() {
    let node = Node::start().await;
    node.log.set(Mode::Held);
    let began = Instant::now();
    let late = node.post(&event("1")).await;
    assert_eq!(
        (late.status.as_u16(), late.code().as_str()),
        (503, "log_unavailable")
    );
    assert_eq!(late.headers["retry-after"], "5");
    assert!((4..7).contains(&began.elapsed().as_secs()));
    // Its fate is not known yet.
    assert_eq!(node.post(&event("1")).await.code(), "idempotency_in_flight");
    node.log.set(Mode::Works);
    let duplicate = until(async || {
        let answer = node.post(&event("1")).await;
        (answer.status == StatusCode::ACCEPTED).then_some(answer)
    })
    .await;
    assert_eq!(duplicate.result(0)["status"], "duplicate");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_log_refused_is_new_when_it_comes_again() {
    let node = Node::start().await;
    assert_eq!(
        node.post(&event("before")).await.result(0)["status"],
        "ingested"
    );
    node.log.set(Mode::Fails);
    let refused = node
        .post(&json!([event("1"), event("before"), event("1")]))
        .await;
    // One was a duplicate; what repeats the lost one is lost with it.
    assert_eq!(refused.status, StatusCode::ACCEPTED);
    assert_eq!(refused.result(0)["error"]["code"], "log_unavailable");
    assert_eq!(refused.result(0)["retry_after_seconds"], 5);
    assert_eq!(refused.result(1)["status"], "duplicate");
    assert_eq!(refused.result(2)["error"]["code"], "log_unavailable");
    node.log.set(Mode::Works);
    let taken = until(async || {
        let answer = node.post(&event("1")).await;
        (answer.status == StatusCode::ACCEPTED).then_some(answer)
    })
    .await;
    assert_eq!(taken.result(0)["status"], "ingested");
    assert_eq!(
        node.post(&event("1")).await.result(0)["status"],
        "duplicate"
    );
    assert_eq!(
        node.post(&event("before")).await.result(0)["status"],
        "duplicate"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn unreadable_controls_close_the_port() {
    let node = Node::start().await;
    node.log.set(Mode::Gone);
    let closed = until(async || {
        let answer = node.post(&event("1")).await;
        (answer.status == StatusCode::SERVICE_UNAVAILABLE && !node.controls.readable())
            .then_some(answer)
    })
    .await;
    assert_eq!(closed.code(), "log_unavailable");
    // Whoever has no key learns no more.
    let answer = node.call(Method::POST, "/v1/events", &[], "").await;
    assert_eq!(answer.code(), "log_unavailable");
    let ready = node.call(Method::GET, "/readyz", &[], "").await;
    assert_eq!(ready.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(ready.json()["parts"]["log"]["status"], "down");
    assert_eq!(
        node.call(Method::GET, "/healthz", &[], "").await.status,
        StatusCode::OK
    );
    node.log.set(Mode::Works);
    until(async || (node.post(&event("1")).await.status == StatusCode::ACCEPTED).then_some(()))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_answers_what_is_under_way() {
    let mut node = Node::start().await;
    node.log.set(Mode::Held);
    let idle = TcpStream::connect(node.address).await.unwrap();
    let mut stream = TcpStream::connect(node.address).await.unwrap();
    let body = event("1").to_string();
    let request = format!(
        "POST /v1/events HTTP/1.1\r\nhost: x\r\nauthorization: {}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        node.bearer(),
        body.len()
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    sleep(Duration::from_millis(300)).await;
    node.ask_to_stop();
    sleep(Duration::from_millis(300)).await;
    assert!(
        TcpStream::connect(node.address).await.is_err(),
        "takes new connections"
    );
    node.log.set(Mode::Works);
    let mut answer = String::new();
    timeout(Duration::from_secs(5), stream.read_to_string(&mut answer))
        .await
        .unwrap()
        .unwrap();
    assert!(answer.starts_with("HTTP/1.1 202"), "{answer}");
    drop(idle);
    timeout(Duration::from_secs(2), node.stop()).await.unwrap();
}

/// Sends raw bytes, and reads until the connection ends or nothing comes for a second.
async fn raw(node: &Node, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(node.address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    let _ = timeout(Duration::from_secs(1), stream.read_to_end(&mut answer)).await;
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn large_bodies_are_refused_without_being_read() {
    let node = Node::start().await;
    let head = |more: &str| {
        format!(
            "POST /v1/events HTTP/1.1\r\nhost: x\r\nauthorization: {}\r\ncontent-type: application/json\r\n{more}\r\n\r\n",
            node.bearer()
        )
    };
    // Announced and not sent.
    let began = Instant::now();
    let mut stream = TcpStream::connect(node.address).await.unwrap();
    stream
        .write_all(head("content-length: 10000000").as_bytes())
        .await
        .unwrap();
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 413");
    assert!(began.elapsed() < Duration::from_millis(500));

    // Sent by a client that does not wait: it can read the answer.
    let mut whole = head("content-length: 3000000").into_bytes();
    whole.resize(whole.len() + 3_000_000, b'x');
    assert!(raw(&node, &whole).await.starts_with("HTTP/1.1 413"));

    // Not announced: cut off at the limit, though more would come.
    let mut stream = TcpStream::connect(node.address).await.unwrap();
    stream
        .write_all(head("transfer-encoding: chunked").as_bytes())
        .await
        .unwrap();
    let chunk = format!("10000\r\n{}\r\n", "x".repeat(0x10000));
    for _ in 0..17 {
        stream.write_all(chunk.as_bytes()).await.unwrap();
    }
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 413");

    let many = "x-y: z\r\n".repeat(200);
    let answer = raw(&node, head(many.trim_end()).as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
    let long = format!("x-long: {}", "y".repeat(100_000));
    assert!(
        raw(&node, head(&long).as_bytes())
            .await
            .starts_with("HTTP/1.1 431")
    );
    assert!(
        raw(&node, b"NONSENSE\r\n\r\n")
            .await
            .starts_with("HTTP/1.1 400")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_and_dripping_connections_delay_nobody() {
    let node = Node::start().await;
    let head = format!(
        "POST /v1/events HTTP/1.1\r\nhost: x\r\nauthorization: {}\r\n",
        node.bearer()
    );
    let mut open = Vec::new();
    for n in 0..600 {
        let mut stream = TcpStream::connect(node.address).await.unwrap();
        let sent = match n % 3 {
            0 => String::new(),
            1 => head[..head.len() / 2].to_owned(),
            _ => format!("{head}content-type: application/json\r\ncontent-length: 1000\r\n\r\n{{"),
        };
        stream.write_all(sent.as_bytes()).await.unwrap();
        open.push(stream);
    }
    for n in 0..20 {
        let began = Instant::now();
        let answer = node.post(&event(&n.to_string())).await;
        assert_eq!(answer.status, StatusCode::ACCEPTED);
        assert!(
            began.elapsed() < Duration::from_millis(500),
            "{:?}",
            began.elapsed()
        );
    }
    // A body that does not come is given up.
    let mut slow = open.swap_remove(2);
    let mut answer = [0; 12];
    let read = slow.read_exact(&mut answer);
    timeout(Duration::from_secs(15), read)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(&answer, b"HTTP/1.1 408");
}

#[tokio::test(flavor = "multi_thread")]
async fn thirty_wrong_keys_a_minute_an_address() {
    let node = Node::start().await;
    let wrong = |address: &'static str| {
        let headers = [
            ("authorization", "Bearer omni.x"),
            ("x-forwarded-for", address),
        ];
        let node = &node;
        async move { node.call(Method::POST, "/v1/events", &headers, "").await }
    };
    for _ in 0..30 {
        assert_eq!(wrong("9.9.9.9").await.code(), "invalid_key");
    }
    let limited = wrong("9.9.9.9").await;
    assert_eq!(
        (limited.status.as_u16(), limited.code().as_str()),
        (429, "rate_limit_exceeded")
    );
    for name in [
        "retry-after",
        "ratelimit",
        "ratelimit-policy",
        "x-ratelimit-limit",
        "x-ratelimit-remaining",
        "x-ratelimit-reset",
    ] {
        assert!(limited.headers.contains_key(name), "{name}");
    }
    assert_eq!(wrong("9.9.9.8").await.code(), "invalid_key");
    // A good key passes.
    let bearer = node.bearer();
    let headers = [
        ("authorization", bearer.as_str()),
        ("x-forwarded-for", "9.9.9.9"),
        ("content-type", "application/json"),
    ];
    let answer = node
        .call(Method::POST, "/v1/events", &headers, event("1").to_string())
        .await;
    assert_eq!(answer.status, StatusCode::ACCEPTED);
}

#[tokio::test(flavor = "multi_thread")]
async fn other_routes_answer_problems_too() {
    let node = Node::start().await;
    let get = async |path: &str| node.call(Method::GET, path, &[], "").await;
    assert_eq!(
        (
            get("/nowhere").await.status.as_u16(),
            get("/nowhere").await.code().as_str()
        ),
        (404, "not_found")
    );
    let answer = get("/v1/events").await;
    assert_eq!(
        (answer.status.as_u16(), answer.code().as_str()),
        (405, "method_not_allowed")
    );
    assert_eq!(answer.headers["allow"], "POST");
    let answer = node.call(Method::PUT, "/v1/keys", &[], "").await;
    assert_eq!(
        (answer.status.as_u16(), answer.code().as_str()),
        (405, "method_not_allowed")
    );
    assert_eq!(get("/healthz").await.status, StatusCode::OK);

    node.readiness
        .part("postgres", omnilink::telemetry::Need::Optional, || {
            omnilink::telemetry::PartStatus::down("not started")
        });
    let ready = get("/readyz").await;
    assert_eq!(ready.status, StatusCode::OK);
    assert_eq!(ready.json()["status"], "degraded");
    assert_eq!(
        ready.json()["parts"]["postgres"],
        json!({ "status": "down", "detail": "not started" })
    );

    let key = node.key("acme", scopes(&["events:write"])).await;
    node.ask(Method::POST, "/v1/events", &key, &event("1"))
        .await;
    let metrics = get("/metrics").await;
    assert_eq!(metrics.status, StatusCode::OK);
    for name in [
        "omnilink_port_events_total{result=\"ingested\"}",
        "omnilink_port_requests_total{class=\"2xx\"}",
        "omnilink_port_request_duration_seconds_bucket",
    ] {
        assert!(metrics.text.contains(name), "{name} in {}", metrics.text);
    }
    assert!(!metrics.text.contains(&key[..13]));
}
