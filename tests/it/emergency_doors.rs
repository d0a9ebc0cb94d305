//! Which doors each emergency control closes: every feature with every route that takes something in, and the controls that close
//! routes with the whole table of routes.

use std::{collections::BTreeMap, time::Duration};

use hyper::Method;
use omnilink::{
    api::{Gate, ROUTES, Route},
    base::clock::{Clock, SystemClock},
    controls::{EmergencyChange, Held},
    workflows::check_texts,
};
use serde_json::{Value, json};

use crate::{
    api,
    bridges::hmac_sha256,
    integrations::created,
    support::port::{Mode, Node, Response, scopes},
};

const PAY: &str = "
name: pay
kind: write
worker: { http: { url: \"http://127.0.0.1:1/pay\" } }
";
const DIG: &str = "
name: dig
kind: write
worker: { claim: {} }
";
const EXPENSE: &str = "
name: expense
version: '1.0.0'
command: expense.pay
plan: { steps: [ { id: pay, tool: pay } ] }
";

/// The secret of the source that signs.
const SECRET: &str = "s";

/// A path, and the features that close it.
type Door = (String, &'static [&'static str]);

/// A node with a workflow and two sources, and its doors.
async fn node() -> (Node, Vec<Door>) {
    let node = Node::start().await;
    let tools = [("pay", PAY), ("dig", DIG)];
    let tools = tools.map(|(name, text)| (format!("{name}.yaml"), Ok(text.to_owned())));
    let checked = check_texts(tools, [("expense.yaml".into(), Ok(EXPENSE.to_owned()))]);
    let problems: Vec<_> = checked.problems.iter().map(|p| p.render(false)).collect();
    assert_eq!(problems, Vec::<String>::new());
    node.workflows.replace(checked.catalog.unwrap());
    let odoo = json!({ "name": "odoo", "dialect": "ipai", "secrets": [SECRET] });
    created(&node, &odoo).await;
    let native = json!({ "name": "native", "dialect": "odoo-native" });
    let native = created(&node, &native).await;
    let doors: [(&str, &'static [&'static str]); 11] = [
        ("/v1/events", &["events"]),
        ("/v1/commands", &["commands", "workflow:expense"]),
        ("/v1/workflows", &["workflows", "workflow:expense"]),
        ("/v1/goals", &["goals"]),
        ("/workflows/agent", &["goals"]),
        ("/api/v1/goals", &["goals"]),
        ("/v1/tasks", &["workers"]),
        ("/v1/tasks/claim", &["workers"]),
        ("/v1/webhooks/acme/odoo", &["webhooks", "source:odoo"]),
        ("/odoo-webhook", &["webhooks", "source:odoo"]),
        (
            native["url"].as_str().unwrap(),
            &["webhooks", "source:native"],
        ),
    ];
    let doors = doors.map(|(path, features)| (path.to_owned(), features));
    (node, doors.to_vec())
}

/// Sends what the door takes, each time another.
async fn knock(node: &Node, path: &str) -> Response {
    let id = uuid::Uuid::now_v7().to_string();
    let start = |more: Value| {
        let mut start = json!({ "id": id, "source": "/erp/prod", "type": "expense.pay" });
        let more = more.as_object().unwrap().clone();
        start.as_object_mut().unwrap().extend(more);
        start
    };
    let body = match path {
        "/v1/events" => start(json!({ "data": {} })),
        "/v1/commands" => start(json!({ "params": {} })),
        "/v1/workflows" => start(json!({ "workflow": { "name": "expense" }, "input": {} })),
        "/v1/goals" => start(json!({ "goal": "Pay expense 17" })),
        "/workflows/agent" => json!({
            "eventId": id, "idempotencyKey": id, "tenantId": "acme", "eventType": "omnilink:agent.goal_received",
            "payload": { "goal": "Pay expense 17" }, "timestamp": "2026-01-31T12:00:00Z", "source": "agent",
            "schemaVersion": "1.0.0"
        }),
        "/api/v1/goals" => json!({ "goal": "Pay expense 17" }),
        "/v1/tasks" => start(json!({ "type": "pay", "params": {} })),
        "/v1/tasks/claim" => json!({ "tools": ["dig"], "wait_s": 0 }),
        _ if path.starts_with("/v1/hooks/") => {
            json!({ "_model": "res.partner", "_id": 7, "_action": "Write", "name": id })
        }
        _ => {
            json!({ "event_type": "expense.submitted", "aggregate_type": "expense", "aggregate_id": id })
        }
    };
    let (body, bearer) = (body.to_string(), node.bearer());
    let time = SystemClock.now().0.to_string();
    let signature = hmac_sha256(SECRET.as_bytes(), format!("{time}.{body}").as_bytes());
    let mut headers = vec![("content-type", "application/json")];
    if path.contains("hook") {
        headers.extend([
            ("x-ipai-timestamp", &*time),
            ("x-ipai-signature", &*signature),
            ("x-idempotency-key", &*id),
        ]);
    } else {
        headers.extend([("authorization", &*bearer), ("idempotency-key", &*id)]);
    }
    node.call(Method::POST, path, &headers, body).await
}

