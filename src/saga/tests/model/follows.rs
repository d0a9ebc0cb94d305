//! What follows from an input of the model.

use super::{
    Action, Condition, EXPIRY, Model, Question, Reused, Status, StepPhase, TIMEOUT, UNDO_ATTEMPTS,
    UNDO_TIMEOUT, Undo,
};

/// How long an answer of a planner is awaited, and the maximum number of requests.
const ANSWER: i64 = 600;
const REQUESTS: usize = 3;

impl Model {
    pub(super) fn ended(&self) -> Option<&'static str> {
        self.end.map(|_| "run_ended")
    }

    /// Takes over the results of an earlier run.
    pub(super) fn take_over(&mut self) {
        self.effects = self.plan.undone();
        for index in 0..self.steps.len() {
            match self.plan.steps[index].reused {
                None => {}
                Some(Reused::Succeeded(output)) => self.succeeded(index, output),
                Some(Reused::Skipped(output)) => {
                    self.steps[index].at = StepPhase::Skipped;
                    self.steps[index].output = Some(output);
                    self.begun.get_or_insert(self.clock);
                }
            }
        }
    }

    pub(in crate::saga::tests) fn only_undoes(&self) -> bool {
        !self.plan.undone().is_empty()
    }

    /// Repeats until nothing more happens without an input.
    pub(in crate::saga::tests) fn settle(&mut self) {
        for _ in 0..1000 {
            if self.end.is_some() || self.paused || !self.advance() {
                return;
            }
        }
        panic!("the model does not settle");
    }

    /// Does one thing that happens without an input; false: there is none.
    fn advance(&mut self) -> bool {
        if self.woken && self.expire() {
            return true;
        }
        self.go_on()
    }

    fn is_over(&self) -> bool {
        let begun = self.begun;
        begun.is_some_and(|begun| self.over_at(begun) <= self.clock) && !self.is_held()
    }

    /// Ends one thing whose deadline is over.
    fn expire(&mut self) -> bool {
        let clock = self.clock;
        for index in 0..self.steps.len() {
            let step = &self.steps[index];
            match (step.at, step.undo) {
                (StepPhase::Running(until), _) if until <= clock => {
                    self.timed_out(index);
                    return true;
                }
                (_, Undo::Running(until)) if until <= clock => {
                    self.undo_failed(index, true, 0);
                    return true;
                }
                _ => {}
            }
        }
        if let Some(place) = self.questions.iter().position(|q| q.until <= clock) {
            let question = self.questions.remove(place);
            match question.step {
                Some(index) if question.incident => self.end_without_success(index),
                step => self.denied(step),
            }
            return true;
        }
        if self.is_over() && self.ending.is_none() {
            self.ending = Some((Status::Failed, true));
            return true;
        }
        false
    }

    /// Releases, begins, ends or undoes one thing.
    fn go_on(&mut self) -> bool {
        let clock = self.clock;
        let over = |until: &Option<i64>| until.is_none_or(|until| until <= clock);
        for index in 0..self.steps.len() {
            if let StepPhase::Held(until) = &self.steps[index].at
                && over(until)
                && self.ending.is_none()
            {
                let held = self.held;
                let step = &mut self.steps[index];
                let before = step.at;
                step.at = if held {
                    StepPhase::Held(None)
                } else {
                    StepPhase::Pending
                };
                if step.at != before {
                    return true;
                }
            }
            if let Undo::Held(until) = &self.steps[index].undo
                && over(until)
            {
                let before = self.steps[index].undo;
                self.steps[index].undo = if self.held {
                    Undo::Held(None)
                } else {
                    Undo::Retry(clock)
                };
                if self.steps[index].undo != before {
                    return true;
                }
            }
        }
        if self.only_undoes() {
            return self.undo_next(true);
        }
        if self.ending.is_some() {
            return self.unwind();
        }
        if !self.planned {
            return self.plan_goal();
        }
        self.begin()
    }

    /// Requests a plan, or asks a person for it when no planner has answered; false: neither.
    fn plan_goal(&mut self) -> bool {
        let early = self.plan.run_at.is_some_and(|at| at > self.now);
        if (self.begun.is_none() && early) || self.questions.iter().any(|question| question.plan) {
            return false;
        }
        match self.request {
            Some(until) if !self.woken || until > self.clock => return false,
            Some(_) if self.requests == REQUESTS => self.ask_for_plan(),
            _ => {
                self.request = Some(self.clock + ANSWER);
                self.requests += 1;
                self.begun.get_or_insert(self.clock);
            }
        }
        true
    }

    pub(super) fn take_plan(&mut self) {
        self.request = None;
        self.planned = true;
        self.planned_at = Some(self.clock);
    }

    pub(super) fn ask_for_plan(&mut self) {
        self.request = None;
        self.ask(None, false);
        if let Some(question) = self.questions.last_mut() {
            question.plan = true;
        }
    }

    fn begin(&mut self) -> bool {
        if self.begun.is_none() && self.plan.run_at.is_some_and(|at| at > self.now) {
            return false;
        }
        if self.plan.approve && !self.approved {
            let asked = !self.questions.is_empty();
            if !asked {
                self.ask(None, false);
            }
            return !asked;
        }
        let done = |index: usize| {
            matches!(
                self.steps[index].at,
                StepPhase::Succeeded | StepPhase::Skipped
            )
        };
        let may_begin = |index: &usize| match self.steps[*index].at {
            _ if self.is_over() => false,
            StepPhase::Pending => self.plan.steps[*index].on.iter().all(|on| done(*on)),
            StepPhase::Retry(at) => at <= self.clock,
            _ => false,
        };
        if let Some(index) = (0..self.steps.len()).find(may_begin) {
            self.begin_step(index);
            return true;
        }
        if (0..self.steps.len()).all(done) {
            self.end = Some(Status::Succeeded);
        }
        false
    }

    fn begin_step(&mut self, index: usize) {
        let plan = self.plan.steps[index].clone();
        let step = &mut self.steps[index];
        if step
            .spent
            .is_some_and(|spent| plan.deadline.is_some_and(|most| spent >= most))
        {
            return self.give_up(index, true);
        }
        let first = step.calls == 0 && !step.approved;
        let condition = match plan.when {
            _ if !first => Some(true),
            Condition::Always => Some(true),
            Condition::Never => Some(false),
            Condition::Output(of) => self.steps[of].output.map(|output| output > 1),
        };
        match condition {
            None => return self.ends(index, StepPhase::Failed),
            Some(false) => {
                self.begun.get_or_insert(self.clock);
                self.steps[index].at = StepPhase::Skipped;
                return;
            }
            Some(true) => {}
        }
        let asks = matches!(plan.does, Action::Risky | Action::Listed | Action::Approve);
        if asks && first {
            return self.ask(Some(index), false);
        }
        let step = &mut self.steps[index];
        if self.held && plan.does.is_work() {
            step.at = StepPhase::Held(None);
            return;
        }
        let spent = *step.spent.get_or_insert(0);
        let timeout = match plan.does {
            Action::Sleep(seconds) => seconds,
            Action::Signal { timeout, .. } => timeout,
            _ => TIMEOUT,
        };
        let left = plan
            .deadline
            .map_or(timeout, |most| timeout.min(most - spent));
        step.calls += 1;
        step.at = StepPhase::Running(self.clock + left);
        self.begun.get_or_insert(self.clock);
        match plan.does {
            Action::Noop(output) => self.succeeded(index, output),
            Action::Approve => self.succeeded(index, 0),
            Action::Signal { .. } => self.take_signal(index),
            _ => {}
        }
    }

    fn ask(&mut self, step: Option<usize>, incident: bool) {
        if let Some(index) = step {
            self.steps[index].at = if incident {
                StepPhase::Incident
            } else {
                StepPhase::WaitingApproval
            };
        }
        self.begun.get_or_insert(self.clock);
        self.questions.push(Question {
            number: self.asked,
            step,
            incident,
            plan: false,
            until: self.clock + EXPIRY,
        });
        self.asked += 1;
    }

    pub(super) fn awaits(&self, index: usize, name: char) -> bool {
        let running = matches!(self.steps[index].at, StepPhase::Running(_));
        let Action::Signal { any, .. } = self.plan.steps[index].does else {
            return false;
        };
        running && (name == 'a' || (any && name == 'b'))
    }

    pub(super) fn take_signal(&mut self, index: usize) {
        let mut signals = self.signals.iter();
        if let Some(place) = signals.position(|(name, _)| self.awaits(index, *name)) {
            let (_, data) = self.signals.remove(place);
            self.succeeded(index, data);
        }
    }

    fn timed_out(&mut self, index: usize) {
        match self.plan.steps[index].does {
            Action::Sleep(seconds) if self.steps[index].spent.is_some_and(|s| s >= seconds) => {
                self.succeeded(index, 0);
            }
            Action::Sleep(_) | Action::Signal { .. } => self.ends(index, StepPhase::Failed),
            _ => self.attempt_failed(index, true, false, 0),
        }
    }

    pub(super) fn attempt_failed(
        &mut self,
        index: usize,
        retryable: bool,
        answered: bool,
        after: i64,
    ) {
        let plan = &self.plan.steps[index];
        let step = &mut self.steps[index];
        step.unanswered |= !answered;
        let in_time = plan
            .deadline
            .is_none_or(|most| step.spent.unwrap_or(0) + after < most);
        let more = step.calls - step.forgiven < plan.attempts;
        if retryable && more && in_time && self.ending.is_none() {
            step.at = StepPhase::Retry(self.clock + after.max(1));
        } else {
            self.give_up(index, retryable);
        }
    }

    fn give_up(&mut self, index: usize, retryable: bool) {
        if retryable && self.plan.steps[index].incident && self.ending.is_none() {
            self.ask(Some(index), true);
        } else {
            self.end_without_success(index);
        }
    }

    pub(super) fn end_without_success(&mut self, index: usize) {
        let unknown = self.steps[index].unanswered;
        self.ends(
            index,
            if unknown {
                StepPhase::Unknown
            } else {
                StepPhase::Failed
            },
        );
    }

    fn ends(&mut self, index: usize, at: StepPhase) {
        self.steps[index].at = at;
        if at == StepPhase::Unknown {
            self.effects.push(index);
        }
        self.ending.get_or_insert((Status::Failed, true));
    }

    pub(super) fn succeeded(&mut self, index: usize, output: i64) {
        self.steps[index].at = StepPhase::Succeeded;
        self.steps[index].output = Some(output);
        if !self.effects.contains(&index) {
            self.effects.push(index);
        }
    }

    pub(super) fn denied(&mut self, step: Option<usize>) {
        if let Some(index) = step {
            self.steps[index].at = StepPhase::Cancelled;
        }
        self.ending.get_or_insert((Status::Denied, true));
    }

    /// The run does not succeed: waits for attempts in flight, closes the rest, and compensates effects in reverse order.
    fn unwind(&mut self) -> bool {
        self.questions.clear();
        let mut in_flight = false;
        for index in 0..self.steps.len() {
            let works = self.plan.steps[index].does.is_work();
            let step = &self.steps[index];
            let called = works && (step.calls > 0 || step.unanswered);
            match self.steps[index].at {
                StepPhase::Running(_) if works => in_flight = true,
                StepPhase::Incident => self.end_without_success(index),
                StepPhase::Pending | StepPhase::Held(_) | StepPhase::Retry(_) if called => {
                    self.end_without_success(index);
                }
                StepPhase::Pending
                | StepPhase::Held(_)
                | StepPhase::Retry(_)
                | StepPhase::Running(_)
                | StepPhase::WaitingApproval => {
                    self.steps[index].at = StepPhase::Cancelled;
                }
                _ => {}
            }
        }
        if in_flight {
            return false;
        }
        let compensate = self.ending.is_none_or(|(_, compensate)| compensate);
        self.undo_next(compensate)
    }

    /// Begins the next compensation, or ends the run; false: there is nothing to do now.
    fn undo_next(&mut self, compensate: bool) -> bool {
        let open = |index: &&usize| {
            self.plan.steps[**index].compensated && !self.undone.contains(index) && compensate
        };
        let begun = |index: &&usize| self.steps[**index].undo != Undo::None;
        let mut effects = self.effects.iter().filter(open);
        let next = effects.clone().find(begun).or_else(|| effects.next_back());
        let Some(index) = next.copied() else {
            let good = |index: &usize| self.steps[*index].undo == Undo::Succeeded;
            self.end = Some(match self.ending {
                Some((status, _)) => status,
                None if self.undone.iter().all(good) => Status::Succeeded,
                None => Status::Failed,
            });
            return false;
        };
        self.compensating = true;
        match self.steps[index].undo {
            Undo::None => {}
            Undo::Retry(at) if at <= self.clock => {}
            _ => return false,
        }
        if self.held {
            self.steps[index].undo = Undo::Held(None);
        } else {
            self.steps[index].undo_calls += 1;
            self.steps[index].undo = Undo::Running(self.clock + UNDO_TIMEOUT);
        }
        true
    }

    pub(super) fn undo_failed(&mut self, index: usize, retryable: bool, after: i64) {
        if retryable && self.steps[index].undo_calls < UNDO_ATTEMPTS {
            self.steps[index].undo = Undo::Retry(self.clock + after.max(1));
        } else {
            self.undo_ended(index, Undo::Failed);
        }
    }

    pub(super) fn undo_ended(&mut self, index: usize, undo: Undo) {
        self.steps[index].undo = undo;
        self.undone.push(index);
    }
}
