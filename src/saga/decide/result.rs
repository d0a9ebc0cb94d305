//! The outcome of an attempt: results, time-outs, retries, incidents.

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::{CallResult, Outcome, Turn};
use crate::runs::{ApprovalKind, ApprovalRequest, CallKind, Event, Json, RiskLane, StepError};
use crate::{
    plans::{Builtin, Worker, jcs},
    saga::{
        bugs::{Bug, planted},
        compiled::{CompiledStep, RetryPolicy},
        run::{OUTCOME_UNKNOWN, Phase, StepState, UndoPhase},
    },
};

/// The maximum size of a step's output, in bytes.
pub(super) const OUTPUT_MAX: usize = 128 * 1024;
/// The maximum size of all outputs of a run together, in bytes.
const OUTPUTS_MAX: usize = 8 * 1024 * 1024;
const NO_ANSWER: &str = "no_answer";
/// Errors of a call that succeeded, but whose output cannot be stored: the call has had its effect.
const UNKEPT: [&str; 2] = ["output_too_large", INVALID_OUTPUT];
const INVALID_OUTPUT: &str = "invalid_output";
/// The maximum of `Retry-After`: an hour.
const RETRY_AFTER_MAX_MS: u64 = 3_600_000;

/// An attempt that failed.
struct Failure {
    error: StepError,
    retryable: bool,
    retry_after_ms: Option<u64>,
    answered: bool,
}

impl Failure {
    fn no_answer() -> Self {
        Self {
            error: StepError::new(NO_ANSWER, "there was no answer in time"),
            retryable: true,
            retry_after_ms: None,
            answered: false,
        }
    }
}

