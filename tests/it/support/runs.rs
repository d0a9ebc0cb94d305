//! Histories of runs, written by the real core.

use std::sync::Arc;

use omnilink::{
    base::clock::{Clock, Millis, SystemClock},
    log::Record,
    plans::{BUILTINS, Plan, Tool},
    runs::{CallKind, Decision, Json, PlanReady, RunRecord, RunStatus, Started, StepError},
    saga::{self, CallResult, CompiledPlan, Defaults, Effects, Env, Input, Outcome},
};
use serde_json::{Value, json};
use uuid::Uuid;

/// A run that a test drives, and its records.
pub struct Story {
    pub tenant: String,
    pub run_id: String,
    pub run: saga::Run,
    pub records: Vec<RunRecord>,
    pub now: Millis,
}

fn tool(name: &str, kind: &str) -> Arc<Tool> {
    let definition = json!({
        "name": name, "description": "a tool", "worker": { "claim": {} }, "kind": kind, "risk": { "lane": "safe" }
    });
    Arc::new(Tool::read(&definition).unwrap())
}

/// Two steps that can be undone, one that a person approves, and one that waits for all.
pub fn plan() -> Value {
    let undo = json!({ "tool": "undo", "input": "{{ step.output }}" });
    json!({
        "steps": [
            { "id": "reserve", "tool": "t", "input": { "n": "{{ params.n }}" }, "compensate": undo },
            { "id": "note", "tool": "t", "compensate": undo },
            { "id": "pay", "tool": "pay", "input": "{{ params }}", "depends_on": ["reserve"] },
            { "id": "close", "tool": "t", "depends_on": ["pay", "note"], "on_exhausted": "hold" },
        ],
        "output": { "paid": "{{ steps.pay.output }}" },
    })
}

pub fn good(output: &Value) -> Outcome {
    Outcome::Succeeded(Json::of(output))
}

pub fn bad(retryable: bool) -> Outcome {
    Outcome::Failed {
        error: StepError::new("broken", "it is broken"),
        retryable,
        retry_after_ms: None,
        answered: true,
    }
}

pub fn started(params: &Value) -> Started {
    Started::new(Json::of(params), "tester", SystemClock.now())
}

impl Story {
    /// A run of [`plan`] that was asked for now.
    pub fn start(tenant: &str, params: &Value) -> Self {
        Self::start_of(tenant, &plan(), started(params))
    }

    pub fn start_of(tenant: &str, plan: &Value, started: Started) -> Self {
        let tools = [
            tool("t", "write"),
            tool("undo", "write"),
            tool("pay", "payment"),
        ];
        let find = |name: &str| {
            let own = tools.iter().find(|tool| tool.name == name).cloned();
            own.or_else(|| BUILTINS.get(name).cloned().map(Arc::new))
        };
        let read = Plan::read(plan).unwrap_or_else(|faults| panic!("{faults:?}"));
        let compiled = Arc::new(CompiledPlan::new(&read, Defaults::default(), find).unwrap());
        let ready = PlanReady {
            source: "workflow".into(),
            hash: "ab".repeat(32),
            plan: Json::of(plan),
            found: Box::default(),
        };
        let now = started.received_at;
        let (run, effects) = saga::start(compiled, started, ready, &env(now));
        let mut story = Self {
            tenant: tenant.to_owned(),
            run_id: Uuid::new_v4().to_string(),
            run,
            records: Vec::new(),
            now,
        };
        story.write(&effects, "start:0:17");
        story
    }

    fn write(&mut self, effects: &Effects, causation: &str) {
        for event in &effects.events {
            let seq = self.records.len() as u64 + 1;
            let of = (&*self.tenant, &*self.run_id);
            let record = RunRecord::new(of, seq, event, self.now, Some(causation));
            self.records.push(record);
        }
    }

    pub fn tell(&mut self, input: Input) {
        self.now.0 += 10;
        let effects = saga::decide(&mut self.run, input, &env(self.now));
        self.write(&effects, "result:0:18");
    }

    pub fn answer(&mut self, step: &str, attempt: u32, outcome: Outcome) {
        self.result(step, CallKind::Execute, attempt, outcome);
    }

