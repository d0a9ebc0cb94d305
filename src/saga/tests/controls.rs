//! What holds calls, and the time of a run: a hold is never the reason why a run fails, and never hides a call that may have gone.

use serde_json::{Value, json};

use super::{
    edges::{code, one, request_seq, signal, tools, undo, with},
    *,
};

const DAY: i64 = 86_400_000;
const HOUR: i64 = 3_600_000;

/// A call of step `a` did not go.
fn held(kind: CallKind, until: Option<i64>, maybe_called: bool) -> Input {
    Input::Held {
        step: "a".into(),
        kind,
        attempt: 1,
        hold: hold("circuit_open", until),
        maybe_called,
    }
}

fn cancel() -> Input {
    Input::Cancel {
        by: "ops".into(),
        reason: None,
        compensate: true,
    }
}

#[test]
fn a_call_that_is_held_when_it_is_repeated_may_have_had_its_effect() {
    for maybe_called in [true, false] {
        let mut case = Case::start(&one(&json!({})), &tools(), &Value::Null);
        case.tell(held(CallKind::Execute, Some(5_000), maybe_called));
        assert_eq!(case.run.steps[0].attempt, 0, "it uses up no attempt");
        case.tell(cancel());
        if maybe_called {
            assert!(case.types().ends_with(
                "cancel_requested, step_unknown a, compensation_started, compensation_scheduled a"
            ));
            // What it gave comes too late, for it is being undone.
            assert!(case.answer("a", 1, good(&json!(1))).ignored);
            case.undone("a", 1, good(&Value::Null));
        } else {
            assert!(
                case.types()
                    .contains("cancel_requested, step_cancelled a, run_cancelled")
            );
        }
        assert_eq!(case.run.status(), RunStatus::Cancelled);
    }
    // It goes again, and fails with an answer: the first call had none.
    let mut case = Case::start(&one(&json!({})), &tools(), &Value::Null);
    case.tell(held(CallKind::Execute, Some(5_000), true));
    case.wait(5_000);
    case.answer("a", 1, bad(false, true));
    assert!(
        case.types()
            .contains("step_unknown a, compensation_started")
    );
}

#[test]
fn a_success_of_a_call_that_is_held_meanwhile_counts() {
    let mut case = Case::start(&one(&json!({})), &tools(), &Value::Null);
    case.tell(held(CallKind::Execute, Some(5_000), true));
    assert!(case.answer("a", 2, good(&json!(1))).ignored);
    assert!(case.answer("a", 1, bad(true, true)).ignored);
    let effects = case.answer("a", 1, good(&json!(1)));
    assert!(matches!(
        effects.events[0],
        Event::StepSucceeded {
            attempt: 1,
            late: false,
            ..
        }
    ));
    assert_eq!(case.run.status(), RunStatus::Succeeded);
    assert_eq!(case.run.execution("a").attempts, 1);
    // Of a compensation, too.
    let plan = json!({ "steps": [
        { "id": "a", "tool": "t", "compensate": undo() }, { "id": "b", "tool": "t" },
    ] });
    let mut case = Case::start(&plan, &tools(), &Value::Null);
    case.answer("a", 1, good(&json!(1)));
    case.answer("b", 1, bad(false, true));
    case.tell(held(CallKind::Compensate, Some(5_000), true));
    assert!(case.undone("a", 1, bad(false, true)).ignored);
    case.undone("a", 1, good(&Value::Null));
    assert_eq!(case.run.status(), RunStatus::Failed);
    assert_eq!(case.run.execution("a").compensation.unwrap().attempts, 1);
}

#[test]
fn a_hold_without_an_end_is_tried_again_after_a_while() {
    let mut case = Case::start(&one(&json!({})), &tools(), &Value::Null);
    let effects = case.tell(held(CallKind::Execute, None, false));
    assert!(
        matches!(
            &effects.events[..],
            [Event::StepHeld {
                until: Some(Millis(1_000)),
                ..
            }]
        ),
        "{effects:?}"
    );
    case.wait(1_000);
    assert!(case.types().ends_with("step_released a, step_scheduled a"));
}

