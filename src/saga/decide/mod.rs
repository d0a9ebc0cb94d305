//! Decides how a run reacts to an input. Pure: the result depends only on the run's state, the input and the environment ([`Env`]).
//!
//! [`decide`] applies each event at once, so that the next decision sees it, and returns all of them. After every input the run
//! *advances*: steps that may begin are scheduled, and a failing run is compensated, until nothing more can be done now.
//!
//! | file | decides |
//! |---|---|
//! | `advance` | which steps begin, which deadlines have passed, and when the run succeeds |
//! | `attempt` | one attempt of a step: its input, approvals, sending it |
//! | `hold` | calls that may not be sent now |
//! | `stand_still` | deadlines that cannot be met because of a control |
//! | `result` | the outcome of an attempt: results, time-outs, retries, incidents |
//! | `unwind` | ending and compensating a run that does not succeed |
//! | `planning` | the plan of a goal |
//! | `people` | controls from outside: decisions, cancel, pause, resume, signals |

mod advance;
mod attempt;
mod hold;
mod people;
mod planning;
mod result;
mod stand_still;
mod unwind;

use std::sync::Arc;

use serde_json::Value;

use super::{
    bugs::{Bug, planted},
    compiled::CompiledPlan,
    run::Run,
};
use crate::runs::{
    CallKind, Decision, Event, Found, GuardianReport, GuardianVerdict, Json, PlanReady, RunError,
    Started, StepError,
};
use crate::{base::clock::Millis, plans::Tool};

/// The environment of a decision.
pub struct Env<'a> {
    /// The current time.
    pub now: Millis,
    /// Why a call of a tool may not be sent now; `None`: it may.
    pub hold: &'a dyn Fn(&Tool) -> Option<Hold>,
    /// The time until an approval expires, in milliseconds.
    pub approval_expiry_ms: u64,
    /// A step with a higher risk score needs approval, even if its lane does not demand one (`risk.approve_above`).
    pub approve_above: f64,
    /// Checks the event that a step of the tool `emit` would append, by the step's id and input.
    pub check_event: &'a dyn Fn(&str, &Value) -> Result<(), StepError>,
    /// A control does not let the run begin: it stays queued.
    pub hold_start: bool,
    /// Since when a control is in force, by its name; `None`: it is not in force.
    pub in_force: &'a dyn Fn(&str) -> Option<Millis>,
    /// The seed of the jitter of pauses; constant for a run.
    pub seed: u64,
}

/// Why a call may not be sent now.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hold {
    /// A stable code, such as `safe_mode`.
    pub reason: String,
    /// When the call may be sent; `None`: when the controls change.
    pub until: Option<Millis>,
}

/// An input of a run.
#[derive(Clone, PartialEq, Debug)]
pub enum Input {
    /// A worker has claimed a call.
    Claimed {
        /// The id of the step.
        step: Arc<str>,
        /// The step's own call, or its compensation.
        kind: CallKind,
        /// The number of the attempt, from 1.
        attempt: u32,
        /// The deadline of the attempt, counted from the claim.
        deadline: Millis,
    },
    /// An attempt has ended.
    Result(CallResult),
    /// A call was not made; it uses up no attempt.
    Held {
        /// The id of the step.
        step: Arc<str>,
        /// The step's own call, or its compensation.
        kind: CallKind,
        /// The number of the attempt, from 1.
        attempt: u32,
        /// The reason, and when the call may be sent.
        hold: Hold,
        /// The call is repeated after a crash, and may have reached its worker before.
        maybe_called: bool,
    },
    /// A planner has answered a request for a plan.
    Plan {
        /// The `seq` of the record `plan_requested`.
        request: u64,
        /// The plan, or why there is none.
        outcome: Result<Box<NewPlan>, Box<Unplanned>>,
    },
    /// A person has decided.
    Decision {
        /// The `seq` of the record that requested the decision.
        approval: u64,
        /// What was decided; not [`Decision::Expired`].
        decision: Decision,
        /// The principal that decided.
        by: String,
        /// The user on whose behalf the principal decided, if any.
        on_behalf_of: Option<String>,
        /// The reason given for it, for people.
        reason: Option<String>,
        /// The hash of the input that was shown. If the input has changed since, the decision is refused.
        input_hash: Option<String>,
        /// For `approved` a changed input, for `skip` the output of the step.
        value: Option<Json>,
        /// For `approved` of an approval of kind `plan`: the plan, or why it is refused.
        plan: Option<Result<Box<NewPlan>, Refusal>>,
    },
    /// Cancel the run.
    Cancel {
        /// The principal that requests it.
        by: String,
        /// The reason given for it, for people.
        reason: Option<String>,
        /// Whether the steps that have succeeded are compensated.
        compensate: bool,
    },
    /// Pause the run: schedule nothing more.
    Pause {
        /// The principal that requests it.
        by: String,
    },
    /// Resume the run.
    Resume {
        /// The principal that requests it.
        by: String,
    },
    /// A signal for a step that waits for it now, or will later.
    Signal {
        /// The principal that sent it.
        by: String,
        /// The name of the signal, which the plan refers to.
        name: String,
        /// The payload, any JSON value.
        data: Json,
    },
    /// Time has passed, or controls have changed, and all records that were in the log before have been processed. Deadlines expire with
    /// this input only.
    Wake,
}

