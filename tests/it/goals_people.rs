//! Goals over HTTP: how they are shown before and after they have a plan, the plans that people give, and repeating them.

use std::{sync::Arc, time::Duration};

use hyper::{Method, StatusCode};
use omnilink::{
    base::clock::SystemClock,
    commands::{Command, plan::PlanAnswer, start::Start},
    log::{Append, Log},
    projections::{Projector, Setup},
    runs::{Json, PlanRequest},
    saga::{Sagas, Settings},
    stream::{
        lane::{self, Running},
        progress::Progress,
    },
    workflows::check_texts,
};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{
    planner::{answer, fails, plans, requests},
    port::{Node, Response},
    projections::Database,
    read_all,
    sagas::goal_with,
};

/// Harmless.
const CALL: &str = "
name: call
description: calls
worker: { claim: {} }
kind: read
risk: { lane: safe }
";

/// A node with the processor of runs.
struct Case {
    node: Node,
    _sagas: Running,
}

impl Case {
    fn of(node: Node) -> Self {
        let checked = check_texts([("call.yaml".to_owned(), Ok(CALL.to_owned()))], []);
        node.workflows.replace(checked.catalog.unwrap());
        let sagas = Sagas::new(&node.names, 4, Settings::default(), node.followers.clone());
        let setup = lane::Setup {
            log: node.log.clone(),
            dlq: node.names.dlq.clone(),
            clock: Arc::new(SystemClock),
            progress: Arc::<Progress>::default(),
        };
        let sagas = lane::start(Arc::new(sagas), setup).unwrap();
        Self {
            node,
            _sagas: sagas,
        }
    }

    async fn append(&self, command: &Command) {
        let append = Append {
            topic: self.node.names.commands.clone(),
            record: command.encode().unwrap(),
        };
        let appended = self.node.log.append(vec![append], None);
        appended.await.unwrap().unwrap();
    }

    /// Starts a goal; returns the run and its request for a plan.
    async fn goal(&self, id: &str) -> (String, PlanRequest) {
        let params = json!({ "slots": { "EMAIL_1": "{EMAIL_1}" } });
        let (run, start) = goal_with(id, "Write to {EMAIL_1}", &params, |start| {
            start.sealed = Some("only-sealed".into());
        });
        self.append(&start).await;
        let (log, names) = (self.node.log.clone(), self.node.names.clone());
        let of = run.clone();
        let read = move || {
            for _ in 0..100 {
                let all = requests(&*log, &names, 1);
                if let Some(asked) = all.into_iter().find(|asked| asked.run_id == of) {
                    return asked;
                }
            }
            panic!("no request");
        };
        let asked = tokio::task::spawn_blocking(read).await.unwrap();
        (run, asked)
    }

    async fn answer(&self, asked: &PlanRequest, with: &PlanAnswer) {
        self.append(&answer(asked, with)).await;
    }

    async fn request(&self, method: Method, path: &str, body: &Value) -> Response {
        let node = &self.node;
        node.request(method, path, &node.admin, body).await
    }

