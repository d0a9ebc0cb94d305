//! What is in force on a node: the state of the topic, and the controls that the node holds by itself.

use std::borrow::Cow;

use super::state::{EVENTS, EmergencyState, is_feature};
use crate::{
    base::clock::Millis,
    controls::hold::{Held, KILL_SWITCH, OPERATOR_TAKEOVER, SAFE_MODE},
};

/// A control in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InForce {
    /// `kill_switch`, `operator_takeover`, `safe_mode`, or the name of a disabled feature.
    pub control: String,
    /// The reason, and who set it.
    pub why: String,
    /// Since when; `None` if this node does not know.
    pub since: Option<Millis>,
}

/// Formatted as in `kill_switch since 2026-01-31T12:00:00Z: incident 7 (ann)`.
impl std::fmt::Display for InForce {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.control)?;
        if is_feature(&self.control) {
            f.write_str(" disabled")?;
        }
        let since = self
            .since
            .and_then(|at| jiff::Timestamp::from_millisecond(at.0).ok());
        if let Some(since) = since {
            write!(f, " since {since:.0}")?;
        }
        write!(f, ": {}", self.why)
    }
}

/// The emergency controls in force on this node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Emergency {
    /// The state on the topic.
    pub state: EmergencyState,
    /// The controls that this node holds by itself, whatever the topic says.
    pub held: Held,
    /// A record could not be verified or understood, and may have closed something, so intake is closed until the next change.
    pub unverified: bool,
}

impl Emergency {
    /// No intake, no starts, no dispatch.
    pub fn kill_switch(&self) -> bool {
        self.state.kill_switch || self.held.kill_switch || self.unverified
    }

    /// Starts, decisions and run controls only by keys of kind `person`.
    pub fn operator_takeover(&self) -> bool {
        self.state.operator_takeover || self.held.operator_takeover
    }

    /// No steps of tools that change something outside, unless they are [allowed](Self::allows).
    pub fn safe_mode(&self) -> bool {
        self.state.safe_mode || self.held.safe_mode
    }

    /// Whether safe mode allows a tool because `allowed_operations` names it.
    pub fn allows(&self, tool: &str) -> bool {
        self.state
            .allowed_operations
            .iter()
            .any(|allowed| match allowed.strip_suffix(":*") {
                Some(prefix) => tool
                    .strip_prefix(prefix)
                    .is_some_and(|rest| rest.starts_with(':')),
                None => allowed == tool,
            })
    }

    /// Why a call of a tool must not run now; `None` if it may. `outside`: a worker executes it. `changes`: it may change something
    /// outside.
    pub fn holds(&self, tool: &str, outside: bool, changes: bool) -> Option<Cow<'static, str>> {
        if self.kill_switch() {
            return Some(Cow::Borrowed(KILL_SWITCH));
        }
        if !self.state.disabled.is_empty() {
            let feature = format!("tool:{tool}");
            if self.disabled(&feature).is_some() {
                return Some(Cow::Owned(feature));
            }
            if outside && self.disabled("workers").is_some() {
                return Some(Cow::Borrowed("workers"));
            }
        }
        let held = changes && self.safe_mode() && !self.allows(tool);
        held.then_some(Cow::Borrowed(SAFE_MODE))
    }

    /// Why a feature such as `goals` or `tool:send_mail` is disabled; `None` if it is not.
    pub fn disabled(&self, feature: &str) -> Option<&str> {
        self.state.disabled.get(feature).map(String::as_str)
    }

    /// The controls that the node holds by itself, whatever the state on the topic; an [unverified](Self::unverified) record has the
    /// effect of the kill switch.
    pub fn own_holds(&self) -> Held {
        Held {
            kill_switch: self.held.kill_switch || self.unverified,
            ..self.held
        }
    }

    /// All controls in force.
    pub fn in_force(&self) -> Vec<InForce> {
        let mut all = Vec::new();
        if self.unverified {
            all.push(InForce {
                control: KILL_SWITCH.to_owned(),
                why:
                    "a record of the controls cannot be verified; change the controls to replace it"
                        .to_owned(),
                since: None,
            });
        }
        for (control, variable) in self.held.variables() {
            all.push(InForce {
                control: control.to_owned(),
                why: format!("{variable} is set on this node"),
                since: None,
            });
        }
        let state = &self.state;
        let switches = [
            (KILL_SWITCH, state.kill_switch),
            (OPERATOR_TAKEOVER, state.operator_takeover),
            (SAFE_MODE, state.safe_mode),
        ];
        let switches = switches.into_iter().filter(|(_, on)| *on);
        let switches = switches.map(|(control, _)| (control, None));
        let disabled = state.disabled.iter();
        let disabled = disabled.map(|(feature, reason)| (feature.as_str(), Some(reason)));
        all.extend(switches.chain(disabled).map(|(control, reason)| {
            let since = state.since.get(control);
            let by = since.map_or("", |since| &since.by);
            let reason = reason.or(since.map(|since| &since.reason));
            InForce {
                control: control.to_owned(),
                why: format!("{} ({by})", reason.map_or("", String::as_str)),
                since: since.map(|since| Millis(since.at)),
            }
        }));
        all
    }

    /// Why admission admits nothing; `None` if the kill switch is off and `events` is not disabled.
    pub fn admission_held(&self) -> Option<String> {
        let disabled = || {
            Some(format!(
                "`{EVENTS}` is disabled: {}",
                self.disabled(EVENTS)?
            ))
        };
        self.processing_held().or_else(disabled)
    }

    /// Why topologies do not process their input; `None` if the kill switch is off.
    pub fn processing_held(&self) -> Option<String> {
        let in_force = self.in_force();
        let kill_switch = in_force
            .into_iter()
            .find(|one| one.control == KILL_SWITCH)?;
        Some(format!("the kill switch is on: {}", kill_switch.why))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_are_allowed_by_name_and_by_prefix() {
        let emergency = Emergency {
            state: EmergencyState {
                allowed_operations: vec!["read:*".into(), "pay".into()],
                ..EmergencyState::default()
            },
            ..Emergency::default()
        };
        for (tool, allowed) in [
            ("pay", true),
            ("pays", false),
            ("read:a", true),
            ("read", false),
        ] {
            assert_eq!(emergency.allows(tool), allowed, "{tool}");
        }
    }

    #[test]
    fn all_that_is_in_force_says_why() {
        let mut emergency = Emergency::default();
        assert!(emergency.in_force().is_empty() && emergency.admission_held().is_none());
        emergency.state.disabled = [(EVENTS.to_owned(), "full".to_owned())].into();
        let said = |emergency: &Emergency| -> Vec<String> {
            emergency
                .in_force()
                .iter()
                .map(ToString::to_string)
                .collect()
        };
        assert_eq!(said(&emergency), ["events disabled: full ()"]);
        assert_eq!(emergency.processing_held(), None);
        let held = emergency.admission_held();
        assert_eq!(held.as_deref(), Some("`events` is disabled: full"));
        emergency.held.safe_mode = true;
        emergency.unverified = true;
        assert!(emergency.kill_switch() && emergency.safe_mode());
        let all = said(&emergency);
        assert!(
            all[0].starts_with("kill_switch: a record") && all.len() == 3,
            "{all:?}"
        );
        assert!(emergency.processing_held().is_some());
    }
}
