//! A run and its model: after each input their states must agree.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{
    model::{
        Action, Choice, Condition, EXPIRY, Model, ModelStep, Plan, Planner, Reused, Status,
        StepPhase, TIMEOUT, Undo, WorkerAnswer,
    },
    stories::Stimulus,
    *,
};
use crate::{
    saga::run::{Phase, UndoPhase},
    state::Versioned,
};

#[derive(Clone, Copy, PartialEq, Debug)]
struct Call {
    step: usize,
    undo: bool,
    attempt: u32,
}

/// A run and its model.
pub(super) struct Pair {
    pub(super) case: Case,
    model: Model,
    /// Calls without an answer yet.
    open: Vec<Call>,
    over: Vec<Call>,
    /// The `seq` of the records that requested decisions, in order.
    asked: Vec<u64>,
    /// The `seq` of the requests for a plan, in order.
    requests: Vec<u64>,
    goal: Option<Planner>,
    /// Time has passed, and the timer has not fired since.
    away: bool,
}

pub(super) type Checked = Result<(), String>;

fn json_of(plan: &Plan) -> Value {
    let steps = plan.steps.iter().enumerate().map(|(n, step)| {
        let (tool, input) = match step.does {
            Action::Work => ("t", json!(n)),
            Action::Risky => ("risky", json!(n)),
            Action::Listed => ("listed", json!(n)),
            Action::Noop(output) => ("noop", json!(output)),
            Action::Sleep(seconds) => ("wait", json!({ "for_s": seconds })),
            Action::Signal { any: false, timeout } => {
                ("wait", json!({ "signal": "a", "timeout_s": timeout }))
            }
            Action::Signal { any: true, timeout } => {
                ("wait", json!({ "any": ["b", "a"], "timeout_s": timeout }))
            }
            Action::Approve => ("approve", json!({ "message": "well?" })),
        };
        let on: Vec<_> = step.on.iter().map(|on| format!("s{on}")).collect();
        let mut made = json!({
            "id": format!("s{n}"), "tool": tool, "input": input, "depends_on": on, "timeout_s": TIMEOUT,
            "retry": { "max_attempts": step.attempts, "initial_ms": 2, "factor": 1, "max_ms": 2 },
            "on_exhausted": if step.incident { "hold" } else { "fail" },
        });
        match step.when {
            Condition::Always => {}
            Condition::Never => made["when"] = json!(false),
            Condition::Output(of) => made["when"] = json!(format!("{{{{ steps.s{of}.output > 1 }}}}")),
        }
        if let Some(deadline) = step.deadline {
            made["deadline_s"] = json!(deadline);
        }
        if step.compensated {
            made["compensate"] = json!({ "tool": "undo", "input": "{{ step.output }}" });
        }
        made
    });
    json!({ "steps": steps.collect::<Vec<_>>(), "timeout_s": plan.timeout })
}

fn agree<T: PartialEq + std::fmt::Debug>(what: &str, core: &T, model: &T) -> Checked {
    if core == model {
        return Ok(());
    }
    Err(format!(
        "{what}: the core has {core:?}, the model {model:?}"
    ))
}

impl Pair {
    pub(super) fn start(plan: &Plan) -> Result<Self, String> {
        let tools = [
            tool("t", &json!({})),
            tool("undo", &json!({})),
            tool("listed", &json!({})),
            tool("risky", &json!({ "risk": { "lane": "sensitive" } })),
        ];
        let mut started = Started::new(Json::of(&Value::Null), "asker", Millis(0));
        started.run_at = plan.run_at.map(|at| Millis(at * 1000));
        started.approve_tools.push("listed".into());
        take_over(&mut started, plan);
        if plan.approve {
            started.approve_run.push("required_by_request".into());
        }
        let expiry_ms = EXPIRY.unsigned_abs() * 1000;
        let case = if plan.goal.is_some() {
            started.goal = Some("Do it".into());
            Case::start_goal(&json_of(plan), &tools, started, None, expiry_ms)
        } else {
            Case::start_expiring(&json_of(plan), &tools, started, expiry_ms)
        };
        let mut pair = Self {
            case,
            model: Model::new(plan.clone()),
            open: Vec::new(),
            over: Vec::new(),
            asked: Vec::new(),
            requests: Vec::new(),
            goal: plan.goal,
            away: false,
        };
        pair.see(0);
        pair.compare()?;
        Ok(pair)
    }

