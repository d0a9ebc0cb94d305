//! Tests of the core: single rules, and random runs that are compared with a model.
//!
//! | file | holds |
//! |---|---|
//! | `rules` | single rules |
//! | `edges`, `sizes` | rules at their edges: pauses, holds, late results, decisions, sizes |
//! | `goals` | runs of goals: requests for plans, answers, decisions about plans |
//! | `controls` | holds, and deadlines that stand still |
//! | `deadlines`, `depth`, `undo_inputs` | records take precedence over deadlines; nested values; inputs of compensations |
//! | `model/` | a small reference model of a run |
//! | `stories` | random plans and stimuli |
//! | `pair` | a run and its model, compared after each input |
//! | `random` | many random runs; planted bugs must be found |

mod controls;
mod deadlines;
mod depth;
mod edges;
mod goals;
mod model;
mod pair;
mod random;
mod rules;
mod sizes;
mod stories;
mod undo_inputs;

use std::{cell::RefCell, sync::Arc};

use serde_json::{Value, json};

use super::*;
use crate::{
    base::clock::Millis,
    plans::{Plan, Tool, Worker},
    runs::{
        CallKind, Decision, Event, GuardianReport, Json, PlanReady, RunStatus, Started, StepError,
    },
};

/// A tool of a worker that reads `steps`, with harmless settings unless `more` overrides them.
fn tool(name: &str, more: &Value) -> Arc<Tool> {
    let mut definition = json!({
        "name": name, "description": "a tool", "worker": { "kafka": {} }, "kind": "write", "risk": { "lane": "safe" }
    });
    let members = more.as_object().unwrap().clone();
    definition.as_object_mut().unwrap().extend(members);
    Arc::new(Tool::read(&definition).unwrap())
}

fn compile(plan: &Value, tools: &[Arc<Tool>]) -> Arc<CompiledPlan> {
    let plan = Plan::read(plan).unwrap_or_else(|faults| panic!("{faults:?}"));
    let find = |name: &str| {
        let own = tools.iter().find(|tool| tool.name == name).cloned();
        own.or_else(|| crate::plans::BUILTINS.get(name).cloned().map(Arc::new))
    };
    Arc::new(CompiledPlan::new(&plan, Defaults::default(), find).unwrap())
}

/// A run and its history, driven step by step.
struct Case {
    plan: Arc<CompiledPlan>,
    run: Run,
    history: Vec<(Event, Millis)>,
    now: i64,
    held: RefCell<Option<Hold>>,
    /// Since when the kill switch is on, or another control is in force, by its name.
    in_force: RefCell<Option<(&'static str, i64)>>,
    approval_expiry_ms: u64,
}

impl Case {
    fn start(plan: &Value, tools: &[Arc<Tool>], params: &Value) -> Self {
        Self::start_at(plan, tools, params, None)
    }

    fn start_at(plan: &Value, tools: &[Arc<Tool>], params: &Value, run_at: Option<i64>) -> Self {
        let mut started = Started::new(Json::of(params), "asker", Millis(0));
        started.run_at = run_at.map(Millis);
        Self::start_with(plan, tools, started)
    }

    fn start_with(plan: &Value, tools: &[Arc<Tool>], started: Started) -> Self {
        Self::start_expiring(plan, tools, started, 86_400_000)
    }

    /// Starts a run whose approvals expire after this many milliseconds.
    fn start_expiring(
        plan: &Value,
        tools: &[Arc<Tool>],
        started: Started,
        approval_expiry_ms: u64,
    ) -> Self {
        let plan = compile(plan, tools);
        let held = RefCell::default();
        let env = Env {
            approval_expiry_ms,
            ..env(0, &no_hold)
        };
        let (run, effects) = start(Arc::clone(&plan), started, ready(), &env);
        Self {
            plan,
            run,
            history: effects.events.into_iter().map(|e| (e, Millis(0))).collect(),
            now: 0,
            held,
            in_force: RefCell::default(),
            approval_expiry_ms,
        }
    }

    /// Starts a run of a goal. Its plan is known to the test only.
    fn start_goal(
        plan: &Value,
        tools: &[Arc<Tool>],
        started: Started,
        guardian: Option<GuardianReport>,
        approval_expiry_ms: u64,
    ) -> Self {
        let plan = compile(plan, tools);
        let env = Env {
            approval_expiry_ms,
            ..env(0, &no_hold)
        };
        let (run, effects) = start_goal(started, guardian, None, &env);
        Self {
            plan,
            run,
            history: effects.events.into_iter().map(|e| (e, Millis(0))).collect(),
            now: 0,
            held: RefCell::default(),
            in_force: RefCell::default(),
            approval_expiry_ms,
        }
    }

