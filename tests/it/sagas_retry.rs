//! Retries of runs, at the saga processor: which steps are reused, and the idempotency keys of compensations.

use omnilink::{commands::Command, envelope::avro::decode_ingress};
use serde_json::{Value, json};

use crate::support::{
    TestLog, on_both_logs, read_all,
    sagas::{Processor, claimed, result, start, types, undoes},
};

on_both_logs!(
    reused_steps_are_not_repeated,
    reused_steps_are_compensated_if_the_retry_fails,
    failed_compensations_keep_their_keys,
    a_compensation_that_the_plan_lacks_is_a_dead_letter,
);

/// The ids of the events on `ingress`: the end of a run is one.
fn told(sagas: &Processor, at_least: usize) -> Vec<String> {
    let records = read_all(&*sagas.log, &sagas.names.ingress, at_least);
    let ids = records.iter().map(|fetched| {
        let value = fetched.record.value.as_deref().unwrap();
        decode_ingress(value).unwrap().id.to_string()
    });
    ids.collect()
}

/// The start of a run that repeats `old`.
fn repeating(id: &str, plan: &Value, tools: &[Value], retry: &Value) -> (String, Command) {
    let (run, mut command) = start(id, plan, tools, &json!({}));
    let mut body: Value = serde_json::from_str(&command.body).unwrap();
    body["retry"] = retry.clone();
    body["retry"]["of"] = "old".into();
    command.body = body.to_string();
    (run, command)
}

fn reused_steps_are_not_repeated(test_log: TestLog) {
    let sagas = Processor::start(&test_log);
    let plan = json!({
        "steps": [
            { "id": "told", "tool": "emit", "input": { "type": "x.told", "data": {} } },
            { "id": "byhand", "tool": "t" },
            { "id": "next", "tool": "noop", "input": "{{ steps.told.output.n + steps.byhand.output }}", "depends_on": ["told", "byhand"] }
        ],
        "output": "{{ steps.next.output }}"
    });
    let retry = json!({ "reused": [
        { "step_id": "told", "run_id": "old", "output": { "n": 5 } },
        { "step_id": "byhand", "run_id": "old", "output": 2, "skipped": true }
    ] });
    let (run, command) = repeating("1", &plan, &[claimed("t")], &retry);
    sagas.send(&command);
    let history = sagas.history_until(&run, "run_succeeded");
    assert_eq!(
        types(&history),
        [
            "run_started",
            "plan_ready",
            "step_succeeded",
            "step_skipped",
            "step_scheduled",
            "step_succeeded",
            "run_succeeded"
        ]
    );
    let body = |n: usize| serde_json::from_str::<Value>(&history[n].body).unwrap();
    assert_eq!(body(0)["retry_of"], "old");
    assert_eq!(
        (&body(2)["reused"], &body(2)["attempt"]),
        (&json!(true), &json!(0))
    );
    assert_eq!(body(6)["output"], 7);
    // The event of step `told` is from the old run.
    assert_eq!(told(&sagas, 1), [format!("{run}.7")]);
    assert_eq!(sagas.calls(0), []);
}

fn reused_steps_are_compensated_if_the_retry_fails(test_log: TestLog) {
    let mut sagas = Processor::start(&test_log);
    let undone = json!({ "tool": "undo", "input": "{{ [step.input, step.output] }}" });
    let plan = json!({ "steps": [
        { "id": "paid", "tool": "t", "input": "never rendered", "compensate": undone },
        { "id": "next", "tool": "t", "depends_on": ["paid"] }
    ] });
    let retry =
        json!({ "reused": [{ "step_id": "paid", "run_id": "older", "input": 7, "output": 8 }] });
    let (run, command) = repeating("1", &plan, &[claimed("t"), claimed("undo")], &retry);
    sagas.send(&command);
    let call = sagas.calls(1).remove(0);
    assert_eq!(call.step_id, "next");
    // Reused results are stored.
    sagas.stop();
    sagas.go_on(&test_log);
    sagas.send(&result(&call, Err(("broken", false))));
    let calls = sagas.calls(2);
    let undo = calls.into_iter().find(undoes).unwrap();
    assert_eq!((&*undo.step_id, &*undo.input), ("paid", "[7,8]"));
    assert_eq!(undo.idempotency_key, format!("{run}:paid:compensate"));
    let execute: Value = serde_json::from_str(undo.execute.as_deref().unwrap()).unwrap();
    assert_eq!(execute["idempotency_key"], "older:paid:execute");
    sagas.send(&result(&undo, Ok(Value::Null)));
    sagas.history_until(&run, "run_failed");
}

