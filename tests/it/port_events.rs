//! `POST /v1/events`: all formats, all refusals, duplicates.

use hyper::{Method, StatusCode};
use omnilink::{base::clock::Millis, envelope::avro::decode_ingress};
use serde_json::{Value, json};

use crate::support::{
    port::{Node, scopes},
    read_all,
};

fn event(id: &str) -> Value {
    json!({ "id": id, "source": "/shop/prod", "type": "order.paid",
            "entity": { "type": "order", "external_id": "7" }, "data": { "total": 9.5 } })
}

/// Name, content type, further headers, body.
type Form<'a> = (&'a str, &'a str, &'a [(&'a str, &'a str)], String);

/// Key, content type, further headers, body, status, code.
type Case<'a> = (
    &'a str,
    &'a str,
    Vec<(&'a str, &'a str)>,
    String,
    u16,
    &'a str,
);

/// The same event as a CloudEvent.
fn cloud_event(id: &str) -> Value {
    json!({ "specversion": "1.0", "id": id, "source": "/shop/prod", "type": "order.paid",
            "entitytype": "order", "entityid": "7", "data": { "total": 9.5 } })
}

#[tokio::test(flavor = "multi_thread")]
async fn every_format_is_accepted() {
    let node = Node::start().await;
    let bearer = node.bearer();
    let forms: [Form<'_>; 6] = [
        (
            "object",
            "application/json",
            &[],
            event("object").to_string(),
        ),
        (
            "array",
            "application/json; charset=utf-8",
            &[],
            json!([event("array")]).to_string(),
        ),
        (
            "events",
            "Application/JSON",
            &[],
            json!({ "events": [event("events")] }).to_string(),
        ),
        (
            "structured",
            "application/cloudevents+json",
            &[],
            cloud_event("structured").to_string(),
        ),
        (
            "batch",
            "application/cloudevents-batch+json",
            &[],
            json!([cloud_event("batch")]).to_string(),
        ),
        (
            "binary",
            "application/json",
            &[
                ("ce-specversion", "1.0"),
                ("ce-id", "binary"),
                ("ce-source", "/shop/prod"),
                ("ce-type", "order.paid"),
                ("ce-entitytype", "order"),
                ("ce-entityid", "%37"),
            ],
            json!({ "total": 9.5 }).to_string(),
        ),
    ];
    for (name, content_type, more, body) in forms {
        let mut headers = vec![
            ("authorization", bearer.as_str()),
            ("content-type", content_type),
        ];
        headers.extend_from_slice(more);
        let response = node.call(Method::POST, "/v1/events", &headers, body).await;
        assert_eq!(
            response.status,
            StatusCode::ACCEPTED,
            "{name}: {}",
            response.text
        );
        assert_eq!(response.headers["content-type"], "application/json");
        assert_eq!(response.result(0)["status"], "ingested", "{name}");
        assert_eq!(response.result(0)["record_id"].as_str().unwrap().len(), 36);
    }
    let ingress = node.names.ingress.to_string();
    let records = tokio::task::spawn_blocking({
        let log = node.log.clone();
        move || read_all(log.as_ref(), &ingress, 6)
    })
    .await
    .unwrap();
    assert_eq!(records.len(), 6);
    // All events of an entity are in one partition, in the order of their responses.
    let mut ids = Vec::new();
    for fetched in &records {
        assert_eq!(fetched.partition, records[0].partition);
        assert_eq!(fetched.record.key.as_deref(), Some(&b"acme/order/7"[..]));
        let event = decode_ingress(fetched.record.value.as_deref().unwrap()).unwrap();
        assert_eq!(event.tenant.as_str(), "acme");
        assert_eq!(event.entity.as_ref().unwrap().external_id, "7");
        ids.push(event.id.to_string());
    }
    assert_eq!(
        ids,
        ["object", "array", "events", "structured", "batch", "binary"]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn each_refusal_has_its_status_and_code() {
    let node = Node::start().await;
    let reader = node.key("acme", scopes(&["runs:read"])).await;
    let mut constrained = scopes(&["events:write"]);
    constrained.constraints.env_allowlist = vec!["prod".into()];
    constrained.constraints.max_payload_kb = 1;
    let constrained = node.key("acme", constrained).await;
    let expired = node
        .key_until("acme", scopes(&["events:write"]), Some(Millis(1)))
        .await;
    let admin = node.admin.clone();
    let wrong = format!("{}A", &admin[..admin.len() - 1]);
    let wrong = if wrong == admin {
        format!("{}B", &admin[..admin.len() - 1])
    } else {
        wrong
    };

    let json_type = "application/json";
    let structured = "application/cloudevents+json";
    let good = event("1").to_string();
    let without = |field: &str| {
        let mut event = event("1");
        event.as_object_mut().unwrap().remove(field);
        event.to_string()
    };
    let with = |field: &str, value: Value| {
        let mut event = event("1");
        event[field] = value;
        event.to_string()
    };
    let many = Value::Array((0..51).map(|n| event(&n.to_string())).collect()).to_string();
    let deep = format!("{}1{}", "[".repeat(200), "]".repeat(200));
    let large = |n: usize| "x".repeat(n);

    let cases: Vec<Case<'_>> = vec![
        ("", json_type, vec![], good.clone(), 401, "unauthorized"),
        (
            "nonsense",
            json_type,
            vec![],
            good.clone(),
            401,
            "invalid_key",
        ),
        (&wrong, json_type, vec![], good.clone(), 401, "invalid_key"),
        (
            &expired,
            json_type,
            vec![],
            good.clone(),
            401,
            "invalid_key",
        ),
        (
            &admin,
            "text/plain",
            vec![],
            good.clone(),
            415,
            "unsupported_media_type",
        ),
        (
            &admin,
            "",
            vec![],
            good.clone(),
            415,
            "unsupported_media_type",
        ),
        (
            &admin,
            "application/cloudevents+avro",
            vec![],
            good.clone(),
            415,
            "unsupported_media_type",
        ),
        (
            &admin,
            json_type,
            vec![("content-encoding", "gzip")],
            good.clone(),
            415,
            "unsupported_content_encoding",
        ),
        // The key is checked before the media type.
        (
            "nonsense",
            "text/plain",
            vec![],
            good.clone(),
            401,
            "invalid_key",
        ),
        (
            &admin,
            json_type,
            vec![],
            String::new(),
            400,
            "invalid_payload",
        ),
        (
            &admin,
            json_type,
            vec![],
            "{".into(),
            400,
            "invalid_payload",
        ),
        (
            &admin,
            json_type,
            vec![],
            "7".into(),
            400,
            "invalid_payload",
        ),
        (
            &admin,
            json_type,
            vec![],
            format!("{good}x"),
            400,
            "invalid_payload",
        ),
        (
            &admin,
            json_type,
            vec![],
            with("data", json!("x")).replace("\"x\"", &deep),
            400,
            "invalid_payload",
        ),
        (
            &admin,
            json_type,
            vec![],
            r#"{"id":"1","id":"1","source":"/s","type":"t","data":1}"#.into(),
            400,
            "invalid_payload",
        ),
        (
            &admin,
            json_type,
            vec![],
            r#"{"id":"1","source":"/s","type":"t","data":"\ud800"}"#.into(),
            400,
            "invalid_payload",
        ),
        (&admin, json_type, vec![], without("id"), 400, "missing_id"),
        (
            &admin,
            json_type,
            vec![],
            with("id", json!("")),
            400,
            "missing_id",
        ),
        (
            &admin,
            json_type,
            vec![],
            without("source"),
            400,
            "missing_source",
        ),
        (
            &admin,
            json_type,
            vec![],
            without("type"),
            400,
            "missing_type",
        ),
        (
            &admin,
            json_type,
            vec![],
            without("data"),
            400,
            "missing_data",
        ),
        (
            &admin,
            json_type,
            vec![],
            with("id", json!(large(513))),
            400,
            "invalid_payload",
        ),
        (
            &admin,
            json_type,
            vec![],
            with("time", json!("yesterday")),
            400,
            "invalid_payload",
        ),
        (
            &admin,
            structured,
            vec![],
            r#"{"id":"1","source":"/s","type":"t"}"#.into(),
            400,
            "missing_specversion",
        ),
        (
            &admin,
            "",
            vec![("ce-id", "1")],
            String::new(),
            400,
            "missing_specversion",
        ),
        (
            &admin,
            json_type,
            vec![("idempotency-key", &*Box::leak(large(513).into_boxed_str()))],
            good.clone(),
            400,
            "invalid_idempotency_key",
        ),
        // Fields are checked before the scope, the scope before the identity.
        (&reader, json_type, vec![], without("id"), 400, "missing_id"),
        (
            &reader,
            json_type,
            vec![],
            good.clone(),
            403,
            "permission_denied",
        ),
        (
            &reader,
            json_type,
            vec![],
            "[]".into(),
            403,
            "permission_denied",
        ),
        (
            &constrained,
            json_type,
            vec![],
            with("source", json!("/shop/test")),
            403,
            "env_not_allowed",
        ),
        (
            &constrained,
            json_type,
            vec![],
            with("data", json!(large(2000))),
            413,
            "payload_too_large",
        ),
        (
            &admin,
            json_type,
            vec![],
            with("data", json!(large(300_000))),
            413,
            "payload_too_large",
        ),
        (
            &admin,
            structured,
            vec![],
            with("data", json!(large(300_000))),
            413,
            "payload_too_large",
        ),
        (
            &admin,
            json_type,
            vec![],
            with("data", json!(large(1_100_000))),
            413,
            "payload_too_large",
        ),
        (
            &admin,
            "application/cloudevents-batch+json",
            vec![],
            with("data", json!(large(1_100_000))),
            413,
            "batch_too_large",
        ),
        (
            &admin,
            json_type,
            vec![],
            many.clone(),
            413,
            "batch_too_large",
        ),
    ];
    for (key, content_type, more, body, status, code) in cases {
        let bearer = format!("Bearer {key}");
        let mut headers = more;
        if !key.is_empty() {
            headers.push(("authorization", &bearer));
        }
        if !content_type.is_empty() {
            headers.push(("content-type", content_type));
        }
        let shown: String = body.chars().take(100).collect();
        let response = node.call(Method::POST, "/v1/events", &headers, body).await;
        assert_eq!(
            (response.status.as_u16(), response.code().as_str()),
            (status, code),
            "{shown}: {}",
            response.text
        );
        assert_eq!(
            response.headers.contains_key("www-authenticate"),
            status == 401
        );
    }
    // A refused event does not use up its identity, and the allowed environment passes.
    let response = node
        .request(Method::POST, "/v1/events", &constrained, &event("1"))
        .await;
    assert_eq!(response.result(0)["status"], "ingested");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_reports_each_item() {
    let node = Node::start().await;
    node.post(&event("old")).await;
    let mut other = event("a");
    other["data"] = json!(1);
    let batch = json!([event("a"), { "id": "bad" }, event("old"), event("a"), other, event("b")]);
    let response = node.post(&batch).await;
    assert_eq!(response.status, StatusCode::ACCEPTED);
    let status = |i: usize| response.result(i)["status"].as_str().unwrap().to_owned();
    let all: Vec<String> = (0..6).map(status).collect();
    assert_eq!(
        all,
        [
            "ingested",
            "invalid",
            "duplicate",
            "duplicate",
            "error",
            "ingested"
        ]
    );
    assert_eq!(response.result(1)["error"]["code"], "missing_source");
    assert_eq!(response.result(2)["duplicate"], true);
    assert_eq!(
        response.result(3)["record_id"],
        response.result(0)["record_id"]
    );
    assert_eq!(response.result(4)["error"]["code"], "idempotency_mismatch");

    let empty = node.post(&json!([])).await;
    assert_eq!(
        (empty.status, empty.json()["results"].clone()),
        (StatusCode::ACCEPTED, json!([]))
    );

    // No item accepted: the response has the first item's code, and all results.
    let response = node.post(&json!([{ "id": "x" }, other, 5])).await;
    assert_eq!(
        (response.status, response.code().as_str()),
        (StatusCode::BAD_REQUEST, "missing_source")
    );
    assert_eq!(response.result(1)["error"]["code"], "idempotency_mismatch");
    assert_eq!(response.result(2)["error"]["code"], "invalid_payload");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_event_is_a_duplicate_even_after_a_restart() {
    let node = Node::start().await;
    let first = node.post(&event("1")).await;
    let again = r#"{"data":{"total":9.50},"entity":{"external_id":"7","type":"order"},"type":"order.paid","source":"/shop/prod","id":"1"}"#;
    let same: Value = serde_json::from_str(again).unwrap();
    let bearer = node.bearer();
    let headers = [
        ("authorization", bearer.as_str()),
        ("content-type", "application/json"),
    ];
    for body in [again, &event("1").to_string()] {
        let response = node
            .call(Method::POST, "/v1/events", &headers, body.to_owned())
            .await;
        assert_eq!(response.status, StatusCode::ACCEPTED);
        assert_eq!(response.result(0)["status"], "duplicate");
        assert_eq!(response.result(0)["duplicate"], true);
        assert_eq!(
            response.result(0)["record_id"],
            first.result(0)["record_id"]
        );
    }
    let mut other = same.clone();
    other["data"]["total"] = json!(10);
    let response = node.post(&other).await;
    assert_eq!(
        (response.status.as_u16(), response.code().as_str()),
        (422, "idempotency_mismatch")
    );

    // With another source or another tenant it is another event.
    let mut elsewhere = event("1");
    elsewhere["source"] = json!("/shop/test");
    assert_eq!(node.post(&elsewhere).await.result(0)["status"], "ingested");
    let key = node.key("beta", scopes(&["events:write"])).await;
    let response = node
        .request(Method::POST, "/v1/events", &key, &event("1"))
        .await;
    assert_eq!(response.result(0)["status"], "ingested");

    let node = Node::start_in(node.stop().await).await;
    assert_eq!(
        node.post(&event("1")).await.result(0)["status"],
        "duplicate"
    );
    assert_eq!(node.post(&other).await.status.as_u16(), 422);
    assert_eq!(node.post(&event("2")).await.result(0)["status"], "ingested");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_idempotency_key_replaces_the_source() {
    let node = Node::start().await;
    let bearer = node.bearer();
    let post = async |header: Option<(&str, &str)>, body: Value| {
        let mut headers = vec![
            ("authorization", bearer.as_str()),
            ("content-type", "application/json"),
        ];
        headers.extend(header);
        node.call(Method::POST, "/v1/events", &headers, body.to_string())
            .await
    };
    let plain = post(None, event("1")).await;
    let keyed = post(Some(("Idempotency-Key", "k")), event("1")).await;
    assert_eq!(keyed.result(0)["status"], "ingested");
    assert_ne!(keyed.result(0)["record_id"], plain.result(0)["record_id"]);
    let again = post(Some(("X-Idempotency-Key", "k")), event("1")).await;
    assert_eq!(again.result(0)["status"], "duplicate");
    // The attribute replaces an absent header, but is part of the body that is compared.
    let mut attribute = event("1");
    attribute["idempotencykey"] = json!("k");
    assert_eq!(post(None, attribute.clone()).await.status.as_u16(), 422);
    attribute["idempotencykey"] = json!("k2");
    assert_eq!(post(None, attribute).await.result(0)["status"], "ingested");
    // Within a batch, items differ by their id.
    let batch = post(
        Some(("Idempotency-Key", "b")),
        json!([event("1"), event("2")]),
    )
    .await;
    assert_eq!(batch.result(1)["status"], "ingested");
}
