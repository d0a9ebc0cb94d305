//! A record of the topic `goals`: a run asks for a plan.

use serde::{Deserialize, Serialize};

use super::json::Json;
use crate::{
    envelope::{OwnRecord, schemas},
    log::Record,
};

static RECORD: OwnRecord = OwnRecord::new(schemas::GOALS);

/// A request for a plan (`schemas/goals.avsc`).
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PlanRequest {
    /// Whose run it is.
    pub tenant: String,
    /// The run's id.
    pub run_id: String,
    /// The `seq` of the record `plan_requested`.
    pub seq: i64,
    /// When it was requested: milliseconds since the Unix epoch.
    pub at: i64,
    /// The goal, with placeholders instead of personal data.
    pub goal: String,
    /// JSON text: the other inputs of a planner, a [`PlanInputs`].
    pub inputs: String,
}

/// The inputs of a planner beside the goal.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct PlanInputs {
    /// The params of the goal, with placeholders.
    pub params: Json,
    /// The context of the goal, with placeholders.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context: Option<Json>,
    /// When the goal was received, in milliseconds since the Unix epoch: relative dates count from it.
    pub received_at: i64,
    /// The workflows that the planner may choose; empty: any. Names, or `NAME@VERSION`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allowed_workflows: Vec<String>,
}

impl PlanRequest {
    /// The record on `goals`; its key is the run.
    pub fn encode(&self) -> Result<Record, apache_avro::Error> {
        RECORD.record(self.run_id.clone(), self)
    }

    /// `None` for anything but a record of this schema.
    pub fn decode(value: &[u8]) -> Option<Self> {
        RECORD.decode(value)
    }
}
