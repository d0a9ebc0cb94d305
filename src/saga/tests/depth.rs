//! Nested values: the row and the history of a run can be read again, whatever values the run accepts.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::{
    edges::{code, one, signal, tools, with},
    *,
};
use crate::{
    runs::{DEPTH_MAX, RunRecord},
    state::Versioned,
};

fn nested(levels: usize) -> Value {
    around(levels, json!(1))
}

fn around(levels: usize, value: Value) -> Value {
    (0..levels).fold(value, |inner, level| {
        if level % 2 == 0 {
            json!([inner])
        } else {
            json!({ "in": inner })
        }
    })
}

/// The run read back from its rows is equal, with large texts in separate rows and without.
fn check_row(case: &Case) {
    for apart in [false, true] {
        let mut stored = Snapshot::of(&case.run, Millis(case.now), None);
        let large = if apart {
            stored.take_large()
        } else {
            Vec::new()
        };
        let mut bytes = Vec::new();
        stored.encode(&mut bytes).unwrap();
        let mut read = Snapshot::decode(Snapshot::VERSION, &bytes).unwrap();
        for (key, json) in large {
            read.put_back(key, json);
        }
        let plan = Some(Arc::clone(&case.plan));
        let read = read.restore(plan, Arc::clone(&case.run.started), Arc::default());
        assert!(read.as_ref() == Some(&case.run), "{read:?} {:?}", case.run);
    }
}

/// Its records read back are equal.
fn check_history(case: &Case) {
    for (seq, (event, at)) in (1..).zip(&case.history) {
        let record = RunRecord::new(("acme", "r"), seq, event, *at, None);
        assert_eq!(record.event().as_ref(), Some(event));
    }
}

#[test]
fn a_row_of_any_depth_opens() {
    // Earlier versions accepted such values.
    let mut case = Case::start(&one(&json!({})), &tools(), &Value::Null);
    case.run.steps[0].input = Some(Json::of(&nested(126)));
    case.run.steps[0].output = Some(Json::of(&nested(126)));
    case.run.steps[0].undo.input = Some(Json::of(&nested(126)));
    case.tell(signal("later", &nested(126)));
    check_row(&case);
}

#[test]
fn an_input_that_is_nested_too_deeply_fails_its_step() {
    let plan = |levels: usize| one(&json!({ "input": around(levels, json!("{{ params }}")) }));
    let case = Case::start(&plan(4), &tools(), &nested(DEPTH_MAX - 4));
    assert_eq!(case.run.status(), RunStatus::Running);
    for levels in [5, 40] {
        let case = Case::start(&plan(levels), &tools(), &nested(DEPTH_MAX - 4));
        assert_eq!(code(&case), "invalid_input");
    }
}

#[test]
fn an_output_that_is_nested_too_deeply_is_undone_also_when_it_comes_late() {
    let plan = json!({ "steps": [
        one(&json!({}))["steps"][0], { "id": "b", "tool": "t" }
    ] });
    let mut case = Case::start(&plan, &tools(), &Value::Null);
    case.answer("a", 1, bad(false, true));
    case.answer("a", 1, good(&nested(DEPTH_MAX + 1)));
    case.answer("b", 1, good(&nested(DEPTH_MAX)));
    assert!(
        case.types().ends_with(
            "step_failed a, step_failed a, step_succeeded b, compensation_started, compensation_scheduled a"
        ),
        "{}",
        case.types()
    );
    let error = case.run.steps[0].error.as_ref().unwrap();
    assert_eq!(error.code, "invalid_output");
}

#[test]
fn a_step_with_an_unreadable_output_is_undone() {
    for text in [r#""\ud800""#, "1e400"] {
        let mut case = Case::start(&one(&json!({})), &tools(), &Value::Null);
        let output = Json::parse(text.to_owned()).unwrap();
        case.answer("a", 1, Outcome::Succeeded(output));
        assert!(
            case.types()
                .ends_with("step_failed a, compensation_started, compensation_scheduled a"),
            "{text}: {}",
            case.types()
        );
        check_row(&case);
        check_history(&case);
    }
}

proptest! {
    /// Params, signals and decisions that the inbox accepts, any output of workers, and templates that add levels around them.
    #[test]
    fn all_accepted_values_can_be_read_again(
        (params, data, skipped) in (0..=DEPTH_MAX, 0..=DEPTH_MAX, 0..=DEPTH_MAX),
        (first, second) in (0..2 * DEPTH_MAX, 0..2 * DEPTH_MAX),
        (own, undo, last) in (0_usize..8, 0_usize..40, 0_usize..40),
        (answers, cancels) in (any::<bool>(), any::<bool>()),
    ) {
        let undo = json!({ "tool": "undo", "input": around(undo, json!("{{ [step.input, step.output] }}")) });
        let plan = json!({
            "steps": [
                {
                    "id": "a", "tool": "t", "input": around(own, json!("{{ params }}")), "compensate": undo,
                    "on_exhausted": "hold", "retry": { "max_attempts": 1 }
                },
                { "id": "w", "tool": "wait", "input": { "signal": "go" } },
                {
                    "id": "b", "tool": "t", "input": around(own, json!("{{ [steps.a.output, steps.w.output] }}")),
                    "depends_on": ["a", "w"], "compensate": undo
                },
            ],
            "output": around(last, json!("{{ [steps.b.output, params] }}"))
        });
        let mut case = Case::start(&plan, &tools(), &nested(params));
        let check = |case: &Case| {
            if !case.run.has_ended() {
                check_row(case);
            }
            check_history(case);
        };
        check(&case);
        case.tell(signal("go", &nested(data)));
        check(&case);
        if answers {
            case.answer("a", 1, good(&nested(first)));
        } else {
            case.answer("a", 1, bad(true, false));
            check(&case);
            if let Some(approval) = case.run.approvals.keys().next().copied() {
                case.tell(with(approval, Decision::Skip, &nested(skipped)));
            }
        }
        check(&case);
        if cancels {
            case.tell(Input::Cancel { by: "ops".into(), reason: None, compensate: true });
        }
        case.answer("b", 1, good(&nested(second)));
        check(&case);
        for step in ["b", "a"] {
            case.undone(step, 1, good(&Value::Null));
            check(&case);
        }
        prop_assert!(case.run.has_ended(), "{}", case.types());
        // No compensation fails because of its depth, unless it adds many levels itself.
        let undone = !case.types().contains("compensation_failed");
        prop_assert!(undone || undo_depth(&plan) > 96 - DEPTH_MAX - 1, "{}", case.types());
    }
}

/// The levels that the compensation adds.
fn undo_depth(plan: &Value) -> usize {
    Json::of(&plan["steps"][0]["compensate"]["input"]).depth()
}
