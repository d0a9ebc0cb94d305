//! The state in the record of the controls, and changes of it: pure.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    base::clock::Millis,
    controls::{
        hold::{KILL_SWITCH, OPERATOR_TAKEOVER, SAFE_MODE},
        text_is_good,
    },
};

/// The feature `events`: `POST /v1/events` and admission.
pub const EVENTS: &str = "events";

/// The features without a name.
pub const FEATURES: [&str; 7] = [
    EVENTS,
    "goals",
    "commands",
    "workflows",
    "webhooks",
    "planner",
    "workers",
];
/// The kinds of features with a name, such as `tool:NAME`.
const NAMED_FEATURES: [&str; 3] = ["tool", "workflow", "source"];

/// The size limit of a reason, in bytes.
pub const REASON_MAX: usize = 512;
/// The maximum number of allowed operations.
pub const OPERATIONS_MAX: usize = 256;
/// The maximum number of disabled features.
pub const DISABLED_MAX: usize = 128;

/// Whether the feature exists.
pub fn is_feature(name: &str) -> bool {
    FEATURES.contains(&name)
        || name
            .split_once(':')
            .is_some_and(|(kind, name)| NAMED_FEATURES.contains(&kind) && text_is_good(name))
}

/// Whether a text is valid as the reason of a change or of a disabled feature.
pub fn reason_is_good(text: &str) -> bool {
    !text.trim().is_empty() && text.len() <= REASON_MAX && !text.chars().any(char::is_control)
}

/// The body of the record on `controls`, and of the records of kind `controls` on `commands`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EmergencyState {
    /// From 1; 0 if the controls were never changed.
    pub version: u64,
    /// No intake, no starts, no dispatch.
    pub kill_switch: bool,
    /// Starts, decisions and run controls only by persons.
    pub operator_takeover: bool,
    /// No steps of tools that change something outside.
    pub safe_mode: bool,
    /// The tools that safe mode allows, or `prefix:*`.
    pub allowed_operations: Vec<String>,
    /// The disabled features, with reasons.
    pub disabled: BTreeMap<String, String>,
    /// The principal of the last change; empty if there was none.
    pub changed_by: String,
    /// The time of the last change, in milliseconds since the Unix epoch.
    pub changed_at: i64,
    /// The reason of the last change.
    pub reason: String,
    /// The change that put each control in force, or disabled each feature.
    pub since: BTreeMap<String, Since>,
}

/// The change that put a control in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Since {
    /// Milliseconds since the Unix epoch.
    pub at: i64,
    /// The principal.
    pub by: String,
    /// The reason.
    pub reason: String,
}

/// A change of the controls; `None` leaves a control unchanged.
#[derive(Clone, Debug, Default)]
pub struct EmergencyChange {
    /// Sets the kill switch.
    pub kill_switch: Option<bool>,
    /// Sets the take-over.
    pub operator_takeover: Option<bool>,
    /// Sets safe mode.
    pub safe_mode: Option<bool>,
    /// Replaces the list of operations that safe mode allows.
    pub allowed_operations: Option<Vec<String>>,
    /// Disables features with a reason; `None` enables one again. Others stay unchanged.
    pub disabled: BTreeMap<String, Option<String>>,
    /// The reason.
    pub reason: String,
}

/// Too many features would be disabled.
#[derive(Debug, thiserror::Error)]
#[error("at most {DISABLED_MAX} features may be disabled at once")]
pub struct TooManyDisabled;

