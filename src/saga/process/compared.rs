//! Compares stored runs with their histories, for the simulation of the processor: whatever happens to its lanes, a run is stored as its
//! events make it.

use std::sync::Arc;

use serde_json::{Map, Value};
use uuid::Uuid;

use super::{
    NAME,
    begin::{self, NewRun},
    compile::Plans,
    rows::{RUNS, RunKey, STARTS, StartRow, TEXTS, TextRow},
};
use crate::{
    base::clock::Millis,
    log::partition_for,
    runs::{Event, Started},
    saga::{CompiledPlan, Run, Snapshot},
    state::{Space, StateError, StateStore},
};

/// The stored runs of a processor.
pub struct StoredRuns {
    state: StateStore,
    partitions: u32,
    plans: Plans,
}

impl StoredRuns {
    /// The runs in the committed keyed state of a processor whose topics have `partitions` partitions.
    pub fn new(state: StateStore, partitions: u32) -> Self {
        Self {
            state,
            partitions,
            plans: Plans::default(),
        }
    }

    /// Checks that a run is stored as its history makes it. `history`: all its records, and when each was written. `Err`: what differs. A
    /// run that has ended must have no rows.
    ///
    /// The whole state of the run is compared, JSON values as text. The plan is taken from the stored start, because a history does not
    /// have the definitions of tools. When the last record was written and when the timer fires is not compared: neither is part of the
    /// run.
    pub fn compare(&self, run_id: &str, history: &[(&Event, Millis)]) -> Result<(), String> {
        let id = Uuid::try_parse(run_id).map_err(|e| e.to_string())?;
        let partition = partition_for(run_id.as_bytes(), self.partitions);
        let (space, key) = (Space::new(NAME, partition), *id.as_bytes());
        let snapshot = RUNS
            .get(&self.state, &space, &key)
            .map_err(|error| unreadable(&error))?;
        let start = STARTS
            .get(&self.state, &space, &key)
            .map_err(|error| unreadable(&error))?;
        let ended = history.iter().any(|(event, _)| event.is_last());
        let (snapshot, StartRow(start)) = match (snapshot, start) {
            (None, None) if ended => return Ok(()),
            (Some(snapshot), Some(start)) if !ended => (snapshot, start),
            (snapshot, start) => {
                let (state, start) = (snapshot.is_some(), start.is_some());
                return Err(format!(
                    "ended: {ended}, state stored: {state}, start stored: {start}"
                ));
            }
        };
        let begun = begin::read(&start, &self.plans).map_err(|rejected| rejected.message)?;
        let plan = begun.plan.as_ref().map(|plan| Arc::clone(&plan.compiled));
        let stored = self.restore((&space, key), snapshot, begun)?;
        same(&stored, &replay(plan.as_ref(), history)?)
    }

    /// The run in a row, with the texts in other rows.
    fn restore(
        &self,
        (space, key): (&Space, RunKey),
        mut snapshot: Snapshot,
        begun: NewRun,
    ) -> Result<Run, String> {
        for text in snapshot.large().to_vec() {
            let row = TEXTS.get(&self.state, space, &(key, text.step, text.text as u8));
            let row = row.map_err(|error| unreadable(&error))?;
            let TextRow(json) = row.ok_or("a text of a step is missing")?;
            snapshot.put_back(text, json);
        }
        let plan = begun.plan.map(|plan| plan.compiled);
        let run = snapshot.restore(plan, Arc::new(begun.started), begun.slots);
        run.ok_or_else(|| "its plan has another number of steps".to_owned())
    }
}

/// The run that its history makes. `plan`: the plan of its stored start, if that has one.
fn replay(plan: Option<&Arc<CompiledPlan>>, history: &[(&Event, Millis)]) -> Result<Run, String> {
    let Some((Event::RunStarted(started), _)) = history.first() else {
        return Err("its history does not begin with its start".to_owned());
    };
    let started = Arc::new(Started::clone(started));
    let mut run = match plan.filter(|_| begins_with_plan(history)) {
        Some(plan) => Run::new(Arc::clone(plan), started),
        None => Run::of_goal(started),
    };
    for (event, at) in history {
        if run.goal.unplanned && matches!(event, Event::PlanReady(_)) {
            let plan = plan.ok_or("its history has a plan, and its stored start has none")?;
            run.adopt(Arc::clone(plan));
        }
        run.evolve(event, *at);
    }
    Ok(run)
}

/// Whether the run was started with a plan, and did not get it by an answer or a decision.
fn begins_with_plan(history: &[(&Event, Millis)]) -> bool {
    let mut events = history.iter().map(|(event, _)| *event);
    let next =
        events.find(|event| !matches!(event, Event::RunStarted(_) | Event::GuardianChecked(_)));
    matches!(next, Some(Event::PlanReady(_)))
}

fn same(stored: &Run, replayed: &Run) -> Result<(), String> {
    if stored == replayed {
        return Ok(());
    }
    let parts = |run: &Run| parts(run).map_err(|e| e.to_string());
    let (one, two) = (parts(stored)?, parts(replayed)?);
    let mut names = [&one, &two]
        .into_iter()
        .filter_map(Value::as_object)
        .flat_map(Map::keys);
    Err(match names.find(|name| one[name] != two[name]) {
        Some(name) => format!(
            "`{name}` is stored as {}, and its history makes it {}",
            one[name], two[name]
        ),
        None => format!("it is stored as {stored:?}, and its history makes it {replayed:?}"),
    })
}

/// The parts of a run by name, to say which of them differs.
fn parts(run: &Run) -> serde_json::Result<Value> {
    let mut parts = serde_json::to_value(Snapshot::of(run, Millis(0), None))?;
    // With their inputs, which rows leave out.
    parts["approvals"] = serde_json::to_value(&run.approvals)?;
    parts["started"] = serde_json::to_value(&*run.started)?;
    parts["slots"] = Value::clone(&run.slots);
    Ok(parts)
}

fn unreadable(error: &StateError) -> String {
    error.to_string()
}
