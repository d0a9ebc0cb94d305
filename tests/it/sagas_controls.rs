//! Runs and the emergency controls, at the saga processor: what goes on, what stands still, what producers on Kafka may not tell them;
//! and what the audit log says.

use std::{collections::BTreeMap, time::Duration};

use omnilink::{
    audit::Entry,
    base::clock::{Clock, SystemClock},
    commands::{ALL_TENANTS, Command},
    controls::{EmergencyState, Held, Since},
    log::header,
    runs::RunRecord,
    saga::Settings,
};
use serde_json::{Value, json};

use crate::support::{
    TestLog, on_both_logs, read_all,
    sagas::{Processor, claimed, command, result, start, types},
};

on_both_logs!(
    safe_mode_lets_the_builtin_tools_go_on,
    nobody_has_to_decide_while_the_kill_switch_is_on,
    unclaimed_work_waits_for_the_controls,
    what_a_node_holds_by_itself_holds_its_runs,
    the_controls_concern_producers_on_kafka,
    what_runs_refuse_is_in_the_audit_log,
    what_leaves_no_record_of_its_run_is_answered_in_the_audit_log,
    risky_steps_and_expired_approvals_are_in_the_audit_log,
);

const NOBODY: &str = "7dbd6d41-6f85-5f7b-98af-6637f5372c2e";

fn controls(state: EmergencyState) -> Command {
    let mut command = command("", "controls", &serde_json::to_value(state).unwrap());
    command.tenant = ALL_TENANTS.into();
    command
}

/// Since now.
fn since(control: &str) -> BTreeMap<String, Since> {
    let since = Since {
        at: SystemClock.now().0,
        by: "ops".into(),
        reason: "drill".into(),
    };
    [(control.to_owned(), since)].into()
}

fn kill_switch(sagas: &Processor, version: u64, on: bool) {
    sagas.send_to_all(&controls(EmergencyState {
        version,
        kill_switch: on,
        since: since("kill_switch"),
        ..EmergencyState::default()
    }));
}

fn entries(sagas: &Processor, at_least: usize) -> Vec<Entry> {
    let records = read_all(&*sagas.log, &sagas.names.audit, at_least);
    let entry = |value: Option<&[u8]>| Entry::decode(value.unwrap()).unwrap();
    records
        .iter()
        .map(|fetched| entry(fetched.record.value.as_deref()))
        .collect()
}

fn detail(entry: &Entry) -> Value {
    serde_json::from_str(&entry.detail).unwrap()
}

fn body(record: &RunRecord) -> Value {
    serde_json::from_str(&record.body).unwrap()
}

fn safe_mode_lets_the_builtin_tools_go_on(test_log: TestLog) {
    let sagas = Processor::start(&test_log);
    sagas.send_to_all(&controls(EmergencyState {
        version: 1,
        safe_mode: true,
        ..EmergencyState::default()
    }));
    let undo = json!({ "tool": "emit", "input": { "type": "x.undone", "data": {} } });
    let plan = json!({ "steps": [
        { "id": "told", "tool": "emit", "input": { "type": "x.told", "data": {} }, "compensate": undo },
        { "id": "rest", "tool": "wait", "input": { "for_s": 0.01 }, "depends_on": ["told"] },
        { "id": "fails", "tool": "noop", "input": "{{ params.missing }}", "depends_on": ["rest"] },
    ] });
    let (run, first) = start("1", &plan, &[], &json!({}));
    sagas.send(&first);
    let history = sagas.history_until(&run, "run_failed");
    assert_eq!(
        types(&history)[2..],
        [
            "step_scheduled",
            "step_succeeded",
            "step_scheduled",
            "step_succeeded",
            "step_failed",
            "compensation_started",
            "compensation_scheduled",
            "compensation_succeeded",
            "run_failed"
        ]
    );
    // What a worker does is held.
    let plan = json!({ "steps": [{ "id": "a", "tool": "work" }] });
    let (run, second) = start("2", &plan, &[claimed("work")], &json!({}));
    sagas.send(&second);
    sagas.history_until(&run, "step_held");
}

