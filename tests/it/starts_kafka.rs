//! Starts that producers send to `ingress`, on both logs: each form starts a run once, what is refused is a dead letter with the code of
//! the HTTP API, controls keep runs queued.

use bytes::Bytes;
use omnilink::{
    audit::Entry,
    commands::{ALL_TENANTS, Command, start::run_id},
    controls::EmergencyState,
    log::Record,
    runs::{Event, RunRecord, Started},
};
use serde_json::{Value, json};

use crate::support::{
    LogKind, TestLog,
    admitting::{Node, catalog},
    append, on_both_logs, read_all,
    sagas::{TENANT, command, types},
};

on_both_logs!(
    a_start_in_each_form_starts_a_run,
    a_start_sent_again_starts_nothing_twice,
    what_is_refused_is_a_dead_letter_and_can_be_redriven,
    items_of_a_batch_start_runs_and_fail_alone,
    controls_keep_runs_queued,
);

const PAY: &str = r#"
name: pay
version: "1.0.0"
command: expense.pay
params: { type: object, required: [amount], properties: { amount: { type: number, minimum: 0 } } }
plan: { steps: [ { id: keep, tool: noop, input: "{{ params }}" } ], output: "{{ steps.keep.output }}" }
"#;
const TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
const BATCH: (&str, &str) = ("content-type", "application/cloudevents-batch+json");
const STRUCTURED: (&str, &str) = ("content-type", "application/cloudevents+json");

/// Sends records to `ingress`: on Kafka with a producer, as other programs do.
fn send(test_log: &TestLog, node: &Node, records: Vec<Record>) {
    let ingress = &node.sagas.names.ingress;
    if test_log.kind == LogKind::Kafka {
        test_log.produce(ingress, &records, &[]);
    } else {
        append(&*node.sagas.log, ingress, records).unwrap();
    }
}

/// A record under a key of the producer's choice.
fn record(key: &str, value: &Value, headers: &[(&str, &str)]) -> Record {
    let tenant = [("omnilink-tenant", TENANT)];
    let headers = tenant.iter().chain(headers);
    Record {
        key: Some(key.to_owned().into()),
        value: Some(value.to_string().into()),
        headers: headers
            .map(|(name, value)| ((*name).to_owned(), Some(Bytes::from((*value).to_owned()))))
            .collect(),
    }
}

/// An envelope of a kind, with these members.
fn envelope(kind: &str, key: &str, members: &Value) -> Value {
    let mut envelope = json!({
        "specversion": "1.0", "id": format!("id-{key}"), "source": "/shop", "type": "expense.pay", "omnilinkkind": kind,
        "idempotencykey": key, "traceparent": TRACE
    });
    for (name, value) in members.as_object().unwrap() {
        envelope[name] = value.clone();
    }
    envelope
}

fn pay(key: &str, amount: &Value) -> Value {
    envelope("command", key, &json!({ "params": { "amount": amount } }))
}

fn run_of(key: &str) -> String {
    run_id(&["run", TENANT, key]).to_string()
}

fn started(history: &[RunRecord]) -> Box<Started> {
    match history[0].event() {
        Some(Event::RunStarted(started)) => started,
        other => panic!("{other:?}"),
    }
}

/// The starts of the audit log: what became of them, the run, and the code.
fn said(entries: &[Entry]) -> Vec<(String, String, String)> {
    let text = |detail: &Value, name: &str| detail[name].as_str().unwrap_or_default().to_owned();
    let mut said: Vec<_> = entries
        .iter()
        .map(|entry| {
            assert_eq!(entry.principal.as_deref(), Some("kafka"));
            let detail: Value = serde_json::from_str(&entry.detail).unwrap();
            assert!(detail["request_id"].is_string() && detail["kind"].is_string());
            let [status, run, code] = ["status", "run_id", "code"].map(|name| text(&detail, name));
            (status, run, code)
        })
        .collect();
    said.sort();
    said
}

