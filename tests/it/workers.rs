//! Calls of HTTP workers: the request, every line of the table of outcomes (`docs/workers.md`), what is never reached, and completion
//! after a 202.

use std::time::{Duration, Instant};

use base64::{Engine, engine::general_purpose::STANDARD};
use hmac::{Hmac, KeyInit, Mac};
use hyper::{Method, StatusCode};
use omnilink::{
    commands::result::StepOutcome,
    runs::{CallKind, CallKindName},
};
use serde_json::{Value, json};
use sha2::Sha256;
use tokio::{
    io::AsyncReadExt,
    net::{TcpListener, TcpSocket},
};

use crate::support::{
    port::{Node, Response, scopes},
    worker::{Told, Worker, answer, put_tools, send, start, step, told},
};

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

fn http(url: &str) -> Value {
    json!({ "http": { "url": url } })
}

#[tokio::test(flavor = "multi_thread")]
async fn the_request_is_the_step_command_signed_with_the_secret_of_the_tool() {
    let node = Node::start().await;
    let worker =
        Worker::start(|_| Box::pin(async { answer(200, &[], r#"{"transfer":"T-17"}"#) })).await;
    let url = worker.url("/pay");
    put_tools(
        &node,
        &[format!(
            "name: pay\nworker: {{ http: {{ url: \"{url}\", secret: \"{SECRET}\" }} }}"
        )],
    );
    let _running = start(&node, &[]);
    let mut undo = step("undo", "pay", &http(&url), &json!({ "amount": 1 }));
    undo.kind = CallKindName(CallKind::Compensate);
    undo.execute =
        Some(json!({ "idempotency_key": "k", "input": {}, "outcome": "unknown" }).to_string());
    undo.error = Some(json!({ "code": "c", "message": "m" }).to_string());
    let pay = step(
        "pay",
        "pay",
        &http(&url),
        &json!({ "amount": 12.50, "iban": "DE02" }),
    );
    send(&node, &[pay.clone(), undo]).await;
    let told = told(&node, 2).await;
    let result = told[0].result();
    assert_eq!(result.outcome, StepOutcome::Succeeded);
    assert_eq!(
        result.output.as_ref().unwrap().text(),
        r#"{"transfer":"T-17"}"#
    );
    assert_eq!(told[1].result().kind, CallKind::Compensate);

    let mut got = worker.got();
    got.sort_by_key(|got| got.json()["step_id"].as_str().unwrap().to_owned());
    let call = &got[0];
    assert_eq!((&*call.method, &*call.path), ("POST", "/pay"));
    assert_eq!(call.header("content-type"), "application/json");
    assert_eq!(call.header("idempotency-key"), pay.idempotency_key);
    assert_eq!(call.header("traceparent"), pay.traceparent.clone().unwrap());
    let mut body = call.json();
    let members = body.as_object_mut().unwrap();
    assert_eq!(members.remove("lease").unwrap().as_str().unwrap().len(), 64);
    let deadline: jiff::Timestamp =
        serde_json::from_value(members.remove("deadline").unwrap()).unwrap();
    assert_eq!(deadline.as_millisecond(), pay.deadline);
    assert_eq!(
        body,
        json!({
            "tenant": "acme", "run_id": pay.run_id, "workflow": "expense", "step_id": "pay", "attempt": 1, "kind": "execute",
            "tool": "pay", "input": { "amount": 12.50, "iban": "DE02" }, "idempotency_key": pay.idempotency_key,
            "task_id": pay.task_id
        })
    );
    assert_eq!(got[1].json()["execute"]["outcome"], "unknown");
    assert_eq!(got[1].json()["error"]["code"], "c");

    // As a receiver of Standard Webhooks checks it.
    assert_eq!(call.header("webhook-id"), pay.idempotency_key);
    let timestamp: i64 = call.header("webhook-timestamp").parse().unwrap();
    assert!((pay.at / 1000..=pay.at / 1000 + 60).contains(&timestamp));
    let key = STANDARD.decode(&SECRET["whsec_".len()..]).unwrap();
    let mut mac = Hmac::<Sha256>::new_from_slice(&key).unwrap();
    mac.update(format!("{}.{timestamp}.", pay.idempotency_key).as_bytes());
    mac.update(&call.body);
    let signature = call
        .header("webhook-signature")
        .strip_prefix("v1,")
        .unwrap();
    mac.verify_slice(&STANDARD.decode(signature).unwrap())
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_means_what_the_table_says() {
    const PROBLEM: (&str, &str) = ("content-type", "application/problem+json");
    let node = Node::start().await;
    let worker = Worker::start(|got| {
        let status = got.path[1..].split('-').next().unwrap().parse().unwrap();
        let (headers, body): (Vec<_>, _) = match &*got.path {
            "/200-empty" | "/202-later" | "/204-empty" => (vec![], String::new()),
            "/200-text" => (vec![], "OK".into()),
            "/200-large" => (vec![], format!("\"{}\"", "x".repeat(128 * 1024))),
            "/200-most" => (vec![], format!("\"{}\"", "x".repeat(128 * 1024 - 2))),
            "/302-moved" => (vec![("location", "/200-empty")], String::new()),
            "/422-problem" => (
                vec![PROBLEM],
                r#"{"code":"no_funds","detail":"The account is empty"}"#.into(),
            ),
            "/500-large" => (vec![], "x".repeat(200_000)),
            _ => (vec![], "{}".into()),
        };
        Box::pin(async move { answer(status, &headers, body) })
    })
    .await;
    let _running = start(&node, &[]);
    // Outcome, code, retryable, answered.
    let cases = [
        ("200-empty", None),
        ("200-large", Some(("output_too_large", false))),
        ("200-most", None),
        ("200-text", Some(("invalid_output", false))),
        ("204-empty", None),
        ("302-moved", Some(("http_302", false))),
        ("400-a", Some(("http_400", false))),
        ("404-a", Some(("http_404", false))),
        ("408-a", Some(("http_408", true))),
        ("409-a", Some(("http_409", true))),
        ("422-problem", Some(("no_funds", false))),
        ("425-a", Some(("http_425", true))),
        ("429-a", Some(("http_429", true))),
        ("500-a", Some(("http_500", true))),
        ("500-large", Some(("http_500", true))),
        ("503-a", Some(("http_503", true))),
    ];
    // Each with a tool of its own: no breaker mixes in.
    let of = |path: &str| {
        step(
            path,
            path,
            &http(&worker.url(&format!("/{path}"))),
            &json!({}),
        )
    };
    let mut steps: Vec<_> = cases.iter().map(|(path, _)| of(path)).collect();
    steps.push(of("202-later"));
    send(&node, &steps).await;
    let told = told(&node, cases.len()).await;
    assert_eq!(
        told.len(),
        cases.len(),
        "nothing is told of a 202: {told:?}"
    );
    for (told, (path, expected)) in told.iter().zip(cases) {
        assert_eq!(told.step(), path);
        let result = told.result();
        assert!(result.answered, "{path}");
        match expected {
            None => assert_eq!(result.outcome, StepOutcome::Succeeded, "{path}"),
            Some((code, retryable)) => {
                assert_eq!(result.outcome, StepOutcome::Failed, "{path}");
                let error = result.error.as_ref().unwrap();
                assert_eq!((&*error.code, error.retryable), (code, retryable), "{path}");
            }
        }
    }
    let empty = told[0].result().output.as_ref();
    assert!(
        empty.is_none_or(|output| output.text() == "null"),
        "{empty:?}"
    );
    let problem = told[10].result().error.as_ref().unwrap();
    assert_eq!(problem.message, "The account is empty");
    // A redirect is not followed, and each call goes once.
    assert_eq!(worker.got().len(), steps.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_and_refused_connections_differ_and_deadlines_hold() {
    let node = Node::start().await;
    let silent = Worker::start(|_| Box::pin(std::future::pending())).await;
    // Bound but not listening: no other process gets the port, and connections are refused.
    let closed = TcpSocket::new_v4().unwrap();
    closed.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let refused = format!("http://{}", closed.local_addr().unwrap());
    let cut = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let cut_off = format!("http://{}", cut.local_addr().unwrap());
    tokio::spawn(async move {
        loop {
            // Accepts, reads a little, and hangs up.
            let (mut stream, _) = cut.accept().await.unwrap();
            // `readable` alone may be wrong.
            stream.read_u8().await.unwrap();
        }
    });
    let _running = start(&node, &[]);
    let begun = Instant::now();
    let mut late = step("late", "late", &http(&silent.url("/")), &json!({}));
    // Long enough for a busy machine to send the call before.
    late.deadline = late.at + 3_000;
    let mut over = step("over", "over", &http(&silent.url("/")), &json!({}));
    over.deadline = over.at - 1;
    let steps = [
        over,
        late,
        step("cut", "cut", &http(&cut_off), &json!({})),
        step("refused", "refused", &http(&refused), &json!({})),
        step(
            "link",
            "link",
            &http("http://169.254.169.254/latest"),
            &json!({}),
        ),
        step(
            "mapped",
            "mapped",
            &http("http://[::ffff:169.254.169.254]/"),
            &json!({}),
        ),
        // Not for this effect.
        step("kafka", "kafka", &json!({ "kafka": {} }), &json!({})),
        step("claim", "claim", &json!({ "claim": {} }), &json!({})),
        step("noop", "noop", &json!({ "builtin": "noop" }), &json!({})),
    ];
    send(&node, &steps).await;
    let told = told(&node, 5).await;
    assert!(begun.elapsed() > Duration::from_secs(2));
    let all: Vec<_> = told
        .iter()
        .map(|told| {
            let result = told.result();
            let retryable = result.error.as_ref().unwrap().retryable;
            (told.step(), told.code(), retryable, result.answered)
        })
        .collect();
    let expected = [
        ("cut", "no_answer", true, false),
        ("late", "no_answer", true, false),
        ("link", "address_not_allowed", false, true),
        ("mapped", "address_not_allowed", false, true),
        ("refused", "no_connection", true, true),
    ];
    assert_eq!(all, expected);
    // The call past its deadline never went.
    assert_eq!(silent.got().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_builtin_http_reaches_its_allow_list_alone() {
    let node = Node::start().await;
    let worker = Worker::start(|got| {
        Box::pin(async move {
            match &*got.path {
                "/json" => answer(201, &[("content-type", "application/json")], r#"{"a":[1]}"#),
                "/text" => answer(200, &[("x-a", "1"), ("x-a", "2")], "hello"),
                "/bytes" => answer(200, &[], &b"\xff\xfe"[..]),
                "/accepted" => answer(202, &[], ""),
                _ => answer(404, &[], "no"),
            }
        })
    })
    .await;
    let port = worker.address.port();
    let _running = start(&node, &["localhost"]);
    let call = |id: &str, input: Value| step(id, "http", &json!({ "builtin": "http" }), &input);
    let get = |id: &str, host: &str, path: &str| {
        call(
            id,
            json!({ "method": "GET", "url": format!("http://{host}:{port}{path}") }),
        )
    };
    let post = json!({
        "method": "PUT", "url": format!("http://localhost:{port}/json"), "headers": { "X-Own": "1" }, "body": { "n": 1 }
    });
    let host = json!({ "method": "GET", "url": format!("http://localhost:{port}/"), "headers": { "Host": "other" } });
    send(
        &node,
        &[
            call("a", post),
            get("b", "localhost", "/text"),
            get("c", "localhost", "/bytes"),
            get("d", "localhost", "/missing"),
            // The same server, under a name that is not listed.
            get("e", "127.0.0.1", "/json"),
            call("f", json!({ "method": "GET", "url": "ftp://localhost/" })),
            call("g", host),
            get("h", "localhost", "/accepted"),
        ],
    )
    .await;
    let told = told(&node, 8).await;
    let output = |told: &Told| {
        told.result()
            .output
            .as_ref()
            .map(omnilink::runs::Json::value)
    };
    let a = output(&told[0]).unwrap();
    assert_eq!(
        (&a["status"], &a["body"]),
        (&json!(201), &json!({ "a": [1] }))
    );
    assert_eq!(a["headers"]["content-type"], "application/json");
    let b = output(&told[1]).unwrap();
    assert_eq!(
        (&b["body"], &b["headers"]["x-a"]),
        (&json!("hello"), &json!("1, 2"))
    );
    let codes: Vec<_> = told[2..7].iter().map(Told::code).collect();
    let expected = [
        "invalid_output",
        "http_404",
        "address_not_allowed",
        "invalid_url",
        "invalid_input",
    ];
    assert_eq!(codes, expected);
    assert_eq!(output(&told[7]).unwrap()["status"], 202);
    let put = worker
        .got()
        .into_iter()
        .find(|got| got.method == "PUT")
        .unwrap();
    assert_eq!((put.json(), put.header("x-own")), (json!({ "n": 1 }), "1"));
    assert!(put.header("idempotency-key").ends_with(":a:execute"));
}

async fn complete(node: &Node, key: &str, body: &Value) -> Response {
    let bearer = format!("Bearer {key}");
    let headers = [
        ("authorization", bearer.as_str()),
        ("content-type", "application/json"),
    ];
    node.call(
        Method::POST,
        "/v1/tasks/complete",
        &headers,
        body.to_string(),
    )
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_was_accepted_is_completed_over_http() {
    let node = Node::start().await;
    let worker = Worker::start(|_| Box::pin(async { answer(202, &[], "") })).await;
    let _running = start(&node, &[]);
    send(
        &node,
        &[step("pay", "pay", &http(&worker.url("/")), &json!({}))],
    )
    .await;
    while worker.got().is_empty() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let call = worker.got()[0].json();
    let (task, lease) = (&call["task_id"], &call["lease"]);
    let good =
        json!({ "task_id": task, "lease": lease, "outcome": "succeeded", "output": { "n": 1 } });
    let with = |name: &str, value: Value| {
        let mut body = good.clone();
        body[name] = value;
        body
    };
    let own = node.key("acme", scopes(&["tasks:complete"])).await;
    let other = node.key("other", scopes(&["tasks:complete"])).await;
    let lacking = node.key("acme", scopes(&["tasks:claim"])).await;
    let long = "x".repeat(128 * 1024);
    for (key, body, status, code) in [
        (
            &own,
            with("lease", json!("00".repeat(32))),
            409,
            "stale_lease",
        ),
        (
            &own,
            with("task_id", json!(task.as_str().unwrap().replace(":1", ":2"))),
            409,
            "stale_lease",
        ),
        (&other, good.clone(), 409, "stale_lease"),
        (&lacking, good.clone(), 403, "permission_denied"),
        (&own, with("task_id", json!("pay")), 400, "invalid_payload"),
        (
            &own,
            with("outcome", json!("failed")),
            400,
            "invalid_payload",
        ),
        (&own, with("output", json!(long)), 413, "payload_too_large"),
        (&own, with("more", json!(1)), 400, "invalid_payload"),
        (
            &own,
            json!({ "task_id": task, "lease": lease, "outcome": "failed" }),
            400,
            "missing_error",
        ),
        (
            &own,
            json!({ "task_id": task, "lease": lease }),
            400,
            "missing_outcome",
        ),
    ] {
        let answer = complete(&node, key, &body).await;
        assert_eq!(
            (answer.status.as_u16(), &*answer.code()),
            (status, code),
            "{}",
            answer.text
        );
    }
    for _ in 0..2 {
        let answer = complete(&node, &own, &good).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
        assert_eq!(
            answer.json(),
            json!({ "task_id": task, "status": "recorded" })
        );
    }
    let failed = json!({
        "task_id": task, "lease": lease, "outcome": "failed", "error": { "code": "no_funds", "message": "m", "retryable": true }
    });
    assert_eq!(complete(&node, &own, &failed).await.status, StatusCode::OK);
    let told = told(&node, 3).await;
    assert_eq!(told.len(), 3);
    let outputs = told.iter().filter_map(|told| told.result().output.as_ref());
    assert_eq!(
        outputs.map(omnilink::runs::Json::text).collect::<Vec<_>>(),
        [r#"{"n":1}"#; 2]
    );
    let failed = told
        .iter()
        .find_map(|told| told.result().error.as_ref())
        .unwrap();
    assert!(failed.code == "no_funds" && failed.retryable);
    // The log has to confirm.
    node.log.set_mode(crate::support::port::Mode::Fails);
    assert_eq!(complete(&node, &own, &good).await.code(), "log_unavailable");
    node.log.set_mode(crate::support::port::Mode::Works);
}