    /// Notes calls and requests in the history from this index on.
    fn see(&mut self, from: usize) {
        for (n, (event, _)) in self.case.history.iter().enumerate().skip(from) {
            let (step, undo, attempt) = match event {
                Event::ApprovalRequested(_) | Event::IncidentOpened(_) => {
                    self.asked.push(n as u64 + 1);
                    continue;
                }
                Event::PlanRequested => {
                    self.requests.push(n as u64 + 1);
                    continue;
                }
                Event::StepScheduled {
                    step_id, attempt, ..
                } => (step_id, false, *attempt),
                Event::CompensationScheduled {
                    step_id, attempt, ..
                } => (step_id, true, *attempt),
                _ => continue,
            };
            let step = self.case.plan.index(step).unwrap();
            self.open.push(Call {
                step,
                undo,
                attempt,
            });
        }
    }

    fn tell(&mut self, input: Input) -> Effects {
        let from = self.case.history.len();
        // During a pause no deadline expires.
        self.away &= input != Input::Wake || self.case.run.paused_at.is_some();
        let effects = self.case.tell(input);
        self.see(from);
        // After any input, refused ones included, the run does what has become possible with time.
        self.model.settle();
        effects
    }

    fn refused(&mut self, input: Input, model: Option<&'static str>) -> Checked {
        let refused = self.tell(input).refused;
        agree("refused", &refused.map(Refusal::code), &model)
    }

    pub(super) fn apply(&mut self, stimulus: &Stimulus) -> Checked {
        match *stimulus {
            Stimulus::Wait(seconds) => {
                self.model.wait(seconds);
                self.case.now += seconds * 1000;
                self.tell(Input::Wake);
            }
            Stimulus::Away(seconds) => {
                self.model.pass(seconds);
                self.case.now += seconds * 1000;
                self.away = true;
                // Its effects are compared after the next input.
                return Ok(());
            }
            Stimulus::Result(at, says) if !self.open.is_empty() => {
                let call = self.open.swap_remove(at.index(self.open.len()));
                self.over.push(call);
                self.result(call, says)?;
            }
            Stimulus::Repeat(at, says) if !self.over.is_empty() => {
                let call = self.over[at.index(self.over.len())];
                self.result(call, says)?;
            }
            Stimulus::Held(at, seconds, maybe_called) if !self.open.is_empty() => {
                let call = self.open.swap_remove(at.index(self.open.len()));
                self.over.push(call);
                let until = self.case.now / 1000 + seconds;
                let of = (call.step, call.undo, call.attempt);
                let taken = self.model.was_held(of, until, maybe_called);
                let hold = Hold {
                    reason: "breaker".into(),
                    until: Some(Millis(until * 1000)),
                };
                let effects = self.tell(Input::Held {
                    step: format!("s{}", call.step).into(),
                    kind: kind(call.undo),
                    attempt: call.attempt,
                    hold,
                    maybe_called,
                });
                agree("held", &!effects.ignored, &taken)?;
            }
            Stimulus::Decide(at, decides, by_asker) if !self.asked.is_empty() => {
                let number = at.index(self.asked.len());
                let refused = self.model.decide(number, decides, by_asker);
                let (decision, value) = match decides {
                    Choice::Approved | Choice::Plan => (Decision::Approved, None),
                    Choice::Denied => (Decision::Denied, None),
                    Choice::Retry => (Decision::Retry, None),
                    Choice::Skip(output) => (Decision::Skip, Some(Json::of(&json!(output)))),
                    Choice::Fail => (Decision::Fail, None),
                };
                let input = Input::Decision {
                    approval: self.asked[number],
                    decision,
                    by: if by_asker { "asker" } else { "boss" }.into(),
                    on_behalf_of: None,
                    reason: None,
                    input_hash: None,
                    value,
                    plan: (decides == Choice::Plan).then(|| Ok(self.case.new_plan())),
                };
                self.refused(input, refused)?;
            }
            Stimulus::Planned(at, plans) if !self.requests.is_empty() => {
                let number = at.index(self.requests.len());
                self.planned(number, plans)?;
            }
            Stimulus::Cancel(compensate) => {
                let refused = self.model.cancel(compensate);
                let input = Input::Cancel {
                    by: "ops".into(),
                    reason: None,
                    compensate,
                };
                self.refused(input, refused)?;
            }
            Stimulus::Pause => {
                let refused = self.model.pause();
                self.refused(Input::Pause { by: "ops".into() }, refused)?;
            }
            Stimulus::Resume => {
                let refused = self.model.resume();
                self.refused(Input::Resume { by: "ops".into() }, refused)?;
            }
            Stimulus::Signal(name, data) => {
                let refused = self.model.signal(name, data);
                let input = Input::Signal {
                    by: "x".into(),
                    name: name.into(),
                    data: Json::of(&json!(data)),
                };
                self.refused(input, refused)?;
            }
            Stimulus::Hold(held) => {
                self.model.hold(held);
                *self.case.held.borrow_mut() = held.then(|| Hold {
                    reason: "safe_mode".into(),
                    until: None,
                });
                self.tell(Input::Wake);
            }
            _ => return Ok(()),
        }
        self.compare()
    }

