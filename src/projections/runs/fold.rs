//! Folds a run's history into the state that its rows show. The rules are those of `saga::Run`; the tests compare both.

use std::collections::BTreeMap;

use serde_json::json;

use super::{
    body::{Body, PlanBody, StepRef},
    state::{Approval, PENDING, Phase, Question, Request, Started, Step, UndoPhase},
};
use crate::runs::RunStatus;

/// A record of the history.
#[derive(Clone, Copy, Debug)]
pub(super) struct HistoryRecord<'a> {
    pub(super) seq: i64,
    pub(super) kind: &'a str,
    /// Milliseconds since 1970.
    pub(super) at: i64,
    /// JSON text of an object.
    pub(super) body: &'a str,
}

/// The state of a run. Fields that are only needed in rows, such as outputs, are dropped once they are written.
#[derive(Debug, Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "they are independent of each other"
)]
pub(super) struct Run {
    /// The number of its last record.
    pub(super) seq: i64,
    pub(super) created_at: i64,
    pub(super) updated_at: i64,
    pub(super) finished_at: Option<i64>,
    pub(super) risk_score: Option<f64>,
    /// From the first record.
    pub(super) started: Option<Box<Started>>,
    /// JSON text.
    pub(super) plan: Option<String>,
    /// Of the plan of a goal: name and version.
    pub(super) workflow: Option<(String, String)>,
    /// JSON text: the params of this workflow.
    pub(super) params: Option<String>,
    /// JSON text.
    pub(super) output: Option<String>,
    /// JSON text.
    pub(super) error: Option<String>,
    pub(super) steps: Vec<Step>,
    pub(super) approvals: BTreeMap<i64, Approval>,
    begun: bool,
    planning: bool,
    paused: bool,
    compensating: bool,
    end: Option<RunStatus>,
}

fn workflow(body: &Body<'_>) -> Option<(String, String)> {
    let workflow = body.workflow.as_ref()?;
    Some((workflow.name.to_string(), workflow.version.to_string()))
}

fn owned(text: Option<&str>) -> Option<String> {
    text.map(str::to_owned)
}

impl Run {
    /// Its status: the rules of `saga::Run::status`.
    pub(super) fn status(&self) -> RunStatus {
        if let Some(end) = self.end {
            return end;
        }
        if self.paused {
            return RunStatus::Paused;
        }
        if self.compensating {
            return RunStatus::Compensating;
        }
        if self.planning {
            return RunStatus::Planning;
        }
        let works = |step: &Step| matches!(step.phase, Phase::Running | Phase::Retry);
        if self.steps.iter().any(works) {
            return RunStatus::Running;
        }
        if self.approvals.values().any(|approval| approval.open) {
            return RunStatus::WaitingApproval;
        }
        if self.begun {
            RunStatus::Running
        } else {
            RunStatus::Queued
        }
    }

    /// Whether it has ended.
    pub(super) fn has_ended(&self) -> bool {
        self.end.is_some()
    }

    /// Applies the next record. One that cannot be parsed only advances `seq`; it is still stored in the history.
    pub(super) fn apply(&mut self, record: HistoryRecord<'_>) {
        if self.seq == 0 {
            self.created_at = record.at;
        }
        self.seq = record.seq;
        self.updated_at = self.updated_at.max(record.at);
        match serde_json::from_str(record.body) {
            Ok(body) => self.evolve(record, &body),
            Err(error) => {
                let kind = record.kind;
                tracing::warn!(kind, %error, "a record of a run cannot be parsed: the run's row does not show it");
            }
        }
    }

    fn evolve(&mut self, record: HistoryRecord<'_>, body: &Body<'_>) {
        let at = record.at;
        match record.kind {
            "run_started" => self.start(body),
            "plan_requested" => (self.begun, self.planning) = (true, true),
            "plan_ready" => self.plan_is_ready(body),
            "approval_requested" | "incident_opened" => self.ask(record, body),
            "approval_decided" | "incident_decided" => self.decided(at, body),
            "compensation_started" => self.compensating = true,
            "cancel_requested" => self.paused = false,
            "paused" => self.paused = true,
            "resumed" => {
                self.paused = false;
                self.postpone(body.paused_ms.unwrap_or_default());
            }
            "run_released" => self.postpone(body.held_ms.unwrap_or_default()),
            "run_succeeded" => self.finish(RunStatus::Succeeded, at, body),
            "run_failed" => self.finish(RunStatus::Failed, at, body),
            "run_denied" => self.finish(RunStatus::Denied, at, body),
            "run_cancelled" => self.finish(RunStatus::Cancelled, at, body),
            _ => self.step_changes(record, body),
        }
    }