#[test]
fn the_time_of_a_run_stands_still_while_a_control_holds_a_step() {
    let plan = json!({ "timeout_s": 60, "steps": [
        { "id": "a", "tool": "t" }, { "id": "b", "tool": "t", "depends_on": ["a"] },
    ] });
    let mut case = Case::start(&plan, &tools(), &Value::Null);
    *case.held.borrow_mut() = Some(hold("safe_mode", None));
    case.now = 20_000;
    case.answer("a", 1, good(&json!(1)));
    assert!(case.types().ends_with("step_held b"));
    assert_eq!(case.run.next_due(), None);
    case.wait(DAY);
    assert_eq!(case.run.status(), RunStatus::Running);
    *case.held.borrow_mut() = None;
    case.tell(Input::Wake);
    assert!(case.types().ends_with("step_released b, step_scheduled b"));
    // Of its minute twenty seconds are over.
    case.wait(39_999);
    assert_eq!(case.run.status(), RunStatus::Running);
    case.wait(1);
    case.answer("b", 1, bad(true, true));
    assert_eq!(code(&case), "run_timeout");
    // What a worker holds takes time.
    let mut case = Case::start(&plan, &tools(), &Value::Null);
    case.tell(held(CallKind::Execute, Some(DAY), false));
    case.wait(60_000);
    assert_eq!(code(&case), "run_timeout");
}

#[test]
fn approvals_do_not_expire_while_nobody_may_decide() {
    let plan =
        json!({ "steps": [{ "id": "a", "tool": "approve", "input": { "message": "well?" } }] });
    let mut case = Case::start(&plan, &tools(), &Value::Null);
    // An hour before its time is over.
    *case.in_force.borrow_mut() = Some(("kill_switch", DAY - HOUR));
    case.wait(DAY);
    assert!(case.types().ends_with("approval_requested a, run_held"));
    assert!(case.run.waits_for_controls());
    assert_eq!(case.run.next_due(), None);
    case.wait(10 * DAY);
    *case.in_force.borrow_mut() = None;
    case.tell(Input::Wake);
    assert!(case.types().ends_with("run_held, run_released"));
    assert!(!case.run.waits_for_controls());
    // The hour is left.
    case.wait(HOUR - 1);
    assert_eq!(case.run.status(), RunStatus::WaitingApproval);
    case.wait(1);
    assert_eq!(code(&case), "approval_expired");
    // Other controls refuse no decisions.
    let mut case = Case::start(&plan, &tools(), &Value::Null);
    *case.in_force.borrow_mut() = Some(("safe_mode", 0));
    case.wait(DAY);
    assert_eq!(code(&case), "approval_expired");
    // It can be decided as soon as the switch is off, and before the run is woken.
    let mut case = Case::start(&plan, &tools(), &Value::Null);
    *case.in_force.borrow_mut() = Some(("kill_switch", 0));
    case.wait(DAY);
    *case.in_force.borrow_mut() = None;
    case.decided(Decision::Approved, "boss");
    assert_eq!(case.run.status(), RunStatus::Succeeded);
}

#[test]
fn signals_that_are_refused_are_awaited_longer() {
    let plan = one(&json!({ "tool": "wait", "input": { "signal": "go", "timeout_s": 60 } }));
    let mut case = Case::start(&plan, &tools(), &Value::Null);
    *case.in_force.borrow_mut() = Some(("kill_switch", 50_000));
    case.wait(60_000);
    case.wait(DAY);
    *case.in_force.borrow_mut() = None;
    case.tell(Input::Wake);
    assert_eq!(case.run.next_due(), Some(Millis(DAY + 70_000)));
    case.tell(signal("go", &json!(1)));
    assert_eq!(case.run.status(), RunStatus::Succeeded);
    // A pause is no such wait.
    let plan = one(&json!({ "tool": "wait", "input": { "for_s": 60 } }));
    let mut case = Case::start(&plan, &tools(), &Value::Null);
    *case.in_force.borrow_mut() = Some(("kill_switch", 50_000));
    case.wait(60_000);
    assert_eq!(case.run.status(), RunStatus::Succeeded);
}

