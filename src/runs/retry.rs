//! What a run takes over from the run that it retries.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{
    error::StepError,
    json::{Json, present},
};

/// A step that an earlier run has carried out, and that is not repeated.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Reused {
    /// The id of the step.
    pub step_id: Arc<str>,
    /// The run that has carried it out.
    pub run_id: String,
    /// Its rendered input, if it has a compensation.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "present"
    )]
    pub input: Option<Json>,
    /// The output of the step.
    pub output: Json,
    /// A person skipped it, with this output.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub skipped: bool,
}

/// A compensation that failed in an earlier run, and is retried.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Undo {
    /// The step that is undone.
    pub step_id: Arc<str>,
    /// The run in the call's idempotency key.
    pub run_id: String,
    /// Its input, as it was rendered then; `None` if rendering failed.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "present"
    )]
    pub input: Option<Json>,
    /// What it undoes: `idempotency_key`, `outcome`, `input`, `output`.
    pub execute: Json,
    /// Why the earlier run was compensated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<StepError>,
}
