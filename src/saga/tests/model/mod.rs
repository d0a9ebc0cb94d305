//! A small reference model of a run: what the core must do, without events, replay or regard for cost.
//!
//! Time is in seconds. All deadlines are on the run's own clock, which stands still while the run is paused. They expire only
//! when the run is woken, after all inputs before.

/// The time limit of an attempt of a step, and of a compensation.
pub(super) const TIMEOUT: i64 = 20;
const UNDO_TIMEOUT: i64 = 15;
/// Attempts of a compensation.
const UNDO_ATTEMPTS: u32 = 2;
/// The time until an approval expires.
pub(super) const EXPIRY: i64 = 120;
/// The time limit of a run without a plan.
const UNPLANNED: i64 = 7 * 86_400;

mod follows;
mod plan;

pub(super) use plan::{Action, Condition, Plan, Planner, Reused, Step};

/// The phase of a step.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) enum StepPhase {
    Pending,
    WaitingApproval,
    Held(Option<i64>),
    Running(i64),
    Retry(i64),
    Incident,
    Succeeded,
    Failed,
    Unknown,
    Skipped,
    Cancelled,
}

/// The phase of a compensation.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) enum Undo {
    None,
    Held(Option<i64>),
    Running(i64),
    Retry(i64),
    Succeeded,
    Failed,
}

#[derive(Clone, Debug)]
pub(super) struct ModelStep {
    pub(super) at: StepPhase,
    /// Attempts so far, and those of them before the last decision to retry.
    pub(super) calls: u32,
    forgiven: u32,
    /// The time that all attempts have taken together, once one has begun.
    spent: Option<i64>,
    unanswered: bool,
    approved: bool,
    pub(super) output: Option<i64>,
    pub(super) undo: Undo,
    pub(super) undo_calls: u32,
}

/// An open approval or incident.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct Question {
    pub(super) number: usize,
    pub(super) step: Option<usize>,
    pub(super) incident: bool,
    /// Whether it asks for a plan.
    pub(super) plan: bool,
    until: i64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Status {
    Queued,
    Planning,
    Running,
    WaitingApproval,
    Paused,
    Compensating,
    Succeeded,
    Failed,
    Denied,
    Cancelled,
}

/// The answer of a worker.
#[derive(Clone, Copy, Debug)]
pub(super) enum WorkerAnswer {
    Good(i64),
    Bad {
        retryable: bool,
        answered: bool,
        after: i64,
    },
}

#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) enum Choice {
    Approved,
    /// Approved, with a plan.
    Plan,
    Denied,
    Retry,
    Skip(i64),
    Fail,
}

#[expect(
    clippy::struct_excessive_bools,
    reason = "they are independent of each other"
)]
pub(super) struct Model {
    plan: Plan,
    now: i64,
    clock: i64,
    begun: Option<i64>,
    /// Whether it has a plan, and since when its time limit counts if that came later than the start.
    pub(super) planned: bool,
    planned_at: Option<i64>,
    /// When the open request for a plan is repeated.
    request: Option<i64>,
    /// The number of requests so far.
    pub(super) requests: usize,
    /// How long controls have held steps since then.
    still: i64,
    pub(super) steps: Vec<ModelStep>,
    /// Steps that may have had an effect, in the order in which they ended.
    effects: Vec<usize>,
    pub(super) undone: Vec<usize>,
    pub(super) questions: Vec<Question>,
    /// The number of all questions so far.
    pub(super) asked: usize,
    decided: Vec<(usize, Choice, bool)>,
    signals: Vec<(char, i64)>,
    paused: bool,
    approved: bool,
    compensating: bool,
    ending: Option<(Status, bool)>,
    end: Option<Status>,
    /// A control holds the tools of all workers.
    held: bool,
    /// Its timer fires, or the controls change: deadlines expire.
    woken: bool,
}

impl Model {
    pub(super) fn new(plan: Plan) -> Self {
        let step = ModelStep {
            at: StepPhase::Pending,
            calls: 0,
            forgiven: 0,
            spent: None,
            unanswered: false,
            approved: false,
            output: None,
            undo: Undo::None,
            undo_calls: 0,
        };
        let mut model = Self {
            steps: vec![step; plan.steps.len()],
            planned: plan.goal.is_none(),
            planned_at: None,
            request: None,
            requests: 0,
            plan,
            now: 0,
            clock: 0,
            begun: None,
            still: 0,
            effects: Vec::new(),
            undone: Vec::new(),
            questions: Vec::new(),
            asked: 0,
            decided: Vec::new(),
            signals: Vec::new(),
            paused: false,
            approved: false,
            compensating: false,
            ending: None,
            end: None,
            held: false,
            woken: false,
        };
        model.take_over();
        model.settle();
        model
    }

