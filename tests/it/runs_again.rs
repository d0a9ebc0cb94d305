//! Runs that are repeated, and decisions that are sent again, from what Postgres has of a run: the saga processor and the projection of
//! runs behind the port.

use std::time::{Duration, Instant};

use hyper::{Method, StatusCode};
use omnilink::{
    projections::Projector,
    runs::{CallKind, StepCommand, TaskState},
    stream::lane::Running,
    workflows::check_texts,
};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{
    port::{Node, Response},
    projections::Database,
    read_all,
    sagas::{append_command, command, result, start_sagas},
};

/// It is undone.
const BOOK: &str = "
name: book
worker: { claim: {} }
kind: write
risk: { lane: safe }
compensate: { tool: undo, input: { of: \"{{ step.output }}\" } }
";
const UNDO: &str = "
name: undo
worker: { claim: {} }
kind: write
risk: { lane: safe }
";
/// It is not.
const LOOK: &str = "
name: look
worker: { claim: {} }
kind: read
risk: { lane: safe }
";

struct Case {
    node: Node,
    sagas: Option<Running>,
    projector: Option<Projector>,
    database: Database,
}

impl Drop for Case {
    fn drop(&mut self) {
        drop(self.sagas.take());
        drop(self.projector.take());
    }
}

impl Case {
    /// `None` without a Postgres.
    fn start() -> Option<Self> {
        let database = Database::new()?;
        let store = Some(database.store());
        let dir = TempDir::new().unwrap();
        let node = database.runtime.block_on(Node::start_on(dir, None, store));
        let file = |name: &str, text: &str| (name.to_owned(), Ok(text.to_owned()));
        let tools = [
            file("book.yaml", BOOK),
            file("undo.yaml", UNDO),
            file("look.yaml", LOOK),
        ];
        let checked = check_texts(tools, []);
        let problems: Vec<_> = checked.problems.iter().map(|p| p.render(false)).collect();
        assert_eq!(problems, Vec::<String>::new());
        node.workflows.replace(checked.catalog.unwrap());
        let sagas = Some(start_sagas(&node));
        let setup = database.setup_on(&node, &node.names.runs);
        let projector = Some(Projector::start_runs(&setup, 1).unwrap());
        Some(Self {
            node,
            sagas,
            projector,
            database,
        })
    }

    async fn post(&self, path: &str, id: &str, body: &Value) -> Response {
        let bearer = self.node.bearer();
        let headers = [
            ("authorization", bearer.as_str()),
            ("content-type", "application/json"),
            ("idempotency-key", id),
        ];
        self.node
            .call(Method::POST, path, &headers, body.to_string())
            .await
    }

    /// Starts a run with a plan of these steps.
    async fn start_run(&self, id: &str, steps: &Value) -> String {
        let body = json!({ "id": id, "source": "/erp/prod", "type": "test", "input": {}, "plan": { "steps": steps } });
        started(&self.post("/v1/workflows", id, &body).await)
    }

    async fn retry(&self, run: &str, id: &str, body: &Value) -> Response {
        self.post(&format!("/v1/runs/{run}/retry"), id, body).await
    }

    async fn cancel(&self, run: &str, compensate: bool) {
        let path = format!("/v1/runs/{run}/cancel");
        let body = json!({ "compensate": compensate });
        let answer = self
            .node
            .request(Method::POST, &path, &self.node.admin, &body)
            .await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
    }

    /// A run, once it is so.
    async fn until(&self, run: &str, what: impl Fn(&Value) -> bool) -> Value {
        let path = format!("/v1/runs/{run}");
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let key = &self.node.admin;
            let answer = self.node.request(Method::GET, &path, key, &Value::Null);
            let view = answer.await.json();
            if what(&view) {
                return view;
            }
            assert!(Instant::now() < deadline, "{view}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn until_ended(&self, run: &str, status: &str) {
        self.until(run, |view| view["status"] == status).await;
    }

    /// The calls of a run so far, oldest first.
    async fn calls(&self, run: &str) -> Vec<StepCommand> {
        let (log, topic) = (self.node.log.clone(), self.node.names.steps.to_string());
        let read = move || read_all(log.as_ref(), &topic, 0);
        let records = tokio::task::spawn_blocking(read).await.unwrap();
        let calls = records
            .iter()
            .map(|fetched| StepCommand::decode(fetched.record.value.as_deref().unwrap()).unwrap());
        calls
            .filter(|call| call.run_id == run && call.state.0 == TaskState::Scheduled)
            .collect()
    }

    /// Waits for a call, and answers it.
    async fn answer(&self, run: &str, step: &str, kind: CallKind) {
        let deadline = Instant::now() + Duration::from_secs(20);
        let call = loop {
            let calls = self.calls(run).await;
            let mut of_step = calls.iter().filter(|call| call.step_id == step);
            if let Some(call) = of_step.find(|call| call.kind() == kind) {
                break call.clone();
            }
            assert!(Instant::now() < deadline, "{step}: {calls:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        append_command(&self.node, &result(&call, Ok(json!({ "n": step })))).await;
    }
}

fn started(answer: &Response) -> String {
    assert_eq!(answer.status, StatusCode::ACCEPTED, "{}", answer.text);
    answer.result(0)["run_id"].as_str().unwrap().to_owned()
}

fn given(answer: &Response) -> (u16, String) {
    (answer.status.as_u16(), answer.code())
}

/// `seat` is done before `late`, which comes first in the plan; then the run waits.
fn trip(tool: &str) -> Value {
    json!([
        { "id": "late", "tool": tool, "input": {}, "depends_on": ["seat"] },
        { "id": "never", "tool": tool, "input": {}, "when": false },
        { "id": "seat", "tool": tool, "input": {}, "depends_on": ["never"] },
        { "id": "w", "tool": "wait", "input": { "signal": "go", "timeout_s": 600 }, "depends_on": ["late"] }
    ])
}

/// A run of `trip` that is cancelled, and keeps what it has done.
async fn cancelled(case: &Case, id: &str, tool: &str) -> String {
    let run = case.start_run(id, &trip(tool)).await;
    case.answer(&run, "seat", CallKind::Execute).await;
    case.answer(&run, "late", CallKind::Execute).await;
    let done = |view: &Value| view["steps"][0]["status"] == "succeeded";
    case.until(&run, done).await;
    case.cancel(&run, false).await;
    case.until_ended(&run, "cancelled").await;
    run
}

fn reuse() -> Value {
    json!({ "reuse": true })
}

#[test]
fn what_a_later_run_has_taken_over_is_repeated_from_there() {
    let Some(case) = Case::start() else {
        return;
    };
    case.database.runtime.block_on(async {
        let old = cancelled(&case, "1", "book").await;
        let newer = started(&case.retry(&old, "again", &reuse()).await);
        let reused = |view: &Value| {
            let steps = [&view["steps"][0], &view["steps"][2]];
            steps
                .iter()
                .all(|step| step["status"] == "succeeded" && step["attempts"] == 0)
        };
        case.until(&newer, reused).await;
        // It may yet undo them.
        let other = case.retry(&old, "other", &reuse()).await;
        assert_eq!(given(&other), (409, "invalid_retry".to_owned()));
        assert!(other.text.contains(&newer), "{}", other.text);
        // The same again is the same run.
        let again = case.retry(&old, "again", &reuse()).await;
        assert_eq!(started(&again), newer);
        assert_eq!(again.result(0)["duplicate"], true);

        case.cancel(&newer, true).await;
        // What ended last in the old run is undone first, whatever the order of the plan.
        case.answer(&newer, "late", CallKind::Compensate).await;
        case.answer(&newer, "seat", CallKind::Compensate).await;
        case.until_ended(&newer, "cancelled").await;
        let undone = case.calls(&newer).await;
        let undone: Vec<_> = undone.iter().map(|call| &*call.step_id).collect();
        assert_eq!(undone, ["late", "seat"]);

        let undone = case.retry(&old, "undone", &reuse()).await;
        assert_eq!(given(&undone), (409, "invalid_retry".to_owned()));
        // All of it again, or what the newer run has left: nothing.
        started(&case.retry(&old, "whole", &json!({})).await);
        let next = started(&case.retry(&newer, "next", &reuse()).await);
        case.answer(&next, "seat", CallKind::Execute).await;
    });
}

#[test]
fn steps_of_an_edited_plan_are_reused_with_their_ancestors() {
    let Some(case) = Case::start() else {
        return;
    };
    case.database.runtime.block_on(async {
        let old = cancelled(&case, "1", "look").await;
        let edited = |step: usize, input: Value| {
            let mut steps = trip("look");
            steps[step]["input"] = input;
            json!({ "reuse": true, "plan": { "steps": steps } })
        };
        let longer = edited(3, json!({ "signal": "go", "timeout_s": 60 }));
        let run = started(&case.retry(&old, "longer", &longer).await);
        let reused = |view: &Value| {
            let attempts = [0, 2].map(|step| view["steps"][step]["attempts"].clone());
            view["steps"][3]["status"] == "running" && attempts == [json!(0), json!(0)]
        };
        case.until(&run, reused).await;
        assert_eq!(case.calls(&run).await, []);
        // `late` is as it was, but `seat` is another one.
        let other_seat = edited(2, json!({ "row": 7 }));
        let run = started(&case.retry(&old, "seat", &other_seat).await);
        case.answer(&run, "seat", CallKind::Execute).await;
        case.answer(&run, "late", CallKind::Execute).await;
        case.until(&run, |view| view["steps"][3]["status"] == "running")
            .await;
    });
}

#[test]
fn a_run_whose_history_is_damaged_is_not_repeated() {
    let Some(case) = Case::start() else {
        return;
    };
    let old = case
        .database
        .runtime
        .block_on(cancelled(&case, "1", "book"));
    let retry = |id: &str| {
        let retried = case.database.runtime.block_on(async {
            let answer = case.retry(&old, id, &reuse()).await;
            (given(&answer), answer.text)
        });
        let ((status, code), text) = retried;
        assert_eq!((status, &*code), (503, "postgres_unavailable"), "{text}");
        text
    };
    // The row with the record.
    let of_record =
        format!("run_id = '{old}' AND first_seq <= 4 AND first_seq + cardinality(types) > 4");
    let change = |what: &str| case.database.run(&format!("{what} WHERE {of_record}"));
    change(
        "UPDATE omnilink.run_history SET types[(4 - first_seq + 1)::int] = 'of_a_later_version'",
    );
    assert!(retry("1").contains("record 4 of the run's history cannot be read"));
    // It loses this record and those after it.
    change(
        "UPDATE omnilink.run_history SET types = types[:(4 - first_seq)::int], at = at[:(4 - first_seq)::int], \
         records = records[:(4 - first_seq)::int]",
    );
    assert!(retry("2").contains("record 4 of the run's history is missing"));
}

#[test]
fn a_decision_is_known_when_its_run_has_ended() {
    let Some(case) = Case::start() else {
        return;
    };
    case.database.runtime.block_on(async {
        let steps = json!([{ "id": "ask", "tool": "approve", "input": { "message": "Well?" } }]);
        let run = case.start_run("1", &steps).await;
        let asked = |view: &Value| view["approvals"][0]["status"] == "pending";
        let view = case.until(&run, asked).await;
        let approval = view["approvals"][0]["id"].as_str().unwrap().to_owned();
        let (_, seq) = approval.split_once('.').unwrap();
        // This node has not seen the decision.
        let body = json!({ "approval": seq.parse::<u64>().unwrap(), "decision": "approved", "value": { "message": "Well!" } });
        let mut decision = command(&run, "decision", &body);
        decision.principal = "boss".into();
        append_command(&case.node, &decision).await;
        let (boss, chief) = (case.node.person("acme", "boss").await, case.node.person("acme", "chief").await);
        let path = format!("/v1/approvals/{approval}");
        let decide =
            async |key: &str, body: &Value| case.node.request(Method::POST, &path, key, body).await;
        let same = json!({ "decision": "approved", "input": { "message": "Well!" } });
        // Also right after the end.
        let again = decide(&boss, &same).await;
        assert_eq!(again.status, StatusCode::OK, "{}", again.text);
        case.until_ended(&run, "succeeded").await;
        let again = decide(&boss, &same).await;
        assert_eq!(again.status, StatusCode::OK, "{}", again.text);
        let ended = (409, "run_ended".to_owned());
        assert_eq!(given(&decide(&chief, &same).await), ended);
        for other in [
            json!({ "decision": "approved" }),
            json!({ "decision": "denied" }),
            json!({ "decision": "approved", "input": { "message": "Well?" } }),
        ] {
            assert_eq!(given(&decide(&boss, &other).await), ended, "{other}");
        }
    });
}