    /// The plan that a planner or a person may give.
    #[expect(clippy::unnecessary_box_returns, reason = "inputs have it boxed")]
    fn new_plan(&self) -> Box<NewPlan> {
        Box::new(NewPlan {
            compiled: Arc::clone(&self.plan),
            ready: ready(),
        })
    }

    /// A planner answers.
    fn planned(&mut self, request: u64, outcome: Result<Box<NewPlan>, StepError>) -> Effects {
        let outcome = outcome.map_err(|error| Box::new(error.into()));
        self.tell(Input::Plan { request, outcome })
    }

    fn tell(&mut self, input: Input) -> Effects {
        let held = self.held.borrow().clone();
        // Like safe mode: only tools of workers are held.
        let hold = move |tool: &Tool| {
            let own = matches!(tool.worker, Worker::Builtin(_));
            held.clone().filter(|_| !own)
        };
        let in_force = *self.in_force.borrow();
        let in_force = |name: &str| {
            let (_, since) = in_force.filter(|(control, _)| *control == name)?;
            Some(Millis(since))
        };
        let env = Env {
            approval_expiry_ms: self.approval_expiry_ms,
            in_force: &in_force,
            ..env(self.now, &hold)
        };
        let effects = decide(&mut self.run, input, &env);
        let at = Millis(self.now);
        self.history
            .extend(effects.events.iter().map(|event| (event.clone(), at)));
        effects
    }

    fn wait(&mut self, ms: i64) -> Effects {
        self.now += ms;
        self.tell(Input::Wake)
    }

    fn answer(&mut self, step: &str, attempt: u32, outcome: Outcome) -> Effects {
        self.tell(result(step, CallKind::Execute, attempt, outcome))
    }

    fn undone(&mut self, step: &str, attempt: u32, outcome: Outcome) -> Effects {
        self.tell(result(step, CallKind::Compensate, attempt, outcome))
    }

    fn decided(&mut self, decision: Decision, by: &str) -> Effects {
        let approval = *self.run.approvals.keys().next().unwrap();
        self.tell(decision_on(approval, decision, by))
    }

    /// The types of all events so far, with their steps.
    fn types(&self) -> String {
        let types = self.history.iter().map(|(event, _)| {
            let value = serde_json::to_value(event).unwrap();
            let step = value["step_id"].as_str().unwrap_or_default();
            format!("{} {step}", value["type"].as_str().unwrap())
                .trim_end()
                .to_owned()
        });
        types.collect::<Vec<_>>().join(", ")
    }
}

fn ready() -> PlanReady {
    PlanReady {
        source: "inline".into(),
        hash: "00".into(),
        plan: Json::null(),
        workflow: None,
        found: Box::default(),
    }
}

fn no_hold(_: &Tool) -> Option<Hold> {
    None
}

fn env(now: i64, hold: &dyn Fn(&Tool) -> Option<Hold>) -> Env<'_> {
    Env {
        now: Millis(now),
        hold,
        approval_expiry_ms: 86_400_000,
        approve_above: 0.7,
        check_event: &|_, input| match input.get("type") {
            Some(_) => Ok(()),
            None => Err(StepError::new("missing_type", "it has no type")),
        },
        hold_start: false,
        in_force: &|_| None,
        seed: 7,
    }
}

fn result(step: &str, kind: CallKind, attempt: u32, outcome: Outcome) -> Input {
    Input::Result(CallResult {
        step: step.into(),
        kind,
        attempt,
        outcome,
    })
}

fn decision_on(approval: u64, decision: Decision, by: &str) -> Input {
    Input::Decision {
        approval,
        decision,
        by: by.into(),
        on_behalf_of: None,
        reason: None,
        input_hash: None,
        value: None,
        plan: None,
    }
}

fn good(output: &Value) -> Outcome {
    Outcome::Succeeded(Json::of(output))
}

fn bad(retryable: bool, answered: bool) -> Outcome {
    Outcome::Failed {
        error: StepError::new("broken", "it is broken"),
        retryable,
        retry_after_ms: None,
        answered,
    }
}

/// A hold of a test.
fn hold(reason: &str, until: Option<i64>) -> Hold {
    Hold {
        reason: reason.into(),
        until: until.map(Millis),
    }
}
