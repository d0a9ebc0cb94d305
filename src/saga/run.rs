//! The state of a run. It changes only by events ([`Run::evolve`]).

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    bugs::{Bug, planted},
    compiled::CompiledPlan,
    goal::Goal,
};
use crate::base::clock::Millis;
use crate::runs::{
    ApprovalRequest, Decision, Json, RunError, RunStatus, Started, StepError, json_text,
    present_text,
};

/// The maximum number of signals that a run keeps until a step waits for them.
pub(super) const SIGNALS_MAX: usize = 100;
/// The maximum size of the data of these signals together, in bytes.
pub(super) const SIGNAL_BYTES_MAX: usize = 512 * 1024;

/// The reason of an incident whose step may have had an effect.
pub(super) const OUTCOME_UNKNOWN: &str = "outcome_unknown";

/// A run.
#[derive(Clone, PartialEq, Debug)]
pub struct Run {
    pub(super) plan: SharedPlan,
    pub(super) started: Arc<Started>,
    pub(super) goal: Goal,
    /// The value of `slots` in expressions; null without a goal.
    pub(super) slots: Arc<Value>,
    /// The number of its last record.
    pub(super) seq: u64,
    /// When it left `queued`.
    pub(super) begun_at: Option<Millis>,
    /// When it fails because it takes too long.
    pub(super) deadline: Option<Millis>,
    pub(super) steps: Vec<StepState>,
    /// Steps that may have had an effect, in the order in which they ended.
    pub(super) effective: Vec<usize>,
    /// Steps whose compensations have ended, in that order.
    pub(super) undone: Vec<usize>,
    /// The size of all outputs in bytes.
    pub(super) outputs: usize,
    /// In order of arrival.
    pub(super) signals: VecDeque<KeptSignal>,
    /// Open approvals, by the `seq` of the record that requested them.
    pub(super) approvals: BTreeMap<u64, ApprovalRequest>,
    /// Past decisions, and who made them, so that a repeated decision changes nothing.
    pub(super) decided: BTreeMap<u64, (Decision, String)>,
    /// The hashes of the values of these decisions, by approval.
    pub(super) decided_values: BTreeMap<u64, String>,
    pub(super) paused_at: Option<Millis>,
    /// Since when a control holds the run: deadlines of approvals, signals and claims stand still.
    pub(super) held_since: Option<Millis>,
    /// Since when the deadline stands still, because a control holds a step or the run.
    pub(super) still_since: Option<Millis>,
    /// A person has approved the run as a whole.
    pub(super) approved: bool,
    /// Why and how it ends without success, once that is certain.
    pub(super) ending: Option<Ending>,
    pub(super) compensating: bool,
    pub(super) end: Option<End>,
}

/// The plan of a run. Compared by pointer, not by content: tests compare runs that share a plan.
#[derive(Clone, Debug)]
pub(super) struct SharedPlan(pub(super) Arc<CompiledPlan>);

impl PartialEq for SharedPlan {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

/// A signal that no step has waited for yet.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(super) struct KeptSignal {
    pub(super) name: String,
    #[serde(deserialize_with = "json_text")]
    pub(super) data: Json,
}

/// Why and how a run ends without success.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(super) struct Ending {
    pub(super) kind: EndKind,
    /// The step that failed or was denied.
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
    /// Attempts before a person decided to retry; they do not count towards the maximum.
    pub(super) forgiven: u32,
    /// The rendered input, the same for all attempts.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "present_text"
    )]
    pub(super) input: Option<Json>,
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "present_text"
    )]
    pub(super) output: Option<Json>,
    pub(super) error: Option<StepError>,
    /// The deadline of the attempt in flight, the time of the next attempt, or the end of a hold.
    pub(super) due: Option<Millis>,
    /// When its first attempt was scheduled, plus the time that it was paused or held since.
    pub(super) first_at: Option<Millis>,
    /// Since when it is held.
    pub(super) held_at: Option<Millis>,
    /// A worker has claimed the attempt in flight.
    pub(super) claimed: bool,
    pub(super) started_at: Option<Millis>,
    pub(super) finished_at: Option<Millis>,
    /// An attempt had no answer. It may be one that was repeated after a crash, then held, and so does not count.
    pub(super) unanswered: bool,
    /// A person has approved it; these were the reasons for the request.
    pub(super) accepted: Option<Vec<String>>,
    pub(super) undo: Undo,
}

