//! Keys are rotated and changed: the overlap, what may be changed by whom, and changes on two nodes at the same time.

use std::time::Duration;

use hyper::{Method, StatusCode};
use omnilink::{
    base::clock::{Clock, SystemClock},
    controls::{ControlsError, KeyChange, Scopes, Token},
};
use serde_json::{Value, json};

use crate::support::{
    LogKind, TestLog,
    controls::{Fixture, is_valid, name_of},
    on_both_logs,
    port::{Node, Response, scopes},
    wait_until,
};

on_both_logs!(
    a_rotation_and_a_change_on_two_nodes_are_both_kept,
    a_revocation_beats_a_change_on_another_node,
    a_replayed_record_does_not_outlive_a_revocation,
);

async fn make(node: &Node, key: &str, permissions: &[&str]) -> (String, String) {
    let body =
        json!({ "name": "shop", "kind": "service", "scopes": { "permissions": permissions } });
    let made = node.request(Method::POST, "/v1/keys", key, &body).await;
    assert_eq!(made.status, StatusCode::CREATED, "{}", made.text);
    let made = made.json();
    let text = |field: &str| made[field].as_str().unwrap().to_owned();
    (text("id"), text("key"))
}

async fn rotate(node: &Node, key: &str, id: &str, body: &Value) -> Response {
    let path = format!("/v1/keys/{id}/rotate");
    node.request(Method::POST, &path, key, body).await
}

async fn change(node: &Node, key: &str, id: &str, body: &Value) -> Response {
    let path = format!("/v1/keys/{id}");
    node.request(Method::PATCH, &path, key, body).await
}

async fn listed(node: &Node, id: &str) -> Value {
    let list = node
        .request(
            Method::GET,
            "/v1/keys?limit=1000",
            &node.admin,
            &Value::Null,
        )
        .await
        .json();
    let items = list["items"].as_array().unwrap();
    items.iter().find(|item| item["id"] == id).unwrap().clone()
}

async fn works(node: &Node, key: &str) -> bool {
    let event = json!({ "id": "1", "source": "/s", "type": "t", "data": 1 });
    let answer = node.request(Method::POST, "/v1/events", key, &event).await;
    assert!(
        [StatusCode::ACCEPTED, StatusCode::UNAUTHORIZED].contains(&answer.status),
        "{}",
        answer.text
    );
    answer.status == StatusCode::ACCEPTED
}

