//! `/v1/controls`: the emergency controls.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::time::rfc3339;
use crate::{
    base::clock::Millis,
    controls::{
        DISABLED_MAX, Emergency, EmergencyChange, OPERATIONS_MAX, REASON_MAX, TEXT_MAX, is_feature,
        reason_is_good, text_is_good,
    },
};

/// The emergency controls in force on the node that answers.
#[derive(Debug, Serialize, JsonSchema)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "clients rely on the shape of the answer"
)]
pub struct Controls<'a> {
    /// No intake, no starts, no dispatch.
    pub kill_switch: bool,
    /// Starts, decisions and run controls only by keys of kind `person`; events are still accepted.
    pub operator_takeover: bool,
    /// No steps of tools that change something outside, except those in `allowed_operations`.
    pub safe_mode: bool,
    /// The tools that safe mode allows, by name or `prefix:*`.
    pub allowed_operations: &'a [String],
    /// Disabled features with their reasons: `events`, `goals`, `commands`, `workflows`, `webhooks`, `planner`, `workers`, `tool:NAME`,
    /// `workflow:NAME`, `source:NAME`.
    pub disabled: &'a BTreeMap<String, String>,
    /// The number of changes so far; 0 if there was none.
    pub version: u64,
    /// The principal of the last change.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub changed_by: Option<&'a str>,
    /// The time of the last change.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "date-time"))]
    pub changed_at: Option<String>,
    /// The reason of the last change.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'a str>,
    /// Since when each switch is on, and each feature disabled.
    pub since: BTreeMap<&'a str, String>,
    /// The controls set by the environment of this node, which override the others.
    pub held_by_environment: Vec<&'static str>,
    /// A record of the controls cannot be verified, so this node refuses intake until the next change.
    pub unverified: bool,
}

impl<'a> Controls<'a> {
    /// The controls as shown.
    pub fn new(emergency: &'a Emergency) -> Self {
        let state = &emergency.state;
        let changed = state.version > 0 && !state.changed_by.is_empty();
        let since = state.since.iter();
        Self {
            kill_switch: emergency.kill_switch(),
            operator_takeover: emergency.operator_takeover(),
            safe_mode: emergency.safe_mode(),
            allowed_operations: &state.allowed_operations,
            disabled: &state.disabled,
            version: state.version,
            changed_by: changed.then_some(&state.changed_by),
            changed_at: changed.then(|| rfc3339(Millis(state.changed_at))),
            reason: changed.then_some(&state.reason),
            since: since
                .map(|(control, since)| (control.as_str(), rfc3339(Millis(since.at))))
                .collect(),
            held_by_environment: emergency.held.variables().map(|(name, _)| name).collect(),
            unverified: emergency.unverified,
        }
    }
}

// Serde treats the reason as optional, so that the error can name it.
/// A change of the emergency controls; absent members stay unchanged.
#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("required" = ["reason"]))]
pub struct ChangeControls {
    /// Sets the kill switch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kill_switch: Option<bool>,
    /// Sets operator take-over.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub operator_takeover: Option<bool>,
    /// Sets safe mode.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub safe_mode: Option<bool>,
    /// The whole list of tools that safe mode allows: names, or `prefix:*`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = OPERATIONS_MAX))]
    pub allowed_operations: Option<Vec<String>>,
    /// Features to disable, each with a reason of at most 512 bytes; `null` enables one again. Others stay unchanged; at most 128 can be
    /// disabled.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub disabled: BTreeMap<String, Option<String>>,
    /// The reason, for the audit log and for people: 1 to 512 bytes without control characters.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String", length(max = REASON_MAX))]
    pub reason: Option<String>,
}

/// Why a change is invalid.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadChange {
    /// There is no reason.
    #[error("`reason` is required and must not be empty")]
    NoReason,
    /// The reason of the change, or of a feature, is invalid.
    #[error("{0} must have 1 to {REASON_MAX} bytes, not only spaces, and no control characters")]
    Reason(String),
    /// The name of an operation is invalid.
    #[error(
        "`allowed_operations` takes {OPERATIONS_MAX} names of tools (or `prefix:*`) of 1 to {TEXT_MAX} bytes without control characters"
    )]
    Operations,
    /// There is no such feature.
    #[error(
        "`disabled`: there is no feature `{0}`; there are `events`, `goals`, `commands`, `workflows`, `webhooks`, `planner`, `workers`, `tool:NAME`, `workflow:NAME` and `source:NAME`"
    )]
    Feature(String),
    /// Too many features would be disabled.
    #[error("`disabled` takes {DISABLED_MAX} features")]
    Features,
}

impl ChangeControls {
    /// Validates the change.
    pub fn check(self) -> Result<EmergencyChange, BadChange> {
        let reason = self.reason.filter(|reason| !reason.is_empty());
        let reason = reason.ok_or(BadChange::NoReason)?;
        if !reason_is_good(&reason) {
            return Err(BadChange::Reason("`reason`".to_owned()));
        }
        if let Some(operations) = &self.allowed_operations
            && (operations.len() > OPERATIONS_MAX || !operations.iter().all(|o| text_is_good(o)))
        {
            return Err(BadChange::Operations);
        }
        if self.disabled.len() > DISABLED_MAX {
            return Err(BadChange::Features);
        }
        for (feature, why) in &self.disabled {
            if !is_feature(feature) {
                let mut shown = feature.clone();
                shown.truncate(shown.floor_char_boundary(TEXT_MAX));
                return Err(BadChange::Feature(shown));
            }
            if why.as_ref().is_some_and(|why| !reason_is_good(why)) {
                return Err(BadChange::Reason(format!("the reason of `{feature}`")));
            }
        }
        Ok(EmergencyChange {
            kill_switch: self.kill_switch,
            operator_takeover: self.operator_takeover,
            safe_mode: self.safe_mode,
            allowed_operations: self.allowed_operations,
            disabled: self.disabled,
            reason,
        })
    }
}