    pub(super) fn status(&self) -> Status {
        let works =
            |step: &ModelStep| matches!(step.at, StepPhase::Running(_) | StepPhase::Retry(_));
        match self.end {
            Some(end) => end,
            None if self.paused => Status::Paused,
            None if self.compensating => Status::Compensating,
            None if self.request.is_some() => Status::Planning,
            None if self.steps.iter().any(works) => Status::Running,
            None if !self.questions.is_empty() => Status::WaitingApproval,
            None if self.begun.is_none() => Status::Queued,
            None => Status::Running,
        }
    }

    /// When something happens without an input next, in real time.
    pub(super) fn next_due(&self) -> Option<i64> {
        if self.end.is_some() || self.paused {
            return None;
        }
        let steps = self.steps.iter().flat_map(|step| {
            let own = match step.at {
                StepPhase::Held(until) => until,
                StepPhase::Running(until) | StepPhase::Retry(until) => Some(until),
                _ => None,
            };
            let undo = match step.undo {
                Undo::Held(until) => until,
                Undo::Running(until) | Undo::Retry(until) => Some(until),
                _ => None,
            };
            [own, undo]
        });
        let run = self.begun.filter(|_| self.ending.is_none());
        let run = run.filter(|_| !self.is_held());
        let run = run.map(|begun| self.over_at(begun));
        let request = self.request.filter(|_| self.ending.is_none());
        let asked = self.questions.iter().map(|question| question.until);
        let due = steps.flatten().chain(run).chain(request).chain(asked);
        let due = due.min();
        let due = due.map(|due| due - self.clock + self.now);
        let begin = self.plan.run_at.filter(|at| {
            *at > self.now && self.ending.is_none() && self.begun.is_none() && !self.only_undoes()
        });
        due.into_iter().chain(begin).min()
    }

    // The inputs. Each returns the code of a refusal, if it was refused.

    pub(super) fn wait(&mut self, seconds: i64) {
        self.pass(seconds);
        self.wake();
    }

    /// Time passes, and the timer does not fire yet.
    pub(super) fn pass(&mut self, seconds: i64) {
        self.now += seconds;
        if !self.paused && self.end.is_none() {
            self.clock += seconds;
            if self.is_held() && self.begun.is_some() {
                self.still += seconds;
            }
            for step in &mut self.steps {
                let held = matches!(step.at, StepPhase::Held(_));
                step.spent = step
                    .spent
                    .map(|spent| if held { spent } else { spent + seconds });
            }
        }
    }

    /// When the time limit of the run is over.
    fn over_at(&self, begun: i64) -> i64 {
        let limit = if self.planned {
            self.plan.timeout
        } else {
            UNPLANNED
        };
        self.planned_at.unwrap_or(begun) + limit + self.still
    }

    /// Whether a control holds a step.
    fn is_held(&self) -> bool {
        self.steps
            .iter()
            .any(|step| step.at == StepPhase::Held(None))
    }

    pub(super) fn hold(&mut self, held: bool) {
        self.held = held;
        self.wake();
    }

    fn wake(&mut self) {
        self.woken = true;
        self.settle();
        self.woken = false;
    }