/// A plan for a goal.
#[derive(Clone, Debug)]
pub struct NewPlan {
    /// The plan, ready to run.
    pub compiled: Arc<CompiledPlan>,
    /// Its record in the history.
    pub ready: PlanReady,
}

/// A goal for which no plan was found.
#[derive(Clone, PartialEq, Debug)]
pub struct Unplanned {
    /// The code and message of the failure.
    pub error: StepError,
    /// The findings of the planner about the goal.
    pub found: Found,
}

impl From<StepError> for Unplanned {
    fn from(error: StepError) -> Self {
        let found = Found::default();
        Self { error, found }
    }
}

impl PartialEq for NewPlan {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.compiled, &other.compiled) && self.ready == other.ready
    }
}

/// How an attempt has ended.
#[derive(Clone, PartialEq, Debug)]
pub struct CallResult {
    /// The id of the step.
    pub step: Arc<str>,
    /// The step's own call, or its compensation.
    pub kind: CallKind,
    /// The number of the attempt, from 1.
    pub attempt: u32,
    /// The output, or the error.
    pub outcome: Outcome,
}

/// The outcome of an attempt.
#[derive(Clone, PartialEq, Debug)]
pub enum Outcome {
    /// It succeeded, with this output, which was not checked beyond the JSON grammar.
    Succeeded(Json),
    /// The call failed, or got no answer.
    Failed {
        /// The code and message of the failure.
        error: StepError,
        /// Whether another attempt may succeed.
        retryable: bool,
        /// The minimum pause before the next attempt, in milliseconds.
        retry_after_ms: Option<u64>,
        /// Whether the worker answered: without an answer the call may have had an effect.
        answered: bool,
    },
}

/// Why an input was refused. The sender gets its code and message.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refusal {
    /// The run has ended.
    #[error("the run has ended")]
    Ended,
    /// The run is being undone.
    #[error("the run is being undone")]
    Compensating,
    /// The run has failed or was denied, and is ending.
    #[error("the run is ending already")]
    Ending,
    /// The run was cancelled before.
    #[error("the run is being cancelled already")]
    Cancelling,
    /// The run was paused before.
    #[error("the run is paused already")]
    Paused,
    /// The run is not paused.
    #[error("the run is not paused")]
    NotPaused,
    /// The approval does not exist or was decided.
    #[error("there is no such open approval")]
    NotOpen,
    /// The decision does not fit the kind of the approval.
    #[error("this kind of approval does not allow this decision")]
    NoSuchDecision,
    /// The input is not the one whose hash the decision carries.
    #[error("the input is not the one that was shown")]
    InputChanged,
    /// The changed input does not match the schema of the tool, or is too large.
    #[error("the tool does not take this input")]
    InvalidInput,
    /// The output of a skipped step is larger than a run keeps.
    #[error("the output is too large")]
    OutputTooLarge,
    /// The requester of a run, and the user on whose behalf it was requested, may not approve it.
    #[error("the requester of the run may not decide")]
    SelfApproval,
    /// The run keeps the maximum number or size of signals already.
    #[error("the run keeps no more signals")]
    SignalsFull,
    /// The approval is of kind `plan`, and the decision has no plan.
    #[error("an approval of kind `plan` is approved with a plan")]
    PlanRequired,
    /// The plan of a decision is invalid.
    #[error("the plan is invalid")]
    InvalidPlan,
    /// The start of the run with the plan of a decision would be too large.
    #[error("the plan and its tools are too large")]
    PlanTooLarge,
}

impl Refusal {
    /// All refusals, in the order of their declaration.
    pub const ALL: [Self; 16] = [
        Self::Ended,
        Self::Compensating,
        Self::Ending,
        Self::Cancelling,
        Self::Paused,
        Self::NotPaused,
        Self::NotOpen,
        Self::NoSuchDecision,
        Self::InputChanged,
        Self::InvalidInput,
        Self::OutputTooLarge,
        Self::SelfApproval,
        Self::SignalsFull,
        Self::PlanRequired,
        Self::InvalidPlan,
        Self::PlanTooLarge,
    ];

