//! The emergency controls: changed and shown over HTTP, enforced at the port in the contract's order of checks, the same on every node.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use hyper::{Method, StatusCode};
use omnilink::{
    base::clock::{Clock, SystemClock},
    controls::{Controls, EmergencyChange, Held},
    log::Record,
    projections::{ControlledTable, ControlledTables},
    stream::progress::Progress,
};
use serde_json::{Value, json};

use crate::support::{
    LogKind, TestLog, audit_entries,
    controls::{Fixture, TestNode, tombstone},
    on_both_logs,
    port::{Mode, Node, Response, scopes},
    projections::Database,
    wait_until,
};

on_both_logs!(
    two_nodes_hold_a_change_within_a_second,
    changes_made_at_once_on_two_nodes_are_merged,
    what_cannot_be_verified_opens_nothing,
);

/// The key of the record that holds the controls.
const NAME: &str = "-/emergency/controls";

async fn patch(node: &Node, key: &str, body: &Value) -> Response {
    node.request(Method::PATCH, "/v1/controls", key, body).await
}

async fn set(node: &Node, mut body: Value) -> Value {
    body["reason"] = "a drill".into();
    let answer = patch(node, &node.admin, &body).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
    answer.json()
}

fn event(id: &str) -> Value {
    json!({ "id": id, "source": "/shop/prod", "type": "order.paid", "data": {} })
}

