//! One attempt of a step: its input, the risk lanes, and sending it.

use serde_json::Value;

use super::Turn;
use crate::runs::{
    ApprovalKind, ApprovalRequest, CallKind, DEPTH_MAX, Event, INJECTION_SUSPECTED, Json, RiskLane,
    StepError, Unreadable,
};
use crate::{
    base::clock::Millis,
    plans::{Builtin, Context, RENDERED_MAX, RenderError, Tool, Worker, jcs},
    saga::{
        compiled::{CompiledStep, Input},
        goal::REQUIRED_BY_KEY,
        risk,
        run::{Phase, StepState, UndoPhase},
    },
};

/// How long a call waits until a worker claims it, unless its tool says otherwise: a day.
const QUEUE_MS: u64 = 86_400 * 1000;

impl Turn<'_> {
    /// The context of expressions: the params, the slots of a goal, and the outputs of these steps.
    pub(super) fn context(&self, steps: &[usize]) -> Context {
        let params = self.run.started.params.value();
        let mut context = Context::new().with("params", &params);
        if !self.run.slots.is_null() {
            context = context.with("slots", &self.run.slots);
        }
        let plan = self.run.plan();
        for index in steps {
            if let Some(output) = &self.run.steps[*index].output {
                let output = output.value();
                context = context.with_step(&plan.steps[*index].id, &[("output", &output)]);
            }
        }
        context
    }

    /// The input of a step. It is rendered once and is the same for all attempts.
    pub(super) fn input(&self, index: usize, step: &CompiledStep) -> Result<Json, StepError> {
        if let Some(input) = &self.run.steps[index].input {
            return Ok(input.clone());
        }
        match &step.input {
            Input::Fixed(input) => Ok(input.clone()),
            Input::Template(template) => {
                let invalid = |message: String| StepError::new("invalid_input", message);
                let value = template
                    .render(&self.context(&step.refers), RENDERED_MAX)
                    .map_err(|error| match error {
                        RenderError::TooDeep(_) => invalid(Unreadable::TooDeep.to_string()),
                        error => StepError::new("invalid_expression", error.to_string()),
                    })?;
                step.check_input(&value)
                    .map_err(|wrong| invalid(wrong.to_string()))?;
                let input = Json::of(&value);
                if input.depth() > DEPTH_MAX {
                    return Err(invalid(Unreadable::TooDeep.to_string()));
                }
                Ok(input)
            }
        }
    }

    /// Requests an approval where the risk rules demand one, unless the same reasons were approved before. True: the step waits
    /// for the decision.
    pub(super) fn ask_people(&mut self, index: usize, step: &CompiledStep, input: &Json) -> bool {
        let state = &self.run.steps[index];
        if state.attempt > 0 {
            return false;
        }
        let approve = Self::builtin(step) == Some(Builtin::Approve);
        // Parsing the input is needed only for thresholds.
        let judged = (!step.tool.risk.params.is_empty()).then(|| input.value());
        let judged = judged.as_ref().unwrap_or(&Value::Null);
        let mut risk = risk::judge(&step.tool, step.irreversible, judged);
        if self.run.started.approve_tools.contains(&step.tool.name) {
            risk.require(REQUIRED_BY_KEY);
        }
        for reason in self.run.goal.red.get(&*step.id).into_iter().flatten() {
            risk.require(reason);
        }
        let score = self.run.goal.score;
        // A person who approved the run has seen the suspicion.
        if score > self.env.approve_above && !self.run.approved {
            risk.require(INJECTION_SUSPECTED);
        }
        if risk.score > self.env.approve_above {
            risk.lane = risk.lane.max(RiskLane::Red);
        }
        if !approve && risk.lane < RiskLane::Red {
            return false;
        }
        let accepted = |reasons: &Vec<String>| risk.reasons.iter().all(|r| reasons.contains(r));
        if state.accepted.as_ref().is_some_and(accepted) {
            return false;
        }
        let value = input.value();
        let message = value.get("message").and_then(|text| text.as_str());
        let request = ApprovalRequest {
            kind: ApprovalKind::Step,
            step_id: Some(step.id.clone()),
            lane: risk.lane,
            risk_score: risk.score.max(score),
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

    /// Requests, once, an approval of the run as a whole.
    pub(super) fn ask_about_run(&mut self) {
        let mut open = self.run.approvals.values();
        if open.any(|request| request.kind == ApprovalKind::Run) {
            return;
        }
        let input = self.run.started.params.clone();
        let mut reasons = self.run.started.approve_run.clone();
        if self.run.goal.flagged {
            reasons.push(INJECTION_SUSPECTED.to_owned());
        }
        let request = ApprovalRequest {
            kind: ApprovalKind::Run,
            step_id: None,
            lane: RiskLane::Red,
            risk_score: risk::RED.max(self.run.goal.score),
            reasons,
            input_hash: jcs::hash(&input.value()),
            input,
            message: None,
            requested_at: self.env.now,
            expires_at: self.after(self.env.approval_expiry_ms),
        };
        self.emit(Event::ApprovalRequested(Box::new(request)));
    }

    /// Sends a step to its worker, or carries out a builtin tool.
    pub(super) fn schedule(&mut self, index: usize, step: &CompiledStep, input: Json) {
        let state = &self.run.steps[index];
        let attempt = state.attempt + 1;
        let builtin = Self::builtin(step);
        let waits = (builtin == Some(Builtin::Wait)).then(|| wait_ms(&input));
        let mut deadline = match (waits, &step.tool.worker) {
            (Some(Some(ms)), _) => self.after(ms),
            // Unless the step has a time limit, the wait may take as long as the run.
            (Some(None), _) => self.after(step.timeout_ms).min(self.run_until()),
            // Until a worker claims it.
            (None, Worker::Claim) => self.after(queue_ms(&step.tool)),
            (None, _) => self.after(step.timeout_ms),
        };
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
            Some(Builtin::Noop) => self.keep(index, step, input),
            Some(Builtin::Emit) => match (self.env.check_event)(&step.id, &input.value()) {
                Ok(()) => self.keep(index, step, input),
                Err(error) => self.fail_step(index, step, error, false),
            },
            Some(Builtin::Approve) => {
                let output = serde_json::json!({ "approved": true });
                self.keep(index, step, Json::of(&output));
            }
            Some(Builtin::Wait) => self.take_signal(index, step),
            Some(Builtin::Http | Builtin::SqlQuery | Builtin::RecordCreate) | None => {}
        }
    }

    /// The deadline of the run, which is set with its first step.
    fn run_until(&self) -> Millis {
        let from_now = || self.after(self.run.plan().timeout_ms);
        self.run.deadline.unwrap_or_else(from_now)
    }

    /// The deadline of all attempts together, counted from when the first was scheduled.
    pub(super) fn all_attempts_until(
        &self,
        state: &StepState,
        step: &CompiledStep,
    ) -> Option<Millis> {
        let first = state.first_at.unwrap_or(self.env.now);
        let limit = step.deadline_ms?;
        Some(Millis(first.0.saturating_add_unsigned(limit)))
    }

    /// A worker has claimed an attempt: its time limit starts now. Only the first claim counts, so a lapsed lease does not extend the time.
    pub(super) fn claimed(&mut self, (id, kind, attempt): (&str, CallKind, u32), deadline: Millis) {
        let plan = self.plan();
        let index = plan.index(id).filter(|_| self.run.end.is_none());
        let claimed = index.and_then(|index| {
            let (step, state) = (&plan.steps[index], &self.run.steps[index]);
            let (in_flight, worker, claimed) = match kind {
                CallKind::Execute => (
                    state.phase == Phase::Running && state.attempt == attempt,
                    Some(&step.tool.worker),
                    state.claimed,
                ),
                CallKind::Compensate => (
                    state.undo.phase == UndoPhase::Running && state.undo.attempt == attempt,
                    step.compensation.as_ref().map(|undo| &undo.tool.worker),
                    state.undo.claimed,
                ),
            };
            (in_flight && worker == Some(&Worker::Claim)).then_some((index, claimed))
        });
        let index = match claimed {
            Some((index, false)) => index,
            Some((_, true)) => return,
            None => {
                self.effects.ignored = true;
                return;
            }
        };
        let all = match kind {
            CallKind::Execute => {
                self.all_attempts_until(&self.run.steps[index], &plan.steps[index])
            }
            CallKind::Compensate => None,
        };
        self.emit(Event::StepStarted {
            step_id: id.into(),
            kind,
            attempt,
            deadline: all.map_or(deadline, |all| deadline.min(all)),
        });
    }

    /// Completes a waiting step with the first kept signal that it waits for, if there is one.
    pub(super) fn take_signal(&mut self, index: usize, step: &CompiledStep) {
        let names = awaited(self.run.steps[index].input.as_ref());
        let mut signals = self.run.signals.iter();
        let kept = signals.find(|kept| names.contains(&kept.name)).cloned();
        if let Some(kept) = kept {
            let attempt = self.run.steps[index].attempt;
            self.succeed_step(index, step, (attempt, kept.data), Some(kept.name));
        }
    }

    /// The deadline of a `wait` has passed.
    pub(super) fn wait_timed_out(&mut self, index: usize, step: &CompiledStep) {
        let state = &self.run.steps[index];
        let first = state.first_at.unwrap_or(self.env.now);
        let waited = self.env.now.0.saturating_sub(first.0);
        let input = state.input.as_ref();
        // `deadline_s` may end before `for_s` does.
        let long_enough = input
            .and_then(|input| seconds(&input.value(), "for_s"))
            .is_some_and(|ms| waited >= ms.cast_signed());
        if long_enough {
            return self.keep(index, step, Json::null());
        }
        let error = StepError::new("wait_timeout", "the wait did not end within its time limit");
        self.fail_step(index, step, error, false);
    }
}

/// How long a call of a tool waits until a worker claims it, in milliseconds.
pub(super) fn queue_ms(tool: &Tool) -> u64 {
    tool.queue_timeout_ms.unwrap_or(QUEUE_MS)
}

/// The signals that a `wait` with this input waits for.
pub(super) fn awaited(input: Option<&Json>) -> Vec<String> {
    let value = input.map(Json::value).unwrap_or_default();
    let one = value.get("signal").into_iter();
    let any = value.get("any").and_then(|any| any.as_array());
    let names = one.chain(any.into_iter().flatten());
    names
        .filter_map(|name| name.as_str().map(str::to_owned))
        .collect()
}

/// How long a `wait` waits, in milliseconds.
fn wait_ms(input: &Json) -> Option<u64> {
    let input = input.value();
    seconds(&input, "for_s").or_else(|| seconds(&input, "timeout_s"))
}

fn seconds(input: &Value, name: &str) -> Option<u64> {
    let ms = input.get(name)?.as_f64()? * 1000.0;
    (ms >= 0.0).then_some(ms as u64)
}