/// The phase of a step.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(super) enum Phase {
    /// It has not begun, and waits for other steps.
    #[default]
    Pending,
    /// It waits for the approval with this `seq`.
    Approval(u64),
    /// It may not be sent now.
    Held,
    /// An attempt is in flight.
    Running,
    /// It waits for the next attempt.
    Retry,
    /// All attempts failed, and it waits for a decision on the incident with this `seq`.
    Incident(u64),
    Succeeded,
    Failed,
    Unknown,
    Skipped,
    Cancelled,
}

impl StepState {
    /// Whether this run has not begun it: it is pending, or an earlier run has carried it out.
    fn is_untouched(&self) -> bool {
        match self.phase {
            Phase::Pending => true,
            Phase::Succeeded => self.attempt == 0,
            _ => false,
        }
    }
}

impl Phase {
    /// Whether steps that depend on it may begin.
    pub(super) fn unblocks_dependents(self) -> bool {
        matches!(self, Self::Succeeded | Self::Skipped)
    }
}

/// The compensation of a step.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub(super) struct Undo {
    pub(super) phase: UndoPhase,
    pub(super) attempt: u32,
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "present_text"
    )]
    pub(super) input: Option<Json>,
    pub(super) due: Option<Millis>,
    pub(super) error: Option<StepError>,
    /// A worker has claimed the attempt in flight.
    #[serde(default)]
    pub(super) claimed: bool,
}

/// The phase of a compensation.
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
        let mut steps = vec![StepState::default(); plan.steps.len()];
        for step in &started.reused {
            if let Some(index) = plan.index(&step.step_id) {
                steps[index].input.clone_from(&step.input);
            }
        }
        let mut effective = Vec::new();
        // Reversed: the last effective step is compensated first.
        for undo in started.undo.iter().rev() {
            if let Some(index) = plan.index(&undo.step_id) {
                steps[index].undo.input.clone_from(&undo.input);
                effective.push(index);
            }
        }
        Self {
            steps,
            plan: SharedPlan(plan),
            started,
            goal: Goal::default(),
            slots: Arc::default(),
            seq: 0,
            begun_at: None,
            deadline: None,
            effective,
            undone: Vec::new(),
            outputs: 0,
            signals: VecDeque::new(),
            approvals: BTreeMap::new(),
            decided: BTreeMap::new(),
            decided_values: BTreeMap::new(),
            paused_at: None,
            held_since: None,
            still_since: None,
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

    /// Whether it only retries compensations of an earlier run.
    pub(super) fn only_undoes(&self) -> bool {
        !self.started.undo.is_empty()
    }

    /// Whether it has ended.
    pub fn has_ended(&self) -> bool {
        self.end.is_some()
    }

    /// The status of the run.
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
        if self.goal.request.is_some() {
            return RunStatus::Planning;
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

    /// When the run must be woken next; `None` if it waits only for inputs, is paused, or has ended.
    ///
    /// After [`decide`](super::decide) with [`Input::Wake`](super::Input::Wake) it is in the future. After other inputs it may be in the
    /// past: then the timer fires as soon as the records in the log have been processed.
    pub fn next_due(&self) -> Option<Millis> {
        if self.end.is_some() || self.paused_at.is_some() {
            return None;
        }
        let held = self.held_since.is_some();
        let steps = self.steps.iter().enumerate();
        let steps = steps.flat_map(|(index, step)| {
            let forgotten = step.phase == Phase::Retry && planted(Bug::ForgetsDeadline);
            let still = held && self.waits_for_others(index);
            let undo_still = held && self.undo_waits_for_others(index);
            [
                step.due.filter(|_| !forgotten && !still),
                step.undo.due.filter(|_| !undo_still),
            ]
        });
        let steps = steps.flatten();
        let approvals = self.approvals.values().map(|approval| approval.expires_at);
        let approvals = approvals.filter(|_| !held);
        let run = match self.ending {
            // While the run ends, attempts in flight and compensations have their own limits.
            Some(_) => None,
            None => self.deadline.filter(|_| self.still_since.is_none()),
        };
        let plan = self.goal.due.filter(|_| !held && self.ending.is_none());
        // `run_at` has passed once any step has begun.
        let untouched = self.begun_at.is_none()
            && !held
            && self.ending.is_none()
            && self.approvals.is_empty()
            && !self.approved
            && self.steps.iter().all(StepState::is_untouched);
        let begin = self.started.run_at.filter(|_| untouched);
        let all = steps.chain(approvals).chain(run);
        all.chain(plan).chain(begin).min()
    }
}
