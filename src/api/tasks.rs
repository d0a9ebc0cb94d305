//! `/v1/tasks/…`: work of steps that is ended over HTTP.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// Completes tasks.
pub const TASKS_COMPLETE: &str = "tasks:complete";

/// How a task ended.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("required" = ["task_id", "lease", "outcome"]))]
pub struct CompleteTask {
    /// `task_id` of the call.
    #[schemars(with = "String")]
    pub task_id: Option<String>,
    /// `lease` of the call.
    #[schemars(with = "String")]
    pub lease: Option<String>,
    /// Whether it succeeded.
    #[schemars(with = "TaskOutcome")]
    pub outcome: Option<TaskOutcome>,
    /// Of a task that succeeded: any JSON of at most 128 KiB; `null` if absent.
    #[schemars(with = "Option<serde_json::Value>")]
    pub output: Option<Box<RawValue>>,
    /// Of a task that failed.
    pub error: Option<TaskError>,
    /// Of a task that failed: not to be tried again before that long, in milliseconds; an hour at most.
    pub retry_after_ms: Option<u64>,
}

/// Whether a task succeeded.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TaskOutcome {
    /// It succeeded.
    Succeeded,
    /// It failed.
    Failed,
}

/// Why a task failed.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TaskError {
    /// A stable code.
    pub code: String,
    /// Human-readable text.
    #[serde(default)]
    pub message: String,
    /// Whether another attempt may succeed; not, unless given.
    #[serde(default)]
    pub retryable: bool,
}

/// The outcome is in the log.
#[derive(Debug, Serialize, JsonSchema)]
pub struct CompletedTask<'a> {
    /// The task.
    pub task_id: &'a str,
    /// Always `recorded`.
    pub status: &'static str,
}
