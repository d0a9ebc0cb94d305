//! The statuses of runs and steps, as readers see them (contract, section 3).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The status of a run, as readers see it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RunStatus {
    /// It has not begun: its time has not come, or a control holds it.
    Queued,
    /// It works.
    Running,
    /// It waits for a decision, and for nothing else.
    WaitingApproval,
    /// Somebody paused it.
    Paused,
    /// It is being undone.
    Compensating,
    /// Ended.
    Succeeded,
    /// Ended.
    Failed,
    /// Ended.
    Denied,
    /// Ended.
    Cancelled,
}

impl RunStatus {
    /// As it is written.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Queued => "queued",
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
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Queued,
        Self::Running,
        Self::WaitingApproval,
        Self::Paused,
        Self::Compensating,
        Self::Succeeded,
        Self::Failed,
        Self::Denied,
        Self::Cancelled,
    ];

    /// Whether nothing follows.
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
    /// It was sent to its worker, or waits for its next attempt.
    Running,
    /// Ended.
    Succeeded,
    /// Ended.
    Failed,
    /// Ended without an answer: it may have had an effect.
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
    /// As it is written.
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
