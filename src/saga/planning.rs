//! Applies the events of a goal to a run: the guardian's finding, requests for a plan, and the plan.

use std::sync::Arc;

use super::{
    compiled::CompiledPlan,
    goal::{REQUIRED_BY_KEY, slots},
    run::{Run, SharedPlan, StepState},
};
use crate::{
    base::clock::Millis,
    runs::{GuardianReport, GuardianVerdict, PlanReady, Started},
};

/// How long a run waits for the answer to its request before it requests the plan again, in milliseconds: ten minutes.
const ANSWER_MS: u64 = 10 * 60 * 1000;

impl Run {
    /// A run that has no plan yet, before its first record.
    pub(super) fn of_goal(started: Arc<Started>) -> Self {
        let mut run = Self::new(CompiledPlan::none(), started);
        run.goal.unplanned = true;
        run
    }

    /// Sets the plan, before the record that contains it is applied.
    pub(super) fn adopt(&mut self, plan: Arc<CompiledPlan>) {
        self.steps = vec![StepState::default(); plan.steps.len()];
        self.plan = SharedPlan(plan);
    }

    pub(super) fn guardian_checked(&mut self, report: &GuardianReport) {
        self.goal.score = report.score;
        self.goal.flagged = report.verdict != GuardianVerdict::Pass;
    }

    pub(super) fn plan_requested(&mut self, at: Millis) {
        self.begin(at);
        let due = Millis(at.0.saturating_add_unsigned(ANSWER_MS));
        self.goal.due = Some(self.on_run_clock(due, at));
        self.goal.request = Some(self.seq);
        self.goal.requests += 1;
    }

    pub(super) fn plan_is_ready(&mut self, ready: &PlanReady, at: Millis) {
        self.goal.close_request();
        self.goal.unplanned = false;
        if self.started.goal.is_none() {
            return;
        }
        let found = &ready.found;
        self.goal.flagged |= found.flagged;
        self.goal.red.clone_from(&found.red);
        self.slots = Arc::new(slots(&found.slots));
        if self.begun_at.is_some() {
            // The time limit of the plan does not include the time that it took to find it.
            let now = self.on_run_clock(at, at);
            let timeout = self.plan.0.timeout_ms;
            self.deadline = Some(Millis(now.0.saturating_add_unsigned(timeout)));
            self.still_since = self.still_since.map(|_| now);
        }
        if found.params.is_none() && ready.workflow.is_none() {
            return;
        }
        // As if the run had been started with them: that is how its stored start is read again.
        let started = Arc::make_mut(&mut self.started);
        if let Some(params) = &found.params {
            started.params.clone_from(params);
        }
        if let Some(workflow) = &ready.workflow {
            let required = started.approve_tools.contains(&workflow.name);
            let reasons = &mut started.approve_run;
            if required && !reasons.iter().any(|reason| reason == REQUIRED_BY_KEY) {
                reasons.push(REQUIRED_BY_KEY.to_owned());
            }
            started.workflow = Some(workflow.clone());
        }
    }
}