    pub(super) fn pause(&mut self) -> Option<&'static str> {
        let refused = self.ended().or(self.paused.then_some("already_paused"));
        self.paused |= refused.is_none();
        refused
    }

    pub(super) fn resume(&mut self) -> Option<&'static str> {
        let refused = self.ended().or((!self.paused).then_some("not_paused"));
        if refused.is_none() {
            self.paused = false;
            self.settle();
        }
        refused
    }

    pub(super) fn cancel(&mut self, compensate: bool) -> Option<&'static str> {
        let refused = match self.ending {
            _ if self.end.is_some() => self.ended(),
            _ if self.compensating => Some("run_compensating"),
            Some((Status::Cancelled, _)) => Some("already_cancelled"),
            // A failure during a pause has not taken effect yet.
            Some(_) if !self.paused => Some("run_ending"),
            _ => None,
        };
        if refused.is_none() {
            self.paused = false;
            self.ending = Some((Status::Cancelled, compensate));
            self.settle();
        }
        refused
    }

    pub(super) fn signal(&mut self, name: char, data: i64) -> Option<&'static str> {
        if self.end.is_some() {
            return self.ended();
        }
        self.signals.push((name, data));
        let waits = |index: &usize| self.awaits(*index, name);
        if let Some(index) = (0..self.steps.len()).find(waits) {
            self.take_signal(index);
        }
        self.settle();
        None
    }

    pub(super) fn decide(
        &mut self,
        number: usize,
        decides: Choice,
        by_asker: bool,
    ) -> Option<&'static str> {
        if self.decided.contains(&(number, decides, by_asker)) {
            return None;
        }
        if self.end.is_some() {
            return self.ended();
        }
        let Some(place) = self.questions.iter().position(|q| q.number == number) else {
            return Some("approval_not_open");
        };
        let Question {
            step,
            incident,
            plan,
            ..
        } = self.questions[place];
        let permission = matches!(decides, Choice::Approved | Choice::Plan | Choice::Denied);
        if permission == incident || (decides == Choice::Plan && !plan) {
            return Some("invalid_decision");
        }
        if permission && by_asker && !plan {
            return Some("self_approval");
        }
        if plan && decides == Choice::Approved {
            return Some("plan_required");
        }
        self.questions.remove(place);
        self.decided.push((number, decides, by_asker));
        match (decides, step) {
            (Choice::Plan, _) => self.take_plan(),
            (Choice::Approved, None) => self.approved = true,
            (Choice::Approved, Some(index)) => {
                self.steps[index].at = StepPhase::Pending;
                self.steps[index].approved = true;
            }
            (Choice::Denied, step) => self.denied(step),
            (Choice::Retry, Some(index)) => {
                let step = &mut self.steps[index];
                step.at = StepPhase::Pending;
                step.forgiven = step.calls;
                step.spent = None;
            }
            (Choice::Skip(output), Some(index)) => {
                self.steps[index].at = StepPhase::Skipped;
                self.steps[index].output = Some(output);
                // It may have had its effect.
                if self.steps[index].unanswered && !self.effects.contains(&index) {
                    self.effects.push(index);
                }
            }
            (_, Some(index)) => self.end_without_success(index),
            (_, None) => {}
        }
        self.settle();
        None
    }

    /// A planner answers a request, by its index; false: the answer does not count.
    pub(super) fn planner(&mut self, request: usize, plans: bool) -> bool {
        // A plan counts as long as one is awaited, that there is none only as the answer to the last request.
        let counts = self.request.is_some() && (plans || request + 1 == self.requests);
        if !counts || self.end.is_some() || self.ending.is_some() {
            return false;
        }
        if plans {
            self.take_plan();
        } else {
            self.ask_for_plan();
        }
        self.settle();
        true
    }

    /// A call was not made, but may have been made before (`maybe_called`); false: the attempt is over.
    pub(super) fn was_held(
        &mut self,
        (index, undo, attempt): (usize, bool, u32),
        until: i64,
        maybe_called: bool,
    ) -> bool {
        if !self.planned || (!undo && !self.plan.steps[index].does.is_work()) {
            return false;
        }
        let until = Some(until - self.now + self.clock);
        let step = &mut self.steps[index];
        if undo && matches!(step.undo, Undo::Running(_)) && step.undo_calls == attempt {
            step.undo = Undo::Held(until);
            step.undo_calls -= 1;
        } else if !undo && matches!(step.at, StepPhase::Running(_)) && step.calls == attempt {
            step.at = StepPhase::Held(until);
            step.calls -= 1;
            step.unanswered |= maybe_called;
        } else {
            return false;
        }
        self.settle();
        true
    }

    /// The result of an attempt; false: the attempt is over.
    pub(super) fn result(
        &mut self,
        index: usize,
        undo: bool,
        attempt: u32,
        says: WorkerAnswer,
    ) -> bool {
        let work = self.plan.steps[index].does.is_work();
        if self.end.is_some() || (!work && !undo) || !self.planned {
            return false;
        }
        let step = &self.steps[index];
        if undo {
            let current = matches!(step.undo, Undo::Running(_)) && step.undo_calls == attempt;
            let held = matches!(step.undo, Undo::Held(_)) && step.undo_calls + 1 == attempt;
            if !(current || held && matches!(says, WorkerAnswer::Good(_))) {
                return false;
            }
            self.steps[index].undo_calls = attempt;
            match says {
                WorkerAnswer::Good(_) => self.undo_ended(index, Undo::Succeeded),
                WorkerAnswer::Bad {
                    retryable, after, ..
                } => self.undo_failed(index, retryable, after),
            }
        } else {
            let current = matches!(step.at, StepPhase::Running(_)) && step.calls == attempt;
            let held = matches!(step.at, StepPhase::Held(_)) && step.calls + 1 == attempt;
            let last = step.calls + u32::from(step.unanswered);
            let ended = matches!(step.at, StepPhase::Failed | StepPhase::Unknown);
            let open = !matches!(step.undo, Undo::Running(_) | Undo::Succeeded | Undo::Failed);
            match says {
                WorkerAnswer::Good(output)
                    if current || held || (ended && open && (1..=last).contains(&attempt)) =>
                {
                    let step = &mut self.steps[index];
                    step.calls = step.calls.max(attempt);
                    self.succeeded(index, output);
                }
                WorkerAnswer::Bad {
                    retryable,
                    answered,
                    after,
                } if current => self.attempt_failed(index, retryable, answered, after),
                _ => return false,
            }
        }
        self.settle();
        true
    }
}
