//! Inputs of compensations: of steps without a stored output, and of steps that a person skipped.

use serde_json::{Value, json};

use super::{
    edges::{one, request_seq, tools, with},
    *,
};

fn failed(code: &str) -> Outcome {
    Outcome::Failed {
        error: StepError::new(code, "it cannot be kept"),
        retryable: false,
        retry_after_ms: None,
        answered: true,
    }
}

fn undone_with(input: &Value) -> Value {
    one(&json!({ "input": { "n": 5 }, "compensate": { "tool": "undo", "input": input } }))
}

/// The input of the last call, which is a compensation.
fn undo_input(case: &Case) -> &str {
    match case.history.last() {
        Some((Event::CompensationScheduled { input, .. }, _)) => input.text(),
        _ => panic!("{}", case.types()),
    }
}

#[test]
fn a_step_without_an_output_is_undone_with_null_in_its_place() {
    let deep = (0..65).fold(json!(1), |inner, _| json!([inner]));
    let ends = [
        bad(false, false),
        failed("invalid_output"),
        failed("output_too_large"),
        good(&json!("x".repeat(128 * 1024))),
        good(&deep),
    ];
    for (input, expected) in [
        (json!("{{ step.output }}"), "null"),
        (json!("{{ step.output.id }}"), "null"),
        (json!("x {{ step.output.a.b }}"), r#""x null""#),
        (
            json!({ "entry": "{{ steps.a.output.entry }}", "n": "{{ step.input.n }}" }),
            r#"{"entry":null,"n":5}"#,
        ),
    ] {
        for outcome in &ends {
            let mut case = Case::start(&undone_with(&input), &tools(), &Value::Null);
            case.answer("a", 1, outcome.clone());
            assert_eq!(undo_input(&case), expected, "{input}: {outcome:?}");
        }
    }
    // In a stored output, a missing member is an error.
    let mut case = Case::start(
        &undone_with(&json!("{{ step.output.id }}")),
        &tools(),
        &Value::Null,
    );
    case.tell(Input::Cancel {
        by: "ops".into(),
        reason: None,
        compensate: true,
    });
    case.answer("a", 1, good(&json!({ "other": 1 })));
    assert!(
        case.types()
            .ends_with("compensation_failed a, run_cancelled"),
        "{}",
        case.types()
    );
}

#[test]
fn a_skipped_step_that_may_have_had_an_effect_is_undone_when_the_run_fails() {
    let plan = json!({ "steps": [
        {
            "id": "a", "tool": "t", "on_exhausted": "hold", "retry": { "max_attempts": 1 },
            "compensate": { "tool": "undo", "input": "{{ step.output.id }}" }
        },
        { "id": "b", "tool": "t", "depends_on": ["a"] },
    ] });
    for (output, expected) in [(json!({ "id": 7 }), "7"), (json!("by hand"), "null")] {
        let mut case = Case::start(&plan, &tools(), &Value::Null);
        case.answer("a", 1, bad(true, false));
        case.tell(with(request_seq(&case), Decision::Skip, &output));
        case.answer("b", 1, bad(false, true));
        assert!(
            case.types()
                .ends_with("step_failed b, compensation_started, compensation_scheduled a"),
            "{}",
            case.types()
        );
        assert_eq!(undo_input(&case), expected);
        case.undone("a", 1, good(&Value::Null));
        assert_eq!(case.run.status(), RunStatus::Failed);
    }
    // Nothing is undone if the run succeeds, or if all attempts were answered.
    let mut case = Case::start(&plan, &tools(), &Value::Null);
    case.answer("a", 1, bad(true, false));
    case.tell(with(request_seq(&case), Decision::Skip, &json!(1)));
    case.answer("b", 1, good(&json!(2)));
    assert_eq!(case.run.status(), RunStatus::Succeeded);
    let mut case = Case::start(&plan, &tools(), &Value::Null);
    case.answer("a", 1, bad(true, true));
    case.tell(with(request_seq(&case), Decision::Skip, &json!(1)));
    case.answer("b", 1, bad(false, true));
    assert!(
        case.types().ends_with("step_failed b, run_failed"),
        "{}",
        case.types()
    );
}
