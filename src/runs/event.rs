//! The events of a run, which are the records of its history (docs/runs.md). The state of a run follows from them alone.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    error::StepError,
    guardian::GuardianReport,
    json::{Json, present},
    retry::{Reused, Undo},
};
use crate::{base::clock::Millis, plans::jcs};

/// Which of a step's two calls.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CallKind {
    /// The step's own call.
    #[default]
    Execute,
    /// The call that undoes it.
    Compensate,
}

impl CallKind {
    /// Its name in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Execute => "execute",
            Self::Compensate => "compensate",
        }
    }
}

/// What an approval is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ApprovalKind {
    /// Whether a step may run.
    Step,
    /// Whether the run may begin.
    Run,
    /// There is no plan for the goal: the decision gives one.
    Plan,
    /// What to do with a step whose attempts have all failed.
    Incident,
}

impl ApprovalKind {
    /// Its name in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Step => "step",
            Self::Run => "run",
            Self::Plan => "plan",
            Self::Incident => "incident",
        }
    }
}

/// How risky a step is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum RiskLane {
    /// Runs without approval.
    Green,
    /// Runs without approval, and is audited.
    Yellow,
    /// Waits for a person's approval.
    Red,
    /// Is never called.
    Blocked,
}

/// The reason of an approval that is needed because the goal may be a prompt injection.
pub const INJECTION_SUSPECTED: &str = "injection_suspected";

/// A request for a decision by a person.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ApprovalRequest {
    /// What is asked.
    pub kind: ApprovalKind,
    /// The step that it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step_id: Option<Arc<str>>,
    /// The lane of the step, or of the run.
    pub lane: RiskLane,
    /// From 0 to 1.
    pub risk_score: f64,
    /// Codes of the reasons.
    pub reasons: Vec<String>,
    /// The rendered input that is approved.
    pub input: Json,
    /// SHA-256 of the input's canonical form, in hexadecimal.
    pub input_hash: String,
    /// A text for the person who decides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// When the decision was requested.
    pub requested_at: Millis,
    /// When it expires.
    pub expires_at: Millis,
}

impl ApprovalRequest {
    /// Whether it is needed because the goal may be a prompt injection.
    pub fn suspects_injection(&self) -> bool {
        self.reasons
            .iter()
            .any(|reason| reason == INJECTION_SUSPECTED)
    }
}

/// What was decided.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    /// The step or run may continue.
    Approved,
    /// It may not.
    Denied,
    /// Nobody decided in time.
    Expired,
    /// Of an incident: the step is attempted again.
    Retry,
    /// Of an incident: the step is skipped, with an output.
    Skip,
    /// Of an incident: the step has failed.
    Fail,
}

/// A decision, and who made it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Decided {
    /// The approval: the `seq` of the record that requested it.
    pub approval: u64,
    /// The decision.
    pub decision: Decision,
    /// Who decided; `omnilink` for an expiry.
    pub by: String,
    /// Why, in the decider's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// For `approved` a changed input; for `skip` the output of the step.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "present"
    )]
    pub value: Option<Json>,
    /// For `approved` of an approval of kind `plan`: the hash of the plan, which the next record contains.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan_hash: Option<String>,
}

impl Decided {
    /// A hash of what came with the decision: equal for equal decisions.
    pub fn given(&self) -> Option<String> {
        given(self.value.as_ref(), self.plan_hash.as_deref())
    }
}

/// As [`Decided::given`], of a decision that comes with this value, or with the plan of this hash.
pub fn given(value: Option<&Json>, plan_hash: Option<&str>) -> Option<String> {
    value
        .map(|value| jcs::hash(&value.value()))
        .or_else(|| plan_hash.map(str::to_owned))
}

/// The result of a compensation.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct CompensationResult {
    /// The step that was undone.
    pub step_id: Arc<str>,
    /// Whether that succeeded.
    pub success: bool,
    /// The error, if it did not succeed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<StepError>,
}

/// Why a run did not succeed.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct RunError {
    /// The step whose failure or denial ended the run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed_step_id: Option<Arc<str>>,
    /// A stable code.
    pub code: String,
    /// Human-readable text.
    pub message: String,
    /// The compensations, in the order in which they ran.
    pub compensation_results: Vec<CompensationResult>,
}

/// The start of a run.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Started {
    /// The envelope's type: the command, the tool of a task.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// The workflow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workflow: Option<WorkflowVersion>,
    /// The goal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub goal: Option<String>,
    /// The parameters.
    pub params: Json,
    /// Of a goal: the values of the placeholders, sealed with `secret_key`. The port never shows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sealed: Option<String>,
    /// Who asked for it.
    pub principal: String,
    /// The user whom the principal acted for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_behalf_of: Option<String>,
    /// When it was asked for.
    pub received_at: Millis,
    /// Not to begin before this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_at: Option<Millis>,
    /// The run that it repeats.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_of: Option<String>,
    /// Codes of the reasons why a person must approve the run before its first step. Empty if no approval is needed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub approve_run: Vec<String>,
    /// Tools whose steps need approval, even if their lane does not demand it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub approve_tools: Vec<String>,
    /// Steps that the retried run has carried out, and that are not repeated.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reused: Vec<Reused>,
    /// Compensations to retry, in the order in which they run. A run that has any does nothing else.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub undo: Vec<Undo>,
}

