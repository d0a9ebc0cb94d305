//! Authentications in the audit log.

use std::time::Duration;

use hyper::{Method, StatusCode};
use omnilink::base::clock::{Clock, Millis, SystemClock};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{
    audit_entries,
    issuer::{Issuer, SigningKey},
    port::{Node, scopes},
};

async fn get(node: &Node, key: &str, address: &str) -> StatusCode {
    let headers = [
        ("authorization", &*format!("Bearer {key}")),
        ("x-forwarded-for", address),
        ("user-agent", "agent/1"),
    ];
    node.call(Method::GET, "/v1/keys", &headers, "")
        .await
        .status
}

#[tokio::test(flavor = "multi_thread")]
async fn a_good_one_is_recorded_once_for_each_key_and_address() {
    let signing = SigningKey::ed("k");
    let issuer = Issuer::start(&[&signing]).await;
    let node = Node::start_jwt(TempDir::new().unwrap(), &[issuer.config()]).await;
    let other = node.key("beta", scopes(&["admin"])).await;
    for _ in 0..3 {
        for address in ["10.0.0.1", "10.0.0.2", "2001:db8::1", "2001:db8::2"] {
            assert_eq!(get(&node, &node.admin, address).await, StatusCode::OK);
        }
        assert_eq!(get(&node, &other, "10.0.0.1").await, StatusCode::OK);
        // On the hot path too.
        let event = json!({ "id": "1", "source": "/s", "type": "t", "data": 1 });
        node.post(&event).await;
    }
    // The /64 of an IPv6 address counts. The events came from 127.0.0.1.
    let entries = audit_entries(&node, "key.used", 5).await;
    let mut seen: Vec<_> = entries
        .iter()
        .map(|e| (e.tenant.as_str(), e.address.as_deref().unwrap()))
        .collect();
    seen.sort_unstable();
    let expected = [
        ("acme", "10.0.0.1"),
        ("acme", "10.0.0.2"),
        ("acme", "127.0.0.1"),
        ("acme", "2001:db8::1"),
        ("beta", "10.0.0.1"),
    ];
    assert_eq!(seen, expected);
    let first = &entries[0];
    assert_eq!(first.resource_type.as_deref(), Some("key"));
    assert_eq!(first.principal.as_deref(), Some("tester"));
    assert_eq!(
        (first.outcome.as_str(), first.user_agent.as_deref()),
        ("ok", Some("agent/1"))
    );

    // Tokens, by their issuer.
    for claims in [issuer.claims(), {
        let mut claims = issuer.claims();
        claims["jti"] = json!("another token of the same person");
        claims
    }] {
        assert_eq!(
            get(&node, &signing.token(&claims), "10.0.0.1").await,
            StatusCode::FORBIDDEN
        );
    }
    let entries = audit_entries(&node, "token.used", 1).await;
    assert_eq!(entries.len(), 1);
    assert_eq!(entries[0].resource_id.as_deref(), Some(issuer.url.as_str()));
    assert_eq!(entries[0].principal.as_deref(), Some("ann"));

    // What a person with a token changes names the issuer.
    let mut claims = issuer.claims();
    claims["roles"] = json!(["admin"]);
    let body =
        json!({ "name": "x", "kind": "service", "scopes": { "permissions": ["events:write"] } });
    let made = node
        .request(Method::POST, "/v1/keys", &signing.token(&claims), &body)
        .await;
    assert_eq!(made.status, StatusCode::CREATED, "{}", made.text);
    let entries = audit_entries(&node, "key.created", 1).await;
    let detail: Value = serde_json::from_str(&entries[0].detail).unwrap();
    assert_eq!(
        (&detail["issuer"], &detail["name"]),
        (&json!(issuer.url), &json!("x"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn failed_ones_are_recorded_without_the_token_thirty_a_minute_for_an_address() {
    let node = Node::start().await;
    let soon = Millis(SystemClock.now().0 + 50);
    let expired = node.key_until("acme", scopes(&["admin"]), Some(soon)).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    let unknown = omnilink::controls::Token::generate();
    assert_eq!(
        get(&node, &expired, "10.0.0.1").await,
        StatusCode::UNAUTHORIZED
    );
    assert_eq!(
        get(&node, unknown.reveal(), "10.0.0.1").await,
        StatusCode::UNAUTHORIZED
    );
    assert_eq!(
        get(&node, "a.b.secret", "10.0.0.1").await,
        StatusCode::UNAUTHORIZED
    );
    // No key at all is no attempt.
    let open = node.call(Method::GET, "/v1/keys", &[], "").await;
    assert_eq!(open.status, StatusCode::UNAUTHORIZED);
    for n in 0..60 {
        let status = get(&node, &format!("wrong {n}"), "10.0.0.2").await;
        assert_eq!(status == StatusCode::UNAUTHORIZED, n < 30);
    }
    let entries = audit_entries(&node, "authentication.failed", 33).await;
    let reasons: Vec<_> = entries
        .iter()
        .filter(|e| e.address.as_deref() == Some("10.0.0.1"))
        .map(|e| e.detail.as_str())
        .collect();
    let expected = ["expired", "unknown", "malformed"].map(|r| format!(r#"{{"reason":"{r}"}}"#));
    assert_eq!(reasons, expected);
    assert_eq!(entries.len(), 33);
    for entry in &entries {
        assert_eq!(
            (entry.tenant.as_str(), entry.outcome.as_str()),
            ("-", "denied")
        );
        assert_eq!(
            (&entry.principal, entry.user_agent.as_deref()),
            (&None, Some("agent/1"))
        );
        let text = format!("{entry:?}");
        for secret in [expired.as_str(), unknown.reveal(), "secret", "wrong"] {
            assert!(!text.contains(secret), "{text}");
        }
    }
}
