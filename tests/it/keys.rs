//! `/v1/keys`, and keys on the topic `controls`.

use hyper::{Method, StatusCode};
use omnilink::controls::Scopes;
use serde_json::{Value, json};

use crate::support::{
    port::{Node, Response, scopes},
    read_all,
};

fn asked(permissions: &[&str]) -> Value {
    json!({ "name": "shop", "kind": "service", "scopes": { "permissions": permissions } })
}

async fn create(node: &Node, key: &str, body: &Value) -> Response {
    node.request(Method::POST, "/v1/keys", key, body).await
}

async fn list(node: &Node, key: &str, query: &str) -> Response {
    node.request(Method::GET, &format!("/v1/keys{query}"), key, &Value::Null)
        .await
}

async fn can_post(node: &Node, key: &str, id: &str) -> StatusCode {
    let event = json!({ "id": id, "source": "/s", "type": "t", "data": 1 });
    node.request(Method::POST, "/v1/events", key, &event)
        .await
        .status
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_created_used_listed_and_revoked() {
    let node = Node::start().await;
    let mut body = asked(&["events:write"]);
    body["principal"] = json!("shop@acme");
    body["expires_at"] = json!("2100-01-01T00:00:00Z");
    let response = create(&node, &node.admin, &body).await;
    assert_eq!(response.status, StatusCode::CREATED, "{}", response.text);
    assert_eq!(response.headers["cache-control"], "no-store");
    let made = response.json();
    let (id, key) = (made["id"].as_str().unwrap(), made["key"].as_str().unwrap());
    assert!(key.starts_with(&format!("omni.{}.", made["prefix"].as_str().unwrap())));
    assert_eq!(made["tenant"], "acme");
    assert_eq!(made["principal"], "shop@acme");
    assert_eq!(made["expires_at"], "2100-01-01T00:00:00Z");
    assert_eq!(made["scopes"]["constraints"]["max_rpm"], 60);
    assert_eq!(can_post(&node, key, "1").await, StatusCode::ACCEPTED);

    let listed = list(&node, &node.admin, "").await.json();
    assert_eq!(listed["items"][0]["id"], id);
    assert!(listed["items"][0].get("key").is_none());

    // The topic does not contain the key.
    let topic = node.names.controls.to_string();
    let log = node.log.clone();
    let records = tokio::task::spawn_blocking(move || read_all(log.as_ref(), &topic, 2))
        .await
        .unwrap();
    let secret = key.rsplit('.').next().unwrap().as_bytes();
    for fetched in &records {
        let value = fetched.record.value.clone().unwrap_or_default();
        assert!(!value.windows(secret.len()).any(|w| w == secret));
    }

    let revoke = async |key: &str, id: &str| {
        node.request(Method::DELETE, &format!("/v1/keys/{id}"), key, &Value::Null)
            .await
    };
    // A key of another tenant is not found.
    let stranger = node.key("beta", scopes(&["admin"])).await;
    assert_eq!(revoke(&stranger, id).await.status, StatusCode::NOT_FOUND);
    assert_eq!(revoke(&node.admin, id).await.status, StatusCode::NO_CONTENT);
    assert_eq!(can_post(&node, key, "2").await, StatusCode::UNAUTHORIZED);
    assert_eq!(revoke(&node.admin, id).await.status, StatusCode::NOT_FOUND);

    // Also after a restart.
    let (admin, key) = (node.admin.clone(), key.to_owned());
    let node = Node::start_in(node.stop().await).await;
    assert_eq!(can_post(&node, &key, "2").await, StatusCode::UNAUTHORIZED);
    assert_eq!(can_post(&node, &admin, "2").await, StatusCode::ACCEPTED);
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_created_with_permission_and_never_wider() {
    let node = Node::start().await;
    let mut bound = scopes(&["admin", "events:*"]);
    bound.constraints.env_allowlist = vec!["prod".into()];
    let bound = node.key("acme", bound).await;
    let writer = node.key("acme", scopes(&["events:write"])).await;
    let with = |change: fn(&mut Value)| {
        let mut body = asked(&["events:write"]);
        body["scopes"]["constraints"] = json!({ "env_allowlist": ["prod"] });
        change(&mut body);
        body
    };
    let admin = node.admin.clone();
    // key, body, status, code
    let cases: Vec<(&str, Value, u16, &str)> = vec![
        ("", with(|_| {}), 401, "unauthorized"),
        (&writer, with(|_| {}), 403, "permission_denied"),
        (
            &bound,
            with(|b| b["scopes"]["permissions"] = json!(["*"])),
            403,
            "permission_denied",
        ),
        (
            &bound,
            with(|b| b["scopes"]["constraints"] = json!({})),
            403,
            "permission_denied",
        ),
        (
            &bound,
            with(|b| b["scopes"]["constraints"]["max_rpm"] = json!(0)),
            403,
            "permission_denied",
        ),
        (
            &bound,
            with(|b| b["tenant"] = json!("beta")),
            403,
            "permission_denied",
        ),
        (
            &admin,
            with(|b| b["tenant"] = json!("no such/name")),
            400,
            "invalid_payload",
        ),
        (&admin, with(|b| b["name"] = json!("")), 400, "missing_name"),
        (
            &admin,
            with(|b| drop(b.as_object_mut().unwrap().remove("kind"))),
            400,
            "missing_kind",
        ),
        (
            &admin,
            with(|b| drop(b.as_object_mut().unwrap().remove("scopes"))),
            400,
            "missing_scopes",
        ),
        (
            &admin,
            with(|b| b["kind"] = json!("robot")),
            400,
            "invalid_payload",
        ),
        (
            &admin,
            with(|b| b["scopes"]["permissions"] = json!([])),
            400,
            "invalid_payload",
        ),
        (
            &admin,
            with(|b| b["scopes"]["permissions"] = json!(["a*b"])),
            400,
            "invalid_payload",
        ),
        (
            &admin,
            with(|b| b["scopes"]["constraints"]["max_rmp"] = json!(1)),
            400,
            "invalid_payload",
        ),
        (
            &admin,
            with(|b| b["colour"] = json!("red")),
            400,
            "invalid_payload",
        ),
        (
            &admin,
            with(|b| b["expires_at"] = json!("2001-01-01T00:00:00Z")),
            400,
            "invalid_payload",
        ),
        (
            &admin,
            with(|b| b["name"] = json!("x".repeat(70_000))),
            413,
            "payload_too_large",
        ),
    ];
    for (key, body, status, code) in cases {
        let response = if key.is_empty() {
            node.call(Method::POST, "/v1/keys", &[], body.to_string())
                .await
        } else {
            create(&node, key, &body).await
        };
        assert_eq!(
            (response.status.as_u16(), response.code().as_str()),
            (status, code),
            "{}",
            response.text
        );
    }
    assert_eq!(
        create(&node, &bound, &with(|_| {})).await.status,
        StatusCode::CREATED
    );
    let other = create(&node, &admin, &with(|b| b["tenant"] = json!("beta")))
        .await
        .json();
    assert_eq!(other["tenant"], "beta");
    assert_eq!(
        list(&node, &bound, "?tenant=beta").await.status,
        StatusCode::FORBIDDEN
    );
    assert_eq!(
        list(&node, &admin, "?tenant=beta").await.json()["items"][0]["id"],
        other["id"]
    );
    assert_eq!(list(&node, &writer, "").await.status, StatusCode::FORBIDDEN);
    assert_eq!(
        list(&node, &admin, "?limit=0").await.code(),
        "invalid_payload"
    );
    assert_eq!(
        list(&node, &admin, "?colour=red").await.code(),
        "invalid_payload"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_come_in_pages_newest_first() {
    let node = Node::start().await;
    let mut made = vec![];
    for _ in 0..5 {
        let response = create(&node, &node.admin, &asked(&["events:write"]))
            .await
            .json();
        made.insert(0, response["id"].clone());
    }
    let mut seen = Vec::new();
    let mut query = "?limit=2".to_owned();
    loop {
        let page = list(&node, &node.admin, &query).await.json();
        let items = page["items"].as_array().unwrap();
        assert!(items.len() <= 2);
        seen.extend(items.iter().map(|i| i["id"].clone()));
        match page["next_cursor"].as_str() {
            Some(cursor) => query = format!("?limit=2&cursor={cursor}"),
            None => break,
        }
    }
    // The oldest is the admin key of the node.
    assert_eq!(seen.len(), 6);
    assert_eq!(seen[..5], made[..]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_forged_on_the_topic_is_invalid() {
    use omnilink::log::{Append, Log};
    let node = Node::start().await;
    let weak = node.key("acme", scopes(&["runs:read"])).await;
    let topic = node.names.controls.clone();
    let log = node.log.clone();
    let name = topic.to_string();
    let records = tokio::task::spawn_blocking(move || read_all(log.as_ref(), &name, 2))
        .await
        .unwrap();
    let record = &records.last().unwrap().record;
    // Someone who can write to the topic widens a key's scopes …
    let value = record.value.clone().unwrap();
    let text = b"runs:read";
    let at = value.windows(text.len()).position(|w| w == text).unwrap();
    let mut forged = value.to_vec();
    forged[at..at + text.len()].copy_from_slice(b"admin:foo");
    let mut wider = record.clone();
    wider.value = Some(forged.into());
    let append = Append {
        topic: topic.clone(),
        record: wider,
    };
    let position = node.log.append(vec![append], None).await.unwrap().unwrap();
    assert_eq!(position.len(), 1);
    // … which invalidates the key, because its seal does not match.
    for _ in 0..100 {
        if list(&node, &weak, "").await.status == StatusCode::UNAUTHORIZED {
            assert!(Scopes::all().permits("admin:foo"));
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    panic!("the forged key still works");
}

/// On Kafka the first key is created directly in the log, for a given tenant, and only once.
#[test]
fn the_first_key_on_kafka_has_the_given_holder() {
    use crate::{
        support::command::{Folder, Up, omnilink, output},
        support::{LogKind, TestLog, env_or_skip},
    };
    let Some(test_log) = TestLog::new(LogKind::Kafka) else {
        return;
    };
    let dir = Folder::new();
    let dir = dir.path();
    std::fs::write(
        dir.join("omnilink.yaml"),
        format!(
            "kafka: {{ brokers: ['{}'] }}\ntopics: {{ prefix: {}, partitions: 1 }}\nsecret_key: [{}]\n",
            env_or_skip("OMNILINK_TEST_KAFKA").unwrap(),
            test_log.prefix,
            "7hSFfRqJm1xlPwRhUsdV6ZbZ8P6X5s1yJwFqYbH7xCA=",
        ),
    )
    .unwrap();
    let first = |more: &[&str]| {
        let mut command = omnilink(dir, &["keys", "create", "--first", "--data-dir", "data"]);
        output(command.args(more))
    };
    for bad in [
        ["--tenant", "no/name"],
        ["--name", ""],
        ["--principal", "a\nb"],
    ] {
        let (code, _, error) = first(&bad);
        assert_eq!(code, 1, "{error}");
        assert!(error.contains(bad[0]), "{error}");
    }
    let (code, _, _) = first(&["--permission", "*"]);
    assert_eq!(code, 2);
    let who = [
        "--tenant",
        "acme",
        "--name",
        "ops",
        "--principal",
        "ann@acme",
    ];
    let (code, out, error) = first(&[&who[..], &["--json"]].concat());
    assert_eq!(code, 0, "{error}");
    let made: Value = serde_json::from_str(&out).unwrap();
    let fields = ["tenant", "name", "principal", "kind"].map(|f| made[f].as_str().unwrap());
    assert_eq!(fields, ["acme", "ops", "ann@acme", "person"]);
    assert_eq!(made["scopes"]["permissions"], json!(["*"]));
    let kept = std::fs::read_to_string(dir.join("data/admin.key")).unwrap();
    assert_eq!(made["key"], kept.trim());

    // Only if there is no key; a refusal does not change the key's file.
    let (code, _, error) = first(&who);
    assert_eq!(code, 1);
    assert!(error.contains("there are keys already"), "{error}");
    assert_eq!(
        std::fs::read_to_string(dir.join("data/admin.key")).unwrap(),
        kept
    );
    let up = Up::start_with(dir, &["--without", "projections"]);
    let mut list = omnilink(dir, &["keys", "list", "--json", "--data-dir", "data"]);
    let (code, out, error) = output(list.env("OMNILINK_URL", &up.url));
    assert_eq!(code, 0, "{error}");
    let listed: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(listed["items"].as_array().unwrap().len(), 1);
    assert_eq!(listed["items"][0]["principal"], "ann@acme");
    assert_eq!(up.stop(), 0);
}