    /// The stable code.
    pub const fn code(self) -> &'static str {
        match self {
            Self::Ended => "run_ended",
            Self::Compensating => "run_compensating",
            Self::Ending => "run_ending",
            Self::Cancelling => "already_cancelled",
            Self::Paused => "already_paused",
            Self::NotPaused => "not_paused",
            Self::NotOpen => "approval_not_open",
            Self::NoSuchDecision => "invalid_decision",
            Self::InputChanged => "input_changed",
            Self::InvalidInput => "invalid_input",
            Self::OutputTooLarge => "output_too_large",
            Self::SelfApproval => "self_approval",
            Self::SignalsFull => "too_many_signals",
            Self::PlanRequired => "plan_required",
            Self::InvalidPlan => "invalid_plan",
            Self::PlanTooLarge => "payload_too_large",
        }
    }
}

/// The effects of an input.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Effects {
    /// New events, in order. They are already applied to the run.
    pub events: Vec<Event>,
    /// Why the input was refused.
    pub refused: Option<Refusal>,
    /// The input was about an attempt that is over, and changed nothing.
    pub ignored: bool,
}

/// Starts a run and returns its first events.
pub fn start(
    plan: Arc<CompiledPlan>,
    started: Started,
    ready: PlanReady,
    env: &Env<'_>,
) -> (Run, Effects) {
    let compiled = plan;
    start_goal(started, None, Some(NewPlan { compiled, ready }), env)
}

/// Starts a run of a goal and returns its first events. `guardian`: what the guardian found in the goal. `plan`: only if the run repeats
/// one that had a plan.
pub fn start_goal(
    started: Started,
    guardian: Option<GuardianReport>,
    plan: Option<NewPlan>,
    env: &Env<'_>,
) -> (Run, Effects) {
    let shared = Arc::new(started.clone());
    let mut run = match &plan {
        Some(plan) => Run::new(Arc::clone(&plan.compiled), shared),
        None => Run::of_goal(shared),
    };
    let mut turn = Turn::new(&mut run, env);
    turn.emit(Event::RunStarted(Box::new(started)));
    let verdict = guardian.as_ref().map(|report| report.verdict);
    if let Some(report) = guardian {
        turn.emit(Event::GuardianChecked(Box::new(report)));
    }
    if verdict == Some(GuardianVerdict::Denied) {
        let error = RunError {
            failed_step_id: None,
            code: "injection_denied".into(),
            message: "the goal looks like a prompt injection".into(),
            compensation_results: Vec::new(),
        };
        turn.emit(Event::RunDenied {
            error: Box::new(error),
        });
    } else if let Some(plan) = plan {
        turn.emit(Event::PlanReady(Box::new(plan.ready)));
        turn.refuse_blocked_tools();
        turn.take_over();
    }
    turn.advance(false);
    let effects = turn.effects;
    (run, effects)
}

/// Processes one input.
pub fn decide(run: &mut Run, input: Input, env: &Env<'_>) -> Effects {
    let woken = matches!(input, Input::Wake) || planted(Bug::DeadlineBeforeRecords);
    let mut turn = Turn::new(run, env);
    turn.take(input);
    turn.advance(woken);
    turn.effects
}

/// The processing of one input.
struct Turn<'a> {
    run: &'a mut Run,
    env: &'a Env<'a>,
    effects: Effects,
}

impl<'a> Turn<'a> {
    fn new(run: &'a mut Run, env: &'a Env<'a>) -> Self {
        Self {
            run,
            env,
            effects: Effects::default(),
        }
    }

    /// Applies an event, and adds it to the effects.
    fn emit(&mut self, event: Event) {
        self.run.evolve(&event, self.env.now);
        self.effects.events.push(event);
    }

    /// Takes over the results of steps that an earlier run has carried out.
    fn take_over(&mut self) {
        if self.run.end.is_some() || planted(Bug::RepeatsReused) {
            return;
        }
        let started = Arc::clone(&self.run.started);
        for step in &started.reused {
            let (step_id, output) = (step.step_id.clone(), step.output.clone());
            self.emit(if step.skipped {
                Event::StepSkipped {
                    step_id,
                    output: Some(output),
                }
            } else {
                Event::StepSucceeded {
                    step_id,
                    attempt: 0,
                    output,
                    late: false,
                    signal: None,
                    reused: true,
                }
            });
        }
    }

    fn take(&mut self, input: Input) {
        match input {
            Input::Claimed {
                step,
                kind,
                attempt,
                deadline,
            } => self.claimed((&step, kind, attempt), deadline),
            Input::Result(result) => self.result(result),
            Input::Held {
                step,
                kind,
                attempt,
                hold,
                maybe_called,
            } => self.held((&step, kind, attempt), hold, maybe_called),
            Input::Plan { request, outcome } => self.plan_answered(request, outcome),
            Input::Wake => {}
            input => self.person(input),
        }
    }

    fn plan(&self) -> Arc<CompiledPlan> {
        Arc::clone(self.run.plan())
    }

    fn is_due(&self, due: Option<Millis>) -> bool {
        due.is_some_and(|due| due <= self.env.now)
    }
}
