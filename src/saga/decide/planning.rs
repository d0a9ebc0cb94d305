//! The plan of a goal: requesting it from a planner, and taking it in. Without a plan a person is asked for one.

use serde_json::json;

use super::{NewPlan, Turn};
use crate::runs::{ApprovalKind, ApprovalRequest, Event, Json, RiskLane, StepError};
use crate::{
    plans::jcs,
    saga::{
        bugs::{Bug, planted},
        goal::{INJECTION_SUSPECTED, REQUESTS_MAX},
        risk,
    },
};

/// The code of a goal for which there is no plan.
const NO_PLAN: &str = "no_plan";

impl Turn<'_> {
    /// Requests a plan from a planner, again if an answer is overdue. While the kill switch is on the run is held instead.
    pub(super) fn plan_goal(&mut self, woken: bool) {
        if self.run.held_since.is_some() {
            return;
        }
        let overdue = woken && self.is_due(self.run.goal.due);
        if self.wants_plan() || (overdue && self.run.goal.requests < REQUESTS_MAX) {
            self.emit(Event::PlanRequested);
        } else if overdue {
            let message = "no planner has answered in time";
            self.ask_for_plan(StepError::new(NO_PLAN, message));
        }
    }

    /// Whether a plan can be requested now, unless the kill switch is on.
    pub(super) fn wants_plan(&self) -> bool {
        let run = &self.run;
        let asks = |request: &ApprovalRequest| request.kind == ApprovalKind::Plan;
        run.goal.unplanned
            && run.goal.request.is_none()
            && run.ending.is_none()
            && !run.approvals.values().any(asks)
            && !self.stays_queued()
    }

    /// A planner has answered. Only the first answer to the last request counts.
    pub(super) fn plan_answered(&mut self, request: u64, outcome: Result<Box<NewPlan>, StepError>) {
        let run = &self.run;
        let second = planted(Bug::SecondPlanReplaces) && outcome.is_ok();
        let expected = run.goal.request == Some(request) || second;
        if run.end.is_some() || run.ending.is_some() || !expected {
            self.effects.ignored = true;
            return;
        }
        match outcome {
            Ok(plan) => self.take_plan(*plan),
            Err(error) => self.ask_for_plan(error),
        }
    }

    /// Continues with this plan.
    pub(super) fn take_plan(&mut self, plan: NewPlan) {
        self.run.adopt(plan.compiled);
        self.emit(Event::PlanReady(Box::new(plan.ready)));
    }

    /// Requests a plan from a person.
    fn ask_for_plan(&mut self, error: StepError) {
        let input = json!({
            "goal": self.run.started.goal,
            "error": { "code": error.code, "message": error.message },
        });
        let mut request = ApprovalRequest {
            kind: ApprovalKind::Plan,
            step_id: None,
            lane: RiskLane::Yellow,
            risk_score: self.run.goal.score,
            reasons: vec![NO_PLAN.to_owned()],
            input_hash: jcs::hash(&input),
            input: Json::of(&input),
            message: Some(error.message),
            requested_at: self.env.now,
            expires_at: self.after(self.env.approval_expiry_ms),
        };
        if self.run.goal.flagged {
            request.lane = RiskLane::Red;
            request.risk_score = request.risk_score.max(risk::RED);
            request.reasons.push(INJECTION_SUSPECTED.to_owned());
        }
        self.emit(Event::ApprovalRequested(Box::new(request)));
    }
}
