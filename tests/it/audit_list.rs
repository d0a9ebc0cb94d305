//! `/v1/audit` and `/v1/rejections`, and what of requests becomes an entry.

use hyper::{Method, StatusCode};
use omnilink::{
    audit::{Entry, KEY_USED},
    controls::{KeyKind, Scopes},
};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    audit,
    support::{
        port::{Node, scopes},
        projections::Database,
    },
};

/// The entries on the topic but those of uses of keys, once there are at least so many of all kinds.
async fn entries(node: &Node, at_least: usize) -> Vec<Entry> {
    let mut entries = audit::entries(node, at_least).await;
    entries.retain(|entry| entry.action != KEY_USED);
    entries
}

async fn get(node: &Node, path: &str, key: &str) -> crate::support::port::Response {
    node.request(Method::GET, path, key, &Value::Null).await
}

/// The ids of all items over all pages, and the sizes of the pages.
async fn walk(node: &Node, path: &str) -> (Vec<String>, Vec<usize>) {
    let (mut ids, mut pages) = (Vec::new(), Vec::new());
    let mut cursor = String::new();
    loop {
        let page = get(node, &format!("{path}{cursor}"), &node.admin).await;
        assert_eq!(page.status, StatusCode::OK, "{}", page.text);
        let page = page.json();
        let items = page["items"].as_array().unwrap();
        pages.push(items.len());
        ids.extend(items.iter().map(|i| i["id"].as_str().unwrap().to_owned()));
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return (ids, pages),
        }
    }
}

fn node_on(database: &Database) -> Node {
    let store = Some(database.store());
    let dir = TempDir::new().unwrap();
    database.runtime.block_on(Node::start_on(dir, None, store))
}

#[test]
fn the_audit_log_is_read_page_by_page() {
    let Some(database) = Database::new() else {
        return;
    };
    // 25 entries of `acme`, several at the same moment, and some of others.
    database.run(
        "INSERT INTO omnilink.audit_log (tenant, at, id, principal, action, outcome, address, detail) \
         SELECT t, '2026-01-31T12:00:00.000001Z'::timestamptz + (n / 3) * interval '1 s', lpad(n::text, 4, '0'), \
           CASE WHEN n % 2 = 0 THEN 'ann' ELSE 'bob' END, CASE WHEN n % 5 = 0 THEN 'key.created' ELSE 'letter.read' END, 'ok', \
           '192.0.2.7', '{\"n\":1}' \
         FROM generate_series(1, 25) n, unnest(ARRAY['acme', 'beta', '-']) t",
    );
    let node = node_on(&database);
    database.runtime.block_on(async {
        let expected: Vec<String> = (1..=25).rev().map(|n| format!("{n:04}")).collect();
        for (limit, pages) in [
            (7, vec![7, 7, 7, 4]),
            (25, vec![25]),
            (1, vec![1; 25]),
            (24, vec![24, 1]),
        ] {
            let walked = walk(&node, &format!("/v1/audit?limit={limit}")).await;
            assert_eq!(walked, (expected.clone(), pages), "{limit}");
        }
        let items = async |query: &str| {
            let response = get(&node, &format!("/v1/audit?{query}"), &node.admin).await;
            assert_eq!(response.status, StatusCode::OK, "{}", response.text);
            response.json()["items"].as_array().unwrap().clone()
        };
        let first = &items("limit=1").await[0];
        assert_eq!(
            *first,
            json!({
                "id": "0025", "at": "2026-01-31T12:00:08.000001Z", "tenant": "acme", "principal": "bob", "action": "key.created",
                "outcome": "ok", "address": "192.0.2.7", "detail": { "n": 1 }
            })
        );
        assert_eq!(items("action=key.created").await.len(), 5);
        assert_eq!(items("action=key.*&principal=ann").await.len(), 2);
        assert_eq!(items("action=key").await.len(), 0);
        // From a moment on, and before one: 12:00:01 holds 3, 4 and 5.
        let range = "since=2026-01-31T12:00:01Z&until=2026-01-31T12:00:02Z";
        assert_eq!(items(range).await.len(), 3);
        // The first key is an operator's.
        assert_eq!(items("tenant=beta").await.len(), 25);
        assert_eq!(items("tenant=-").await[0]["tenant"], "-");

        let admin = node.key("acme", scopes(&["admin"])).await;
        let denied = get(&node, "/v1/audit?tenant=beta", &admin).await;
        assert_eq!(denied.code(), "permission_denied");
        assert_eq!(get(&node, "/v1/audit", &admin).await.status, StatusCode::OK);
        let writer = node.key("acme", scopes(&["events:write"])).await;
        assert_eq!(
            get(&node, "/v1/audit", &writer).await.code(),
            "permission_denied"
        );
        for bad in [
            "limit=0",
            "limit=1001",
            "cursor=x",
            "cursor=9223372036854775807:1",
            "since=yesterday",
            "until=1",
            "colour=red",
        ] {
            let response = get(&node, &format!("/v1/audit?{bad}"), &node.admin).await;
            assert_eq!(response.code(), "invalid_payload", "{bad}");
        }
    });
}

