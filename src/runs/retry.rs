//! What a run takes over from the run that it repeats.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{
    error::StepError,
    json::{Json, present},
};

/// A step that an earlier run has carried out, and that is not carried out again.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Reused {
    /// The step.
    pub step_id: Arc<str>,
    /// The run that has carried it out.
    pub run_id: String,
    /// Its rendered input, if it can be undone.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "present"
    )]
    pub input: Option<Json>,
    /// Its output.
    pub output: Json,
    /// Whether a person has skipped it, with this output.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub skipped: bool,
}

/// A compensation that has failed in an earlier run, and is called again.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Undo {
    /// The step that is undone.
    pub step_id: Arc<str>,
    /// The run whose idempotency key the call has.
    pub run_id: String,
    /// Its input, as it was rendered then; `None` if that has failed.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "present"
    )]
    pub input: Option<Json>,
    /// What it undoes: `idempotency_key`, `outcome`, `input`, `output`.
    pub execute: Json,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<StepError>,
}
