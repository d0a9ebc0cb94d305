//! Deadlines: records in the log take precedence; a `wait` without a time limit lasts as long as its run.

use serde_json::{Value, json};

use super::{
    edges::{code, request_seq, signal, tools, undo},
    *,
};

const DAY: i64 = 86_400_000;

fn claim(step: &str, deadline: i64) -> Input {
    Input::Claimed {
        step: step.into(),
        kind: CallKind::Execute,
        attempt: 1,
        deadline: Millis(deadline),
    }
}

#[test]
fn results_in_the_log_take_precedence_over_deadlines() {
    let step = |id: &str, tool: &str| json!({ "id": id, "tool": tool, "timeout_s": 10, "deadline_s": 15, "retry": { "max_attempts": 1 } });
    let plan =
        json!({ "steps": [step("a", "t"), step("b", "t"), step("c", "pull")], "timeout_s": 30 });
    let pull = tool(
        "pull",
        &json!({ "worker": { "claim": {} }, "queue_timeout_s": 5 }),
    );
    let all = [tools().to_vec(), vec![pull]].concat();
    let mut case = Case::start(&plan, &all, &Value::Null);
    // The lane was away, and all deadlines are over.
    case.now = 60_000;
    case.answer("a", 1, good(&json!(1)));
    case.tell(claim("c", 14_000));
    case.answer("c", 1, good(&json!(3)));
    assert_eq!(case.run.next_due(), Some(Millis(10_000)));
    case.answer("b", 1, good(&json!(2)));
    assert_eq!(case.run.status(), RunStatus::Succeeded, "{}", case.types());
    // Without a result, the timer ends the attempt.
    let mut case = Case::start(&plan, &all, &Value::Null);
    case.now = 60_000;
    case.answer("a", 1, good(&json!(1)));
    case.tell(Input::Wake);
    assert!(case.types().contains("step_unknown b"), "{}", case.types());
}

#[test]
fn decisions_and_signals_in_the_log_take_precedence_over_deadlines() {
    let plan = json!({ "steps": [
        { "id": "a", "tool": "approve", "input": { "message": "well?" } },
        { "id": "w", "tool": "wait", "input": { "signal": "go", "timeout_s": 5 } },
    ] });
    let mut case = Case::start(&plan, &tools(), &Value::Null);
    case.now = 2 * DAY;
    case.tell(signal("other", &json!(0)));
    case.tell(signal("go", &json!(1)));
    let approve = decision_on(request_seq(&case), Decision::Approved, "boss");
    assert_eq!(case.tell(approve).refused, None);
    assert_eq!(case.run.status(), RunStatus::Succeeded, "{}", case.types());
}

#[test]
fn results_of_compensations_take_precedence_over_deadlines() {
    let plan = json!({ "steps": [
        { "id": "a", "tool": "t", "compensate": undo() },
        { "id": "b", "tool": "t" },
    ] });
    let mut case = Case::start(&plan, &tools(), &Value::Null);
    case.answer("a", 1, good(&json!(1)));
    case.answer("b", 1, bad(false, true));
    case.now = DAY;
    case.tell(signal("any", &Value::Null));
    case.undone("a", 1, good(&Value::Null));
    assert!(
        case.types()
            .ends_with("signal_received, compensation_succeeded a, run_failed"),
        "{}",
        case.types()
    );
}

#[test]
fn a_run_begins_no_step_after_its_deadline() {
    let plan = json!({ "timeout_s": 30, "steps": [
        { "id": "a", "tool": "t", "timeout_s": 20, "compensate": undo() },
        { "id": "b", "tool": "t", "depends_on": ["a"] },
    ] });
    let mut case = Case::start(&plan, &tools(), &Value::Null);
    case.now = 60_000;
    case.answer("a", 1, good(&json!(1)));
    assert!(case.types().ends_with("step_succeeded a"));
    assert_eq!(case.run.next_due(), Some(Millis(30_000)));
    case.tell(Input::Wake);
    assert!(
        case.types().ends_with(
            "cancel_requested, step_cancelled b, compensation_started, compensation_scheduled a"
        ),
        "{}",
        case.types()
    );
    case.undone("a", 1, good(&Value::Null));
    assert_eq!(code(&case), "run_timeout");
}

#[test]
fn a_wait_without_a_time_limit_lasts_as_long_as_its_run() {
    let plan = |more: &Value| {
        let mut plan = json!({ "steps": [
            { "id": "s", "tool": "wait", "input": { "for_s": 60 } },
            { "id": "w", "tool": "wait", "input": { "signal": "go" }, "depends_on": ["s"] },
        ] });
        let members = more.as_object().unwrap().clone();
        plan.as_object_mut().unwrap().extend(members);
        plan
    };
    let begun = |plan: &Value| {
        let mut case = Case::start(plan, &[], &Value::Null);
        case.wait(60_000);
        case
    };
    let mut case = begun(&plan(&json!({})));
    assert_eq!(case.run.next_due(), Some(Millis(7 * DAY)));
    case.wait(6 * DAY);
    case.tell(signal("go", &json!("at last")));
    assert_eq!(case.run.status(), RunStatus::Succeeded);
    // Without the signal the step fails.
    let mut case = begun(&plan(&json!({ "timeout_s": 3600 })));
    case.wait(3_540_000);
    assert_eq!(
        (case.now, code(&case)),
        (3_600_000, "wait_timeout".to_owned())
    );
    // The step may have a time limit.
    let mut own = plan(&json!({}));
    own["steps"][1]["timeout_s"] = json!(90);
    assert_eq!(begun(&own).run.next_due(), Some(Millis(150_000)));
}
