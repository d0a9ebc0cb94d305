//! Runs, as readers see them (contract, section 3).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::base::clock::Millis;
use crate::runs::{Json, RunStatus, StepStatus};

/// A run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RunView {
    /// Its id.
    #[schemars(extend("format" = "uuid"))]
    pub run_id: String,
    /// Whose run it is.
    pub tenant: String,
    /// Where it is.
    pub status: RunStatus,
    /// The workflow that it carries out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workflow: Option<WorkflowView>,
    /// The goal that it serves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub goal: Option<String>,
    /// Its parameters.
    #[schemars(with = "Value")]
    pub params: Json,
    /// What it does; absent while there is no plan.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<PlanView>,
    /// Its steps, in the order of the plan.
    pub steps: Vec<StepView>,
    /// What people were asked.
    pub approvals: Vec<ApprovalView>,
    /// Of a run that succeeded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Value>")]
    pub output: Option<Json>,
    /// Of a run that ended otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<RunErrorView>,
    /// The run that it repeats.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "uuid"))]
    pub retry_of: Option<String>,
    /// Who asked for it.
    pub principal: String,
    /// The user whom the principal acted for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_behalf_of: Option<String>,
    /// When it was asked for.
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub created_at: Millis,
    /// When its last record was written.
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub updated_at: Millis,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub finished_at: Option<Millis>,
}

/// A workflow and its version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct WorkflowView {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
}

/// The plan of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PlanView {
    /// The SHA-256 of its canonical form, in hexadecimal digits.
    pub hash: String,
    /// Where it is from: `workflow`, `inline`, `cache`, `catalog`, `llm` or `person`.
    pub source: String,
    /// Its steps, as given.
    #[schemars(with = "Vec<Value>")]
    pub steps: Json,
}

/// A step of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct StepView {
    /// Its id.
    pub id: String,
    /// Its tool.
    pub tool: String,
    /// Where it is.
    pub status: StepStatus,
    /// How often it was attempted.
    pub attempts: u32,
    /// Of a step that succeeded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Value>")]
    pub output: Option<Json>,
    /// Why it did not succeed, or why its last attempt failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<StepErrorView>,
    /// When its first attempt was scheduled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub started_at: Option<Millis>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub finished_at: Option<Millis>,
    /// How it was undone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compensation: Option<CompensationView>,
}

/// Why something failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct StepErrorView {
    /// A stable code, of the worker or of OmniLink.
    pub code: String,
    /// What is wrong, for people.
    pub message: String,
}

/// How a step was undone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CompensationView {
    /// `pending`, `running`, `succeeded` or `failed`.
    pub status: String,
    /// How often it was attempted.
    pub attempts: u32,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<StepErrorView>,
}

/// Why a run did not succeed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RunErrorView {
    /// The step whose failure or denial ended the run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed_step_id: Option<String>,
    /// A stable code.
    pub code: String,
    /// What is wrong, for people.
    pub message: String,
    /// What was undone, in the order in which that happened.
    pub compensation_results: Vec<CompensationResultView>,
}

/// One compensation of a run that did not succeed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CompensationResultView {
    /// The step.
    pub step_id: String,
    /// Whether it was undone.
    pub success: bool,
    /// Why not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<StepErrorView>,
}

/// A question to people.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ApprovalView {
    /// `RUN_ID.SEQ`.
    pub id: String,
    /// The run.
    #[schemars(extend("format" = "uuid"))]
    pub run_id: String,
    /// The step that it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step_id: Option<String>,
    /// `step`, `run`, `plan` or `incident`.
    pub kind: String,
    /// `GREEN`, `YELLOW` or `RED`.
    pub lane: String,
    /// From 0 to 1.
    pub risk_score: f64,
    /// Codes of the reasons.
    pub reasons: Vec<String>,
    /// The rendered input that is approved.
    #[schemars(with = "Value")]
    pub input: Json,
    /// The SHA-256 of the input's canonical form, in hexadecimal digits.
    pub input_hash: String,
    /// `pending`, `approved`, `denied` or `expired`; of an incident also `retry`, `skip`, `fail`.
    pub status: String,
    /// A text for the person who decides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// When it was asked.
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub requested_at: Millis,
    /// Until when it can be decided.
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub expires_at: Millis,
    /// Who decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decided_by: Option<String>,
    /// When.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub decided_at: Option<Millis>,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}
