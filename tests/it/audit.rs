//! The audit log: who did what.

use hyper::{Method, StatusCode};
use omnilink::audit::{ACTIONS, Entry};
use serde_json::{Value, json};

use crate::support::{port::Node, read_all};

/// The entries on `audit`, at least so many.
pub async fn entries(node: &Node, at_least: usize) -> Vec<Entry> {
    let (log, topic) = (node.log.clone(), node.names.audit.to_string());
    let records = tokio::task::spawn_blocking(move || read_all(log.as_ref(), &topic, at_least))
        .await
        .unwrap();
    let values = records.into_iter().map(|r| r.record.value.unwrap());
    values.map(|v| Entry::decode(&v).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_is_recorded_before_its_answer() {
    let node = Node::start().await;
    let body =
        json!({ "name": "shop", "kind": "service", "scopes": { "permissions": ["events:write"] } });
    let made = node
        .request(Method::POST, "/v1/keys", &node.admin, &body)
        .await;
    assert_eq!(made.status, StatusCode::CREATED, "{}", made.text);
    let made = made.json();
    let path = format!("/v1/keys/{}", made["id"].as_str().unwrap());
    let revoked = node
        .request(Method::DELETE, &path, &node.admin, &Value::Null)
        .await;
    assert_eq!(revoked.status, StatusCode::NO_CONTENT);

    let mut entries = entries(&node, 3).await;
    entries.retain(|entry| entry.resource_id.as_deref() == made["id"].as_str());
    let actions: Vec<_> = entries.iter().map(|e| &*e.action).collect();
    assert_eq!(actions, ["key.created", "key.revoked"]);
    for entry in &entries {
        assert_eq!(entry.tenant, "acme");
        assert_eq!(entry.principal.as_deref(), Some("tester"));
        assert_eq!(entry.resource_id.as_deref(), made["id"].as_str());
        assert_eq!(entry.outcome, "ok");
        assert_eq!(entry.address.as_deref(), Some("127.0.0.1"));
        let secret = made["key"].as_str().unwrap();
        assert!(!format!("{entry:?}").contains(secret));
    }
}

#[test]
fn the_page_names_every_action() {
    let page = std::fs::read_to_string("docs/audit.md").unwrap();
    let rows = page.lines().filter(|line| line.starts_with("| `"));
    let named: Vec<_> = rows
        .filter_map(|row| row.split('|').nth(1))
        .flat_map(|cell| cell.split('`').skip(1).step_by(2))
        .collect();
    for action in ACTIONS {
        assert!(named.contains(action), "docs/audit.md lacks `{action}`");
    }
}