    pub fn result(&mut self, step: &str, kind: CallKind, attempt: u32, outcome: Outcome) {
        self.tell(Input::Result(CallResult {
            step: step.into(),
            kind,
            attempt,
            outcome,
        }));
    }

    /// The number of the last question.
    pub fn question(&self) -> u64 {
        let asks = |record: &&RunRecord| {
            ["approval_requested", "incident_opened"].contains(&&*record.kind)
        };
        let last = self.records.iter().rev().find(asks);
        last.map_or(0, |record| record.seq as u64)
    }

    pub fn decide(&mut self, decision: Decision) {
        self.tell(Input::Decision {
            approval: self.question(),
            decision,
            by: "ann".into(),
            on_behalf_of: None,
            reason: Some("checked".into()),
            input_hash: None,
            value: None,
            plan: None,
        });
    }

    pub fn cancel(&mut self) {
        self.tell(Input::Cancel {
            by: "ann".into(),
            reason: Some("ordered twice".into()),
            compensate: true,
        });
    }

    /// To the end, as well as it can be.
    pub fn succeed(&mut self) {
        self.answer("reserve", 1, good(&json!({ "id": "r-4" })));
        self.answer("note", 1, good(&Value::Null));
        self.decide(Decision::Approved);
        self.answer("pay", 1, good(&json!({ "receipt": 1.50 })));
        self.answer("close", 1, good(&json!([])));
        assert_eq!(self.run.status(), RunStatus::Succeeded);
    }

    /// One of several ends, or none, as a number says.
    pub fn live(&mut self, number: usize) {
        match number % 8 {
            0 => self.succeed(),
            1 => {
                self.answer("reserve", 1, bad(true));
                self.now.0 += 60_000;
                self.tell(Input::Wake);
                self.answer("reserve", 2, good(&json!("R")));
                self.answer("note", 1, good(&json!("a\0b")));
                self.decide(Decision::Denied);
                self.result("note", CallKind::Compensate, 1, bad(true));
                self.now.0 += 60_000;
                self.tell(Input::Wake);
                self.result("note", CallKind::Compensate, 2, bad(true));
                self.result("reserve", CallKind::Compensate, 1, good(&Value::Null));
                assert!(self.run.has_ended());
            }
            2 => {
                self.answer("reserve", 1, good(&json!("R")));
                self.answer("note", 1, bad(false));
                self.result("reserve", CallKind::Compensate, 1, good(&Value::Null));
                assert!(self.run.has_ended());
            }
            3 => {
                self.answer("reserve", 1, good(&json!("R")));
                self.tell(Input::Pause { by: "ann".into() });
            }
            4 => {
                self.answer("reserve", 1, good(&json!("R")));
                self.answer("note", 1, good(&json!("N")));
            }
            5 => {
                self.answer("reserve", 1, good(&json!("R")));
                self.answer("note", 1, good(&json!("N")));
                self.decide(Decision::Approved);
                self.answer("pay", 1, good(&json!(7)));
                for attempt in 1..=3 {
                    self.answer("close", attempt, bad(true));
                    self.now.0 += 60_000;
                    self.tell(Input::Wake);
                }
                self.tell(Input::Pause { by: "ann".into() });
                self.now.0 += 5_000;
                self.tell(Input::Resume { by: "ann".into() });
                self.decide(Decision::Retry);
            }
            6 => {
                self.answer("reserve", 1, good(&json!("R")));
                self.cancel();
            }
            _ => {}
        }
    }

    pub fn encoded(&self) -> Vec<Record> {
        encoded(&self.records)
    }
}

pub fn encoded(records: &[RunRecord]) -> Vec<Record> {
    let records = records.iter();
    records.map(|record| record.encode().unwrap()).collect()
}

fn env(now: Millis) -> Env<'static> {
    Env {
        now,
        hold: &|_| None,
        approval_expiry_ms: 86_400_000,
        approve_above: 0.7,
        check_event: &|_, _| Ok(()),
        hold_start: false,
        in_force: &|_| None,
        seed: 7,
    }
}