#[test]
fn rejections_show_the_beginning_of_the_body() {
    let Some(database) = Database::new() else {
        return;
    };
    database.run(
        "INSERT INTO omnilink.rejections (tenant, id, at, source, address, code, message, body_hash, body_head) VALUES \
         ('acme', '1', '2026-01-31T12:00:00Z', 'odoo', '192.0.2.7', 'invalid_signature', 'no', 'abc', '{}'), \
         ('acme', '2', '2026-01-31T12:00:01Z', 'shop', NULL, 'invalid_payload', NULL, NULL, '\\xff00'), \
         ('beta', '3', '2026-01-31T12:00:02Z', 'odoo', NULL, 'x', NULL, NULL, NULL)",
    );
    let node = node_on(&database);
    database.runtime.block_on(async {
        let all = get(&node, "/v1/rejections", &node.admin).await.json();
        assert_eq!(
            all,
            json!({ "items": [
                { "id": "2", "at": "2026-01-31T12:00:01Z", "source": "shop", "code": "invalid_payload", "body_head": "/wA=",
                  "body_encoding": "base64" },
                { "id": "1", "at": "2026-01-31T12:00:00Z", "source": "odoo", "address": "192.0.2.7", "code": "invalid_signature",
                  "message": "no", "body_hash": "abc", "body_head": "{}", "body_encoding": "text" }
            ] })
        );
        let one = get(&node, "/v1/rejections?source=odoo", &node.admin).await;
        assert_eq!(one.json()["items"].as_array().unwrap().len(), 1);
        let (ids, pages) = walk(&node, "/v1/rejections?limit=1").await;
        assert_eq!((ids.join(","), pages), ("2,1".into(), vec![1, 1]));

        // It shows bodies, so what people read is an entry.
        let person = node.key_of(KeyKind::Person, "acme", Scopes::all(), None);
        let person = person.await;
        for path in ["/v1/rejections", "/v1/rejections?source=odoo&tenant=beta"] {
            assert_eq!(get(&node, path, &person).await.status, StatusCode::OK);
        }
        // Two keys were used.
        let entries = entries(&node, 4).await;
        let listed: Vec<_> = entries
            .iter()
            .map(|e| (&*e.action, &*e.tenant, e.resource_id.as_deref().unwrap()))
            .collect();
        assert_eq!(listed.len(), 2, "{listed:?}");
        assert!(listed.contains(&("rejection.listed", "acme", "*")));
        assert!(listed.contains(&("rejection.listed", "beta", "odoo")));
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn without_postgres_the_lists_are_unavailable() {
    let node = Node::start().await;
    for path in ["/v1/audit", "/v1/rejections?source=odoo"] {
        let response = get(&node, path, &node.admin).await;
        assert_eq!(response.code(), "postgres_unavailable");
        assert_eq!(response.headers["retry-after"], "5");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_is_an_entry_and_a_flood_of_them_is_not() {
    let node = Node::start().await;
    let weak = node.key("acme", scopes(&["events:read"])).await;
    let event = json!({ "id": "1", "source": "/shop", "type": "t", "data": 1 });
    for _ in 0..15 {
        let denied = node
            .request(Method::POST, "/v1/keys", &weak, &json!({}))
            .await;
        // The body is judged first; it names no key.
        assert_eq!(denied.status, StatusCode::BAD_REQUEST);
        let denied = get(&node, "/v1/keys", &weak).await;
        assert_eq!(denied.code(), "permission_denied");
    }
    let other = node.key("acme", scopes(&["events:read"])).await;
    let denied = node
        .request(Method::POST, "/v1/events", &other, &event)
        .await;
    assert_eq!(denied.status, StatusCode::FORBIDDEN, "{}", denied.text);

    // Two keys were used.
    let entries = entries(&node, 13).await;
    assert_eq!(
        entries.len(),
        11,
        "ten a minute of one key, one of the other"
    );
    for entry in &entries {
        assert_eq!(entry.action, "request.denied");
        assert_eq!(entry.outcome, "denied");
        assert_eq!(entry.tenant, "acme");
        assert_eq!(entry.principal.as_deref(), Some("tester"));
    }
    let detail = |n: usize| serde_json::from_str::<Value>(&entries[n].detail).unwrap();
    assert_eq!(
        detail(0),
        json!({ "route": "GET /v1/keys", "permission": "admin", "code": "permission_denied" })
    );
    for n in [0, 10] {
        assert_eq!(entries[n].address.as_deref(), Some("127.0.0.1"));
    }
    assert_eq!(detail(10)["route"], "POST /v1/events");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_names_the_client_and_the_user_it_is_for() {
    let node = Node::start().await;
    let agent = node.key("acme", scopes(&["act_as"])).await;
    let weak = node.key("acme", scopes(&["events:write"])).await;
    let event = json!({ "id": "1", "source": "/shop", "type": "t", "data": 1 }).to_string();
    for (method, path) in [(Method::POST, "/v1/events"), (Method::GET, "/v1/keys")] {
        for key in [&agent, &weak] {
            let bearer = format!("Bearer {key}");
            let headers = [
                ("authorization", &*bearer),
                ("content-type", "application/json"),
                ("user-agent", "shop/7"),
                ("x-forwarded-for", "192.0.2.7"),
                ("omnilink-on-behalf-of", "ann"),
            ];
            let denied = node
                .call(method.clone(), path, &headers, event.clone())
                .await;
            assert_eq!(denied.code(), "permission_denied", "{path}");
        }
    }
    // Two keys were used.
    let entries = entries(&node, 6).await;
    assert_eq!(entries.len(), 4, "{entries:?}");
    for entry in &entries {
        assert_eq!(entry.address.as_deref(), Some("192.0.2.7"));
        assert_eq!(entry.user_agent.as_deref(), Some("shop/7"));
    }
    let acts: Vec<_> = entries.iter().map(|e| e.on_behalf_of.as_deref()).collect();
    assert_eq!(acts, [Some("ann"), None, Some("ann"), None]);
    let named = |n: usize| {
        let detail: Value = serde_json::from_str(&entries[n].detail).unwrap();
        detail["named_user"].clone()
    };
    assert_eq!(
        [0, 1, 2, 3].map(named),
        [Value::Null, "ann".into(), Value::Null, "ann".into()]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_by_people_and_operations_are_entries() {
    let node = Node::start().await;
    let person = node
        .key_of(KeyKind::Person, "acme", Scopes::all(), None)
        .await;
    for key in [&node.admin, &person] {
        let read = get(&node, "/v1/replay?type=order.*&type=x", key).await;
        assert_eq!(read.status, StatusCode::OK);
        let state = get(&node, "/v1/replay/state?entity=order:1&tenant=acme", key).await;
        assert_eq!(state.code(), "unknown_entity");
    }
    let topic = json!({ "names": ["own.copy"], "partitions": 1 });
    for _ in 0..2 {
        let made = node
            .request(Method::POST, "/v1/topics", &node.admin, &topic)
            .await;
        assert_eq!(made.status, StatusCode::OK, "{}", made.text);
    }
    let path = "/v1/replay/topic?topic=own.copy&tenant=acme";
    let copied = node
        .request(Method::POST, path, &node.admin, &Value::Null)
        .await;
    assert_eq!(copied.status, StatusCode::OK, "{}", copied.text);
    let redriven = node
        .request(
            Method::POST,
            "/v1/dlq/redrive",
            &node.admin,
            &json!({ "all": true }),
        )
        .await;
    assert_eq!(redriven.status, StatusCode::OK, "{}", redriven.text);

    // Two keys were used.
    let mut entries = entries(&node, 7).await;
    entries.sort_by_key(|e| e.id.clone());
    let seen: Vec<_> = entries
        .iter()
        .map(|e| (&*e.action, &*e.tenant, e.resource_id.as_deref().unwrap()))
        .collect();
    assert_eq!(
        seen,
        [
            ("event.replayed", "-", "t.events"),
            ("event.replayed", "acme", "t.events"),
            ("topic.created", "-", "own.copy"),
            ("event.copied", "acme", "own.copy"),
            ("letter.redriven", "-", "t.dlq"),
        ]
    );
    let detail: Value = serde_json::from_str(&entries[0].detail).unwrap();
    assert_eq!(detail, json!({ "type": ["order.*", "x"] }));
}
