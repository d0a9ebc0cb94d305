//! One attempt of a call: rendering its input, risk, holds, results, retries.

use serde_json::Value;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::{CallResult, Hold, Outcome, Turn};
use crate::runs::{ApprovalKind, ApprovalRequest, CallKind, Event, Json, RiskLane, StepError};
use crate::{
    base::clock::Millis,
    plans::{Builtin, Context, RENDERED_MAX, jcs},
    saga::{
        compiled::{CompiledStep, Input, RetryPolicy},
        risk,
        run::{Phase, StepState, UndoPhase},
    },
};

/// The most bytes of a step's output.
const OUTPUT_MAX: usize = 128 * 1024;
/// The reason of an approval that the key of whoever asked demands.
const REQUIRED_BY_KEY: &str = "required_by_key";
const NO_ANSWER: &str = "no_answer";

impl Turn<'_> {
    /// What expressions see: the parameters, and the outputs of these steps.
    pub(super) fn context(&self, steps: &[usize]) -> Context {
        let params = self.run.started.params.value();
        let mut context = Context::new().with("params", &params);
        let plan = self.run.plan();
        for index in steps {
            if let Some(output) = &self.run.steps[*index].output {
                let output = output.value();
                context = context.with_step(&plan.steps[*index].id, &[("output", &output)]);
            }
        }
        context
    }

    /// The input of a step: rendered once, the same for all attempts.
    pub(super) fn input(&self, index: usize, step: &CompiledStep) -> Result<Json, StepError> {
        if let Some(input) = &self.run.steps[index].input {
            return Ok(input.clone());
        }
        match &step.input {
            Input::Fixed(input) => Ok(input.clone()),
            Input::Template(template) => {
                let value = template
                    .render(&self.context(&step.ancestors), RENDERED_MAX)
                    .map_err(|e| StepError::new("invalid_expression", e.to_string()))?;
                Ok(Json::of(&value))
            }
        }
    }

    /// Asks people where the risk rules say so; true: the step waits for them, or is denied.
    pub(super) fn ask_people(&mut self, index: usize, step: &CompiledStep, input: &Json) -> bool {
        let state = &self.run.steps[index];
        if state.approved || state.attempt > 0 {
            return false;
        }
        let approve = Self::builtin(step) == Some(Builtin::Approve);
        let value = input.value();
        let mut risk = risk::judge(&step.tool, step.irreversible, &value);
        if self.run.started.approve_tools.contains(&step.tool.name) {
            risk.require(REQUIRED_BY_KEY);
        }
        if risk.score > self.env.approve_above {
            risk.lane = risk.lane.max(RiskLane::Red);
        }
        if !approve && risk.lane < RiskLane::Red {
            return false;
        }
        let message = value.get("message").and_then(|text| text.as_str());
        let request = ApprovalRequest {
            kind: ApprovalKind::Step,
            step_id: Some(step.id.clone()),
            lane: risk.lane,
            risk_score: risk.score,
            reasons: risk.reasons,
            input_hash: jcs::hash(&value),
            input: input.clone(),
            message: message.filter(|_| approve).map(str::to_owned),
            requested_at: self.env.now,
            expires_at: self.after(self.env.approval_expiry_ms),
        };
        self.emit(Event::ApprovalRequested(Box::new(request)));
        true
    }

    /// Asks people whether the run may begin; false: they were asked.
    pub(super) fn ask_about_run(&mut self) -> bool {
        let mut open = self.run.approvals.values();
        if open.any(|request| request.kind == ApprovalKind::Run) {
            return false;
        }
        let input = self.run.started.params.clone();
        let request = ApprovalRequest {
            kind: ApprovalKind::Run,
            step_id: None,
            lane: RiskLane::Red,
            risk_score: risk::RED,
            reasons: self.run.started.approve_run.clone(),
            input_hash: jcs::hash(&input.value()),
            input,
            message: None,
            requested_at: self.env.now,
            expires_at: self.after(self.env.approval_expiry_ms),
        };
        self.emit(Event::ApprovalRequested(Box::new(request)));
        true
    }

    pub(super) fn after(&self, ms: u64) -> Millis {
        Millis(self.env.now.0.saturating_add_unsigned(ms))
    }

    /// Keeps a step back until its hold ends.
    pub(super) fn hold(&mut self, step: &CompiledStep, hold: Hold) {
        self.emit(Event::StepHeld {
            step_id: step.id.clone(),
            kind: CallKind::Execute,
            reason: hold.reason,
            until: hold.until,
        });
    }

    /// Lets held calls go whose holds have ended.
    pub(super) fn release(&mut self) -> bool {
        let plan = self.plan();
        for (index, step) in plan.steps.iter().enumerate() {
            let state = &self.run.steps[index];
            let (kind, tool, due) = if state.phase == Phase::Held && self.run.ending.is_none() {
                (CallKind::Execute, &step.tool, state.due)
            } else if state.undo.phase == UndoPhase::Held
                && let Some(compensation) = &step.compensation
            {
                (CallKind::Compensate, &compensation.tool, state.undo.due)
            } else {
                continue;
            };
            let over = due.is_none_or(|due| due <= self.env.now);
            if over && (self.env.hold)(tool).is_none() {
                self.emit(Event::StepReleased {
                    step_id: step.id.clone(),
                    kind,
                });
                return true;
            }
        }
        false
    }

    /// Sends a step to its worker, or does its work where that is done here.
    pub(super) fn schedule(&mut self, index: usize, step: &CompiledStep, input: Json) {
        let state = &self.run.steps[index];
        let attempt = state.attempt + 1;
        let builtin = Self::builtin(step);
        let value = builtin.map(|_| input.value());
        let timeout_ms = match (&builtin, &value) {
            (Some(Builtin::Wait), Some(value)) => wait_ms(value).unwrap_or(step.timeout_ms),
            _ => step.timeout_ms,
        };
        let mut deadline = self.after(timeout_ms);
        if let Some(all) = self.all_attempts_until(state, step) {
            deadline = deadline.min(all);
        }
        self.emit(Event::StepScheduled {
            step_id: step.id.clone(),
            attempt,
            input: input.clone(),
            deadline,
        });
        match builtin {
            Some(Builtin::Noop) => self.succeeded(step, attempt, input, None),
            Some(Builtin::Emit) => {
                let checked =
                    (self.env.check_event)(&step.id, value.as_ref().unwrap_or(&Value::Null));
                match checked {
                    Ok(()) => self.succeeded(step, attempt, input, None),
                    Err(error) => self.fail_step(index, step, error, false),
                }
            }
            Some(Builtin::Approve) => {
                self.succeeded(
                    step,
                    attempt,
                    Json::of(&serde_json::json!({ "approved": true })),
                    None,
                );
            }
            Some(Builtin::Wait) => self.take_signal(index, step),
            Some(Builtin::Http) | None => {}
        }
    }

    /// The end of all attempts together, once the first was scheduled.
    fn all_attempts_until(&self, state: &StepState, step: &CompiledStep) -> Option<Millis> {
        let first = state.first_at.unwrap_or(self.env.now);
        let limit = step.deadline_ms?;
        Some(Millis(first.0.saturating_add_unsigned(limit)))
    }

    fn succeeded(
        &mut self,
        step: &CompiledStep,
        attempt: u32,
        output: Json,
        signal: Option<String>,
    ) {
        self.emit(Event::StepSucceeded {
            step_id: step.id.clone(),
            attempt,
            output,
            late: false,
            signal,
        });
    }

    /// A step that waits for a signal takes the first one that is kept.
    pub(super) fn take_signal(&mut self, index: usize, step: &CompiledStep) {
        let state = &self.run.steps[index];
        let Some(input) = &state.input else {
            return;
        };
        let value = input.value();
        let one = value.get("signal").into_iter();
        let any = value.get("any").and_then(|any| any.as_array());
        let names = one.chain(any.into_iter().flatten());
        let kept = names.filter_map(|name| name.as_str()).find_map(|name| {
            let first = self.run.signals.get(name)?.front()?;
            Some((name.to_owned(), first.clone()))
        });
        if let Some((name, data)) = kept {
            let attempt = state.attempt;
            self.succeeded(step, attempt, data, Some(name));
        }
    }

    pub(super) fn claimed(&mut self, id: &str, attempt: u32, deadline: Millis) {
        let plan = self.plan();
        let state = plan.index(id).map(|index| &self.run.steps[index]);
        let current = state.is_some_and(|s| s.phase == Phase::Running && s.attempt == attempt);
        if !current || self.run.end.is_some() {
            self.effects.ignored = true;
            return;
        }
        self.emit(Event::StepStarted {
            step_id: id.into(),
            attempt,
            deadline,
        });
    }

    pub(super) fn held(&mut self, id: &str, kind: CallKind, attempt: u32, hold: Hold) {
        let plan = self.plan();
        let state = plan.index(id).map(|index| &self.run.steps[index]);
        let current = state.is_some_and(|state| match kind {
            CallKind::Execute => state.phase == Phase::Running && state.attempt == attempt,
            CallKind::Compensate => {
                state.undo.phase == UndoPhase::Running && state.undo.attempt == attempt
            }
        });
        if !current || self.run.end.is_some() {
            self.effects.ignored = true;
            return;
        }
        self.emit(Event::StepHeld {
            step_id: id.into(),
            kind,
            reason: hold.reason,
            until: hold.until,
        });
    }

    /// An attempt has ended.
    pub(super) fn result(&mut self, result: CallResult) {
        let plan = self.plan();
        let Some(index) = plan.index(&result.step) else {
            self.effects.ignored = true;
            return;
        };
        if self.run.end.is_some() {
            self.effects.ignored = true;
            return;
        }
        let (step, state) = (&plan.steps[index], &self.run.steps[index]);
        match result.kind {
            CallKind::Execute => {
                let current = state.phase == Phase::Running && state.attempt == result.attempt;
                match result.outcome {
                    Outcome::Succeeded(output) if current => {
                        self.output(index, step, output);
                    }
                    Outcome::Succeeded(output)
                        if matches!(state.phase, Phase::Failed | Phase::Unknown)
                            && !state.undo.phase.is_final()
                            && state.undo.phase != UndoPhase::Running =>
                    {
                        self.emit(Event::StepSucceeded {
                            step_id: step.id.clone(),
                            attempt: result.attempt,
                            output,
                            late: true,
                            signal: None,
                        });
                    }
                    Outcome::Failed {
                        error,
                        retryable,
                        retry_after_ms,
                        answered,
                    } if current => {
                        self.attempt_failed(
                            index,
                            step,
                            (error, answered),
                            retryable,
                            retry_after_ms,
                        );
                    }
                    _ => self.effects.ignored = true,
                }
            }
            CallKind::Compensate => {
                let current =
                    state.undo.phase == UndoPhase::Running && state.undo.attempt == result.attempt;
                if !current {
                    self.effects.ignored = true;
                    return;
                }
                match result.outcome {
                    Outcome::Succeeded(_) => self.emit(Event::CompensationSucceeded {
                        step_id: step.id.clone(),
                        attempt: result.attempt,
                    }),
                    Outcome::Failed {
                        error,
                        retryable,
                        retry_after_ms,
                        answered,
                    } => {
                        self.compensation_failed(
                            index,
                            step,
                            (error, answered),
                            retryable,
                            retry_after_ms,
                        );
                    }
                }
            }
        }
    }

    /// The output of the attempt in flight.
    fn output(&mut self, index: usize, step: &CompiledStep, output: Json) {
        let attempt = self.run.steps[index].attempt;
        if output.text().len() <= OUTPUT_MAX {
            return self.succeeded(step, attempt, output, None);
        }
        let message = format!("its output has more than {OUTPUT_MAX} bytes");
        self.fail_step(
            index,
            step,
            StepError::new("output_too_large", message),
            true,
        );
    }

    pub(super) fn attempt_timed_out(&mut self, index: usize, step: &CompiledStep) {
        if Self::builtin(step) == Some(Builtin::Wait) {
            let state = &self.run.steps[index];
            let (attempt, input) = (state.attempt, state.input.clone());
            let value = input.map(|input| input.value()).unwrap_or_default();
            if value.get("for_s").is_some() {
                return self.succeeded(step, attempt, Json::null(), None);
            }
            let error = StepError::new("wait_timeout", "the signal did not come in time");
            return self.fail_step(index, step, error, false);
        }
        let error = StepError::new(NO_ANSWER, "there was no answer in time");
        self.attempt_failed(index, step, (error, false), true, None);
    }

    pub(super) fn compensation_timed_out(&mut self, index: usize, step: &CompiledStep) {
        let error = StepError::new(NO_ANSWER, "there was no answer in time");
        self.compensation_failed(index, step, (error, false), true, None);
    }

    /// Attempts a step again, or ends it.
    fn attempt_failed(
        &mut self,
        index: usize,
        step: &CompiledStep,
        (error, answered): (StepError, bool),
        retryable: bool,
        retry_after_ms: Option<u64>,
    ) {
        let state = &self.run.steps[index];
        let attempt = state.attempt;
        let used = attempt - state.forgiven;
        // A run that is ending makes no further attempts.
        let more = retryable && used < step.retry.max_attempts && self.run.ending.is_none();
        let due = self.retry_at(
            (index, CallKind::Execute, attempt),
            &step.retry,
            used,
            retry_after_ms,
        );
        let late = self
            .all_attempts_until(state, step)
            .is_some_and(|end| due >= end);
        if more && !late {
            self.emit(Event::StepRetryScheduled {
                step_id: step.id.clone(),
                kind: CallKind::Execute,
                attempt,
                due,
                error,
                answered,
            });
            return;
        }
        let unknown = !answered || state.unanswered;
        if retryable && Self::holds_incidents(step) && self.run.ending.is_none() {
            self.open_incident(index, step, error, unknown);
        } else if unknown {
            self.emit(Event::StepUnknown {
                step_id: step.id.clone(),
                attempt,
                error,
            });
        } else {
            self.fail_step(index, step, error, false);
        }
    }

    pub(super) fn fail_step(
        &mut self,
        index: usize,
        step: &CompiledStep,
        error: StepError,
        compensate: bool,
    ) {
        self.emit(Event::StepFailed {
            step_id: step.id.clone(),
            attempt: self.run.steps[index].attempt,
            error,
            compensate,
        });
    }

    fn open_incident(
        &mut self,
        index: usize,
        step: &CompiledStep,
        error: StepError,
        unknown: bool,
    ) {
        let input = self.run.steps[index]
            .input
            .clone()
            .unwrap_or_else(Json::null);
        let mut reasons = vec![error.code];
        if unknown {
            reasons.push("outcome_unknown".into());
        }
        let request = ApprovalRequest {
            kind: ApprovalKind::Incident,
            step_id: Some(step.id.clone()),
            lane: RiskLane::Yellow,
            risk_score: 0.0,
            reasons,
            input_hash: jcs::hash(&input.value()),
            input,
            message: Some(error.message),
            requested_at: self.env.now,
            expires_at: self.after(self.env.approval_expiry_ms),
        };
        self.emit(Event::IncidentOpened(Box::new(request)));
    }

    pub(super) fn compensation_failed(
        &mut self,
        index: usize,
        step: &CompiledStep,
        (error, answered): (StepError, bool),
        retryable: bool,
        retry_after_ms: Option<u64>,
    ) {
        let attempt = self.run.steps[index].undo.attempt;
        let retry = step
            .compensation
            .as_ref()
            .map(|compensation| compensation.retry);
        if let Some(retry) = retry.filter(|retry| retryable && attempt < retry.max_attempts) {
            let at = (index, CallKind::Compensate, attempt);
            let due = self.retry_at(at, &retry, attempt, retry_after_ms);
            self.emit(Event::StepRetryScheduled {
                step_id: step.id.clone(),
                kind: CallKind::Compensate,
                attempt,
                due,
                error,
                answered,
            });
            return;
        }
        self.emit(Event::CompensationFailed {
            step_id: step.id.clone(),
            attempt,
            error,
        });
    }

    /// When the next attempt is due: after the pause of the policy, or what the worker asked for where that is longer.
    fn retry_at(
        &self,
        (index, kind, attempt): (usize, CallKind, u32),
        retry: &RetryPolicy,
        used: u32,
        retry_after_ms: Option<u64>,
    ) -> Millis {
        let mut at = [0; 9];
        at[..4].copy_from_slice(&(index as u32).to_le_bytes());
        at[4..8].copy_from_slice(&attempt.to_le_bytes());
        at[8] = u8::from(kind == CallKind::Compensate);
        let random = xxh3_64_with_seed(&at, self.env.seed);
        let pause = retry.pause_ms(used, random);
        self.after(pause.max(retry_after_ms.unwrap_or(0).min(RETRY_AFTER_MAX_MS)))
    }
}

/// The longest pause that a worker may ask for: an hour.
const RETRY_AFTER_MAX_MS: u64 = 3_600_000;

/// How long a `wait` waits.
fn wait_ms(input: &Value) -> Option<u64> {
    let seconds = input.get("for_s").or_else(|| input.get("timeout_s"))?;
    let ms = seconds.as_f64()? * 1000.0;
    (ms >= 0.0).then_some(ms as u64)
}
