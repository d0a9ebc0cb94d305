//! Runs as shown to clients.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::base::clock::Millis;
use crate::runs::{Json, RunStatus, StepStatus};

/// A run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RunView {
    /// The run's id.
    #[schemars(extend("format" = "uuid"))]
    pub run_id: String,
    /// The tenant of the run.
    pub tenant: String,
    /// The status of the run.
    pub status: RunStatus,
    /// The workflow of the run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workflow: Option<WorkflowView>,
    /// The goal of the run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub goal: Option<String>,
    /// Its params.
    #[schemars(with = "Value")]
    pub params: Json,
    /// The plan; absent until there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<PlanView>,
    /// Its steps, in the order of the plan.
    pub steps: Vec<StepView>,
    /// Its approvals and incidents.
    pub approvals: Vec<ApprovalView>,
    /// The output of a run that succeeded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Value>")]
    pub output: Option<Json>,
    /// The error of a run that ended without success.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<RunErrorView>,
    /// The run that it repeats.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "uuid"))]
    pub retry_of: Option<String>,
    /// The principal that requested it.
    pub principal: String,
    /// The user on whose behalf the principal acted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_behalf_of: Option<String>,
    /// When it was requested.
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
    /// The source: `workflow`, `inline`, `cache`, `catalog`, `llm` or `person`.
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
    /// The status of the step.
    pub status: StepStatus,
    /// The number of attempts.
    pub attempts: u32,
    /// The output of a step that succeeded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Value>")]
    pub output: Option<Json>,
    /// Why it failed, or why its last attempt failed.
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
    /// Its compensation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compensation: Option<CompensationView>,
}

/// Why something failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct StepErrorView {
    /// A stable code, of the worker or of OmniLink.
    pub code: String,
    /// A description of the error, for people.
    pub message: String,
}

/// The compensation of a step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CompensationView {
    /// `pending`, `running`, `succeeded` or `failed`.
    pub status: String,
    /// The number of attempts.
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
    /// A description of the error, for people.
    pub message: String,
    /// The results of compensations, in the order in which they ended.
    pub compensation_results: Vec<CompensationResultView>,
}

/// One compensation of a run that did not succeed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CompensationResultView {
    /// The step.
    pub step_id: String,
    /// Whether the step was compensated.
    pub success: bool,
    /// The reason of a failure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<StepErrorView>,
}

/// An approval or incident.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ApprovalView {
    /// `RUN_ID.SEQ`.
    pub id: String,
    /// The run.
    #[schemars(extend("format" = "uuid"))]
    pub run_id: String,
    /// The step concerned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step_id: Option<String>,
    /// `step`, `run`, `plan` or `incident`.
    pub kind: String,
    /// `GREEN`, `YELLOW` or `RED`.
    pub lane: String,
    /// The risk score, from 0 to 1.
    pub risk_score: f64,
    /// The codes of the reasons.
    pub reasons: Vec<String>,
    /// The rendered input to approve.
    #[schemars(with = "Value")]
    pub input: Json,
    /// The SHA-256 of the input's canonical form, in hexadecimal digits.
    pub input_hash: String,
    /// `pending`, `approved`, `denied` or `expired`; for an incident also `retry`, `skip`, `fail`.
    pub status: String,
    /// A text for the person who decides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// When it was requested.
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub requested_at: Millis,
    /// Until when it can be decided.
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub expires_at: Millis,
    /// Who decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decided_by: Option<String>,
    /// When it was decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub decided_at: Option<Millis>,
    /// The reason of the decision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}
