//! The answer of a planner to the goal of a run: the body of a record of kind `plan`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::start::{Planned, WorkflowVersion};
use crate::runs::Found;

/// The kind of the record.
pub const KIND: &str = "plan";
/// The version of the body that is written.
pub const VERSION: u32 = 1;

/// The answer of a planner. Either `planned` or `error` is present. A run takes the first answer to its last request.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PlanAnswer {
    /// The version of this format.
    pub version: u32,
    /// The `seq` of the record `plan_requested` that it answers.
    pub request: u64,
    /// The plan, its hash and its source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub planned: Option<Planned>,
    /// The workflow, if the plan is that of one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workflow: Option<WorkflowVersion>,
    /// The definitions of the tools that the plan calls, as in a start.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tools: BTreeMap<String, Box<RawValue>>,
    /// What else is known about the plan and its goal.
    #[serde(flatten)]
    pub found: Found,
    /// Why there is no plan.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<NoPlan>,
}

/// Why there is no plan.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NoPlan {
    /// A stable code: `no_plan`.
    pub code: String,
    /// What was tried, and what to do.
    pub message: String,
}
