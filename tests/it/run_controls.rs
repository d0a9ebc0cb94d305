//! What controls runs, and decisions about approvals: the record on `commands`, the run's answer as the response, permissions, controls,
//! limits and the audit log. A stand-in reads `commands` and answers in place of runs.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use hyper::{Method, StatusCode};
use omnilink::{
    commands::Command,
    controls::{Constraints, EmergencyChange, KeyKind, Scopes},
    log::Log,
    saga::{Answer, Notice},
};
use parking_lot::Mutex;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{
    audit_entries,
    port::{Mode, Node, Response, scopes},
};

const RUN: &str = "7dbd6d41-6f85-5f7b-98af-6637f5372c2e";

/// What the stand-in answers; `None`: nothing.
type Answers = dyn Fn(&Command) -> Option<Answer> + Send + Sync;

/// Answers for runs until it is dropped. A test has one: two would both answer.
struct StandIn {
    seen: Arc<Mutex<Vec<Command>>>,
    stop: Arc<AtomicBool>,
}

impl StandIn {
    fn start(node: &Node, answers: Arc<Answers>) -> Self {
        let (seen, stop) = (
            Arc::<Mutex<Vec<_>>>::default(),
            Arc::<AtomicBool>::default(),
        );
        let stand_in = Self {
            seen: seen.clone(),
            stop: stop.clone(),
        };
        let (log, topic) = (node.log.clone(), node.names.commands.clone());
        let followers = node.followers.clone();
        std::thread::spawn(move || {
            let mut reader = log.reader(&topic).unwrap();
            for partition in 0..4 {
                reader.assign(partition, 0).unwrap();
            }
            let mut records = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                records.clear();
                // The log may be switched off for a while.
                let _ = reader.poll(Duration::from_millis(10), &mut records);
                for record in &records {
                    let value = record.record.value.clone().unwrap();
                    let command = Command::decode(&value).unwrap();
                    let run = Uuid::parse_str(&command.run_id).unwrap();
                    let key = record.record.key.clone().unwrap();
                    assert_eq!(&*key, command.run_id.as_bytes());
                    let answer = answers(&command);
                    seen.lock().push(command);
                    let Some(answer) = answer else { continue };
                    // Of another record of the same run: not the answer to this one.
                    for offset in [record.offset + 100, record.offset] {
                        let answer = if offset == record.offset {
                            answer.clone()
                        } else {
                            Answer::UnknownRun
                        };
                        let notice = Notice::Answered {
                            partition: record.partition,
                            offset,
                            answer,
                        };
                        followers.publish(&run, &notice);
                    }
                }
            }
        });
        stand_in
    }

    /// The only record since the last call.
    fn take(&self) -> Command {
        let mut seen = self.seen.lock();
        assert_eq!(seen.len(), 1, "{seen:?}");
        seen.remove(0)
    }

    fn count(&self) -> usize {
        self.seen.lock().len()
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn always(answer: Answer) -> Arc<Answers> {
    Arc::new(move |_| Some(answer.clone()))
}

async fn post(node: &Node, key: &str, path: &str, body: &Value) -> Response {
    node.request(Method::POST, path, key, body).await
}

async fn control(node: &Node, key: &str, what: &str, body: &Value) -> Response {
    post(node, key, &format!("/v1/runs/{RUN}/{what}"), body).await
}

async fn decide(node: &Node, key: &str, body: &Value) -> Response {
    post(node, key, &format!("/v1/approvals/{RUN}.4"), body).await
}

fn refused(code: &'static str) -> Answer {
    Answer::Refused {
        code,
        message: format!("the run says {code}"),
    }
}

fn given(answer: &Response) -> (u16, String) {
    (answer.status.as_u16(), answer.code())
}

#[tokio::test(flavor = "multi_thread")]
async fn each_control_is_a_record_and_the_answer_of_the_run() {
    let node = Node::start().await;
    let runs = StandIn::start(&node, always(Answer::Done));
    let key = &node.admin;
    let done = json!({ "run_id": RUN, "status": "done", "poll_url": format!("/v1/runs/{RUN}") });
    for (what, body, expected) in [
        ("cancel", Value::Null, json!({ "compensate": true })),
        (
            "cancel",
            json!({ "reason": "ordered twice", "compensate": false }),
            json!({ "reason": "ordered twice", "compensate": false }),
        ),
        ("pause", Value::Null, json!({})),
        ("resume", json!({}), json!({})),
        (
            "signal",
            json!({ "signal": "paid" }),
            json!({ "signal": "paid", "data": null }),
        ),
        (
            "signal",
            json!({ "signal": "paid", "data": { "amount": 12.5, "deep": [[1]] } }),
            json!({ "signal": "paid", "data": { "amount": 12.5, "deep": [[1]] } }),
        ),
    ] {
        let answer = control(&node, key, what, &body).await;
        assert_eq!(
            (answer.status, answer.json()),
            (StatusCode::OK, done.clone()),
            "{what}"
        );
        let command = runs.take();
        assert_eq!(
            (
                &*command.tenant,
                &*command.run_id,
                &*command.kind,
                &*command.principal
            ),
            ("acme", RUN, what, "tester")
        );
        let written: Value = serde_json::from_str(&command.body).unwrap();
        assert_eq!(written, expected, "{what}");
    }
    // The text of numbers stays as it is, and the trace goes with the record. An id in upper case names the same run.
    let bearer = node.bearer();
    let headers = [
        ("authorization", bearer.as_str()),
        ("content-type", "application/json"),
        (
            "traceparent",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        ),
        ("tracestate", "a=b"),
    ];
    let path = format!("/v1/runs/{}/signal", RUN.to_uppercase());
    let body = r#"{"signal":"s","data":12.500000000000000000010}"#;
    let answer = node.call(Method::POST, &path, &headers, body).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
    let command = runs.take();
    assert!(
        command.body.contains("12.500000000000000000010"),
        "{}",
        command.body
    );
    assert!(command.traceparent.unwrap().starts_with("00-0af7"));
    assert_eq!(command.tracestate.as_deref(), Some("a=b"));

    let body = json!({ "decision": "approved", "reason": "fine", "input_hash": "a".repeat(64), "input": { "amount": 5 } });
    let answer = decide(&node, key, &body).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
    assert_eq!(answer.json()["approval_id"], format!("{RUN}.4"));
    let command = runs.take();
    let written: Value = serde_json::from_str(&command.body).unwrap();
    assert_eq!(command.kind, "decision");
    assert_eq!(
        written,
        json!({ "approval": 4, "decision": "approved", "reason": "fine", "input_hash": "a".repeat(64), "value": { "amount": 5 } })
    );
    let answer = decide(&node, key, &json!({ "decision": "skip", "output": [1] })).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
    let written: Value = serde_json::from_str(&runs.take().body).unwrap();
    assert_eq!(
        written,
        json!({ "approval": 4, "decision": "skip", "value": [1] })
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_run_refuses_is_a_conflict_with_its_code() {
    let node = Node::start().await;
    let said = Arc::new(Mutex::new(Answer::UnknownRun));
    let says = said.clone();
    let _runs = StandIn::start(&node, Arc::new(move |_| Some(says.lock().clone())));
    let key = &node.admin;
    let denied = json!({ "decision": "denied" });
    for (what, body, code, status) in [
        ("cancel", &Value::Null, "run_ended", 409),
        ("cancel", &Value::Null, "run_compensating", 409),
        ("cancel", &Value::Null, "already_cancelled", 409),
        ("pause", &Value::Null, "already_paused", 409),
        ("resume", &Value::Null, "not_paused", 409),
        ("signal", &json!({ "signal": "s" }), "too_many_signals", 409),
        ("decide", &denied, "approval_not_open", 409),
        ("decide", &denied, "invalid_decision", 409),
        ("decide", &denied, "input_changed", 409),
        ("decide", &denied, "self_approval", 403),
    ] {
        *said.lock() = refused(code);
        let answer = match what {
            "decide" => decide(&node, key, body).await,
            _ => control(&node, key, what, body).await,
        };
        assert_eq!(given(&answer), (status, code.to_owned()), "{what}");
        assert_eq!(answer.json()["detail"], format!("the run says {code}"));
    }
    *said.lock() = Answer::UnknownRun;
    let answer = control(&node, key, "cancel", &Value::Null).await;
    assert_eq!(given(&answer), (404, "not_found".to_owned()));
    let entries = audit_entries(&node, "approval.decided", 4).await;
    let refusals: Vec<(&str, Value)> = entries
        .iter()
        .map(|entry| {
            let detail: Value = serde_json::from_str(&entry.detail).unwrap();
            (entry.outcome.as_str(), detail["code"].clone())
        })
        .collect();
    assert!(
        refusals.contains(&("denied", "self_approval".into())),
        "{refusals:?}"
    );
    assert!(
        refusals.contains(&("failed", "input_changed".into())),
        "{refusals:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_answer_within_two_seconds_it_is_accepted() {
    let node = Node::start().await;
    let runs = StandIn::start(&node, Arc::new(|_| None));
    let began = Instant::now();
    let answer = control(&node, &node.admin, "pause", &Value::Null).await;
    let took = began.elapsed();
    assert_eq!(answer.status, StatusCode::ACCEPTED, "{}", answer.text);
    assert_eq!(answer.json()["status"], "accepted");
    assert!((2.0..4.0).contains(&took.as_secs_f64()), "{took:?}");
    assert_eq!(runs.take().kind, "pause");
    assert!(!node.followers.any());
    // Nobody knows yet what has become of it.
    let entry = audit_entries(&node, "run.paused", 1).await.remove(0);
    assert_eq!(entry.outcome, "accepted");

    node.log.set_mode(Mode::Fails);
    let answer = control(&node, &node.admin, "pause", &Value::Null).await;
    assert_eq!(given(&answer), (503, "log_unavailable".to_owned()));
    assert_eq!(runs.count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_decision_again_is_as_good_as_the_first() {
    let node = Node::start().await;
    // The run takes the first one in and ends.
    let first = AtomicBool::new(true);
    let answers = move |_: &Command| {
        let first = first.swap(false, Ordering::Relaxed);
        Some(if first {
            Answer::Done
        } else {
            refused("run_ended")
        })
    };
    let runs = StandIn::start(&node, Arc::new(answers));
    let approve = json!({ "decision": "approved", "input": { "a": 1, "b": 2 } });
    let again =
        json!({ "decision": "approved", "reason": "as I said", "input": { "b": 2, "a": 1 } });
    for body in [&approve, &approve, &again] {
        let answer = decide(&node, &node.admin, body).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
    }
    assert_eq!(runs.count(), 3);
    let bearer = node.bearer();
    let headers = [
        ("authorization", bearer.as_str()),
        ("content-type", "application/json"),
        ("omnilink-on-behalf-of", "bob"),
    ];
    let path = format!("/v1/approvals/{RUN}.4");
    let other_user = node
        .call(Method::POST, &path, &headers, approve.to_string())
        .await;
    assert_eq!(given(&other_user), (409, "run_ended".to_owned()));
    for body in [
        json!({ "decision": "denied" }),
        json!({ "decision": "approved" }),
    ] {
        let answer = decide(&node, &node.admin, &body).await;
        assert_eq!(given(&answer), (409, "run_ended".to_owned()), "{body}");
    }
    let path = format!("/v1/approvals/{RUN}.5");
    let answer = post(&node, &node.admin, &path, &approve).await;
    assert_eq!(given(&answer), (409, "run_ended".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_are_checked_strictly() {
    let node = Node::start().await;
    let runs = StandIn::start(&node, always(Answer::Done));
    let key = &node.admin;
    let invalid = (400, "invalid_payload".to_owned());
    let long = "x".repeat(513);
    for (what, body) in [
        ("cancel", json!({ "why": "x" })),
        ("cancel", json!({ "reason": "" })),
        ("cancel", json!({ "reason": long })),
        ("cancel", json!({ "reason": "a\nb" })),
        ("cancel", json!({ "compensate": "no" })),
        ("pause", json!({ "reason": "x" })),
        ("resume", json!([])),
        ("signal", json!({ "signal": "a\u{7}b" })),
        ("signal", json!({ "signal": "x".repeat(257) })),
        ("signal", json!({ "signal": "s", "payload": 1 })),
        ("decide", json!({ "decision": "maybe" })),
        ("decide", json!({ "decision": "denied", "input": 1 })),
        ("decide", json!({ "decision": "approved", "output": 1 })),
        (
            "decide",
            json!({ "decision": "approved", "input_hash": "AB" }),
        ),
        ("decide", json!({ "decision": "denied", "plan": {} })),
    ] {
        let answer = match what {
            "decide" => decide(&node, key, &body).await,
            _ => control(&node, key, what, &body).await,
        };
        assert_eq!(given(&answer), invalid, "{what} {body}");
    }
    let bearer = node.bearer();
    let headers = [
        ("authorization", bearer.as_str()),
        ("content-type", "application/json"),
    ];
    let path = format!("/v1/runs/{RUN}/signal");
    let deep = format!(
        r#"{{"signal":"s","data":{}{}}}"#,
        "[".repeat(200),
        "]".repeat(200)
    );
    for body in [
        r#"{"signal":"s","data":{"a":1,"a":2}}"#,
        r#"{"signal":"s","data":"\ud800"}"#,
        r#"{"signal":"s"} x"#,
        &deep,
    ] {
        let answer = node
            .call(Method::POST, &path, &headers, body.to_owned())
            .await;
        assert_eq!(given(&answer), invalid, "{body}");
    }
    let answer = control(&node, key, "signal", &json!({ "data": 1 })).await;
    assert_eq!(given(&answer), (400, "missing_signal".to_owned()));
    let answer = decide(&node, key, &json!({ "reason": "x" })).await;
    assert_eq!(given(&answer), (400, "missing_decision".to_owned()));
    let answer = decide(&node, key, &json!({ "decision": "approved", "plan": {} })).await;
    assert_eq!(given(&answer), (400, "invalid_plan".to_owned()));
    let large = |bytes: usize| json!({ "signal": "s", "data": "x".repeat(bytes) });
    for bytes in [129 * 1024, 300 * 1024] {
        let answer = control(&node, key, "signal", &large(bytes)).await;
        assert_eq!(given(&answer), (413, "payload_too_large".to_owned()));
    }
    let not_found = (404, "not_found".to_owned());
    for path in [
        "/v1/runs/nothing/cancel".to_owned(),
        format!("/v1/runs/{{{RUN}}}/cancel").replace(['{', '}'], "%7B"),
        format!("/v1/runs/{}/cancel", RUN.replace('-', "")),
    ] {
        let answer = post(&node, key, &path, &Value::Null).await;
        assert_eq!(given(&answer), not_found, "{path}");
    }
    for id in [
        RUN.to_owned(),
        format!("{RUN}."),
        format!("{RUN}.x"),
        format!("{RUN}.04"),
        format!("{RUN}.-4"),
    ] {
        let path = format!("/v1/approvals/{id}");
        let answer = post(&node, key, &path, &json!({ "decision": "denied" })).await;
        assert_eq!(given(&answer), not_found, "{id}");
    }
    assert_eq!(runs.count(), 0);
    assert_eq!(
        control(&node, key, "signal", &large(127 * 1024))
            .await
            .status,
        StatusCode::OK
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn permissions_users_and_tenants() {
    let node = Node::start().await;
    let runs = StandIn::start(&node, always(Answer::Done));
    let denied = (403, "permission_denied".to_owned());
    let lacks = |answer: &Response, permission: &str| {
        assert_eq!(given(answer), denied, "{}", answer.text);
        assert!(
            answer.text.contains(&format!("`{permission}`")),
            "{}",
            answer.text
        );
    };
    let writer = node.key("acme", scopes(&["runs:write"])).await;
    let decider = node.key("acme", scopes(&["approvals:decide"])).await;
    let approved = json!({ "decision": "approved" });
    lacks(
        &control(&node, &decider, "pause", &Value::Null).await,
        "runs:write",
    );
    lacks(&decide(&node, &writer, &approved).await, "approvals:decide");
    let abandon = json!({ "compensate": false });
    lacks(
        &control(&node, &writer, "cancel", &abandon).await,
        "runs:abandon",
    );
    let both = node.key("acme", scopes(&["runs:*"])).await;
    assert_eq!(
        control(&node, &both, "cancel", &abandon).await.status,
        StatusCode::OK
    );
    runs.take();

    // Users, and tenants, are named by those who may.
    let as_bob = async |key: &str| {
        let bearer = format!("Bearer {key}");
        let headers = [
            ("authorization", bearer.as_str()),
            ("omnilink-on-behalf-of", "bob"),
        ];
        node.call(Method::POST, &format!("/v1/runs/{RUN}/pause"), &headers, "")
            .await
    };
    lacks(&as_bob(&writer).await, "act_as");
    let actor = node.key("acme", scopes(&["runs:write", "act_as"])).await;
    assert_eq!(as_bob(&actor).await.status, StatusCode::OK);
    assert_eq!(runs.take().on_behalf_of.as_deref(), Some("bob"));
    let elsewhere = format!("/v1/runs/{RUN}/pause?tenant=other");
    let answer = post(&node, &writer, &elsewhere, &Value::Null).await;
    assert_eq!(given(&answer), denied);
    // `operator` names tenants, and decides nothing by itself.
    let operator = node.key("ops", scopes(&["operator"])).await;
    for path in [
        elsewhere.clone(),
        format!("/v1/approvals/{RUN}.4?tenant=other"),
    ] {
        let body = json!({ "decision": "approved" });
        let body = if path.contains("approvals") {
            &body
        } else {
            &Value::Null
        };
        let answer = post(&node, &operator, &path, body).await;
        assert_eq!(given(&answer), denied, "{path}");
    }
    let operator = node.key("ops", scopes(&["operator", "runs:write"])).await;
    let answer = post(&node, &operator, &elsewhere, &Value::Null).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
    assert_eq!(runs.take().tenant, "other");
    let unknown = post(
        &node,
        &writer,
        &format!("/v1/runs/{RUN}/pause?x=1"),
        &Value::Null,
    )
    .await;
    assert_eq!(given(&unknown), (400, "invalid_payload".to_owned()));

    let entries = audit_entries(&node, "run.paused", 2).await;
    let of_bob = entries
        .iter()
        .find(|entry| entry.on_behalf_of.is_some())
        .unwrap();
    assert_eq!(of_bob.on_behalf_of.as_deref(), Some("bob"));
    assert_eq!(
        (
            of_bob.resource_type.as_deref(),
            of_bob.resource_id.as_deref(),
            &*of_bob.outcome
        ),
        (Some("run"), Some(RUN), "ok")
    );
    assert!(entries.iter().any(|entry| entry.tenant == "other"));
    let entries = audit_entries(&node, "run.cancelled", 1).await;
    assert!(
        entries[0].detail.contains(r#""compensate":false"#),
        "{}",
        entries[0].detail
    );
    assert!(!audit_entries(&node, "request.denied", 1).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn controls_and_limits_hold_for_them_as_for_starts() {
    let node = Node::start().await;
    let runs = StandIn::start(&node, always(Answer::Done));
    let service = &node.admin;
    let person = node
        .key_of(KeyKind::Person, "acme", Scopes::all(), None)
        .await;
    let signal = json!({ "signal": "s" });
    let denied = json!({ "decision": "denied" });
    let all = async |key: &str| {
        let mut codes = Vec::new();
        for (what, body) in [
            ("cancel", &Value::Null),
            ("pause", &Value::Null),
            ("resume", &Value::Null),
            ("signal", &signal),
            ("decide", &denied),
        ] {
            let answer = match what {
                "decide" => decide(&node, key, body).await,
                _ => control(&node, key, what, body).await,
            };
            codes.push(if answer.status == StatusCode::OK {
                "ok".to_owned()
            } else {
                assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
                assert_eq!(answer.headers["retry-after"], "60");
                answer.code()
            });
        }
        codes
    };
    let set = async |kill_switch, operator_takeover| {
        let change = EmergencyChange {
            kill_switch: Some(kill_switch),
            operator_takeover: Some(operator_takeover),
            reason: "a drill".into(),
            ..EmergencyChange::default()
        };
        let now = omnilink::base::clock::Millis(0);
        node.controls
            .change_emergency(&change, "test", now)
            .await
            .unwrap();
    };
    assert_eq!(all(service).await, ["ok"; 5]);
    set(false, true).await;
    assert_eq!(all(service).await, ["operator_takeover"; 5]);
    assert_eq!(all(&person).await, ["ok"; 5]);
    // What is being done can always be ended.
    set(true, false).await;
    let off = "omnilink_disabled";
    assert_eq!(all(&person).await, ["ok", off, off, off, off]);
    set(false, false).await;

    let before = runs.count();
    let constraints = Constraints {
        max_rpm: 2,
        ..Constraints::default()
    };
    let limited = Scopes {
        permissions: vec!["*".into()],
        constraints,
    };
    let limited = node.key("acme", limited).await;
    for _ in 0..2 {
        assert_eq!(
            control(&node, &limited, "pause", &Value::Null).await.status,
            StatusCode::OK
        );
    }
    let answer = control(&node, &limited, "pause", &Value::Null).await;
    assert_eq!(given(&answer), (429, "rate_limit_exceeded".to_owned()));
    assert!(answer.headers.contains_key("ratelimit"));
    assert_eq!(runs.count(), before + 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_for_a_run_is_no_request_in_flight() {
    let node = Node::start().await;
    let _runs = StandIn::start(&node, Arc::new(|_| None));
    let constraints = Constraints {
        max_concurrency: 1,
        ..Constraints::default()
    };
    let one = Scopes {
        permissions: vec!["*".into()],
        constraints,
    };
    let key = node.key("acme", one).await;
    let first = control(&node, &key, "pause", &Value::Null);
    let second = async {
        tokio::time::sleep(Duration::from_millis(700)).await;
        control(&node, &key, "pause", &Value::Null).await
    };
    let (first, second) = tokio::join!(first, second);
    assert_eq!(
        (first.status, second.status),
        (StatusCode::ACCEPTED, StatusCode::ACCEPTED)
    );
}
