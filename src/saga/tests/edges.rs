//! Rules at their edges: pauses, holds, late results, decisions.

use serde_json::{Value, json};

use super::*;

const DAY: i64 = 86_400_000;

pub(super) fn undo() -> Value {
    json!({ "tool": "undo", "input": "{{ step.output }}" })
}

pub(super) fn tools() -> [Arc<Tool>; 2] {
    [tool("t", &json!({})), tool("undo", &json!({}))]
}

/// One step of the tool `t` with these members.
pub(super) fn one(more: &Value) -> Value {
    let mut step = json!({ "id": "a", "tool": "t", "timeout_s": 10, "compensate": undo() });
    let members = more.as_object().unwrap().clone();
    step.as_object_mut().unwrap().extend(members);
    json!({ "steps": [step] })
}

fn cancel() -> Input {
    Input::Cancel {
        by: "ops".into(),
        reason: None,
        compensate: true,
    }
}

fn pause() -> Input {
    Input::Pause { by: "ops".into() }
}

fn resume() -> Input {
    Input::Resume { by: "ops".into() }
}

pub(super) fn signal(name: &str, data: &Value) -> Input {
    Input::Signal {
        by: "x".into(),
        name: name.into(),
        data: Json::of(data),
    }
}

/// A decision with a value.
pub(super) fn with(approval: u64, decision: Decision, changed: &Value) -> Input {
    let Input::Decision { by, .. } = decision_on(approval, decision, "boss") else {
        panic!();
    };
    Input::Decision {
        approval,
        decision,
        by,
        on_behalf_of: None,
        reason: None,
        input_hash: None,
        value: Some(Json::of(changed)),
        plan: None,
    }
}

pub(super) fn code(case: &Case) -> String {
    let Some((
        Event::RunFailed { error } | Event::RunDenied { error } | Event::RunCancelled { error },
        _,
    )) = case.history.last()
    else {
        panic!("{}", case.types());
    };
    error.code.clone()
}

#[test]
fn an_incident_without_an_answer_is_unknown_when_it_is_failed() {
    let plan = one(&json!({ "on_exhausted": "hold", "retry": { "max_attempts": 1 } }));
    for decision in [Some(Decision::Fail), None] {
        let mut case = Case::start(&plan, &tools(), &Value::Null);
        case.wait(10_000);
        assert_eq!(case.run.status(), RunStatus::WaitingApproval);
        match decision {
            Some(decision) => case.decided(decision, "ops"),
            // Nobody decides.
            None => case.wait(DAY),
        };
        assert!(case.types().ends_with(
            "incident_decided, step_unknown a, compensation_started, compensation_scheduled a"
        ));
        case.undone("a", 1, good(&Value::Null));
        assert_eq!(code(&case), "no_answer");
    }
}

#[test]
fn approvals_are_closed_when_the_run_ends() {
    let plan = json!({ "steps": [
        { "id": "a", "tool": "t", "compensate": undo() },
        { "id": "b", "tool": "approve", "input": { "message": "well?" }, "depends_on": ["a"] },
    ] });
    let mut case = Case::start(&plan, &tools(), &Value::Null);
    case.answer("a", 1, good(&json!(1)));
    let approval = *case.run.approvals.keys().next().unwrap();
    case.tell(cancel());
    assert_eq!(case.run.status(), RunStatus::Compensating);
    let decided = decision_on(approval, Decision::Approved, "boss");
    assert_eq!(case.tell(decided).refused, Some(Refusal::NotOpen));
    case.undone("a", 1, good(&Value::Null));
    assert_eq!(
        case.types(),
        "run_started, plan_ready, step_scheduled a, step_succeeded a, approval_requested b, cancel_requested, approval_decided, \
         step_cancelled b, compensation_started, compensation_scheduled a, refused, compensation_succeeded a, run_cancelled"
    );
}

