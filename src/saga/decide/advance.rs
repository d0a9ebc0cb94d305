//! Advances a run: expires deadlines, starts steps, and ends the run when all steps are done.

use super::Turn;
use crate::runs::{ApprovalKind, Decided, Decision, Event, Json, RunError, StepError};
use crate::{
    plans::{Builtin, Lane, OnExhausted, Template, When, Worker},
    saga::{
        bugs::{Bug, planted},
        compiled::{CompiledPlan, CompiledStep},
        run::{Phase, UndoPhase},
    },
};

/// The maximum size of a run's output, in bytes.
const OUTPUT_MAX: usize = 128 * 1024;

impl Turn<'_> {
    /// Repeats until nothing more can be done now. `woken`: by the run's timer, or a change of the controls. These fire after all records
    /// that were in the log before, so only then do deadlines expire: a result, claim or decision that waits in the log takes
    /// precedence over the deadline.
    pub(super) fn advance(&mut self, woken: bool) {
        let plan = self.plan();
        let mut before = usize::MAX;
        while self.effects.events.len() != before {
            before = self.effects.events.len();
            // While it is paused, deadlines stand still and nothing is scheduled.
            let paused = self.run.paused_at.is_some() && !planted(Bug::SchedulesWhilePaused);
            if self.run.end.is_some() || paused {
                return;
            }
            self.stand_still(&plan);
            if woken {
                self.expire(&plan);
            }
            self.release(&plan);
            if self.run.ending.is_some() {
                self.unwind(&plan);
            } else if self.run.only_undoes() {
                self.retry_compensations(&plan);
            } else if self.run.goal.unplanned {
                self.plan_goal(woken);
            } else {
                self.begin_steps(&plan);
            }
        }
    }

    /// A blocked tool denies the run before anything runs.
    pub(super) fn refuse_blocked_tools(&mut self) {
        // The risk rules do not apply to compensations.
        if self.run.only_undoes() {
            return;
        }
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

    /// Expires attempts, approvals and the run whose deadline has passed.
    fn expire(&mut self, plan: &CompiledPlan) {
        // Deadlines of approvals, signals and claims then stand still.
        let held = self.run.held_since.is_some();
        for (index, step) in plan.steps.iter().enumerate() {
            let state = &self.run.steps[index];
            if state.phase == Phase::Running && self.is_due(state.due) {
                if !(held && self.run.waits_for_others(index)) {
                    self.attempt_timed_out(index, step);
                }
            } else if state.undo.phase == UndoPhase::Running
                && self.is_due(state.undo.due)
                && !(held && self.run.undo_waits_for_others(index))
            {
                self.compensation_timed_out(index, step);
            }
        }
        let now = self.env.now;
        let over = |run: &crate::saga::Run| {
            let mut open = run.approvals.iter().filter(|_| !held);
            let expired = open.find(|(_, request)| request.expires_at <= now);
            expired.map(|(approval, request)| (*approval, request.kind))
        };
        while let Some((approval, kind)) = over(self.run) {
            let decided = Box::new(Decided {
                approval,
                decision: Decision::Expired,
                by: "omnilink".into(),
                reason: None,
                value: None,
                plan_hash: None,
            });
            if kind == ApprovalKind::Incident {
                self.decide_incident(decided);
            } else {
                self.emit(Event::ApprovalDecided(decided));
            }
        }
        let still = self.run.still_since.is_some();
        if self.run.ending.is_none() && !still && self.is_due(self.run.deadline) {
            let message = "the run took longer than its plan allows";
            self.fail_run(StepError::new("run_timeout", message));
        }
    }

    /// Starts all steps that may begin. The run succeeds when no step is left.
    fn begin_steps(&mut self, plan: &CompiledPlan) {
        if self.stays_queued() {
            return;
        }
        // The plan of a goal arrives later than the start.
        if self.run.started.goal.is_some() {
            self.refuse_blocked_tools();
            if self.run.end.is_some() {
                return;
            }
        }
        let asks = self.run.goal.flagged || !self.run.started.approve_run.is_empty();
        if asks && !self.run.approved {
            return self.ask_about_run();
        }
        // The timer fails the run, unless a record in the log ends it first.
        let over = self.run.still_since.is_none() && self.is_due(self.run.deadline);
        for (index, step) in plan.steps.iter().enumerate() {
            if !over && self.may_begin(index, step) {
                self.begin_step(index, step);
            }
            if self.run.ending.is_some() {
                return;
            }
        }
        let mut steps = self.run.steps.iter();
        if steps.all(|step| step.phase.unblocks_dependents()) {
            self.succeed();
        }
    }

    /// Whether the run must not begin yet: `run_at` is in the future, or a control keeps it queued.
    pub(super) fn stays_queued(&self) -> bool {
        let early = self.run.started.run_at.is_some_and(|at| at > self.env.now);
        self.run.begun_at.is_none() && (early || self.env.hold_start)
    }

    fn may_begin(&self, index: usize, step: &CompiledStep) -> bool {
        let state = &self.run.steps[index];
        match state.phase {
            Phase::Pending => step
                .depends_on
                .iter()
                .all(|on| self.run.steps[*on].phase.unblocks_dependents()),
            Phase::Retry => self.is_due(state.due),
            _ => false,
        }
    }

    /// Starts one step, skips it, or holds it.
    fn begin_step(&mut self, index: usize, step: &CompiledStep) {
        let state = &self.run.steps[index];
        let over = self.all_attempts_until(state, step);
        if state.first_at.is_some() && self.is_due(over) {
            return self.exhausted(index, step);
        }
        let input = if state.input.is_some() {
            Ok(true)
        } else {
            self.condition(step)
        }
        .and_then(|runs| runs.then(|| self.input(index, step)).transpose());
        let input = match input {
            Ok(Some(input)) => input,
            Ok(None) => {
                return self.emit(Event::StepSkipped {
                    step_id: step.id.clone(),
                    output: None,
                });
            }
            Err(error) => return self.fail_step(index, step, error, false),
        };
        if self.ask_people(index, step, &input) {
            return;
        }
        let again = self.run.steps[index].attempt > 0 && planted(Bug::DispatchesWhileHeld);
        if let Some(hold) = self.hold_of(&step.tool).filter(|_| !again) {
            return self.hold(step, crate::runs::CallKind::Execute, hold);
        }
        self.schedule(index, step, input);
    }

    /// Whether the step's `when` is true.
    fn condition(&self, step: &CompiledStep) -> Result<bool, StepError> {
        match &step.when {
            None | Some(When::Fixed(true)) => Ok(true),
            Some(When::Fixed(false)) => Ok(false),
            Some(When::Expression(expression)) => {
                let context = self.context(&step.refers);
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

    /// Fails the run as a whole, not because of a step.
    fn fail_run(&mut self, error: StepError) {
        self.emit(Event::CancelRequested {
            by: "omnilink".into(),
            reason: None,
            compensate: true,
            failure: Some(error),
        });
    }

    fn run_output(&self, template: &Template) -> Result<Json, StepError> {
        let context = self.context(&self.run.plan().output_refers);
        let value = template
            .render(&context, OUTPUT_MAX)
            .map_err(|e| StepError::new("invalid_expression", e.to_string()))?;
        Ok(Json::of(&value))
    }

    /// The builtin tool of a step, if the run carries it out itself.
    pub(super) fn builtin(step: &CompiledStep) -> Option<Builtin> {
        match step.tool.worker {
            // An effect makes the call, as for workers.
            Worker::Builtin(builtin) if builtin.is_effect() => None,
            Worker::Builtin(builtin) => Some(builtin),
            _ => None,
        }
    }

    /// Whether an incident is opened once all attempts have failed.
    pub(super) fn holds_incidents(step: &CompiledStep) -> bool {
        step.on_exhausted == OnExhausted::Hold
    }
}
