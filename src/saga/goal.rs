//! What a run of a goal has beside its plan: the guardian's finding, and the state of its request for a plan.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::base::clock::Millis;

/// The code of a goal for which there is no plan.
pub(super) const NO_PLAN: &str = "no_plan";
/// The maximum number of requests.
pub(super) const REQUESTS_MAX: u32 = 3;
/// The reason of an approval that the requester's API key demands.
pub(super) const REQUIRED_BY_KEY: &str = "required_by_key";

/// The part of a run's state that only a goal has.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Goal {
    /// It has no plan yet.
    pub(super) unplanned: bool,
    /// The guardian's score for prompt injection, from 0 to 1.
    pub(super) score: f64,
    /// A person must approve the run because of this score, or of the guardian's language model.
    pub(super) flagged: bool,
    /// The open request for a plan: the `seq` of its record.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) request: Option<u64>,
    /// When the plan is requested again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) due: Option<Millis>,
    /// The number of requests so far.
    pub(super) requests: u32,
    /// Steps that need a person's approval, with the codes of the reasons.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) red: BTreeMap<String, Vec<String>>,
}

impl Goal {
    /// Whether it is that of a run without a goal, which need not be stored.
    pub(super) fn is_none(&self) -> bool {
        *self == Self::default()
    }

    pub(super) fn close_request(&mut self) {
        (self.request, self.due) = (None, None);
    }
}

/// The value of `slots` in expressions.
pub(super) fn slots(slots: &BTreeMap<String, Value>) -> Value {
    let slots = slots.iter();
    Value::Object(slots.map(|(k, v)| (k.clone(), v.clone())).collect())
}
