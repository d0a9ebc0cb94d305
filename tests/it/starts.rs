//! `POST /v1/commands`, `/v1/workflows`, `/v1/goals`, `/v1/tasks`: all checks, and the start record on `commands`.

use hyper::{Method, StatusCode};
use omnilink::{
    audit::Entry,
    commands::{
        Command,
        start::{Start, run_id},
    },
    controls::{AllowedWorkflow, Scopes},
    workflows::check_texts,
};
use serde_json::{Value, json};

use crate::support::{
    audit_entries,
    port::{Node, Response, scopes},
    read_all,
};

const PAY: &str = r#"
name: pay
worker: { http: { url: "http://127.0.0.1:1/pay", secret: "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIz" } }
kind: payment
input_schema: { type: object, required: [amount], properties: { amount: { type: number } } }
"#;

fn expense(version: &str) -> String {
    format!(
        r#"
name: expense
version: "{version}"
command: expense.pay
params: {{ type: object, required: [amount], properties: {{ amount: {{ type: number, maximum: 100 }} }} }}
plan: {{ steps: [ {{ id: pay, tool: pay, input: {{ amount: "{{{{ params.amount }}}}" }} }} ] }}
"#
    )
}

async fn node() -> Node {
    let node = Node::start().await;
    let versions = ["1.0.0", "1.1.0", "2.0.0-rc.1"];
    let files = versions.map(|version| (format!("{version}.yaml"), Ok(expense(version))));
    let checked = check_texts([("pay.yaml".to_owned(), Ok(PAY.to_owned()))], files);
    let problems: Vec<_> = checked.problems.iter().map(|p| p.render(false)).collect();
    assert_eq!(problems, Vec::<String>::new());
    node.workflows.replace(checked.catalog.unwrap());
    node
}

fn good(route: &str) -> Value {
    let mut start = json!({ "id": "1", "source": "/erp/prod", "type": "expense.pay" });
    let more = match route {
        "/v1/commands" => json!({ "params": { "amount": 5 } }),
        "/v1/workflows" => json!({ "workflow": { "name": "expense" }, "input": { "amount": 5 } }),
        "/v1/goals" => json!({ "goal": "Pay expense 17", "context": { "a": 1 } }),
        _ => json!({ "type": "pay", "params": { "amount": "{{ 1 }}" } }),
    };
    for (name, value) in more.as_object().unwrap() {
        start[name] = value.clone();
    }
    if route == "/v1/tasks" {
        start["params"]["amount"] = 5.into();
    }
    start
}

