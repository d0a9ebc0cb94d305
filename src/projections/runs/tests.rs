//! The fold of histories, compared with the core that writes them.

use std::{cell::Cell, sync::Arc};

use proptest::prelude::*;
use serde_json::{Value, json};

use super::{
    fold::{HistoryRecord, Run},
    state::Step,
    work::Work,
};
use crate::{
    base::clock::Millis,
    plans::{BUILTINS, Plan, Tool},
    runs::{
        CallKind, Decision, Event, Json, PlanReady, RunRecord, RunStatus, Started, StepError,
        StepStatus, WorkflowVersion,
    },
    saga::{self, CallResult, CompiledPlan, Defaults, Env, Hold, Input, NewPlan, Outcome},
};

fn tool(name: &str, more: &Value) -> Arc<Tool> {
    let mut definition = json!({
        "name": name, "description": "a tool", "worker": { "claim": {} }, "kind": "write", "risk": { "lane": "safe" }
    });
    let members = more.as_object().unwrap().clone();
    definition.as_object_mut().unwrap().extend(members);
    Arc::new(Tool::read(&definition).unwrap())
}

/// Steps in parallel and one after another, with compensations, an approval, an incident, and a signal.
fn plan() -> Value {
    let undo = json!({ "tool": "undo", "input": "{{ step.output }}" });
    json!({ "steps": [
        { "id": "a", "tool": "t", "compensate": undo },
        { "id": "b", "tool": "t", "compensate": undo, "depends_on": ["a"] },
        { "id": "c", "tool": "pay", "depends_on": ["a"] },
        { "id": "d", "tool": "t", "depends_on": ["a"], "on_exhausted": "hold" },
        { "id": "e", "tool": "wait", "input": { "signal": "go", "timeout_s": 500 }, "depends_on": ["b"] },
        { "id": "f", "tool": "t", "when": "{{ steps.b.output == 1 }}", "depends_on": ["b", "c"] },
    ]})
}

fn compiled(plan: &Value) -> Arc<CompiledPlan> {
    let tools = [
        tool("t", &json!({})),
        tool("undo", &json!({})),
        tool("pay", &json!({ "kind": "payment" })),
    ];
    let find = |name: &str| {
        let own = tools.iter().find(|tool| tool.name == name).cloned();
        own.or_else(|| BUILTINS.get(name).cloned().map(Arc::new))
    };
    let read = Plan::read(plan).unwrap_or_else(|faults| panic!("{faults:?}"));
    Arc::new(CompiledPlan::new(&read, Defaults::default(), find).unwrap())
}

fn ready(plan: &Value) -> PlanReady {
    PlanReady {
        source: "inline".into(),
        hash: "ab".into(),
        plan: Json::of(plan),
        workflow: None,
        found: Box::default(),
    }
}

/// A run of the core, and the fold of its history.
struct Pair {
    run: saga::Run,
    /// The numbers of the requests for a plan.
    requests: Vec<u64>,
    fold: Run,
    seq: i64,
    now: i64,
    held: Cell<bool>,
}

impl Pair {
    fn start(plan: &Value, run_at: Option<i64>, approve: bool) -> Self {
        let mut started = Started::new(Json::of(&json!({ "n": 1 })), "asker", Millis(1_000));
        started.run_at = run_at.map(Millis);
        started.approve_run = approve.then(|| "policy".to_owned()).into_iter().collect();
        let (compiled, ready) = (compiled(plan), ready(plan));
        let begun = saga::start(compiled, started, ready, &env(1_000, &|_| None));
        Self::of(begun)
    }

    /// The run of a goal, without a plan.
    fn goal() -> Self {
        let mut started = Started::new(Json::empty_object(), "asker", Millis(1_000));
        started.goal = Some("Pay Bob".into());
        let begun = saga::start_goal(started, None, None, &env(1_000, &|_| None));
        Self::of(begun)
    }

    fn of((run, effects): (saga::Run, saga::Effects)) -> Self {
        let held = Cell::new(false);
        let mut pair = Self {
            run,
            requests: Vec::new(),
            fold: Run::default(),
            seq: 0,
            now: 1_000,
            held,
        };
        pair.happen(&effects.events);
        pair
    }

    fn happen(&mut self, events: &[Event]) {
        for event in events {
            self.seq += 1;
            if matches!(event, Event::PlanRequested) {
                self.requests.push(self.seq.unsigned_abs());
            }
            let body = serde_json::to_string(event).unwrap();
            self.fold.apply(HistoryRecord {
                seq: self.seq,
                kind: event.name(),
                at: self.now,
                body: &body,
            });
        }
        assert_eq!(self.fold.status(), self.run.status());
        for step in &self.fold.steps {
            self.compare(step);
        }
        assert_eq!(self.fold.seq, self.run.seq() as i64);
    }

