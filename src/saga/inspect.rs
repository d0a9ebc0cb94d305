//! Read access to a run's state: its steps, and how it ended.

use super::{
    compiled::CompiledStep,
    run::{End, Phase, Run, StepState, UndoPhase},
};
use crate::{
    base::clock::Millis,
    plans::{Tool, Worker},
    runs::{ApprovalRequest, CallKind, Json, RunError, Started, StepError, StepStatus},
};

/// A step of a run.
#[derive(Clone, PartialEq, Debug)]
pub struct Execution {
    /// The status of the step.
    pub status: StepStatus,
    /// How often it was attempted.
    pub attempts: u32,
    /// Its rendered input, once it was scheduled.
    pub input: Option<Json>,
    /// The output, once the step has succeeded.
    pub output: Option<Json>,
    /// The error of the step, or of its last attempt.
    pub error: Option<StepError>,
    /// When its first attempt was scheduled.
    pub started_at: Option<Millis>,
    /// When it ended.
    pub finished_at: Option<Millis>,
    /// The state of its compensation, once that has begun.
    pub compensation: Option<CompensationState>,
}

/// The state of a compensation.
#[derive(Clone, PartialEq, Debug)]
pub struct CompensationState {
    /// `pending`, `running`, `succeeded` or `failed`.
    pub status: &'static str,
    /// How often it was attempted.
    pub attempts: u32,
    /// Why it failed.
    pub error: Option<StepError>,
}

/// An attempt in flight that workers claim.
#[derive(Debug)]
pub struct Claimable<'r> {
    /// The step.
    pub step: &'r CompiledStep,
    /// The step's own call, or its compensation.
    pub kind: CallKind,
    /// The number of the attempt, from 1.
    pub attempt: u32,
    /// The deadline of the attempt.
    pub deadline: Option<Millis>,
}

impl Run {
    /// How it was started.
    pub fn started(&self) -> &Started {
        &self.started
    }

    /// The output of a run that succeeded, or the error of one that did not; `None` before the end.
    pub fn end(&self) -> Option<(Option<&Json>, Option<&RunError>)> {
        Some(match self.end.as_ref()? {
            End::Succeeded(output) => (Some(output), None),
            End::Failed(error) | End::Denied(error) | End::Cancelled(error) => (None, Some(error)),
        })
    }

    /// Why the run will not succeed, once that is certain.
    pub fn ending_error(&self) -> Option<&StepError> {
        self.ending.as_ref().map(|ending| &ending.error)
    }

    /// The open approvals, by the `seq` of the record that requested them.
    pub fn open_approvals(&self) -> impl Iterator<Item = (u64, &ApprovalRequest)> {
        self.approvals.iter().map(|(seq, request)| (*seq, request))
    }

    /// Whether a control holds a call or the run, so that the run can continue only when the controls change.
    pub fn waits_for_controls(&self) -> bool {
        let mut steps = self.steps.iter();
        let step_held = |step: &StepState| {
            (step.phase == Phase::Held && step.due.is_none())
                || (step.undo.phase == UndoPhase::Held && step.undo.due.is_none())
        };
        self.end.is_none() && (self.held_since.is_some() || steps.any(step_held))
    }

    /// The attempts in flight of tools with `worker: claim`.
    pub fn claimable(&self) -> Vec<Claimable<'_>> {
        let claims = |tool: &Tool| tool.worker == Worker::Claim;
        let mut all = Vec::new();
        for (step, state) in self.plan().steps.iter().zip(&self.steps) {
            if state.phase == Phase::Running && claims(&step.tool) {
                all.push(Claimable {
                    step,
                    kind: CallKind::Execute,
                    attempt: state.attempt,
                    deadline: state.due,
                });
            }
            let undo = &state.undo;
            let compensation = step.compensation.as_ref();
            if undo.phase == UndoPhase::Running
                && compensation.is_some_and(|compensation| claims(&compensation.tool))
            {
                all.push(Claimable {
                    step,
                    kind: CallKind::Compensate,
                    attempt: undo.attempt,
                    deadline: undo.due,
                });
            }
        }
        all
    }

    /// The number of the last attempt of a call; 0 before the first.
    pub fn attempts(&self, id: &str, kind: CallKind) -> u32 {
        let index = self.plan().index(id);
        index.map_or(0, |index| match kind {
            CallKind::Execute => self.steps[index].attempt,
            CallKind::Compensate => self.steps[index].undo.attempt,
        })
    }

    /// When the first attempt of a step was scheduled.
    pub fn first_scheduled(&self, id: &str) -> Option<Millis> {
        let index = self.plan().index(id)?;
        self.steps[index].started_at
    }

    /// The state of a step. A step that the plan does not have is pending.
    pub fn execution(&self, id: &str) -> Execution {
        let index = self.plan().index(id);
        let none = StepState::default();
        let step = index.map_or(&none, |index| &self.steps[index]);
        let undo = &step.undo;
        let undoing = match undo.phase {
            UndoPhase::Pending => None,
            UndoPhase::Held => Some("pending"),
            UndoPhase::Running | UndoPhase::Retry => Some("running"),
            UndoPhase::Succeeded => Some("succeeded"),
            UndoPhase::Failed => Some("failed"),
        };
        Execution {
            status: status(step),
            attempts: step.attempt,
            input: step.input.clone(),
            output: step.output.clone(),
            error: step.error.clone(),
            started_at: step.started_at,
            finished_at: step.finished_at,
            compensation: undoing.map(|status| CompensationState {
                status,
                attempts: undo.attempt,
                error: undo.error.clone(),
            }),
        }
    }
}

fn status(step: &StepState) -> StepStatus {
    match step.undo.phase {
        UndoPhase::Succeeded => return StepStatus::Compensated,
        UndoPhase::Failed => return StepStatus::CompensationFailed,
        _ => {}
    }
    match step.phase {
        Phase::Pending | Phase::Held => StepStatus::Pending,
        Phase::Approval(_) | Phase::Incident(_) => StepStatus::WaitingApproval,
        Phase::Running | Phase::Retry => StepStatus::Running,
        Phase::Succeeded => StepStatus::Succeeded,
        Phase::Failed => StepStatus::Failed,
        Phase::Unknown => StepStatus::Unknown,
        Phase::Skipped => StepStatus::Skipped,
        Phase::Cancelled => StepStatus::Cancelled,
    }
}