pub async fn send(
    node: &Node,
    route: &str,
    key: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Response {
    let bearer = format!("Bearer {key}");
    let mut all = vec![("authorization", bearer.as_str())];
    if !headers.iter().any(|(name, _)| *name == "content-type") {
        all.push(("content-type", "application/json"));
    }
    all.extend(headers);
    node.call(Method::POST, route, &all, body.to_owned()).await
}

/// With an idempotency key of its own.
async fn post(node: &Node, route: &str, body: &Value) -> Response {
    let key = uuid::Uuid::now_v7().to_string();
    post_as(node, route, &key, body).await
}

async fn post_as(node: &Node, route: &str, key: &str, body: &Value) -> Response {
    let headers = [("idempotency-key", key)];
    send(node, route, &node.admin, &headers, &body.to_string()).await
}

/// `accepted`, or the code of the problem.
fn outcome(answer: &Response) -> String {
    if answer.status == StatusCode::ACCEPTED {
        "accepted".into()
    } else {
        answer.code()
    }
}

pub async fn entries(node: &Node, at_least: usize) -> Vec<Entry> {
    audit_entries(node, "start", at_least).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_good_start_is_appended_once() {
    let node = node().await;
    let routes = ["/v1/commands", "/v1/workflows", "/v1/goals", "/v1/tasks"];
    for (number, route) in routes.into_iter().enumerate() {
        let key = format!("k{number}");
        let id = run_id(&["run", "acme", &key]).to_string();
        for duplicate in [false, true] {
            let answer = post_as(&node, route, &key, &good(route)).await;
            assert_eq!(answer.status, StatusCode::ACCEPTED, "{}", answer.text);
            let result = answer.result(0);
            assert_eq!(result["run_id"], id);
            assert_eq!(result["poll_url"], format!("/v1/runs/{id}"));
            assert_eq!(answer.headers["location"], format!("/v1/runs/{id}"));
            let status = if duplicate { "duplicate" } else { "queued" };
            assert_eq!(result["status"], status);
            assert_eq!(result["duplicate"] == true, duplicate);
        }
        let mut other = good(route);
        match route {
            "/v1/goals" => other["goal"] = "Pay expense 18".into(),
            "/v1/workflows" => other["input"]["amount"] = 9.into(),
            _ => other["params"]["amount"] = 9.into(),
        }
        let answer = post_as(&node, route, &key, &other).await;
        assert_eq!(
            (answer.status.as_u16(), &*answer.code()),
            (422, "idempotency_mismatch"),
            "{}",
            answer.text
        );
    }
    let (log, topic) = (node.log.clone(), node.names.commands.to_string());
    let records = tokio::task::spawn_blocking(move || read_all(log.as_ref(), &topic, 4));
    let records = records.await.unwrap();
    assert_eq!(records.len(), 4);
    for fetched in &records {
        let command = Command::decode(fetched.record.value.as_deref().unwrap()).unwrap();
        assert!(Start::decode(&command).is_some());
        assert_eq!(
            fetched.record.key.as_deref(),
            Some(command.run_id.as_bytes())
        );
    }

    let entries = entries(&node, 12).await;
    assert_eq!(entries.len(), 12);
    for (number, entry) in entries.iter().enumerate() {
        let (route, key) = (routes[number / 3], format!("k{}", number / 3));
        let status = ["accepted", "duplicate", "refused"][number % 3];
        assert_eq!(entry.action, "start");
        assert_eq!(entry.outcome, if number % 3 == 2 { "failed" } else { "ok" });
        assert_eq!(entry.principal.as_deref(), Some("tester"));
        let detail: Value = serde_json::from_str(&entry.detail).unwrap();
        assert_eq!(detail["request_id"].as_str().unwrap().len(), 32);
        assert_eq!(detail["kind"], route[4..route.len() - 1]);
        assert_eq!(detail["source"], "/erp/prod");
        assert_eq!(detail["status"], status);
        if status == "refused" {
            assert_eq!(detail["code"], "idempotency_mismatch");
        } else {
            let id = run_id(&["run", "acme", &key]).to_string();
            assert_eq!(entry.resource_id.as_deref(), Some(&*id));
            assert_eq!(detail["run_id"], id);
        }
    }
}

/// A request that is wrong in everything is mended step by step: each check speaks before those after it.
#[tokio::test(flavor = "multi_thread")]
async fn checks_come_in_the_order_of_the_contract() {
    let node = node().await;
    let mut held = scopes(&["other"]);
    held.constraints.env_allowlist = vec!["prod".into()];
    held.constraints.allowed_adapters = vec!["odoo".into()];
    held.constraints.max_payload_kb = 1;
    let mut allowed = AllowedWorkflow {
        name: "expense".into(),
        version: Some("1.0.0".into()),
    };
    held.constraints.allowed_workflows = vec![allowed.clone()];
    let mut key = node.key("acme", held.clone()).await;
    let mut body = json!({ "id": "1", "source": "/erp/test", "type": "expense.none", "on_behalf_of": "ann",
        "target": { "system": "sap" }, "x": "y".repeat(2000) });

    let headers = [("content-type", "text/plain")];
    let told = |answer: Response| (answer.status.as_u16(), outcome(&answer));
    let route = "/v1/commands";
    let large = format!("[{}]", "1,".repeat(600_000));
    let answer = send(&node, route, "omni.wrong", &headers, &large).await;
    assert_eq!(told(answer), (413, "payload_too_large".into()));
    let answer = send(&node, route, "omni.wrong", &headers, &body.to_string()).await;
    assert_eq!(told(answer), (401, "invalid_key".into()));
    let answer = send(&node, route, &key, &headers, &body.to_string()).await;
    assert_eq!(told(answer), (415, "unsupported_media_type".into()));
    let answer = send(&node, route, &key, &[], &body.to_string()).await;
    assert_eq!(told(answer), (413, "payload_too_large".into()));
    body["x"] = Value::Null;
    let answer = send(&node, route, &key, &[], &body.to_string()).await;
    assert_eq!(told(answer), (400, "missing_params".into()));
    body["params"] = json!({ "amount": "much" });
    let answer = send(&node, route, &key, &[], &body.to_string()).await;
    assert_eq!(told(answer), (400, "missing_idempotency_key".into()));
    body["idempotencykey"] = "k".repeat(513).into();
    let answer = send(&node, route, &key, &[], &body.to_string()).await;
    assert_eq!(told(answer), (400, "invalid_idempotency_key".into()));
    body.as_object_mut().unwrap().remove("idempotencykey");
    let headers = [("x-idempotency-key", "k")];
    for lacking in ["orchestrations:request", "commands:expense.none", "act_as"] {
        let answer = send(&node, route, &key, &headers, &body.to_string()).await;
        assert!(
            answer.text.contains(&format!("`{lacking}`")),
            "{}",
            answer.text
        );
        assert_eq!(told(answer), (403, "permission_denied".into()));
        held.permissions.push(lacking.replace("expense.none", "*"));
        key = node.key("acme", held.clone()).await;
    }
    let answer = send(&node, route, &key, &headers, &body.to_string()).await;
    assert_eq!(told(answer), (403, "env_not_allowed".into()));
    body["source"] = "/erp/prod".into();
    let answer = send(&node, route, &key, &headers, &body.to_string()).await;
    assert_eq!(told(answer), (403, "adapter_not_allowed".into()));
    body["target"]["system"] = "odoo".into();
    let answer = send(&node, route, &key, &headers, &body.to_string()).await;
    assert_eq!(told(answer), (404, "unknown_workflow".into()));
    body["type"] = "expense.pay".into();
    let answer = send(&node, route, &key, &headers, &body.to_string()).await;
    assert_eq!(
        told(answer),
        (403, "workflow_not_allowed".into()),
        "1.1.0 would run"
    );
    allowed.version = None;
    held.constraints.allowed_workflows = vec![allowed];
    key = node.key("acme", held).await;
    let answer = send(&node, route, &key, &headers, &body.to_string()).await;
    assert!(
        answer.text.contains("`/params/amount`: "),
        "{}",
        answer.text
    );
    assert_eq!(told(answer), (400, "invalid_payload".into()));
    body["params"]["amount"] = 7.into();
    let answer = send(&node, route, &key, &headers, &body.to_string()).await;
    assert_eq!(told(answer), (202, "accepted".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn fields_are_checked_one_by_one() {
    let node = node().await;
    let far = "2999-01-01T00:00:00Z";
    let cases = [
        ("/v1/commands", json!({ "id": null }), "missing_id"),
        ("/v1/commands", json!({ "source": "" }), "missing_source"),
        ("/v1/commands", json!({ "type": null }), "missing_type"),
        (
            "/v1/commands",
            json!({ "specversion": "0.3" }),
            "invalid_payload",
        ),
        ("/v1/commands", json!({ "params": [1] }), "invalid_payload"),
        (
            "/v1/commands",
            json!({ "omnilinkkind": "event" }),
            "unsupported_kind",
        ),
        (
            "/v1/commands",
            json!({ "omnilinkkind": "command" }),
            "accepted",
        ),
        (
            "/v1/commands",
            json!({ "policy": { "approval": "none" } }),
            "invalid_payload",
        ),
        (
            "/v1/commands",
            json!({ "policy": { "approval": "required", "x": 1 } }),
            "invalid_payload",
        ),
        (
            "/v1/commands",
            json!({ "policy": { "approval": "required" } }),
            "accepted",
        ),
        (
            "/v1/commands",
            json!({ "target": "odoo" }),
            "invalid_payload",
        ),
        (
            "/v1/commands",
            json!({ "target": {} }),
            "missing_target_system",
        ),
        (
            "/v1/commands",
            json!({ "run_at": "tomorrow" }),
            "invalid_payload",
        ),
        ("/v1/commands", json!({ "run_at": far }), "invalid_payload"),
        (
            "/v1/commands",
            json!({ "run_at": "2020-01-01T00:00:00Z" }),
            "accepted",
        ),
        (
            "/v1/commands",
            json!({ "on_behalf_of": "" }),
            "invalid_payload",
        ),
        ("/v1/commands", json!({ "on_behalf_of": "ann" }), "accepted"),
        (
            "/v1/commands",
            json!({ "unknown": { "a": 1 } }),
            "invalid_payload",
        ),
        (
            "/v1/commands",
            json!({ "data": { "params": {} } }),
            "invalid_payload",
        ),
        (
            "/v1/commands",
            json!({ "params": null, "data": { "params": { "amount": 1 } } }),
            "accepted",
        ),
        (
            "/v1/commands",
            json!({ "params": null, "data": { "parms": {} } }),
            "invalid_payload",
        ),
        (
            "/v1/commands",
            json!({ "entity": { "type": "expense" } }),
            "missing_entity_external_id",
        ),
        (
            "/v1/commands",
            json!({ "params": { "amount": 500 } }),
            "invalid_payload",
        ),
        (
            "/v1/commands",
            json!({ "params": { "amount": 5, "note": "x".repeat(140_000) } }),
            "payload_too_large",
        ),
        (
            "/v1/workflows",
            json!({ "workflow": null }),
            "missing_workflow",
        ),
        (
            "/v1/workflows",
            json!({ "workflow": {} }),
            "missing_workflow_name",
        ),
        (
            "/v1/workflows",
            json!({ "workflow": { "name": "expense", "v": 1 } }),
            "invalid_payload",
        ),
        (
            "/v1/workflows",
            json!({ "plan": { "steps": [] } }),
            "invalid_payload",
        ),
        ("/v1/workflows", json!({ "input": null }), "missing_input"),
        (
            "/v1/workflows",
            json!({ "workflow": { "name": "none" } }),
            "unknown_workflow",
        ),
        (
            "/v1/workflows",
            json!({ "workflow": { "name": "expense", "version": "3.0.0" } }),
            "unknown_workflow",
        ),
        (
            "/v1/workflows",
            json!({ "workflow": { "name": "expense", "version": "2.0.0-rc.1" } }),
            "accepted",
        ),
        ("/v1/goals", json!({ "goal": "  " }), "missing_goal"),
        ("/v1/goals", json!({ "goal": 7 }), "invalid_payload"),
        ("/v1/goals", json!({ "context": [] }), "invalid_payload"),
        ("/v1/goals", json!({ "params": { "a": 1 } }), "accepted"),
        ("/v1/tasks", json!({ "params": null }), "missing_params"),
        ("/v1/tasks", json!({ "type": "none" }), "unknown_tool"),
        (
            "/v1/tasks",
            json!({ "params": { "amount": "x" } }),
            "invalid_payload",
        ),
        (
            "/v1/tasks",
            json!({ "type": "noop", "params": "{{ anything" }),
            "accepted",
        ),
    ];
    for (route, change, code) in cases {
        let mut body = good(route);
        for (name, value) in change.as_object().unwrap() {
            body[name] = value.clone();
        }
        let answer = post(&node, route, &body).await;
        let about: String = change.to_string().chars().take(100).collect();
        assert_eq!(outcome(&answer), code, "{route} {about}: {}", answer.text);
    }
    let twice = r#"{"id":"1","source":"/s","type":"expense.pay","params":{"amount":1,"amount":2}}"#;
    let answer = send(
        &node,
        "/v1/commands",
        &node.admin,
        &[("idempotency-key", "k")],
        twice,
    )
    .await;
    assert_eq!(answer.code(), "invalid_payload");
    let mut body = good("/v1/commands");
    body["idempotencykey"] = "k".into();
    let answer = send(&node, "/v1/commands", &node.admin, &[], &body.to_string()).await;
    assert_eq!(outcome(&answer), "accepted");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_reports_each_item() {
    let node = node().await;
    let mut bad = good("/v1/commands");
    bad["params"] = Value::Null;
    let mut other = good("/v1/commands");
    other["params"]["amount"] = 6.into();
    let mut second = good("/v1/commands");
    second["id"] = "2".into();
    let batch = json!([bad, good("/v1/commands"), other, 7, second]);
    for body in [batch.clone(), json!({ "events": batch })] {
        let answer = post_as(&node, "/v1/commands", "k1", &body).await;
        assert_eq!(answer.status, StatusCode::ACCEPTED);
        assert!(!answer.headers.contains_key("location"));
        let codes: Vec<_> = (0..5)
            .map(|n| {
                let result = answer.result(n);
                let code = result["error"]["code"].as_str();
                let code = code.unwrap_or(if result["run_id"].is_string() {
                    "accepted"
                } else {
                    "?"
                });
                code.to_owned()
            })
            .collect();
        let expected = [
            "missing_params",
            "accepted",
            "idempotency_mismatch",
            "invalid_payload",
            "accepted",
        ];
        assert_eq!(codes, expected, "{}", answer.text);
    }
    let ids: Vec<_> = entries(&node, 10)
        .await
        .iter()
        .filter_map(|e| e.resource_id.clone())
        .collect();
    let id = |id: &str| run_id(&["run", "acme", "k1", id]).to_string();
    assert_eq!(ids[..2], [id("1"), id("2")]);

    let answer = post(&node, "/v1/commands", &json!([])).await;
    assert_eq!(answer.status, StatusCode::ACCEPTED);
    assert_eq!(answer.json()["results"], json!([]));
    let key = node.key("acme", scopes(&["other"])).await;
    let answer = send(&node, "/v1/tasks", &key, &[("idempotency-key", "k")], "[]").await;
    assert_eq!(answer.code(), "permission_denied");
    // An empty batch is checked as any other.
    let key = node.key("acme", scopes(&["tasks:create"])).await;
    let headers = [("omnilink-on-behalf-of", "ann")];
    let answer = send(&node, "/v1/tasks", &key, &headers, "[]").await;
    assert!(answer.text.contains("`act_as`"), "{}", answer.text);
    let change = json!({ "disabled": { "workers": "maintenance" }, "reason": "test" });
    let changed = node
        .request(Method::PATCH, "/v1/controls", &node.admin, &change)
        .await;
    assert_eq!(changed.status, StatusCode::OK, "{}", changed.text);
    let answer = send(&node, "/v1/tasks", &key, &[], "[]").await;
    assert_eq!(answer.code(), "feature_disabled");
    let many = json!(vec![good("/v1/goals"); 51]);
    let answer = post(&node, "/v1/goals", &many).await;
    assert_eq!(
        (answer.status.as_u16(), &*answer.code()),
        (413, "batch_too_large")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn plans_of_the_sender_are_checked_whole() {
    let node = node().await;
    let start = |plan: Value| json!({ "id": "1", "source": "/s/prod", "type": "t", "plan": plan, "input": { "amount": 5 } });
    let good = json!({ "steps": [{ "id": "a", "tool": "pay", "input": { "amount": "{{ params.amount }}" } }] });
    let answer = post(&node, "/v1/workflows", &start(good.clone())).await;
    assert_eq!(outcome(&answer), "accepted", "{}", answer.text);
    for (plan, told) in [
        (
            json!({ "steps": [{ "id": "a", "tool": "pays" }] }),
            "step `a`: there is no tool `pays` (did you mean `pay`?)",
        ),
        (
            json!({ "steps": [{ "id": "a", "tool": "noop", "depends_on": ["b"] }, { "id": "b", "tool": "noop", "depends_on": ["a"] }] }),
            "a cycle: a → b → a",
        ),
        (
            json!({ "steps": [{ "id": "a", "tool": "noop", "depends_on": ["c"] }] }),
            "step `a`: there is no step `c`",
        ),
        (
            json!({ "steps": [{ "id": "a", "tool": "noop", "input": "{{ steps.b.output }}" }, { "id": "b", "tool": "noop" }] }),
            "step `a`: `steps.b.output` is not known here",
        ),
        (
            json!({ "steps": [{ "id": "a", "tool": "pay", "input": { "amount": "5" } }] }),
            "step `a`: not an input of `pay`",
        ),
        (
            json!({ "steps": [{ "id": "a", "tool": "noop", "compensate": { "tool": "pay", "input": {} } }] }),
            "step `a`: not an input of `pay`",
        ),
        (
            json!({ "steps": [{ "id": "a", "tool": "noop", "input": 9_007_199_254_740_993_u64 }] }),
            "cannot be represented as a double",
        ),
    ] {
        let answer = post(&node, "/v1/workflows", &start(plan)).await;
        assert_eq!(
            (answer.status.as_u16(), &*answer.code()),
            (400, "invalid_plan")
        );
        let detail = answer.json()["detail"].as_str().unwrap().to_owned();
        assert!(detail.contains(told), "{detail}");
    }
    let mut large = good.clone();
    large["steps"][0]["input"]["note"] = "x".repeat(130 * 1024).into();
    let answer = post(&node, "/v1/workflows", &start(large)).await;
    assert_eq!(
        (answer.status.as_u16(), &*answer.code()),
        (413, "payload_too_large")
    );

    let headers = [("idempotency-key", "k")];
    let key = node.key("acme", scopes(&["orchestrations:request"])).await;
    let answer = send(
        &node,
        "/v1/workflows",
        &key,
        &headers,
        &start(good.clone()).to_string(),
    )
    .await;
    assert!(answer.text.contains("`plans:inline`"), "{}", answer.text);
    assert_eq!(answer.code(), "permission_denied");
    let mut held = Scopes::all();
    held.constraints.allowed_workflows = vec![AllowedWorkflow {
        name: "expense".into(),
        version: None,
    }];
    let key = node.key("acme", held).await;
    let answer = send(
        &node,
        "/v1/workflows",
        &key,
        &headers,
        &start(good).to_string(),
    )
    .await;
    assert_eq!(answer.code(), "workflow_not_allowed");
}

#[tokio::test(flavor = "multi_thread")]
async fn cloudevents_forms_have_the_members_in_data() {
    let node = node().await;
    let event = json!({ "specversion": "1.0", "id": "1", "source": "/erp/prod", "type": "expense.pay",
        "data": { "params": { "amount": 5 }, "target": { "system": "odoo" } } });
    let key = ("idempotency-key", "k");
    let structured = ("content-type", "application/cloudevents+json");
    let batched = ("content-type", "application/cloudevents-batch+json");
    let node = &node;
    let send = async |headers: &[(&str, &str)], body: Value| {
        send(
            node,
            "/v1/commands",
            &node.admin,
            headers,
            &body.to_string(),
        )
        .await
    };
    let answer = send(&[key, structured], event.clone()).await;
    assert_eq!(outcome(&answer), "accepted", "{}", answer.text);
    let answer = send(&[key, batched], json!([event, { "specversion": "1.0" }])).await;
    assert_eq!(answer.result(0)["status"], "queued");
    assert_eq!(answer.result(1)["error"]["code"], "missing_id");
    assert_eq!(
        send(&[key, batched], event.clone()).await.code(),
        "invalid_payload"
    );
    assert_eq!(
        send(&[key, structured], json!([event])).await.code(),
        "invalid_payload"
    );
    let mut beside = event.clone();
    beside["params"] = beside["data"]["params"].take();
    assert_eq!(
        send(&[key, structured], beside).await.code(),
        "invalid_payload"
    );
    let binary = [
        key,
        ("ce-specversion", "1.0"),
        ("ce-id", "1"),
        ("ce-source", "/erp/prod"),
        ("ce-type", "expense.pay"),
    ];
    let mut binary = binary.to_vec();
    binary[0] = ("idempotency-key", "k2");
    let answer = send(&binary, event["data"].clone()).await;
    assert_eq!(outcome(&answer), "accepted", "{}", answer.text);
    let answer = send(&binary, json!([1])).await;
    assert_eq!(answer.code(), "invalid_payload");
}
