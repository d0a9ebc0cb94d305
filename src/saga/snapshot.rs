//! The stored form of a run: everything that its events have changed. The plan, the start, and large inputs and outputs of steps
//! ([`Snapshot::take_large`]) are stored once, in separate rows, so that a transaction writes only what has changed.

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
    run::{End, Ending, KeptSignal, Run, SharedPlan, StepState},
};
use crate::{
    base::clock::Millis,
    runs::{ApprovalKind, ApprovalRequest, Decision, Json, Started},
    state::{CodecError, Versioned},
};

/// A text with more bytes than this is stored in a separate row.
const LARGE: usize = 2048;

/// The stored part of a run.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Snapshot {
    seq: u64,
    /// When the last record was written, in milliseconds since the Unix epoch.
    updated_at: i64,
    /// When the timer fires, in milliseconds since the Unix epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    timer: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    begun_at: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    deadline: Option<i64>,
    steps: Vec<StepState>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    effective: Vec<usize>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    undone: Vec<usize>,
    #[serde(default)]
    outputs: usize,
    #[serde(default, skip_serializing_if = "VecDeque::is_empty")]
    signals: VecDeque<KeptSignal>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    approvals: BTreeMap<u64, ApprovalRequest>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    decided: BTreeMap<u64, (Decision, String)>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    decided_values: BTreeMap<u64, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    paused_at: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    held_since: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    still_since: Option<i64>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    approved: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ending: Option<Ending>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    compensating: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    end: Option<End>,
    #[serde(default, skip_serializing_if = "Goal::is_none")]
    goal: Goal,
    /// The texts that are stored in separate rows.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    large: Vec<TextKey>,
}

/// A text of a step.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct TextKey {
    /// The index of the step.
    pub step: u32,
    /// Which of the texts of the step.
    pub text: StepText,
}

/// Which text of a step.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepText {
    /// Its rendered input.
    Input = 0,
    /// The output of the step.
    Output = 1,
    /// The rendered input of the call that undoes it.
    UndoInput = 2,
}

impl StepText {
    const ALL: [Self; 3] = [Self::Input, Self::Output, Self::UndoInput];

    fn of(self, step: &mut StepState) -> &mut Option<Json> {
        match self {
            Self::Input => &mut step.input,
            Self::Output => &mut step.output,
            Self::UndoInput => &mut step.undo.input,
        }
    }
}

impl Snapshot {
    /// The snapshot of a run whose last record was written at `updated_at`, and whose timer fires at `timer`.
    pub fn of(run: &Run, updated_at: Millis, timer: Option<Millis>) -> Self {
        let ms = |at: Option<Millis>| at.map(|at| at.0);
        Self {
            seq: run.seq,
            updated_at: updated_at.0,
            timer: ms(timer),
            begun_at: ms(run.begun_at),
            deadline: ms(run.deadline),
            steps: run.steps.clone(),
            effective: run.effective.clone(),
            undone: run.undone.clone(),
            outputs: run.outputs,
            signals: if planted(Bug::ForgetsSignals) {
                VecDeque::new()
            } else {
                run.signals.clone()
            },
            approvals: run.approvals.clone(),
            decided: run.decided.clone(),
            decided_values: run.decided_values.clone(),
            paused_at: ms(run.paused_at),
            held_since: ms(run.held_since),
            still_since: ms(run.still_since),
            approved: run.approved,
            ending: run.ending.clone(),
            compensating: run.compensating,
            end: run.end.clone(),
            goal: run.goal.clone(),
            large: Vec::new(),
        }
        .without_approval_inputs()
    }

    /// Removes the inputs of approvals: each is the input of the step or the params of the run, which are stored already. That of an
    /// approval of kind `plan` is not.
    fn without_approval_inputs(mut self) -> Self {
        for request in self.approvals.values_mut() {
            if request.kind != ApprovalKind::Plan {
                request.input = Json::null();
            }
        }
        self
    }

    /// Takes out texts larger than [`LARGE`] bytes, to be stored in separate rows. [`Snapshot::put_back`] must add them again
    /// before [`Snapshot::restore`].
    pub fn take_large(&mut self) -> Vec<(TextKey, Json)> {
        let mut taken = Vec::new();
        for (step, state) in (0..).zip(&mut self.steps) {
            for text in StepText::ALL {
                let value = text.of(state);
                if let Some(json) = value.take_if(|json| json.text().len() > LARGE) {
                    taken.push((TextKey { step, text }, json));
                }
            }
        }
        self.large = taken.iter().map(|(key, _)| *key).collect();
        taken
    }

    /// The texts that must be put back.
    pub fn large(&self) -> &[TextKey] {
        &self.large
    }

    /// Puts a text back.
    pub fn put_back(&mut self, key: TextKey, json: Json) {
        if let Some(step) = self.steps.get_mut(key.step as usize) {
            *key.text.of(step) = Some(json);
        }
    }

    /// When the last record was written.
    pub fn updated_at(&self) -> Millis {
        Millis(self.updated_at)
    }

    /// When its timer fires.
    pub fn timer(&self) -> Option<Millis> {
        self.timer.map(Millis)
    }

    /// The run; `None` if the plan has a different number of steps. `plan`: `None` for a goal without a plan. `slots`: the value of
    /// `slots` in expressions.
    pub fn restore(
        mut self,
        plan: Option<Arc<CompiledPlan>>,
        started: Arc<Started>,
        slots: Arc<Value>,
    ) -> Option<Run> {
        let plan = plan.unwrap_or_else(CompiledPlan::none);
        for request in self.approvals.values_mut() {
            if request.kind == ApprovalKind::Plan {
                continue;
            }
            let step = request.step_id.as_deref().and_then(|id| plan.index(id));
            let step = step.and_then(|index| self.steps.get(index));
            let shown =
                step.map_or_else(|| Some(started.params.clone()), |step| step.input.clone());
            request.input = shown.unwrap_or_else(Json::null);
        }
        let ms = |at: Option<i64>| at.map(Millis);
        (self.steps.len() == plan.steps.len()).then(|| Run {
            plan: SharedPlan(plan),
            started,
            slots,
            goal: self.goal,
            seq: self.seq,
            begun_at: ms(self.begun_at),
            deadline: ms(self.deadline),
            steps: self.steps,
            effective: self.effective,
            undone: self.undone,
            outputs: self.outputs,
            signals: self.signals,
            approvals: self.approvals,
            decided: self.decided,
            decided_values: self.decided_values,
            paused_at: ms(self.paused_at),
            held_since: ms(self.held_since),
            still_since: ms(self.still_since),
            approved: self.approved,
            ending: self.ending,
            compensating: self.compensating,
            end: self.end,
        })
    }
}

impl Versioned for Snapshot {
    const VERSION: u8 = 1;

    fn encode(&self, out: &mut Vec<u8>) -> Result<(), CodecError> {
        Ok(serde_json::to_writer(out, self)?)
    }

    fn decode(_version: u8, bytes: &[u8]) -> Result<Self, CodecError> {
        Ok(serde_json::from_slice(bytes)?)
    }
}
