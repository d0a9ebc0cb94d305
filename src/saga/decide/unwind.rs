//! The end of a run that does not succeed: what is in flight is awaited, what has not begun is cancelled, and what may have had an
//! effect is undone, the last first.

use super::Turn;
use crate::runs::{CallKind, CompensationResult, Event, Json, RunError, StepError};
use crate::{
    plans::{Builtin, Context, RENDERED_MAX},
    saga::{
        compiled::{Compensation, CompiledStep, Input},
        run::{EndKind, Phase, UndoPhase},
    },
};

impl Turn<'_> {
    /// One step towards the end; false: something is awaited.
    pub(super) fn unwind(&mut self) -> bool {
        let plan = self.plan();
        let mut in_flight = false;
        for (index, step) in plan.steps.iter().enumerate() {
            let state = &self.run.steps[index];
            match state.phase {
                // Waiting is nothing that has to be awaited.
                Phase::Running if Self::builtin(step) != Some(Builtin::Wait) => in_flight = true,
                Phase::Retry => {
                    // There will be no further attempt.
                    let attempt = state.attempt;
                    let none = || StepError::new("cancelled", "the run ended");
                    let error = state.error.clone().unwrap_or_else(none);
                    let step_id = step.id.clone();
                    let event = if state.unanswered {
                        Event::StepUnknown {
                            step_id,
                            attempt,
                            error,
                        }
                    } else {
                        Event::StepFailed {
                            step_id,
                            attempt,
                            error,
                            compensate: false,
                        }
                    };
                    self.emit(event);
                    return true;
                }
                Phase::Incident(approval) => {
                    self.close_incident(index, step, approval);
                    return true;
                }
                Phase::Pending | Phase::Approval(_) | Phase::Held | Phase::Running => {
                    self.emit(Event::StepCancelled {
                        step_id: step.id.clone(),
                    });
                    return true;
                }
                _ => {}
            }
        }
        if in_flight {
            return false;
        }
        let compensate = self
            .run
            .ending
            .as_ref()
            .is_some_and(|ending| ending.compensate);
        let can_be_undone = |index: &usize| plan.steps[*index].compensation.is_some();
        let phase = |index: usize| self.run.steps[index].undo.phase;
        let mut effective = self.run.effective.iter().copied().filter(can_be_undone);
        // What has begun is finished first: a step that succeeds late comes after it.
        let begun = effective
            .clone()
            .find(|index| phase(*index) != UndoPhase::Pending && !phase(*index).is_final());
        let next = begun.or_else(|| effective.rfind(|index| phase(*index) == UndoPhase::Pending));
        if let Some(index) = next.filter(|_| compensate) {
            return self.undo(index, &plan.steps[index]);
        }
        self.finish();
        true
    }

    /// Undoes one step: one after another, so nothing else is undone meanwhile.
    fn undo(&mut self, index: usize, step: &CompiledStep) -> bool {
        let Some(compensation) = &step.compensation else {
            return false;
        };
        if !self.run.compensating {
            self.emit(Event::CompensationStarted);
            return true;
        }
        let undo = &self.run.steps[index].undo;
        let attempt = undo.attempt + 1;
        match undo.phase {
            UndoPhase::Running | UndoPhase::Held | UndoPhase::Succeeded | UndoPhase::Failed => {
                return false;
            }
            UndoPhase::Retry if !self.is_due(undo.due) => return false,
            UndoPhase::Pending | UndoPhase::Retry => {}
        }
        let input = match self.undo_input(index, step, compensation) {
            Ok(input) => input,
            Err(error) => {
                self.emit(Event::CompensationFailed {
                    step_id: step.id.clone(),
                    attempt,
                    error,
                });
                return true;
            }
        };
        if let Some(hold) = (self.env.hold)(&compensation.tool) {
            self.emit(Event::StepHeld {
                step_id: step.id.clone(),
                kind: CallKind::Compensate,
                reason: hold.reason,
                until: hold.until,
            });
            return true;
        }
        self.emit(Event::CompensationScheduled {
            step_id: step.id.clone(),
            attempt,
            input,
            deadline: self.after(compensation.timeout_ms),
        });
        if let crate::plans::Worker::Builtin(builtin) = compensation.tool.worker
            && builtin != Builtin::Http
        {
            self.emit(Event::CompensationSucceeded {
                step_id: step.id.clone(),
                attempt,
            });
        }
        true
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
        let template = match &compensation.input {
            Input::Fixed(input) => return Ok(input.clone()),
            Input::Template(template) => template,
        };
        let value = template
            .render(&self.undo_context(index, step), RENDERED_MAX)
            .map_err(|e| StepError::new("invalid_expression", e.to_string()))?;
        Ok(Json::of(&value))
    }

    /// As for the step itself; and `step`, and the step by its id, with input and output. The output of a step that is unknown is
    /// null.
    fn undo_context(&self, index: usize, step: &CompiledStep) -> Context {
        let state = &self.run.steps[index];
        let value = |json: &Option<Json>| json.as_ref().map(Json::value).unwrap_or_default();
        let (input, output) = (value(&state.input), value(&state.output));
        let own = serde_json::json!({ "input": input, "output": output });
        self.context(&step.ancestors)
            .with("step", &own)
            .with_step(&step.id, &[("input", &input), ("output", &output)])
    }

    /// The last record.
    fn finish(&mut self) {
        let plan = self.plan();
        let Some(ending) = self.run.ending.clone() else {
            return;
        };
        let undone = self.run.effective.iter().rev().filter_map(|index| {
            let undo = &self.run.steps[*index].undo;
            undo.phase.is_final().then(|| CompensationResult {
                step_id: plan.steps[*index].id.clone(),
                success: undo.phase == UndoPhase::Succeeded,
                error: undo.error.clone(),
            })
        });
        let error = Box::new(RunError {
            failed_step_id: ending.step.map(|index| plan.steps[index].id.clone()),
            code: ending.error.code,
            message: ending.error.message,
            compensation_results: undone.collect(),
        });
        self.emit(match ending.kind {
            EndKind::Failed => Event::RunFailed { error },
            EndKind::Denied => Event::RunDenied { error },
            EndKind::Cancelled => Event::RunCancelled { error },
        });
    }
}
