//! Triggers by events on both logs: an event starts a run once, what fails is a dead letter whose redrive starts it alone, loops end,
//! controls keep runs queued.

use omnilink::{
    base::{clock::Millis, id::Tenant},
    commands::{
        ALL_TENANTS, Command,
        start::{Trace, run_id},
    },
    controls::EmergencyState,
    envelope::{Form, avro, parse_structured},
    log::Record,
    runs::{Event, RunRecord},
};
use serde_json::{Value, json};

use crate::support::{
    TestLog,
    admitting::{Node, catalog},
    append, on_both_logs, read_all,
    sagas::{TENANT, command, types},
};

on_both_logs!(
    an_event_starts_the_workflows_that_name_its_type_once,
    what_fails_is_a_dead_letter_whose_redrive_starts_the_workflow_alone,
    workflows_and_events_that_cause_each_other_end,
    controls_keep_runs_queued,
    params_that_cannot_be_stored_are_a_dead_letter,
    items_of_a_batch_start_runs_and_fail_alone,
    the_trace_goes_on_through_emitted_events,
);

impl Node {
    fn post(&self, events: &[Value]) {
        let records = events.iter().map(ingress).collect();
        append(&*self.sagas.log, &self.sagas.names.ingress, records).unwrap();
    }

    /// The run that an event starts, once its last record is of this type.
    fn run_until(&self, workflow: &str, id: &str, last: &str) -> Vec<RunRecord> {
        self.sagas.history_until(&run_of(workflow, id), last)
    }
}

fn run_of(workflow: &str, id: &str) -> String {
    run_id(&["trigger", TENANT, workflow, "/shop", id]).to_string()
}