#[test]
fn unclaimed_work_waits_longer_while_it_may_not_be_claimed() {
    let claimed = |name: &str| {
        let more = json!({ "worker": { "claim": {} }, "queue_timeout_s": 60 });
        tool(name, &more)
    };
    let tools = [claimed("t"), claimed("undo")];
    let plan = json!({ "steps": [
        { "id": "a", "tool": "t", "compensate": undo() }, { "id": "b", "tool": "t", "depends_on": ["a"] },
    ] });
    let claim = |step: &str, kind, deadline| Input::Claimed {
        step: step.into(),
        kind,
        attempt: 1,
        deadline: Millis(deadline),
    };
    let mut case = Case::start(&plan, &tools, &Value::Null);
    let control = |case: &Case, since: Option<i64>| {
        *case.held.borrow_mut() = since.map(|_| hold("workers", None));
        *case.in_force.borrow_mut() = since.map(|since| ("workers", since));
    };
    control(&case, Some(20_000));
    case.wait(60_000);
    assert!(case.types().ends_with("step_scheduled a, run_held"));
    assert_eq!(case.run.next_due(), None);
    case.wait(DAY);
    control(&case, None);
    case.tell(Input::Wake);
    // Forty seconds are left.
    assert_eq!(case.run.next_due(), Some(Millis(case.now + 40_000)));
    let now = case.now;
    case.tell(claim("a", CallKind::Execute, now + 1_000));
    case.answer("a", 1, good(&json!(1)));
    // What is claimed has to be done in time, and what nobody claims in time has not started.
    case.tell(claim("b", CallKind::Execute, now + 1_000));
    control(&case, Some(now));
    case.answer("b", 1, bad(false, true));
    assert!(case.types().ends_with("compensation_started, step_held a"));
    control(&case, None);
    case.tell(Input::Wake);
    assert!(case.types().ends_with("compensation_scheduled a"));
    control(&case, Some(case.now));
    case.wait(60_000);
    assert!(case.types().ends_with("run_held"));
    control(&case, None);
    case.tell(Input::Wake);
    case.wait(60_000);
    assert_eq!(code(&case), "broken");
    assert_eq!(
        case.run.execution("a").compensation.unwrap().status,
        "failed"
    );
}

#[test]
fn a_run_does_not_time_out_while_nothing_may_be_done() {
    let plan = json!({ "timeout_s": 60, "steps": [{ "id": "a", "tool": "approve", "input": { "message": "well?" } }] });
    let mut case = Case::start(&plan, &tools(), &Value::Null);
    *case.in_force.borrow_mut() = Some(("kill_switch", 20_000));
    case.wait(60_000);
    case.wait(DAY);
    *case.in_force.borrow_mut() = None;
    case.tell(Input::Wake);
    assert_eq!(case.run.next_due(), Some(Millis(case.now + 40_000)));
    case.wait(40_000);
    assert_eq!(code(&case), "run_timeout");
}

#[test]
fn a_held_run_can_be_paused_and_cancelled() {
    let plan =
        json!({ "steps": [{ "id": "a", "tool": "approve", "input": { "message": "well?" } }] });
    let mut case = Case::start(&plan, &tools(), &Value::Null);
    *case.in_force.borrow_mut() = Some(("kill_switch", DAY - HOUR));
    case.wait(DAY);
    case.tell(Input::Pause { by: "ops".into() });
    case.wait(DAY);
    *case.in_force.borrow_mut() = None;
    case.tell(Input::Resume { by: "ops".into() });
    assert!(case.types().ends_with("paused, resumed, run_released"));
    // Neither the pause nor the hold counts.
    assert_eq!(case.run.next_due(), Some(Millis(case.now + HOUR)));
    case.tell(cancel());
    assert_eq!(case.run.status(), RunStatus::Cancelled);
}

#[test]
fn a_decision_with_another_value_is_another_decision() {
    let pay = tool(
        "pay",
        &json!({ "kind": "payment", "risk": { "lane": "safe" } }),
    );
    let plan = json!({ "steps": [
        { "id": "p", "tool": "pay", "input": { "amount": 5 } },
        { "id": "s", "tool": "wait", "input": { "signal": "go", "timeout_s": 60 } },
    ] });
    let mut case = Case::start(&plan, &[pay], &Value::Null);
    let seq = request_seq(&case);
    let six = || {
        with(
            seq,
            Decision::Approved,
            &json!({ "amount": 6, "for": "bob" }),
        )
    };
    case.tell(six());
    assert_eq!(case.tell(six()).refused, None);
    let other_order = with(
        seq,
        Decision::Approved,
        &json!({ "for": "bob", "amount": 6 }),
    );
    assert_eq!(case.tell(other_order).refused, None);
    let seven = with(
        seq,
        Decision::Approved,
        &json!({ "amount": 7, "for": "bob" }),
    );
    assert_eq!(case.tell(seven).refused, Some(Refusal::NotOpen));
    let none = decision_on(seq, Decision::Approved, "boss");
    assert_eq!(case.tell(none).refused, Some(Refusal::NotOpen));
}
