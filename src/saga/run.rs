//! The state of a run. It changes only by events ([`Run::evolve`]).

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use super::compiled::CompiledPlan;
use crate::base::clock::Millis;
use crate::runs::{ApprovalRequest, Json, RunError, RunStatus, Started, StepError};

/// The signals that a run keeps until a step waits for them.
pub(super) const SIGNALS_MAX: usize = 100;

/// A run.
#[derive(Clone, PartialEq, Debug)]
pub struct Run {
    pub(super) plan: PlanOf,
    pub(super) started: Arc<Started>,
    /// The number of its last record.
    pub(super) seq: u64,
    /// When it left `queued`.
    pub(super) begun_at: Option<Millis>,
    /// When it is cancelled for taking too long.
    pub(super) deadline: Option<Millis>,
    pub(super) steps: Vec<StepState>,
    /// Steps that may have had an effect, in the order in which they ended.
    pub(super) effective: Vec<usize>,
    pub(super) signals: BTreeMap<String, VecDeque<Json>>,
    /// Questions that are open, by the number of the record that asked.
    pub(super) approvals: BTreeMap<u64, ApprovalRequest>,
    pub(super) paused_at: Option<Millis>,
    /// A person has approved the run as a whole.
    pub(super) approved: bool,
    /// Why it ends without success, once that is certain.
    pub(super) ending: Option<Ending>,
    pub(super) compensating: bool,
    pub(super) end: Option<End>,
}

/// The plan of a run, which is not compared: runs of one test share it.
#[derive(Clone, Debug)]
pub(super) struct PlanOf(pub(super) Arc<CompiledPlan>);

impl PartialEq for PlanOf {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

/// Why and how a run ends without success.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(super) struct Ending {
    pub(super) kind: EndKind,
    pub(super) step: Option<usize>,
    pub(super) error: StepError,
    pub(super) compensate: bool,
}

/// How a run ends without success.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) enum EndKind {
    Failed,
    Denied,
    Cancelled,
}

/// How a run has ended.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(super) enum End {
    Succeeded(Json),
    Failed(RunError),
    Denied(RunError),
    Cancelled(RunError),
}

/// A step of a run.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub(super) struct StepState {
    pub(super) phase: Phase,
    /// The number of the last attempt.
    pub(super) attempt: u32,
    /// Attempts before a person decided to retry; they do not count.
    pub(super) forgiven: u32,
    /// The rendered input, the same for all attempts.
    pub(super) input: Option<Json>,
    pub(super) output: Option<Json>,
    pub(super) error: Option<StepError>,
    /// When the attempt in flight is given up, the next attempt is due, or a hold ends.
    pub(super) due: Option<Millis>,
    /// When its first attempt was scheduled; pauses postpone it.
    pub(super) first_at: Option<Millis>,
    pub(super) started_at: Option<Millis>,
    pub(super) finished_at: Option<Millis>,
    /// An attempt had no answer.
    pub(super) unanswered: bool,
    /// A person has approved it.
    pub(super) approved: bool,
    pub(super) undo: Undo,
}

/// Where a step is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(super) enum Phase {
    /// Not begun: it waits for other steps.
    #[default]
    Pending,
    /// It waits for a decision.
    Approval(u64),
    /// It may not go now.
    Held,
    /// An attempt is in flight.
    Running,
    /// It waits for the next attempt.
    Retry,
    /// All attempts failed, and it waits for a decision.
    Incident(u64),
    Succeeded,
    Failed,
    Unknown,
    Skipped,
    Cancelled,
}

impl Phase {
    /// Whether steps that depend on it may begin.
    pub(super) fn lets_go_on(self) -> bool {
        matches!(self, Self::Succeeded | Self::Skipped)
    }
}

/// The compensation of a step.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub(super) struct Undo {
    pub(super) phase: UndoPhase,
    pub(super) attempt: u32,
    pub(super) input: Option<Json>,
    pub(super) due: Option<Millis>,
    pub(super) error: Option<StepError>,
}

/// Where a compensation is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(super) enum UndoPhase {
    #[default]
    Pending,
    Held,
    Running,
    Retry,
    Succeeded,
    Failed,
}

impl UndoPhase {
    pub(super) fn is_final(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed)
    }
}

impl Run {
    /// A run before its first record.
    pub(super) fn new(plan: Arc<CompiledPlan>, started: Arc<Started>) -> Self {
        Self {
            steps: vec![StepState::default(); plan.steps.len()],
            plan: PlanOf(plan),
            started,
            seq: 0,
            begun_at: None,
            deadline: None,
            effective: Vec::new(),
            signals: BTreeMap::new(),
            approvals: BTreeMap::new(),
            paused_at: None,
            approved: false,
            ending: None,
            compensating: false,
            end: None,
        }
    }

    /// Its plan.
    pub fn plan(&self) -> &Arc<CompiledPlan> {
        &self.plan.0
    }

    /// The number of its last record.
    pub fn seq(&self) -> u64 {
        self.seq
    }

    /// Whether it has ended.
    pub fn has_ended(&self) -> bool {
        self.end.is_some()
    }

    /// Its status.
    pub fn status(&self) -> RunStatus {
        match &self.end {
            Some(End::Succeeded(_)) => return RunStatus::Succeeded,
            Some(End::Failed(_)) => return RunStatus::Failed,
            Some(End::Denied(_)) => return RunStatus::Denied,
            Some(End::Cancelled(_)) => return RunStatus::Cancelled,
            None => {}
        }
        if self.paused_at.is_some() {
            return RunStatus::Paused;
        }
        if self.compensating {
            return RunStatus::Compensating;
        }
        let any = |phase: fn(Phase) -> bool| self.steps.iter().any(|step| phase(step.phase));
        if any(|phase| matches!(phase, Phase::Running | Phase::Retry)) {
            return RunStatus::Running;
        }
        if !self.approvals.is_empty() {
            return RunStatus::WaitingApproval;
        }
        if self.begun_at.is_none() {
            return RunStatus::Queued;
        }
        RunStatus::Running
    }

    /// When something is due next; `None` if the run waits for others alone, is paused, or has ended.
    pub fn next_due(&self) -> Option<Millis> {
        if self.end.is_some() || self.paused_at.is_some() {
            return None;
        }
        let steps = self.steps.iter();
        let steps = steps.flat_map(|step| [step.due, step.undo.due]).flatten();
        let approvals = self.approvals.values().map(|approval| approval.expires_at);
        let run = match self.ending {
            // What is in flight is awaited, and compensations have their own limits.
            Some(_) => None,
            None => self.deadline,
        };
        let begin = self.started.run_at.filter(|_| self.begun_at.is_none());
        steps.chain(approvals).chain(run).chain(begin).min()
    }
}
