//! The saga processor on both logs: its records, restarts without loss or duplicates, timers, controls.

use std::time::{Duration, Instant};

use omnilink::{
    audit::Entry,
    base::clock::Millis,
    commands::{ALL_TENANTS, Command},
    controls::EmergencyState,
    envelope::avro::decode_ingress,
    log::partition_for,
    saga::{Answer, Notice},
};
use serde_json::{Value, json};

use crate::support::{
    TestLog, on_both_logs, read_all,
    sagas::{Processor, claimed, command, result, start, types, undoes},
    wait_until,
};

on_both_logs!(
    runs_of_builtin_tools_end_in_one_transaction,
    calls_go_to_workers_and_results_come_back,
    what_failed_is_undone_in_reverse,
    a_start_counts_once,
    timers_fire_after_a_restart,
    results_in_the_log_take_precedence_over_deadlines,
    held_calls_are_sent_when_the_controls_allow_it,
    calls_have_the_key_that_needs_the_params,
    followers_get_answers_and_ends,
    the_end_of_a_run_tells_what_was_decided,
    emitted_events_are_on_ingress,
    notices_are_events_or_audit_entries,
    an_invalid_command_becomes_a_dead_letter,
);

fn noops(count: usize) -> Value {
    let steps: Vec<Value> = (0..count)
        .map(|n| {
            let before = n.checked_sub(1).map(|before| format!("s{before}"));
            json!({ "id": format!("s{n}"), "tool": "noop", "input": { "n": n }, "depends_on": before.into_iter().collect::<Vec<_>>() })
        })
        .collect();
    json!({ "steps": steps, "output": "{{ params.x }}" })
}

fn runs_of_builtin_tools_end_in_one_transaction(test_log: TestLog) {
    let sagas = Processor::start(&test_log);
    for number in 0..20 {
        let (_, start) = start(&number.to_string(), &noops(3), &[], &json!({ "x": number }));
        sagas.send(&start);
    }
    let histories = sagas.histories(20 * 9);
    assert_eq!(histories.len(), 20);
    for (run, history) in &histories {
        assert_eq!(
            types(history),
            [
                "run_started",
                "plan_ready",
                "step_scheduled",
                "step_succeeded",
                "step_scheduled",
                "step_succeeded",
                "step_scheduled",
                "step_succeeded",
                "run_succeeded"
            ]
        );
        let causation = history[0].causation.as_deref().unwrap();
        let partition = partition_for(run.as_bytes(), 4);
        assert!(
            causation.starts_with(&format!("start:{partition}:")),
            "{causation}"
        );
    }
    assert!(sagas.calls(0).is_empty());
}

/// Step `a`, then `b`, each undone by `undo`.
fn two_calls() -> (Value, Vec<Value>) {
    let undo = json!({ "tool": "undo", "input": "{{ step.output }}" });
    let plan = json!({ "steps": [
        { "id": "a", "tool": "work", "input": { "n": "{{ params.n }}" }, "compensate": undo },
        { "id": "b", "tool": "work", "input": "{{ steps.a.output }}", "depends_on": ["a"], "compensate": undo }
    ] });
    (plan, vec![claimed("work"), claimed("undo")])
}

