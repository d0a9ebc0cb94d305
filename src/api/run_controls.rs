//! Run controls: `/v1/runs/{id}/cancel`, `pause`, `resume`, `retry`, `signal`, and decisions at `/v1/approvals/{id}`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, value::RawValue};

use crate::controls::{REASON_MAX, TEXT_MAX};

/// Allows controlling runs.
pub const RUNS_WRITE: &str = "runs:write";
/// Allows cancelling a run without compensation.
pub const RUNS_ABANDON: &str = "runs:abandon";
/// Allows deciding approvals and incidents.
pub const APPROVALS_DECIDE: &str = "approvals:decide";

/// The size limit of a signal's data, a changed input or an output, in bytes of JSON.
pub const VALUE_MAX: usize = 128 * 1024;

/// The tenant of a run.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OfTenant {
    /// The tenant of the run; default: that of the key. Another tenant needs the permission `operator`.
    pub tenant: Option<String>,
}

/// Cancels a run.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CancelRun {
    /// The reason: 1 to 512 bytes without control characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = REASON_MAX))]
    pub reason: Option<String>,
    /// Whether successful steps are compensated; `false` needs the permission `runs:abandon`.
    #[serde(default = "yes")]
    pub compensate: bool,
}

/// Pauses or resumes a run; there are no parameters.
#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PauseRun {}

// Serde treats required fields as optional, so that the error can name the missing one.
/// Data for a step that waits for it, now or later.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("required" = ["signal"]))]
pub struct SignalRun {
    /// The signal that the step waits for: at most 256 bytes without control characters.
    #[schemars(with = "String", length(max = TEXT_MAX))]
    pub signal: Option<String>,
    /// Any JSON of at most 128 KiB and 64 levels of nesting, which becomes the output of the step; default `null`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Value>")]
    pub data: Option<Box<RawValue>>,
}

/// Starts a new run that repeats one that has ended.
#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RetryRun {
    /// Whether successful steps that were not compensated keep their outputs and are not executed again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub reuse: bool,
    /// Whether the new run only repeats the failed compensations.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub compensations: bool,
    /// A plan to use instead; needs the permission `plans:inline`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Value>")]
    pub plan: Option<Box<RawValue>>,
}

/// A decision about an approval or an incident.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("required" = ["decision"]))]
pub struct DecideApproval {
    /// The decision.
    #[schemars(with = "DecisionMade")]
    pub decision: Option<DecisionMade>,
    /// The reason: 1 to 512 bytes without control characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = REASON_MAX))]
    pub reason: Option<String>,
    /// `input_hash` of the approval as shown; if it differs, the decision is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(equal = 64))]
    pub input_hash: Option<String>,
    /// With `approved`: the input to use instead of the one shown; at most 128 KiB and 64 levels of nesting.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Value>")]
    pub input: Option<Box<RawValue>>,
    /// With `skip`: the output of the step; default `null`, at most 128 KiB and 64 levels of nesting.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Value>")]
    pub output: Option<Box<RawValue>>,
    /// With `approved`, for an approval of kind `plan`: the plan of the run, which is checked like that of a start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Value>")]
    pub plan: Option<Box<RawValue>>,
}

/// The possible decisions.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DecisionMade {
    /// The step or run continues.
    Approved,
    /// The step or run does not continue: completed steps are compensated, and the run ends `denied`.
    Denied,
    /// For an incident: the step is attempted again, with all its attempts.
    Retry,
    /// For an incident: the step is skipped, and `output` becomes its output.
    Skip,
    /// For an incident: the step fails.
    Fail,
}

impl DecisionMade {
    /// The name in JSON.
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

/// The result of a run control or a decision.
#[derive(Debug, Serialize, JsonSchema)]
pub struct RunControlled {
    /// The run.
    #[schemars(extend("format" = "uuid"))]
    pub run_id: String,
    /// The approval that was decided.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub approval_id: Option<String>,
    /// The status of the control.
    pub status: ControlStatus,
    /// The URL of the run.
    pub poll_url: String,
}

/// The status of a run control or decision.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ControlStatus {
    /// The run has accepted it.
    Done,
    /// It is in the log, but the run has not answered within 2 s.
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
