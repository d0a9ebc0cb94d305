//! The statuses of runs and steps, as readers see them (docs/runs.md).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The status of a run, as readers see it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RunStatus {
    /// It has not begun: `run_at` is in the future, or a control holds it.
    Queued,
    /// A planner is asked for its plan.
    Planning,
    /// Its steps are being carried out.
    Running,
    /// It waits for a decision, and for nothing else.
    WaitingApproval,
    /// Somebody paused it.
    Paused,
    /// It is being undone.
    Compensating,
    /// Ended: all steps succeeded or were skipped.
    Succeeded,
    /// Ended: a step failed, or the run as a whole; effects are compensated.
    Failed,
    /// Ended: a person or the risk rules denied it.
    Denied,
    /// Ended: somebody cancelled it.
    Cancelled,
}

impl RunStatus {
    /// Its name in JSON and in Postgres.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Planning => "planning",
            Self::Running => "running",
            Self::WaitingApproval => "waiting_approval",
            Self::Paused => "paused",
            Self::Compensating => "compensating",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Denied => "denied",
            Self::Cancelled => "cancelled",
        }
    }
}

impl RunStatus {
    /// All statuses.
    pub const ALL: [Self; 10] = [
        Self::Queued,
        Self::Planning,
        Self::Running,
        Self::WaitingApproval,
        Self::Paused,
        Self::Compensating,
        Self::Succeeded,
        Self::Failed,
        Self::Denied,
        Self::Cancelled,
    ];

    /// Whether the run has ended.
    pub const fn is_final(self) -> bool {
        matches!(
            self,
            Self::Succeeded | Self::Failed | Self::Denied | Self::Cancelled
        )
    }
}

/// The status of a step, as readers see it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum StepStatus {
    /// It has not begun.
    Pending,
    /// It waits for a decision.
    WaitingApproval,
    /// A call was sent to its worker, or it waits for its next attempt.
    Running,
    /// Ended with success.
    Succeeded,
    /// Ended: all attempts failed, each with an answer.
    Failed,
    /// Ended without an answer, so it may have had an effect.
    Unknown,
    /// Ended: its condition was false, or a person skipped it.
    Skipped,
    /// Ended before it began.
    Cancelled,
    /// It was undone.
    Compensated,
    /// It could not be undone.
    CompensationFailed,
}

impl StepStatus {
    /// Its name in JSON and in Postgres.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::WaitingApproval => "waiting_approval",
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Unknown => "unknown",
            Self::Skipped => "skipped",
            Self::Cancelled => "cancelled",
            Self::Compensated => "compensated",
            Self::CompensationFailed => "compensation_failed",
        }
    }
}