fn calls_go_to_workers_and_results_come_back(test_log: TestLog) {
    let mut sagas = Processor::start(&test_log);
    let (plan, tools) = two_calls();
    let (run, start) = start("1", &plan, &tools, &json!({ "n": 5 }));
    sagas.send(&start);
    let call = sagas.calls(1).remove(0);
    assert_eq!(
        (&*call.step_id, call.attempt, &*call.tool),
        ("a", 1, "work")
    );
    assert_eq!(call.input, r#"{"n":5}"#);
    assert_eq!(call.worker, r#"{"claim":{}}"#);
    assert_eq!(call.idempotency_key, format!("{run}:a:execute"));
    assert_eq!(call.task_id, format!("{run}:a:execute:1"));
    // The run is read back from its rows.
    sagas.stop();
    sagas.go_on(&test_log);
    let large = json!({ "m": "x".repeat(100_000) });
    sagas.send(&result(&call, Ok(large.clone())));
    // Sent twice: the second result is about an attempt that is over.
    sagas.send(&result(&call, Ok(json!({ "m": 7 }))));
    let calls = sagas.calls(2);
    let second = calls.iter().find(|call| call.step_id == "b").unwrap();
    assert_eq!(second.input, large.to_string());
    sagas.stop();
    sagas.go_on(&test_log);
    sagas.send(&result(second, Err(("busy", true))));
    sagas.history_until(&run, "step_retry_scheduled");
    sagas.stop();
    sagas.go_on(&test_log);
    let calls = sagas.calls(3);
    let third = calls.iter().find(|call| call.attempt == 2).unwrap();
    assert_eq!(third.input, large.to_string());
    sagas.send(&result(third, Ok(Value::Null)));
    let history = sagas.history_until(&run, "run_succeeded");
    assert_eq!(
        types(&history),
        [
            "run_started",
            "plan_ready",
            "step_scheduled",
            "step_succeeded",
            "step_scheduled",
            "step_retry_scheduled",
            "step_scheduled",
            "step_succeeded",
            "run_succeeded"
        ]
    );
    assert_eq!(sagas.calls(3).len(), 3);
}

fn what_failed_is_undone_in_reverse(test_log: TestLog) {
    let sagas = Processor::start(&test_log);
    let (mut plan, tools) = two_calls();
    let third = json!({ "id": "c", "tool": "work", "depends_on": ["b"] });
    plan["steps"].as_array_mut().unwrap().push(third);
    let (run, start) = start("1", &plan, &tools, &json!({ "n": 5 }));
    sagas.send(&start);
    for (number, step) in ["a", "b"].into_iter().enumerate() {
        let calls = sagas.calls(number + 1);
        let call = calls.iter().find(|call| call.step_id == step).unwrap();
        sagas.send(&result(call, Ok(json!(step))));
    }
    let calls = sagas.calls(3);
    let call = calls.iter().find(|call| call.step_id == "c").unwrap();
    sagas.send(&result(call, Err(("card_declined", false))));
    for (number, step) in ["b", "a"].into_iter().enumerate() {
        let calls = sagas.calls(number + 4);
        let call = calls.iter().rfind(|call| undoes(call)).unwrap();
        assert_eq!((&*call.step_id, &*call.tool), (step, "undo"));
        assert_eq!(call.input, format!("\"{step}\""));
        let error: Value = serde_json::from_str(call.error.as_ref().unwrap()).unwrap();
        assert_eq!(error["code"], "card_declined");
        let execute: Value = serde_json::from_str(call.execute.as_ref().unwrap()).unwrap();
        assert_eq!(execute["idempotency_key"], format!("{run}:{step}:execute"));
        assert_eq!(execute["outcome"], "succeeded");
        sagas.send(&result(call, Ok(Value::Null)));
    }
    let history = sagas.history_until(&run, "run_failed");
    let body: Value = serde_json::from_str(&history.last().unwrap().body).unwrap();
    let undone: Vec<_> = body["error"]["compensation_results"]
        .as_array()
        .unwrap()
        .iter()
        .map(|result| {
            (
                result["step_id"].as_str().unwrap(),
                result["success"] == true,
            )
        })
        .collect();
    assert_eq!(undone, [("b", true), ("a", true)]);
    assert_eq!(body["error"]["failed_step_id"], "c");
}

fn a_start_counts_once(test_log: TestLog) {
    let mut sagas = Processor::start(&test_log);
    let (plan, tools) = two_calls();
    let (_, live) = start("live", &plan, &tools, &json!({ "n": 1 }));
    let (_, ended) = start("ended", &noops(1), &[], &json!({ "x": 1 }));
    for _ in 0..2 {
        sagas.send(&live);
        sagas.send(&ended);
        sagas.stop();
        sagas.go_on(&test_log);
        sagas.send(&ended);
    }
    let (_, last) = start("last", &noops(1), &[], &json!({ "x": 1 }));
    sagas.send(&last);
    // 3 records of the open run, 5 of each of the others.
    let histories = sagas.histories(13);
    let mut lengths: Vec<_> = histories.values().map(Vec::len).collect();
    lengths.sort_unstable();
    assert_eq!(lengths, [3, 5, 5]);
}

fn timers_fire_after_a_restart(test_log: TestLog) {
    let mut sagas = Processor::start(&test_log);
    let plan = json!({ "steps": [
        { "id": "pause", "tool": "wait", "input": { "for_s": 1.5 } },
        { "id": "slow", "tool": "work", "timeout_s": 2, "retry": { "max_attempts": 1 } }
    ] });
    // An unclaimed call would end as `not_started`.
    let mut tool = claimed("work");
    tool["worker"] = json!({ "kafka": {} });
    let (run, start) = start("1", &plan, &[tool], &json!({}));
    let began = Instant::now();
    sagas.send(&start);
    assert_eq!(sagas.calls(1).len(), 1);
    sagas.stop();
    sagas.go_on(&test_log);
    let history = sagas.history_until(&run, "run_failed");
    assert!(
        began.elapsed() >= Duration::from_secs(2),
        "{:?}",
        began.elapsed()
    );
    assert_eq!(
        types(&history),
        [
            "run_started",
            "plan_ready",
            "step_scheduled",
            "step_scheduled",
            "step_succeeded",
            "step_unknown",
            "run_failed"
        ]
    );
    let at = |seq: usize| history[seq - 1].at;
    assert!(at(5) - at(3) >= 1500, "{history:?}");
    assert!(at(6) - at(4) >= 2000, "{history:?}");
}

fn results_in_the_log_take_precedence_over_deadlines(test_log: TestLog) {
    let mut sagas = Processor::start(&test_log);
    let step = |id: &str, tool: &str| json!({ "id": id, "tool": tool, "timeout_s": 2, "retry": { "max_attempts": 1 } });
    let steps = [step("a", "work"), step("b", "work"), step("c", "pulled")];
    let plan = json!({ "steps": steps, "timeout_s": 2.5 });
    let mut work = claimed("work");
    work["worker"] = json!({ "kafka": {} });
    let mut pulled = claimed("pulled");
    pulled["queue_timeout_s"] = json!(2);
    let (run, begin) = start("1", &plan, &[work, pulled], &json!({}));
    sagas.send(&begin);
    let began = Instant::now();
    let calls = sagas.calls(3);
    sagas.stop();
    for call in &calls {
        if call.tool == "pulled" {
            let claim = json!({ "step_id": call.step_id, "attempt": 1, "deadline": Millis(call.at + 1_500) });
            sagas.send(&command(&run, "claimed", &claim));
        }
        sagas.send(&result(call, Ok(json!(1))));
    }
    // They are read only after all deadlines.
    std::thread::sleep(Duration::from_millis(2_700).saturating_sub(began.elapsed()));
    sagas.go_on(&test_log);
    let history = sagas.history_until(&run, "run_succeeded");
    let kinds = types(&history);
    let succeeded = kinds.iter().filter(|kind| **kind == "step_succeeded");
    assert_eq!((succeeded.count(), kinds.len()), (3, 10), "{kinds:?}");
}

fn controls(version: u64, safe_mode: bool) -> Command {
    let state = EmergencyState {
        version,
        safe_mode,
        ..EmergencyState::default()
    };
    let mut command = command("", "controls", &serde_json::to_value(state).unwrap());
    command.tenant = ALL_TENANTS.into();
    command
}

fn held_calls_are_sent_when_the_controls_allow_it(test_log: TestLog) {
    let mut sagas = Processor::start(&test_log);
    sagas.send_to_all(&controls(1, true));
    let (plan, tools) = two_calls();
    let mut runs = Vec::new();
    for number in 0..10 {
        let (run, start) = start(&number.to_string(), &plan, &tools, &json!({ "n": number }));
        sagas.send(&start);
        runs.push(run);
    }
    let histories = sagas.histories(30);
    for history in histories.values() {
        assert_eq!(types(history), ["run_started", "plan_ready", "step_held"]);
    }
    assert!(sagas.calls(0).is_empty());
    sagas.stop();
    sagas.go_on(&test_log);
    sagas.send_to_all(&controls(2, false));
    // An older state, from a node that was offline.
    sagas.send_to_all(&controls(1, true));
    assert_eq!(sagas.calls(10).len(), 10);
    let histories = sagas.histories(50);
    for run in &runs {
        let types = types(&histories[run]);
        assert_eq!(types[2..], ["step_held", "step_released", "step_scheduled"]);
    }
}

fn calls_have_the_key_that_needs_the_params(test_log: TestLog) {
    let sagas = Processor::start(&test_log);
    let tools = [("asks", "{{ params.account }}"), ("given", "{{ input.n }}")];
    let tools = tools.map(|(name, key)| {
        json!({
            "name": name, "description": "a tool", "worker": { "http": { "url": "http://127.0.0.1:1/" } },
            "kind": "read", "risk": { "lane": "safe" }, "limit": { "concurrency": 1, "key": key }
        })
    });
    let plan = json!({ "steps": [
        { "id": "a", "tool": "asks", "input": { "n": 1 } },
        { "id": "b", "tool": "given", "input": { "n": 1 } },
    ] });
    let (_, first) = start("1", &plan, &tools, &json!({ "account": "acme" }));
    sagas.send(&first);
    let mut calls = sagas.calls(2);
    calls.sort_by(|one, two| one.step_id.cmp(&two.step_id));
    // The node that makes the call renders the other one.
    let keys: Vec<_> = calls.iter().map(|call| call.limit_key.as_deref()).collect();
    assert_eq!(keys, [Some("acme"), None]);
}

fn followers_get_answers_and_ends(test_log: TestLog) {
    let sagas = Processor::start(&test_log);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let plan = json!({ "steps": [{ "id": "s", "tool": "wait", "input": { "signal": "go" } }], "output": "{{ steps.s.output }}" });
    let (run, start) = start("1", &plan, &[], &json!({}));
    let mut follower = sagas.followers.follow(run.parse().unwrap());
    let mut next = || {
        let next = async { tokio::time::timeout(Duration::from_secs(20), follower.next()).await };
        runtime.block_on(next).unwrap().unwrap()
    };
    let mut answer = |at: (u32, u64)| match next() {
        Notice::Answered {
            partition,
            offset,
            answer,
        } => {
            assert_eq!((partition, offset), at);
            answer
        }
        Notice::Ended(run) => panic!("{run:?}"),
    };
    assert_eq!(answer(sagas.send(&start)), Answer::Done);
    let told = |kind: &str, body: &Value| sagas.send(&command(&run, kind, body));
    assert_eq!(answer(told("pause", &json!({}))), Answer::Done);
    let Answer::Refused { code, .. } = answer(told("pause", &json!({}))) else {
        panic!("paused already");
    };
    assert_eq!(code, "already_paused");
    assert_eq!(answer(told("resume", &json!({}))), Answer::Done);
    assert_eq!(answer(sagas.send(&start)), Answer::Duplicate { same: true });
    let mut other = command(&run, "cancel", &json!({}));
    other.tenant = "other".into();
    assert_eq!(answer(sagas.send(&other)), Answer::UnknownRun);
    let at = told("signal", &json!({ "signal": "go", "data": { "n": 1 } }));
    assert_eq!(answer(at), Answer::Done);
    let Notice::Ended(view) = next() else {
        panic!("the end");
    };
    assert_eq!(view.run_id, run);
    assert_eq!(view.output.as_ref().unwrap().text(), r#"{"n":1}"#);
    let at = told("cancel", &json!({}));
    let Notice::Answered { offset, answer, .. } = next() else {
        panic!("an answer");
    };
    assert_eq!(offset, at.1);
    assert!(
        matches!(
            answer,
            Answer::Refused {
                code: "run_ended",
                ..
            }
        ),
        "{answer:?}"
    );
}

fn the_end_of_a_run_tells_what_was_decided(test_log: TestLog) {
    let sagas = Processor::start(&test_log);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let plan =
        json!({ "steps": [{ "id": "s", "tool": "approve", "input": { "message": "Well?" } }] });
    let (run, start) = start("1", &plan, &[], &json!({}));
    let mut follower = sagas.followers.follow(run.parse().unwrap());
    sagas.send(&start);
    let asked = sagas.history_until(&run, "approval_requested");
    let number = asked.last().unwrap().seq;
    let mut decide = command(
        &run,
        "decision",
        &json!({ "approval": number, "decision": "approved", "reason": "fine" }),
    );
    decide.principal = "boss".into();
    sagas.send(&decide);
    let view = loop {
        let next = async { tokio::time::timeout(Duration::from_secs(20), follower.next()).await };
        if let Notice::Ended(view) = runtime.block_on(next).unwrap().unwrap() {
            break view;
        }
    };
    let [approval] = &view.approvals[..] else {
        panic!("{view:?}");
    };
    assert_eq!(approval.id, format!("{run}.{number}"));
    assert_eq!(
        (&*approval.kind, &*approval.status),
        ("step", "approved"),
        "{approval:?}"
    );
    assert_eq!(approval.decided_by.as_deref(), Some("boss"));
    assert_eq!(approval.reason.as_deref(), Some("fine"));
    assert!(approval.decided_at.is_some());
}

fn emitted_events_are_on_ingress(test_log: TestLog) {
    let sagas = Processor::start(&test_log);
    let emit = |id: &str, event: &Value| {
        let plan = json!({ "steps": [{ "id": "e", "tool": "emit", "input": event }] });
        let (run, start) = start(id, &plan, &[], &json!({}));
        sagas.send(&start);
        run
    };
    let run = emit(
        "1",
        &json!({ "type": "order.paid", "data": { "total": 5 } }),
    );
    let bad = emit("2", &json!({ "type": "", "data": 1 }));
    let history = sagas.history_until(&run, "run_succeeded");
    assert_eq!(history.len(), 5);
    let history = sagas.history_until(&bad, "run_failed");
    assert_eq!(types(&history)[3], "step_failed");
    let ids = ids_on_ingress(&sagas, 3);
    let mut expected = vec![
        ("order.paid".to_owned(), format!("{run}:e:execute")),
        ("omnilink.run.succeeded".to_owned(), format!("{run}.5")),
        ("omnilink.run.failed".to_owned(), format!("{bad}.5")),
    ];
    expected.sort();
    assert_eq!(ids, expected);
}

/// Types and ids of the events on `ingress`, in order, once there are so many.
fn ids_on_ingress(sagas: &Processor, at_least: usize) -> Vec<(String, String)> {
    let records = read_all(&*sagas.log, &sagas.names.ingress, at_least);
    let mut ids: Vec<_> = records
        .iter()
        .map(|fetched| {
            let value = fetched.record.value.as_deref().unwrap();
            let event = decode_ingress(value).unwrap();
            assert_eq!(event.tenant.as_str(), "acme");
            (event.kind.to_string(), event.id.to_string())
        })
        .collect();
    ids.sort();
    ids
}

fn notices_are_events_or_audit_entries(test_log: TestLog) {
    let sagas = Processor::start(&test_log);
    let plan =
        json!({ "steps": [{ "id": "s", "tool": "approve", "input": { "message": "Well?" } }] });
    let (run, first) = start("1", &plan, &[], &json!({}));
    sagas.send(&first);
    sagas.history_until(&run, "approval_requested");
    let asked = ("omnilink.approval.requested".to_owned(), format!("{run}.3"));
    assert_eq!(ids_on_ingress(&sagas, 1), [asked]);
    let mut decide = command(
        &run,
        "decision",
        &json!({ "approval": 3, "decision": "denied", "reason": "no" }),
    );
    decide.principal = "boss".into();
    sagas.send(&decide);
    sagas.history_until(&run, "run_denied");
    // A control of a run that has ended.
    sagas.send(&decide);
    // The same identity with a different request.
    let (_, other) = start("1", &plan, &[], &json!({ "n": 1 }));
    sagas.send(&other);
    let entries: Vec<Entry> = read_all(&*sagas.log, &sagas.names.audit, 2)
        .iter()
        .map(|fetched| Entry::decode(fetched.record.value.as_deref().unwrap()).unwrap())
        .collect();
    let of: Vec<_> = entries
        .iter()
        .map(|entry| {
            assert_eq!(entry.resource_id.as_deref(), Some(&*run));
            let detail: Value = serde_json::from_str(&entry.detail).unwrap();
            let code = detail["code"].as_str().unwrap().to_owned();
            (entry.action.clone(), entry.principal.clone().unwrap(), code)
        })
        .collect();
    let entry = |action: &str, by: &str, code: &str| (action.into(), by.into(), code.into());
    assert_eq!(
        of,
        [
            entry("decision", "boss", "run_ended"),
            entry("start", "ann", "identity_mismatch")
        ]
    );
}

fn an_invalid_command_becomes_a_dead_letter(test_log: TestLog) {
    let sagas = Processor::start(&test_log);
    let mut broken = command("no uuid", "cancel", &json!({}));
    sagas.send(&broken);
    broken = command(
        "0198c1d2-0000-7000-8000-000000000001",
        "result",
        &json!({ "step_id": 5 }),
    );
    sagas.send(&broken);
    let (run, good) = start("1", &noops(1), &[], &json!({ "x": 1 }));
    sagas.send(&good);
    sagas.history_until(&run, "run_succeeded");
    let letters = || read_all(&*sagas.log, &sagas.names.dlq, 0).len();
    wait_until("two letters", || letters() == 2);
}
