//! What a run keeps is bounded.

use serde_json::{Value, json};

use super::{
    edges::{code, one, request_seq, signal, tools, undo, with},
    *,
};

#[test]
fn a_full_run_takes_the_signal_that_a_step_waits_for() {
    let plan = one(&json!({ "tool": "wait", "input": { "signal": "go" } }));
    let mut case = Case::start(&plan, &tools(), &Value::Null);
    for _ in 0..100 {
        assert_eq!(case.tell(signal("other", &json!(0))).refused, None);
    }
    assert_eq!(
        case.tell(signal("other", &json!(0))).refused,
        Some(Refusal::SignalsFull)
    );
    assert_eq!(case.tell(signal("go", &json!(0))).refused, None);
    assert_eq!(case.run.status(), RunStatus::Succeeded);
}

#[test]
fn outputs_are_bounded_and_their_steps_are_compensated() {
    let large = json!("x".repeat(128 * 1024));
    let mut case = Case::start(&one(&json!({})), &tools(), &Value::Null);
    case.answer("a", 1, good(&large));
    case.undone("a", 1, good(&Value::Null));
    assert_eq!(code(&case), "output_too_large");
    // Also for a late success.
    let plan = json!({ "steps": [
        { "id": "a", "tool": "t", "compensate": undo() }, { "id": "b", "tool": "t" }
    ] });
    let mut case = Case::start(&plan, &tools(), &Value::Null);
    case.answer("a", 1, bad(false, true));
    case.answer("a", 1, good(&large));
    assert!(case.types().ends_with("step_failed a, step_failed a"));
    case.answer("b", 1, good(&Value::Null));
    assert!(case.types().ends_with("compensation_scheduled a"));
    // All of them together.
    let steps =
        (0..70).map(|n| json!({ "id": format!("s{n}"), "tool": "t", "compensate": undo() }));
    let plan = json!({ "steps": steps.collect::<Vec<_>>() });
    let mut case = Case::start(&plan, &tools(), &Value::Null);
    let most = json!("x".repeat(128 * 1024 - 2));
    for n in 0..70 {
        case.answer(&format!("s{n}"), 1, good(&most));
    }
    assert_eq!(case.run.steps[63].phase, run::Phase::Succeeded);
    let error = case.run.steps[64].error.as_ref().unwrap();
    assert_eq!(error.code, "outputs_too_large");
    assert!(case.types().ends_with("compensation_scheduled s69"));
}

#[test]
fn the_output_of_a_skipped_step_is_bounded() {
    let plan = one(&json!({ "on_exhausted": "hold", "retry": { "max_attempts": 1 } }));
    let mut case = Case::start(&plan, &tools(), &Value::Null);
    case.answer("a", 1, bad(true, true));
    let approval = request_seq(&case);
    let large = json!("x".repeat(128 * 1024));
    let refused = case.tell(with(approval, Decision::Skip, &large)).refused;
    assert_eq!(refused, Some(Refusal::OutputTooLarge));
    case.tell(with(approval, Decision::Skip, &json!("by hand")));
    assert_eq!(case.run.status(), RunStatus::Succeeded);
}

#[test]
fn a_step_whose_output_cannot_be_stored_is_compensated() {
    let mut case = Case::start(&one(&json!({})), &tools(), &Value::Null);
    let outcome = Outcome::Failed {
        error: StepError::new("invalid_output", "it is no JSON"),
        retryable: false,
        retry_after_ms: None,
        answered: true,
    };
    case.answer("a", 1, outcome);
    assert!(
        case.types()
            .ends_with("step_failed a, compensation_started, compensation_scheduled a")
    );
}