impl Turn<'_> {
    /// An attempt has ended.
    pub(super) fn result(&mut self, result: CallResult) {
        let plan = self.plan();
        let index = plan.index(&result.step).filter(|_| self.run.end.is_none());
        let taken = index.is_some_and(|index| {
            let step = &plan.steps[index];
            let outcome = match result.outcome {
                Outcome::Succeeded(output) => Ok(output),
                Outcome::Failed {
                    error,
                    retryable,
                    retry_after_ms,
                    answered,
                } => Err(Failure {
                    error,
                    retryable,
                    retry_after_ms,
                    answered,
                }),
            };
            match result.kind {
                CallKind::Execute => self.executed(index, step, result.attempt, outcome),
                CallKind::Compensate => self.undone(index, step, result.attempt, outcome),
            }
        });
        self.effects.ignored = !taken;
    }

    /// Returns false if the attempt is over.
    fn executed(
        &mut self,
        index: usize,
        step: &CompiledStep,
        attempt: u32,
        outcome: Result<Json, Failure>,
    ) -> bool {
        // Builtin tools have no worker that could answer.
        if Self::builtin(step).is_some() {
            return false;
        }
        let state = &self.run.steps[index];
        let current = state.phase == Phase::Running && state.attempt == attempt;
        // It was sent before it was held.
        let held = state.phase == Phase::Held && state.attempt + 1 == attempt;
        let twice = state.phase == Phase::Succeeded && planted(Bug::AcceptsSecondResult);
        match outcome {
            Ok(output) if current || held || twice || is_late_success(state, attempt) => {
                match Json::read(output.text().as_bytes()) {
                    Ok(output) => self.succeed_step(index, step, (attempt, output), None),
                    Err(why) => {
                        let message = format!("its output cannot be stored: {why}");
                        let error = StepError::new(INVALID_OUTPUT, message);
                        self.fail_step(index, step, error, true);
                    }
                }
            }
            Err(failure) if current => self.attempt_failed(index, step, failure),
            _ => return false,
        }
        true
    }

    /// Returns false if the attempt is over.
    fn undone(
        &mut self,
        index: usize,
        step: &CompiledStep,
        attempt: u32,
        outcome: Result<Json, Failure>,
    ) -> bool {
        let undo = &self.run.steps[index].undo;
        let current = undo.phase == UndoPhase::Running && undo.attempt == attempt;
        // It was sent before it was held.
        let held = undo.phase == UndoPhase::Held && undo.attempt + 1 == attempt;
        if !(current || held && outcome.is_ok()) {
            return false;
        }
        match outcome {
            Ok(_) => self.emit(Event::CompensationSucceeded {
                step_id: step.id.clone(),
                attempt,
            }),
            Err(failure) => self.compensation_failed(index, step, failure),
        }
        true
    }

    /// The attempt in flight has succeeded, with this output.
    pub(super) fn keep(&mut self, index: usize, step: &CompiledStep, output: Json) {
        let attempt = self.run.steps[index].attempt;
        self.succeed_step(index, step, (attempt, output), None);
    }

    /// An attempt succeeded. If its output cannot be stored, the step fails and is compensated.
    pub(super) fn succeed_step(
        &mut self,
        index: usize,
        step: &CompiledStep,
        (attempt, output): (u32, Json),
        signal: Option<String>,
    ) {
        if let Err(error) = self.check_output_size(&output) {
            return self.fail_step(index, step, error, true);
        }
        let phase = self.run.steps[index].phase;
        let late = !matches!(phase, Phase::Running | Phase::Held);
        self.emit(Event::StepSucceeded {
            step_id: step.id.clone(),
            attempt,
            output,
            late,
            signal,
            reused: false,
        });
    }

    /// Checks that the run can store one more output.
    pub(super) fn check_output_size(&self, output: &Json) -> Result<(), StepError> {
        let bytes = output.text().len();
        let (code, message) = if bytes > OUTPUT_MAX {
            let message = format!("its output has more than {OUTPUT_MAX} bytes");
            ("output_too_large", message)
        } else if self.run.outputs + bytes > OUTPUTS_MAX {
            let message = format!("the outputs of the run have more than {OUTPUTS_MAX} bytes");
            ("outputs_too_large", message)
        } else {
            return Ok(());
        };
        Err(StepError::new(code, message))
    }

    pub(super) fn attempt_timed_out(&mut self, index: usize, step: &CompiledStep) {
        if Self::builtin(step) == Some(Builtin::Wait) {
            return self.wait_timed_out(index, step);
        }
        if self.is_unclaimed(index, step) {
            let unanswered = self.run.steps[index].unanswered;
            return self.give_up(index, step, not_started(), unanswered, true);
        }
        self.attempt_failed(index, step, Failure::no_answer());
    }

    pub(super) fn compensation_timed_out(&mut self, index: usize, step: &CompiledStep) {
        let undo = step.compensation.as_ref();
        if undo.is_some_and(|undo| undo.tool.worker == Worker::Claim)
            && !self.run.steps[index].undo.claimed
        {
            return self.emit(Event::CompensationFailed {
                step_id: step.id.clone(),
                attempt: self.run.steps[index].undo.attempt,
                error: not_started(),
            });
        }
        self.compensation_failed(index, step, Failure::no_answer());
    }

    /// Whether the attempt in flight has not been claimed by a worker yet.
    pub(super) fn is_unclaimed(&self, index: usize, step: &CompiledStep) -> bool {
        let state = &self.run.steps[index];
        state.phase == Phase::Running && step.tool.worker == Worker::Claim && !state.claimed
    }

    /// Schedules a retry of a step, or ends it.
    fn attempt_failed(&mut self, index: usize, step: &CompiledStep, failure: Failure) {
        let state = &self.run.steps[index];
        let attempt = state.attempt;
        let used = attempt - state.forgiven;
        let most = step.retry.max_attempts + u32::from(planted(Bug::RetriesBeyondMax));
        // A run that is ending does not retry.
        let more = failure.retryable && used < most && self.run.ending.is_none();
        let at = (index, CallKind::Execute, attempt);
        let pause = self.pause_ms(at, &step.retry, used, failure.retry_after_ms);
        // The run's clock stands still during a pause.
        let clock = self.run.paused_at.unwrap_or(self.env.now);
        let late = self
            .all_attempts_until(state, step)
            .is_some_and(|end| clock.0.saturating_add_unsigned(pause) >= end.0);
        if more && !late {
            self.emit(Event::StepRetryScheduled {
                step_id: step.id.clone(),
                kind: CallKind::Execute,
                attempt,
                due: self.after(pause),
                error: failure.error,
                answered: failure.answered,
            });
            return;
        }
        let unanswered = !failure.answered || state.unanswered;
        self.give_up(index, step, failure.error, unanswered, failure.retryable);
    }

    /// The deadline of all attempts has passed before the next one could be sent.
    pub(super) fn exhausted(&mut self, index: usize, step: &CompiledStep) {
        let state = &self.run.steps[index];
        let none = || StepError::new("deadline", "its deadline passed before it could be sent");
        let error = state.error.clone().unwrap_or_else(none);
        let unanswered = state.unanswered;
        self.give_up(index, step, error, unanswered, true);
    }

    /// There is no further attempt: opens an incident, or ends the step.
    fn give_up(
        &mut self,
        index: usize,
        step: &CompiledStep,
        error: StepError,
        unanswered: bool,
        retryable: bool,
    ) {
        if retryable && Self::holds_incidents(step) && self.run.ending.is_none() {
            self.open_incident(index, step, error, unanswered);
        } else if unanswered {
            self.emit(Event::StepUnknown {
                step_id: step.id.clone(),
                attempt: self.run.steps[index].attempt,
                error,
            });
        } else {
            let compensate = UNKEPT.contains(&&*error.code);
            self.fail_step(index, step, error, compensate);
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

    /// Ends a step that will not be attempted again: `unknown` if an attempt had no answer, else `failed`.
    pub(super) fn end_attempts(&mut self, index: usize, step: &CompiledStep) {
        let state = &self.run.steps[index];
        let none = || StepError::new("cancelled", "the run ended");
        let error = state.error.clone().unwrap_or_else(none);
        if state.unanswered {
            self.emit(Event::StepUnknown {
                step_id: step.id.clone(),
                attempt: state.attempt,
                error,
            });
        } else {
            self.fail_step(index, step, error, false);
        }
    }

    fn open_incident(
        &mut self,
        index: usize,
        step: &CompiledStep,
        error: StepError,
        unanswered: bool,
    ) {
        let input = self.run.steps[index]
            .input
            .clone()
            .unwrap_or_else(Json::null);
        let mut reasons = vec![error.code];
        if unanswered {
            reasons.push(OUTCOME_UNKNOWN.into());
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

    fn compensation_failed(&mut self, index: usize, step: &CompiledStep, failure: Failure) {
        let attempt = self.run.steps[index].undo.attempt;
        let retry = step
            .compensation
            .as_ref()
            .map(|compensation| compensation.retry);
        if let Some(retry) = retry.filter(|retry| failure.retryable && attempt < retry.max_attempts)
        {
            let at = (index, CallKind::Compensate, attempt);
            let pause = self.pause_ms(at, &retry, attempt, failure.retry_after_ms);
            self.emit(Event::StepRetryScheduled {
                step_id: step.id.clone(),
                kind: CallKind::Compensate,
                attempt,
                due: self.after(pause),
                error: failure.error,
                answered: failure.answered,
            });
            return;
        }
        self.emit(Event::CompensationFailed {
            step_id: step.id.clone(),
            attempt,
            error: failure.error,
        });
    }

    /// The pause before the next attempt: that of the retry policy, or the worker's `Retry-After` if it is longer.
    fn pause_ms(
        &self,
        (index, kind, attempt): (usize, CallKind, u32),
        retry: &RetryPolicy,
        used: u32,
        retry_after_ms: Option<u64>,
    ) -> u64 {
        let mut at = [0; 9];
        at[..4].copy_from_slice(&(index as u32).to_le_bytes());
        at[4..8].copy_from_slice(&attempt.to_le_bytes());
        at[8] = u8::from(kind == CallKind::Compensate);
        let random = xxh3_64_with_seed(&at, self.env.seed);
        let pause = retry.pause_ms(used, random);
        pause.max(retry_after_ms.unwrap_or(0).min(RETRY_AFTER_MAX_MS))
    }
}

fn not_started() -> StepError {
    StepError::new("not_started", "no worker claimed it in time")
}

/// Whether a success of this attempt is accepted late: the step counts as failed, unknown or cancelled, but has had an effect
/// after all. Not once its compensation has begun, since compensations must tolerate an unknown outcome anyway.
fn is_late_success(state: &StepState, attempt: u32) -> bool {
    let ended = matches!(
        state.phase,
        Phase::Failed | Phase::Unknown | Phase::Cancelled
    );
    let undone = state.undo.phase.is_final() || state.undo.phase == UndoPhase::Running;
    // The last attempt may have been sent before it was held.
    let last = state.attempt + u32::from(state.unanswered);
    let made = (1..=last).contains(&attempt);
    ended && made && !undone && !planted(Bug::DropsLateSuccess)
}
