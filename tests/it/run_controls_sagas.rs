//! Runs are controlled and decided over HTTP, with the saga processor behind the port.

use std::time::{Duration, Instant};

use hyper::{Method, StatusCode};
use omnilink::{
    plans::jcs,
    runs::{RunRecord, StepCommand},
    stream::lane::Running,
    workflows::check_texts,
};
use serde_json::{Value, json};

use crate::support::{
    append,
    port::{Node, Response},
    read_all,
    sagas::{result, start_sagas},
};

/// Sensitive: a person decides before each call.
const PAY: &str = "
name: pay
worker: { claim: {} }
kind: payment
";
/// After its only attempt a person decides.
const CALL: &str = "
name: call
worker: { claim: {} }
kind: read
risk: { lane: safe }
retry: { max_attempts: 1 }
on_exhausted: hold
";

/// A node with the processor of runs.
struct Case {
    node: Node,
    /// A key of another principal than the one that starts runs.
    boss: String,
    _sagas: Running,
}

impl Case {
    async fn start() -> Self {
        let node = Node::start().await;
        let file = |name: &str, text: &str| (name.to_owned(), Ok(text.to_owned()));
        let checked = check_texts([file("pay.yaml", PAY), file("call.yaml", CALL)], []);
        let problems: Vec<_> = checked.problems.iter().map(|p| p.render(false)).collect();
        assert_eq!(problems, Vec::<String>::new());
        node.workflows.replace(checked.catalog.unwrap());
        let sagas = start_sagas(&node);
        let boss = node.person("acme", "boss").await;
        Self {
            node,
            boss,
            _sagas: sagas,
        }
    }

    /// Starts a run with a plan of these steps.
    async fn run(&self, id: &str, steps: &Value) -> String {
        let body = json!({
            "id": id, "source": "/erp/prod", "type": "test", "input": {}, "plan": { "steps": steps }
        });
        let bearer = self.node.bearer();
        let headers = [
            ("authorization", bearer.as_str()),
            ("content-type", "application/json"),
            ("idempotency-key", id),
        ];
        let answer = self
            .node
            .call(Method::POST, "/v1/workflows", &headers, body.to_string())
            .await;
        assert_eq!(answer.status, StatusCode::ACCEPTED, "{}", answer.text);
        answer.result(0)["run_id"].as_str().unwrap().to_owned()
    }

    async fn control(&self, run: &str, what: &str, body: &Value) -> Response {
        let path = format!("/v1/runs/{run}/{what}");
        self.node
            .request(Method::POST, &path, &self.node.admin, body)
            .await
    }

    async fn decide(&self, key: &str, run: &str, seq: i64, body: &Value) -> Response {
        let path = format!("/v1/approvals/{run}.{seq}");
        self.node.request(Method::POST, &path, key, body).await
    }

    /// The history of a run, once it has a record of this type.
    async fn until(&self, run: &str, kind: &str) -> Vec<RunRecord> {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let (log, topic) = (self.node.log.clone(), self.node.names.runs.to_string());
            let read = move || read_all(log.as_ref(), &topic, 1);
            let records = tokio::task::spawn_blocking(read).await.unwrap();
            let records = records.iter();
            let records = records.map(|fetched| {
                RunRecord::decode(fetched.record.value.as_deref().unwrap()).unwrap()
            });
            let history: Vec<_> = records.filter(|record| record.run_id == run).collect();
            if history.iter().any(|record| record.kind == kind) {
                return history;
            }
            assert!(Instant::now() < deadline, "no {kind}: {history:?}");
        }
    }

    /// The number of the only record of this type, and its body.
    async fn seq(&self, run: &str, kind: &str) -> (i64, Value) {
        let history = self.until(run, kind).await;
        let mut of_kind = history.iter().filter(|record| record.kind == kind);
        let record = of_kind.next().unwrap();
        assert!(of_kind.next().is_none(), "{history:?}");
        (record.seq, serde_json::from_str(&record.body).unwrap())
    }

    /// Answers the only call for workers.
    async fn answer_call(&self, output: Result<Value, (&'static str, bool)>) {
        let (log, steps) = (self.node.log.clone(), self.node.names.steps.to_string());
        let commands = self.node.names.commands.to_string();
        let answer = move || {
            let calls = read_all(log.as_ref(), &steps, 1);
            let [call] = &calls[..] else {
                panic!("{calls:?}");
            };
            let call = StepCommand::decode(call.record.value.as_deref().unwrap()).unwrap();
            let record = result(&call, output).encode().unwrap();
            append(log.as_ref(), &commands, vec![record]).unwrap();
        };
        tokio::task::spawn_blocking(answer).await.unwrap();
    }
}