fn nobody_has_to_decide_while_the_kill_switch_is_on(test_log: TestLog) {
    let settings = Settings {
        approval_expiry: Duration::from_secs(3),
        ..Settings::default()
    };
    let mut sagas = Processor::start_with(&test_log, settings);
    let plan =
        json!({ "steps": [{ "id": "s", "tool": "approve", "input": { "message": "Well?" } }] });
    let (run, first) = start("1", &plan, &[], &json!({}));
    sagas.send(&first);
    let asked = sagas.history_until(&run, "approval_requested");
    kill_switch(&sagas, 1, true);
    let held = sagas.history_until(&run, "run_held");
    assert_eq!(body(held.last().unwrap())["reason"], "kill_switch");
    // That is stored.
    sagas.stop();
    sagas.go_on(&test_log);
    std::thread::sleep(Duration::from_millis(1_500));
    let records = asked.len() + 1;
    assert_eq!(sagas.histories(records)[&run].len(), records);
    kill_switch(&sagas, 2, false);
    let mut decide = command(
        &run,
        "decision",
        &json!({ "approval": 3, "decision": "approved" }),
    );
    decide.principal = "boss".into();
    sagas.send(&decide);
    // Whoever was woken first, nothing has expired.
    let history = sagas.history_until(&run, "run_succeeded");
    assert!(types(&history).contains(&"run_released"), "{history:?}");
    assert!(
        !history
            .iter()
            .any(|record| body(record)["by"] == "omnilink")
    );
}

fn unclaimed_work_waits_for_the_controls(test_log: TestLog) {
    let mut sagas = Processor::start(&test_log);
    let mut tool = claimed("work");
    tool["queue_timeout_s"] = json!(3);
    let plan = json!({ "steps": [{ "id": "a", "tool": "work" }] });
    let (run, first) = start("1", &plan, &[tool], &json!({}));
    sagas.send(&first);
    sagas.calls(1);
    sagas.send_to_all(&controls(EmergencyState {
        version: 1,
        disabled: [("workers".to_owned(), "drill".to_owned())].into(),
        since: since("workers"),
        ..EmergencyState::default()
    }));
    let held = sagas.history_until(&run, "run_held");
    assert_eq!(body(held.last().unwrap())["reason"], "workers");
    sagas.stop();
    sagas.go_on(&test_log);
    // The worker was faster than the control.
    let call = sagas.calls(1).remove(0);
    sagas.send(&result(&call, Ok(json!(1))));
    sagas.history_until(&run, "run_succeeded");
}

fn what_a_node_holds_by_itself_holds_its_runs(test_log: TestLog) {
    let settings = Settings {
        approval_expiry: Duration::from_secs(3),
        ..Settings::default()
    };
    let mut sagas = Processor::start_with(&test_log, settings);
    let hold = |sagas: &Processor, held: Held| *sagas.own_holds.lock().unwrap() = held;
    let safe_mode = Held {
        safe_mode: true,
        ..Held::default()
    };
    hold(&sagas, safe_mode);
    let plan = json!({ "steps": [{ "id": "a", "tool": "work" }] });
    let (run, first) = start("1", &plan, &[claimed("work")], &json!({}));
    sagas.send(&first);
    let held = sagas.history_until(&run, "step_held");
    let last = body(held.last().unwrap());
    assert_eq!(last["reason"], "safe_mode");
    assert!(last["until"].is_null(), "{last}");
    // The next node does not hold it, and releases the run although no record arrives.
    sagas.stop();
    std::thread::sleep(Duration::from_millis(1_500));
    assert_eq!(sagas.histories(held.len())[&run].len(), held.len());
    hold(&sagas, Held::default());
    sagas.go_on(&test_log);
    let history = sagas.history_until(&run, "step_scheduled");
    assert_eq!(
        types(&history)[held.len()..],
        ["step_released", "step_scheduled"]
    );

    let plan =
        json!({ "steps": [{ "id": "s", "tool": "approve", "input": { "message": "Well?" } }] });
    let (run, second) = start("2", &plan, &[], &json!({}));
    sagas.send(&second);
    sagas.history_until(&run, "approval_requested");
    let kill_switch = Held {
        kill_switch: true,
        ..Held::default()
    };
    hold(&sagas, kill_switch);
    let held = sagas.history_until(&run, "run_held");
    assert_eq!(body(held.last().unwrap())["reason"], "kill_switch");
    hold(&sagas, Held::default());
    sagas.history_until(&run, "run_released");
    // As much time is left as when the node began to hold it.
    let mut decide = command(
        &run,
        "decision",
        &json!({ "approval": 3, "decision": "approved" }),
    );
    decide.principal = "boss".into();
    sagas.send(&decide);
    sagas.history_until(&run, "run_succeeded");
}

