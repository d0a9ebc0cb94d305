//! What happens to a run: the records of its history (contract, section 3). The state of a run follows from them alone.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{
    error::StepError,
    json::{Json, present},
    retry::{Reused, Undo},
};
use crate::base::clock::Millis;

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
    /// As it is written.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Execute => "execute",
            Self::Compensate => "compensate",
        }
    }
}

/// What a person is asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ApprovalKind {
    /// Whether a step may run.
    Step,
    /// Whether the run may begin.
    Run,
    /// What to do with a step whose attempts have all failed.
    Incident,
}

/// How risky a step is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum RiskLane {
    /// Runs.
    Green,
    /// Runs, and is audited.
    Yellow,
    /// Waits for a person.
    Red,
    /// Never runs.
    Blocked,
}

/// A question to people.
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
    /// When it was asked.
    pub requested_at: Millis,
    /// Until when it can be decided.
    pub expires_at: Millis,
}

/// What was decided.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    /// The step or run may go on.
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
    /// Instead of the requested input, for `approved`; the output, for `skip`.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "present"
    )]
    pub value: Option<Json>,
}

/// One of the compensations of a run that did not succeed.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct CompensationResult {
    /// The step that was undone.
    pub step_id: Arc<str>,
    /// Whether that succeeded.
    pub success: bool,
    /// Why not.
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
    /// Why a person approves the run before its first step; codes. Empty: nobody has to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub approve_run: Vec<String>,
    /// Tools whose steps a person approves, whatever their lane.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub approve_tools: Vec<String>,
    /// Steps that the run that it repeats has carried out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reused: Vec<Reused>,
    /// Compensations, in the order in which they run. A run that has any does nothing else.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub undo: Vec<Undo>,
}

impl Started {
    /// With these parameters, asked for by this principal at this time, and nothing else.
    pub fn new(params: Json, principal: impl Into<String>, received_at: Millis) -> Self {
        Self {
            kind: None,
            workflow: None,
            goal: None,
            params,
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

    /// What it takes over of a step.
    pub fn reused(&self, step_id: &str) -> Option<&Reused> {
        self.reused.iter().find(|step| *step.step_id == *step_id)
    }

    /// The compensation of a step that it calls again.
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
    /// Where it is from: `workflow`, `inline`, and for goals `cache`, `catalog`, `llm`, `person`.
    pub source: String,
    /// The SHA-256 of its canonical form, in hexadecimal digits.
    pub hash: String,
    /// The plan, as given.
    pub plan: Json,
}

/// A record of a run's history.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
#[expect(
    missing_docs,
    reason = "fields that recur are described once, in the contract"
)]
pub enum Event {
    /// The first record.
    RunStarted(Box<Started>),
    /// What it will do.
    PlanReady(Box<PlanReady>),
    /// People are asked; the approval's number is the record's `seq`.
    ApprovalRequested(Box<ApprovalRequest>),
    /// They have decided, or the time is over.
    ApprovalDecided(Box<Decided>),
    /// A step's attempts have all failed, and people are asked what to do.
    IncidentOpened(Box<ApprovalRequest>),
    /// They have decided, or the time is over.
    IncidentDecided(Box<Decided>),
    /// A call is sent to its worker.
    StepScheduled {
        step_id: Arc<str>,
        attempt: u32,
        input: Json,
        deadline: Millis,
    },
    /// A worker has claimed the call: its time runs from here.
    StepStarted {
        step_id: Arc<str>,
        #[serde(default)]
        kind: CallKind,
        attempt: u32,
        deadline: Millis,
    },
    /// A control, limit or circuit breaker does not let the call go now.
    StepHeld {
        step_id: Arc<str>,
        kind: CallKind,
        reason: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        until: Option<Millis>,
    },
    /// It may go.
    StepReleased { step_id: Arc<str>, kind: CallKind },
    /// The step succeeded. `late`: after it had counted as failed or unknown. `signal`: the one that it used up. `reused`: in the run
    /// that this one repeats.
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
    /// All attempts failed, each with an answer. `compensate`: it may have had an effect all the same, for its output cannot be kept.
    StepFailed {
        step_id: Arc<str>,
        attempt: u32,
        error: StepError,
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        compensate: bool,
    },
    /// No attempt succeeded, and one had no answer: it may have had an effect.
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
    /// A signal is kept until a step waits for it.
    SignalReceived { name: String, data: Json },
    /// The run is being undone. Once a run.
    CompensationStarted,
    /// The call that undoes a step is sent to its worker.
    CompensationScheduled {
        step_id: Arc<str>,
        attempt: u32,
        input: Json,
        deadline: Millis,
    },
    /// The step is undone.
    CompensationSucceeded { step_id: Arc<str>, attempt: u32 },
    /// It could not be undone.
    CompensationFailed {
        step_id: Arc<str>,
        attempt: u32,
        error: StepError,
    },
    /// Somebody cancels the run; or, with `failure`, the run as a whole fails: its time is over, or it has no output.
    CancelRequested {
        by: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
        compensate: bool,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        failure: Option<StepError>,
    },
    /// Nothing is scheduled, and deadlines stand still.
    Paused { by: String },
    /// The run goes on.
    Resumed { by: String, paused_ms: i64 },
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
    /// The last record: a person, or the risk rules, said no.
    RunDenied { error: Box<RunError> },
    /// The last record.
    RunCancelled { error: Box<RunError> },
}

impl Event {
    /// Its `type`.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::RunStarted(_) => "run_started",
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
            Self::Refused { .. } => "refused",
            Self::RunSucceeded { .. } => "run_succeeded",
            Self::RunFailed { .. } => "run_failed",
            Self::RunDenied { .. } => "run_denied",
            Self::RunCancelled { .. } => "run_cancelled",
        }
    }
}