fn given(answer: &Response) -> (u16, String) {
    (answer.status.as_u16(), answer.code())
}

fn done(answer: &Response) {
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
    assert_eq!(answer.json()["status"], "done");
}

#[tokio::test(flavor = "multi_thread")]
async fn signals_pauses_and_cancellations_reach_their_run() {
    let case = Case::start().await;
    let waits =
        json!([{ "id": "w", "tool": "wait", "input": { "signal": "paid", "timeout_s": 600 } }]);
    let run = case.run("1", &waits).await;
    done(&case.control(&run, "pause", &Value::Null).await);
    let again = case.control(&run, "pause", &Value::Null).await;
    assert_eq!(given(&again), (409, "already_paused".to_owned()));
    let paid = json!({ "signal": "paid", "data": { "amount": 5 } });
    done(&case.control(&run, "signal", &paid).await);
    done(&case.control(&run, "resume", &Value::Null).await);
    let (_, ended) = case.seq(&run, "step_succeeded").await;
    assert_eq!(ended["output"], json!({ "amount": 5 }));
    case.until(&run, "run_succeeded").await;
    for what in ["cancel", "pause", "resume"] {
        let late = case.control(&run, what, &Value::Null).await;
        assert_eq!(given(&late), (409, "run_ended".to_owned()), "{what}");
    }

    let run = case.run("2", &waits).await;
    let not_paused = case.control(&run, "resume", &Value::Null).await;
    assert_eq!(given(&not_paused), (409, "not_paused".to_owned()));
    for n in 0..100 {
        done(
            &case
                .control(&run, "signal", &json!({ "signal": "other", "data": n }))
                .await,
        );
    }
    let other = json!({ "signal": "other", "data": 100 });
    let full = case.control(&run, "signal", &other).await;
    assert_eq!(given(&full), (409, "too_many_signals".to_owned()));
    let why = json!({ "reason": "ordered twice" });
    done(&case.control(&run, "cancel", &why).await);
    let (_, cancelled) = case.seq(&run, "cancel_requested").await;
    assert_eq!(
        (&cancelled["by"], &cancelled["reason"]),
        (&"tester".into(), &"ordered twice".into())
    );

    // Nobody's run, and another tenant's.
    let nobody = case.control(
        "7dbd6d41-6f85-5f7b-98af-6637f5372c2e",
        "cancel",
        &Value::Null,
    );
    assert_eq!(given(&nobody.await), (404, "not_found".to_owned()));
    let run = case.run("3", &waits).await;
    let stranger = case.node.person("other", "eve").await;
    let path = format!("/v1/runs/{run}/cancel");
    let answer = case
        .node
        .request(Method::POST, &path, &stranger, &Value::Null)
        .await;
    assert_eq!(given(&answer), (404, "not_found".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn somebody_else_decides_an_approval_once() {
    let case = Case::start().await;
    let steps = json!([
        { "id": "ask", "tool": "approve", "input": { "message": "5 EUR for bob?" } },
        { "id": "w", "tool": "wait", "input": { "signal": "go", "timeout_s": 600 }, "depends_on": ["ask"] }
    ]);
    let run = case.run("1", &steps).await;
    let (seq, asked) = case.seq(&run, "approval_requested").await;
    assert_eq!(asked["message"], "5 EUR for bob?");
    let approved = json!({ "decision": "approved", "reason": "fine" });
    let denied = json!({ "decision": "denied" });
    for body in [&approved, &denied] {
        let own = case.decide(&case.node.admin, &run, seq, body).await;
        assert_eq!(given(&own), (403, "self_approval".to_owned()));
    }
    let incident = case
        .decide(&case.boss, &run, seq, &json!({ "decision": "retry" }))
        .await;
    assert_eq!(given(&incident), (409, "invalid_decision".to_owned()));
    let none = case.decide(&case.boss, &run, seq + 100, &approved).await;
    assert_eq!(given(&none), (409, "approval_not_open".to_owned()));
    let mut of_other = approved.clone();
    of_other["input_hash"] = "0".repeat(64).into();
    let changed = case.decide(&case.boss, &run, seq, &of_other).await;
    assert_eq!(given(&changed), (409, "input_changed".to_owned()));
    of_other["input_hash"] = asked["input_hash"].clone();
    done(&case.decide(&case.boss, &run, seq, &of_other).await);
    // The same again is as good as the first time: while the run goes on, and when it has ended.
    done(&case.decide(&case.boss, &run, seq, &approved).await);
    let second_thoughts = case.decide(&case.boss, &run, seq, &denied).await;
    assert_eq!(
        given(&second_thoughts),
        (409, "approval_not_open".to_owned())
    );
    done(
        &case
            .control(&run, "signal", &json!({ "signal": "go" }))
            .await,
    );
    case.until(&run, "run_succeeded").await;
    done(&case.decide(&case.boss, &run, seq, &approved).await);
    let second_thoughts = case.decide(&case.boss, &run, seq, &denied).await;
    assert_eq!(given(&second_thoughts), (409, "run_ended".to_owned()));
    let (_, decided) = case.seq(&run, "approval_decided").await;
    assert_eq!(
        (&decided["by"], &decided["reason"]),
        (&"boss".into(), &"fine".into())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sensitive_step_runs_with_the_input_that_was_approved() {
    let case = Case::start().await;
    let steps = json!([{ "id": "p", "tool": "pay", "input": { "amount": 500 } }]);
    let run = case.run("1", &steps).await;
    let (seq, asked) = case.seq(&run, "approval_requested").await;
    assert_eq!(
        (&asked["lane"], &asked["input"]),
        (&"RED".into(), &json!({ "amount": 500 }))
    );
    assert_eq!(asked["input_hash"], jcs::hash(&json!({ "amount": 500 })));
    let body = json!({ "decision": "approved", "input": { "amount": 450 } });
    done(&case.decide(&case.boss, &run, seq, &body).await);
    let (_, scheduled) = case.seq(&run, "step_scheduled").await;
    assert_eq!(scheduled["input"], json!({ "amount": 450 }));
    case.answer_call(Ok(json!({ "paid": true }))).await;
    case.until(&run, "run_succeeded").await;

    let run = case.run("2", &steps).await;
    let (seq, _) = case.seq(&run, "approval_requested").await;
    let body = json!({ "decision": "denied", "reason": "too much" });
    done(&case.decide(&case.boss, &run, seq, &body).await);
    let (_, ended) = case.seq(&run, "run_denied").await;
    assert_eq!(ended["error"]["message"], "too much");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_incident_is_work_and_anybody_may_decide_it() {
    let case = Case::start().await;
    let steps = json!([{ "id": "c", "tool": "call", "input": {} }]);
    let run = case.run("1", &steps).await;
    case.until(&run, "step_scheduled").await;
    case.answer_call(Err(("http_503", true))).await;
    let (seq, _) = case.seq(&run, "incident_opened").await;
    let wrong = case
        .decide(&case.boss, &run, seq, &json!({ "decision": "approved" }))
        .await;
    assert_eq!(given(&wrong), (409, "invalid_decision".to_owned()));
    let skip = json!({ "decision": "skip", "output": { "called": "by hand" } });
    done(&case.decide(&case.node.admin, &run, seq, &skip).await);
    let (_, skipped) = case.seq(&run, "step_skipped").await;
    assert_eq!(skipped["output"], json!({ "called": "by hand" }));
    case.until(&run, "run_succeeded").await;
    done(&case.decide(&case.node.admin, &run, seq, &skip).await);
}