fn a_start_in_each_form_starts_a_run(test_log: TestLog) {
    let node = Node::start(&test_log, &[PAY]);
    let workflow = json!({ "data": { "workflow": { "name": "pay" }, "input": { "amount": 2 }, "policy": { "approval": "required" } } });
    let binary = [
        ("ce_specversion", "1.0"),
        ("ce_id", "3"),
        ("ce_source", "/shop"),
        ("ce_type", "noop"),
        ("ce_omnilinkkind", "task"),
        ("ce_idempotencykey", "task"),
        ("content-type", "application/json"),
    ];
    let items = json!([
        envelope(
            "command",
            "batch",
            &json!({ "id": "a", "data": { "params": { "amount": 4 } } })
        ),
        envelope("event", "", &json!({ "id": "b", "data": 5 })),
    ]);
    send(
        &test_log,
        &node,
        vec![
            record("x", &pay("command", &json!(1)), &[]),
            record(
                "y",
                &envelope("workflow", "workflow", &workflow),
                &[STRUCTURED],
            ),
            record("z", &json!({ "params": [3] }), &binary),
            record("w", &items, &[BATCH]),
        ],
    );
    let history = node
        .sagas
        .history_until(&run_of("command"), "run_succeeded");
    let run = started(&history);
    assert_eq!(
        (&*run.principal, run.kind.as_deref()),
        ("kafka", Some("expense.pay"))
    );
    assert_eq!(run.params.value(), json!({ "amount": 1 }));
    // A person approves the workflow's run.
    let history = node
        .sagas
        .history_until(&run_of("workflow"), "approval_requested");
    assert_eq!(started(&history).params.value(), json!({ "amount": 2 }));
    let history = node.sagas.history_until(&run_of("task"), "run_succeeded");
    assert_eq!(started(&history).params.value(), json!([3]));
    // In a batch the id counts, as over HTTP.
    let item = run_id(&["run", TENANT, "batch", "a"]).to_string();
    node.sagas.history_until(&item, "run_succeeded");
    assert_eq!(node.events(1), 1);
    assert_eq!(node.letters(0), []);

    // The start goes on with its trace.
    let commands = read_all(&*node.sagas.log, &node.sagas.names.commands, 4);
    let mut commands = commands
        .iter()
        .map(|fetched| Command::decode(fetched.record.value.as_deref().unwrap()).unwrap());
    let run = run_of("command");
    let start = commands.find(|command| command.run_id == run).unwrap();
    assert_eq!(
        (&*start.tenant, start.traceparent.as_deref()),
        (TENANT, Some(TRACE))
    );

    let said = said(&node.starts(4));
    let mut expected: Vec<_> = ["command", "workflow", "task"].map(run_of).to_vec();
    expected.push(item);
    expected.sort();
    let accepted = |run| ("accepted".to_owned(), run, String::new());
    assert_eq!(said, expected.into_iter().map(accepted).collect::<Vec<_>>());
}