impl Started {
    /// A start with these values, and no others.
    pub fn new(params: Json, principal: impl Into<String>, received_at: Millis) -> Self {
        Self {
            kind: None,
            workflow: None,
            goal: None,
            params,
            sealed: None,
            principal: principal.into(),
            on_behalf_of: None,
            received_at,
            run_at: None,
            retry_of: None,
            approve_run: Vec::new(),
            approve_tools: Vec::new(),
            reused: Vec::new(),
            undo: Vec::new(),
        }
    }

    /// The reused result of a step.
    pub fn reused(&self, step_id: &str) -> Option<&Reused> {
        self.reused.iter().find(|step| *step.step_id == *step_id)
    }

    /// The compensation of a step that it retries.
    pub fn undo(&self, step_id: &str) -> Option<&Undo> {
        self.undo.iter().find(|undo| *undo.step_id == *step_id)
    }
}

/// A workflow and its version.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct WorkflowVersion {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
}

/// The plan of a run.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct PlanReady {
    /// Its source: `workflow`, `inline`, or for goals `cache`, `catalog`, `llm`, `person`.
    pub source: String,
    /// The SHA-256 of its canonical form, in hexadecimal digits.
    pub hash: String,
    /// The plan, as given.
    pub plan: Json,
    /// Of a goal: the workflow, if the plan is that of one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workflow: Option<WorkflowVersion>,
    /// What else is known about the plan of a goal.
    #[serde(flatten)]
    pub found: Box<Found>,
}

/// What is known about the plan of a goal.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Found {
    /// The params of the run instead of those of the goal: a workflow's, bound to the slots.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub params: Option<Json>,
    /// The values of `slots.NAME` in expressions. Personal data are placeholders (`{EMAIL_1}`).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub slots: BTreeMap<String, Value>,
    /// The template of the goal: the plan is cached under it when the run succeeds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<String>,
    /// The id of the cache entry that the plan comes from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entry: Option<String>,
    /// The source of that entry's plan: that under which it is cached again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<String>,
    /// That entry was written so recently that a success of the run does not write it again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub fresh: bool,
    /// How similar the goal is to that of the entry or the example, from 0 to 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub score: Option<f64>,
    /// Steps that need a person's approval, with the codes of the reasons.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub red: BTreeMap<String, Vec<String>>,
    /// The guardian's language model has flagged the goal, or did not answer: a person must approve the run before its first step.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub flagged: bool,
    /// What each stage of the lookup decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lookup: Option<Json>,
    /// The tokens and the cost of the language model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost: Option<Json>,
    /// What was not available, such as `embeddings_unavailable`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub degraded: Vec<String>,
}