impl EmergencyState {
    /// Applies a change, which results in the next version.
    pub(super) fn merge(
        &self,
        change: &EmergencyChange,
        by: &str,
        now: Millis,
    ) -> Result<Self, TooManyDisabled> {
        let mut next = self.clone();
        next.version += 1;
        next.kill_switch = change.kill_switch.unwrap_or(self.kill_switch);
        next.operator_takeover = change.operator_takeover.unwrap_or(self.operator_takeover);
        next.safe_mode = change.safe_mode.unwrap_or(self.safe_mode);
        if let Some(allowed) = &change.allowed_operations {
            next.allowed_operations.clone_from(allowed);
        }
        for (feature, reason) in &change.disabled {
            match reason {
                Some(reason) => next.disabled.insert(feature.clone(), reason.clone()),
                None => next.disabled.remove(feature),
            };
        }
        if next.disabled.len() > DISABLED_MAX {
            return Err(TooManyDisabled);
        }
        by.clone_into(&mut next.changed_by);
        next.changed_at = now.0;
        next.reason.clone_from(&change.reason);
        let switches = [
            (KILL_SWITCH, next.kill_switch),
            (OPERATOR_TAKEOVER, next.operator_takeover),
            (SAFE_MODE, next.safe_mode),
        ];
        let on = switches.into_iter().filter(|(_, on)| *on);
        let on = on.map(|(name, _)| name.to_owned());
        let on: Vec<String> = on.chain(next.disabled.keys().cloned()).collect();
        next.since = on
            .into_iter()
            .map(|control| {
                let known = self.since.get(&control).cloned();
                let since = known.unwrap_or_else(|| Since {
                    at: now.0,
                    by: by.to_owned(),
                    reason: change.reason.clone(),
                });
                (control, since)
            })
            .collect();
        Ok(next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(name: &str, value: Option<&str>) -> BTreeMap<String, Option<String>> {
        BTreeMap::from([(name.to_owned(), value.map(str::to_owned))])
    }

    #[test]
    fn features_have_known_names() {
        for good in [
            "events",
            "workers",
            "tool:send mail",
            "source:a:b",
            "workflow:x",
        ] {
            assert!(is_feature(good), "{good}");
        }
        for bad in ["", "event", "tool", "tool:", "key:x", "tool:a\nb", "Events"] {
            assert!(!is_feature(bad), "{bad}");
        }
    }

    #[test]
    fn a_change_touches_what_it_names() {
        let one = EmergencyChange {
            kill_switch: Some(true),
            disabled: set("goals", Some("audit")),
            reason: "incident 7".into(),
            ..EmergencyChange::default()
        };
        let two = EmergencyChange {
            safe_mode: Some(true),
            allowed_operations: Some(vec!["read:*".into(), "pay".into()]),
            disabled: set("tool:x", Some("broken")),
            reason: "careful".into(),
            ..EmergencyChange::default()
        };
        let first = EmergencyState::default();
        let first = first.merge(&one, "ann", Millis(1)).unwrap();
        let second = first.merge(&two, "bob", Millis(2)).unwrap();
        assert_eq!((second.version, second.kill_switch), (2, true));
        assert_eq!(second.disabled.len(), 2);
        let since = |name: &str| second.since[name].clone();
        assert_eq!(
            (since("kill_switch").by, since("goals").at),
            ("ann".into(), 1)
        );
        assert_eq!(
            (since("safe_mode").by, since("tool:x").at),
            ("bob".into(), 2)
        );

        let lift = EmergencyChange {
            kill_switch: Some(false),
            disabled: set("goals", None),
            reason: "over".into(),
            ..EmergencyChange::default()
        };
        let third = second.merge(&lift, "ann", Millis(3)).unwrap();
        assert!(third.safe_mode && !third.kill_switch && !third.since.contains_key("kill_switch"));
        assert_eq!(third.disabled.keys().collect::<Vec<_>>(), ["tool:x"]);
        assert_eq!(third.since["safe_mode"].at, 2);
        let text = serde_json::to_string(&third).unwrap();
        assert_eq!(
            serde_json::from_str::<EmergencyState>(&text).unwrap(),
            third
        );
    }

    #[test]
    fn the_record_is_bounded() {
        let long = "é".repeat(REASON_MAX / 2);
        let change = EmergencyChange {
            kill_switch: Some(true),
            operator_takeover: Some(true),
            safe_mode: Some(true),
            allowed_operations: Some(vec!["x".repeat(256); OPERATIONS_MAX]),
            disabled: (0..DISABLED_MAX)
                .map(|n| (format!("tool:{n:0>256}"), Some(long.clone())))
                .collect(),
            reason: long.clone(),
        };
        let state = EmergencyState::default();
        let largest = state
            .merge(&change, &"p".repeat(256), Millis(i64::MAX))
            .unwrap();
        assert!(serde_json::to_string(&largest).unwrap().len() < 512 << 10);
        let more = EmergencyChange {
            disabled: set("events", Some("one more")),
            ..EmergencyChange::default()
        };
        assert!(largest.merge(&more, "p", Millis(1)).is_err());
    }
}