#[test]
fn a_step_that_is_held_between_attempts_is_not_forgotten() {
    let mut case = Case::start(&one(&json!({})), &tools(), &Value::Null);
    case.wait(10_000);
    *case.held.borrow_mut() = Some(hold("safe_mode", None));
    case.wait(1_000);
    assert!(
        case.types()
            .ends_with("step_retry_scheduled a, step_held a")
    );
    case.tell(cancel());
    *case.held.borrow_mut() = None;
    case.tell(Input::Wake);
    assert!(
        case.types()
            .contains("cancel_requested, step_unknown a, compensation_started")
    );
}

#[test]
fn deadlines_set_during_a_pause_move_only_by_the_rest_of_it() {
    let mut case = Case::start(&one(&json!({ "deadline_s": 60 })), &tools(), &Value::Null);
    case.wait(5_000);
    case.tell(pause());
    case.now += 30 * DAY;
    // Only five seconds of its time limit have passed: there is another attempt, a second after the resume.
    case.answer("a", 1, bad(true, true));
    assert!(case.types().ends_with("step_retry_scheduled a"));
    case.now += 1;
    case.tell(resume());
    let due = case.run.next_due().unwrap().0 - case.now;
    assert!((1..=1_000).contains(&due), "{due}");
    case.wait(due);
    assert_eq!(case.run.steps[0].attempt, 2);
}

#[test]
fn the_deadline_of_all_attempts_is_suspended_while_the_step_is_held() {
    let mut case = Case::start(&one(&json!({ "deadline_s": 30 })), &tools(), &Value::Null);
    case.answer("a", 1, bad(true, true));
    *case.held.borrow_mut() = Some(hold("safe_mode", None));
    case.wait(1_000);
    case.wait(DAY);
    *case.held.borrow_mut() = None;
    case.tell(Input::Wake);
    // The attempt has its full time limit.
    assert_eq!(case.run.next_due(), Some(Millis(case.now + 10_000)));
    assert_eq!(case.run.steps[0].attempt, 2);
}

#[test]
fn no_attempt_is_sent_after_the_deadline_of_all_attempts() {
    let mut case = Case::start(&one(&json!({ "deadline_s": 30 })), &tools(), &Value::Null);
    case.answer("a", 1, bad(true, true));
    // The run is woken late.
    case.wait(60_000);
    assert_eq!(code(&case), "broken");
    assert_eq!(case.run.steps[0].attempt, 1);
}

#[test]
fn another_hold_follows_a_hold() {
    let mut case = Case::start(&one(&json!({})), &tools(), &Value::Null);
    let held = |until| Input::Held {
        step: "a".into(),
        kind: CallKind::Execute,
        attempt: 1,
        hold: hold("breaker", Some(until)),
        maybe_called: false,
    };
    case.tell(held(5_000));
    *case.held.borrow_mut() = Some(hold("safe_mode", None));
    case.wait(5_000);
    // A time in the past would wake the run again and again.
    assert_eq!(case.run.next_due(), None);
    *case.held.borrow_mut() = Some(hold("rate_limited", Some(20_000)));
    case.tell(Input::Wake);
    assert_eq!(case.run.next_due(), Some(Millis(20_000)));
    *case.held.borrow_mut() = None;
    case.wait(15_000);
    assert!(case.types().ends_with("step_released a, step_scheduled a"));
}

#[test]
fn a_run_whose_time_has_come_does_not_wake_while_it_is_held() {
    let mut case = Case::start_at(&one(&json!({})), &tools(), &Value::Null, Some(1_000));
    *case.held.borrow_mut() = Some(hold("kill_switch", None));
    case.wait(1_000);
    assert_eq!(
        (case.run.status(), case.run.next_due()),
        (RunStatus::Queued, None)
    );
    case.tell(cancel());
    assert_eq!(case.run.status(), RunStatus::Cancelled);
}

