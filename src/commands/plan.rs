//! The answer of a planner to the goal of a run: the body of a record of kind `plan`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, value::RawValue};

use super::start::{Planned, WorkflowVersion};
use crate::runs::Json;

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
    /// The plan.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub planned: Option<Planned>,
    /// The workflow, if the plan is that of one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workflow: Option<WorkflowVersion>,
    /// The definitions of the tools that the plan calls, as in a start.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tools: BTreeMap<String, Box<RawValue>>,
    /// The params of the run instead of those of the goal: a workflow's, bound to the slots.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub params: Option<Json>,
    /// The values of `slots.NAME` in expressions, by name (`DATE`, `DATE_1`). Personal data are placeholders (`{EMAIL_1}`).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub slots: BTreeMap<String, Value>,
    /// The template of the goal: the plan is cached under it when the run succeeds. `None`: it is not cached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<String>,
    /// The id of the cache entry that the plan comes from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entry: Option<String>,
    /// How similar the goal is to that of the entry or the example, from 0 to 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub score: Option<f64>,
    /// Steps that need a person's approval, with the codes of the reasons.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub red: BTreeMap<String, Vec<String>>,
    /// The guardian's language model has flagged the goal, or did not answer: a person must approve the run before its first step.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub flagged: bool,
    /// What each stage of the lookup decided, for readers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lookup: Option<Json>,
    /// The tokens and the cost of the language model, for readers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost: Option<Json>,
    /// What was not available, such as `embeddings_unavailable`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub degraded: Vec<String>,
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