fn failed_compensations_keep_their_keys(test_log: TestLog) {
    let mut sagas = Processor::start(&test_log);
    let plan = json!({ "steps": [
        { "id": "a", "tool": "t", "compensate": { "tool": "undo" } },
        { "id": "b", "tool": "t", "compensate": { "tool": "emit" } },
        { "id": "c", "tool": "t", "compensate": { "tool": "undo" } }
    ] });
    let execute = json!({ "idempotency_key": "older:a:execute", "outcome": "unknown", "input": 1 });
    let retry = json!({ "undo": [
        { "step_id": "b", "run_id": "old", "input": { "type": "x.undone", "data": {} }, "execute": {} },
        { "step_id": "a", "run_id": "older", "input": { "n": 1 }, "execute": execute, "error": { "code": "late", "message": "" } },
        { "step_id": "c", "run_id": "old", "execute": {} }
    ] });
    let (run, command) = repeating("1", &plan, &[claimed("t"), claimed("undo")], &retry);
    sagas.send(&command);
    let call = sagas.calls(1).remove(0);
    assert!(undoes(&call));
    assert_eq!(call.idempotency_key, "older:a:compensate");
    assert_eq!(call.task_id, format!("{run}:a:compensate:1"));
    assert_eq!(call.input, r#"{"n":1}"#);
    let json = |text: &Option<String>| -> Value {
        serde_json::from_str(text.as_deref().unwrap()).unwrap()
    };
    assert_eq!(json(&call.execute), execute);
    assert_eq!(json(&call.error)["code"], "late");
    sagas.stop();
    sagas.go_on(&test_log);
    sagas.send(&result(&call, Ok(Value::Null)));
    let history = sagas.history_until(&run, "run_failed");
    assert_eq!(
        types(&history),
        [
            "run_started",
            "plan_ready",
            "compensation_started",
            "compensation_scheduled",
            "compensation_succeeded",
            "compensation_scheduled",
            "compensation_succeeded",
            "compensation_failed",
            "run_failed"
        ]
    );
    // The input of `c` was never rendered, and cannot be rendered now.
    let last: Value = serde_json::from_str(&history[8].body).unwrap();
    let results = last["error"]["compensation_results"].as_array().unwrap();
    let good: Vec<_> = results
        .iter()
        .map(|r| (&r["step_id"], &r["success"]))
        .collect();
    assert_eq!(json!(good), json!([["b", true], ["a", true], ["c", false]]));
    let mut told = told(&sagas, 2);
    told.sort_unstable();
    assert_eq!(told, [format!("{run}.9"), "old:b:compensate".to_owned()]);
}

fn a_compensation_that_the_plan_lacks_is_a_dead_letter(test_log: TestLog) {
    let sagas = Processor::start(&test_log);
    let plan = json!({ "steps": [{ "id": "a", "tool": "noop" }] });
    let retry = json!({ "undo": [{ "step_id": "a", "run_id": "old", "input": 1, "execute": {} }] });
    let (_, command) = repeating("1", &plan, &[], &retry);
    sagas.send(&command);
    let letters = read_all(&*sagas.log, &sagas.names.dlq, 1);
    let header = |name: &str| {
        let mut headers = letters[0].record.headers.iter();
        headers
            .find(|(of, _)| of == name)
            .unwrap()
            .1
            .clone()
            .unwrap()
    };
    assert_eq!(&header("omnilink.dlq.code")[..], b"invalid_plan");
}