    fn start(&mut self, body: &Body<'_>) {
        if let Some(at) = body.received_at {
            self.created_at = at.0;
        }
        self.started = Some(Box::new(Started {
            workflow: workflow(body),
            goal: owned(body.goal.as_deref()),
            params: body.params.map(|params| params.get().to_owned()),
            principal: owned(body.principal.as_deref()),
            on_behalf_of: owned(body.on_behalf_of.as_deref()),
            retry_of: owned(body.retry_of.as_deref()),
        }));
    }

    fn plan_is_ready(&mut self, body: &Body<'_>) {
        self.planning = false;
        self.workflow = workflow(body);
        self.params = body.params.map(|params| params.get().to_owned());
        let given = body.plan.map_or("null", |plan| plan.get());
        let plan: PlanBody<'_> = serde_json::from_str::<Option<_>>(given)
            .ok()
            .flatten()
            .unwrap_or_default();
        let steps = plan.steps.map_or("[]", |steps| steps.get());
        let (hash, source) = (body.hash.as_deref(), body.source.as_deref());
        let mut text =
            json!({ "hash": hash.unwrap_or_default(), "source": source.unwrap_or_default() })
                .to_string();
        text.pop();
        text.push_str(",\"steps\":");
        text.push_str(steps);
        if let Some(output) = plan.output {
            text.push_str(",\"output\":");
            text.push_str(output.get());
        }
        text.push('}');
        self.plan = Some(text);
        let steps: Vec<StepRef<'_>> = serde_json::from_str(steps).unwrap_or_default();
        self.steps = steps
            .iter()
            .map(|step| Step {
                changed: true,
                id: (*step.id).into(),
                tool: (*step.tool).into(),
                ..Step::default()
            })
            .collect();
    }

    fn index(&self, body: &Body<'_>) -> Option<usize> {
        let id = body.step_id.as_deref()?;
        self.steps.iter().position(|step| *step.id == *id)
    }