fn the_controls_concern_producers_on_kafka(test_log: TestLog) {
    let sagas = Processor::start(&test_log);
    let plan = json!({ "steps": [
        { "id": "s", "tool": "wait", "input": { "signal": "go", "timeout_s": 600 } },
        { "id": "a", "tool": "work" },
    ] });
    let (run, first) = start("1", &plan, &[claimed("work")], &json!({}));
    sagas.send(&first);
    let call = sagas.calls(1).remove(0);
    // Start, plan, two calls.
    let before = 4;
    assert_eq!(sagas.histories(before)[&run].len(), before);
    let told = |more: Value| {
        let mut json = json!({ "run_id": run });
        json.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        sagas.send_json(&json);
    };
    let signal = || json!({ "kind": "signal", "signal": "go" });
    kill_switch(&sagas, 1, true);
    told(json!({ "kind": "pause" }));
    told(signal());
    told(json!({ "kind": "decision", "approval": 3, "decision": "approved", "principal": "boss" }));
    let refused = entries(&sagas, 3);
    for (entry, action) in refused.iter().zip(["pause", "signal", "decision"]) {
        assert_eq!((&*entry.action, &*entry.outcome), (action, "denied"));
        assert_eq!(entry.tenant, "acme");
        assert_eq!(detail(entry)["code"], "omnilink_disabled");
    }
    assert_eq!(refused[2].principal.as_deref(), Some("boss"));
    sagas.send_to_all(&controls(EmergencyState {
        version: 2,
        operator_takeover: true,
        ..EmergencyState::default()
    }));
    told(json!({ "kind": "cancel" }));
    let taken_over = entries(&sagas, 4).remove(3);
    assert_eq!(detail(&taken_over)["code"], "operator_takeover");
    assert_eq!(taken_over.principal.as_deref(), Some("kafka"));
    // Results are taken in.
    assert_eq!(sagas.histories(before)[&run].len(), before);
    told(json!({ "step_id": "a", "attempt": call.attempt, "outcome": "succeeded" }));
    sagas.history_until(&run, "step_succeeded");
    kill_switch(&sagas, 3, false);
    told(signal());
    sagas.history_until(&run, "run_succeeded");
    let done = entries(&sagas, 5).remove(4);
    assert_eq!((&*done.action, &*done.outcome), ("run.signalled", "ok"));
    assert_eq!(detail(&done)["source"], "kafka");
}

fn what_runs_refuse_is_in_the_audit_log(test_log: TestLog) {
    let sagas = Processor::start(&test_log);
    let plan =
        json!({ "steps": [{ "id": "s", "tool": "approve", "input": { "message": "Well?" } }] });
    let (run, first) = start("1", &plan, &[], &json!({}));
    sagas.send(&first);
    let own = json!({ "approval": 3, "decision": "approved" });
    sagas.send(&command(&run, "decision", &own));
    sagas.send(&command(&run, "resume", &json!({})));
    sagas.send(&command(NOBODY, "cancel", &json!({})));
    let mut of_other = command(&run, "cancel", &json!({}));
    of_other.tenant = "other".into();
    sagas.send(&of_other);
    // What is done has an entry of the node that took it in.
    sagas.send(&command(&run, "pause", &json!({})));
    sagas.history_until(&run, "paused");
    let mut seen: Vec<_> = entries(&sagas, 4)
        .iter()
        .map(|entry| {
            let code = detail(entry)["code"].as_str().unwrap().to_owned();
            let of = (entry.tenant.clone(), entry.action.clone());
            (of, entry.outcome.clone(), code)
        })
        .collect();
    seen.sort();
    let entry = |tenant: &str, action: &str, outcome: &str, code: &str| {
        let of = (tenant.to_owned(), action.to_owned());
        (of, outcome.to_owned(), code.to_owned())
    };
    assert_eq!(
        seen,
        [
            entry("acme", "cancel", "failed", "not_found"),
            entry("acme", "decision", "denied", "self_approval"),
            entry("acme", "resume", "failed", "not_paused"),
            entry("other", "cancel", "failed", "not_found"),
        ]
    );
}

