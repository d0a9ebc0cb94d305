//! The emergency controls of the simulation: the kill switch and safe mode, which records of `commands` switch on and off in each partition.

use std::collections::BTreeMap;

use omnilink::{
    commands::ALL_TENANTS,
    controls::{EmergencyState, SAFE_MODE},
    log::Log,
    runs::{CallKind, Event},
    saga::NAME,
};
use serde_json::Value;

use super::World;
use crate::support::sagas::{PARTITIONS, command};

/// The tools whose calls change something outside.
const CHANGING: [&str; 3] = ["work", "risky", "undo"];

/// The controls that are in force.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Switches {
    pub(super) kill_switch: bool,
    pub(super) safe_mode: bool,
}

impl Switches {
    fn and(self, other: Self) -> Self {
        Self {
            kill_switch: self.kill_switch && other.kill_switch,
            safe_mode: self.safe_mode && other.safe_mode,
        }
    }

    /// Checks an event of a run that was written while these are in force: nothing goes that they forbid, and safe mode holds nothing else.
    /// `plan`: that of the run.
    pub(super) fn check(self, plan: &Value, event: &Event) {
        let call = match event {
            Event::StepScheduled { step_id, .. } => Some((step_id, CallKind::Execute)),
            Event::CompensationScheduled { step_id, .. } => Some((step_id, CallKind::Compensate)),
            Event::PlanRequested => None,
            Event::StepHeld {
                step_id,
                kind,
                reason,
                ..
            } => {
                assert!(
                    reason != SAFE_MODE || changes_something(plan, step_id, *kind),
                    "safe mode holds a call that changes nothing: {event:?}"
                );
                return;
            }
            _ => return,
        };
        assert!(
            !self.kill_switch,
            "a call or a request goes while the kill switch is on: {event:?}"
        );
        if let Some((step_id, kind)) = call.filter(|_| self.safe_mode) {
            assert!(
                !changes_something(plan, step_id, kind),
                "a call that changes something goes in safe mode: {event:?}"
            );
        }
    }
}

/// Whether a call of a step, or the one that undoes it, changes something outside.
fn changes_something(plan: &Value, step_id: &str, kind: CallKind) -> bool {
    let mut steps = plan["steps"].as_array().into_iter().flatten();
    let step = steps.find(|step| step["id"] == *step_id).unwrap();
    let tool = match kind {
        CallKind::Execute => &step["tool"],
        CallKind::Compensate => &step["compensate"]["tool"],
    };
    CHANGING.contains(&tool.as_str().unwrap())
}

/// The controls, and where in `commands` they were switched.
#[derive(Default)]
pub(super) struct Controls {
    pub(super) now: Switches,
    version: u64,
    /// For each partition, the offsets of the switches.
    switched: BTreeMap<u32, Vec<(u64, Switches)>>,
    /// For each partition, the committed position when the histories were read last.
    positions: BTreeMap<u32, u64>,
    /// For each partition, what was in force without a break between the last two readings.
    throughout: BTreeMap<u32, Switches>,
}

impl Controls {
    /// What was in force in a partition when a record of a history was written. `causation`: the record of `commands` that led to it, or a
    /// timer; for a timer only what was in force ever since the previous reading.
    pub(super) fn when(&self, partition: u32, causation: &str) -> Switches {
        match causation.split(':').nth(2) {
            Some(offset) => self.before(partition, offset.parse().unwrap()),
            None => self.throughout.get(&partition).copied().unwrap_or_default(),
        }
    }

    /// What the records before an offset have switched on.
    fn before(&self, partition: u32, offset: u64) -> Switches {
        let mut before = self.switched(partition).iter();
        let last = before.rfind(|(at, _)| *at < offset);
        last.map(|(_, switches)| *switches).unwrap_or_default()
    }

    fn switched(&self, partition: u32) -> &[(u64, Switches)] {
        let switched = self.switched.get(&partition);
        switched.map(Vec::as_slice).unwrap_or_default()
    }

    /// The histories are about to be read, and this is the committed position of a partition.
    fn read_to(&mut self, partition: u32, committed: u64) {
        let from = self.positions.insert(partition, committed).unwrap_or(0);
        let since = self.switched(partition).iter();
        let since = since.filter(|(at, _)| (from..committed).contains(at));
        let all = since.fold(self.before(partition, from), |all, (_, switches)| {
            all.and(*switches)
        });
        self.throughout.insert(partition, all);
    }
}

impl World {
    pub(super) fn set_kill_switch(&mut self, on: bool) {
        self.switch(Switches {
            kill_switch: on,
            ..self.controls.now
        });
    }

    pub(super) fn set_safe_mode(&mut self, on: bool) {
        self.switch(Switches {
            safe_mode: on,
            ..self.controls.now
        });
    }

    pub(super) fn switch(&mut self, to: Switches) {
        self.trace(|| format!("{to:?}"));
        self.controls.version += 1;
        self.controls.now = to;
        let state = EmergencyState {
            version: self.controls.version,
            kill_switch: to.kill_switch,
            safe_mode: to.safe_mode,
            ..EmergencyState::default()
        };
        let mut record = command("", "controls", &serde_json::to_value(state).unwrap());
        record.tenant = ALL_TENANTS.into();
        for partition in 0..PARTITIONS {
            let range = self.log.offset_range(&self.names.commands, partition);
            let switched = self.controls.switched.entry(partition).or_default();
            switched.push((range.unwrap().end, to));
        }
        // Every node appends each change.
        for _ in 0..2 {
            let all = (0..PARTITIONS).map(|partition| self.output(&record, Some(partition)));
            drop(self.log.append_to(all.collect(), None));
        }
    }

    /// To be called before the histories are read.
    pub(super) fn read_positions(&mut self) {
        for partition in 0..PARTITIONS {
            let committed = self.log.committed(NAME, &self.names.commands, partition);
            let committed = committed.unwrap().unwrap_or(0);
            self.controls.read_to(partition, committed);
        }
    }
}