    /// Decides, once the run asks.
    async fn decide(&self, run: &str, body: &Value) -> Response {
        let path = format!("/v1/approvals/{run}.3");
        for _ in 0..100 {
            let response = self.request(Method::POST, &path, body).await;
            let open =
                response.status != StatusCode::CONFLICT || response.code() != "approval_not_open";
            if open {
                return response;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("the run does not ask for a plan");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_gives_the_plan_of_a_goal() {
    let case = Case::of(Node::start().await);
    let (run, asked) = case.goal("1").await;
    case.answer(&asked, &fails(&asked, "nobody knows how"))
        .await;
    let steps =
        json!([{ "id": "a", "tool": "wait", "input": { "signal": "{{ slots.EMAIL_1 }}" } }]);
    let good = json!({ "decision": "approved", "plan": { "steps": steps } });
    for (body, status, code) in [
        (json!({ "decision": "approved" }), 400, "plan_required"),
        (
            json!({ "decision": "denied", "plan": { "steps": steps } }),
            400,
            "invalid_payload",
        ),
        (
            json!({ "decision": "approved", "input": {}, "plan": { "steps": steps } }),
            400,
            "invalid_payload",
        ),
        (
            json!({ "decision": "approved", "plan": { "steps": [] } }),
            400,
            "invalid_plan",
        ),
        (
            json!({ "decision": "approved", "plan": { "steps": [{ "id": "a", "tool": "unknown" }] } }),
            400,
            "invalid_plan",
        ),
        (
            json!({ "decision": "approved", "plan": { "steps": [{ "id": "a", "tool": "noop", "input": "x".repeat(140_000) }] } }),
            413,
            "payload_too_large",
        ),
        (json!({ "decision": "retry" }), 409, "invalid_decision"),
    ] {
        let refused = case.decide(&run, &body).await;
        assert_eq!(
            (refused.status.as_u16(), &*refused.code()),
            (status, code),
            "{}",
            refused.text
        );
    }
    let decided = case.decide(&run, &good).await;
    assert_eq!(decided.status, StatusCode::OK, "{}", decided.text);
    // The same plan again, with its members in another order, changes nothing; another one does not replace it.
    let again = json!({ "plan": { "steps": steps }, "decision": "approved" });
    let again = case.decide(&run, &again).await;
    assert_eq!(again.status, StatusCode::OK, "{}", again.text);
    let path = format!("/v1/approvals/{run}.3");
    let other =
        json!({ "decision": "approved", "plan": { "steps": [{ "id": "b", "tool": "noop" }] } });
    let other = case.request(Method::POST, &path, &other).await;
    assert_eq!(other.code(), "approval_not_open");
    // The plan uses the slot.
    let signal = json!({ "signal": "{EMAIL_1}", "data": 1 });
    let signalled = case
        .request(Method::POST, &format!("/v1/runs/{run}/signal"), &signal)
        .await;
    assert_eq!(signalled.status, StatusCode::OK, "{}", signalled.text);
}

/// A node with Postgres, whose `runs` are projected.
struct Shown {
    case: Option<Case>,
    projector: Option<Projector>,
    database: Database,
}

impl Shown {
    fn start() -> Option<Self> {
        let database = Database::new()?;
        let dir = TempDir::new().unwrap();
        let store = Some(database.store());
        let node = database.runtime.block_on(Node::start_on(dir, None, store));
        let setup = Setup {
            store: database.store(),
            log: node.log.clone(),
            topic: node.names.runs.clone(),
            dlq: node.names.dlq.clone(),
            clock: Arc::new(SystemClock),
            runtime: database.runtime.handle().clone(),
            progress: Arc::new(Progress::default()),
        };
        let projector = Some(Projector::start_runs(&setup, 1).unwrap());
        Some(Self {
            case: Some(Case::of(node)),
            projector,
            database,
        })
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        drop(self.case.take());
        drop(self.projector.take());
    }
}

/// The run, once it has this status.
async fn shown(case: &Case, run: &str, status: &str) -> Value {
    let mut last = Value::Null;
    for _ in 0..200 {
        let response = case
            .request(Method::GET, &format!("/v1/runs/{run}"), &Value::Null)
            .await;
        last = response.json();
        if last["status"] == status {
            return last;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("not {status}: {last}");
}

#[test]
fn a_goal_is_shown_without_its_sealed_values_and_repeated_with_its_plan() {
    let Some(world) = Shown::start() else {
        return;
    };
    let case = world.case.as_ref().unwrap();
    world.database.runtime.block_on(async {
        let (run, asked) = case.goal("1").await;
        let view = shown(case, &run, "planning").await;
        assert_eq!(view["goal"], "Write to {EMAIL_1}");
        assert_eq!((&view["plan"], &view["steps"]), (&Value::Null, &json!([])));
        let status = format!("/workflows/{run}/status");
        let status = case.request(Method::GET, &status, &Value::Null).await;
        assert_eq!(status.json()["status"], "running", "{}", status.text);
        let listed = case.request(Method::GET, "/v1/runs?status=planning", &Value::Null).await;
        assert_eq!(listed.json()["items"].as_array().unwrap().len(), 1);

        let steps = json!([{ "id": "a", "tool": "call", "input": "{{ slots.EMAIL_1 }}" }, { "id": "b", "tool": "call" }]);
        let mut found = plans(&asked, &json!({ "steps": steps }), &[
            json!({ "name": "call", "description": "calls", "worker": { "claim": {} }, "kind": "read", "risk": { "lane": "safe" } }),
        ]);
        found.params = Some(Json::of(&json!({ "n": 7 })));
        found.red.insert("b".into(), vec!["host_not_allowed".into()]);
        case.answer(&asked, &found).await;
        let view = shown(case, &run, "running").await;
        assert_eq!((&view["plan"]["source"], &view["plan"]["steps"]), (&json!("llm"), &steps));
        assert_eq!((&view["steps"][0]["status"], &view["params"]), (&json!("running"), &json!({ "n": 7 })));
        assert_eq!(view["approvals"][0]["reasons"], json!(["host_not_allowed"]));

        let cancel = json!({ "reason": "enough" });
        let cancelled = case.request(Method::POST, &format!("/v1/runs/{run}/cancel"), &cancel).await;
        assert_eq!(cancelled.status, StatusCode::OK, "{}", cancelled.text);
        shown(case, &run, "cancelled").await;
        let path = format!("/v1/runs/{run}/events");
        let history = case.request(Method::GET, &path, &Value::Null).await;
        let bearer = case.node.bearer();
        let headers = [("authorization", &*bearer), ("accept", "text/event-stream")];
        let stream = case.node.call(Method::GET, &path, &headers, "").await;
        for text in [&history.text, &stream.text] {
            assert!(text.contains("plan_requested") && text.contains("host_not_allowed"), "{text}");
            assert!(!text.contains("sealed"), "{text}");
        }

        let headers = [("authorization", &*bearer), ("content-type", "application/json"), ("idempotency-key", "again")];
        let path = format!("/v1/runs/{run}/retry");
        let retried = case.node.call(Method::POST, &path, &headers, "{}").await;
        assert_eq!(retried.status, StatusCode::ACCEPTED, "{}", retried.text);
        let again = retried.result(0)["run_id"].as_str().unwrap().to_owned();
        let view = shown(case, &again, "running").await;
        assert_eq!((&view["goal"], &view["params"]), (&json!("Write to {EMAIL_1}"), &json!({ "n": 7 })));
        assert_eq!(view["plan"]["source"], "llm");
        assert_eq!(view["approvals"][0]["reasons"], json!(["host_not_allowed"]));
        let (log, topic) = (case.node.log.clone(), case.node.names.commands.clone());
        let records = tokio::task::spawn_blocking(move || read_all(&*log, &topic, 1)).await.unwrap();
        let commands = records.iter().filter_map(|fetched| Command::decode(fetched.record.value.as_deref()?));
        let start = commands.filter(|command| command.run_id == again).find_map(|command| Start::decode(&command));
        let start = start.unwrap();
        assert_eq!(start.sealed.as_deref(), Some("only-sealed"));
        assert_eq!(start.slots, [("EMAIL_1".to_owned(), json!("{EMAIL_1}"))].into());
    });
}

/// There is nothing to repeat but with a plan.
#[test]
fn a_goal_without_a_plan_is_repeated_only_with_one() {
    let Some(world) = Shown::start() else {
        return;
    };
    let case = world.case.as_ref().unwrap();
    world.database.runtime.block_on(async {
        let (run, _) = case.goal("1").await;
        case.request(Method::POST, &format!("/v1/runs/{run}/cancel"), &json!({}))
            .await;
        let view = shown(case, &run, "cancelled").await;
        assert_eq!(view["plan"], Value::Null);
        let bearer = case.node.bearer();
        let retry = async |key: &str, body: &Value| {
            let headers = [
                ("authorization", &*bearer),
                ("content-type", "application/json"),
                ("idempotency-key", key),
            ];
            let path = format!("/v1/runs/{run}/retry");
            case.node
                .call(Method::POST, &path, &headers, body.to_string())
                .await
        };
        let refused = retry("1", &json!({})).await;
        assert_eq!(refused.code(), "invalid_retry");
        let plan =
            json!({ "steps": [{ "id": "a", "tool": "noop", "input": "{{ slots.EMAIL_1 }}" }] });
        let started = retry("2", &json!({ "plan": plan })).await;
        assert_eq!(started.status, StatusCode::ACCEPTED, "{}", started.text);
        let again = started.result(0)["run_id"].as_str().unwrap().to_owned();
        let view = shown(case, &again, "succeeded").await;
        assert_eq!(view["steps"][0]["output"], "{EMAIL_1}");
    });
}