fn a_start_sent_again_starts_nothing_twice(test_log: TestLog) {
    let node = Node::start(&test_log, &[PAY]);
    // Producers with keys of their own: the records lie on several partitions.
    let again = |producer: usize| record(&format!("p{producer}"), &pay("k", &json!(1)), &[]);
    send(&test_log, &node, (0..6).map(again).collect());
    node.sagas.history_until(&run_of("k"), "run_succeeded");
    assert_eq!(node.runs(1), 1);
    let run = run_of("k");
    let of = |status: &str| (status.to_owned(), run.clone(), String::new());
    let mut expected = vec![of("accepted")];
    expected.extend(vec![of("duplicate"); 5]);
    assert_eq!(said(&node.starts(6)), expected);

    // The same key with another body is another request, which starts nothing either.
    send(
        &test_log,
        &node,
        vec![record("x", &pay("k", &json!(2)), &[])],
    );
    let entries = node.starts(7);
    let mismatch = entries.iter().filter(|entry| entry.outcome == "failed");
    let codes: Vec<_> = mismatch.map(|entry| &*entry.detail).collect();
    assert_eq!(codes, [r#"{"code":"identity_mismatch"}"#]);
    assert_eq!(node.runs(1), 1);
    assert_eq!(node.letters(0), []);
}

fn what_is_refused_is_a_dead_letter_and_can_be_redriven(test_log: TestLog) {
    let node = Node::start(&test_log, &[PAY]);
    let mut nameless = pay("", &json!(1));
    nameless["idempotencykey"] = Value::Null;
    let plan = json!({ "plan": { "steps": [ { "id": "a", "tool": "noop" } ] }, "input": {} });
    let refused = [
        (nameless, "missing_idempotency_key"),
        (
            envelope(
                "command",
                &"k".repeat(513),
                &json!({ "id": "long", "params": { "amount": 1 } }),
            ),
            "invalid_idempotency_key",
        ),
        (
            envelope("command", "no-params", &json!({})),
            "missing_params",
        ),
        (
            envelope("command", "other", &json!({ "type": "x", "params": {} })),
            "unknown_workflow",
        ),
        (
            envelope(
                "workflow",
                "later",
                &json!({ "workflow": { "name": "later" }, "input": {} }),
            ),
            "unknown_workflow",
        ),
        (
            envelope("task", "tool", &json!({ "params": {} })),
            "unknown_tool",
        ),
        (pay("schema", &json!(-1)), "invalid_payload"),
        (
            envelope(
                "command",
                "late",
                &json!({ "params": { "amount": 1 }, "run_at": "9999-01-01T00:00:00Z" }),
            ),
            "invalid_payload",
        ),
        (envelope("workflow", "plan", &plan), "permission_denied"),
        (
            envelope(
                "command",
                "user",
                &json!({ "params": { "amount": 1 }, "on_behalf_of": "bob" }),
            ),
            "permission_denied",
        ),
        (
            envelope("goal", "goal", &json!({ "goal": "x".repeat(20_001) })),
            "invalid_payload",
        ),
    ];
    let records = refused.iter().map(|(value, _)| record("x", value, &[]));
    send(&test_log, &node, records.collect());
    let letters = node.letters(refused.len());
    let mut codes: Vec<_> = letters
        .iter()
        .map(|(stage, code, _)| {
            assert_eq!(stage, "admission");
            code.as_str()
        })
        .collect();
    codes.sort_unstable();
    let mut expected: Vec<_> = refused.iter().map(|(_, code)| *code).collect();
    expected.sort_unstable();
    assert_eq!(codes, expected);
    let said = said(&node.starts(refused.len()));
    let mut codes: Vec<_> = said
        .iter()
        .map(|(status, _, code)| {
            assert_eq!(status, "refused");
            code.as_str()
        })
        .collect();
    codes.sort_unstable();
    assert_eq!(codes, expected);
    assert_eq!((node.runs(0), node.events(0)), (0, 0));

    // Once the workflow is there, its start needs to be sent by nobody again.
    node.workflows.replace(catalog(&[
        PAY,
        &PAY.replace("name: pay", "name: later")
            .replace("required: [amount], ", "")
            .replace("expense.pay", "later"),
    ]));
    assert_eq!(node.redrive().redriven, refused.len() as u64);
    node.sagas.history_until(&run_of("later"), "run_succeeded");
    assert_eq!(
        node.letters(2 * refused.len() - 1).len(),
        2 * refused.len() - 1
    );
    assert_eq!(node.runs(1), 1);
}

fn items_of_a_batch_start_runs_and_fail_alone(test_log: TestLog) {
    let node = Node::start(&test_log, &[PAY]);
    let item = |id: &str, amount: i64| {
        envelope(
            "command",
            "k",
            &json!({ "id": id, "data": { "params": { "amount": amount } } }),
        )
    };
    let items = json!([item("1", 1), item("2", -2), item("3", 3)]);
    send(&test_log, &node, vec![record("x", &items, &[BATCH])]);
    let run = |id: &str| run_id(&["run", TENANT, "k", id]).to_string();
    node.sagas.history_until(&run("1"), "run_succeeded");
    node.sagas.history_until(&run("3"), "run_succeeded");
    let letters = read_all(&*node.sagas.log, &node.sagas.names.dlq, 1);
    assert_eq!(letters.len(), 1);
    let value: Value = serde_json::from_slice(letters[0].record.value.as_deref().unwrap()).unwrap();
    assert_eq!(value, item("2", -2));
    // Redriven, it is the run that it was in the batch.
    node.workflows
        .replace(catalog(&[&PAY.replace(", minimum: 0", "")]));
    assert_eq!(node.redrive().redriven, 1);
    node.sagas.history_until(&run("2"), "run_succeeded");
    assert_eq!(node.runs(3), 3);
}

fn controls(version: u64, feature: Option<&str>) -> Command {
    let disabled = feature.map(|feature| (feature.to_owned(), "maintenance".to_owned()));
    let state = EmergencyState {
        version,
        disabled: disabled.into_iter().collect(),
        ..EmergencyState::default()
    };
    let body = serde_json::to_value(state).unwrap();
    Command {
        tenant: ALL_TENANTS.into(),
        ..command("", "controls", &body)
    }
}

fn controls_keep_runs_queued(test_log: TestLog) {
    let node = Node::start(&test_log, &[PAY]);
    node.sagas.send_to_all(&controls(1, Some("commands")));
    send(
        &test_log,
        &node,
        vec![record("x", &pay("k", &json!(1)), &[])],
    );
    let queued = node.sagas.history_until(&run_of("k"), "plan_ready");
    assert_eq!(types(&queued), ["run_started", "plan_ready"]);
    node.sagas.send_to_all(&controls(2, None));
    node.sagas.history_until(&run_of("k"), "run_succeeded");
}
