//! The port when something is slow, broken or hostile.

use std::time::{Duration, Instant};

use hyper::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{sleep, timeout},
};

use crate::support::port::{Mode, Node, scopes};

fn event(id: &str) -> Value {
    json!({ "id": id, "source": "/s", "type": "t", "data": { "n": 1 } })
}

/// Polls until `ask` returns a value, for up to 10 s.
async fn poll_until<T>(mut ask: impl AsyncFnMut() -> Option<T>) -> T {
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
async fn no_response_before_the_event_is_durable() {
    let node = Node::start().await;
    node.log.set_mode(Mode::Held);
    let twice = json!([event("1"), event("1")]);
    let mut first = std::pin::pin!(node.post(&twice));
    assert!(
        timeout(Duration::from_millis(300), &mut first)
            .await
            .is_err(),
        "responded too early"
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

    node.log.set_mode(Mode::Works);
    let first = first.await;
    assert_eq!(first.result(0)["status"], "ingested");
    assert_eq!(first.result(1)["status"], "duplicate");
    assert_eq!(
        node.post(&event("1")).await.result(0)["status"],
        "duplicate"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_does_not_acknowledge_is_a_503_within_5_s() {
    let node = Node::start().await;
    node.log.set_mode(Mode::Held);
    let began = Instant::now();
    let late = node.post(&event("1")).await;
    assert_eq!(
        (late.status.as_u16(), late.code().as_str()),
        (503, "log_unavailable")
    );
    assert_eq!(late.headers["retry-after"], "5");
    assert!((4..7).contains(&began.elapsed().as_secs()));
    // Its outcome is still unknown.
    assert_eq!(node.post(&event("1")).await.code(), "idempotency_in_flight");
    node.log.set_mode(Mode::Works);
    let duplicate = poll_until(async || {
        let response = node.post(&event("1")).await;
        (response.status == StatusCode::ACCEPTED).then_some(response)
    })
    .await;
    assert_eq!(duplicate.result(0)["status"], "duplicate");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_the_log_refused_is_new_when_it_is_retried() {
    let node = Node::start().await;
    assert_eq!(
        node.post(&event("before")).await.result(0)["status"],
        "ingested"
    );
    node.log.set_mode(Mode::Fails);
    let refused = node
        .post(&json!([event("1"), event("before"), event("1")]))
        .await;
    // One is a duplicate of an earlier event; the duplicate within the batch fails with its original.
    assert_eq!(refused.status, StatusCode::ACCEPTED);
    assert_eq!(refused.result(0)["error"]["code"], "log_unavailable");
    assert_eq!(refused.result(0)["retry_after_seconds"], 5);
    assert_eq!(refused.result(1)["status"], "duplicate");
    assert_eq!(refused.result(2)["error"]["code"], "log_unavailable");
    node.log.set_mode(Mode::Works);
    let taken = poll_until(async || {
        let response = node.post(&event("1")).await;
        (response.status == StatusCode::ACCEPTED).then_some(response)
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
    node.log.set_mode(Mode::Unavailable);
    let closed = poll_until(async || {
        let response = node.post(&event("1")).await;
        (response.status == StatusCode::SERVICE_UNAVAILABLE && !node.controls.readable())
            .then_some(response)
    })
    .await;
    assert_eq!(closed.code(), "log_unavailable");
    // A request without a key gets the same response.
    let response = node.call(Method::POST, "/v1/events", &[], "").await;
    assert_eq!(response.code(), "log_unavailable");
    let ready = node.call(Method::GET, "/readyz", &[], "").await;
    assert_eq!(ready.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(ready.json()["parts"]["log"]["status"], "down");
    assert_eq!(
        node.call(Method::GET, "/healthz", &[], "").await.status,
        StatusCode::OK
    );
    node.log.set_mode(Mode::Works);
    poll_until(async || {
        (node.post(&event("1")).await.status == StatusCode::ACCEPTED).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_completes_running_requests() {
    let mut node = Node::start().await;
    node.log.set_mode(Mode::Held);
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
    node.request_stop();
    sleep(Duration::from_millis(300)).await;
    assert!(
        TcpStream::connect(node.address).await.is_err(),
        "still accepts connections"
    );
    node.log.set_mode(Mode::Works);
    let mut response = String::new();
    timeout(Duration::from_secs(5), stream.read_to_string(&mut response))
        .await
        .unwrap()
        .unwrap();
    assert!(response.starts_with("HTTP/1.1 202"), "{response}");
    drop(idle);
    timeout(Duration::from_secs(2), node.stop()).await.unwrap();
}

/// Sends raw bytes; reads until the connection is closed or nothing arrives for a second.
async fn raw(node: &Node, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(node.address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut response = Vec::new();
    let _ = timeout(Duration::from_secs(1), stream.read_to_end(&mut response)).await;
    String::from_utf8_lossy(&response).into_owned()
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
    // Announced with content-length and not sent.
    let began = Instant::now();
    let mut stream = TcpStream::connect(node.address).await.unwrap();
    stream
        .write_all(head("content-length: 10000000").as_bytes())
        .await
        .unwrap();
    let mut response = [0; 12];
    stream.read_exact(&mut response).await.unwrap();
    assert_eq!(&response, b"HTTP/1.1 413");
    assert!(began.elapsed() < Duration::from_millis(500));

    // Sent by a client that does not wait for `100 Continue`: it can still read the response.
    let mut whole = head("content-length: 3000000").into_bytes();
    whole.resize(whole.len() + 3_000_000, b'x');
    assert!(raw(&node, &whole).await.starts_with("HTTP/1.1 413"));

    // Without content-length: cut off at the limit.
    let mut stream = TcpStream::connect(node.address).await.unwrap();
    stream
        .write_all(head("transfer-encoding: chunked").as_bytes())
        .await
        .unwrap();
    let chunk = format!("10000\r\n{}\r\n", "x".repeat(0x10000));
    for _ in 0..17 {
        stream.write_all(chunk.as_bytes()).await.unwrap();
    }
    stream.read_exact(&mut response).await.unwrap();
    assert_eq!(&response, b"HTTP/1.1 413");

    let many = "x-y: z\r\n".repeat(200);
    let response = raw(&node, head(many.trim_end()).as_bytes()).await;
    assert!(response.starts_with("HTTP/1.1 431"), "{response}");
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

/// Every route with a body has the same bound on the memory of bodies that arrive in pieces, and reads none without a key.
#[tokio::test(flavor = "multi_thread")]
async fn bodies_in_pieces_have_a_budget_on_every_route() {
    let node = Node::start().await;
    let sent = async |path: &str, key: &str, length: usize| {
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: x\r\nauthorization: {key}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n"
        );
        let mut bytes = head.into_bytes();
        bytes.resize(bytes.len() + length - 1, b' ');
        let mut stream = TcpStream::connect(node.address).await.unwrap();
        stream.write_all(&bytes).await.unwrap();
        stream
    };
    let status = async |stream: &mut TcpStream| {
        let mut response = [0; 12];
        stream.read_exact(&mut response).await.unwrap();
        String::from_utf8_lossy(&response[9..]).into_owned()
    };
    let explain = "/v1/plans:explain";
    // Without a key nothing of the body is awaited.
    assert_eq!(
        status(&mut sent(explain, "Bearer x", 200_000).await).await,
        "401"
    );
    let bearer = node.bearer();
    let mut open = Vec::new();
    // More than 64 MiB together.
    for _ in 0..400 {
        open.push(sent(explain, &bearer, 200_000).await);
    }
    assert_eq!(status(open.last_mut().unwrap()).await, "503");
    // Smaller bodies have a budget of their own.
    let small = format!(
        "POST /v1/keys HTTP/1.1\r\nhost: x\r\nauthorization: {bearer}\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{{}}"
    );
    let small = raw(&node, small.as_bytes()).await;
    assert!(small.starts_with("HTTP/1.1 400"), "{small}");
    drop(open);
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_and_slow_connections_do_not_delay_others() {
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
        let response = node.post(&event(&n.to_string())).await;
        assert_eq!(response.status, StatusCode::ACCEPTED);
        assert!(
            began.elapsed() < Duration::from_millis(500),
            "{:?}",
            began.elapsed()
        );
    }
    // A body that does not arrive times out, on every route.
    let mut slow = vec![open.swap_remove(2)];
    for path in ["/v1/commands", "/v1/keys", "/subjects/s/versions"] {
        let head = head.replace("/v1/events", path);
        let mut stream = TcpStream::connect(node.address).await.unwrap();
        let sent =
            format!("{head}content-type: application/json\r\ncontent-length: 1000\r\n\r\n{{");
        stream.write_all(sent.as_bytes()).await.unwrap();
        slow.push(stream);
    }
    for mut stream in slow {
        let mut response = [0; 12];
        let read = stream.read_exact(&mut response);
        timeout(Duration::from_secs(15), read)
            .await
            .unwrap()
            .unwrap();
        assert_eq!(&response, b"HTTP/1.1 408");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_keys_are_limited_to_thirty_a_minute_and_address() {
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
    // A valid key still passes.
    let bearer = node.bearer();
    let headers = [
        ("authorization", bearer.as_str()),
        ("x-forwarded-for", "9.9.9.9"),
        ("content-type", "application/json"),
    ];
    let response = node
        .call(Method::POST, "/v1/events", &headers, event("1").to_string())
        .await;
    assert_eq!(response.status, StatusCode::ACCEPTED);
}

#[tokio::test(flavor = "multi_thread")]
async fn other_routes_also_return_problem_details() {
    let node = Node::start().await;
    let get = async |path: &str| node.call(Method::GET, path, &[], "").await;
    assert_eq!(
        (
            get("/nowhere").await.status.as_u16(),
            get("/nowhere").await.code().as_str()
        ),
        (404, "not_found")
    );
    let response = get("/v1/events").await;
    assert_eq!(
        (response.status.as_u16(), response.code().as_str()),
        (405, "method_not_allowed")
    );
    assert_eq!(response.headers["allow"], "POST");
    let response = node.call(Method::PUT, "/v1/keys", &[], "").await;
    assert_eq!(
        (response.status.as_u16(), response.code().as_str()),
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
    node.request(Method::POST, "/v1/events", &key, &event("1"))
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

/// Following replays count against the limits of their key and their tenant only.
#[tokio::test(flavor = "multi_thread")]
async fn following_replays_are_limited_by_key_and_tenant() {
    let node = Node::start().await;
    let address = node.address;
    let open = async |key: &str| {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let head = format!(
            "GET /v1/replay?follow=true HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut response = vec![0; 4096];
        let reading = stream.read(&mut response);
        let read = timeout(Duration::from_secs(10), reading).await;
        let text = String::from_utf8_lossy(&response[..read.unwrap().unwrap()]).into_owned();
        (stream, text)
    };
    let mut held = Vec::new();
    let mut keys = Vec::new();
    for _ in 0..3 {
        keys.push(node.key("acme", scopes(&["admin"])).await);
    }
    // First the limit of the key, then that of the tenant.
    for (key, of, status) in [
        (0, "", "200"),
        (0, "", "200"),
        (0, "key", "429"),
        (1, "", "200"),
        (1, "", "200"),
        (2, "tenant", "429"),
    ] {
        let (stream, text) = open(&keys[key]).await;
        assert!(text.starts_with(&format!("HTTP/1.1 {status}")), "{text}");
        if status == "429" {
            let text = text.to_ascii_lowercase();
            let limit = if of == "key" { 2 } else { 4 };
            for header in [
                "retry-after: 5".to_owned(),
                format!("ratelimit-policy: \"replays-of-{of}\";q={limit}"),
                format!("ratelimit: \"replays-of-{of}\";r=0;t=5"),
                format!("x-ratelimit-limit: {limit}"),
                "x-ratelimit-remaining: 0".to_owned(),
                "x-ratelimit-reset: 5".to_owned(),
                "content-type: application/problem+json".to_owned(),
                "\"code\":\"concurrency_limit_exceeded\"".to_owned(),
            ] {
                assert!(text.contains(&header), "{header}: {text}");
            }
        } else {
            held.push(stream);
        }
    }
    let others = node.key("beta", scopes(&["admin"])).await;
    let (stream, text) = open(&others).await;
    assert!(text.starts_with("HTTP/1.1 200"), "{text}");
    drop(stream);
    // A client that disconnects frees its slot.
    drop(held);
    let deadline = Instant::now() + Duration::from_secs(20);
    while !open(&keys[2]).await.1.starts_with("HTTP/1.1 200") {
        assert!(Instant::now() < deadline, "no slot was freed");
        sleep(Duration::from_millis(100)).await;
    }
}
