//! What producers on Kafka write to `commands`: results of workers as JSON, and other kinds; on any partition, twice, or too late.

use omnilink::{
    log::{Output, Record, header},
    stream::dlq,
};
use serde_json::{Value, json};

use crate::support::{
    TestLog, on_both_logs, read_all,
    sagas::{PARTITIONS, Processor, start, types},
    wait_until,
};

on_both_logs!(
    results_in_json_count_once_wherever_they_lie,
    a_success_that_comes_too_late_is_undone,
    json_of_other_kinds_needs_a_kind,
    a_step_whose_output_cannot_be_stored_is_undone,
);

fn kafka(name: &str) -> Value {
    json!({ "name": name, "description": "a tool", "worker": { "kafka": {} }, "kind": "write", "risk": { "lane": "safe" } })
}

/// Appends JSON without a key to each of these partitions.
fn send(sagas: &Processor, partitions: impl IntoIterator<Item = u32>, json: &str) {
    let outputs = partitions.into_iter().map(|partition| Output {
        topic: sagas.names.commands.clone(),
        partition: Some(partition),
        record: Record {
            key: None,
            value: Some(json.to_owned().into()),
            headers: Vec::new(),
        },
    });
    let appended = sagas.log.append_to(outputs.collect(), None);
    appended.blocking_recv().unwrap().unwrap();
}

fn result(run: &str, step: &str, more: &Value) -> String {
    let mut result = json!({ "run_id": run, "step_id": step, "attempt": 1 });
    let more = more.as_object().unwrap().clone();
    result.as_object_mut().unwrap().extend(more);
    result.to_string()
}

/// The codes of dead letters, with their messages.
fn letters(sagas: &Processor) -> Vec<String> {
    let letters = read_all(&*sagas.log, &sagas.names.dlq, 0);
    let field = |one: &Record, name: &str| {
        let value = header(&one.headers, &format!("{}{name}", dlq::PREFIX)).unwrap();
        String::from_utf8(value.to_vec()).unwrap()
    };
    let said = letters.iter().map(|one| {
        format!(
            "{}: {}",
            field(&one.record, "code"),
            field(&one.record, "message")
        )
    });
    said.collect()
}

