//! The emergency controls in force for the runs of a partition: the state that records of `commands` brought, and the controls that the
//! node of the lane holds by itself.
//!
//! Both are rows of keyed state, because runs are held and released by a comparison with what they were told last: a lane that moves to
//! a node that holds other controls wakes the runs that are held.

use super::rows::{CONTROLS, ControlsRow, OWN_HOLDS, OwnHoldsRow};
use crate::{
    base::clock::Millis,
    controls::{Emergency, EmergencyState, Held, KILL_SWITCH, OPERATOR_TAKEOVER, SAFE_MODE},
    state::{Space, StateError, StateStore},
};

/// The controls in force, as the runs were told last.
pub(super) struct InForce {
    /// The state of the topic, with the controls that the node holds.
    pub(super) emergency: Emergency,
    /// Since when the node holds each.
    own: OwnHoldsRow,
}

impl InForce {
    /// Reads the rows.
    pub(super) fn load(state: &StateStore, space: &Space) -> Result<Self, StateError> {
        let row = CONTROLS.get(state, space, &0)?;
        let own = OWN_HOLDS.get(state, space, &0)?.unwrap_or_default();
        let mut in_force = Self {
            emergency: Emergency {
                state: row.map_or_else(EmergencyState::default, |row| row.0),
                ..Emergency::default()
            },
            own: OwnHoldsRow::default(),
        };
        in_force.set_own(own);
        Ok(in_force)
    }

    /// The row of the controls that the node holds, if they have changed.
    pub(super) fn own_changed(&self, held: Held, now: Millis) -> Option<OwnHoldsRow> {
        (held != self.emergency.held).then(|| {
            let since = |control: &str| self.own.0.get(control).copied().unwrap_or(now.0);
            let controls = held.variables();
            OwnHoldsRow(
                controls
                    .map(|(control, _)| (control.to_owned(), since(control)))
                    .collect(),
            )
        })
    }

    /// Takes in what the node holds.
    pub(super) fn set_own(&mut self, own: OwnHoldsRow) {
        let holds = |control: &str| own.0.contains_key(control);
        self.emergency.held = Held {
            kill_switch: holds(KILL_SWITCH),
            operator_takeover: holds(OPERATOR_TAKEOVER),
            safe_mode: holds(SAFE_MODE),
        };
        self.own = own;
    }

    /// Takes in a state of the topic.
    pub(super) fn set_state(&mut self, row: ControlsRow) {
        self.emergency.state = row.0;
    }

    /// Since when a control is in force, by its name; `None`: it is not in force.
    pub(super) fn since(&self, control: &str, now: Millis) -> Option<Millis> {
        let kill_switch = control == KILL_SWITCH;
        if kill_switch && !self.emergency.kill_switch() {
            return None;
        }
        let of_state = self.emergency.state.since.get(control);
        let of_state = of_state.map(|since| since.at);
        let first = of_state
            .into_iter()
            .chain(self.own.0.get(control).copied())
            .min();
        match first {
            Some(first) => Some(Millis(first).min(now)),
            None => kill_switch.then_some(now),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controls::Since;

    #[test]
    fn a_control_is_in_force_since_the_topic_or_the_node_holds_it() {
        let state = StateStore::in_memory();
        let mut controls = InForce::load(&state, &Space::new("saga", 0)).unwrap();
        let safe_mode = Held {
            safe_mode: true,
            ..Held::default()
        };
        let both = Held {
            kill_switch: true,
            ..safe_mode
        };
        assert_eq!(controls.own_changed(Held::default(), Millis(1)), None);
        let own = controls.own_changed(safe_mode, Millis(10)).unwrap();
        controls.set_own(own);
        assert!(controls.emergency.safe_mode() && !controls.emergency.kill_switch());
        // What is held already is held since then.
        let own = controls.own_changed(both, Millis(20)).unwrap();
        controls.set_own(own);
        assert_eq!(controls.own_changed(both, Millis(30)), None);
        assert_eq!(controls.since(SAFE_MODE, Millis(30)), Some(Millis(10)));
        assert_eq!(controls.since(KILL_SWITCH, Millis(30)), Some(Millis(20)));
        let since = Since {
            at: 15,
            by: "ops".into(),
            reason: "drill".into(),
        };
        controls.set_state(ControlsRow(EmergencyState {
            kill_switch: true,
            since: [(KILL_SWITCH.to_owned(), since)].into(),
            ..EmergencyState::default()
        }));
        assert_eq!(controls.since(KILL_SWITCH, Millis(30)), Some(Millis(15)));
        controls.set_state(ControlsRow(EmergencyState::default()));
        let own = controls.own_changed(Held::default(), Millis(40)).unwrap();
        controls.set_own(own);
        assert_eq!(controls.since(KILL_SWITCH, Millis(50)), None);
        assert_eq!(controls.since(SAFE_MODE, Millis(50)), None);
    }
}
