//! The params of a workflow for a goal: bound to the slots, with the params of the sender over them.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::goal::Goal;
use crate::{
    plans::{
        Context, RENDERED_MAX,
        template::{SlotKind, Template},
    },
    runs::Json,
    workflows::{Mismatch, Workflow},
};

/// Why a workflow does not fit a goal.
#[derive(Debug, thiserror::Error)]
pub(super) enum BindError {
    /// The params do not match the schema of the workflow, as when no slot gives a required param.
    #[error("`/params{}`: {}", .0.at, .0.message)]
    Params(#[source] Mismatch),
    /// The slots of the goal cannot be assigned to those of the examples.
    #[error(
        "its examples number their slots in different orders, so that a goal in other words may mean either"
    )]
    AmbiguousSlots,
}

/// The params of the workflow for the goal.
pub(super) fn bind(workflow: &Workflow, goal: &Goal) -> Result<Json, BindError> {
    let slots = Value::Object(slots(workflow, goal)?.into_iter().collect());
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
    match workflow.params.check_open(&params) {
        Ok(()) => Ok(Json::of(&params)),
        Err(mismatch) => Err(BindError::Params(mismatch)),
    }
}

/// The values of the slots, by the names that the examples give them: `from {LOCATION_2} to {LOCATION_1}` is the same as `to {LOCATION_1}
/// from {LOCATION_2}`.
fn slots(workflow: &Workflow, goal: &Goal) -> Result<BTreeMap<String, Value>, BindError> {
    let mut examples = workflow.examples.iter();
    if let Some(slots) = examples.find_map(|example| goal.template.matches(example)) {
        return Ok(slots);
    }
    if workflow.examples.iter().all(is_in_order) {
        return Ok(goal.slots.clone());
    }
    Err(BindError::AmbiguousSlots)
}

/// Whether slots of a kind are numbered as they appear, which is how those of goals are.
fn is_in_order(example: &Template) -> bool {
    let mut highest: BTreeMap<SlotKind, u32> = BTreeMap::new();
    example.slots.iter().all(|slot| {
        let number = slot.name.rsplit_once('_').and_then(|(_, n)| n.parse().ok());
        let (number, highest) = (number.unwrap_or(1), highest.entry(slot.kind).or_default());
        let in_order = number <= *highest + 1;
        *highest = number.max(*highest);
        in_order
    })
}
