//! `/v1/integrations`: sources of webhooks on the topic `controls`.

use std::sync::Arc;

use hyper::{Method, StatusCode};
use omnilink::{
    base::{
        clock::{Clock, ManualClock, SystemClock},
        id::Tenant,
    },
    controls::{Credential, IntegrationDefinition},
};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    audit::entries,
    bridges::hmac_sha256,
    support::{
        TestLog,
        controls::Fixture,
        on_both_logs,
        port::{Node, Response, scopes},
        read_all, wait_until,
    },
};

on_both_logs!(two_nodes_create_the_same_name);

/// Each node learns of the other's integration only from the topic: the first on it has the name.
fn two_nodes_create_the_same_name(test_log: TestLog) {
    let fixture = Fixture::new(test_log);
    let nodes = [fixture.node(), fixture.node()];
    let tenant = Tenant::new("acme").unwrap();
    for round in 0..8 {
        let name = format!("n{round}");
        let create = |node: usize| {
            let definition = IntegrationDefinition {
                name: name.clone(),
                dialect: "ipai".into(),
                mapping: None,
                hmac: None,
                odoo: None,
            };
            let secret = vec![Credential::Secret("s".into())];
            let by = ("tester", SystemClock.now());
            nodes[node]
                .controls
                .create_integration(tenant.clone(), definition, secret, by)
        };
        let both = async { tokio::join!(create(0), create(1)) };
        let (a, b) = fixture.runtime.block_on(both);
        let made: Vec<_> = [a.unwrap(), b.unwrap()].into_iter().flatten().collect();
        assert_eq!(made.len(), 1);
        for node in &nodes {
            let named = || node.controls.integration_named("acme", &name);
            wait_until("the same holder", || {
                named().is_some_and(|holder| holder.id == made[0].id)
                    && node.controls.integrations(&tenant).len() == round + 1
            });
        }
    }
}

const ROUTE: &str = "/v1/integrations";

pub async fn create(node: &Node, key: &str, body: &Value) -> Response {
    node.request(Method::POST, ROUTE, key, body).await
}

/// Creates it with the admin key, and returns the answer.
pub async fn created(node: &Node, body: &Value) -> Value {
    let answer = create(node, &node.admin, body).await;
    assert_eq!(answer.status, StatusCode::CREATED, "{}", answer.text);
    assert_eq!(answer.headers["cache-control"], "no-store");
    answer.json()
}