fn what_leaves_no_record_of_its_run_is_answered_in_the_audit_log(test_log: TestLog) {
    let sagas = Processor::start(&test_log);
    let plan = json!({ "steps": [
        { "id": "s", "tool": "approve", "input": { "message": "Well?" } },
        { "id": "w", "tool": "wait", "input": { "signal": "go" }, "depends_on": ["s"] },
    ] });
    let (run, first) = start("1", &plan, &[], &json!({}));
    sagas.send(&first);
    let approved = json!({ "approval": 3, "decision": "approved" });
    let mut decision = command(&run, "decision", &approved);
    decision.principal = "bob".into();
    sagas.send(&decision);
    let again = sagas.send(&decision);
    let unknown = sagas.send(&command(NOBODY, "pause", &json!({})));
    let records = read_all(&*sagas.log, &sagas.names.audit, 2);
    let mut seen: Vec<_> = records
        .iter()
        .map(|fetched| {
            let entry = Entry::decode(fetched.record.value.as_deref().unwrap()).unwrap();
            let answers = header(&fetched.record.headers, "omnilink.answers").unwrap();
            let answers = String::from_utf8(answers.to_vec()).unwrap();
            (answers, entry.outcome.clone(), detail(&entry).to_string())
        })
        .collect();
    seen.sort();
    let entry = |kind: &str, (partition, offset): (u32, u64), outcome: &str, detail: &Value| {
        let answers = format!("{kind}:{partition}:{offset}");
        (answers, outcome.to_owned(), detail.to_string())
    };
    assert_eq!(
        seen,
        [
            entry("decision", again, "ok", &json!({ "status": "duplicate" })),
            entry("pause", unknown, "failed", &json!({ "code": "not_found" })),
        ]
    );
    // Nothing was recorded twice.
    let mut histories = sagas.histories(4);
    let history = histories.remove(&run).unwrap();
    let decided = history.iter().filter(|one| one.kind == "approval_decided");
    assert_eq!(decided.count(), 1);
}

fn risky_steps_and_expired_approvals_are_in_the_audit_log(test_log: TestLog) {
    let settings = Settings {
        approval_expiry: Duration::from_secs(3),
        ..Settings::default()
    };
    let sagas = Processor::start_with(&test_log, settings);
    let mut tool = claimed("work");
    tool["risk"] =
        json!({ "lane": "safe", "params": { "amount": { "yellow": 1000, "red": 10000 } } });
    let plan = json!({ "steps": [
        { "id": "small", "tool": "work", "input": { "amount": 5 } },
        { "id": "large", "tool": "work", "input": { "amount": "{{ params.n }}" } },
        { "id": "ask", "tool": "approve", "input": { "message": "Well?" } },
    ] });
    let (run, first) = start("1", &plan, &[tool], &json!({ "n": 5000 }));
    sagas.send(&first);
    for call in sagas.calls(2) {
        sagas.send(&result(&call, Ok(json!(1))));
    }
    sagas.history_until(&run, "run_denied");
    let all = entries(&sagas, 2);
    let [risky, expired] = &all[..] else {
        panic!("{all:?}");
    };
    assert_eq!((&*risky.action, &*risky.outcome), ("step.risky", "ok"));
    assert_eq!(risky.principal.as_deref(), Some("ann"));
    assert_eq!(
        detail(risky),
        json!({ "step_id": "large", "tool": "work", "lane": "YELLOW", "risk_score": 0.5, "reasons": ["yellow:amount"] })
    );
    assert_eq!(expired.action, "approval.expired");
    assert_eq!(expired.principal.as_deref(), Some("omnilink"));
    let asked = sagas.histories(1)[&run]
        .iter()
        .find(|record| record.kind == "approval_requested")
        .unwrap()
        .seq;
    assert_eq!(expired.resource_id, Some(format!("{run}.{asked}")));
}