/// The status and code of a problem, and whether it says to come back in a minute.
fn closed(answer: &Response) -> (u16, String, bool) {
    let later = answer.headers.get("retry-after");
    let later = later.is_some_and(|seconds| seconds == "60");
    (answer.status.as_u16(), answer.code(), later)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_kill_switch_comes_after_the_length_and_before_the_key() {
    let node = Node::start().await;
    assert_eq!(node.post(&event("1")).await.status, StatusCode::ACCEPTED);
    let controls = set(&node, json!({ "kill_switch": true })).await;
    assert_eq!(controls["kill_switch"], true);

    let off = (503, "omnilink_disabled".to_owned(), true);
    let post = async |headers: &[(&str, &str)], body: &str| {
        node.call(Method::POST, "/v1/events", headers, body.to_owned())
            .await
    };
    let bearer = node.bearer();
    let json = ("content-type", "application/json");
    for headers in [
        &[][..],
        &[("authorization", "Bearer omni.wrong"), json],
        &[("authorization", bearer.as_str()), json],
    ] {
        let answer = post(headers, "{").await;
        assert_eq!(closed(&answer), off);
        assert_eq!(answer.json()["control"], "kill_switch");
    }
    let answer = post(&[json], &" ".repeat(2 << 20)).await;
    assert_eq!(answer.status, StatusCode::PAYLOAD_TOO_LARGE);

    // Reads and the controls stay open, by a key of kind `service` too.
    let keys = node.request(Method::GET, "/v1/keys", &node.admin, &Value::Null);
    assert_eq!(keys.await.status, StatusCode::OK);
    let shown = node.request(Method::GET, "/v1/controls", &node.admin, &Value::Null);
    assert_eq!(shown.await.json(), controls);

    // What cannot be read comes before all.
    node.log.set_mode(Mode::Unavailable);
    let deadline = Instant::now() + Duration::from_secs(8);
    while post(&[json], "{").await.code() != "log_unavailable" {
        assert!(Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    node.log.set_mode(Mode::Works);
    while !node.controls.readable() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    set(&node, json!({ "kill_switch": false })).await;
    assert_eq!(node.post(&event("2")).await.status, StatusCode::ACCEPTED);
}

#[tokio::test(flavor = "multi_thread")]
async fn takeover_and_safe_mode_take_events_in() {
    let node = Node::start().await;
    let controls = set(
        &node,
        json!({ "operator_takeover": true, "safe_mode": true }),
    )
    .await;
    assert_eq!(controls["operator_takeover"], true);
    assert_eq!(node.post(&event("1")).await.status, StatusCode::ACCEPTED);
}

#[tokio::test(flavor = "multi_thread")]
async fn disabled_events_come_after_the_scope_and_before_the_allowlist() {
    let node = Node::start().await;
    set(&node, json!({ "disabled": { "goals": "too many" } })).await;
    assert_eq!(node.post(&event("1")).await.status, StatusCode::ACCEPTED);
    set(
        &node,
        json!({ "disabled": { "events": "the \"log\" moves" } }),
    )
    .await;

    let off = (503, "feature_disabled".to_owned(), true);
    let answer = node.post(&event("1")).await;
    assert_eq!(closed(&answer), off);
    let problem = answer.json();
    assert_eq!(problem["feature"], "events");
    assert_eq!(problem["reason"], "the \"log\" moves");
    let answer = node.post(&json!([event("1"), event("2")])).await;
    assert_eq!(closed(&answer), off);
    for index in 0..2 {
        let result = answer.result(index);
        assert_eq!(result["status"], "error");
        assert_eq!(result["error"]["code"], "feature_disabled");
        assert_eq!(result["retry_after_seconds"], 60);
    }
    assert_eq!(closed(&node.post(&json!([])).await), off);

    let send = async |key: &str, body: &Value| {
        let answer = node.request(Method::POST, "/v1/events", key, body).await;
        (answer.status.as_u16(), answer.code())
    };
    let bad = json!({ "id": "1", "source": "", "type": "t", "data": {} });
    let code = |status: u16, code: &str| (status, code.to_owned());
    assert_eq!(send(&node.admin, &bad).await, code(400, "missing_source"));
    let nothing = node.key("acme", scopes(&["nothing"])).await;
    assert_eq!(
        send(&nothing, &event("1")).await,
        code(403, "permission_denied")
    );
    let mut elsewhere = scopes(&["events:write"]);
    elsewhere.constraints.env_allowlist = vec!["test".into()];
    let elsewhere = node.key("acme", elsewhere).await;
    assert_eq!(
        send(&elsewhere, &event("1")).await,
        code(503, "feature_disabled")
    );

    set(&node, json!({ "disabled": { "events": null } })).await;
    let answer = node.post(&json!([event("1"), event("3")])).await;
    // Nothing that was refused has used up an identity.
    assert_eq!(answer.result(0)["status"], "duplicate");
    assert_eq!(answer.result(1)["status"], "ingested");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_names_what_it_changes_and_why() {
    let node = Node::start().await;
    let show = node.request(Method::GET, "/v1/controls", &node.admin, &Value::Null);
    let show = show.await.json();
    assert_eq!(show["version"], 0);
    for switch in ["kill_switch", "operator_takeover", "safe_mode"] {
        assert_eq!(show[switch], false);
    }
    assert!(show.get("changed_by").is_none());

    let many: BTreeMap<_, _> = (0..200).map(|n| (format!("tool:{n}"), "x")).collect();
    let long = "x".repeat(513);
    for (body, code) in [
        (json!({ "kill_switch": true }), "missing_reason"),
        (
            json!({ "kill_switch": true, "reason": "" }),
            "missing_reason",
        ),
        (json!({ "reason": " " }), "invalid_payload"),
        (json!({ "reason": long }), "invalid_payload"),
        (
            json!({ "reason": "x", "killswitch": true }),
            "invalid_payload",
        ),
        (
            json!({ "reason": "x", "kill_switch": "on" }),
            "invalid_payload",
        ),
        (
            json!({ "reason": "x", "disabled": { "event": "y" } }),
            "invalid_payload",
        ),
        (
            json!({ "reason": "x", "disabled": { "tool:": "y" } }),
            "invalid_payload",
        ),
        (
            json!({ "reason": "x", "disabled": { "events": "" } }),
            "invalid_payload",
        ),
        (
            json!({ "reason": "x", "disabled": many }),
            "invalid_payload",
        ),
        (
            json!({ "reason": "x", "allowed_operations": [""] }),
            "invalid_payload",
        ),
    ] {
        let answer = patch(&node, &node.admin, &body).await;
        let given = (answer.status.as_u16(), answer.code());
        assert_eq!(given, (400, code.to_owned()), "{body}");
    }
    let admin = node.key("acme", scopes(&["admin"])).await;
    let answer = patch(
        &node,
        &admin,
        &json!({ "kill_switch": true, "reason": "x" }),
    )
    .await;
    assert_eq!(answer.code(), "permission_denied");

    let first = json!({
        "safe_mode": true, "allowed_operations": ["crm:*"],
        "disabled": { "goals": "wrong plans", "source:github": "noisy" }, "reason": "incident 7",
    });
    assert_eq!(
        patch(&node, &node.admin, &first).await.status,
        StatusCode::OK
    );
    // Times have milliseconds.
    tokio::time::sleep(Duration::from_millis(2)).await;
    let second = json!({ "disabled": { "goals": null, "planner": "slow" }, "reason": "better" });
    let now = patch(&node, &node.admin, &second).await.json();
    assert_eq!(now["version"], 2);
    assert_eq!(now["safe_mode"], true);
    assert_eq!(now["allowed_operations"], json!(["crm:*"]));
    assert_eq!(
        now["disabled"],
        json!({ "planner": "slow", "source:github": "noisy" })
    );
    assert_eq!(now["changed_by"], "tester");
    assert_eq!(now["since"]["planner"], now["changed_at"]);
    let time = |text: &Value| text.as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
    assert!(time(&now["since"]["safe_mode"]) < time(&now["changed_at"]));

    let mut entries = audit_entries(&node, "control.changed", 2).await;
    entries.sort_by_key(|entry| entry.at);
    assert_eq!(entries.len(), 2);
    let last = entries.pop().unwrap();
    assert_eq!((&*last.action, &*last.tenant), ("control.changed", "-"));
    assert_eq!(last.principal.as_deref(), Some("tester"));
    let detail: Value = serde_json::from_str(&last.detail).unwrap();
    assert_eq!(
        detail,
        json!({
            "version": 2, "reason": "better", "changes": {
                "disabled.goals": { "old": "wrong plans", "new": null },
                "disabled.planner": { "old": null, "new": "slow" },
            }
        })
    );

    // They survive a restart.
    let node = Node::start_in(node.stop().await).await;
    let again = node.request(Method::GET, "/v1/controls", &node.admin, &Value::Null);
    assert_eq!(again.await.json(), now);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_holds_controls_by_itself() {
    let node = Node::start().await;
    let held = Held::from_environment(|name| {
        ["OMNIHUB_KILL_SWITCH", "EXECUTION_SAFE_MODE"]
            .contains(&name)
            .then(|| "true".to_owned())
    });
    node.controls.hold(held.unwrap());
    let answer = node.post(&event("1")).await;
    assert_eq!(answer.code(), "omnilink_disabled");
    // The topic cannot lift them.
    let shown = set(&node, json!({ "kill_switch": false, "safe_mode": false })).await;
    assert_eq!(
        shown["held_by_environment"],
        json!(["kill_switch", "safe_mode"])
    );
    assert_eq!(
        (&shown["kill_switch"], &shown["safe_mode"]),
        (&json!(true), &json!(true))
    );
    assert_eq!(node.post(&event("1")).await.code(), "omnilink_disabled");
    node.controls.hold(Held::default());
    assert_eq!(node.post(&event("1")).await.status, StatusCode::ACCEPTED);
}

fn change(reason: &str) -> EmergencyChange {
    EmergencyChange {
        reason: reason.to_owned(),
        ..EmergencyChange::default()
    }
}

fn kill_switch(on: bool) -> EmergencyChange {
    EmergencyChange {
        kill_switch: Some(on),
        ..change("test")
    }
}

async fn apply(controls: &Controls, change: &EmergencyChange) -> u64 {
    let changed = controls.change_emergency(change, "test", SystemClock.now());
    changed.await.unwrap().after.version
}

fn two_nodes_hold_a_change_within_a_second(test_log: TestLog) {
    let fixture = Fixture::new(test_log);
    let (one, two) = (fixture.node(), fixture.node());
    for on in [true, false, true] {
        let began = Instant::now();
        let mut changed = two.controls.emergency_changed();
        fixture.runtime.block_on(async {
            apply(&one.controls, &kill_switch(on)).await;
            assert_eq!(one.controls.kill_switch(), on);
            while two.controls.kill_switch() != on {
                changed.changed().await.unwrap();
            }
        });
        let took = began.elapsed();
        assert!(took < Duration::from_secs(1), "{took:?}");
        eprintln!("both nodes hold it after {took:?}");
    }
    assert_eq!(one.controls.emergency(), two.controls.emergency());
    // A node that starts later holds the same.
    let late = fixture.node();
    assert!(late.controls.kill_switch());
    assert_eq!(late.controls.emergency().state.version, 3);
}

fn changes_made_at_once_on_two_nodes_are_merged(test_log: TestLog) {
    const EACH: usize = 5;
    let fixture = Fixture::new(test_log);
    let nodes = [fixture.node(), fixture.node()];
    let mut tasks = Vec::new();
    for (at, node) in nodes.iter().enumerate() {
        for n in 0..EACH {
            let controls = Arc::clone(&node.controls);
            tasks.push(fixture.runtime.spawn(async move {
                let feature = format!("tool:{at}-{n}");
                let disabled = BTreeMap::from([(feature, Some("test".to_owned()))]);
                let change = EmergencyChange {
                    disabled,
                    ..change("test")
                };
                apply(&controls, &change).await
            }));
        }
    }
    let versions = fixture.runtime.block_on(async {
        let mut versions = Vec::new();
        for task in tasks {
            versions.push(task.await.unwrap());
        }
        versions
    });
    let all = 2 * EACH as u64;
    let mut sorted = versions.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, (1..=all).collect::<Vec<_>>(), "{versions:?}");
    let late = fixture.node();
    for node in nodes.iter().chain([&late]) {
        let mut changed = node.controls.emergency_changed();
        let wait = async {
            while node.controls.emergency().state.version < all {
                changed.changed().await.unwrap();
            }
        };
        fixture.runtime.block_on(wait);
        assert_eq!(node.controls.emergency().state.disabled.len(), 2 * EACH);
    }
}

fn garbage() -> Record {
    Record {
        key: Some(NAME.into()),
        value: Some("not a record of the controls".into()),
        headers: Vec::new(),
    }
}

fn what_cannot_be_verified_opens_nothing(test_log: TestLog) {
    let fixture = Fixture::new(test_log);
    // A record that nobody can read may have closed something.
    fixture.append(garbage());
    let node = fixture.node();
    assert!(node.controls.kill_switch() && node.controls.emergency().unverified);
    let apply = |node: &TestNode, change: &EmergencyChange| {
        fixture.runtime.block_on(apply(&node.controls, change))
    };
    assert_eq!(apply(&node, &change("repair")), 1);
    assert!(!node.controls.kill_switch());

    assert_eq!(apply(&node, &kill_switch(false)), 2);
    let open = fixture.last(NAME);
    assert_eq!(apply(&node, &kill_switch(true)), 3);
    let closed = fixture.last(NAME);
    // An earlier record again, and one that deletes them: the ones that count are written again.
    for harmful in [open, tombstone(NAME)] {
        fixture.append(harmful);
        fixture.catch_up(&node);
        let emergency = node.controls.emergency();
        assert!(emergency.state.kill_switch && !emergency.unverified);
        let deadline = Instant::now() + Duration::from_secs(10);
        while fixture.last(NAME) != closed {
            assert!(Instant::now() < deadline);
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    fixture.append(garbage());
    fixture.catch_up(&node);
    assert!(node.controls.kill_switch() && node.controls.emergency().unverified);
    let late = fixture.node();
    assert!(late.controls.kill_switch() && late.controls.emergency().state.version == 3);
    assert_eq!(apply(&late, &kill_switch(false)), 4);
    fixture.catch_up(&node);
    assert!(!late.controls.kill_switch() && !node.controls.kill_switch());
}

#[test]
fn the_table_follows_the_controls() {
    let Some(database) = Database::new() else {
        return;
    };
    let fixture = Fixture::new(TestLog::new(LogKind::Local).unwrap());
    let node = fixture.node();
    let progress = Arc::<Progress>::default();
    let table = ControlledTable::emergency_controls(&node.controls);
    let running = [(table, Arc::clone(&progress))];
    let _tables = ControlledTables::start(database.runtime.handle(), &database.store(), running);
    let rows = || {
        database.texts(
            "SELECT concat_ws(' ', feature_name, enabled, NULLIF(value, 'null'), disabled_reason, updated_by, (updated_at IS NOT NULL)) \
             FROM omnilink.emergency_controls WHERE feature_name <> ALL ('{commands,workflows,webhooks,planner,workers}') ORDER BY 1",
        )
    };
    let shows = |expected: &[&str]| wait_until(&format!("{expected:?}"), || rows() == expected);
    let none = r#"safe_mode f {"allowed_operations": []} f"#;
    let off = [
        "events t f",
        "goals t f",
        "kill_switch f f",
        "operator_takeover f f",
        none,
    ];
    shows(&off);
    let disabled = |reason: Option<&str>| {
        let names = ["goals", "tool:pay"].map(|name| (name.to_owned(), reason.map(str::to_owned)));
        BTreeMap::from(names)
    };
    let first = EmergencyChange {
        allowed_operations: Some(vec!["read".into()]),
        disabled: disabled(Some("broken")),
        ..kill_switch(true)
    };
    fixture.runtime.block_on(apply(&node.controls, &first));
    shows(&[
        "events t f",
        "goals f broken test t",
        "kill_switch t test test t",
        "operator_takeover f f",
        r#"safe_mode f {"allowed_operations": ["read"]} test t"#,
        "tool:pay f broken test t",
    ]);
    let second = EmergencyChange {
        disabled: disabled(None),
        ..kill_switch(false)
    };
    fixture.runtime.block_on(apply(&node.controls, &second));
    shows(&[
        "events t f",
        "goals t test t",
        "kill_switch f test t",
        "operator_takeover f f",
        r#"safe_mode f {"allowed_operations": ["read"]} test t"#,
    ]);
    assert_eq!(progress.trouble(), None);
}