    /// Compares a step with the core. The error of an earlier attempt is not shown once the step has succeeded.
    fn compare(&self, step: &Step) {
        let core = self.run.execution(&step.id);
        assert_eq!(step.status(), core.status, "{step:?}");
        assert_eq!(step.attempts, core.attempts, "{step:?}");
        let text = |json: &Option<Json>| json.as_ref().map(|json| json.text().to_owned());
        assert_eq!(step.output, text(&core.output), "{step:?}");
        if core.finished_at.is_some() {
            assert_eq!(
                step.finished_at,
                core.finished_at.map(|at| at.0),
                "{step:?}"
            );
        }
        let error = |text: &String| serde_json::from_str::<StepError>(text).unwrap();
        if !matches!(
            core.status,
            StepStatus::Succeeded | StepStatus::Compensated | StepStatus::CompensationFailed
        ) {
            assert_eq!(step.error.as_ref().map(error), core.error, "{step:?}");
        }
        let undo = step
            .compensation()
            .map(|text| serde_json::from_str::<Value>(&text).unwrap());
        let core = core.compensation.map(|undo| {
            let mut view = json!({ "status": undo.status, "attempts": undo.attempts });
            if let Some(error) = undo.error {
                view["error"] = serde_json::to_value(error).unwrap();
            }
            view
        });
        assert_eq!(undo, core, "{step:?}");
    }

    fn tell(&mut self, input: Input) {
        let held = self.held.get();
        let hold = move |_: &Tool| {
            held.then(|| Hold {
                reason: "safe_mode".into(),
                until: None,
            })
        };
        let effects = saga::decide(&mut self.run, input, &env(self.now, &hold));
        self.happen(&effects.events);
    }

    fn answer(&mut self, step: &str, kind: CallKind, attempt: u32, outcome: Outcome) {
        self.tell(Input::Result(CallResult {
            step: step.into(),
            kind,
            attempt,
            outcome,
        }));
    }

    /// A planner answers the last request, or an earlier one.
    fn plan(&mut self, number: u32) {
        let request = self.requests[number as usize / 4 % self.requests.len()];
        let outcome = if number.is_multiple_of(3) {
            Err(Box::new(StepError::new("no_plan", "there is none").into()))
        } else {
            Ok(Box::new(new_plan()))
        };
        self.tell(Input::Plan { request, outcome });
    }

    /// A person gives a plan.
    fn give_plan(&mut self) {
        let Some(approval) = self.fold.approvals.keys().next_back().copied() else {
            return;
        };
        self.tell(Input::Decision {
            approval: approval.unsigned_abs(),
            decision: Decision::Approved,
            by: "ann".into(),
            on_behalf_of: None,
            reason: None,
            input_hash: None,
            value: None,
            plan: Some(Ok(Box::new(new_plan()))),
        });
    }

    fn step(&self, id: &str) -> &Step {
        self.fold.steps.iter().find(|step| *step.id == *id).unwrap()
    }

    /// Does the action that a random number selects.
    fn act(&mut self, number: u32) {
        let steps = ["a", "b", "c", "d", "e", "f"];
        let step = steps[number as usize / 16 % steps.len()];
        let attempt = 1 + number / 128 % 4;
        let by = ["ann", "asker"][number as usize / 7 % 2].to_owned();
        let approvals: Vec<i64> = self.fold.approvals.keys().copied().collect();
        let kind = [CallKind::Execute, CallKind::Compensate][number as usize / 1024 % 2];
        match number % 16 {
            0..=4 => self.answer(step, kind, attempt, good(&json!(number % 3))),
            5 => self.answer(step, kind, attempt, bad(true, true)),
            6 => self.answer(step, kind, attempt, bad(true, false)),
            7 => self.answer(step, kind, attempt, bad(false, true)),
            8 => {
                self.now += 1_000 * i64::from(attempt * attempt);
                self.tell(Input::Wake);
            }
            9 => self.tell(Input::Pause { by }),
            10 => self.tell(Input::Resume { by }),
            11 if number.is_multiple_of(3) => self.tell(Input::Cancel {
                by,
                reason: None,
                compensate: number.is_multiple_of(2),
            }),
            12 | 13 => {
                let Some(approval) = approvals.get(number as usize / 32 % approvals.len().max(1))
                else {
                    return;
                };
                let decisions = [
                    Decision::Approved,
                    Decision::Denied,
                    Decision::Retry,
                    Decision::Skip,
                    Decision::Fail,
                ];
                self.tell(Input::Decision {
                    approval: *approval as u64,
                    decision: decisions[number as usize / 64 % decisions.len()],
                    by: "ann".into(),
                    on_behalf_of: None,
                    reason: None,
                    input_hash: None,
                    value: None,
                    plan: None,
                });
            }
            14 => self.tell(Input::Signal {
                by,
                name: "go".into(),
                data: Json::null(),
            }),
            _ => {
                self.held.set(number.is_multiple_of(5));
                self.tell(Input::Wake);
            }
        }
    }
}

