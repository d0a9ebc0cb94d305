//! What people and programs send to a run: `/v1/runs/{id}/cancel`, `pause`, `resume`, `retry`, `signal`, and decisions at `/v1/approvals/{id}`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, value::RawValue};

use crate::controls::{REASON_MAX, TEXT_MAX};

/// May control runs.
pub const RUNS_WRITE: &str = "runs:write";
/// May end a run without undoing what it did.
pub const RUNS_ABANDON: &str = "runs:abandon";
/// May decide approvals and incidents.
pub const APPROVALS_DECIDE: &str = "approvals:decide";

/// The most bytes of a signal's data, a changed input or an output, as JSON.
pub const VALUE_MAX: usize = 128 * 1024;

/// Whose run it is.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OfTenant {
    /// The tenant of the run: the key's own unless given. Another one needs the permission `operator`.
    pub tenant: Option<String>,
}

/// The end of a run.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CancelRun {
    /// Why: 1 to 512 bytes without control characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = REASON_MAX))]
    pub reason: Option<String>,
    /// Whether the steps that succeeded are undone; `false` needs the permission `runs:abandon`.
    #[serde(default = "yes")]
    pub compensate: bool,
}

/// A pause, or its end: nothing else is to be said.
#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PauseRun {}

// Required fields are optional for serde, so that the error names the one that is missing.
/// Data for a step that waits for it, now or later.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("required" = ["signal"]))]
pub struct SignalRun {
    /// The signal that the step waits for: at most 256 bytes without control characters.
    #[schemars(with = "String", length(max = TEXT_MAX))]
    pub signal: Option<String>,
    /// Any JSON of at most 128 KiB: the output of the step; `null` unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Value>")]
    pub data: Option<Box<RawValue>>,
}

/// A new run that repeats one that has ended.
#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RetryRun {
    /// Whether steps that have succeeded, and were not undone, keep their outputs and are not carried out again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub reuse: bool,
    /// Whether the new run calls the compensations again that have failed, and does nothing else.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub compensations: bool,
    /// Another plan; needs the permission `plans:inline`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Value>")]
    pub plan: Option<Box<RawValue>>,
}

/// A decision about an approval or an incident.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("required" = ["decision"]))]
pub struct DecideApproval {
    /// What is decided.
    #[schemars(with = "DecisionMade")]
    pub decision: Option<DecisionMade>,
    /// Why: 1 to 512 bytes without control characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = REASON_MAX))]
    pub reason: Option<String>,
    /// `input_hash` of the approval as it was shown: with another one the decision is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(equal = 64))]
    pub input_hash: Option<String>,
    /// With `approved`: the input instead of the one that was shown; at most 128 KiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Value>")]
    pub input: Option<Box<RawValue>>,
    /// With `skip`: the output of the step; `null` unless given, at most 128 KiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Value>")]
    pub output: Option<Box<RawValue>>,
}

/// What is decided.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DecisionMade {
    /// The step or run may go on.
    Approved,
    /// It may not: what was done is undone, and the run ends `denied`.
    Denied,
    /// Of an incident: the step is attempted again, with all its attempts.
    Retry,
    /// Of an incident: the step is skipped, and `output` stands for its output.
    Skip,
    /// Of an incident: the step has failed.
    Fail,
}

impl DecisionMade {
    /// As it is written.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Approved => "approved",
            Self::Denied => "denied",
            Self::Retry => "retry",
            Self::Skip => "skip",
            Self::Fail => "fail",
        }
    }
}

/// What came of a control or a decision.
#[derive(Debug, Serialize, JsonSchema)]
pub struct RunControlled {
    /// The run.
    #[schemars(extend("format" = "uuid"))]
    pub run_id: String,
    /// The approval that was decided.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub approval_id: Option<String>,
    /// How far it is.
    pub status: ControlStatus,
    /// Where the run is shown.
    pub poll_url: String,
}

/// How far a control or a decision is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ControlStatus {
    /// The run has taken it in.
    Done,
    /// It is in the log; the run has not answered within 2 s.
    Accepted,
}

const fn yes() -> bool {
    true
}

impl Default for CancelRun {
    fn default() -> Self {
        Self {
            reason: None,
            compensate: yes(),
        }
    }
}
