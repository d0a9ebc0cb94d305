//! `Omnilink-On-Behalf-Of`: a key with `act_as` names the user for whom it acts.

use hyper::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::{
    audit_entries,
    port::{Node, Response, scopes},
};

async fn send(
    node: &Node,
    (method, path): (Method, &str),
    key: &str,
    users: &[&str],
    body: &Value,
) -> Response {
    let authorization = format!("Bearer {key}");
    let mut headers = vec![
        ("authorization", authorization.as_str()),
        ("content-type", "application/json"),
    ];
    headers.extend(users.iter().map(|user| ("omnilink-on-behalf-of", *user)));
    node.call(method, path, &headers, body.to_string()).await
}

const EVENTS: (Method, &str) = (Method::POST, "/v1/events");
const KEYS: (Method, &str) = (Method::POST, "/v1/keys");

#[tokio::test(flavor = "multi_thread")]
async fn only_a_key_with_act_as_names_a_user() {
    let node = Node::start().await;
    let event = json!({ "id": "1", "source": "/s", "type": "t", "data": 1 });
    let key = |permissions: &'static [&'static str]| node.key("acme", scopes(permissions));
    let acting = key(&["events:write", "act_as"]).await;
    let plain = key(&["events:write"]).await;
    let admin = key(&["admin"]).await;
    let operator = key(&["operator", "events:write"]).await;
    let lacking = key(&["act_as"]).await;
    for (key, status) in [
        (&acting, StatusCode::ACCEPTED),
        (&node.admin, StatusCode::ACCEPTED),
        (&plain, StatusCode::FORBIDDEN),
        (&admin, StatusCode::FORBIDDEN),
        (&operator, StatusCode::FORBIDDEN),
        (&lacking, StatusCode::FORBIDDEN),
    ] {
        let answer = send(&node, EVENTS, key, &["Zoë"], &event).await;
        assert_eq!(answer.status, status, "{}", answer.text);
        if status == StatusCode::FORBIDDEN {
            assert_eq!(answer.code(), "permission_denied");
        }
    }
    let answer = send(&node, EVENTS, &plain, &["ann"], &json!([])).await;
    assert_eq!(answer.code(), "permission_denied");
    // Fields are judged first, then the permission for the route, then `act_as`.
    let answer = send(&node, EVENTS, &plain, &["ann"], &json!({ "id": "1" })).await;
    assert_eq!(answer.code(), "missing_source");
    let answer = send(&node, EVENTS, &lacking, &["ann"], &event).await;
    assert!(answer.text.contains("events:write"), "{}", answer.text);
    let body =
        json!({ "name": "x", "kind": "service", "scopes": { "permissions": ["events:write"] } });
    let answer = send(&node, KEYS, &admin, &["ann"], &json!({})).await;
    assert_eq!(answer.code(), "missing_name");
    let answer = send(&node, KEYS, &acting, &["ann"], &body).await;
    assert!(answer.text.contains("`admin`"), "{}", answer.text);
    for key in [&admin, &operator] {
        let answer = send(&node, KEYS, key, &["ann"], &body).await;
        assert!(answer.text.contains("`act_as`"), "{}", answer.text);
    }
    let long = "x".repeat(257);
    for bad in [&[""][..], &[&long], &["a\tb"], &["ann", "ben"]] {
        for route in [EVENTS, KEYS] {
            let answer = send(&node, route, &node.admin, bad, &event).await;
            assert_eq!(answer.code(), "invalid_payload", "{bad:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_audit_log_names_the_user() {
    let node = Node::start().await;
    let body =
        json!({ "name": "x", "kind": "service", "scopes": { "permissions": ["events:write"] } });
    let made = send(&node, KEYS, &node.admin, &["Zoë %41"], &body).await;
    assert_eq!(made.status, StatusCode::CREATED, "{}", made.text);
    let entries = audit_entries(&node, "key.created", 1).await;
    assert_eq!(entries[0].principal.as_deref(), Some("tester"));
    // As it was sent.
    assert_eq!(entries[0].on_behalf_of.as_deref(), Some("Zoë %41"));
}
