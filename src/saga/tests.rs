//! Tests of the core: single rules, and runs under random workers, people and controls, checked against what must always hold.

use std::{cell::RefCell, collections::BTreeMap, sync::Arc};

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::{
    base::clock::Millis,
    plans::{Plan, Tool},
    runs::{
        ApprovalKind, CallKind, Decision, Event, Json, PlanReady, RunStatus, Started, StepError,
    },
};

/// A tool that a worker claims, harmless unless `more` says otherwise.
fn tool(name: &str, more: &Value) -> Arc<Tool> {
    let mut definition = json!({
        "name": name, "description": "a tool", "worker": { "claim": {} }, "kind": "write", "risk": { "lane": "safe" }
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

/// A run and its history, driven by hand.
struct Case {
    plan: Arc<CompiledPlan>,
    run: Run,
    history: Vec<(Event, Millis)>,
    now: i64,
    held: RefCell<Option<Hold>>,
}

impl Case {
    fn start(plan: &Value, tools: &[Arc<Tool>], params: &Value) -> Self {
        Self::start_at(plan, tools, params, None)
    }

    fn start_at(plan: &Value, tools: &[Arc<Tool>], params: &Value, run_at: Option<i64>) -> Self {
        let plan = compile(plan, tools);
        let mut started = Started::new(Json::of(params), "asker", Millis(0));
        started.run_at = run_at.map(Millis);
        let held = RefCell::default();
        let (run, effects) = start(Arc::clone(&plan), started, ready(), &env(0, &no_hold));
        Self {
            plan,
            run,
            history: effects.events.into_iter().map(|e| (e, Millis(0))).collect(),
            now: 0,
            held,
        }
    }

    fn tell(&mut self, input: Input) -> Effects {
        let held = self.held.borrow().clone();
        let hold = move |_: &Tool| held.clone();
        let effects = decide(&mut self.run, input, &env(self.now, &hold));
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
        check_event: &|_, _| Ok(()),
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

#[test]
fn steps_run_in_parallel_and_see_the_outputs_before_them() {
    let plan = json!({
        "steps": [
            { "id": "a", "tool": "t", "input": { "n": "{{ params.n }}" } },
            { "id": "b", "tool": "t", "input": 2 },
            { "id": "c", "tool": "t", "input": "{{ steps.a.output + steps.b.output }}", "depends_on": ["a", "b"] },
            { "id": "d", "tool": "noop", "input": "{{ steps.c.output }}", "depends_on": ["c"], "when": "{{ steps.c.output > 100 }}" },
        ],
        "output": { "sum": "{{ steps.c.output }}" }
    });
    let mut case = Case::start(&plan, &[tool("t", &json!({}))], &json!({ "n": 1 }));
    assert_eq!(
        case.types(),
        "run_started, plan_ready, step_scheduled a, step_scheduled b"
    );
    case.answer("b", 1, good(&json!(5)));
    let effects = case.answer("a", 1, good(&json!(4)));
    let Event::StepScheduled { input, .. } = &effects.events[1] else {
        panic!("{:?}", effects.events);
    };
    assert_eq!(input.text(), "9");
    // Twice is once.
    assert!(case.answer("a", 1, good(&json!(400))).ignored);
    case.answer("c", 1, good(&json!(9)));
    assert_eq!(case.run.status(), RunStatus::Succeeded);
    assert_eq!(
        case.types(),
        "run_started, plan_ready, step_scheduled a, step_scheduled b, step_succeeded b, step_succeeded a, step_scheduled c, \
         step_succeeded c, step_skipped d, run_succeeded"
    );
    let (Event::RunSucceeded { output }, _) = case.history.last().unwrap() else {
        panic!();
    };
    assert_eq!(output.text(), r#"{"sum":9}"#);
}

#[test]
fn a_failing_run_is_undone_in_reverse() {
    let undo = json!({ "tool": "undo", "input": "{{ step.output }}" });
    let step = |id: &str, on: &[&str]| json!({ "id": id, "tool": "t", "depends_on": on, "compensate": undo });
    let plan = json!({ "steps": [step("a", &[]), step("b", &["a"]), step("c", &["b"]), step("d", &["b"])] });
    let tools = [tool("t", &json!({})), tool("undo", &json!({}))];
    let mut case = Case::start(&plan, &tools, &Value::Null);
    case.answer("a", 1, good(&json!("A")));
    case.answer("b", 1, good(&json!("B")));
    // `c` fails for good, `d` is in flight: it is awaited.
    case.answer("c", 1, bad(false, true));
    assert_eq!(case.run.status(), RunStatus::Running);
    let effects = case.answer("d", 1, good(&json!("D")));
    let started = &effects.events[1..];
    assert!(matches!(&started[0], Event::CompensationStarted));
    let Event::CompensationScheduled { step_id, input, .. } = &started[1] else {
        panic!("{started:?}");
    };
    assert_eq!((&**step_id, input.text()), ("d", "\"D\""));
    case.undone("d", 1, good(&Value::Null));
    // One that fails twice does not stop the others.
    case.undone("b", 1, bad(true, true));
    case.wait(10_000);
    case.undone("b", 2, bad(true, true));
    case.undone("a", 1, good(&Value::Null));
    let Some((Event::RunFailed { error }, _)) = case.history.last() else {
        panic!("{}", case.types());
    };
    assert_eq!(error.failed_step_id.as_deref(), Some("c"));
    assert_eq!(error.code, "broken");
    let results = error.compensation_results.iter();
    let results: Vec<_> = results.map(|r| (&*r.step_id, r.success)).collect();
    assert_eq!(results, [("d", true), ("b", false), ("a", true)]);
}

#[test]
fn no_answer_is_retried_and_then_unknown() {
    let plan = json!({ "steps": [{
        "id": "a", "tool": "t", "timeout_s": 10, "retry": { "max_attempts": 2, "initial_ms": 1000, "factor": 1 },
        "compensate": { "tool": "undo", "input": "{{ step.output }}" }
    }] });
    let tools = [tool("t", &json!({})), tool("undo", &json!({}))];
    let mut case = Case::start(&plan, &tools, &Value::Null);
    assert_eq!(case.run.next_due(), Some(Millis(10_000)));
    assert!(case.wait(9_999).events.is_empty());
    case.wait(1);
    let due = case.run.next_due().unwrap().0;
    assert!((10_500..=11_000).contains(&due), "{due}");
    case.wait(due - case.now);
    // The answer to the first attempt comes too late.
    assert!(case.answer("a", 1, good(&json!(1))).ignored);
    case.wait(10_000);
    assert_eq!(
        case.types(),
        "run_started, plan_ready, step_scheduled a, step_retry_scheduled a, step_scheduled a, step_unknown a, compensation_started, \
         compensation_scheduled a"
    );
    let (Event::CompensationScheduled { input, .. }, _) = case.history.last().unwrap() else {
        panic!();
    };
    assert_eq!(input.text(), "null");
    case.undone("a", 1, good(&Value::Null));
    assert_eq!(case.run.status(), RunStatus::Failed);
}

#[test]
fn a_late_success_of_a_failed_step_is_undone() {
    let undo = json!({ "tool": "undo" });
    let plan = json!({ "steps": [
        { "id": "a", "tool": "t", "compensate": undo },
        { "id": "b", "tool": "t", "compensate": undo, "retry": { "max_attempts": 1 } },
    ] });
    let tools = [tool("t", &json!({})), tool("undo", &json!({}))];
    let mut case = Case::start(&plan, &tools, &Value::Null);
    case.answer("b", 1, bad(true, true));
    // `a` is awaited; meanwhile `b` says that it succeeded after all.
    case.answer("b", 1, good(&json!(1)));
    case.answer("a", 1, good(&json!(2)));
    case.undone("a", 1, good(&Value::Null));
    case.undone("b", 1, good(&Value::Null));
    let Some((Event::RunFailed { error }, _)) = case.history.last() else {
        panic!("{}", case.types());
    };
    let results = error.compensation_results.iter();
    assert_eq!(results.map(|r| &*r.step_id).collect::<Vec<_>>(), ["a", "b"]);
}

#[test]
fn risky_steps_wait_for_somebody_else() {
    let plan = json!({ "steps": [{ "id": "pay", "tool": "pay", "input": { "amount": "{{ params.amount }}" } }] });
    let tools = [tool("pay", &json!({ "kind": "payment" }))];
    let mut case = Case::start(&plan, &tools, &json!({ "amount": 5 }));
    assert_eq!(case.run.status(), RunStatus::WaitingApproval);
    let refused = case.decided(Decision::Approved, "asker").refused;
    assert_eq!(refused, Some(Refusal::SelfApproval));
    let wrong = Input::Decision {
        approval: 3,
        decision: Decision::Approved,
        by: "boss".into(),
        on_behalf_of: None,
        reason: None,
        input_hash: Some("00".into()),
        value: None,
    };
    assert_eq!(case.tell(wrong).refused, Some(Refusal::InputChanged));
    assert_eq!(case.decided(Decision::Approved, "boss").refused, None);
    case.answer("pay", 1, good(&Value::Null));
    assert_eq!(case.run.status(), RunStatus::Succeeded);

    let mut case = Case::start(&plan, &tools, &json!({ "amount": 5 }));
    case.decided(Decision::Denied, "boss");
    assert_eq!(case.run.status(), RunStatus::Denied);
    let mut case = Case::start(&plan, &tools, &json!({ "amount": 5 }));
    case.wait(86_400_000);
    assert_eq!(case.run.status(), RunStatus::Denied);
}

#[test]
fn incidents_are_decided_by_people() {
    let plan = json!({ "steps": [
        { "id": "a", "tool": "t", "on_exhausted": "hold", "retry": { "max_attempts": 1 } },
        { "id": "b", "tool": "noop", "input": "{{ steps.a.output }}", "depends_on": ["a"] },
    ] });
    let tools = [tool("t", &json!({}))];
    let mut case = Case::start(&plan, &tools, &Value::Null);
    case.answer("a", 1, bad(true, true));
    assert_eq!(case.run.status(), RunStatus::WaitingApproval);
    case.decided(Decision::Retry, "asker");
    case.answer("a", 2, bad(true, true));
    let approval = *case.run.approvals.keys().next().unwrap();
    let Input::Decision { mut value, .. } = decision_on(approval, Decision::Skip, "ops") else {
        panic!();
    };
    assert!(value.replace(Json::of(&json!("by hand"))).is_none());
    case.tell(Input::Decision {
        approval,
        decision: Decision::Skip,
        by: "ops".into(),
        on_behalf_of: None,
        reason: None,
        input_hash: None,
        value,
    });
    assert_eq!(case.run.status(), RunStatus::Succeeded);
    assert_eq!(
        case.run.steps[1].output.as_ref().unwrap().text(),
        "\"by hand\""
    );
}

#[test]
fn a_paused_run_stands_still() {
    let plan = json!({ "steps": [
        { "id": "a", "tool": "t", "timeout_s": 10 },
        { "id": "b", "tool": "t", "depends_on": ["a"] },
    ] });
    let mut case = Case::start(&plan, &[tool("t", &json!({}))], &Value::Null);
    case.wait(4_000);
    case.tell(Input::Pause { by: "ops".into() });
    assert_eq!(case.run.next_due(), None);
    assert_eq!(
        case.tell(Input::Pause { by: "ops".into() }).refused,
        Some(Refusal::Paused)
    );
    case.wait(60_000);
    assert_eq!(case.run.status(), RunStatus::Paused);
    case.tell(Input::Resume { by: "ops".into() });
    assert_eq!(case.run.next_due(), Some(Millis(70_000)));
    case.tell(Input::Pause { by: "ops".into() });
    case.answer("a", 1, good(&Value::Null));
    assert!(!case.types().contains("step_scheduled b"));
    // Cancel ends the pause.
    case.tell(Input::Cancel {
        by: "ops".into(),
        reason: None,
        compensate: true,
    });
    assert_eq!(case.run.status(), RunStatus::Cancelled);
    assert_eq!(
        case.tell(Input::Resume { by: "ops".into() }).refused,
        Some(Refusal::Ended)
    );
}

#[test]
fn waits_end_by_time_or_signal() {
    let plan = json!({ "steps": [
        { "id": "a", "tool": "wait", "input": { "for_s": 5 } },
        { "id": "b", "tool": "wait", "input": { "signal": "go", "timeout_s": 60 }, "depends_on": ["a"] },
        { "id": "c", "tool": "wait", "input": { "any": ["stop", "go"], "timeout_s": 60 }, "depends_on": ["b"] },
    ] });
    let mut case = Case::start(&plan, &[], &Value::Null);
    let signal = |name: &str, data: u32| Input::Signal {
        by: "x".into(),
        name: name.into(),
        data: Json::of(&json!(data)),
    };
    // The first one comes before anybody waits for it.
    case.tell(signal("go", 1));
    case.wait(5_000);
    assert_eq!(case.run.steps[1].output.as_ref().unwrap().text(), "1");
    case.tell(signal("go", 2));
    assert_eq!(case.run.status(), RunStatus::Succeeded);
    assert_eq!(case.run.steps[2].output.as_ref().unwrap().text(), "2");

    let mut case = Case::start(&plan, &[], &Value::Null);
    case.wait(5_000);
    case.wait(60_000);
    assert_eq!(case.run.status(), RunStatus::Failed);
}

#[test]
fn a_run_begins_at_its_time_and_ends_at_its_deadline() {
    let plan = json!({ "steps": [{ "id": "a", "tool": "t", "timeout_s": 100 }], "timeout_s": 30 });
    let tools = [tool("t", &json!({}))];
    let mut case = Case::start_at(&plan, &tools, &Value::Null, Some(50_000));
    assert_eq!(case.run.status(), RunStatus::Queued);
    assert_eq!(case.run.next_due(), Some(Millis(50_000)));
    case.wait(50_000);
    case.wait(30_000);
    // The attempt in flight is awaited.
    assert_eq!(case.run.status(), RunStatus::Running);
    case.answer("a", 1, good(&Value::Null));
    let Some((Event::RunFailed { error }, _)) = case.history.last() else {
        panic!("{}", case.types());
    };
    assert_eq!(error.code, "run_timeout");
}

#[test]
fn what_is_held_uses_no_attempt() {
    let plan = json!({ "steps": [{ "id": "a", "tool": "t" }] });
    let mut case = Case::start(&plan, &[tool("t", &json!({}))], &Value::Null);
    let hold = |until: Option<i64>| Hold {
        reason: "closed".into(),
        until: until.map(Millis),
    };
    case.tell(Input::Held {
        step: "a".into(),
        kind: CallKind::Execute,
        attempt: 1,
        hold: hold(Some(5_000)),
    });
    assert!(case.wait(4_999).events.is_empty());
    *case.held.borrow_mut() = Some(hold(None));
    assert!(case.wait(1).events.is_empty());
    *case.held.borrow_mut() = None;
    case.tell(Input::Wake);
    assert_eq!(case.run.steps[0].attempt, 1);
    assert_eq!(
        case.types(),
        "run_started, plan_ready, step_scheduled a, step_held a, step_released a, step_scheduled a"
    );
}

#[test]
fn blocked_tools_and_bad_references_end_the_run() {
    let tools = [
        tool("t", &json!({})),
        tool("no", &json!({ "risk": { "lane": "blocked" } })),
    ];
    let plan = json!({ "steps": [{ "id": "a", "tool": "t" }, { "id": "b", "tool": "no" }] });
    let case = Case::start(&plan, &tools, &Value::Null);
    assert_eq!(case.run.status(), RunStatus::Denied);
    assert_eq!(case.types(), "run_started, plan_ready, run_denied");
    let plan = json!({ "steps": [{ "id": "a", "tool": "t", "input": "{{ params.nothing }}" }] });
    let case = Case::start(&plan, &tools, &json!({}));
    assert_eq!(case.run.status(), RunStatus::Failed);
    let plan = json!({ "steps": [{ "id": "a", "tool": "noop", "when": "{{ params.n }}" }] });
    let case = Case::start(&plan, &tools, &json!({ "n": 1 }));
    assert_eq!(case.run.status(), RunStatus::Failed);
}

/// A step of a random plan.
#[derive(Clone, Debug)]
struct RandomStep {
    on: Vec<prop::sample::Index>,
    compensated: bool,
    hold: bool,
    risky: bool,
}

fn random_plan(steps: &[RandomStep]) -> Value {
    let steps = steps.iter().enumerate().map(|(n, step)| {
        let on = step.on.iter().filter(|_| n > 0);
        let mut on: Vec<_> = on.map(|on| format!("s{}", on.index(n))).collect();
        on.sort();
        on.dedup();
        let mut made = json!({
            "id": format!("s{n}"), "tool": if step.risky { "risky" } else { "t" }, "input": n, "depends_on": on, "timeout_s": 20,
            "retry": { "max_attempts": 2 }, "on_exhausted": if step.hold { "hold" } else { "fail" },
        });
        if step.compensated {
            made["compensate"] = json!({ "tool": "undo", "input": "{{ step.output }}" });
        }
        made
    });
    json!({ "steps": steps.collect::<Vec<_>>() })
}

/// What happens next to a run.
#[derive(Clone, Debug)]
enum Happening {
    Answer(prop::sample::Index, u8),
    Lost(prop::sample::Index),
    Repeat(prop::sample::Index),
    Time(u16),
    Decide(prop::sample::Index, u8),
    Cancel(bool),
    Pause,
    Resume,
    Hold(bool),
    Held(prop::sample::Index),
}

fn happening() -> impl Strategy<Value = Happening> {
    let index = any::<prop::sample::Index>;
    prop_oneof![
        8 => (index(), any::<u8>()).prop_map(|(at, how)| Happening::Answer(at, how)),
        2 => index().prop_map(Happening::Lost),
        2 => index().prop_map(Happening::Repeat),
        4 => (0u16..15_000).prop_map(Happening::Time),
        3 => (index(), any::<u8>()).prop_map(|(at, how)| Happening::Decide(at, how)),
        1 => any::<bool>().prop_map(Happening::Cancel),
        1 => Just(Happening::Pause),
        2 => Just(Happening::Resume),
        2 => any::<bool>().prop_map(Happening::Hold),
        1 => index().prop_map(Happening::Held),
    ]
}

/// Workers of a random run: calls that were sent and have no answer yet, and those that were answered.
#[derive(Default)]
struct Workers {
    open: Vec<(Arc<str>, CallKind, u32)>,
    over: Vec<(Arc<str>, CallKind, u32)>,
}

fn outcome(how: u8) -> Outcome {
    match how % 6 {
        0..=2 => good(&json!(how)),
        3 => bad(true, true),
        4 => bad(true, false),
        _ => bad(false, true),
    }
}

/// Tells a random run what happens, and checks every answer.
struct Drive {
    case: Case,
    workers: Workers,
}

impl Drive {
    fn tell(&mut self, input: Input) {
        let ended = self.case.run.has_ended();
        let effects = self.case.tell(input);
        if ended {
            assert!(effects.events.is_empty(), "{:?}", effects.events);
        }
        let held = self.case.held.borrow().is_some();
        for event in &effects.events {
            let (step, kind, attempt) = match event {
                Event::StepScheduled {
                    step_id, attempt, ..
                } => (step_id, CallKind::Execute, *attempt),
                Event::CompensationScheduled {
                    step_id, attempt, ..
                } => (step_id, CallKind::Compensate, *attempt),
                _ => continue,
            };
            assert!(!held, "a call goes though it is held");
            self.workers.open.push((step.clone(), kind, attempt));
        }
    }

    fn happen(&mut self, happening: &Happening) {
        match *happening {
            Happening::Answer(at, how) if !self.workers.open.is_empty() => {
                let at = at.index(self.workers.open.len());
                let call = self.workers.open.swap_remove(at);
                self.workers.over.push(call.clone());
                self.tell(result(&call.0, call.1, call.2, outcome(how)));
            }
            Happening::Lost(at) if !self.workers.open.is_empty() => {
                let at = at.index(self.workers.open.len());
                let call = self.workers.open.swap_remove(at);
                self.workers.over.push(call);
            }
            Happening::Repeat(at) if !self.workers.over.is_empty() => {
                let call = self.workers.over[at.index(self.workers.over.len())].clone();
                self.tell(result(&call.0, call.1, call.2, good(&json!("again"))));
            }
            Happening::Time(ms) => {
                self.case.now += i64::from(ms);
                self.tell(Input::Wake);
            }
            Happening::Decide(at, how) if !self.case.run.approvals.is_empty() => {
                let keys: Vec<u64> = self.case.run.approvals.keys().copied().collect();
                let approval = keys[at.index(keys.len())];
                let incident = self.case.run.approvals[&approval].kind == ApprovalKind::Incident;
                let decision = match (incident, how % 3) {
                    (true, 0) => Decision::Retry,
                    (true, 1) => Decision::Skip,
                    (true, _) => Decision::Fail,
                    (false, 0) => Decision::Denied,
                    (false, _) => Decision::Approved,
                };
                self.tell(decision_on(approval, decision, "boss"));
            }
            Happening::Cancel(compensate) => self.tell(Input::Cancel {
                by: "ops".into(),
                reason: None,
                compensate,
            }),
            Happening::Pause => self.tell(Input::Pause { by: "ops".into() }),
            Happening::Resume => self.tell(Input::Resume { by: "ops".into() }),
            Happening::Hold(on) => {
                *self.case.held.borrow_mut() = on.then(|| Hold {
                    reason: "safe_mode".into(),
                    until: None,
                });
                self.tell(Input::Wake);
            }
            Happening::Held(at) if !self.workers.open.is_empty() => {
                let at = at.index(self.workers.open.len());
                let (step, kind, attempt) = self.workers.open.swap_remove(at);
                self.tell(Input::Held {
                    step,
                    kind,
                    attempt,
                    hold: Hold {
                        reason: "breaker".into(),
                        until: Some(Millis(self.case.now + 1_000)),
                    },
                });
            }
            _ => {}
        }
    }

    /// Everything that is awaited comes.
    fn drain(&mut self) {
        self.happen(&Happening::Resume);
        self.happen(&Happening::Hold(false));
        for _ in 0..500 {
            if self.case.run.has_ended() {
                return;
            }
            if let Some(approval) = self.case.run.approvals.keys().next().copied() {
                let incident = self.case.run.approvals[&approval].kind == ApprovalKind::Incident;
                let decision = if incident {
                    Decision::Fail
                } else {
                    Decision::Approved
                };
                self.tell(decision_on(approval, decision, "boss"));
            } else if let Some((step, kind, attempt)) = self.workers.open.pop() {
                self.tell(result(&step, kind, attempt, good(&json!(1))));
            } else {
                let due = self.case.run.next_due();
                let due =
                    due.unwrap_or_else(|| panic!("the run is forgotten: {}", self.case.types()));
                self.case.now = self.case.now.max(due.0);
                self.tell(Input::Wake);
            }
        }
        panic!("the run does not end: {}", self.case.types());
    }
}

/// What must hold of every history.
fn check(case: &Case) {
    let events: Vec<&Event> = case.history.iter().map(|(event, _)| event).collect();
    let last = |event: &&&Event| {
        matches!(
            event,
            Event::RunSucceeded { .. }
                | Event::RunFailed { .. }
                | Event::RunDenied { .. }
                | Event::RunCancelled { .. }
        )
    };
    assert_eq!(events.iter().filter(last).count(), 1);
    assert!(events.last().is_some_and(|event| last(&event)));

    // The history gives the state.
    let Event::RunStarted(started) = events[0] else {
        panic!("the first record");
    };
    let mut again = Run::new(Arc::clone(&case.plan), Arc::new((**started).clone()));
    for (event, at) in &case.history {
        again.evolve(event, *at);
    }
    assert_eq!(again, case.run);

    // One accepted result a step; effects are undone in reverse, once each, and nothing else is.
    let mut effective: Vec<Arc<str>> = Vec::new();
    let mut accepted: BTreeMap<Arc<str>, u32> = BTreeMap::new();
    let (mut undone, mut compensate) = (Vec::new(), true);
    for event in &events {
        match event {
            Event::StepSucceeded { step_id, late, .. } => {
                *accepted.entry(step_id.clone()).or_default() += u32::from(!late);
                if !effective.contains(step_id) {
                    effective.push(step_id.clone());
                }
            }
            Event::StepUnknown { step_id, .. } => effective.push(step_id.clone()),
            Event::CancelRequested {
                compensate: asked, ..
            } => compensate &= asked,
            Event::CompensationSucceeded { step_id, .. }
            | Event::CompensationFailed { step_id, .. } => {
                undone.push(step_id.clone());
            }
            _ => {}
        }
    }
    assert!(accepted.values().all(|count| *count <= 1));
    let succeeded = case.run.status() == RunStatus::Succeeded;
    let mut expected: Vec<_> = effective
        .into_iter()
        .filter(|id| {
            case.plan.steps[case.plan.index(id).unwrap()]
                .compensation
                .is_some()
        })
        .collect();
    if succeeded {
        assert!(undone.is_empty());
    } else if compensate {
        // A step that succeeded late, while others were being undone, comes at its turn.
        let late = events
            .iter()
            .any(|event| matches!(event, Event::StepSucceeded { late: true, .. }));
        if late {
            expected.sort();
            undone.sort();
        } else {
            expected.reverse();
        }
        assert_eq!(undone, expected, "{}", case.types());
    }
}

fn random_step() -> impl Strategy<Value = RandomStep> {
    let on = prop::collection::vec(any::<prop::sample::Index>(), 0..3);
    (
        on,
        any::<bool>(),
        prop::bool::weighted(0.2),
        prop::bool::weighted(0.2),
    )
        .prop_map(|(on, compensated, hold, risky)| RandomStep {
            on,
            compensated,
            hold,
            risky,
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// Whatever workers, people and controls do, every run ends, and its history holds what it promises.
    #[test]
    fn every_run_ends_as_it_promises(
        steps in prop::collection::vec(random_step(), 1..7),
        happenings in prop::collection::vec(happening(), 0..60),
    ) {
        let tools = [
            tool("t", &json!({})),
            tool("undo", &json!({})),
            tool("risky", &json!({ "risk": { "lane": "sensitive" } })),
        ];
        let case = Case::start(&random_plan(&steps), &tools, &Value::Null);
        let mut drive = Drive { workers: Workers::default(), case };
        for (event, _) in &drive.case.history {
            if let Event::StepScheduled { step_id, attempt, .. } = event {
                drive.workers.open.push((step_id.clone(), CallKind::Execute, *attempt));
            }
        }
        for happening in happenings {
            drive.happen(&happening);
        }
        drive.drain();
        check(&drive.case);
    }
}
