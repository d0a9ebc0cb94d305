//! Controls from people and other systems: the bodies of records of kinds `cancel`, `pause`, `resume`, `signal`, `decision`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::start::Planned;
use crate::runs::{Decision, Json};

/// The kind of records that cancel a run.
pub const CANCEL: &str = "cancel";
/// The kind of records that pause a run; the body is `{}`.
pub const PAUSE: &str = "pause";
/// The kind of records that resume a paused run; the body is `{}`.
pub const RESUME: &str = "resume";
/// The kind of records that carry a signal for a waiting step.
pub const SIGNAL: &str = "signal";
/// The kind of records that decide an approval or an incident.
pub const DECISION: &str = "decision";

/// Cancels a run.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Cancel {
    /// The reason, for people and the audit log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Whether the steps that have succeeded are compensated; true if absent.
    #[serde(default = "yes")]
    pub compensate: bool,
}

/// A signal for a step that waits for it now, or will later.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Signal {
    /// The name of the signal, which the plan refers to.
    pub signal: String,
    /// The payload, any JSON value; `null` if absent.
    #[serde(default = "Json::null")]
    pub data: Json,
}

/// A decision about an approval or an incident.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Decide {
    /// The `seq` of the record that requested the decision: the id of an approval is `RUN_ID.SEQ`.
    pub approval: u64,
    /// What was decided.
    pub decision: Decision,
    /// The reason, for people and the audit log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The hash of the input that was shown. If the input has changed since, the decision is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input_hash: Option<String>,
    /// For `approved` a changed input, for `skip` the output of the step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<Json>,
    /// For `approved` of an approval of kind `plan`: the plan of the run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<Box<DecidedPlan>>,
}

/// A plan that a person gives.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DecidedPlan {
    /// The plan, its hash and its source.
    pub planned: Planned,
    /// The definitions of the tools that it calls, as in a start.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tools: BTreeMap<String, Box<RawValue>>,
}

const fn yes() -> bool {
    true
}
