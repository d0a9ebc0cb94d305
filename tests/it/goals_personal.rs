//! What people send to the run of a goal and repeats its personal data: it has placeholders before it is appended and audited.

use std::{sync::Arc, time::Duration};

use hyper::{Method, StatusCode};
use omnilink::{
    controls::SecretKeys,
    guardian::{Kind, Slot},
    log::topics::Names,
    projections::Projector,
    saga::Settings,
    slots::seal,
    stream::lane::Running,
    workflows::check_texts,
};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{
    planner::{answer, fails, requests},
    port::{Node, Response},
    projections::Database,
    sagas::{append_command, goal_with, start_sagas_with},
    values::{EMAIL, assert_nowhere, topics_of_runs},
};

/// Its calls wait for a person.
const PAY: &str = "
name: pay
description: pays
worker: { claim: {} }
kind: payment
";

/// A node with the processor of runs, and the keys of the node.
struct Case {
    node: Node,
    _sagas: Running,
}

impl Case {
    fn of(node: Node) -> Self {
        let checked = check_texts([("pay.yaml".to_owned(), Ok(PAY.to_owned()))], []);
        node.workflows.replace(checked.catalog.unwrap());
        let secrets = SecretKeys::open_or_create(node.dir.path()).unwrap();
        let settings = Settings {
            secrets: Some(Arc::new(secrets)),
            ..Settings::default()
        };
        let sagas = start_sagas_with(&node, settings);
        Self {
            node,
            _sagas: sagas,
        }
    }

    /// A goal for which there is no plan: its run asks a person.
    async fn goal(&self) -> String {
        let params = json!({ "slots": { "EMAIL_1": "{EMAIL_1}" } });
        let (run, mut start) = goal_with("1", "Pay {EMAIL_1}", &params, |_| {});
        let slot = Slot {
            kind: Kind::Email,
            name: "EMAIL_1".into(),
            value: EMAIL.into(),
        };
        let keys = SecretKeys::open_or_create(self.node.dir.path()).unwrap();
        let mut body: Value = serde_json::from_str(&start.body).unwrap();
        body["sealed"] = seal(&keys, &run, &[slot]).into();
        start.body = body.to_string();
        append_command(&self.node, &start).await;
        let (log, names) = (self.node.log.clone(), self.node.names.clone());
        let read = move || requests(&*log, &names, 1).remove(0);
        let asked = tokio::task::spawn_blocking(read).await.unwrap();
        let no_plan = answer(&asked, &fails(&asked, "nobody knows how"));
        append_command(&self.node, &no_plan).await;
        run
    }

    async fn post(&self, path: &str, body: &Value) -> Response {
        let node = &self.node;
        node.request(Method::POST, path, &node.admin, body).await
    }

