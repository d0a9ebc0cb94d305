//! Single rules of the core.

use serde_json::{Value, json};

use super::*;

#[test]
fn steps_run_in_parallel_and_see_the_outputs_before_them() {
    let plan = json!({
        "steps": [
            { "id": "a", "tool": "t", "input": { "n": "{{ params.n }}" } },
            { "id": "b", "tool": "t", "input": 2 },
            { "id": "c", "tool": "t", "input": "{{ steps.a.output + steps.b.output }}", "depends_on": ["a", "b"] },
            { "id": "d", "tool": "noop", "input": "{{ steps.c.output }}", "depends_on": ["c"], "when": "{{ steps.c.output > 100 }}" },
        ],
        "output": { "sum": "{{ steps.c.output }}" }
    });
    let mut case = Case::start(&plan, &[tool("t", &json!({}))], &json!({ "n": 1 }));
    assert_eq!(
        case.types(),
        "run_started, plan_ready, step_scheduled a, step_scheduled b"
    );
    case.answer("b", 1, good(&json!(5)));
    let effects = case.answer("a", 1, good(&json!(4)));
    let Event::StepScheduled { input, .. } = &effects.events[1] else {
        panic!("{:?}", effects.events);
    };
    assert_eq!(input.text(), "9");
    // A repeated result changes nothing.
    assert!(case.answer("a", 1, good(&json!(400))).ignored);
    case.answer("c", 1, good(&json!(9)));
    assert_eq!(case.run.status(), RunStatus::Succeeded);
    assert_eq!(
        case.types(),
        "run_started, plan_ready, step_scheduled a, step_scheduled b, step_succeeded b, step_succeeded a, step_scheduled c, \
         step_succeeded c, step_skipped d, run_succeeded"
    );
    let (Event::RunSucceeded { output }, _) = case.history.last().unwrap() else {
        panic!();
    };
    assert_eq!(output.text(), r#"{"sum":9}"#);
}

#[test]
fn a_failing_run_is_undone_in_reverse() {
    let undo = json!({ "tool": "undo", "input": "{{ step.output }}" });
    let step = |id: &str, on: &[&str]| json!({ "id": id, "tool": "t", "depends_on": on, "compensate": undo });
    let plan = json!({ "steps": [step("a", &[]), step("b", &["a"]), step("c", &["b"]), step("d", &["b"])] });
    let tools = [tool("t", &json!({})), tool("undo", &json!({}))];
    let mut case = Case::start(&plan, &tools, &Value::Null);
    case.answer("a", 1, good(&json!("A")));
    case.answer("b", 1, good(&json!("B")));
    // `c` fails for good; `d` is in flight, so it is awaited.
    case.answer("c", 1, bad(false, true));
    assert_eq!(case.run.status(), RunStatus::Running);
    let effects = case.answer("d", 1, good(&json!("D")));
    let started = &effects.events[1..];
    assert!(matches!(&started[0], Event::CompensationStarted));
    let Event::CompensationScheduled { step_id, input, .. } = &started[1] else {
        panic!("{started:?}");
    };
    assert_eq!((&**step_id, input.text()), ("d", "\"D\""));
    case.undone("d", 1, good(&Value::Null));
    // A compensation that fails twice does not stop the others.
    case.undone("b", 1, bad(true, true));
    case.wait(10_000);
    case.undone("b", 2, bad(true, true));
    case.undone("a", 1, good(&Value::Null));
    let Some((Event::RunFailed { error }, _)) = case.history.last() else {
        panic!("{}", case.types());
    };
    assert_eq!(error.failed_step_id.as_deref(), Some("c"));
    assert_eq!(error.code, "broken");
    let results = error.compensation_results.iter();
    let results: Vec<_> = results.map(|r| (&*r.step_id, r.success)).collect();
    assert_eq!(results, [("d", true), ("b", false), ("a", true)]);
}

#[test]
fn no_answer_is_retried_and_then_unknown() {
    let plan = json!({ "steps": [{
        "id": "a", "tool": "t", "timeout_s": 10, "retry": { "max_attempts": 2, "initial_ms": 1000, "factor": 1 },
        "compensate": { "tool": "undo", "input": "{{ step.output }}" }
    }] });
    let tools = [tool("t", &json!({})), tool("undo", &json!({}))];
    let mut case = Case::start(&plan, &tools, &Value::Null);
    assert_eq!(case.run.next_due(), Some(Millis(10_000)));
    assert!(case.wait(9_999).events.is_empty());
    case.wait(1);
    let due = case.run.next_due().unwrap().0;
    assert!((10_500..=11_000).contains(&due), "{due}");
    case.wait(due - case.now);
    // The answer to the first attempt comes too late.
    assert!(case.answer("a", 1, good(&json!(1))).ignored);
    case.wait(10_000);
    assert_eq!(
        case.types(),
        "run_started, plan_ready, step_scheduled a, step_retry_scheduled a, step_scheduled a, step_unknown a, compensation_started, \
         compensation_scheduled a"
    );
    let (Event::CompensationScheduled { input, .. }, _) = case.history.last().unwrap() else {
        panic!();
    };
    assert_eq!(input.text(), "null");
    case.undone("a", 1, good(&Value::Null));
    assert_eq!(case.run.status(), RunStatus::Failed);
}

#[test]
fn a_late_success_of_a_failed_step_is_undone() {
    let undo = json!({ "tool": "undo" });
    let plan = json!({ "steps": [
        { "id": "a", "tool": "t", "compensate": undo },
        { "id": "b", "tool": "t", "compensate": undo, "retry": { "max_attempts": 1 } },
    ] });
    let tools = [tool("t", &json!({})), tool("undo", &json!({}))];
    let mut case = Case::start(&plan, &tools, &Value::Null);
    case.answer("b", 1, bad(true, true));
    // `a` is awaited; meanwhile `b` says that it succeeded after all.
    case.answer("b", 1, good(&json!(1)));
    case.answer("a", 1, good(&json!(2)));
    case.undone("a", 1, good(&Value::Null));
    case.undone("b", 1, good(&Value::Null));
    let Some((Event::RunFailed { error }, _)) = case.history.last() else {
        panic!("{}", case.types());
    };
    let results = error.compensation_results.iter();
    assert_eq!(results.map(|r| &*r.step_id).collect::<Vec<_>>(), ["a", "b"]);
}

#[test]
fn risky_steps_wait_for_somebody_else() {
    let plan = json!({ "steps": [{ "id": "pay", "tool": "pay", "input": { "amount": "{{ params.amount }}" } }] });
    let tools = [tool("pay", &json!({ "kind": "payment" }))];
    let mut case = Case::start(&plan, &tools, &json!({ "amount": 5 }));
    assert_eq!(case.run.status(), RunStatus::WaitingApproval);
    let refused = case.decided(Decision::Approved, "asker").refused;
    assert_eq!(refused, Some(Refusal::SelfApproval));
    let wrong = Input::Decision {
        approval: 3,
        decision: Decision::Approved,
        by: "boss".into(),
        on_behalf_of: None,
        reason: None,
        input_hash: Some("00".into()),
        value: None,
        plan: None,
    };
    assert_eq!(case.tell(wrong).refused, Some(Refusal::InputChanged));
    assert_eq!(case.decided(Decision::Approved, "boss").refused, None);
    case.answer("pay", 1, good(&Value::Null));
    assert_eq!(case.run.status(), RunStatus::Succeeded);

    let mut case = Case::start(&plan, &tools, &json!({ "amount": 5 }));
    case.decided(Decision::Denied, "boss");
    assert_eq!(case.run.status(), RunStatus::Denied);
    let mut case = Case::start(&plan, &tools, &json!({ "amount": 5 }));
    case.wait(86_400_000);
    assert_eq!(case.run.status(), RunStatus::Denied);
}

#[test]
fn incidents_are_decided_by_people() {
    let plan = json!({ "steps": [
        { "id": "a", "tool": "t", "on_exhausted": "hold", "retry": { "max_attempts": 1 } },
        { "id": "b", "tool": "noop", "input": "{{ steps.a.output }}", "depends_on": ["a"] },
    ] });
    let tools = [tool("t", &json!({}))];
    let mut case = Case::start(&plan, &tools, &Value::Null);
    case.answer("a", 1, bad(true, true));
    assert_eq!(case.run.status(), RunStatus::WaitingApproval);
    case.decided(Decision::Retry, "asker");
    case.answer("a", 2, bad(true, true));
    let approval = *case.run.approvals.keys().next().unwrap();
    let Input::Decision { mut value, .. } = decision_on(approval, Decision::Skip, "ops") else {
        panic!();
    };
    assert!(value.replace(Json::of(&json!("by hand"))).is_none());
    case.tell(Input::Decision {
        approval,
        decision: Decision::Skip,
        by: "ops".into(),
        on_behalf_of: None,
        reason: None,
        input_hash: None,
        value,
        plan: None,
    });
    assert_eq!(case.run.status(), RunStatus::Succeeded);
    assert_eq!(
        case.run.steps[1].output.as_ref().unwrap().text(),
        "\"by hand\""
    );
}

#[test]
fn a_paused_run_stands_still() {
    let plan = json!({ "steps": [
        { "id": "a", "tool": "t", "timeout_s": 10 },
        { "id": "b", "tool": "t", "depends_on": ["a"] },
    ] });
    let mut case = Case::start(&plan, &[tool("t", &json!({}))], &Value::Null);
    case.wait(4_000);
    case.tell(Input::Pause { by: "ops".into() });
    assert_eq!(case.run.next_due(), None);
    assert_eq!(
        case.tell(Input::Pause { by: "ops".into() }).refused,
        Some(Refusal::Paused)
    );
    case.wait(60_000);
    assert_eq!(case.run.status(), RunStatus::Paused);
    case.tell(Input::Resume { by: "ops".into() });
    assert_eq!(case.run.next_due(), Some(Millis(70_000)));
    case.tell(Input::Pause { by: "ops".into() });
    case.answer("a", 1, good(&Value::Null));
    assert!(!case.types().contains("step_scheduled b"));
    // Cancel ends the pause.
    case.tell(Input::Cancel {
        by: "ops".into(),
        reason: None,
        compensate: true,
    });
    assert_eq!(case.run.status(), RunStatus::Cancelled);
    assert_eq!(
        case.tell(Input::Resume { by: "ops".into() }).refused,
        Some(Refusal::Ended)
    );
}

#[test]
fn waits_end_by_time_or_signal() {
    let plan = json!({ "steps": [
        { "id": "a", "tool": "wait", "input": { "for_s": 5 } },
        { "id": "b", "tool": "wait", "input": { "signal": "go", "timeout_s": 60 }, "depends_on": ["a"] },
        { "id": "c", "tool": "wait", "input": { "any": ["stop", "go"], "timeout_s": 60 }, "depends_on": ["b"] },
    ] });
    let mut case = Case::start(&plan, &[], &Value::Null);
    let signal = |name: &str, data: u32| Input::Signal {
        by: "x".into(),
        name: name.into(),
        data: Json::of(&json!(data)),
    };
    // The first signal arrives before a step waits for it.
    case.tell(signal("go", 1));
    case.wait(5_000);
    assert_eq!(case.run.steps[1].output.as_ref().unwrap().text(), "1");
    case.tell(signal("go", 2));
    assert_eq!(case.run.status(), RunStatus::Succeeded);
    assert_eq!(case.run.steps[2].output.as_ref().unwrap().text(), "2");

    let mut case = Case::start(&plan, &[], &Value::Null);
    case.wait(5_000);
    case.wait(60_000);
    assert_eq!(case.run.status(), RunStatus::Failed);
}

#[test]
fn a_run_begins_at_its_time_and_ends_at_its_deadline() {
    let plan = json!({ "steps": [{ "id": "a", "tool": "t", "timeout_s": 100 }], "timeout_s": 30 });
    let tools = [tool("t", &json!({}))];
    let mut case = Case::start_at(&plan, &tools, &Value::Null, Some(50_000));
    assert_eq!(case.run.status(), RunStatus::Queued);
    assert_eq!(case.run.next_due(), Some(Millis(50_000)));
    case.wait(50_000);
    case.wait(30_000);
    // The attempt in flight is awaited.
    assert_eq!(case.run.status(), RunStatus::Running);
    case.answer("a", 1, good(&Value::Null));
    let Some((Event::RunFailed { error }, _)) = case.history.last() else {
        panic!("{}", case.types());
    };
    assert_eq!(error.code, "run_timeout");
}

#[test]
fn what_is_held_uses_no_attempt() {
    let plan = json!({ "steps": [{ "id": "a", "tool": "t" }] });
    let mut case = Case::start(&plan, &[tool("t", &json!({}))], &Value::Null);
    case.tell(Input::Held {
        step: "a".into(),
        kind: CallKind::Execute,
        attempt: 1,
        hold: hold("closed", Some(5_000)),
        maybe_called: false,
    });
    assert!(case.wait(4_999).events.is_empty());
    // The hold has ended, but now a control holds it, without an end.
    *case.held.borrow_mut() = Some(hold("safe_mode", None));
    case.wait(1);
    assert_eq!(case.run.next_due(), None);
    *case.held.borrow_mut() = None;
    case.tell(Input::Wake);
    assert_eq!(case.run.steps[0].attempt, 1);
    assert_eq!(
        case.types(),
        "run_started, plan_ready, step_scheduled a, step_held a, step_held a, step_released a, step_scheduled a"
    );
}

#[test]
fn blocked_tools_and_bad_references_end_the_run() {
    let tools = [
        tool("t", &json!({})),
        tool("no", &json!({ "risk": { "lane": "blocked" } })),
    ];
    let plan = json!({ "steps": [{ "id": "a", "tool": "t" }, { "id": "b", "tool": "no" }] });
    let case = Case::start(&plan, &tools, &Value::Null);
    assert_eq!(case.run.status(), RunStatus::Denied);
    assert_eq!(case.types(), "run_started, plan_ready, run_denied");
    let plan = json!({ "steps": [{ "id": "a", "tool": "t", "input": "{{ params.nothing }}" }] });
    let case = Case::start(&plan, &tools, &json!({}));
    assert_eq!(case.run.status(), RunStatus::Failed);
    let plan = json!({ "steps": [{ "id": "a", "tool": "noop", "when": "{{ params.n }}" }] });
    let case = Case::start(&plan, &tools, &json!({ "n": 1 }));
    assert_eq!(case.run.status(), RunStatus::Failed);
}
