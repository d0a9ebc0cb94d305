//! The parts of a run's state: its start, its steps, and its approvals.

use serde_json::json;

use crate::runs::StepStatus;

/// The fields of the first record.
#[derive(Debug, Default)]
pub(super) struct Started {
    pub(super) workflow: Option<(String, String)>,
    pub(super) goal: Option<String>,
    /// JSON text.
    pub(super) params: Option<String>,
    pub(super) principal: Option<String>,
    pub(super) on_behalf_of: Option<String>,
    pub(super) retry_of: Option<String>,
}

impl Started {
    /// What started the run.
    pub(super) fn trigger(&self) -> &'static str {
        let principal = self.principal.as_deref().unwrap_or_default();
        if self.retry_of.is_some() {
            "retry"
        } else if principal.starts_with("trigger:") {
            "event"
        } else if principal.starts_with("cron:") {
            "cron"
        } else {
            "request"
        }
    }
}

/// The state of a step.
#[derive(Debug, Default)]
pub(super) struct Step {
    pub(super) stored: bool,
    /// It differs from its row.
    pub(super) changed: bool,
    pub(super) id: Box<str>,
    pub(super) tool: Box<str>,
    pub(super) attempts: u32,
    /// JSON text.
    pub(super) output: Option<String>,
    /// JSON text.
    pub(super) error: Option<String>,
    pub(super) started_at: Option<i64>,
    pub(super) finished_at: Option<i64>,
    pub(super) phase: Phase,
    pub(super) undo: Option<Undo>,
}

/// The phase of a step.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) enum Phase {
    #[default]
    Pending,
    Approval(i64),
    Held,
    Running,
    Retry,
    Incident,
    Succeeded,
    Failed,
    Unknown,
    Skipped,
    Cancelled,
}

/// The compensation of a step.
#[derive(Debug, Default)]
pub(super) struct Undo {
    pub(super) phase: UndoPhase,
    pub(super) attempts: u32,
    /// JSON text.
    pub(super) error: Option<String>,
}

/// The phase of a compensation.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) enum UndoPhase {
    #[default]
    Pending,
    Held,
    Running,
    Retry,
    Succeeded,
    Failed,
}

impl Step {
    /// The status that readers see.
    pub(super) fn status(&self) -> StepStatus {
        match self.undo.as_ref().map(|undo| undo.phase) {
            Some(UndoPhase::Succeeded) => return StepStatus::Compensated,
            Some(UndoPhase::Failed) => return StepStatus::CompensationFailed,
            _ => {}
        }
        match self.phase {
            Phase::Pending | Phase::Held => StepStatus::Pending,
            Phase::Approval(_) | Phase::Incident => StepStatus::WaitingApproval,
            Phase::Running | Phase::Retry => StepStatus::Running,
            Phase::Succeeded => StepStatus::Succeeded,
            Phase::Failed => StepStatus::Failed,
            Phase::Unknown => StepStatus::Unknown,
            Phase::Skipped => StepStatus::Skipped,
            Phase::Cancelled => StepStatus::Cancelled,
        }
    }

    /// JSON text: the state of its compensation.
    pub(super) fn compensation(&self) -> Option<String> {
        let undo = self.undo.as_ref()?;
        let status = match undo.phase {
            UndoPhase::Pending => return None,
            UndoPhase::Held => "pending",
            UndoPhase::Running | UndoPhase::Retry => "running",
            UndoPhase::Succeeded => "succeeded",
            UndoPhase::Failed => "failed",
        };
        let mut text = json!({ "status": status, "attempts": undo.attempts }).to_string();
        if let Some(error) = &undo.error {
            text.pop();
            text.push_str(",\"error\":");
            text.push_str(error);
            text.push('}');
        }
        Some(text)
    }

    /// Ends the step in this phase.
    pub(super) fn end(&mut self, phase: Phase, at: i64) {
        self.phase = phase;
        self.finished_at = Some(at);
    }
}

/// The state of an approval.
#[derive(Debug)]
pub(super) struct Approval {
    pub(super) stored: bool,
    pub(super) changed: bool,
    /// The request; `None` once it is written.
    pub(super) request: Option<Box<Request>>,
    pub(super) status: String,
    pub(super) expires_at: i64,
    pub(super) decided_by: Option<String>,
    pub(super) decided_at: Option<i64>,
    pub(super) reason: Option<String>,
    pub(super) step: Option<usize>,
    pub(super) question: Question,
    /// The run waits for the decision.
    pub(super) open: bool,
}

/// The kind of decision.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Question {
    /// Whether a step or the run may continue.
    Permission,
    /// What to do with a step whose attempts have all failed.
    Incident,
}

/// The request, until it is written.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) step_id: Option<String>,
    pub(super) kind: String,
    pub(super) lane: String,
    pub(super) risk_score: f64,
    /// JSON text.
    pub(super) reasons: String,
    /// JSON text.
    pub(super) input: String,
    pub(super) input_hash: String,
    pub(super) message: Option<String>,
    pub(super) requested_at: i64,
}

pub(super) const PENDING: &str = "pending";

impl Approval {
    pub(super) fn decide(&mut self, status: &str, by: Option<&str>, at: i64, reason: Option<&str>) {
        status.clone_into(&mut self.status);
        self.decided_by = by.map(str::to_owned);
        self.decided_at = Some(at);
        self.reason = reason.map(str::to_owned);
        self.changed = true;
    }

    /// Expires the approval, if it is pending, because the run ends.
    pub(super) fn expire(&mut self, at: i64) {
        if self.status == PENDING {
            self.decide("expired", Some("omnilink"), at, Some("the run ends"));
        }
    }
}
