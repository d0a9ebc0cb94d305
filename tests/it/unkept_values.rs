//! JSON that a run cannot store: nested more than 64 levels, with a number that no double holds, or with half of a surrogate pair. Requests
//! with such values are refused, and calls that return them fail.

use std::time::Duration;

use hyper::{Method, StatusCode};
use omnilink::{
    commands::result::StepOutcome,
    runs::{CallKind, CallKindName, StepCommand},
    workflows::check_texts,
};
use serde_json::json;

use crate::support::{
    port::{Node, Response, scopes},
    worker::{Worker, answer, put_tools, send, start, step, told},
};

const RUN: &str = "7dbd6d41-6f85-5f7b-98af-6637f5372c2e";
/// JSON that cannot be parsed into a value.
const UNREADABLE: [&str; 2] = ["1e400", r#""\ud800""#];

fn nested(levels: usize) -> String {
    format!("{}{}", "[".repeat(levels), "]".repeat(levels))
}

async fn post(node: &Node, path: &str, key: &str, body: String) -> Response {
    let bearer = format!("Bearer {key}");
    let idempotency_key = uuid::Uuid::now_v7().to_string();
    let headers = [
        ("authorization", bearer.as_str()),
        ("content-type", "application/json"),
        ("idempotency-key", idempotency_key.as_str()),
    ];
    node.call(Method::POST, path, &headers, body).await
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_with_such_values_are_refused() {
    let node = Node::start().await;
    put_tools(&node, &["name: pay\nworker: { claim: {} }\n".to_owned()]);
    let start = |more: &str| format!(r#"{{"id":"1","source":"/erp/prod","type":"pay",{more}}}"#);
    let (signal, approval) = (
        format!("/v1/runs/{RUN}/signal"),
        format!("/v1/approvals/{RUN}.3"),
    );
    // Around `VALUE` are one level, in the plan four.
    let doors = [
        ("/v1/tasks", start(r#""params":{"a":VALUE}"#)),
        (
            "/v1/workflows",
            start(r#""input":{"a":VALUE},"plan":{"steps":[{"id":"s","tool":"noop"}]}"#),
        ),
        (
            "/v1/workflows",
            start(r#""input":{},"plan":{"steps":[{"id":"s","tool":"noop","input":{"a":VALUE}}]}"#),
        ),
        (&*signal, r#"{"signal":"go","data":{"a":VALUE}}"#.to_owned()),
        (
            &*approval,
            r#"{"decision":"skip","output":{"a":VALUE}}"#.to_owned(),
        ),
        (
            &*approval,
            r#"{"decision":"approved","input":{"a":VALUE}}"#.to_owned(),
        ),
    ];
    for (path, body) in &doors {
        let key = &node.admin;
        let good = post(&node, path, key, body.replace("VALUE", &nested(60))).await;
        assert_eq!(good.status, StatusCode::ACCEPTED, "{path}: {}", good.text);
        let bad = [nested(64), nested(121)];
        for value in bad.iter().map(String::as_str).chain(UNREADABLE) {
            let refused = post(&node, path, key, body.replace("VALUE", value)).await;
            assert_eq!(refused.status, StatusCode::BAD_REQUEST, "{path} {body}");
            let code = refused.code();
            assert!(
                ["invalid_payload", "invalid_plan"].contains(&&*code),
                "{path} {body}: {}",
                refused.text
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_completion_with_such_an_output_is_refused() {
    let node = Node::start().await;
    let worker = Worker::start(|_| Box::pin(async { answer(202, &[], "") })).await;
    let _running = start(&node, &[]);
    let http = json!({ "http": { "url": worker.url("/") } });
    send(&node, &[step("pay", "pay", &http, &json!({}))]).await;
    while worker.got().is_empty() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let call = worker.got()[0].json();
    let (task, lease) = (&call["task_id"], &call["lease"]);
    let key = node.key("acme", scopes(&["tasks:complete"])).await;
    let complete = |output: &str| {
        let body = format!(
            r#"{{"task_id":{task},"lease":{lease},"outcome":"succeeded","output":{output}}}"#
        );
        post(&node, "/v1/tasks/complete", &key, body)
    };
    let deep = nested(65);
    for output in [UNREADABLE[0], UNREADABLE[1], &*deep] {
        let refused = complete(output).await;
        assert_eq!(
            (refused.status, &*refused.code()),
            (StatusCode::BAD_REQUEST, "invalid_payload"),
            "{output}"
        );
    }
    let good = complete(&nested(64)).await;
    assert_eq!(good.status, StatusCode::OK, "{}", good.text);
    assert_eq!(told(&node, 1).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_that_return_such_values_fail() {
    let node = Node::start().await;
    let worker = Worker::start(|got| {
        let body = match &got.path[1..] {
            "number" => UNREADABLE[0].to_owned(),
            "text" => UNREADABLE[1].to_owned(),
            levels => nested(levels.parse().unwrap()),
        };
        Box::pin(async move { answer(200, &[("content-type", "application/json")], body) })
    })
    .await;
    let port = worker.address.port();
    let _running = start(&node, &["localhost"]);
    let by_worker = |id: &str, what: &str| {
        let url = worker.url(&format!("/{what}"));
        step(id, id, &json!({ "http": { "url": url } }), &json!({}))
    };
    let by_http = |id: &str, what: &str| {
        let url = format!("http://localhost:{port}/{what}");
        let input = json!({ "method": "POST", "url": url });
        step(id, "http", &json!({ "builtin": "http" }), &input)
    };
    let undoes = |mut call: StepCommand| {
        call.kind = CallKindName(CallKind::Compensate);
        call
    };
    // The body of `http` is a member of its output.
    let calls = [
        (by_worker("a", "64"), true),
        (by_worker("b", "65"), false),
        (by_worker("c", "number"), false),
        (by_worker("d", "text"), false),
        (by_http("e", "63"), true),
        (by_http("f", "64"), false),
        (by_http("g", "number"), false),
        (by_http("h", "text"), false),
        // The output of a compensation is not stored.
        (undoes(by_worker("i", "number")), true),
        (undoes(by_http("j", "65")), true),
    ];
    let steps: Vec<_> = calls.iter().map(|(call, _)| call.clone()).collect();
    send(&node, &steps).await;
    let told = told(&node, calls.len()).await;
    assert_eq!(told.len(), calls.len());
    for (told, (call, good)) in told.iter().zip(&calls) {
        let result = told.result();
        assert_eq!(result.step_id, call.step_id);
        let expected = if *good {
            (StepOutcome::Succeeded, None)
        } else {
            (StepOutcome::Failed, Some("invalid_output"))
        };
        let code = result.error.as_ref().map(|error| &*error.code);
        assert_eq!((result.outcome, code), expected, "{result:?}");
    }
}

#[test]
fn a_workflow_with_such_a_plan_is_refused() {
    // Around the input are three levels.
    for (levels, good) in [(61, true), (62, false)] {
        let plan = format!(
            "{{ steps: [ {{ id: s, tool: noop, input: {} }} ] }}",
            nested(levels)
        );
        let text = format!("name: deep\nversion: '1.0.0'\nplan: {plan}\n");
        let checked = check_texts([], [("deep.yaml".to_owned(), Ok(text))]);
        let problems: Vec<_> = checked.problems.iter().map(|p| p.render(false)).collect();
        assert_eq!(problems.is_empty(), good, "{problems:?}");
        assert!(
            good || problems[0].contains("nested at most 64 levels"),
            "{problems:?}"
        );
    }
}