    /// Decides an approval, once the run asks.
    async fn decide(&self, id: &str, body: &Value) {
        for _ in 0..100 {
            let response = self.post(&format!("/v1/approvals/{id}"), body).await;
            if response.status == StatusCode::OK {
                return;
            }
            assert_eq!(response.code(), "approval_not_open", "{}", response.text);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("the run does not ask");
    }

    async fn assert_hidden(&self, topics: &[Arc<str>]) {
        // The audit log is written a little later.
        tokio::time::sleep(Duration::from_millis(300)).await;
        let (log, topics) = (self.node.log.clone(), topics.to_vec());
        let search = move || assert_nowhere(&*log, &topics, &[EMAIL]);
        tokio::task::spawn_blocking(search).await.unwrap();
    }
}

/// A plan and a reason of somebody who has seen the values.
fn plan() -> Value {
    let input = json!({ "to": EMAIL, "text": format!("for {EMAIL} {{{{ params.n | default('{EMAIL}') }}}}") });
    let steps = json!([{ "id": "a", "tool": "pay", "input": input }]);
    json!({ "decision": "approved", "reason": format!("{EMAIL} said so"), "plan": { "steps": steps } })
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
        let setup = database.setup_on(&node, &node.names.runs);
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

/// The run, once this is true of it.
async fn shown(case: &Case, run: &str, is: impl Fn(&Value) -> bool) -> Value {
    let node = &case.node;
    let mut last = Value::Null;
    for _ in 0..200 {
        let path = format!("/v1/runs/{run}");
        let response = node
            .request(Method::GET, &path, &node.admin, &Value::Null)
            .await;
        last = response.json();
        if is(&last) {
            return last;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{last}");
}

#[test]
fn what_people_send_has_placeholders_before_it_is_appended_and_audited() {
    let Some(world) = Shown::start() else {
        return;
    };
    let case = world.case.as_ref().unwrap();
    world.database.runtime.block_on(async {
        let run = case.goal().await;
        case.decide(&format!("{run}.3"), &plan()).await;
        let hidden = json!({ "to": "{EMAIL_1}", "text": "for {EMAIL_1} {{ params.n | default('{EMAIL_1}') }}" });
        let asks = |view: &Value| view["approvals"][1]["status"] == "pending";
        let view = shown(case, &run, asks).await;
        assert_eq!(view["plan"]["steps"][0]["input"], hidden, "{view}");
        assert_eq!(view["approvals"][0]["reason"], "{EMAIL_1} said so");

        let id = view["approvals"][1]["id"].as_str().unwrap().to_owned();
        let changed = json!({ "decision": "approved", "reason": format!("to {EMAIL}"), "input": { "to": EMAIL, "n": 1 } });
        case.decide(&id, &changed).await;
        // The same decision again.
        case.decide(&id, &changed).await;
        let runs = |view: &Value| view["approvals"][1]["status"] == "approved";
        let view = shown(case, &run, runs).await;
        assert_eq!(view["approvals"][1]["reason"], "to {EMAIL_1}", "{view}");

        let signal = json!({ "signal": "s", "data": [EMAIL] });
        let signalled = case.post(&format!("/v1/runs/{run}/signal"), &signal).await;
        assert_eq!(signalled.status, StatusCode::OK, "{}", signalled.text);
        let cancel = json!({ "reason": format!("not for {EMAIL}"), "compensate": false });
        let cancelled = case.post(&format!("/v1/runs/{run}/cancel"), &cancel).await;
        assert_eq!(cancelled.status, StatusCode::OK, "{}", cancelled.text);
        shown(case, &run, |view| view["status"] == "cancelled").await;
        let feedback = json!({ "good": false, "reason": format!("{EMAIL} is wrong") });
        let given = case.post(&format!("/v1/runs/{run}/feedback"), &feedback).await;
        assert_eq!(given.status, StatusCode::OK, "{}", given.text);

        for (action, reason) in [("approval.decided", "to {EMAIL_1}"), ("feedback.given", "{EMAIL_1} is wrong")] {
            let entries = crate::support::audit_entries(&case.node, action, 1).await;
            let reasons: Vec<_> = entries.iter().map(|entry| &entry.detail).collect();
            assert!(reasons.iter().any(|detail| detail.contains(reason)), "{reasons:?}");
        }
        case.assert_hidden(&topics_of_runs(&case.node.names)).await;
    });
    let rows =
        format!("SELECT count(*) FROM omnilink.run_events WHERE record::text LIKE '%{EMAIL}%'");
    assert_eq!(world.database.number(&rows), 0);
}

/// Nobody but the run itself can read the values then.
#[tokio::test(flavor = "multi_thread")]
async fn without_postgres_the_run_and_the_audit_log_have_placeholders_all_the_same() {
    let case = Case::of(Node::start().await);
    let run = case.goal().await;
    case.decide(&format!("{run}.3"), &plan()).await;
    let cancel = json!({ "reason": format!("not for {EMAIL}") });
    let cancelled = case.post(&format!("/v1/runs/{run}/cancel"), &cancel).await;
    assert_eq!(cancelled.status, StatusCode::OK, "{}", cancelled.text);
    let entries = crate::support::audit_entries(&case.node, "approval.decided", 1).await;
    assert!(
        entries
            .iter()
            .any(|entry| entry.detail.contains("[EMAIL] said so")),
        "{}",
        entries[0].detail
    );
    let names: &Names = &case.node.names;
    let commands = &names.commands;
    let mut topics = topics_of_runs(names);
    topics.retain(|topic| topic != commands);
    case.assert_hidden(&topics).await;
}