    /// A planner answers a request, by its index.
    fn planned(&mut self, number: usize, plans: bool) -> Checked {
        let taken = self.model.planner(number, plans);
        let outcome = if plans {
            Ok(self.case.new_plan())
        } else {
            Err(Box::new(StepError::new("no_plan", "there is none").into()))
        };
        let request = self.requests[number];
        let effects = self.tell(Input::Plan { request, outcome });
        agree("taken", &!effects.ignored, &taken)
    }

    fn result(&mut self, call: Call, says: WorkerAnswer) -> Checked {
        let taken = self.model.result(call.step, call.undo, call.attempt, says);
        let outcome = match says {
            WorkerAnswer::Good(output) => good(&json!(output)),
            WorkerAnswer::Bad {
                retryable,
                answered,
                after,
            } => Outcome::Failed {
                error: StepError::new("broken", "it is broken"),
                retryable,
                retry_after_ms: Some(after.unsigned_abs() * 1000),
                answered,
            },
        };
        let input = result(
            &format!("s{}", call.step),
            kind(call.undo),
            call.attempt,
            outcome,
        );
        let ended = self.case.run.has_ended();
        let effects = self.tell(input);
        if ended && !effects.events.is_empty() {
            return Err(format!("records after the last one: {:?}", effects.events));
        }
        agree("taken", &!effects.ignored, &taken)
    }

    /// Checks that core and model agree.
    fn compare(&self) -> Checked {
        let (run, model) = (&self.case.run, &self.model);
        agree("status", &run.status().name(), &name(model.status()))?;
        let steps = if model.planned { model.steps.len() } else { 0 };
        agree("steps", &run.steps.len(), &steps)?;
        agree("requests", &self.requests.len(), &model.requests)?;
        let clock = run.paused_at.map_or(self.case.now, |at| at.0);
        for (n, (core, model)) in run.steps.iter().zip(&model.steps).enumerate() {
            let place = |what: &str| format!("step {n}, {what}");
            agree(&place("phase"), &phase(core.phase), &place_of(model))?;
            agree(&place("attempts"), &core.attempt, &model.calls)?;
            agree(
                &place("undo"),
                &undo_phase(core.undo.phase),
                &undo_of(model),
            )?;
            agree(
                &place("undo attempts"),
                &core.undo.attempt,
                &model.undo_calls,
            )?;
            if let (StepPhase::Succeeded | StepPhase::Skipped, Some(output)) =
                (model.at, model.output)
            {
                let core = core.output.as_ref().map(Json::value).unwrap_or_default();
                let number = core.as_i64().unwrap_or_default();
                agree(&place("output"), &number, &output)?;
            }
            let due = core.due.is_some_and(|due| due.0 <= clock);
            if due && run.paused_at.is_none() && !run.has_ended() && !self.away {
                return Err(place("its time is over, and nothing happened"));
            }
        }
        agree("questions", &self.asked.len(), &model.asked)?;
        let open: Vec<u64> = run.approvals.keys().copied().collect();
        let of_model = model.questions.iter().map(|q| self.asked[q.number]);
        agree("open questions", &open, &of_model.collect())?;
        agree("undone", &run.undone, &model.undone)?;
        // Not every time: this is by far the most expensive check.
        if self.case.history.len().is_multiple_of(8) {
            self.is_stored_whole()?;
        }
        // The core's pauses have milliseconds, the model counts seconds.
        let due = run.next_due().map(|due| (due.0 + 999).div_euclid(1000));
        agree("next due", &due, &model.next_due())
    }