fn event(id: &str, kind: &str, data: &Value) -> Value {
    json!({
        "id": id, "source": "/shop", "type": kind, "entity": { "type": "order", "external_id": id }, "data": data,
        "correlationid": "c1", "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    })
}

fn ingress(event: &Value) -> Record {
    let body = event.to_string();
    let tenant = Tenant::new(TENANT).unwrap();
    let parsed = parse_structured(body.as_bytes(), Form::OmniLink, &tenant, Millis(5)).unwrap();
    let mut value = Vec::new();
    avro::encode_ingress(&parsed.event, &mut value);
    Record {
        key: Some(parsed.event.record_key().into()),
        value: Some(value.into()),
        headers: Vec::new(),
    }
}

const PAID: &str = r#"
name: paid
version: "1.0.0"
params: { type: object, required: [order, total], properties: { total: { type: number, minimum: 0 } } }
plan: { steps: [ { id: keep, tool: noop, input: "{{ params }}" } ], output: "{{ steps.keep.output }}" }
on:
  - { event: order.paid, when: '.data.total > 1000 ?? false', params: '. = { "order": .entity.external_id, "total": 1000 }' }
  - { event: order.paid, when: 'exists(.data.total)', params: '. = { "order": .entity.external_id, "total": .data.total }' }
"#;
const ANY: &str = r#"
name: any
version: "2.0.0"
plan: { steps: [ { id: keep, tool: noop } ], output: "{{ params }}" }
on: [ { event: order.* } ]
"#;
/// An older version of `any`, whose triggers do not count.
const OLD: &str = r#"
name: any
version: "1.0.0"
plan: { steps: [ { id: keep, tool: noop } ] }
on: [ { event: customer.created } ]
"#;

fn an_event_starts_the_workflows_that_name_its_type_once(test_log: TestLog) {
    let mut node = Node::start(&test_log, &[PAID, ANY, OLD]);
    let paid = event("1", "order.paid", &json!({ "total": 12.50 }));
    node.post(&[
        paid.clone(),
        event("2", "order.paid", &json!({ "total": 5000 })),
        event("3", "order.paid", &json!({ "note": "no total" })),
        event("4", "customer.created", &json!({ "total": 7 })),
        paid.clone(),
    ]);
    let history = node.run_until("paid", "1", "run_succeeded");
    let Some(Event::RunStarted(started)) = history[0].event() else {
        panic!("{history:?}");
    };
    assert_eq!(started.principal, "trigger:paid");
    assert_eq!(
        started.params.value(),
        json!({ "order": "1", "total": 12.5 })
    );
    assert_eq!(started.kind.as_deref(), Some("order.paid"));
    let Some(Event::RunSucceeded { output }) = history.last().unwrap().event() else {
        panic!("{history:?}");
    };
    assert_eq!(output.value(), json!({ "order": "1", "total": 12.5 }));
    // Of two triggers the first that takes the event counts.
    let second = node.run_until("paid", "2", "run_succeeded");
    let Some(Event::RunStarted(started)) = second[0].event() else {
        panic!("{second:?}");
    };
    assert_eq!(started.params.value()["total"], json!(1000));
    for id in ["1", "2", "3"] {
        node.run_until("any", id, "run_succeeded");
    }
    // Each start is in the audit log, and so is what became of it.
    let entries = node.starts(5);
    let mut said: Vec<_> = entries
        .iter()
        .map(|entry| {
            let detail: Value = serde_json::from_str(&entry.detail).unwrap();
            assert_eq!(
                (&detail["kind"], &detail["source"]),
                (&json!("workflow"), &json!("/shop"))
            );
            let principal = entry.principal.clone().unwrap();
            format!(
                "{principal} {} {}",
                detail["type"].as_str().unwrap(),
                detail["status"].as_str().unwrap()
            )
        })
        .collect();
    said.sort();
    let [any, paid_said] =
        ["any", "paid"].map(|name| format!("trigger:{name} order.paid accepted"));
    assert_eq!(
        said,
        [&any, &any, &any, &paid_said, &paid_said].map(String::clone)
    );
    // The start keeps what the event says of itself.
    let commands = read_all(&*node.sagas.log, &node.sagas.names.commands, 5);
    let commands = commands
        .iter()
        .map(|fetched| Command::decode(fetched.record.value.as_deref().unwrap()).unwrap());
    let run = run_of("any", "1");
    let start = commands.into_iter().find(|c| c.run_id == run).unwrap();
    assert_eq!(start.tenant, TENANT);
    assert!(start.traceparent.unwrap().starts_with("00-0af7"));
    let body: Value = serde_json::from_str(&start.body).unwrap();
    assert_eq!(
        body["identity"],
        json!(["trigger", TENANT, "any", "/shop", "1"])
    );
    assert_eq!(
        (
            &body["correlation_id"],
            &body["causation_id"],
            &body["depth"]
        ),
        (&json!("c1"), &json!("1"), &json!(1))
    );
    assert_eq!(body["entity"]["external_id"], "1");
    assert_eq!(body["params"], json!({ "total": 12.5 }));

    // After a restart the event is known, and so is the run if the event is not.
    node.admission = None;
    node.sagas.stop();
    node.sagas.go_on(&test_log);
    node.admit(&test_log);
    node.post(&[paid, event("5", "order.paid", &json!({ "total": 1 }))]);
    node.run_until("paid", "5", "run_succeeded");
    node.run_until("any", "5", "run_succeeded");
    assert_eq!(node.events(5), 5);
    assert_eq!(node.runs(3 + 4), 3 + 4);
    assert_eq!(node.letters(0), []);
}

fn what_fails_is_a_dead_letter_whose_redrive_starts_the_workflow_alone(test_log: TestLog) {
    let node = Node::start(&test_log, &[PAID, ANY]);
    let failing = event("1", "order.paid", &json!({ "total": -1 }));
    let not_a_number = event("2", "order.paid", &json!({ "total": "much" }));
    node.post(&[failing, not_a_number]);
    let mut letters = node.letters(2);
    letters.sort();
    for (stage, code, message) in &letters {
        assert_eq!((&**stage, &**code), ("trigger.paid", "invalid_payload"));
        assert!(message.starts_with("`/params/total`: "), "{message}");
    }
    let entries = node.starts(4);
    let refused = entries.iter().filter(|entry| {
        let detail: Value = serde_json::from_str(&entry.detail).unwrap();
        let [status, code] =
            ["status", "code"].map(|name| detail[name].as_str().unwrap_or_default().to_owned());
        let position = detail["request_id"]
            .as_str()
            .unwrap()
            .starts_with("ingress:");
        (&*status, &*code, position) == ("refused", "invalid_payload", true)
    });
    let runs: Vec<_> = refused
        .map(|entry| entry.resource_id.clone().unwrap())
        .collect();
    assert!(
        runs.contains(&run_of("paid", "1")) && runs.contains(&run_of("paid", "2")),
        "{runs:?}"
    );
    // The events are admitted, and start what else they start.
    assert_eq!(node.events(2), 2);
    node.run_until("any", "1", "run_succeeded");
    node.run_until("any", "2", "run_succeeded");

    // Still wrong: another letter each.
    assert_eq!(node.redrive().redriven, 2);
    assert_eq!(node.letters(4).len(), 4);
    let lenient = PAID.replace("{ type: number, minimum: 0 }", "{}");
    node.workflows.replace(catalog(&[&lenient, ANY]));
    assert_eq!(node.redrive().redriven, 2);
    node.run_until("paid", "1", "run_succeeded");
    node.run_until("paid", "2", "run_succeeded");
    // The first letters again, by name or not at all: their runs are known.
    assert_eq!(node.redrive().redriven, 0);
    assert_eq!(node.letters(4).len(), 4);
    assert_eq!(node.events(2), 2);
    assert_eq!(node.runs(4), 4);

    // A trigger that is gone.
    node.post(&[event("3", "order.paid", &json!({ "total": [] }))]);
    node.run_until("paid", "3", "run_succeeded");
    node.workflows.replace(catalog(&[PAID, ANY]));
    node.post(&[event("4", "order.paid", &json!({ "total": [] }))]);
    assert_eq!(node.letters(5).len(), 5);
    node.workflows.replace(catalog(&[ANY]));
    assert_eq!(node.redrive().redriven, 1);
    let letters = node.letters(6);
    let gone = letters
        .iter()
        .filter(|(_, code, _)| code == "unknown_trigger");
    assert_eq!(gone.count(), 1, "{letters:?}");
}

fn workflows_and_events_that_cause_each_other_end(test_log: TestLog) {
    let echo = r#"
name: echo
version: "1.0.0"
plan:
  steps:
    - { id: again, tool: emit, input: { type: ping, data: { n: "{{ params.n + 1 }}" } } }
on: [ { event: ping } ]
"#;
    let node = Node::start(&test_log, &[echo]);
    node.post(&[event("1", "ping", &json!({ "n": 0 }))]);
    let letters = node.letters(1);
    assert_eq!(letters.len(), 1, "{letters:?}");
    let (stage, code, _) = &letters[0];
    assert_eq!((&**stage, &**code), ("trigger.echo", "trigger_loop"));
    let histories = node.sagas.histories(50);
    assert_eq!(histories.len(), 10);
    for history in histories.values() {
        assert_eq!(history.last().unwrap().kind, "run_succeeded");
    }
    // All events are admitted, also the one that starts nothing.
    assert_eq!(node.events(11), 11);
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
    let mut node = Node::start(&test_log, &[PAID, ANY]);
    node.sagas.send_to_all(&controls(1, Some("workflow:paid")));
    node.post(&[event("1", "order.paid", &json!({ "total": 1 }))]);
    node.run_until("any", "1", "run_succeeded");
    let queued = node.run_until("paid", "1", "plan_ready");
    assert_eq!(types(&queued), ["run_started", "plan_ready"]);
    node.sagas.stop();
    node.sagas.go_on(&test_log);
    node.sagas.send_to_all(&controls(2, None));
    node.run_until("paid", "1", "run_succeeded");
}

fn params_that_cannot_be_stored_are_a_dead_letter(test_log: TestLog) {
    let node = Node::start(&test_log, &[ANY]);
    let nested = |levels: usize| (0..levels).fold(json!(1), |inner, _| json!([inner]));
    node.post(&[
        event("1", "order.paid", &json!({ "a": nested(64) })),
        event("2", "order.paid", &json!({ "a": nested(63) })),
    ]);
    node.run_until("any", "2", "run_succeeded");
    let letters = node.letters(1);
    let [(stage, code, message)] = &letters[..] else {
        panic!("{letters:?}");
    };
    assert_eq!((&**stage, &**code), ("trigger.any", "invalid_payload"));
    assert!(message.contains("64 levels"), "{message}");
    assert_eq!(node.events(2), 2);
}

fn items_of_a_batch_start_runs_and_fail_alone(test_log: TestLog) {
    let node = Node::start(&test_log, &[PAID]);
    let cloud_event = |id: &str, total: &Value| {
        json!({
            "specversion": "1.0", "id": id, "source": "/shop", "type": "order.paid", "entitytype": "order", "entityid": "7",
            "data": { "total": total }
        })
    };
    let items = json!([
        cloud_event("1", &json!(1)),
        cloud_event("2", &json!("many")),
        cloud_event("3", &json!(3))
    ]);
    let record = Record {
        key: Some(format!("{TENANT}/order/7").into()),
        value: Some(items.to_string().into()),
        headers: vec![
            ("omnilink-tenant".into(), Some(TENANT.into())),
            (
                "content-type".into(),
                Some("application/cloudevents-batch+json".into()),
            ),
        ],
    };
    append(&*node.sagas.log, &node.sagas.names.ingress, vec![record]).unwrap();
    node.run_until("paid", "1", "run_succeeded");
    node.run_until("paid", "3", "run_succeeded");
    assert_eq!(node.letters(1).len(), 1);
    let lenient = PAID.replace("{ type: number, minimum: 0 }", "{}");
    node.workflows.replace(catalog(&[&lenient]));
    assert_eq!(node.redrive().redriven, 1);
    node.run_until("paid", "2", "run_succeeded");
    assert_eq!(node.events(3), 3);
    assert_eq!(node.runs(3), 3);
}

fn the_trace_goes_on_through_emitted_events(test_log: TestLog) {
    let first = r#"
name: first
version: "1.0.0"
plan: { steps: [ { id: say, tool: emit, input: { type: order.checked, data: {} } } ] }
on: [ { event: order.paid } ]
"#;
    let second = r#"
name: second
version: "1.0.0"
plan: { steps: [ { id: call, tool: http, input: { method: GET, url: "http://localhost/" } } ] }
on: [ { event: order.checked } ]
"#;
    let node = Node::start(&test_log, &[first, second]);
    let mut paid = event("1", "order.paid", &json!({}));
    paid["tracestate"] = json!("shop=1");
    node.post(&[paid.clone()]);
    let [call] = &node.sagas.calls(1)[..] else {
        panic!("one call");
    };
    assert_eq!(call.workflow.as_deref(), Some("second"));
    assert_eq!(call.traceparent.as_deref(), paid["traceparent"].as_str());
    assert_eq!(call.tracestate.as_deref(), Some("shop=1"));
    // The end of a run is an event of the same trace.
    node.run_until("first", "1", "run_succeeded");
    assert_eq!(node.events(2), 2);
    let events = read_all(&*node.sagas.log, &node.sagas.names.events, 3);
    let mut kinds: Vec<_> = events
        .iter()
        .map(|fetched| {
            let (event, _) = avro::decode_event(fetched.record.value.as_deref().unwrap()).unwrap();
            let trace = Trace::of(&event);
            assert_eq!(trace.traceparent.as_deref(), paid["traceparent"].as_str());
            assert_eq!(trace.tracestate.as_deref(), Some("shop=1"));
            event.kind.to_string()
        })
        .collect();
    kinds.sort();
    assert_eq!(
        kinds,
        ["omnilink.run.succeeded", "order.checked", "order.paid"]
    );
}
