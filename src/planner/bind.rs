//! The params of a workflow for a goal: bound to the slots, with the params of the sender over them.

use serde_json::{Map, Value};

use super::goal::Goal;
use crate::{
    plans::{Context, RENDERED_MAX},
    runs::Json,
    workflows::Workflow,
};

/// The params. `Err`: why the workflow does not fit the goal, such as a required param that no slot gives.
pub(super) fn bind(workflow: &Workflow, goal: &Goal) -> Result<Json, String> {
    let slots = Value::Object(goal.slots.clone().into_iter().collect());
    let context = Context::new().with("slots", &slots);
    let mut params = Map::new();
    for (name, template) in &workflow.bind {
        // A slot that the goal does not have leaves the param out; if it is required, the schema says so.
        if let Ok(value) = template.render(&context, RENDERED_MAX) {
            params.insert(name.clone(), value);
        }
    }
    params.extend(goal.params.clone());
    let params = Value::Object(params);
    match workflow.params.check(&params) {
        Ok(()) => Ok(Json::of(&params)),
        Err(wrong) => Err(format!("`/params{}`: {}", wrong.at, wrong.message)),
    }
}