    /// Checks that the run is unchanged after it was stored and restored.
    fn is_stored_whole(&self) -> Checked {
        let (run, mut bytes) = (&self.case.run, Vec::new());
        let stored = Snapshot::of(run, Millis(self.case.now), None);
        stored.encode(&mut bytes).map_err(|e| e.to_string())?;
        let read = Snapshot::decode(Snapshot::VERSION, &bytes).map_err(|e| e.to_string())?;
        let plan = self.model.planned.then(|| Arc::clone(&self.case.plan));
        let read = read.restore(plan, Arc::clone(&run.started), Arc::clone(&run.slots));
        match read {
            Some(read) if read == *run => Ok(()),
            read => Err(format!("the run is stored as {read:?}, not {run:?}")),
        }
    }

    /// Answers everything that is awaited, until the run ends.
    pub(super) fn drain(&mut self) -> Checked {
        if self.case.run.paused_at.is_some() {
            self.apply(&Stimulus::Resume)?;
        }
        self.apply(&Stimulus::Hold(false))?;
        for _ in 0..500 {
            if self.case.run.has_ended() {
                return self.check_history();
            }
            if let Some(question) = self.model.questions.first().copied() {
                let decides = if question.incident {
                    Choice::Fail
                } else if question.plan {
                    Choice::Plan
                } else {
                    Choice::Approved
                };
                self.decide(question.number, decides)?;
            } else if self.case.run.status() == RunStatus::Planning
                && self.goal != Some(Planner::Silent)
            {
                let plans = self.goal == Some(Planner::Plans);
                self.planned(self.requests.len() - 1, plans)?;
                self.compare()?;
            } else if let Some(call) = self.open.pop() {
                self.result(call, WorkerAnswer::Good(2))?;
                self.compare()?;
            } else {
                let now = self.case.now / 1000;
                let due = self.model.next_due().ok_or("the run is forgotten")?;
                self.apply(&Stimulus::Wait((due - now).max(1)))?;
            }
        }
        Err("the run does not end".into())
    }

    fn decide(&mut self, number: usize, decides: Choice) -> Checked {
        let refused = self.model.decide(number, decides, false);
        let decision = match decides {
            Choice::Fail => Decision::Fail,
            _ => Decision::Approved,
        };
        let mut input = decision_on(self.asked[number], decision, "boss");
        if let Input::Decision { plan, .. } = &mut input {
            *plan = (decides == Choice::Plan).then(|| Ok(self.case.new_plan()));
        }
        self.refused(input, refused)?;
        self.compare()
    }

    /// Checks that the history has exactly one last record, that replaying it gives the same state, and that the end lists the
    /// compensations in order.
    fn check_history(&self) -> Checked {
        let history = &self.case.history;
        let (Event::RunStarted(started), Some((last, _))) = (&history[0].0, history.last()) else {
            return Err("the first record".into());
        };
        let ends = history.iter().filter(|(event, _)| event.is_last()).count();
        agree("last records", &(ends, last.is_last()), &(1, true))?;
        let started = Arc::new((**started).clone());
        let mut again = match self.goal {
            Some(_) => Run::of_goal(started),
            None => Run::new(Arc::clone(&self.case.plan), started),
        };
        for (event, at) in history {
            if self.goal.is_some() && matches!(event, Event::PlanReady(_)) {
                again.adopt(Arc::clone(&self.case.plan));
            }
            again.evolve(event, *at);
        }
        if again != self.case.run {
            return Err(format!(
                "the history gives {again:?}, not {:?}",
                self.case.run
            ));
        }
        let (Event::RunFailed { error }
        | Event::RunDenied { error }
        | Event::RunCancelled { error }) = last
        else {
            let undone = |index: &usize| self.model.steps[*index].undo == Undo::Succeeded;
            if self.model.only_undoes() {
                return agree("undone", &self.model.undone.iter().all(undone), &true);
            }
            return agree("undone", &self.model.undone, &Vec::new());
        };
        let results = error.compensation_results.iter();
        let core: Vec<_> = results
            .map(|r| (r.step_id.to_string(), r.success))
            .collect();
        let model = self.model.undone.iter().map(|index| {
            let success = self.model.steps[*index].undo == Undo::Succeeded;
            (format!("s{index}"), success)
        });
        agree("compensation results", &core, &model.collect())
    }
}

