//! Requirements of standards and common clients on `POST /v1/events`, apart from the event formats.

use hyper::{HeaderMap, Method, StatusCode};
use omnilink::envelope::avro::decode_ingress;
use serde_json::{Value, json};

use crate::support::{
    port::{Node, Response},
    read_all,
};

const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

fn event(id: &str) -> Value {
    json!({ "id": id, "source": "/shop", "type": "order.paid", "data": { "total": 9.5 } })
}

async fn post(node: &Node, more: &[(&str, &str)], body: impl Into<bytes::Bytes>) -> Response {
    let bearer = node.bearer();
    let mut headers = vec![("authorization", bearer.as_str())];
    if !more.iter().any(|(name, _)| *name == "content-type") {
        headers.push(("content-type", "application/json"));
    }
    headers.extend_from_slice(more);
    node.call(Method::POST, "/v1/events", &headers, body).await
}

/// The extensions of each event on `ingress`, by id.
async fn extensions(node: &Node, count: usize) -> Value {
    let (log, ingress) = (node.log.clone(), node.names.ingress.to_string());
    let records = tokio::task::spawn_blocking(move || read_all(log.as_ref(), &ingress, count));
    let mut found = serde_json::Map::new();
    for record in records.await.unwrap() {
        let event = decode_ingress(record.record.value.as_deref().unwrap()).unwrap();
        let value = serde_json::from_str(&event.extensions).unwrap();
        found.insert(event.id.to_string(), value);
    }
    found.into()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_encoded_body_is_refused_with_the_accepted_encodings() {
    let node = Node::start().await;
    let body = event("1").to_string();
    for encodings in [&["gzip"][..], &["identity", "br"], &["identity, deflate"]] {
        let headers: Vec<_> = encodings.iter().map(|e| ("content-encoding", *e)).collect();
        let response = post(&node, &headers, body.clone()).await;
        assert_eq!(
            (response.status.as_u16(), response.code().as_str()),
            (415, "unsupported_content_encoding")
        );
        assert_eq!(response.headers["accept-encoding"], "identity");
    }
    let bearer = node.bearer();
    let headers = [
        ("authorization", bearer.as_str()),
        ("content-type", "application/json"),
        ("content-encoding", "gzip"),
    ];
    let response = node.call(Method::POST, "/v1/keys", &headers, "x").await;
    assert_eq!(
        (response.status.as_u16(), response.code().as_str()),
        (415, "unsupported_content_encoding")
    );
    assert_eq!(response.headers["accept-encoding"], "identity");
    let response = post(&node, &[("content-encoding", "Identity")], body).await;
    assert_eq!(response.status, StatusCode::ACCEPTED);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_byte_order_mark_is_accepted_in_every_format() {
    let node = Node::start().await;
    let marked = |body: &Value| format!("\u{feff}{body}");
    let mut strict = event("structured");
    strict["specversion"] = json!("1.0");
    let mut item = strict.clone();
    item["id"] = json!("batch");
    let binary = [
        ("ce-specversion", "1.0"),
        ("ce-id", "binary"),
        ("ce-source", "/shop"),
        ("ce-type", "order.paid"),
    ];
    for (more, body) in [
        (&[][..], marked(&event("object"))),
        (&[], marked(&json!([event("array")]))),
        (&[], marked(&json!({ "events": [event("events")] }))),
        (
            &[("content-type", "application/cloudevents+json")],
            marked(&strict),
        ),
        (
            &[("content-type", "application/cloudevents-batch+json")],
            marked(&json!([item])),
        ),
        (&binary, marked(&json!({ "a": 1 }))),
    ] {
        let response = post(&node, more, body.clone()).await;
        assert_eq!(
            response.result(0)["status"],
            "ingested",
            "{body}: {}",
            response.text
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_with_another_trace_or_time_is_a_duplicate() {
    let node = Node::start().await;
    let mut first = event("1");
    first["traceparent"] = json!(PARENT);
    first["time"] = json!("2025-01-31T12:00:00Z");
    let response = node.post(&first).await;
    assert_eq!(response.result(0)["status"], "ingested");
    let record_id = response.result(0)["record_id"].clone();
    let mut again = first.clone();
    again["traceparent"] = json!(PARENT.replace("b7", "c8"));
    again["tracestate"] = json!("a=1");
    again["time"] = json!("2025-01-31T12:00:07Z");
    for body in [&again, &event("1"), &json!([again])] {
        let response = node.post(body).await;
        assert_eq!(response.status, StatusCode::ACCEPTED);
        assert_eq!(response.result(0)["status"], "duplicate", "{body}");
        assert_eq!(response.result(0)["record_id"], record_id);
    }
    again["subject"] = json!("x");
    assert_eq!(node.post(&again).await.code(), "idempotency_mismatch");
    // Within one batch, and after a restart.
    let two = json!([event("2"), { "traceparent": PARENT, "id": "2", "source": "/shop", "type": "order.paid", "data": { "total": 9.5 } }]);
    assert_eq!(node.post(&two).await.result(1)["status"], "duplicate");
    let node = Node::start_in(node.stop().await).await;
    assert_eq!(
        node.post(&event("1")).await.result(0)["status"],
        "duplicate"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_trace_of_a_request_is_kept_with_its_events() {
    let node = Node::start().await;
    let trace = [
        ("traceparent", PARENT),
        ("tracestate", "a=1"),
        ("tracestate", "b=2"),
    ];
    let own = json!({ "id": "own", "source": "/s", "type": "t", "data": 1, "traceparent": "mine" });
    let response = post(
        &node,
        &trace,
        json!([event("one"), own, event("two")]).to_string(),
    )
    .await;
    assert_eq!(response.status, StatusCode::ACCEPTED);
    let binary = [
        ("ce-specversion", "1.0"),
        ("ce-id", "binary"),
        ("ce-source", "/s"),
        ("ce-type", "t"),
        ("traceparent", PARENT),
        ("tracestate", "=wrong"),
    ];
    post(&node, &binary, "1").await;
    let wrong = [("traceparent", "00-nonsense"), ("tracestate", "a=1")];
    post(&node, &wrong, event("wrong").to_string()).await;
    let both = json!({ "traceparent": PARENT, "tracestate": "a=1,b=2" });
    assert_eq!(
        extensions(&node, 5).await,
        json!({
            "one": both, "two": both, "own": { "traceparent": "mine" },
            "binary": { "datacontenttype": "application/json", "traceparent": PARENT },
            "wrong": {},
        })
    );
    // The trace belongs to the request, so the same event in another request is a duplicate.
    let again = [("traceparent", &*PARENT.replace("b7", "c8"))];
    let response = post(&node, &again, event("one").to_string()).await;
    assert_eq!(response.result(0)["status"], "duplicate");
}

#[tokio::test(flavor = "multi_thread")]
async fn values_that_postgres_cannot_store_are_refused() {
    let node = Node::start().await;
    let with = |field: &str, value: Value| {
        let mut event = event("1");
        event[field] = value;
        event
    };
    let numbers = vec!["1e131071"; 9_000].join(",");
    let huge = event("1")
        .to_string()
        .replace("9.5", &format!("[{numbers}]"));
    assert!(huge.len() < 100_000);
    for body in [
        with("id", json!("a\0")).to_string(),
        with("type", json!("\0")).to_string(),
        with("source", json!("/s\0")).to_string(),
        with("entity", json!({ "type": "a\0", "external_id": "1" })).to_string(),
        with("entity", json!({ "type": "a", "external_id": "\0" })).to_string(),
        with("entityname", json!("\0")).to_string(),
        with("time", json!("0001-01-01T00:00:00+14:00")).to_string(),
        with("time", json!("9999-12-31T23:59:60Z")).to_string(),
        huge,
    ] {
        let response = post(&node, &[], body.clone()).await;
        let shown = &body[..body.len().min(120)];
        assert_eq!(
            (response.status.as_u16(), response.code().as_str()),
            (400, "invalid_payload"),
            "{shown}"
        );
        // The valid items of the batch are accepted.
        let id = shown.len().to_string();
        let batch = format!("[{body},{}]", event(&id));
        let response = post(&node, &[], batch).await;
        assert_eq!(
            response.result(0)["error"]["code"],
            "invalid_payload",
            "{shown}"
        );
    }
    let nul = with("data", json!({ "\0": "\0" }));
    assert_eq!(node.post(&nul).await.status, StatusCode::ACCEPTED);
    let none = json!({ "specversion": "1.0", "id": "none", "source": "/s", "type": "t" });
    assert_eq!(node.post(&none).await.status, StatusCode::ACCEPTED);
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).map(|value| value.to_str().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn webhook_senders_are_validated() {
    let node = Node::start().await;
    for origin in ["app.example.com", "https://app.example.com"] {
        let asked = [
            ("webhook-request-origin", origin),
            ("webhook-request-rate", "120"),
        ];
        let response = node.call(Method::OPTIONS, "/v1/events", &asked, "").await;
        assert_eq!(response.status, StatusCode::OK);
        assert_eq!(
            header(&response.headers, "webhook-allowed-origin"),
            Some(origin)
        );
        assert_eq!(header(&response.headers, "webhook-allowed-rate"), Some("*"));
        assert_eq!(header(&response.headers, "allow"), Some("POST"));
    }
    for origin in ["other.example.com", "example.com", ""] {
        let asked = [("webhook-request-origin", origin)];
        let response = node.call(Method::OPTIONS, "/v1/events", &asked, "").await;
        assert_eq!(
            (response.status.as_u16(), response.code().as_str()),
            (403, "origin_not_allowed")
        );
        assert_eq!(header(&response.headers, "webhook-allowed-origin"), None);
    }
    let response = node.call(Method::OPTIONS, "/v1/events", &[], "").await;
    assert_eq!(response.status.as_u16(), 405);
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_allowed_origins_may_call_the_port() {
    let node = Node::start().await;
    let ours = ("origin", "https://app.example.com");
    let preflight = |origin| {
        [
            origin,
            ("access-control-request-method", "POST"),
            ("access-control-request-headers", "authorization, ce-id"),
        ]
    };
    for path in ["/v1/events", "/v1/keys"] {
        let response = node.call(Method::OPTIONS, path, &preflight(ours), "").await;
        assert_eq!(response.status, StatusCode::NO_CONTENT, "{path}");
        let headers = &response.headers;
        assert_eq!(header(headers, "access-control-allow-origin"), Some(ours.1));
        assert_eq!(
            header(headers, "access-control-allow-headers"),
            Some("authorization, ce-id")
        );
        assert!(
            header(headers, "access-control-allow-methods")
                .unwrap()
                .contains("POST")
        );
        assert_eq!(header(headers, "vary"), Some("Origin"));

        let theirs = ("origin", "https://evil.example.com");
        let response = node
            .call(Method::OPTIONS, path, &preflight(theirs), "")
            .await;
        assert_eq!(response.status.as_u16(), 405, "{path}");
        assert_eq!(
            header(&response.headers, "access-control-allow-origin"),
            None
        );
    }
    let response = post(&node, &[ours], event("1").to_string()).await;
    assert_eq!(response.status, StatusCode::ACCEPTED);
    assert_eq!(
        header(&response.headers, "access-control-allow-origin"),
        Some(ours.1)
    );
    assert!(header(&response.headers, "access-control-expose-headers").is_some());
    // Also on refusals, so that the page can read the reason.
    let response = node.call(Method::GET, "/v1/keys", &[ours], "").await;
    assert_eq!(response.status, StatusCode::UNAUTHORIZED);
    assert_eq!(
        header(&response.headers, "access-control-allow-origin"),
        Some(ours.1)
    );
    let response = post(&node, &[], event("2").to_string()).await;
    assert_eq!(
        header(&response.headers, "access-control-allow-origin"),
        None
    );
}
