//! A run as it is stored: all that its events have changed. Its plan and its start are stored once, apart.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use super::{
    compiled::CompiledPlan,
    run::{End, Ending, PlanOf, Run, StepState},
};
use crate::{
    base::clock::Millis,
    runs::{ApprovalRequest, Json, Started},
    state::{CodecError, Versioned},
};

/// The stored part of a run.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Snapshot {
    seq: u64,
    /// When the last record was written, in milliseconds since the Unix epoch.
    updated_at: i64,
    /// When a timer fires, in milliseconds since the Unix epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    timer: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    begun_at: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    deadline: Option<i64>,
    steps: Vec<StepState>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    effective: Vec<usize>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    signals: BTreeMap<String, VecDeque<Json>>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    approvals: BTreeMap<u64, ApprovalRequest>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    paused_at: Option<i64>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    approved: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ending: Option<Ending>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    compensating: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    end: Option<End>,
}

impl Snapshot {
    /// Of a run whose last record was written at `updated_at`, and whose timer fires at `timer`.
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
            signals: run.signals.clone(),
            approvals: run.approvals.clone(),
            paused_at: ms(run.paused_at),
            approved: run.approved,
            ending: run.ending.clone(),
            compensating: run.compensating,
            end: run.end.clone(),
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

    /// The run; `None` if its plan has another number of steps.
    pub fn restore(self, plan: Arc<CompiledPlan>, started: Arc<Started>) -> Option<Run> {
        let ms = |at: Option<i64>| at.map(Millis);
        (self.steps.len() == plan.steps.len()).then(|| Run {
            plan: PlanOf(plan),
            started,
            seq: self.seq,
            begun_at: ms(self.begun_at),
            deadline: ms(self.deadline),
            steps: self.steps,
            effective: self.effective,
            signals: self.signals,
            approvals: self.approvals,
            paused_at: ms(self.paused_at),
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