fn results_in_json_count_once_wherever_they_lie(test_log: TestLog) {
    let sagas = Processor::start(&test_log);
    let plan = json!({
        "steps": [
            { "id": "a", "tool": "work", "input": { "n": 1 } },
            { "id": "b", "tool": "work", "depends_on": ["a"], "retry": { "initial_ms": 10 } }
        ]
    });
    let (run, begin) = start("1", &plan, &[kafka("work")], &json!({}));
    sagas.send(&begin);
    let call = &sagas.calls(1)[0];
    assert_eq!((&*call.worker, call.timeout_ms), (r#"{"kafka":{}}"#, None));
    let first = json!({ "outcome": "succeeded", "output": { "n": 1.5 } });
    send(&sagas, 0..PARTITIONS, &result(&run, "a", &first));
    let busy = json!({ "outcome": "failed", "kind": "execute", "error": { "code": "busy", "retryable": true } });
    sagas.calls(2);
    send(&sagas, 0..PARTITIONS, &result(&run, "b", &busy));
    sagas.calls(3);
    let mut second = result(&run, "b", &json!({ "outcome": "succeeded" }));
    second = second.replace("\"attempt\":1", "\"attempt\":2");
    send(&sagas, 0..PARTITIONS, &second);
    let history = sagas.history_until(&run, "run_succeeded");
    assert_eq!(
        types(&history).join(" "),
        "run_started plan_ready step_scheduled step_succeeded step_scheduled step_retry_scheduled step_scheduled step_succeeded run_succeeded"
    );
    let kept = history
        .iter()
        .find(|record| record.kind == "step_succeeded");
    assert!(
        kept.unwrap().body.contains(r#""output":{"n":1.5}"#),
        "{kept:?}"
    );
    // For a run that is over, and one that there never was: no dead letter, and no record.
    send(&sagas, 0..PARTITIONS, &second);
    let nobody = "0198c1d2-0000-7000-8000-000000000001";
    send(
        &sagas,
        0..PARTITIONS,
        &result(nobody, "a", &json!({ "outcome": "succeeded" })),
    );
    let (after, begin) = start(
        "2",
        &json!({ "steps": [{ "id": "a", "tool": "noop" }] }),
        &[],
        &json!({}),
    );
    sagas.send(&begin);
    sagas.history_until(&after, "run_succeeded");
    assert_eq!(sagas.histories(0)[&run].len(), history.len());
    assert_eq!(letters(&sagas), Vec::<String>::new());
}

fn a_success_that_comes_too_late_is_undone(test_log: TestLog) {
    let sagas = Processor::start(&test_log);
    let plan = json!({ "steps": [
        { "id": "a", "tool": "work", "compensate": { "tool": "undo", "input": "{{ step.output }}" } },
        { "id": "b", "tool": "work" },
    ] });
    let (run, begin) = start("1", &plan, &[kafka("work"), kafka("undo")], &json!({}));
    sagas.send(&begin);
    sagas.calls(2);
    let failed = json!({ "outcome": "failed", "error": { "code": "no", "message": "no" } });
    send(&sagas, [0], &result(&run, "a", &failed));
    sagas.history_until(&run, "step_failed");
    send(
        &sagas,
        [0],
        &result(&run, "a", &json!({ "outcome": "succeeded", "output": 5 })),
    );
    send(
        &sagas,
        [1],
        &result(&run, "b", &json!({ "outcome": "succeeded" })),
    );
    let undo = &sagas.calls(3);
    let undo = undo.iter().find(|call| call.tool == "undo").unwrap();
    assert_eq!(undo.input, "5");
    let undone = json!({ "outcome": "succeeded", "kind": "compensate" });
    send(&sagas, [2], &result(&run, "a", &undone));
    let history = sagas.history_until(&run, "run_failed");
    assert!(
        types(&history).contains(&"compensation_succeeded"),
        "{history:?}"
    );
}

fn json_of_other_kinds_needs_a_kind(test_log: TestLog) {
    let sagas = Processor::start(&test_log);
    let plan = json!({ "steps": [{ "id": "w", "tool": "wait", "input": { "signal": "paid", "timeout_s": 600 } }] });
    let (run, begin) = start("1", &plan, &[], &json!({}));
    sagas.send(&begin);
    let kind = |kind: &str, more: &Value| {
        let mut json = json!({ "run_id": run, "kind": kind });
        let more = more.as_object().unwrap().clone();
        json.as_object_mut().unwrap().extend(more);
        json.to_string()
    };
    sagas.history_until(&run, "step_scheduled");
    // Another tenant's run is not theirs.
    send(&sagas, [0], &kind("cancel", &json!({ "tenant": "beta" })));
    for broken in [
        "no JSON".to_owned(),
        "7".into(),
        result(&run, "w", &json!({})),
        kind("start", &json!({})),
        kind("controls", &json!({})),
        kind("signal", &json!({})),
        result(&run, "w", &json!({ "outcome": "maybe" })),
    ] {
        send(&sagas, [1], &broken);
    }
    send(
        &sagas,
        [2],
        &kind(
            "signal",
            &json!({ "signal": "paid", "data": { "n": 1 }, "tenant": "acme" }),
        ),
    );
    let history = sagas.history_until(&run, "run_succeeded");
    assert!(
        !types(&history).contains(&"cancel_requested"),
        "{history:?}"
    );
    // A single read of Kafka may end early.
    let mut found = Vec::new();
    wait_until("the letters", || {
        found = letters(&sagas);
        found.len() == 7
    });
    let letters = found;
    assert!(
        letters
            .iter()
            .all(|one| one.starts_with("invalid_command: ")),
        "{letters:?}"
    );
    assert!(
        letters
            .iter()
            .any(|one| one.contains("neither `outcome` nor `kind`")),
        "{letters:?}"
    );
}

fn a_step_whose_output_cannot_be_stored_is_undone(test_log: TestLog) {
    let mut sagas = Processor::start(&test_log);
    let plan = json!({ "steps": [
        { "id": "a", "tool": "work", "compensate": { "tool": "undo", "input": { "entry": "{{ step.output.entry }}" } } },
    ] });
    let deep = format!("{}{}", "[".repeat(125), "]".repeat(125));
    let mut runs = Vec::new();
    for (n, output) in ["1e400", r#""\ud800""#, &*deep].into_iter().enumerate() {
        let (run, begin) = start(
            &n.to_string(),
            &plan,
            &[kafka("work"), kafka("undo")],
            &json!({}),
        );
        sagas.send(&begin);
        sagas.calls(2 * n + 1);
        let done = result(
            &run,
            "a",
            &json!({ "outcome": "succeeded", "output": "OUTPUT" }),
        );
        send(&sagas, [0], &done.replace(r#""OUTPUT""#, output));
        sagas.calls(2 * n + 2);
        runs.push(run);
    }
    // Their rows can be read.
    sagas.stop();
    sagas.go_on(&test_log);
    for run in &runs {
        let undone = json!({ "outcome": "succeeded", "kind": "compensate" });
        send(&sagas, [0], &result(run, "a", &undone));
        let history = sagas.history_until(run, "run_failed");
        let failed = history.iter().find(|record| record.kind == "step_failed");
        assert!(
            failed.unwrap().body.contains("invalid_output"),
            "{failed:?}"
        );
    }
    let calls = sagas.calls(6);
    let undo = calls.iter().filter(|call| call.tool == "undo");
    let inputs: Vec<_> = undo.map(|call| call.input.as_str()).collect();
    assert_eq!(inputs, [r#"{"entry":null}"#; 3]);
    assert_eq!(letters(&sagas), Vec::<String>::new());
}
