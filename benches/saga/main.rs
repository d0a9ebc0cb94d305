//! What a run costs in the core of sagas alone, without log, state and workers: processor time and bytes allocated.
#![allow(
    missing_docs,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::print_stdout
)]

use std::{collections::VecDeque, sync::Arc};

use omnilink::{
    base::clock::Millis,
    plans::{BUILTINS, Plan, Tool},
    runs::{CallKind, Event, Json, PlanReady, Started},
    saga::{CallResult, CompiledPlan, Defaults, Env, Hold, Input, Outcome, decide, start},
};
use serde_json::{Value, json};

#[path = "../common/machine.rs"]
mod machine;
#[path = "../common/report.rs"]
mod report;

use report::{Arguments, Row, median};

/// Runs of a round; the figure is the median of the rounds.
const RUNS: usize = 20_000;
const ROUNDS: usize = 7;

fn main() {
    let Some(arguments) = Arguments::given() else {
        return;
    };
    let runs = arguments.number(0, RUNS);
    let noop = |n: usize, on: Vec<String>| json!({ "id": format!("s{n}"), "tool": "noop", "input": { "n": n }, "depends_on": on });
    let chain = |steps: usize| {
        let on = |n: usize| (n > 0).then(|| format!("s{}", n - 1)).into_iter().collect();
        let steps = (0..steps).map(|n| noop(n, on(n)));
        json!({ "steps": steps.collect::<Vec<_>>() })
    };
    measure("saga: three noop steps", &chain(3), runs, Some(5.0));
    measure("saga: ten noop steps", &chain(10), runs, Some(15.0));
    measure("saga: three steps of workers", &workers(3), runs, None);
    measure("saga: ten steps of workers", &workers(10), runs, None);
    // Five layers of ten, each step after three of the layer before.
    let dag = (0..50).map(|n: usize| {
        let layer = n / 10 * 10;
        let on = (0..3).filter(|_| layer > 0);
        noop(
            n,
            on.map(|k| format!("s{}", layer - 10 + (n + k) % 10))
                .collect(),
        )
    });
    let dag = json!({ "steps": dag.collect::<Vec<_>>() });
    measure("saga: 50 steps in five layers", &dag, runs / 10, None);
}

/// Steps of workers one after another, each with an input that is made of the output before.
fn workers(steps: usize) -> Value {
    let step = |n: usize| match n {
        0 => json!({ "id": "s0", "tool": "work", "input": { "order": "{{ params.order }}" } }),
        n => json!({ "id": format!("s{n}"), "tool": "work", "depends_on": [format!("s{}", n - 1)],
            "input": { "order": format!("{{{{ steps.s{}.output.id }}}}", n - 1) } }),
    };
    json!({ "steps": (0..steps).map(step).collect::<Vec<_>>() })
}

fn measure(name: &str, plan: &Value, runs: usize, target_us: Option<f64>) {
    let plan = compile(plan);
    let params = Json::of(&json!({ "order": "o-1", "amount": 99.5 }));
    let output = Json::of(&json!({ "id": "o-1", "state": "reserved" }));
    let given = Json::of(&json!({ "steps": [] }));
    let mut events = 0;
    let mut round = || {
        let before = machine::thread_cpu();
        for _ in 0..runs {
            events = one(&plan, &params, &given, &output);
        }
        (machine::thread_cpu() - before) / runs as f64
    };
    round();
    let allocated = tikv_jemalloc_ctl::thread::allocatedp::read().unwrap();
    let before = allocated.get();
    let took = median((0..ROUNDS).map(|_| round()));
    let bytes = (allocated.get() - before) / (ROUNDS * runs) as u64;
    let mut row =
        Row::new(name, took, "us CPU").note(format!("{events} records, {bytes} B allocated a run"));
    if let Some(target) = target_us {
        row = row.target_below(target);
    }
    row.print();
}

fn compile(plan: &Value) -> Arc<CompiledPlan> {
    let definition = json!({ "name": "work", "description": "", "worker": { "kafka": {} }, "kind": "write", "risk": { "lane": "safe" } });
    let work = Arc::new(Tool::read(&definition).unwrap());
    let find = |name: &str| match name {
        "work" => Some(Arc::clone(&work)),
        name => BUILTINS.get(name).cloned().map(Arc::new),
    };
    Arc::new(CompiledPlan::new(&Plan::read(plan).unwrap(), Defaults::default(), find).unwrap())
}

/// A whole run; the number of its records.
fn one(plan: &Arc<CompiledPlan>, params: &Json, given: &Json, output: &Json) -> usize {
    let hold: &dyn Fn(&Tool) -> Option<Hold> = &|_| None;
    let env = Env {
        now: Millis(1_000),
        hold,
        approval_expiry_ms: 86_400_000,
        approve_above: 0.7,
        check_event: &|_, _| Ok(()),
        hold_start: false,
        in_force: &|_| None,
        seed: 7,
    };
    let started = Started::new(params.clone(), "bench", Millis(0));
    let ready = PlanReady {
        source: "workflow".into(),
        hash: String::new(),
        plan: given.clone(),
        found: Box::default(),
    };
    let (mut run, effects) = start(Arc::clone(plan), started, ready, &env);
    let mut records = effects.events.len();
    let mut calls = VecDeque::new();
    send(&effects.events, plan, &mut calls);
    while let Some((step, attempt)) = calls.pop_front() {
        let result = CallResult {
            step,
            kind: CallKind::Execute,
            attempt,
            outcome: Outcome::Succeeded(output.clone()),
        };
        let effects = decide(&mut run, Input::Result(result), &env);
        records += effects.events.len();
        send(&effects.events, plan, &mut calls);
    }
    assert!(run.has_ended());
    records
}

/// The calls for workers among these records.
fn send(events: &[Event], plan: &CompiledPlan, calls: &mut VecDeque<(Arc<str>, u32)>) {
    for event in events {
        if let Event::StepScheduled {
            step_id, attempt, ..
        } = event
            && plan
                .index(step_id)
                .is_some_and(|index| plan.steps[index].tool.name == "work")
        {
            calls.push_back((Arc::clone(step_id), *attempt));
        }
    }
}
