//! What people and other systems say to a run: the bodies of records of kinds `cancel`, `pause`, `resume`, `signal`, `decision`.

use serde::{Deserialize, Serialize};

use crate::runs::{Decision, Json};

/// The kind of records that end a run.
pub const CANCEL: &str = "cancel";
/// The kind of records after which a run schedules nothing; the body is `{}`.
pub const PAUSE: &str = "pause";
/// The kind of records after which a paused run goes on; the body is `{}`.
pub const RESUME: &str = "resume";
/// The kind of records that hand data to a step that waits for it.
pub const SIGNAL: &str = "signal";
/// The kind of records that decide an approval or an incident.
pub const DECISION: &str = "decision";

/// The run is to end.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Cancel {
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Whether what was done is undone.
    #[serde(default = "yes")]
    pub compensate: bool,
}

/// Data for a step that waits for it, now or later.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Signal {
    /// Its name.
    pub signal: String,
    /// Its data.
    #[serde(default = "Json::null")]
    pub data: Json,
}

/// A decision about an approval or an incident.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Decide {
    /// The `seq` of the record that asked: the id of an approval is `RUN_ID.SEQ`.
    pub approval: u64,
    /// The decision.
    pub decision: Decision,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The hash of the input that was shown; with another one the decision is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input_hash: Option<String>,
    /// A changed input, or the output of a skipped step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<Json>,
}

const fn yes() -> bool {
    true
}
