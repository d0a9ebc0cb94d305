//! What a run does about an input: pure, from the run's state, the input, and what is handed in ([`Env`]).
//!
//! [`decide`] applies each event as it makes it, so that the next decision sees it, and returns them all. After every input the
//! run *advances*: steps that may begin are scheduled, a run that fails is undone, until nothing more can be done now.
//!
//! | file | decides |
//! |---|---|
//! | `advance` | which steps begin, and when the run has succeeded |
//! | `attempt` | one attempt of a step: its input, the risk lanes, sending it |
//! | `hold` | calls that may not go now |
//! | `result` | what comes of an attempt: results, time-outs, retries, incidents |
//! | `unwind` | how a run that does not succeed is ended and undone |
//! | `people` | decisions, cancel, pause, resume, signals |

mod advance;
mod attempt;
mod hold;
mod people;
mod result;
mod unwind;

use std::sync::Arc;

use serde_json::Value;

use super::{
    bugs::{Bug, planted},
    compiled::CompiledPlan,
    run::Run,
};
use crate::runs::{CallKind, Decision, Event, Json, PlanReady, Started, StepError};
use crate::{base::clock::Millis, plans::Tool};

/// What is handed in.
pub struct Env<'a> {
    /// The time.
    pub now: Millis,
    /// Why a call of a tool may not go now: a control, a limit, an open circuit breaker.
    pub hold: &'a dyn Fn(&Tool) -> Option<Hold>,
    /// How long an approval may be decided, in milliseconds.
    pub approval_expiry_ms: u64,
    /// From this risk score on a step waits for a person, whatever its lane (`risk.approve_above`).
    pub approve_above: f64,
    /// Checks the event of a step of the tool `emit`, by the step's id and its input.
    pub check_event: &'a dyn Fn(&str, &Value) -> Result<(), StepError>,
    /// A control keeps the run from beginning: it stays queued.
    pub hold_start: bool,
    /// Selects the jitter of pauses; the same for the same run.
    pub seed: u64,
}

/// Why a call may not go now.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hold {
    /// Such as `safe_mode`.
    pub reason: String,
    /// When it ends by itself.
    pub until: Option<Millis>,
}

/// What a run is told.
#[derive(Clone, PartialEq, Debug)]
pub enum Input {
    /// A worker has claimed a call.
    Claimed {
        /// The step.
        step: Arc<str>,
        /// Which of its calls.
        kind: CallKind,
        /// The attempt.
        attempt: u32,
        /// When it is given up.
        deadline: Millis,
    },
    /// An attempt has ended.
    Result(CallResult),
    /// A call did not go, and uses up no attempt.
    Held {
        /// The step.
        step: Arc<str>,
        /// Which of its calls.
        kind: CallKind,
        /// The attempt.
        attempt: u32,
        /// Why.
        hold: Hold,
    },
    /// A person has decided.
    Decision {
        /// The approval's number.
        approval: u64,
        /// What was decided; not [`Decision::Expired`].
        decision: Decision,
        /// Who decided.
        by: String,
        /// For whom.
        on_behalf_of: Option<String>,
        /// Why.
        reason: Option<String>,
        /// The input that was shown; another one is refused.
        input_hash: Option<String>,
        /// A changed input, or the output of a skipped step.
        value: Option<Json>,
    },
    /// The run is to end.
    Cancel {
        /// Who asks.
        by: String,
        /// Why.
        reason: Option<String>,
        /// Whether what was done is undone.
        compensate: bool,
    },
    /// Nothing more is to be scheduled.
    Pause {
        /// Who asks.
        by: String,
    },
    /// The run is to go on.
    Resume {
        /// Who asks.
        by: String,
    },
    /// A signal for a step that waits for it, now or later.
    Signal {
        /// Who sends it.
        by: String,
        /// Its name.
        name: String,
        /// Its data.
        data: Json,
    },
    /// Time has passed, or controls have changed.
    Wake,
}

/// How an attempt has ended.
#[derive(Clone, PartialEq, Debug)]
pub struct CallResult {
    /// The step.
    pub step: Arc<str>,
    /// Which of its calls.
    pub kind: CallKind,
    /// The attempt.
    pub attempt: u32,
    /// The outcome.
    pub outcome: Outcome,
}

/// The outcome of an attempt.
#[derive(Clone, PartialEq, Debug)]
pub enum Outcome {
    /// It succeeded, with this output.
    Succeeded(Json),
    /// It failed.
    Failed {
        /// Why.
        error: StepError,
        /// Whether another attempt may succeed.
        retryable: bool,
        /// Not to be attempted again before that long, in milliseconds.
        retry_after_ms: Option<u64>,
        /// Whether the worker answered: without an answer the call may have had an effect.
        answered: bool,
    },
}

/// Why an input was refused. Whoever sent it is told.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refusal {
    /// The run has ended.
    #[error("the run has ended")]
    Ended,
    /// The run is being undone.
    #[error("the run is being undone")]
    Compensating,
    /// It has failed or was denied, and ends.
    #[error("the run is ending already")]
    Ending,
    /// Cancelled before.
    #[error("the run is being cancelled already")]
    Cancelling,
    /// Paused before.
    #[error("the run is paused already")]
    Paused,
    /// It is not paused.
    #[error("the run is not paused")]
    NotPaused,
    /// The approval does not exist or was decided.
    #[error("there is no such open approval")]
    NotOpen,
    /// The decision does not fit the kind of the approval.
    #[error("this approval cannot be decided so")]
    NoSuchDecision,
    /// The input has changed since it was shown.
    #[error("the input is not the one that was shown")]
    InputChanged,
    /// The changed input does not match the schema of the tool, or is too large.
    #[error("the tool does not take this input")]
    InvalidInput,
    /// The output of a skipped step is larger than a run keeps.
    #[error("the output is too large")]
    OutputTooLarge,
    /// Whoever asked for the run, or was asked for, may not approve it.
    #[error("who asked for the run may not decide")]
    SelfApproval,
    /// The run keeps no more signals.
    #[error("the run keeps no more signals")]
    SignalsFull,
}

impl Refusal {
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
        }
    }
}

/// What came of an input.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Effects {
    /// What happened, in order. They are applied to the run already.
    pub events: Vec<Event>,
    /// Why the input was refused.
    pub refused: Option<Refusal>,
    /// It was about an attempt that is over, and changed nothing.
    pub ignored: bool,
}

/// A run's first events.
pub fn start(
    plan: Arc<CompiledPlan>,
    started: Started,
    ready: PlanReady,
    env: &Env<'_>,
) -> (Run, Effects) {
    let mut run = Run::new(plan, Arc::new(started.clone()));
    let mut turn = Turn::new(&mut run, env);
    turn.emit(Event::RunStarted(Box::new(started)));
    turn.emit(Event::PlanReady(Box::new(ready)));
    turn.refuse_blocked_tools();
    turn.take_over();
    turn.advance();
    let effects = turn.effects;
    (run, effects)
}

/// What a run does about an input.
pub fn decide(run: &mut Run, input: Input, env: &Env<'_>) -> Effects {
    let mut turn = Turn::new(run, env);
    turn.take(input);
    turn.advance();
    turn.effects
}

/// One input and what follows from it.
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

    /// Applies an event, and keeps it.
    fn emit(&mut self, event: Event) {
        self.run.evolve(&event, self.env.now);
        self.effects.events.push(event);
    }

    /// What an earlier run has carried out is as it was.
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
            } => self.held(&step, kind, attempt, hold),
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