async fn set(node: &Node, change: EmergencyChange) {
    let change = EmergencyChange {
        reason: "drill".into(),
        ..change
    };
    let changed = node
        .controls
        .change_emergency(&change, "test", SystemClock.now());
    changed.await.unwrap();
}

async fn disable(node: &Node, feature: &str, reason: Option<&str>) {
    let disabled = [(feature.to_owned(), reason.map(str::to_owned))].into();
    let change = EmergencyChange {
        disabled,
        ..EmergencyChange::default()
    };
    set(node, change).await;
}

fn is_let_in(answer: &Response) -> bool {
    answer.status.is_success()
}

/// What closes a door, as the answer says.
fn closed_by(answer: &Response) -> Option<String> {
    if answer.status != 503 {
        return None;
    }
    assert_eq!(answer.headers["retry-after"], "60", "{}", answer.text);
    let problem = answer.json();
    match &*answer.code() {
        "feature_disabled" => problem["feature"].as_str().map(str::to_owned),
        "omnilink_disabled" => problem["control"].as_str().map(str::to_owned),
        code => panic!("{code}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disabled_feature_closes_its_own_doors() {
    let (node, doors) = node().await;
    // This node has no queue of tasks.
    for (path, _) in &doors {
        let answer = knock(&node, path).await;
        match path.as_str() {
            "/v1/tasks/claim" => assert_eq!(answer.code(), "postgres_unavailable"),
            _ => assert!(is_let_in(&answer), "{path}: {}", answer.text),
        }
    }
    for feature in [
        "events",
        "webhooks",
        "source:odoo",
        "source:native",
        "commands",
        "workflows",
        "goals",
        "workflow:expense",
        "workers",
        "workflow:other",
        "source:other",
        "tool:pay",
    ] {
        disable(&node, feature, Some("it \"moves\"")).await;
        for (path, features) in &doors {
            let answer = knock(&node, path).await;
            let about = format!("{feature} {path}: {}", answer.text);
            if features.contains(&feature) {
                assert_eq!(closed_by(&answer).as_deref(), Some(feature), "{about}");
                assert_eq!(answer.json()["reason"], "it \"moves\"", "{about}");
            } else if path == "/v1/tasks/claim" {
                assert_eq!(answer.code(), "postgres_unavailable", "{about}");
            } else {
                assert!(is_let_in(&answer), "{about}");
            }
        }
        disable(&node, feature, None).await;
    }
}

/// The reasons that `GET /v1/tools` gives for held tools, by name.
async fn held_tools(node: &Node) -> BTreeMap<String, String> {
    let answer = node
        .request(Method::GET, "/v1/tools", &node.admin, &Value::Null)
        .await
        .json();
    let items = answer["items"].as_array().unwrap().iter();
    let held = items.filter_map(|tool| {
        assert!(tool["held_until"].is_null(), "{tool}");
        let (name, reason) = (tool["name"].as_str()?, tool["hold_reason"].as_str()?);
        Some((name.to_owned(), reason.to_owned()))
    });
    held.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn tools_show_the_control_that_holds_them() {
    let (node, _) = node().await;
    let outside = ["dig", "http", "pay", "record_create", "sql_query"];
    let all_by = |tools: &[&str], reason: &str| -> BTreeMap<String, String> {
        let tools = tools.iter();
        tools
            .map(|tool| ((*tool).to_owned(), reason.to_owned()))
            .collect()
    };
    assert_eq!(held_tools(&node).await, BTreeMap::new());
    disable(&node, "tool:pay", Some("broken")).await;
    let pay = all_by(&["pay"], "tool:pay");
    assert_eq!(held_tools(&node).await, pay);
    disable(&node, "workers", Some("drill")).await;
    let mut held = all_by(&outside, "workers");
    held.extend(pay);
    assert_eq!(held_tools(&node).await, held);
    for feature in ["tool:pay", "workers"] {
        disable(&node, feature, None).await;
    }
    set(
        &node,
        EmergencyChange {
            safe_mode: Some(true),
            allowed_operations: Some(vec!["dig".to_owned()]),
            ..EmergencyChange::default()
        },
    )
    .await;
    let held = held_tools(&node).await;
    assert_eq!(held["pay"], "safe_mode");
    assert!(!held.contains_key("dig") && !held.contains_key("noop"));
    // What the node holds by itself holds its calls too.
    node.controls.hold(Held {
        kill_switch: true,
        ..Held::default()
    });
    let held = held_tools(&node).await;
    assert!(held.contains_key("noop") && held.values().all(|reason| reason == "kill_switch"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_kill_switch_closes_every_door() {
    let (node, doors) = node().await;
    let kill = |on| EmergencyChange {
        kill_switch: Some(on),
        ..EmergencyChange::default()
    };
    set(&node, kill(true)).await;
    for (path, _) in &doors {
        let answer = knock(&node, path).await;
        let by = closed_by(&answer);
        assert_eq!(by.as_deref(), Some("kill_switch"), "{path}");
    }
    // Without a key, so that no route does anything.
    for route in ROUTES {
        let should = matches!(route.gate, Gate::Intake | Gate::Starts);
        check_closed(&node, route, None, (should, "omnilink_disabled")).await;
    }
    set(&node, kill(false)).await;
    assert!(is_let_in(&knock(&node, "/odoo-webhook").await));
}

/// Whether a route answers that a control with this name closes it.
async fn check_closed(node: &Node, route: &Route, key: Option<&str>, (should, by): (bool, &str)) {
    let answer = api::send(node, route, key).await;
    let closed = answer.status == 503 && answer.text.contains(by);
    assert_eq!(
        closed,
        should,
        "{} {}: {}",
        route.method.name(),
        route.path,
        answer.text
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_takeover_closes_what_starts_and_controls_runs() {
    let node = Node::start().await;
    let nothing = node.key("acme", scopes(&["nothing:at:all"])).await;
    let change = EmergencyChange {
        operator_takeover: Some(true),
        ..EmergencyChange::default()
    };
    set(&node, change).await;
    for route in ROUTES {
        let should = matches!(route.gate, Gate::Starts | Gate::Takeover);
        check_closed(&node, route, Some(&nothing), (should, "operator_takeover")).await;
    }
}

/// Also before the length of the body.
#[tokio::test(flavor = "multi_thread")]
async fn controls_that_cannot_be_read_come_before_all() {
    let (node, doors) = node().await;
    let run = "/v1/runs/7dbd6d41-6f85-5f7b-98af-6637f5372c2e";
    let approval = "/v1/approvals/7dbd6d41-6f85-5f7b-98af-6637f5372c2e.4";
    let mut paths: Vec<_> = doors.into_iter().map(|(path, _)| path).collect();
    let controls = ["cancel", "pause", "resume", "retry", "signal"];
    paths.extend(controls.map(|what| format!("{run}/{what}")));
    paths.push(approval.to_owned());
    let json = ("content-type", "application/json");
    let large = " ".repeat(2 << 20);
    let post = async |path: &str| node.call(Method::POST, path, &[json], large.clone()).await;
    // Its body is judged after the key.
    paths.retain(|path| path != "/v1/tasks/claim");
    for path in &paths {
        let answer = post(path).await;
        assert_eq!(answer.status, 413, "{path}: {}", answer.text);
    }
    node.log.set_mode(Mode::Unavailable);
    while node.controls.readable() {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    for path in &paths {
        assert_eq!(post(path).await.code(), "log_unavailable", "{path}");
    }
    node.log.set_mode(Mode::Works);
}
