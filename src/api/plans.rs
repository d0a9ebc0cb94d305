//! `/v1/plans`: cached plans, and what a lookup decides; `/v1/runs/{id}/feedback`.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::runs::WorkflowView;
use crate::{base::clock::Millis, controls::REASON_MAX, runs::Json};

/// The maximum size of a goal to be explained, with its params, in bytes of JSON.
pub const EXPLAIN_MAX: usize = 256 * 1024;

/// A cached plan.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct CachedPlanView {
    /// Its id.
    pub id: String,
    /// The template of the goals that it fulfils.
    pub template: String,
    /// Who made it: `catalog`, `llm`, `person`.
    pub source: String,
    /// The workflow, if the plan is that of one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workflow: Option<WorkflowView>,
    /// The SHA-256 of the plan's canonical form, in hexadecimal digits.
    pub hash: String,
    /// The last run that carried it out successfully.
    pub run_id: String,
    /// Why it is not used at the moment, such as `tool_changed`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub invalid: Option<&'static str>,
    /// When that run succeeded.
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub created_at: Millis,
    /// When it is forgotten.
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub expires_at: Millis,
}

/// A cached plan, with the plan and what is known about other goals.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct WholeCachedPlan {
    /// What the list shows of it.
    #[serde(flatten)]
    pub summary: CachedPlanView,
    /// The plan.
    #[schemars(with = "Value")]
    pub plan: Json,
    /// The SHA-256 of the definition of each tool that it calls.
    pub tools: BTreeMap<String, String>,
    /// The slots of the goal of that run, without personal data.
    pub slots: BTreeMap<String, Value>,
    /// Other goals that were compared with it. Those that agree are aliases of its goal.
    pub labels: Vec<PlanLabelView>,
}

/// Whether a cached plan fits another goal.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct PlanLabelView {
    /// The template of the other goal.
    pub template: String,
    /// How similar the goals are, from -1 to 1.
    pub score: f64,
    /// Whether the planner's plan for the other goal had the same shape.
    pub agrees: bool,
    /// When they were compared.
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub at: Millis,
}

// Serde treats the required field as optional, so that the error can name it.
/// A goal to be explained.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("required" = ["goal"]))]
pub struct ExplainGoal {
    /// The goal in plain words.
    #[schemars(with = "String")]
    pub goal: Option<String>,
    /// Its params.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub params: Option<serde_json::Map<String, Value>>,
}

/// What becomes of a goal, without starting a run. Language models are not asked.
#[derive(Debug, Serialize, JsonSchema)]
pub struct ExplainedGoal {
    /// The goal as planners see it: with placeholders for personal data.
    pub goal: String,
    /// Its template.
    pub template: String,
    /// Its slots.
    pub slots: BTreeMap<String, Value>,
    /// What the guardian found.
    pub guardian: GuardianView,
    /// What each stage of the lookup decided.
    pub stages: Vec<PlanStage>,
    /// Where the plan would come from: `cache`, `catalog` or `llm`; absent if there would be none, as for a goal that is denied.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<&'static str>,
    /// The cached plan that would be used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entry: Option<String>,
    /// The template of that plan.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entry_template: Option<String>,
    /// The workflow that would be run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workflow: Option<WorkflowView>,
    /// How similar the goal is to that of the plan or the example.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub score: Option<f64>,
    /// The plan that would be carried out, unless a language model would make it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Value>")]
    pub plan: Option<Json>,
    /// The params of the workflow.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Value>")]
    pub params: Option<Json>,
    /// What is not available, such as `embeddings_unavailable`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub degraded: Vec<String>,
}

/// The verdict on a goal that is not planned.
pub const DENIED: &str = "denied";

/// What the guardian found in a goal.
#[derive(Debug, Default, Serialize, JsonSchema)]
pub struct GuardianView {
    /// `pass`, `flagged` or `denied`.
    pub verdict: &'static str,
    /// The score for prompt injection, from 0 to 1.
    pub score: f64,
    /// The patterns that it found.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub patterns: Vec<String>,
}

/// What a stage of a lookup decided.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct PlanStage {
    /// The stage, such as `template`, `catalog`, `search`, `gates`, `threshold`, `catalog_similar`, `llm`.
    pub stage: String,
    /// What it decided: `hit`, `miss`, or why it did not decide.
    pub verdict: String,
    /// The cached plan that it looked at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entry: Option<String>,
    /// The workflow that it looked at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workflow: Option<String>,
    /// How similar the goals are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub score: Option<f64>,
    /// The reason of the verdict: a stable code, or a text about params that do not fit the workflow.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl PlanStage {
    /// A stage that has looked at nothing in particular.
    pub fn new(stage: &str, verdict: &str) -> Self {
        Self {
            stage: stage.to_owned(),
            verdict: verdict.to_owned(),
            entry: None,
            workflow: None,
            score: None,
            reason: None,
        }
    }

    /// With the reason.
    #[must_use]
    pub fn because(self, reason: impl Into<String>) -> Self {
        Self {
            reason: Some(reason.into()),
            ..self
        }
    }
}

// Serde treats the required field as optional, so that the error can name it.
/// Says whether the plan of a run was right.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("required" = ["good"]))]
pub struct GiveFeedback {
    /// Whether the plan was right. If not, it is no longer cached.
    #[schemars(with = "bool")]
    pub good: Option<bool>,
    /// Why: 1 to 512 bytes without control characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = REASON_MAX))]
    pub reason: Option<String>,
}

/// What feedback has changed.
#[derive(Debug, Serialize, JsonSchema)]
pub struct FeedbackGiven {
    /// The run.
    #[schemars(extend("format" = "uuid"))]
    pub run_id: String,
    /// Whether its plan was right.
    pub good: bool,
    /// Where the plan came from: `cache`, `catalog`, `llm`, `person`, `workflow`, `inline`; absent if the run had none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// The cached plan that was forgotten.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub forgotten: Option<String>,
}