#[test]
fn a_changed_input_is_validated_and_judged_again() {
    let pay = tool(
        "pay",
        &json!({
            "kind": "payment", "risk": { "lane": "safe", "params": { "amount": { "red": 1000 } } },
            "input_schema": { "type": "object", "required": ["amount"], "properties": { "amount": { "type": "number" } } },
        }),
    );
    let plan = json!({ "steps": [{ "id": "pay", "tool": "pay", "input": { "amount": 5 } }] });
    let mut case = Case::start(&plan, &[pay], &Value::Null);
    let wrong = with(3, Decision::Approved, &json!({ "amount": "five" }));
    assert_eq!(case.tell(wrong).refused, Some(Refusal::InvalidInput));
    // Nobody was asked about so large an amount.
    let effects = case.tell(with(3, Decision::Approved, &json!({ "amount": 5000 })));
    let Some(Event::ApprovalRequested(request)) = effects.events.last() else {
        panic!("{:?}", effects.events);
    };
    assert_eq!(request.reasons, ["kind_payment", "red:amount"]);
    let effects = case.tell(with(
        request_seq(&case),
        Decision::Approved,
        &json!({ "amount": 6 }),
    ));
    let Some(Event::StepScheduled { input, .. }) = effects.events.last() else {
        panic!("{:?}", effects.events);
    };
    assert_eq!(input.text(), r#"{"amount":6}"#);
}

pub(super) fn request_seq(case: &Case) -> u64 {
    *case.run.approvals.keys().next().unwrap()
}

#[test]
fn the_same_decision_again_changes_nothing() {
    let plan = json!({ "steps": [
        { "id": "a", "tool": "approve", "input": { "message": "well?" } }, { "id": "b", "tool": "t", "depends_on": ["a"] },
    ] });
    let mut case = Case::start(&plan, &tools(), &Value::Null);
    case.decided(Decision::Approved, "boss");
    let again = |decision, by| decision_on(3, decision, by);
    let effects = case.tell(again(Decision::Approved, "boss"));
    assert_eq!((effects.refused, effects.events.len()), (None, 0));
    for other in [
        again(Decision::Denied, "boss"),
        again(Decision::Approved, "chief"),
    ] {
        assert_eq!(case.tell(other).refused, Some(Refusal::NotOpen));
    }
    case.answer("b", 1, good(&Value::Null));
    assert_eq!(case.tell(again(Decision::Approved, "boss")).refused, None);
    assert_eq!(
        case.tell(again(Decision::Denied, "boss")).refused,
        Some(Refusal::Ended)
    );
}

#[test]
fn a_paused_run_whose_step_has_failed_can_be_cancelled() {
    let mut case = Case::start(&one(&json!({})), &tools(), &Value::Null);
    case.tell(pause());
    case.answer("a", 1, bad(false, true));
    assert_eq!(case.run.status(), RunStatus::Paused);
    assert_eq!(case.tell(cancel()).refused, None);
    assert_eq!(code(&case), "cancelled");
}

#[test]
fn only_time_and_signals_end_a_wait() {
    let wait = |input: Value, more: &Value| {
        let mut plan = one(more);
        plan["steps"][0]["tool"] = json!("wait");
        plan["steps"][0]["input"] = input;
        Case::start(&plan, &tools(), &json!({ "n": "x" }))
    };
    let mut case = wait(json!({ "for_s": 100 }), &json!({ "deadline_s": 10 }));
    assert!(case.answer("a", 1, good(&json!("forged"))).ignored);
    case.wait(10_000);
    assert_eq!(code(&case), "wait_timeout");
    // The rendered input is checked too.
    let case = wait(json!({ "for_s": "{{ params.n }}" }), &json!({}));
    assert_eq!(code(&case), "invalid_input");
    // The first of several signals is the one that came first.
    let mut plan =
        one(&json!({ "tool": "wait", "input": { "any": ["b", "a"] }, "depends_on": ["s"] }));
    let before = json!({ "id": "s", "tool": "wait", "input": { "for_s": 1 } });
    plan["steps"].as_array_mut().unwrap().push(before);
    let mut case = Case::start(&plan, &tools(), &Value::Null);
    case.tell(signal("a", &json!(1)));
    case.tell(signal("b", &json!(2)));
    case.wait(1_000);
    assert_eq!(case.run.steps[0].output.as_ref().unwrap().text(), "1");
}

#[test]
fn unclaimed_work_has_not_started() {
    let claimed = tool(
        "t",
        &json!({ "worker": { "claim": {} }, "queue_timeout_s": 60 }),
    );
    let tools = [claimed, tool("undo", &json!({}))];
    let plan = one(&json!({}));
    let mut case = Case::start(&plan, &tools, &Value::Null);
    case.wait(60_000);
    assert_eq!(code(&case), "not_started");
    assert!(!case.types().contains("retry"));
    // Its time limit starts at the claim; without an answer it is unknown.
    let mut case = Case::start(&plan, &tools, &Value::Null);
    case.wait(50_000);
    let claim = |attempt, deadline| Input::Claimed {
        step: "a".into(),
        kind: CallKind::Execute,
        attempt,
        deadline: Millis(deadline),
    };
    assert!(case.tell(claim(2, 60_000)).ignored);
    case.tell(claim(1, 60_000));
    // Another claim after the lease has lapsed does not extend the time.
    let again = case.tell(claim(1, 90_000));
    assert!(!again.ignored && again.events.is_empty());
    case.tell(cancel());
    assert_eq!(case.run.status(), RunStatus::Running);
    case.wait(10_000);
    assert!(
        case.types()
            .contains("step_unknown a, compensation_started")
    );
    // An unclaimed call is not awaited; if it was claimed at the same moment, a success is compensated.
    let plan = json!({ "steps": [
        { "id": "a", "tool": "t", "compensate": undo() }, { "id": "b", "tool": "t", "compensate": undo() },
    ] });
    let mut case = Case::start(&plan, &tools, &Value::Null);
    case.tell(claim(1, 10_000));
    case.tell(cancel());
    assert!(case.types().ends_with("cancel_requested, step_cancelled b"));
    case.answer("b", 1, good(&json!(1)));
    case.answer("a", 1, good(&json!(2)));
    assert!(
        case.types()
            .ends_with("compensation_started, compensation_scheduled a")
    );
    case.undone("a", 1, good(&Value::Null));
    assert!(case.types().ends_with("compensation_scheduled b"));
}

#[test]
fn a_compensation_waits_to_be_claimed() {
    let undo_tool = tool(
        "undo",
        &json!({ "worker": { "claim": {} }, "queue_timeout_s": 60, "retry": { "max_attempts": 1 } }),
    );
    let tools = [tool("t", &json!({})), undo_tool];
    let plan = json!({ "steps": [{ "id": "a", "tool": "t", "compensate": undo() }, { "id": "b", "tool": "t" }] });
    let begun = || {
        let mut case = Case::start(&plan, &tools, &Value::Null);
        case.answer("a", 1, good(&json!(1)));
        case.answer("b", 1, bad(false, true));
        case
    };
    let failed_as = |case: &Case| match &case.history.last().unwrap().0 {
        Event::RunFailed { error } => {
            let error = error.compensation_results[0].error.clone();
            error.map(|error| error.code)
        }
        other => panic!("{other:?}"),
    };
    let mut case = begun();
    case.wait(59_000);
    assert!(case.types().ends_with("compensation_scheduled a"));
    case.wait(1_000);
    assert_eq!(failed_as(&case).as_deref(), Some("not_started"));
    // Its time limit starts at the claim.
    let mut case = begun();
    case.wait(50_000);
    case.tell(Input::Claimed {
        step: "a".into(),
        kind: CallKind::Compensate,
        attempt: 1,
        deadline: Millis(65_000),
    });
    case.wait(14_000);
    assert!(case.types().ends_with("step_started a"));
    case.undone("a", 1, good(&Value::Null));
    assert_eq!(failed_as(&case), None);
}

#[test]
fn compensations_are_reported_in_the_order_in_which_they_ran() {
    let plan = json!({ "steps": [
        { "id": "a", "tool": "t", "compensate": undo() },
        { "id": "b", "tool": "t", "compensate": undo(), "retry": { "max_attempts": 1 } },
    ] });
    let mut case = Case::start(&plan, &tools(), &Value::Null);
    case.answer("a", 1, good(&json!(1)));
    case.answer("b", 1, bad(true, true));
    // `a` is being undone already when `b` succeeds after all.
    case.answer("b", 1, good(&json!(2)));
    case.undone("a", 1, good(&Value::Null));
    case.undone("b", 1, good(&Value::Null));
    let Some((Event::RunFailed { error }, _)) = case.history.last() else {
        panic!("{}", case.types());
    };
    let results = error.compensation_results.iter();
    assert_eq!(results.map(|r| &*r.step_id).collect::<Vec<_>>(), ["a", "b"]);
}

#[test]
fn a_compensation_sees_input_and_output() {
    let input = "{{ [step.input.n, step.output, steps.a.input.n, steps.a.output, steps.z.output, params.p] }}";
    let plan = json!({ "steps": [
        { "id": "z", "tool": "noop", "input": 9 },
        { "id": "a", "tool": "t", "input": { "n": "{{ params.p + 1 }}" }, "depends_on": ["z"],
          "compensate": { "tool": "undo", "input": input } },
    ] });
    for unknown in [false, true] {
        let mut case = Case::start(&plan, &tools(), &json!({ "p": 1 }));
        let outcome = if unknown {
            bad(false, false)
        } else {
            good(&json!("o"))
        };
        // The run is cancelled while the attempt is in flight.
        case.tell(cancel());
        case.answer("a", 1, outcome);
        let (Event::CompensationScheduled { input, .. }, _) = case.history.last().unwrap() else {
            panic!("{}", case.types());
        };
        let output = if unknown { "null" } else { "\"o\"" };
        assert_eq!(input.text(), format!("[2,{output},2,{output},9,1]"));
    }
}

#[test]
fn denied_approvals_undo_and_the_run_may_need_one() {
    let plan = json!({ "steps": [
        { "id": "a", "tool": "t", "compensate": undo() },
        { "id": "b", "tool": "approve", "input": { "message": "well?" }, "depends_on": ["a"] },
    ] });
    let mut started = Started::new(Json::of(&json!({ "x": 1 })), "asker", Millis(0));
    started.approve_run.push("required_by_request".into());
    let mut case = Case::start_with(&plan, &tools(), started.clone());
    assert_eq!(case.run.status(), RunStatus::WaitingApproval);
    assert_eq!(
        case.decided(Decision::Approved, "asker").refused,
        Some(Refusal::SelfApproval)
    );
    case.decided(Decision::Approved, "boss");
    case.answer("a", 1, good(&json!(1)));
    case.decided(Decision::Denied, "boss");
    case.undone("a", 1, good(&Value::Null));
    assert_eq!(
        (case.run.status(), code(&case)),
        (RunStatus::Denied, "denied".to_owned())
    );
    // The run times out before anybody decides: it left `queued` when the approval was requested.
    let plan = json!({ "steps": plan["steps"], "timeout_s": 60 });
    let mut case = Case::start_with(&plan, &tools(), started);
    case.wait(60_000);
    assert_eq!(code(&case), "run_timeout");
    assert!(case.run.approvals.is_empty());
}

#[test]
fn an_event_that_breaks_the_rules_fails_the_call_that_emits_it() {
    let plan = |step: Value, undo: Value| {
        json!({ "steps": [
            { "id": "a", "tool": "emit", "input": step, "compensate": { "tool": "emit", "input": undo } },
            { "id": "b", "tool": "t", "depends_on": ["a"] },
        ] })
    };
    let (event, broken) = (json!({ "type": "x", "data": 1 }), json!({ "data": 1 }));
    let case = Case::start(&plan(broken.clone(), event.clone()), &tools(), &Value::Null);
    assert_eq!(code(&case), "missing_type");
    for (undo, success) in [(event.clone(), true), (broken, false)] {
        let mut case = Case::start(&plan(event.clone(), undo), &tools(), &Value::Null);
        case.answer("b", 1, bad(false, true));
        let Some((Event::RunFailed { error }, _)) = case.history.last() else {
            panic!("{}", case.types());
        };
        assert_eq!(error.compensation_results[0].success, success);
    }
}