/// Adds what the run takes over from an earlier one.
fn take_over(started: &mut Started, plan: &Plan) {
    for (n, step) in plan.steps.iter().enumerate() {
        let (output, skipped) = match step.reused {
            None => continue,
            Some(Reused::Succeeded(output)) => (output, false),
            Some(Reused::Skipped(output)) => (output, true),
        };
        started.reused.push(crate::runs::Reused {
            step_id: format!("s{n}").into(),
            run_id: "before".into(),
            input: Some(Json::of(&json!(n))),
            output: Json::of(&json!(output)),
            skipped,
        });
    }
    // The last step is compensated first.
    for n in plan.undone().into_iter().rev() {
        started.undo.push(crate::runs::Undo {
            step_id: format!("s{n}").into(),
            run_id: "before".into(),
            input: Some(Json::of(&json!(n))),
            execute: Json::of(&json!({ "outcome": "succeeded" })),
            error: None,
        });
    }
}

fn kind(undo: bool) -> CallKind {
    if undo {
        CallKind::Compensate
    } else {
        CallKind::Execute
    }
}

fn name(status: Status) -> &'static str {
    match status {
        Status::Queued => "queued",
        Status::Planning => "planning",
        Status::Running => "running",
        Status::WaitingApproval => "waiting_approval",
        Status::Paused => "paused",
        Status::Compensating => "compensating",
        Status::Succeeded => "succeeded",
        Status::Failed => "failed",
        Status::Denied => "denied",
        Status::Cancelled => "cancelled",
    }
}

fn phase(phase: Phase) -> &'static str {
    match phase {
        Phase::Pending => "pending",
        Phase::Approval(_) => "asked",
        Phase::Held => "held",
        Phase::Running => "running",
        Phase::Retry => "retry",
        Phase::Incident(_) => "incident",
        Phase::Succeeded => "succeeded",
        Phase::Failed => "failed",
        Phase::Unknown => "unknown",
        Phase::Skipped => "skipped",
        Phase::Cancelled => "cancelled",
    }
}

fn place_of(step: &ModelStep) -> &'static str {
    match step.at {
        StepPhase::Pending => "pending",
        StepPhase::WaitingApproval => "asked",
        StepPhase::Held(_) => "held",
        StepPhase::Running(_) => "running",
        StepPhase::Retry(_) => "retry",
        StepPhase::Incident => "incident",
        StepPhase::Succeeded => "succeeded",
        StepPhase::Failed => "failed",
        StepPhase::Unknown => "unknown",
        StepPhase::Skipped => "skipped",
        StepPhase::Cancelled => "cancelled",
    }
}

fn undo_phase(phase: UndoPhase) -> &'static str {
    match phase {
        UndoPhase::Pending => "none",
        UndoPhase::Held => "held",
        UndoPhase::Running => "running",
        UndoPhase::Retry => "retry",
        UndoPhase::Succeeded => "succeeded",
        UndoPhase::Failed => "failed",
    }
}

fn undo_of(step: &ModelStep) -> &'static str {
    match step.undo {
        Undo::None => "none",
        Undo::Held(_) => "held",
        Undo::Running(_) => "running",
        Undo::Retry(_) => "retry",
        Undo::Succeeded => "succeeded",
        Undo::Failed => "failed",
    }
}
