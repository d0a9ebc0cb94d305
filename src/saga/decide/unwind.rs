//! Ends a run that does not succeed: waits for attempts in flight, cancels what has not begun, and compensates steps that may
//! have had an effect, in reverse order.

use super::{Turn, attempt::queue_ms};
use crate::runs::{
    CallKind, CompensationResult, Decided, Decision, Event, Json, RunError, StepError,
};
use crate::{
    plans::{Builtin, Context, RENDERED_MAX, Worker},
    saga::{
        bugs::{Bug, planted},
        compiled::{Compensation, CompiledPlan, CompiledStep, Input},
        run::{EndKind, Phase, UndoPhase},
    },
};

impl Turn<'_> {
    /// The next step towards the end, unless attempts in flight are awaited.
    pub(super) fn unwind(&mut self, plan: &CompiledPlan) {
        if self.close_steps(plan) && !planted(Bug::EndsBeforeAttempt) {
            return;
        }
        match self.next_undo(plan) {
            Some(index) => self.undo(index, &plan.steps[index]),
            None => self.finish(plan),
        }
    }

    /// Retries the compensations that failed in an earlier run.
    pub(super) fn retry_compensations(&mut self, plan: &CompiledPlan) {
        match self.next_undo(plan) {
            Some(index) => self.undo(index, &plan.steps[index]),
            None => self.finish_retried_compensations(plan),
        }
    }

    /// Writes the last record of a run that only retries compensations.
    fn finish_retried_compensations(&mut self, plan: &CompiledPlan) {
        let compensation_results = self.compensation_results(plan);
        let failed = compensation_results.iter().find(|result| !result.success);
        let Some(failed) = failed.map(|result| result.step_id.clone()) else {
            return self.emit(Event::RunSucceeded {
                output: Json::null(),
            });
        };
        self.emit(Event::RunFailed {
            error: Box::new(RunError {
                message: format!("step `{failed}` could not be undone"),
                failed_step_id: Some(failed),
                code: "compensation_failed".into(),
                compensation_results,
            }),
        });
    }

    /// Ends steps that have not begun, or will not be attempted again. True: attempts are in flight, and awaited.
    fn close_steps(&mut self, plan: &CompiledPlan) -> bool {
        let mut in_flight = false;
        for (index, step) in plan.steps.iter().enumerate() {
            let state = &self.run.steps[index];
            match state.phase {
                Phase::Running => {
                    // No worker has begun one of these, so there is nothing to await.
                    let waits = Self::builtin(step) == Some(Builtin::Wait);
                    if !waits && !self.is_unclaimed(index, step) {
                        in_flight = true;
                    } else if state.attempt > 1 && !waits {
                        self.end_attempts(index, step);
                    } else {
                        self.cancel_step(step);
                    }
                }
                Phase::Pending | Phase::Held | Phase::Retry
                    if state.attempt > 0 || state.unanswered =>
                {
                    self.end_attempts(index, step);
                }
                Phase::Pending | Phase::Held | Phase::Retry => self.cancel_step(step),
                Phase::Approval(approval) => {
                    self.withdraw(approval);
                    self.cancel_step(step);
                }
                Phase::Incident(approval) => self.close_incident(index, step, approval),
                _ => {}
            }
        }
        // The remaining approvals are about the run.
        while let Some(approval) = self.run.approvals.keys().next().copied() {
            self.withdraw(approval);
        }
        in_flight
    }

    fn cancel_step(&mut self, step: &CompiledStep) {
        self.emit(Event::StepCancelled {
            step_id: step.id.clone(),
        });
    }

    /// Closes an approval that is no longer needed.
    fn withdraw(&mut self, approval: u64) {
        self.emit(Event::ApprovalDecided(Box::new(Decided {
            approval,
            decision: Decision::Expired,
            by: "omnilink".into(),
            reason: Some("the run ends".into()),
            value: None,
            plan_hash: None,
        })));
    }

    /// The next step to compensate: one whose compensation has begun, else the last one that had an effect.
    fn next_undo(&self, plan: &CompiledPlan) -> Option<usize> {
        let compensates = self.run.ending.as_ref().map(|ending| ending.compensate);
        if !compensates.unwrap_or_else(|| self.run.only_undoes()) {
            return None;
        }
        let phase = |index: usize| self.run.steps[index].undo.phase;
        let effective = self.run.effective.iter().copied();
        let mut open = effective.filter(|index| {
            let twice = planted(Bug::CompensatesTwice)
                && phase(*index) == UndoPhase::Succeeded
                && self.run.undone.len() == 1;
            plan.steps[*index].compensation.is_some() && (!phase(*index).is_final() || twice)
        });
        let begun = open
            .clone()
            .find(|index| phase(*index) != UndoPhase::Pending);
        if planted(Bug::CompensatesForward) {
            return begun.or_else(|| open.next());
        }
        begun.or_else(|| open.next_back())
    }

    /// Compensates one step. Compensations run one at a time.
    fn undo(&mut self, index: usize, step: &CompiledStep) {
        let Some(compensation) = &step.compensation else {
            return;
        };
        if !self.run.compensating {
            self.emit(Event::CompensationStarted);
        }
        let undo = &self.run.steps[index].undo;
        let attempt = undo.attempt + 1;
        match undo.phase {
            UndoPhase::Running | UndoPhase::Held => return,
            UndoPhase::Retry if !self.is_due(undo.due) => return,
            _ => {}
        }
        let input = match self.undo_input(index, step, compensation) {
            Ok(input) => input,
            Err(error) => {
                return self.emit(Event::CompensationFailed {
                    step_id: step.id.clone(),
                    attempt,
                    error,
                });
            }
        };
        if let Some(hold) = self.hold_of(&compensation.tool) {
            return self.hold(step, CallKind::Compensate, hold);
        }
        let event = compensation.tool.worker == Worker::Builtin(Builtin::Emit);
        let checked = event.then(|| (self.env.check_event)(&step.id, &input.value()));
        if let Some(Err(error)) = checked {
            return self.emit(Event::CompensationFailed {
                step_id: step.id.clone(),
                attempt,
                error,
            });
        }
        let limit_ms = match compensation.tool.worker {
            // Until a worker claims it.
            Worker::Claim => queue_ms(&compensation.tool),
            _ => compensation.timeout_ms,
        };
        self.emit(Event::CompensationScheduled {
            step_id: step.id.clone(),
            attempt,
            input,
            deadline: self.after(limit_ms),
        });
        if let Worker::Builtin(builtin) = compensation.tool.worker
            && !builtin.is_effect()
        {
            self.emit(Event::CompensationSucceeded {
                step_id: step.id.clone(),
                attempt,
            });
        }
    }

    fn undo_input(
        &self,
        index: usize,
        step: &CompiledStep,
        compensation: &Compensation,
    ) -> Result<Json, StepError> {
        if let Some(input) = &self.run.steps[index].undo.input {
            return Ok(input.clone());
        }
        if self.run.only_undoes() {
            let message = "its input could not be rendered in the run that is undone";
            return Err(StepError::new("invalid_expression", message));
        }
        let template = match &compensation.input {
            Input::Fixed(input) => return Ok(input.clone()),
            Input::Template(template) => template,
        };
        let context = self.undo_context(index, step, compensation);
        let value = match self.run.steps[index].phase {
            Phase::Succeeded => template.render(&context, RENDERED_MAX),
            // No output was stored, or a person gave one: a missing member must not prevent the call.
            _ => template.render_leniently(&context, RENDERED_MAX),
        };
        let value = value.map_err(|e| StepError::new("invalid_expression", e.to_string()))?;
        Ok(Json::of(&value))
    }

    /// The context of a compensation's expressions: that of the step, and the input and output of the step as `step` and under
    /// its id. The output is null if the step is `unknown`, or its output cannot be stored.
    fn undo_context(
        &self,
        index: usize,
        step: &CompiledStep,
        compensation: &Compensation,
    ) -> Context {
        let state = &self.run.steps[index];
        let value = |json: &Option<Json>| json.as_ref().map(Json::value).unwrap_or_default();
        let (input, output) = (value(&state.input), value(&state.output));
        let own = serde_json::json!({ "input": input, "output": output });
        self.context(&compensation.refers)
            .with("step", &own)
            .with_step(&step.id, &[("input", &input), ("output", &output)])
    }

    /// Writes the last record.
    fn finish(&mut self, plan: &CompiledPlan) {
        let Some(ending) = self.run.ending.clone() else {
            return;
        };
        let error = Box::new(RunError {
            failed_step_id: ending.step.map(|index| plan.steps[index].id.clone()),
            code: ending.error.code,
            message: ending.error.message,
            compensation_results: self.compensation_results(plan),
        });
        self.emit(match ending.kind {
            EndKind::Failed => Event::RunFailed { error },
            EndKind::Denied => Event::RunDenied { error },
            EndKind::Cancelled => Event::RunCancelled { error },
        });
    }

    /// The compensations, in the order in which they ended.
    fn compensation_results(&self, plan: &CompiledPlan) -> Vec<CompensationResult> {
        let undone = self.run.undone.iter().map(|index| {
            let undo = &self.run.steps[*index].undo;
            CompensationResult {
                step_id: plan.steps[*index].id.clone(),
                success: undo.phase == UndoPhase::Succeeded,
                error: undo.error.clone(),
            }
        });
        undone.collect()
    }
}
