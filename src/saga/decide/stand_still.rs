//! Deadlines that cannot be met because of a control. While the kill switch is on, decisions, signals and claims are refused; while a tool
//! is held, its calls cannot be claimed. If such a deadline passes, the run is held instead of ended.

use super::Turn;
use crate::{
    base::clock::Millis, controls::KILL_SWITCH, plans::Tool, runs::Event,
    saga::compiled::CompiledPlan,
};

impl Turn<'_> {
    /// Holds the run if a deadline has passed that could not be met, and releases it when the control is lifted.
    pub(super) fn stand_still(&mut self, plan: &CompiledPlan) {
        let held_since = self.run.held_since;
        if held_since.is_none() && !self.missed_deadline(plan) {
            return;
        }
        match (held_since, self.blocking_control(plan)) {
            (None, Some((reason, since))) => {
                // Not before the run began.
                let begun = self.run.begun_at.unwrap_or(since);
                let since = since.max(begun).min(self.env.now);
                self.emit(Event::RunHeld { reason, since });
            }
            (Some(since), None) => self.emit(Event::RunReleased {
                held_ms: (self.env.now.0 - since.0).max(0),
            }),
            _ => {}
        }
    }

    /// Whether a deadline has passed that people, or workers that claim, should have met, or a planner is to be asked now.
    fn missed_deadline(&self, plan: &CompiledPlan) -> bool {
        let run = &self.run;
        let mut approvals = run.approvals.values();
        approvals.any(|approval| approval.expires_at <= self.env.now)
            || (run.ending.is_none() && run.still_since.is_none() && self.is_due(run.deadline))
            || self.wants_plan()
            || (run.ending.is_none() && self.is_due(run.goal.due))
            || (0..plan.steps.len()).any(|index| {
                let state = &run.steps[index];
                (self.is_due(state.due) && run.waits_for_others(index))
                    || (self.is_due(state.undo.due) && run.undo_waits_for_others(index))
            })
    }

    /// The control because of which deadlines cannot be met, and since when it is in force.
    fn blocking_control(&self, plan: &CompiledPlan) -> Option<(String, Millis)> {
        if let Some(since) = (self.env.in_force)(KILL_SWITCH) {
            return Some((KILL_SWITCH.to_owned(), since));
        }
        let unclaimed = |index: usize| -> Vec<&Tool> {
            let step = &plan.steps[index];
            let own = self.is_unclaimed(index, step).then_some(&*step.tool);
            let undo = step.compensation.as_ref();
            let undo = undo.filter(|_| self.run.undo_waits_for_others(index));
            own.into_iter()
                .chain(undo.map(|undo| &*undo.tool))
                .collect()
        };
        let mut held = (0..plan.steps.len()).flat_map(unclaimed);
        held.find_map(|tool| {
            // A hold with an end is not one of a control.
            let hold = (self.env.hold)(tool).filter(|hold| hold.until.is_none())?;
            let since = (self.env.in_force)(&hold.reason);
            Some((hold.reason, since.unwrap_or(self.env.now)))
        })
    }
}