    fn ask(&mut self, record: HistoryRecord<'_>, body: &Body<'_>) {
        self.begun = true;
        self.planning &= body.kind.as_deref() != Some("plan");
        let question = match record.kind {
            "incident_opened" => Question::Incident,
            _ => Question::Permission,
        };
        let step = self.index(body);
        if let Some(step) = step.and_then(|index| self.steps.get_mut(index)) {
            step.phase = match question {
                Question::Incident => Phase::Incident,
                Question::Permission => Phase::Approval(record.seq),
            };
            step.changed = true;
        }
        let risk_score = body.risk_score.unwrap_or_default();
        self.risk_score = Some(self.risk_score.unwrap_or_default().max(risk_score));
        let text = |text: &Option<std::borrow::Cow<'_, str>>| {
            text.as_deref().unwrap_or_default().to_owned()
        };
        let request = Request {
            step_id: owned(body.step_id.as_deref()),
            kind: text(&body.kind),
            lane: text(&body.lane),
            risk_score,
            reasons: body
                .reasons
                .map_or("[]", |reasons| reasons.get())
                .to_owned(),
            input: body.input.map_or("null", |input| input.get()).to_owned(),
            input_hash: text(&body.input_hash),
            message: owned(body.message.as_deref()),
            requested_at: body.requested_at.map_or(record.at, |at| at.0),
        };
        let approval = Approval {
            stored: false,
            changed: true,
            request: Some(Box::new(request)),
            status: PENDING.to_owned(),
            expires_at: body.expires_at.map_or(record.at, |at| at.0),
            decided_by: None,
            decided_at: None,
            reason: None,
            step,
            question,
            open: true,
        };
        self.approvals.insert(record.seq, approval);
    }

    fn decided(&mut self, at: i64, body: &Body<'_>) {
        let number = body.approval.unwrap_or_default() as i64;
        let open = self.approvals.get_mut(&number).filter(|a| a.open);
        let Some(approval) = open else {
            return;
        };
        let decision = body.decision.as_deref().unwrap_or_default();
        approval.open = false;
        approval.decide(decision, body.by.as_deref(), at, body.reason.as_deref());
        let question = approval.question;
        let Some(step) = approval.step.and_then(|index| self.steps.get_mut(index)) else {
            return;
        };
        match decision {
            "approved" | "retry" => step.phase = Phase::Pending,
            "denied" => step.end(Phase::Cancelled, at),
            "expired" if question == Question::Permission => step.end(Phase::Cancelled, at),
            // The record that ends the step follows.
            _ => {}
        }
        step.changed = true;
    }

    /// Postpones the expiry of open approvals by the length of a pause or hold.
    fn postpone(&mut self, ms: i64) {
        for approval in self.approvals.values_mut().filter(|a| a.open) {
            approval.expires_at = approval.expires_at.saturating_add(ms);
            approval.changed = true;
        }
    }

    fn finish(&mut self, end: RunStatus, at: i64, body: &Body<'_>) {
        self.end = Some(end);
        self.finished_at = Some(at);
        self.output = body.output.map(|output| output.get().to_owned());
        self.error = body.error.map(|error| error.get().to_owned());
        for approval in self.approvals.values_mut() {
            approval.expire(at);
        }
    }

    fn step_changes(&mut self, record: HistoryRecord<'_>, body: &Body<'_>) {
        let at = record.at;
        if matches!(record.kind, "step_scheduled" | "step_skipped") {
            self.begun = true;
        }
        let index = self.index(body);
        let Some(step) = index.and_then(|index| self.steps.get_mut(index)) else {
            return;
        };
        let attempt = body.attempt.unwrap_or_default();
        let error = || body.error.map(|error| error.get().to_owned());
        let output = || body.output.map(|output| output.get().to_owned());
        let executes = body.kind.as_deref() != Some("compensate");
        match record.kind {
            "step_scheduled" => {
                step.phase = Phase::Running;
                step.attempts = attempt;
                step.started_at.get_or_insert(at);
            }
            "step_held" if executes => {
                // A call that was not made uses up no attempt.
                if step.phase == Phase::Running {
                    step.attempts = step.attempts.saturating_sub(1);
                }
                step.phase = Phase::Held;
            }
            "step_held" => {
                let undo = step.undo.get_or_insert_default();
                if undo.phase == UndoPhase::Running {
                    undo.attempts = undo.attempts.saturating_sub(1);
                }
                undo.phase = UndoPhase::Held;
            }
            "step_released" if executes => step.phase = Phase::Pending,
            "step_released" => step.undo.get_or_insert_default().phase = UndoPhase::Pending,
            "step_succeeded" => {
                step.end(Phase::Succeeded, at);
                // Higher if the call was held after it was sent.
                step.attempts = step.attempts.max(attempt);
                step.output = output();
                step.error = None;
            }
            "step_failed" => {
                step.end(Phase::Failed, at);
                step.error = error();
            }
            "step_unknown" => {
                step.end(Phase::Unknown, at);
                step.error = error();
            }
            "step_retry_scheduled" if executes => {
                step.phase = Phase::Retry;
                step.error = error();
            }
            "step_retry_scheduled" => {
                let undo = step.undo.get_or_insert_default();
                undo.phase = UndoPhase::Retry;
                undo.error = error();
            }
            "step_skipped" => {
                step.end(Phase::Skipped, at);
                step.output = output();
            }
            "step_cancelled" => {
                if let Phase::Approval(number) = step.phase
                    && let Some(approval) = self.approvals.get_mut(&number)
                {
                    approval.expire(at);
                }
                step.end(Phase::Cancelled, at);
            }
            "compensation_scheduled" => {
                let undo = step.undo.get_or_insert_default();
                undo.phase = UndoPhase::Running;
                undo.attempts = attempt;
            }
            "compensation_succeeded" => {
                let undo = step.undo.get_or_insert_default();
                undo.phase = UndoPhase::Succeeded;
                undo.attempts = undo.attempts.max(attempt);
                undo.error = None;
            }
            "compensation_failed" => {
                let undo = step.undo.get_or_insert_default();
                undo.phase = UndoPhase::Failed;
                undo.error = error();
            }
            // Types that rows do not show, or that only a later version knows.
            _ => return,
        }
        step.changed = true;
    }
}
