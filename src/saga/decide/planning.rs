//! The plan of a goal: requesting it from a planner, and taking it in. Without a plan a person is asked for one.

use serde_json::json;

use super::{NewPlan, Turn, Unplanned};
use crate::runs::{
    ApprovalKind, ApprovalRequest, Event, INJECTION_SUSPECTED, Json, RiskLane, StepError,
};
use crate::{
    plans::jcs,
    saga::{
        bugs::{Bug, planted},
        goal::{NO_PLAN, REQUESTS_MAX},
        risk,
    },
};

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
            self.ask_for_plan(StepError::new(NO_PLAN, message).into());
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

    /// A planner has answered. While a plan is awaited, the first plan counts, also one for an earlier request; that there is none counts
    /// only as the answer to the last request.
    pub(super) fn plan_answered(
        &mut self,
        request: u64,
        outcome: Result<Box<NewPlan>, Box<Unplanned>>,
    ) {
        let run = &self.run;
        let second = planted(Bug::SecondPlanReplaces) && outcome.is_ok();
        let open = run.goal.request;
        let awaited =
            open.is_some_and(|open| request == open || (request < open && outcome.is_ok()));
        let expected = awaited || second;
        if run.end.is_some() || run.ending.is_some() || !expected {
            self.effects.ignored = true;
            return;
        }
        match outcome {
            Ok(plan) => self.take_plan(*plan),
            Err(unplanned) => self.ask_for_plan(*unplanned),
        }
    }

    /// Continues with this plan.
    pub(super) fn take_plan(&mut self, plan: NewPlan) {
        self.run.adopt(plan.compiled);
        self.emit(Event::PlanReady(Box::new(plan.ready)));
    }

    /// Requests a plan from a person.
    fn ask_for_plan(&mut self, unplanned: Unplanned) {
        let Unplanned { error, found } = unplanned;
        let mut input = json!({
            "goal": self.run.started.goal,
            "error": { "code": error.code, "message": error.message },
        });
        if let Some(lookup) = &found.lookup {
            input["lookup"] = lookup.value();
        }
        if let Some(cost) = &found.cost {
            input["cost"] = cost.value();
        }
        if !found.degraded.is_empty() {
            input["degraded"] = found.degraded.into();
        }
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
        if self.run.goal.flagged || found.flagged {
            request.lane = RiskLane::Red;
            request.risk_score = request.risk_score.max(risk::RED);
            request.reasons.push(INJECTION_SUSPECTED.to_owned());
        }
        self.emit(Event::ApprovalRequested(Box::new(request)));
    }
}
