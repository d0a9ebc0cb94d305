//! Deadlines of a run that stand still while a control is in force (`decide/stand_still.rs`).

use super::run::{Phase, Run, UndoPhase};
use crate::{
    base::clock::Millis,
    plans::{Builtin, Worker},
    runs::Json,
};

impl Run {
    /// Whether the attempt in flight of a step waits for a claim, or for a signal.
    pub(super) fn waits_for_others(&self, index: usize) -> bool {
        let state = &self.steps[index];
        if state.phase != Phase::Running {
            return false;
        }
        match self.plan.0.steps[index].tool.worker {
            Worker::Claim => !state.claimed,
            Worker::Builtin(Builtin::Wait) => {
                let input = state.input.as_ref().map(Json::value).unwrap_or_default();
                input.get("signal").is_some() || input.get("any").is_some()
            }
            _ => false,
        }
    }

    /// Whether the compensation of a step waits for a claim.
    pub(super) fn undo_waits_for_others(&self, index: usize) -> bool {
        let undo = &self.steps[index].undo;
        let compensation = self.plan.0.steps[index].compensation.as_ref();
        undo.phase == UndoPhase::Running
            && !undo.claimed
            && compensation.is_some_and(|call| call.tool.worker == Worker::Claim)
    }

    /// Postpones the deadlines of approvals, signals, claims and plans.
    pub(super) fn postpone_waiting(&mut self, ms: i64) {
        for index in 0..self.steps.len() {
            let (own, undo) = (
                self.waits_for_others(index),
                self.undo_waits_for_others(index),
            );
            let step = &mut self.steps[index];
            for due in [
                step.due.as_mut().filter(|_| own),
                step.first_at.as_mut().filter(|_| own),
                step.undo.due.as_mut().filter(|_| undo),
            ]
            .into_iter()
            .flatten()
            {
                due.0 = due.0.saturating_add(ms);
            }
        }
        if let Some(due) = &mut self.goal.due {
            due.0 = due.0.saturating_add(ms);
        }
        for approval in self.approvals.values_mut() {
            approval.expires_at.0 = approval.expires_at.0.saturating_add(ms);
        }
    }

    /// Updates how long the run's deadline stands still: while a control holds one of its steps, or the run. `now`: on the run's clock.
    pub(super) fn count_still(&mut self, now: Millis) {
        let mut steps = self.steps.iter();
        let step_held = steps.any(|step| step.phase == Phase::Held && step.due.is_none());
        if step_held || self.held_since.is_some() {
            let since = self.held_since.unwrap_or(now);
            let known = self.still_since.get_or_insert(since);
            *known = (*known).min(since);
        } else if let Some(since) = self.still_since.take()
            && let Some(deadline) = &mut self.deadline
        {
            deadline.0 = deadline.0.saturating_add((now.0 - since.0).max(0));
        }
    }
}
