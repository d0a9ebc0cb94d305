//! Starts over HTTP that are refused: what decides the answer to a batch, what a refusal leaves behind, and when a disabled workflow is
//! told.

use hyper::{Method, StatusCode};
use omnilink::{controls::AllowedWorkflow, workflows::check_texts};
use serde_json::{Value, json};

use crate::{
    starts::send,
    support::port::{Node, Response, scopes},
};

const EXPENSE: &str = r#"
name: expense
version: "1.0.0"
command: expense.pay
params: { type: object, required: [amount], properties: { amount: { type: number } } }
plan: { steps: [ { id: keep, tool: noop } ] }
"#;

async fn node() -> Node {
    let node = Node::start().await;
    let file = ("expense.yaml".to_owned(), Ok(EXPENSE.to_owned()));
    node.workflows
        .replace(check_texts([], [file]).catalog.unwrap());
    node
}

fn command(id: &str, amount: &Value) -> Value {
    json!({ "id": id, "source": "/erp", "type": "expense.pay", "params": { "amount": amount } })
}

async fn post(node: &Node, key: &str, idempotency_key: &str, body: &Value) -> Response {
    let headers = [("idempotency-key", idempotency_key)];
    send(node, "/v1/commands", key, &headers, &body.to_string()).await
}

fn told(answer: &Response) -> (u16, String) {
    (answer.status.as_u16(), answer.code())
}

/// The statuses of the items.
fn statuses(answer: &Response) -> Vec<String> {
    let results = answer.json()["results"].clone();
    let results = results.as_array().unwrap().iter();
    results
        .map(|result| result["status"].as_str().unwrap().to_owned())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_of_which_a_limit_refused_an_item_is_429() {
    let node = node().await;
    let mut of_key = scopes(&["orchestrations:request", "commands:*"]);
    of_key.constraints.max_rpm = 1;
    let key = node.key("acme", of_key).await;
    let answer = post(&node, &key, "k1", &command("1", &json!(1))).await;
    assert_eq!(answer.status, StatusCode::ACCEPTED, "{}", answer.text);
    assert_eq!(answer.headers["ratelimit-policy"], "\"max_rpm\";q=1;w=60");
    let rate = answer.headers["ratelimit"].to_str().unwrap();
    assert!(rate.starts_with("\"max_rpm\";r=0;t="), "{rate}");
    // The first item is invalid, and never comes to the limit.
    let items = json!([command("2", &json!("much")), command("3", &json!(3))]);
    let answer = post(&node, &key, "k2", &items).await;
    assert_eq!(told(&answer), (429, "rate_limit_exceeded".into()));
    assert!(answer.headers.contains_key("retry-after"));
    assert!(answer.headers.contains_key("ratelimit"));
    assert_eq!(statuses(&answer), ["invalid", "rate_limited"]);
    // Without such an item the first one counts.
    let mut other = command("4", &json!(4));
    other["type"] = "expense.none".into();
    let all = node
        .key("acme", scopes(&["orchestrations:request", "commands:*"]))
        .await;
    let items = json!([other, command("5", &json!("much"))]);
    let answer = post(&node, &all, "k3", &items).await;
    assert_eq!(told(&answer), (404, "unknown_workflow".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_item_does_not_use_up_its_identity() {
    let node = node().await;
    let items = json!([
        command("1", &json!("much")),
        command("1", &json!(1)),
        command("1", &json!(2)),
    ]);
    let answer = post(&node, &node.admin, "k", &items).await;
    assert_eq!(answer.status, StatusCode::ACCEPTED, "{}", answer.text);
    assert_eq!(statuses(&answer), ["invalid", "queued", "error"]);
    assert_eq!(answer.result(2)["error"]["code"], "idempotency_mismatch");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disabled_workflow_is_told_before_what_the_key_may_start() {
    let node = node().await;
    let mut of_key = scopes(&["orchestrations:request", "commands:*"]);
    of_key.constraints.env_allowlist = vec!["prod".into()];
    of_key.constraints.allowed_workflows = vec![AllowedWorkflow {
        name: "other".into(),
        version: None,
    }];
    let key = node.key("acme", of_key).await;
    let wrong = command("1", &json!("much"));
    assert_eq!(
        told(&post(&node, &key, "k", &wrong).await),
        (403, "env_not_allowed".into())
    );

    let change = json!({ "disabled": { "workflow:expense": "maintenance" }, "reason": "test" });
    let changed = node
        .request(Method::PATCH, "/v1/controls", &node.admin, &change)
        .await;
    assert_eq!(changed.status, StatusCode::OK, "{}", changed.text);
    let answer = post(&node, &key, "k", &wrong).await;
    assert_eq!(told(&answer), (503, "feature_disabled".into()));
    assert_eq!(answer.json()["feature"], "workflow:expense");
    let workflow = json!({ "id": "1", "source": "/erp", "type": "x", "workflow": { "name": "expense" }, "input": {} });
    let headers = [("idempotency-key", "k")];
    let answer = send(
        &node,
        "/v1/workflows",
        &key,
        &headers,
        &workflow.to_string(),
    )
    .await;
    assert_eq!(told(&answer), (503, "feature_disabled".into()));
}