/// A record of a run's history.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
#[expect(
    missing_docs,
    reason = "docs/runs.md describes the fields of all types"
)]
pub enum Event {
    /// The first record.
    RunStarted(Box<Started>),
    /// What the guardian found in the goal.
    GuardianChecked(Box<GuardianReport>),
    /// A planner is asked for a plan. The number of this record is that of the request.
    PlanRequested,
    /// The plan of the run.
    PlanReady(Box<PlanReady>),
    /// A decision is requested; the approval's number is the `seq` of this record.
    ApprovalRequested(Box<ApprovalRequest>),
    /// It was decided, or has expired.
    ApprovalDecided(Box<Decided>),
    /// All attempts of a step have failed, and a person must decide what to do.
    IncidentOpened(Box<ApprovalRequest>),
    /// It was decided, or has expired.
    IncidentDecided(Box<Decided>),
    /// A call is sent to its worker.
    StepScheduled {
        step_id: Arc<str>,
        attempt: u32,
        input: Json,
        deadline: Millis,
    },
    /// A worker has claimed the call: its time limit starts now.
    StepStarted {
        step_id: Arc<str>,
        #[serde(default)]
        kind: CallKind,
        attempt: u32,
        deadline: Millis,
    },
    /// A control, limit or circuit breaker does not let the call be sent now. `maybe_called`: the call is repeated after a crash, and may
    /// have reached its worker before.
    StepHeld {
        step_id: Arc<str>,
        kind: CallKind,
        reason: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        until: Option<Millis>,
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        maybe_called: bool,
    },
    /// The hold has ended.
    StepReleased { step_id: Arc<str>, kind: CallKind },
    /// The step succeeded. `late`: it had counted as failed or unknown before. `signal`: the signal that it consumed. `reused`:
    /// it succeeded in the retried run, not in this one.
    StepSucceeded {
        step_id: Arc<str>,
        attempt: u32,
        output: Json,
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        late: bool,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        signal: Option<String>,
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        reused: bool,
    },
    /// All attempts failed, each with an answer. `compensate`: the call succeeded but its output cannot be stored, so the step
    /// must be compensated.
    StepFailed {
        step_id: Arc<str>,
        attempt: u32,
        error: StepError,
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        compensate: bool,
    },
    /// No attempt succeeded, and at least one had no answer: the step may have had an effect.
    StepUnknown {
        step_id: Arc<str>,
        attempt: u32,
        error: StepError,
    },
    /// An attempt failed, and another follows at `due`.
    StepRetryScheduled {
        step_id: Arc<str>,
        kind: CallKind,
        attempt: u32,
        due: Millis,
        error: StepError,
        answered: bool,
    },
    /// Its condition is false, or a person skipped it.
    StepSkipped {
        step_id: Arc<str>,
        #[serde(
            default,
            skip_serializing_if = "Option::is_none",
            deserialize_with = "present"
        )]
        output: Option<Json>,
    },
    /// The run ends before it began.
    StepCancelled { step_id: Arc<str> },
    /// A signal arrived. It is kept until a step waits for it.
    SignalReceived { name: String, data: Json },
    /// Compensations begin. At most one per run.
    CompensationStarted,
    /// The call that undoes a step is sent to its worker.
    CompensationScheduled {
        step_id: Arc<str>,
        attempt: u32,
        input: Json,
        deadline: Millis,
    },
    /// The step was undone.
    CompensationSucceeded { step_id: Arc<str>, attempt: u32 },
    /// It could not be undone.
    CompensationFailed {
        step_id: Arc<str>,
        attempt: u32,
        error: StepError,
    },
    /// A cancel was requested; or, with `failure`, the run as a whole fails: it timed out, or its output cannot be rendered.
    CancelRequested {
        by: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
        compensate: bool,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        failure: Option<StepError>,
    },
    /// The run is paused: nothing is scheduled, and deadlines stand still.
    Paused { by: String },
    /// The run is resumed.
    Resumed { by: String, paused_ms: i64 },
    /// A deadline has passed that people or claiming workers could not meet, because a control refuses their requests: their deadlines and
    /// that of the run stand still since `since`.
    RunHeld { reason: String, since: Millis },
    /// The control is lifted: these deadlines are `held_ms` later.
    RunReleased { held_ms: i64 },
    /// A control or decision that came too late, or was not allowed.
    Refused {
        what: String,
        by: String,
        code: String,
    },
    /// The last record: every step succeeded or was skipped.
    RunSucceeded { output: Json },
    /// The last record.
    RunFailed { error: Box<RunError> },
    /// The last record: a person or the risk rules denied the run.
    RunDenied { error: Box<RunError> },
    /// The last record.
    RunCancelled { error: Box<RunError> },
}

impl Event {
    /// Whether it ends the run: no record follows it.
    pub fn is_last(&self) -> bool {
        matches!(
            self,
            Self::RunSucceeded { .. }
                | Self::RunFailed { .. }
                | Self::RunDenied { .. }
                | Self::RunCancelled { .. }
        )
    }

    /// Its `type`.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::RunStarted(_) => "run_started",
            Self::GuardianChecked(_) => "guardian_checked",
            Self::PlanRequested => "plan_requested",
            Self::PlanReady(_) => "plan_ready",
            Self::ApprovalRequested(_) => "approval_requested",
            Self::ApprovalDecided(_) => "approval_decided",
            Self::IncidentOpened(_) => "incident_opened",
            Self::IncidentDecided(_) => "incident_decided",
            Self::StepScheduled { .. } => "step_scheduled",
            Self::StepStarted { .. } => "step_started",
            Self::StepHeld { .. } => "step_held",
            Self::StepReleased { .. } => "step_released",
            Self::StepSucceeded { .. } => "step_succeeded",
            Self::StepFailed { .. } => "step_failed",
            Self::StepUnknown { .. } => "step_unknown",
            Self::StepRetryScheduled { .. } => "step_retry_scheduled",
            Self::StepSkipped { .. } => "step_skipped",
            Self::StepCancelled { .. } => "step_cancelled",
            Self::SignalReceived { .. } => "signal_received",
            Self::CompensationStarted => "compensation_started",
            Self::CompensationScheduled { .. } => "compensation_scheduled",
            Self::CompensationSucceeded { .. } => "compensation_succeeded",
            Self::CompensationFailed { .. } => "compensation_failed",
            Self::CancelRequested { .. } => "cancel_requested",
            Self::Paused { .. } => "paused",
            Self::Resumed { .. } => "resumed",
            Self::RunHeld { .. } => "run_held",
            Self::RunReleased { .. } => "run_released",
            Self::Refused { .. } => "refused",
            Self::RunSucceeded { .. } => "run_succeeded",
            Self::RunFailed { .. } => "run_failed",
            Self::RunDenied { .. } => "run_denied",
            Self::RunCancelled { .. } => "run_cancelled",
        }
    }
}