fn new_plan() -> NewPlan {
    NewPlan {
        compiled: compiled(&plan()),
        ready: ready(&plan()),
    }
}

fn env(now: i64, hold: &dyn Fn(&Tool) -> Option<Hold>) -> Env<'_> {
    Env {
        now: Millis(now),
        hold,
        approval_expiry_ms: 60_000,
        approve_above: 0.7,
        check_event: &|_, _| Ok(()),
        hold_start: false,
        in_force: &|_| None,
        seed: 7,
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

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// After every input the status is that of the core; at the end no approval is open, and no step is in progress.
    #[test]
    fn the_status_is_that_of_the_core(
        numbers in proptest::collection::vec(any::<u32>(), 1..120),
        run_at in proptest::option::of(1_000_i64..9_000),
        approve in any::<bool>(),
    ) {
        let mut pair = Pair::start(&plan(), run_at, approve);
        for number in numbers {
            pair.act(number);
        }
        if pair.run.has_ended() {
            prop_assert!(pair.fold.has_ended());
            prop_assert!(pair.fold.finished_at.is_some());
            for approval in pair.fold.approvals.values() {
                prop_assert_ne!(approval.status.as_str(), "pending");
            }
            for step in &pair.fold.steps {
                let open = [StepStatus::Pending, StepStatus::WaitingApproval, StepStatus::Running];
                prop_assert!(!open.contains(&step.status()), "{step:?}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// The same for goals, whose plans come from planners and people.
    #[test]
    fn the_status_of_a_goal_is_that_of_the_core(numbers in proptest::collection::vec(any::<u32>(), 1..60)) {
        let mut pair = Pair::goal();
        prop_assert_eq!(pair.fold.status(), RunStatus::Planning);
        for number in numbers {
            match number % 7 {
                0 => pair.plan(number / 7),
                1 => pair.give_plan(),
                2 if number.is_multiple_of(2) => {
                    pair.now += 600_000;
                    pair.tell(Input::Wake);
                }
                _ => pair.act(number / 7),
            }
        }
        prop_assert_eq!(pair.fold.steps.is_empty(), pair.run.plan().steps.is_empty());
    }
}

/// The row shows workflow and params of the plan.
#[test]
fn the_plan_of_a_goal_sets_workflow_and_params() {
    let mut pair = Pair::goal();
    let mut new = new_plan();
    new.ready.found.params = Some(Json::of(&json!({ "to": "Bob" })));
    new.ready.workflow = Some(WorkflowVersion {
        name: "pay".into(),
        version: "1.0.0".into(),
    });
    let request = pair.requests[0];
    pair.tell(Input::Plan {
        request,
        outcome: Ok(Box::new(new)),
    });
    assert_eq!(pair.fold.status(), RunStatus::Running);
    assert_eq!(pair.fold.workflow, Some(("pay".into(), "1.0.0".into())));
    assert_eq!(pair.fold.params.as_deref(), Some(r#"{"to":"Bob"}"#));
    assert_eq!(pair.run.started().params.text(), r#"{"to":"Bob"}"#);
    assert_eq!(pair.fold.steps.len(), 6);
    // Only until the row is written.
    let records: Vec<RunRecord> = Vec::new();
    let work = Work::folded(std::mem::take(&mut pair.fold), records.iter().collect());
    let (_, _, run) = work.finish();
    assert_eq!((run.workflow, run.params), (None, None));
}

#[test]
fn a_run_that_fails_shows_what_was_undone() {
    let undo = json!({ "tool": "undo", "input": null });
    let plan = json!({ "steps": [
        { "id": "a", "tool": "t", "compensate": undo },
        { "id": "b", "tool": "t", "depends_on": ["a"] },
        { "id": "c", "tool": "t", "depends_on": ["b"] },
    ]});
    let mut pair = Pair::start(&plan, None, false);
    pair.answer("a", CallKind::Execute, 1, bad(true, true));
    assert_eq!(pair.step("a").status(), StepStatus::Running);
    assert!(pair.step("a").error.is_some());
    pair.now += 60_000;
    pair.tell(Input::Wake);
    pair.answer("a", CallKind::Execute, 2, good(&json!("A")));
    let step = pair.step("a");
    assert_eq!((step.status(), step.attempts), (StepStatus::Succeeded, 2));
    assert_eq!(
        (step.output.as_deref(), &step.error),
        (Some("\"A\""), &None)
    );
    assert_eq!(
        (step.started_at, step.finished_at),
        (Some(1_000), Some(61_000))
    );
    pair.answer("b", CallKind::Execute, 1, bad(false, true));
    assert_eq!(pair.fold.status(), RunStatus::Compensating);
    assert_eq!(pair.step("c").status(), StepStatus::Cancelled);
    pair.answer("a", CallKind::Compensate, 1, good(&Value::Null));
    assert_eq!(pair.step("a").status(), StepStatus::Compensated);
    let compensation: Value =
        serde_json::from_str(&pair.step("a").compensation().unwrap()).unwrap();
    assert_eq!(
        compensation,
        json!({ "status": "succeeded", "attempts": 1 })
    );
    let error: Value = serde_json::from_str(pair.fold.error.as_deref().unwrap()).unwrap();
    assert_eq!(error["failed_step_id"], "b");
    assert_eq!(
        error["compensation_results"],
        json!([{ "step_id": "a", "success": true }])
    );
}

/// A pause postpones the expiry of approvals; those that are open at the end expire.
#[test]
fn approvals_are_followed_to_the_end() {
    let plan = json!({ "steps": [{ "id": "c", "tool": "pay", "input": { "to": "bob" } }] });
    let mut pair = Pair::start(&plan, None, false);
    assert_eq!(pair.fold.status(), RunStatus::WaitingApproval);
    let number = *pair.fold.approvals.keys().next().unwrap();
    assert_eq!(pair.fold.approvals[&number].expires_at, 61_000);
    assert_eq!(pair.fold.risk_score, Some(0.8));
    pair.tell(Input::Pause { by: "ann".into() });
    pair.now += 5_000;
    pair.tell(Input::Resume { by: "ann".into() });
    assert_eq!(pair.fold.approvals[&number].expires_at, 66_000);
    pair.tell(Input::Cancel {
        by: "ann".into(),
        reason: None,
        compensate: true,
    });
    let approval = &pair.fold.approvals[&number];
    assert_eq!(approval.status, "expired");
    assert_eq!(approval.reason.as_deref(), Some("the run ends"));
    assert_eq!(pair.fold.status(), RunStatus::Cancelled);
}

/// Stored records and those of a batch are merged by `seq`, also if some come twice or late.
#[test]
fn a_history_is_put_together_by_number() {
    let events = [
        Event::RunStarted(Box::new(Started::new(Json::null(), "ann", Millis(5)))),
        Event::Paused { by: "ann".into() },
        Event::Resumed {
            by: "ann".into(),
            paused_ms: 1,
        },
    ];
    let records: Vec<RunRecord> = (1..)
        .zip(&events)
        .map(|(seq, event)| {
            RunRecord::new(("acme", "r"), seq, event, Millis(9), Some("start:0:17"))
        })
        .collect();
    let stored = super::Stored {
        seq: 3,
        kind: "resumed".into(),
        at: 9,
        record: records[2].body.clone(),
    };
    let mut work = Work::unread(vec![&records[0], &records[1], &records[2], &records[0]]);
    work.fold(&[stored]);
    assert_eq!(work.fresh_numbers(), [1, 2]);
    let (_, _, run) = work.finish();
    assert_eq!(
        (run.status(), run.seq, run.created_at),
        (RunStatus::Queued, 3, 5)
    );
}

#[test]
fn a_record_keeps_its_causation() {
    let event = Event::Paused { by: "ann".into() };
    let mut record = RunRecord::new(("acme", "r"), 1, &event, Millis(9), Some("pause:0:\"17"));
    let text = super::write::record_text(&record);
    let value: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        value,
        json!({ "causation": "pause:0:\"17", "type": "paused", "by": "ann" })
    );
    record.body = "{ }".into();
    let text = super::write::record_text(&record);
    assert_eq!(text, "{\"causation\":\"pause:0:\\\"17\"}");
}