#[tokio::test(flavor = "multi_thread")]
async fn both_secrets_of_a_rotated_key_work_until_the_overlap_ends() {
    let node = Node::start().await;
    let (id, old) = make(&node, &node.admin, &["events:write"]).await;
    // A day unless given.
    let rotated = rotate(&node, &node.admin, &id, &Value::Null).await;
    assert_eq!(rotated.status, StatusCode::OK, "{}", rotated.text);
    assert_eq!(rotated.headers["cache-control"], "no-store");
    let rotated = rotated.json();
    assert_eq!(rotated["id"], *id);
    let new = rotated["key"].as_str().unwrap();
    assert!(new.starts_with(&format!("omni.{}.", rotated["prefix"].as_str().unwrap())));
    assert!(works(&node, &old).await && works(&node, new).await);
    let shown = listed(&node, &id).await;
    assert_eq!(shown["prefix"], rotated["prefix"]);
    assert!(
        shown["overlap_until"].is_string() && shown["rotated_at"].is_string(),
        "{shown}"
    );

    // Also after a restart, and beside a change.
    let node = Node::start_in(node.stop().await).await;
    assert!(works(&node, &old).await && works(&node, new).await);
    assert!(
        change(&node, &node.admin, &id, &json!({ "name": "x" }))
            .await
            .status
            .is_success()
    );
    assert!(works(&node, &old).await && works(&node, new).await);

    // A second rotation ends the first secret, and its overlap ends the second.
    let rotated = rotate(&node, &node.admin, &id, &json!({ "overlap_s": 2 }))
        .await
        .json();
    let newest = rotated["key"].as_str().unwrap();
    assert!(!works(&node, &old).await && works(&node, new).await && works(&node, newest).await);
    tokio::time::sleep(Duration::from_millis(2100)).await;
    assert!(!works(&node, new).await && works(&node, newest).await);
    assert!(listed(&node, &id).await.get("overlap_until").is_none());

    // Without an overlap the secret before ends at once.
    let rotated = rotate(&node, &node.admin, &id, &json!({ "overlap_s": 0 }))
        .await
        .json();
    assert!(!works(&node, newest).await && works(&node, rotated["key"].as_str().unwrap()).await);

    // A revocation ends both.
    let last = rotate(&node, &node.admin, &id, &json!({})).await.json();
    let path = format!("/v1/keys/{id}");
    let revoked = node
        .request(Method::DELETE, &path, &node.admin, &Value::Null)
        .await;
    assert_eq!(revoked.status, StatusCode::NO_CONTENT);
    assert!(!works(&node, rotated["key"].as_str().unwrap()).await);
    assert!(!works(&node, last["key"].as_str().unwrap()).await);
    assert_eq!(
        rotate(&node, &node.admin, &id, &json!({})).await.code(),
        "not_found"
    );
    for bad in [
        json!({ "overlap_s": -1 }),
        json!({ "overlap_s": 2_592_001 }),
        json!({ "overlap": 1 }),
    ] {
        assert_eq!(
            rotate(&node, &node.admin, &id, &bad).await.code(),
            "invalid_payload",
            "{bad}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_sets_what_is_given_and_null_clears_the_expiry() {
    let node = Node::start().await;
    let (id, key) = make(&node, &node.admin, &["events:write"]).await;
    let patch = async |body: Value| change(&node, &node.admin, &id, &body).await;
    let changed = patch(json!({ "expires_at": "2100-01-01T00:00:00Z" })).await;
    assert_eq!(changed.status, StatusCode::OK, "{}", changed.text);
    let changed = changed.json();
    assert_eq!(changed["expires_at"], "2100-01-01T00:00:00Z");
    assert_eq!(
        (&changed["name"], changed.get("key")),
        (&json!("shop"), None)
    );
    let changed = patch(json!({ "name": "store", "expires_at": null }))
        .await
        .json();
    assert_eq!(
        (&changed["name"], changed.get("expires_at")),
        (&json!("store"), None)
    );
    assert!(works(&node, &key).await);
    let narrower =
        json!({ "scopes": { "permissions": ["runs:read"], "constraints": { "max_rpm": 5 } } });
    let changed = patch(narrower).await.json();
    assert_eq!(changed["scopes"]["constraints"]["max_rpm"], 5);
    let event = json!({ "id": "9", "source": "/s", "type": "t", "data": 1 });
    let answer = node.request(Method::POST, "/v1/events", &key, &event).await;
    assert_eq!(answer.status, StatusCode::FORBIDDEN);
    // Also after a restart.
    let admin = node.admin.clone();
    let node = Node::start_in(node.stop().await).await;
    let shown = listed(&node, &id).await;
    assert_eq!(
        (&shown["name"], &shown["scopes"]),
        (&json!("store"), &changed["scopes"])
    );

    for bad in [
        json!({}),
        json!({ "name": null }),
        json!({ "name": "" }),
        json!({ "scopes": null }),
        json!({ "scopes": { "permissions": [] } }),
        json!({ "expires_at": "2001-01-01T00:00:00Z" }),
        json!({ "principal": "me" }),
        json!([]),
    ] {
        assert_eq!(
            change(&node, &admin, &id, &bad).await.code(),
            "invalid_payload",
            "{bad}"
        );
    }
    let none = change(&node, &admin, "0", &json!({ "name": "x" })).await;
    assert_eq!(none.code(), "not_found");
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_rotates_or_changes_a_key_that_may_do_more() {
    let node = Node::start().await;
    let admin = node.key("acme", scopes(&["admin"])).await;
    let (own, _) = make(&node, &admin, &["events:write"]).await;
    let (wider, secret) = make(&node, &node.admin, &["*"]).await;
    let writer = node.key("acme", scopes(&["events:write"])).await;
    let stranger = node.key("beta", scopes(&["admin"])).await;
    let rename = json!({ "name": "renamed" });
    let widen = json!({ "scopes": { "permissions": ["operator"] } });
    let unlimited =
        json!({ "scopes": { "permissions": ["events:write"], "constraints": { "max_rpm": 0 } } });
    // key, id, change, status
    let cases = [
        (&admin, &own, &rename, 200),
        (&admin, &own, &widen, 403),
        (&admin, &own, &unlimited, 403),
        (&admin, &wider, &rename, 403),
        (&node.admin, &wider, &rename, 200),
        (&writer, &own, &rename, 403),
        (&stranger, &own, &rename, 404),
    ];
    for (key, id, body, status) in cases {
        let answer = change(&node, key, id, body).await;
        assert_eq!(answer.status.as_u16(), status, "{body}: {}", answer.text);
    }
    let statuses = [
        (&admin, &own, 200),
        (&admin, &wider, 403),
        (&writer, &own, 403),
        (&stranger, &own, 404),
    ];
    for (key, id, status) in statuses {
        let answer = rotate(&node, key, id, &json!({ "overlap_s": 0 })).await;
        assert_eq!(answer.status.as_u16(), status, "{}", answer.text);
    }
    assert!(works(&node, &secret).await);
    // What it may do afterwards is what counts: anybody who could revoke it may narrow it.
    let narrow = json!({ "scopes": { "permissions": ["events:write"] } });
    assert_eq!(
        change(&node, &admin, &wider, &narrow).await.status,
        StatusCode::OK
    );
    assert_eq!(
        rotate(&node, &admin, &wider, &json!({})).await.status,
        StatusCode::OK
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_list_shows_the_last_use() {
    let node = Node::start().await;
    let (id, key) = make(&node, &node.admin, &["events:write"]).await;
    assert!(listed(&node, &id).await.get("last_used_at").is_none());
    let before = SystemClock.now();
    assert!(works(&node, &key).await);
    let shown = listed(&node, &id).await;
    assert_eq!(shown["limits_enforced"], true);
    let at: jiff::Timestamp = shown["last_used_at"].as_str().unwrap().parse().unwrap();
    assert!(
        (before.0..before.0 + 5000).contains(&at.as_millisecond()),
        "{shown}"
    );
    // A change keeps it.
    change(&node, &node.admin, &id, &json!({ "name": "x" })).await;
    assert_eq!(
        listed(&node, &id).await["last_used_at"],
        shown["last_used_at"]
    );
}

/// A key of an earlier release only warns about its limits, until it is rotated or changed.
#[test]
fn a_key_of_an_earlier_release_enforces_its_limits_once_changed() {
    let fixture = Fixture::new(TestLog::new(LogKind::Local).unwrap());
    let old: Vec<_> = (0..3).map(|_| fixture.old_key()).collect();
    for (_, record, _) in &old {
        fixture.append(record.clone());
    }
    let node = fixture.node();
    let enforced = |token: &str| {
        let key = node.controls.authenticate(token, SystemClock.now());
        key.unwrap().enforces_limits
    };
    // Also after the record was written again with a version.
    wait_until("the upgrade", || fixture.body(&old[0].0)["version"] == 1);
    fixture.catch_up(&node);
    assert!(old.iter().all(|(_, _, token)| !enforced(token)));
    let id = |name: &str| name.rsplit('/').next().unwrap().to_owned();
    let by = ("test", SystemClock.now());
    let allow = |_: &_| Ok::<_, ControlsError>(());
    let token = Token::generate();
    let (first, second) = (id(&old[0].0), id(&old[1].0));
    fixture.runtime.block_on(async {
        let rename = KeyChange {
            name: Some("x".into()),
            ..KeyChange::default()
        };
        node.controls
            .change_key(&first, &rename, by, allow)
            .await
            .unwrap()
            .unwrap();
        let overlap = (&token, Duration::from_hours(1));
        node.controls
            .rotate_key(&second, overlap, by, allow)
            .await
            .unwrap()
            .unwrap();
    });
    assert!(enforced(&old[0].2) && enforced(&old[1].2) && enforced(token.reveal()));
    assert!(!enforced(&old[2].2));
    let fresh = fixture.node();
    assert!(is_valid(&fresh, &old[1].2) && is_valid(&fresh, token.reveal()));
}

fn a_rotation_and_a_change_on_two_nodes_are_both_kept(test_log: TestLog) {
    let fixture = Fixture::new(test_log);
    let (one, two) = (fixture.node(), fixture.node());
    let (key, first) = fixture.create(&one, None);
    fixture.catch_up(&two);
    let mut before = first;
    for round in 0..10 {
        let token = Token::generate();
        let name = format!("round {round}");
        let by = ("test", SystemClock.now());
        let allow = |_: &_| Ok::<_, ControlsError>(());
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let overlap = (&token, Duration::from_hours(1));
                let rotated = one.controls.rotate_key(&key.id, overlap, by, allow);
                fixture.runtime.block_on(rotated).unwrap().unwrap();
            });
            scope.spawn(|| {
                let change = KeyChange {
                    name: Some(name.clone()),
                    ..KeyChange::default()
                };
                let changed = two.controls.change_key(&key.id, &change, by, allow);
                fixture.runtime.block_on(changed).unwrap().unwrap();
            });
        });
        let fresh = fixture.node();
        fixture.catch_up(&one);
        fixture.catch_up(&two);
        for node in [&one, &two, &fresh] {
            assert!(is_valid(node, token.reveal()), "round {round}");
            assert!(is_valid(node, &before), "round {round}");
            assert_eq!(node.controls.key(&key.id).unwrap().name, name);
        }
        token.reveal().clone_into(&mut before);
    }
}

fn a_revocation_beats_a_change_on_another_node(test_log: TestLog) {
    let fixture = Fixture::new(test_log);
    let (one, two) = (fixture.node(), fixture.node());
    for round in 0..10 {
        let (key, token) = fixture.create(&one, None);
        fixture.catch_up(&two);
        let by = ("test", SystemClock.now());
        std::thread::scope(|scope| {
            scope.spawn(|| fixture.revoke(&one, &key));
            scope.spawn(|| {
                let change = KeyChange {
                    scopes: Some(Scopes::all()),
                    ..KeyChange::default()
                };
                let allow = |_: &_| Ok::<_, ControlsError>(());
                let changed = two.controls.change_key(&key.id, &change, by, allow);
                // It came first, or the key is gone.
                fixture.runtime.block_on(changed).unwrap();
            });
        });
        let fresh = fixture.node();
        fixture.catch_up(&one);
        fixture.catch_up(&two);
        for node in [&one, &two, &fresh] {
            assert!(!is_valid(node, &token), "round {round}");
        }
    }
}

/// The revocation of a key that was changed to expire earlier is kept for as long as its first record would be valid.
fn a_replayed_record_does_not_outlive_a_revocation(test_log: TestLog) {
    let fixture = Fixture::new(test_log);
    let node = fixture.node();
    let (key, token) = fixture.create(&node, None);
    let forever = fixture.last(&name_of(&key));
    let now = SystemClock.now();
    let soon = omnilink::base::clock::Millis(now.0 + 60_000);
    let change = KeyChange {
        expires_at: Some(Some(soon)),
        ..KeyChange::default()
    };
    let allow = |_: &_| Ok::<_, ControlsError>(());
    let changed = node
        .controls
        .change_key(&key.id, &change, ("test", now), allow);
    let changed = fixture.runtime.block_on(changed).unwrap().unwrap();
    assert_eq!(changed.expires_at, Some(soon));
    fixture.revoke(&node, &changed);
    assert!(fixture.body(&name_of(&key)).get("expires_at").is_none());
    fixture.append(forever);
    fixture.catch_up(&node);
    assert!(!is_valid(&node, &token) && !is_valid(&fixture.node(), &token));
}
