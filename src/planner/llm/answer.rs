//! The plan in the answer of a language model, brought into the form of plans, and what is wrong with it.

use serde_json::{Map, Value};

use super::{chat::json_of, prompt::may_plan};
use crate::{
    planner::goal::Goal,
    plans::{PLAN_MAX, Plan, jcs},
    runs::{DEPTH_MAX, depth},
    workflows::Catalog,
};

/// The most faults that a model is told, and people.
const FAULTS_MAX: usize = 10;

/// A valid plan.
pub(in crate::planner) struct Made {
    /// As it is carried out.
    pub(in crate::planner) plan: Value,
    /// The compiled plan.
    pub(in crate::planner) compiled: Plan,
}

/// Reads and checks an answer. The faults are for the model and for people.
pub(super) fn read(content: &str, goal: &Goal, catalog: &Catalog) -> Result<Made, Vec<String>> {
    let one = |fault: String| vec![fault];
    if depth(content.as_bytes()) > DEPTH_MAX {
        return Err(one(format!(
            "a plan may be nested at most {DEPTH_MAX} levels"
        )));
    }
    let answer = json_of(content).map_err(|error| one(format!("it is not JSON: {error}")))?;
    let plan = normalised(answer).ok_or_else(|| one("a plan is a JSON object".to_owned()))?;
    if plan["steps"].as_array().is_some_and(Vec::is_empty) {
        let fault = "it has no steps: the tools may not suffice for the goal";
        return Err(one(fault.to_owned()));
    }
    check(plan, goal, catalog)
}

/// Checks a plan against tools and slots.
pub(in crate::planner) fn check(
    plan: Value,
    goal: &Goal,
    catalog: &Catalog,
) -> Result<Made, Vec<String>> {
    let text = plan.to_string();
    if text.len() > PLAN_MAX {
        return Err(vec![format!("a plan has at most {PLAN_MAX} bytes")]);
    }
    if depth(text.as_bytes()) > DEPTH_MAX {
        return Err(vec![format!(
            "a plan may be nested at most {DEPTH_MAX} levels"
        )]);
    }
    if let Some(number) = jcs::first_inexact(&text) {
        let number = &number[..number.len().min(40)];
        return Err(vec![format!("the number {number} must be written as text")]);
    }
    let mut faults = Vec::new();
    let compiled = match catalog.plan(&plan) {
        Ok(compiled) => Some(compiled),
        Err(found) => {
            faults.extend(found.iter().map(ToString::to_string));
            None
        }
    };
    for name in goal.unknown_slots(&plan) {
        faults.push(format!("there is no slot `{name}`"));
    }
    if let Some(compiled) = &compiled {
        let blocked = catalog.called(compiled).filter(|tool| !may_plan(tool));
        faults.extend(blocked.map(|tool| format!("the tool `{}` is blocked", tool.tool.name)));
    }
    faults.truncate(FAULTS_MAX);
    match compiled {
        Some(compiled) if faults.is_empty() => Ok(Made { plan, compiled }),
        _ => Err(faults),
    }
}

/// Without members that are null, and with the JSON of inputs instead of its text.
fn normalised(answer: Value) -> Option<Value> {
    let Value::Object(mut plan) = answer else {
        return None;
    };
    drop_nulls(&mut plan);
    if let Some(output) = plan.get_mut("output") {
        parse(output);
    }
    if let Some(Value::Array(steps)) = plan.get_mut("steps") {
        for step in steps {
            let Value::Object(step) = step else {
                continue;
            };
            drop_nulls(step);
            let nothing = |value: &Value| value.as_array().is_some_and(Vec::is_empty);
            if step.get("depends_on").is_some_and(nothing) {
                step.remove("depends_on");
            }
            if let Some(input) = step.get_mut("input") {
                parse(input);
            }
        }
    }
    Some(Value::Object(plan))
}

fn drop_nulls(members: &mut Map<String, Value>) {
    members.retain(|_, value| !value.is_null());
}

/// Replaces a text that holds an object or a list by it. Other texts stay: they may be expressions.
fn parse(value: &mut Value) {
    let Some(text) = value.as_str() else {
        return;
    };
    if text.trim().is_empty() {
        *value = Value::Object(Map::new());
    } else if let Ok(parsed @ (Value::Object(_) | Value::Array(_))) = serde_json::from_str(text) {
        *value = parsed;
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::runs::PlanInputs;

    fn goal(text: &str) -> Goal {
        let inputs = PlanInputs {
            params: crate::runs::Json::empty_object(),
            context: None,
            received_at: 1_700_000_000_000,
            allowed_workflows: Vec::new(),
        };
        Goal::new("acme", text, inputs)
    }

    #[test]
    fn inputs_are_objects_or_texts_with_them() {
        let catalog = Catalog::default();
        let goal = goal("Say hello");
        let expected = json!({ "steps": [{ "id": "a", "tool": "noop", "input": { "x": 1 } }] });
        for answer in [
            json!({ "steps": [{ "id": "a", "tool": "noop", "input": "{\"x\": 1}", "depends_on": [], "when": null }], "output": null }),
            expected.clone(),
        ] {
            let made = read(&answer.to_string(), &goal, &catalog).ok().unwrap();
            assert_eq!(made.plan, expected);
        }
        let kept = json!({ "steps": [{ "id": "a", "tool": "noop", "input": "{{ params.x }}" }] });
        let made = read(&kept.to_string(), &goal, &catalog).ok().unwrap();
        assert_eq!(made.plan, kept);
    }

    #[test]
    fn everything_wrong_is_said() {
        let catalog = Catalog::default();
        let goal = goal("Say hello");
        let faults = |plan: &str| read(plan, &goal, &catalog).err().unwrap().join("; ");
        for (answer, expected) in [
            ("I cannot", "it is not JSON"),
            ("[]", "a JSON object"),
            (r#"{"steps":[]}"#, "no steps"),
            (
                r#"{"steps":[{"id":"a","tool":"nop"}]}"#,
                "there is no tool `nop`",
            ),
            (
                r#"{"steps":[{"id":"a","tool":"noop","depends_on":["a"]}]}"#,
                "in a cycle",
            ),
            (
                r#"{"steps":[{"id":"a","tool":"noop","input":"{{ slots.CITY }}"}]}"#,
                "no slot `CITY`",
            ),
            (
                r#"{"steps":[{"id":"a","tool":"wait","input":{"for_s":"long"}}]}"#,
                "not an input of `wait`",
            ),
        ] {
            let said = faults(answer);
            assert!(said.contains(expected), "{answer}: {said}");
        }
    }
}
