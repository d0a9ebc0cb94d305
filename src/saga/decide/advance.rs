//! Which steps begin, what time has ended, and when the run has succeeded.

use super::Turn;
use crate::runs::{ApprovalKind, Decided, Decision, Event, Json, RunError, StepError};
use crate::{
    plans::{Builtin, Lane, OnExhausted, Template, When, Worker},
    saga::{compiled::CompiledStep, run::Phase},
};

/// The most bytes of a run's output.
const OUTPUT_MAX: usize = 128 * 1024;

impl Turn<'_> {
    /// Does all that can be done now.
    pub(super) fn advance(&mut self) {
        loop {
            if self.run.end.is_some() {
                return;
            }
            let went_on = if self.run.paused_at.is_some() {
                // Deadlines stand still, and nothing is scheduled.
                false
            } else {
                self.expire() || self.release() || {
                    if self.run.ending.is_some() {
                        self.unwind()
                    } else {
                        self.begin_steps()
                    }
                }
            };
            if !went_on {
                return;
            }
        }
    }

    /// A blocked tool denies the run before anything runs.
    pub(super) fn refuse_blocked_tools(&mut self) {
        let plan = self.plan();
        let mut steps = plan.steps.iter();
        let Some(step) = steps.find(|step| step.tool.risk.lane == Some(Lane::Blocked)) else {
            return;
        };
        let error = RunError {
            failed_step_id: Some(step.id.clone()),
            code: "tool_blocked".into(),
            message: format!("the tool `{}` is blocked", step.tool.name),
            compensation_results: Vec::new(),
        };
        self.emit(Event::RunDenied {
            error: Box::new(error),
        });
    }

    /// Ends what has lasted too long: attempts, approvals, the run.
    fn expire(&mut self) -> bool {
        let plan = self.plan();
        for (index, step) in plan.steps.iter().enumerate() {
            let state = &self.run.steps[index];
            if state.phase == Phase::Running && self.is_due(state.due) {
                self.attempt_timed_out(index, step);
                return true;
            }
            if state.undo.phase == crate::saga::run::UndoPhase::Running
                && self.is_due(state.undo.due)
            {
                self.compensation_timed_out(index, step);
                return true;
            }
        }
        let now = self.env.now;
        let mut approvals = self.run.approvals.iter();
        let expired = approvals.find(|(_, request)| request.expires_at <= now);
        if let Some((approval, request)) = expired {
            let (approval, kind) = (*approval, request.kind);
            let decided = Box::new(Decided {
                approval,
                decision: Decision::Expired,
                by: "omnilink".into(),
                reason: None,
                value: None,
            });
            if kind == ApprovalKind::Incident {
                self.decide_incident(decided);
            } else {
                self.emit(Event::ApprovalDecided(decided));
            }
            return true;
        }
        if self.run.ending.is_none() && self.is_due(self.run.deadline) {
            let message = "the run took longer than its plan allows";
            self.fail_run(StepError::new("run_timeout", message));
            return true;
        }
        false
    }

    /// Starts what may begin; false: nothing may.
    fn begin_steps(&mut self) -> bool {
        if self.run.begun_at.is_none()
            && self.run.started.run_at.is_some_and(|at| at > self.env.now)
        {
            return false;
        }
        if !self.run.approved && !self.run.started.approve_run.is_empty() {
            return self.ask_about_run();
        }
        let plan = self.plan();
        for (index, step) in plan.steps.iter().enumerate() {
            let state = &self.run.steps[index];
            let ready = match state.phase {
                Phase::Pending => step
                    .depends_on
                    .iter()
                    .all(|on| self.run.steps[*on].phase.lets_go_on()),
                Phase::Retry => self.is_due(state.due),
                _ => false,
            };
            if ready && self.begin_step(index, step) {
                return true;
            }
        }
        let mut steps = self.run.steps.iter();
        if steps.all(|step| step.phase.lets_go_on()) {
            self.succeed();
            return true;
        }
        false
    }

    /// Starts one step, or decides that it does not run.
    fn begin_step(&mut self, index: usize, step: &CompiledStep) -> bool {
        if self.run.steps[index].input.is_none() {
            match self.condition(index, step) {
                Ok(true) => {}
                Ok(false) => {
                    self.emit(Event::StepSkipped {
                        step_id: step.id.clone(),
                        output: None,
                    });
                    return true;
                }
                Err(error) => {
                    self.fail_step(index, step, error, false);
                    return true;
                }
            }
        }
        let input = match self.input(index, step) {
            Ok(input) => input,
            Err(error) => {
                self.fail_step(index, step, error, false);
                return true;
            }
        };
        if self.ask_people(index, step, &input) {
            return true;
        }
        if let Some(hold) = (self.env.hold)(&step.tool) {
            self.hold(step, hold);
            return true;
        }
        self.schedule(index, step, input);
        true
    }

    /// Whether the step's `when` is true.
    fn condition(&self, index: usize, step: &CompiledStep) -> Result<bool, StepError> {
        match &step.when {
            None | Some(When::Fixed(true)) => Ok(true),
            Some(When::Fixed(false)) => Ok(false),
            Some(When::Expression(expression)) => {
                let context = self.context(&self.plan().steps[index].ancestors);
                let value = expression
                    .render(&context, OUTPUT_MAX)
                    .map_err(|e| StepError::new("invalid_expression", e.to_string()))?;
                value.as_bool().ok_or_else(|| {
                    StepError::new("invalid_expression", "`when` is neither true nor false")
                })
            }
        }
    }

    fn succeed(&mut self) {
        let output = match &self.plan().output {
            None => Ok(Json::null()),
            Some(template) => self.run_output(template),
        };
        match output {
            Ok(output) => self.emit(Event::RunSucceeded { output }),
            Err(error) => self.fail_run(error),
        }
    }

    /// The run as a whole fails, not by a step.
    fn fail_run(&mut self, error: StepError) {
        self.emit(Event::CancelRequested {
            by: "omnilink".into(),
            reason: None,
            compensate: true,
            failure: Some(error),
        });
    }

    fn run_output(&self, template: &Template) -> Result<Json, StepError> {
        let all: Vec<usize> = (0..self.run.steps.len()).collect();
        let value = template
            .render(&self.context(&all), OUTPUT_MAX)
            .map_err(|e| StepError::new("invalid_expression", e.to_string()))?;
        Ok(Json::of(&value))
    }

    /// Whether the tool's work is done here, and what it is.
    pub(super) fn builtin(step: &CompiledStep) -> Option<Builtin> {
        match step.tool.worker {
            // It is an effect, as the workers are.
            Worker::Builtin(Builtin::Http) => None,
            Worker::Builtin(builtin) => Some(builtin),
            _ => None,
        }
    }

    /// Whether people are asked once all attempts have failed.
    pub(super) fn holds_incidents(step: &CompiledStep) -> bool {
        step.on_exhausted == OnExhausted::Hold
    }
}