async fn rotate(node: &Node, id: &Value, body: &Value) -> Response {
    let path = format!("{ROUTE}/{}/rotate", id.as_str().unwrap());
    node.request(Method::POST, &path, &node.admin, body).await
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

/// Posts a body that `ipai-body` signs with a secret.
async fn signed(node: &Node, url: &Value, secret: &str, id: &str) -> u16 {
    let body = format!(r#"{{"event_type":"a","aggregate_type":"b","aggregate_id":1,"id":"{id}"}}"#);
    let signature = format!("sha256={}", hmac_sha256(secret.as_bytes(), body.as_bytes()));
    let headers = [("x-ipai-signature", signature.as_str())];
    let answer = node.call(Method::POST, text(url), &headers, body).await;
    answer.status.as_u16()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_integration_is_created_listed_and_deleted_and_survives_a_restart() {
    let node = Node::start().await;
    let mapping = r#". = { "type": "x", "data": .body }"#;
    let body = json!({ "name": "odoo", "dialect": "ipai-body", "secrets": ["first secret"], "mapping": mapping });
    let made = created(&node, &body).await;
    assert_eq!(made["name"], "odoo");
    assert_eq!(made["url"], "/v1/webhooks/acme/odoo");
    assert!(made.get("token").is_none());
    let native =
        json!({ "name": "native", "dialect": "odoo-native", "odoo": { "booleans": ["x"] } });
    let native = created(&node, &native).await;
    let token = text(&native["token"]).to_owned();
    assert_eq!(native["url"], format!("/v1/hooks/{token}"));

    let list = async |node: &Node, query: &str| {
        let path = format!("{ROUTE}{query}");
        let answer = node.request(Method::GET, &path, &node.admin, &Value::Null);
        let answer = answer.await;
        assert!(!answer.text.contains("secret") && !answer.text.contains(&token));
        answer.json()
    };
    let page = list(&node, "?limit=1").await;
    assert_eq!(page["items"][0]["name"], "native");
    assert_eq!(page["items"][0]["url"], "/v1/hooks/{token}");
    assert_eq!(page["items"][0]["odoo"], json!({ "booleans": ["x"] }));
    let next = format!("?cursor={}", text(&page["next_cursor"]));
    let page = list(&node, &next).await;
    assert_eq!(page["items"].as_array().unwrap().len(), 1);
    let shown = &page["items"][0];
    assert_eq!(
        (&shown["id"], &shown["dialect"], &shown["credentials"]),
        (&made["id"], &json!("ipai-body"), &json!(1))
    );
    assert_eq!(shown["mapping"], mapping);

    // The topic has neither.
    let (log, topic) = (node.log.clone(), node.names.controls.to_string());
    let records = tokio::task::spawn_blocking(move || read_all(log.as_ref(), &topic, 3));
    for record in records.await.unwrap() {
        let value = record.record.value.unwrap();
        let has = |text: &[u8]| value.windows(text.len()).any(|part| part == text);
        assert!(!has(b"first secret") && !has(token.as_bytes()));
    }

    let mut node = Node::start_in(node.stop().await).await;
    assert_eq!(list(&node, "").await["items"].as_array().unwrap().len(), 2);
    assert_eq!(signed(&node, &made["url"], "first secret", "1").await, 202);
    let path = format!("{ROUTE}/{}", text(&made["id"]));
    for expected in [StatusCode::NO_CONTENT, StatusCode::NOT_FOUND] {
        let answer = node.request(Method::DELETE, &path, &node.admin, &Value::Null);
        assert_eq!(answer.await.status, expected);
    }
    assert_eq!(signed(&node, &made["url"], "first secret", "2").await, 404);
    // The name is free, and another secret lets in.
    let body = json!({ "name": "odoo", "dialect": "ipai-body", "secrets": ["second secret"] });
    created(&node, &body).await;
    assert_eq!(signed(&node, &made["url"], "second secret", "3").await, 202);
    assert_eq!(signed(&node, &made["url"], "first secret", "3").await, 401);

    node = Node::start_in(node.stop().await).await;
    assert_eq!(signed(&node, &made["url"], "second secret", "4").await, 202);
    let entries = entries(&node, 7).await;
    let of = |action: &str| entries.iter().filter(|e| e.action == action).count();
    assert_eq!(
        (of("integration.created"), of("integration.deleted")),
        (3, 1)
    );
    let entry = entries
        .iter()
        .find(|e| e.action == "integration.created")
        .unwrap();
    assert_eq!(entry.resource_type.as_deref(), Some("integration"));
    assert_eq!(entry.resource_id.as_deref(), made["id"].as_str());
    assert!(!format!("{entries:?}").contains("first secret"));
    assert!(!format!("{entries:?}").contains(&token));
}

#[tokio::test(flavor = "multi_thread")]
async fn all_that_is_wrong_is_told_at_once() {
    let node = Node::start().await;
    let told = async |body: Value| {
        let answer = create(&node, &node.admin, &body).await;
        let detail = text(&answer.json()["detail"]).to_owned();
        (answer.status.as_u16(), answer.code(), detail)
    };
    let (status, code, detail) = told(json!({
        "name": "a b", "dialect": "hmac", "secrets": [""], "mapping": ".a = nope(1)", "x": 1, "odoo": {},
        "hmac": { "header": "X-S", "algorithm": "md5", "encoding": "hex", "signed": "{x}" }
    }))
    .await;
    assert_eq!((status, &*code), (400, "invalid_payload"));
    for pointer in [
        "/name",
        "/secrets/0",
        "/mapping",
        "/x",
        "/odoo",
        "/hmac/algorithm",
        "/hmac/signed",
    ] {
        assert!(
            detail.contains(&format!("`{pointer}`: ")),
            "{pointer}: {detail}"
        );
    }
    for reference in ["env:SECRET", "file:/etc/passwd"] {
        let body = json!({ "name": "", "dialect": "ipai", "secrets": ["x", reference] });
        let (status, code, detail) = told(body).await;
        assert_eq!((status, &*code), (400, "reference_not_allowed"));
        assert!(
            detail.contains("`/name`") && detail.contains("`/secrets/1`"),
            "{detail}"
        );
        assert!(!detail.contains(reference));
    }
    assert_eq!(told(json!({})).await.1, "missing_name");
    let bearer = node.bearer();
    for (media, body, code) in [
        ("text/plain", "{}", "unsupported_media_type"),
        (
            "application/json",
            "{\"name\":\"a\",\"name\":\"b\"}",
            "invalid_payload",
        ),
        ("application/json", "\u{feff}[]", "invalid_payload"),
        ("application/json", "\u{feff}{}", "missing_name"),
    ] {
        let headers = [("authorization", &*bearer), ("content-type", media)];
        let answer = node.call(Method::POST, ROUTE, &headers, body).await;
        assert_eq!(answer.code(), code, "{body}");
    }
    let many = vec!["s"; 11];
    let body = json!({ "name": "a", "dialect": "ipai", "secrets": many });
    assert!(told(body).await.2.contains("10 at most"));
    let body = json!({ "name": "a", "dialect": "ipai", "secrets": ["s"] });
    let first = created(&node, &body).await;
    assert_eq!(told(body).await.1, "name_taken");

    let wrong = async |id: &Value, body: Value| rotate(&node, id, &body).await.code();
    assert_eq!(wrong(&first["id"], json!({})).await, "missing_secret");
    let reference = json!({ "secret": "env:X" });
    assert_eq!(
        wrong(&first["id"], reference).await,
        "reference_not_allowed"
    );
    let unknown = json!({ "secret": "x", "x": 1 });
    assert_eq!(wrong(&first["id"], unknown).await, "invalid_payload");
    let long = json!({ "secret": "x", "overlap_s": 40_000_000 });
    assert_eq!(wrong(&first["id"], long).await, "invalid_payload");
    let body = json!({ "name": "n", "dialect": "odoo-native" });
    let native = created(&node, &body).await;
    let secret = json!({ "secret": "x" });
    assert_eq!(wrong(&native["id"], secret).await, "invalid_payload");
    for n in 1..10 {
        let body = json!({ "secret": format!("s{n}") });
        assert_eq!(rotate(&node, &first["id"], &body).await.status, 200);
    }
    let eleventh = json!({ "secret": "s10" });
    assert_eq!(wrong(&first["id"], eleventh).await, "invalid_payload");
    let alone = json!({ "secret": "s10", "overlap_s": 0 });
    assert_eq!(rotate(&node, &first["id"], &alone).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_has_integrations_of_its_own() {
    let node = Node::start().await;
    let admin = node.key("acme", scopes(&["admin"])).await;
    let other = node.key("beta", scopes(&["admin"])).await;
    let operator = node.key("acme", scopes(&["operator"])).await;
    let reader = node.key("acme", scopes(&["events:write"])).await;
    let mut body = json!({ "name": "a", "dialect": "ipai-body", "secrets": ["s"] });
    assert_eq!(
        create(&node, &reader, &body).await.code(),
        "permission_denied"
    );
    let own = create(&node, &admin, &body).await.json();
    // A name is taken in its own tenant alone.
    let theirs = create(&node, &other, &body).await.json();
    assert_eq!(theirs["url"], "/v1/webhooks/beta/a");
    body["name"] = json!("b");
    body["tenant"] = json!("beta");
    assert_eq!(
        create(&node, &admin, &body).await.code(),
        "permission_denied"
    );
    let made = create(&node, &operator, &body).await.json();
    assert_eq!(made["url"], "/v1/webhooks/beta/b");

    let get = async |key: &str, query: &str| {
        let path = format!("{ROUTE}{query}");
        node.request(Method::GET, &path, key, &Value::Null).await
    };
    assert_eq!(
        get(&admin, "?tenant=beta").await.code(),
        "permission_denied"
    );
    let listed = get(&operator, "?tenant=beta").await.json();
    let names = listed["items"].as_array().unwrap().iter();
    let names: Vec<_> = names.map(|item| text(&item["name"])).collect();
    assert_eq!(names, ["b", "a"]);
    let path = format!("{ROUTE}/{}", text(&own["id"]));
    let rotate = format!("{path}/rotate");
    let answer = node
        .request(Method::DELETE, &path, &other, &Value::Null)
        .await;
    assert_eq!(answer.code(), "not_found");
    let secret = json!({ "secret": "x" });
    let answer = node.request(Method::POST, &rotate, &other, &secret).await;
    assert_eq!(answer.code(), "not_found");
    let answer = node
        .request(Method::POST, &rotate, &operator, &secret)
        .await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn old_secrets_and_tokens_are_valid_until_the_overlap_ends() {
    let clock = Arc::new(ManualClock::at(SystemClock.now()));
    let node = Node::start_at(TempDir::new().unwrap(), None, clock.clone()).await;
    let body = json!({ "name": "a", "dialect": "ipai-body", "secrets": ["first"] });
    let made = created(&node, &body).await;
    let url = &made["url"];
    let with = json!({ "secret": "second", "overlap_s": 60 });
    let answer = rotate(&node, &made["id"], &with).await;
    assert_eq!(answer.headers["cache-control"], "no-store");
    assert_eq!(answer.json(), made);
    assert_eq!(signed(&node, url, "first", "1").await, 202);
    assert_eq!(signed(&node, url, "second", "2").await, 202);
    clock.advance(60_000);
    assert_eq!(signed(&node, url, "first", "3").await, 401);
    assert_eq!(signed(&node, url, "second", "3").await, 202);
    // A day, unless told otherwise.
    rotate(&node, &made["id"], &json!({ "secret": "third" })).await;
    clock.advance(86_399_000);
    assert_eq!(signed(&node, url, "second", "4").await, 202);
    clock.advance(1_000);
    assert_eq!(signed(&node, url, "second", "5").await, 401);

    let native = created(&node, &json!({ "name": "n", "dialect": "odoo-native" })).await;
    let rotated = rotate(&node, &native["id"], &json!({ "overlap_s": 60 })).await;
    let rotated = rotated.json();
    assert_ne!(rotated["token"], native["token"]);
    let post = async |url: &Value, id: u32| {
        let body = format!(
            r#"{{"_model":"m","_id":{id},"_action":"a","write_date":"2024-05-03 10:15:02"}}"#
        );
        let answer = node.call(Method::POST, text(url), &[], body).await;
        answer.status.as_u16()
    };
    assert_eq!(post(&native["url"], 1).await, 202);
    assert_eq!(post(&rotated["url"], 2).await, 202);
    clock.advance(60_000);
    assert_eq!(post(&native["url"], 3).await, 404);
    assert_eq!(post(&rotated["url"], 3).await, 202);
}
