//! A cache of compiled plans, shared by all runs of the same plan with the same tools.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError},
};

use serde_json::{Value, value::RawValue};
use xxhash_rust::xxh3::Xxh3;

use crate::{
    commands::start::{Planned, Start},
    plans::{BUILTINS, OnExhausted, Plan, Tool},
    runs::Json,
    saga::{CompiledPlan, compiled::Defaults, goal::NO_PLAN},
    stream::Rejected,
};

/// The maximum number of cached plans.
const PLANS: usize = 512;

/// A compiled plan, with the parts that readers see.
#[derive(Debug)]
pub(super) struct RunPlan {
    pub(super) compiled: Arc<CompiledPlan>,
    pub(super) source: &'static str,
    pub(super) hash: String,
    /// The plan, as given.
    pub(super) plan: Json,
    /// Its steps, as given.
    pub(super) steps: Json,
    /// The `worker` of each tool, as JSON text without secrets, by tool.
    pub(super) workers: HashMap<String, String>,
}

/// The cache, for all partitions.
#[derive(Default)]
pub(super) struct Plans(Mutex<HashMap<u128, Arc<RunPlan>>>);

impl Plans {
    /// The plan of a start. An invalid one is rejected; the port accepts no such start.
    pub(super) fn of(&self, start: &Start) -> Result<Arc<RunPlan>, Rejected> {
        let Some(planned) = &start.plan else {
            return Err(Rejected::new(NO_PLAN, "the start has no plan"));
        };
        let hold = start.workflow.as_ref().is_some_and(|w| w.hold);
        let key = key(planned, &start.tools, hold);
        let lock = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(ready) = lock().get(&key) {
            return Ok(Arc::clone(ready));
        }
        let ready = Arc::new(compile(planned, &start.tools, hold)?);
        let mut plans = lock();
        if plans.len() >= PLANS {
            plans.clear();
        }
        plans.insert(key, Arc::clone(&ready));
        Ok(ready)
    }
}

/// The cache key: covers the texts, not just the plan's hash, because a record could carry the hash of another plan.
fn key(planned: &Planned, tools: &BTreeMap<String, Box<RawValue>>, hold: bool) -> u128 {
    let mut hasher = Xxh3::new();
    let mut add = |text: &str| {
        hasher.update(&(text.len() as u64).to_le_bytes());
        hasher.update(text.as_bytes());
    };
    add(planned.source.name());
    add(&planned.hash);
    add(planned.steps.get());
    for (name, definition) in tools {
        add(name);
        add(definition.get());
    }
    hasher.update(&[u8::from(hold)]);
    hasher.digest128()
}

fn compile(
    planned: &Planned,
    tools: &BTreeMap<String, Box<RawValue>>,
    hold: bool,
) -> Result<RunPlan, Rejected> {
    let invalid = |message: String| Rejected::new("invalid_plan", message);
    let value: Value =
        serde_json::from_str(planned.steps.get()).map_err(|e| invalid(e.to_string()))?;
    let plan = Plan::read(&value).map_err(|faults| {
        let first = faults.first().map(ToString::to_string);
        invalid(first.unwrap_or_default())
    })?;
    let mut known: HashMap<String, Arc<Tool>> = HashMap::new();
    let mut workers = HashMap::new();
    for (name, definition) in tools {
        let value: Value =
            serde_json::from_str(definition.get()).map_err(|e| invalid(e.to_string()))?;
        let tool = Tool::read(&value).map_err(|faults| {
            let first = faults.first().map(ToString::to_string);
            invalid(format!("tool `{name}`: {}", first.unwrap_or_default()))
        })?;
        workers.insert(name.clone(), value["worker"].to_string());
        known.insert(name.clone(), Arc::new(tool));
    }
    for (name, tool) in BUILTINS.iter() {
        let worker = serde_json::json!({ "builtin": name });
        workers.insert((*name).to_owned(), worker.to_string());
        known.insert((*name).to_owned(), Arc::new(tool.clone()));
    }
    let defaults = Defaults {
        on_exhausted: hold.then_some(OnExhausted::Hold),
    };
    let compiled = CompiledPlan::new(&plan, defaults, |name| known.get(name).cloned())
        .map_err(|e| invalid(e.to_string()))?;
    Ok(RunPlan {
        compiled: Arc::new(compiled),
        source: planned.source.name(),
        hash: planned.hash.clone(),
        steps: Json::of(&value["steps"]),
        plan: Json::of(&value),
        workers,
    })
}
