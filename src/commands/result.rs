//! Reports about calls of steps: the bodies of records of kinds `result`, `held` and `claimed`.

use serde::{Deserialize, Serialize};

use crate::{
    base::clock::Millis,
    runs::{CallKind, Json, present_text},
};

/// The kind of records with the result of a call.
pub const RESULT: &str = "result";
/// The kind of records that report that a call was not made.
pub const HELD: &str = "held";
/// The kind of records that report that a worker has claimed a call.
pub const CLAIMED: &str = "claimed";

/// The result of a call.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct StepResult {
    /// The id of the step.
    pub step_id: String,
    /// The number of the attempt, from 1.
    pub attempt: u32,
    /// The step's own call, or its compensation.
    #[serde(default)]
    pub kind: CallKind,
    /// Whether the call succeeded.
    pub outcome: StepOutcome,
    /// The output of a call that succeeded; `null` if absent. The text is as the worker wrote it: the run checks it with
    /// [`Json::read`].
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "present_text"
    )]
    pub output: Option<Json>,
    /// The error of a call that failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ResultError>,
    /// The minimum pause before the next attempt, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
    /// Whether the worker answered: without an answer the call may have had an effect.
    #[serde(default = "yes", skip_serializing_if = "Clone::clone")]
    pub answered: bool,
}

impl StepResult {
    /// The result of a call that has failed, after an answer.
    pub fn failed(step_id: &str, attempt: u32, kind: CallKind, error: ResultError) -> Self {
        Self {
            step_id: step_id.to_owned(),
            attempt,
            kind,
            outcome: StepOutcome::Failed,
            output: None,
            error: Some(error),
            retry_after_ms: None,
            answered: true,
        }
    }
}

/// The outcome of a call.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepOutcome {
    /// The worker has done the work: `output` is its result.
    Succeeded,
    /// The call failed, or got no answer: `error` has the reason.
    Failed,
}

/// Why a call failed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ResultError {
    /// A stable code.
    pub code: String,
    /// Human-readable text.
    #[serde(default)]
    pub message: String,
    /// Whether another attempt may succeed.
    #[serde(default)]
    pub retryable: bool,
}

/// A call was not made, so it uses up no attempt.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct StepHeld {
    /// The id of the step.
    pub step_id: String,
    /// The number of the attempt, from 1.
    pub attempt: u32,
    /// The step's own call, or its compensation.
    #[serde(default)]
    pub kind: CallKind,
    /// Why, such as `rate_limited`.
    pub reason: String,
    /// When to try again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Millis>,
    /// Whether the call is repeated after a crash, and may have reached its worker before.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub maybe_called: bool,
}

/// A worker has claimed a call.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct StepClaimed {
    /// The id of the step.
    pub step_id: String,
    /// The number of the attempt, from 1.
    pub attempt: u32,
    /// The step's own call, or its compensation.
    #[serde(default)]
    pub kind: CallKind,
    /// The deadline of the attempt.
    pub deadline: Millis,
}

const fn yes() -> bool {
    true
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_result_has_defaults() {
        let text = json!({ "step_id": "pay", "attempt": 1, "outcome": "succeeded" });
        let result: StepResult = serde_json::from_value(text.clone()).unwrap();
        assert_eq!(result.kind, CallKind::Execute);
        assert!(result.answered);
        let whole = json!({
            "step_id": "pay", "attempt": 1, "kind": "compensate", "outcome": "failed",
            "error": { "code": "http_503", "message": "busy", "retryable": true }, "retry_after_ms": 5, "answered": false
        });
        let result: StepResult = serde_json::from_value(whole.clone()).unwrap();
        assert_eq!(serde_json::to_value(&result).unwrap(), whole);
    }
}
