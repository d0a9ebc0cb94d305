//! `/v1/tasks/…`: tasks of steps that workers claim and complete over HTTP.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::base::clock::Millis;

/// Allows completing tasks.
pub const TASKS_COMPLETE: &str = "tasks:complete";
/// Allows claiming tasks.
pub const TASKS_CLAIM: &str = "tasks:claim";

/// The maximum number of tools in a claim.
pub const TOOLS_MAX: usize = 32;
/// The maximum number of tasks in a claim.
pub const CLAIM_MAX: usize = 100;
/// The longest wait of a claim, in seconds.
pub const WAIT_MAX_S: u64 = 60;
/// The default duration of a lease, in seconds.
pub const LEASE_S: u64 = 60;
/// The longest lease, in seconds.
pub const LEASE_MAX_S: u64 = 3_600;

/// Which tasks a worker claims.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("required" = ["tools"]))]
pub struct ClaimTasks {
    /// The tools whose tasks it claims: 1 to 32 names.
    #[schemars(with = "Vec<String>", length(min = 1, max = 32))]
    pub tools: Option<Vec<String>>,
    /// The maximum number of tasks, 1 to 100; default 1.
    #[schemars(range(min = 1, max = 100))]
    pub max: Option<usize>,
    /// How long to wait if there is no task, in seconds: at most 60; default 0.
    #[schemars(range(min = 0, max = 60))]
    pub wait_s: Option<u64>,
    /// The duration of the leases, in seconds: 1 to 3,600; default 60.
    #[schemars(range(min = 1, max = 3600))]
    pub lease_s: Option<u64>,
}

/// The tasks of a claim.
#[derive(Debug, Serialize, JsonSchema)]
pub struct ClaimedTasks {
    /// The tasks, longest waiting first; empty if there was none in time.
    pub tasks: Vec<ClaimedTask>,
    /// Tools whose tasks an emergency control holds.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub held: Vec<HeldTool>,
}

/// A task with its lease.
#[derive(Debug, Serialize, JsonSchema)]
pub struct ClaimedTask {
    /// `run_id:step_id:kind:attempt`.
    pub task_id: String,
    /// The token that extends and completes the task.
    pub lease: String,
    /// When another worker can claim it, unless the lease is extended.
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub lease_expires_at: Millis,
    /// The tenant of the run.
    pub tenant: String,
    /// The run.
    pub run_id: String,
    /// The name of its workflow.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workflow: Option<String>,
    /// The step.
    pub step_id: String,
    /// The attempt, from 1.
    pub attempt: i64,
    /// `execute`, or `compensate` to undo the step.
    pub kind: String,
    /// The tool.
    pub tool: String,
    /// The rendered input.
    #[schemars(with = "serde_json::Value")]
    pub input: Box<RawValue>,
    /// The key of the call, the same for all its attempts.
    pub idempotency_key: String,
    /// When the attempt times out.
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub deadline: Millis,
    /// For a compensation: the call to undo, `{idempotency_key, input, output?, outcome}`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<serde_json::Value>")]
    pub execute: Option<Box<RawValue>>,
    /// For a compensation: the cause, `{code, message}`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<serde_json::Value>")]
    pub error: Option<Box<RawValue>>,
    /// W3C trace context of the run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
    /// W3C trace context of the run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tracestate: Option<String>,
}

/// A tool that an emergency control holds.
#[derive(Debug, Serialize, JsonSchema)]
pub struct HeldTool {
    /// Its name.
    pub tool: String,
    /// `safe_mode`, or `tool:NAME` if it is disabled.
    pub reason: String,
}

/// Reports that a worker is still working on a task.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("required" = ["task_id", "lease"]))]
pub struct Heartbeat {
    /// `task_id` of the task.
    #[schemars(with = "String")]
    pub task_id: Option<String>,
    /// `lease` of the task.
    #[schemars(with = "String")]
    pub lease: Option<String>,
    /// The duration of the lease from now on, in seconds: 1 to 3,600; default: as before.
    #[schemars(range(min = 1, max = 3600))]
    pub lease_s: Option<u64>,
}

/// An extended lease.
#[derive(Debug, Serialize, JsonSchema)]
pub struct ExtendedLease<'a> {
    /// The task.
    pub task_id: &'a str,
    /// When the lease expires.
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub lease_expires_at: Millis,
    /// When the attempt times out.
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub deadline: Millis,
}

/// The outcome of a task.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("required" = ["task_id", "lease", "outcome"]))]
pub struct CompleteTask {
    /// `task_id` of the task or call.
    #[schemars(with = "String")]
    pub task_id: Option<String>,
    /// `lease` of the task or call.
    #[schemars(with = "String")]
    pub lease: Option<String>,
    /// Whether it succeeded.
    #[schemars(with = "TaskOutcome")]
    pub outcome: Option<TaskOutcome>,
    /// The output of a task that succeeded: any JSON of at most 128 KiB and 64 levels of nesting; default `null`.
    #[schemars(with = "Option<serde_json::Value>")]
    pub output: Option<Box<RawValue>>,
    /// The error of a task that failed.
    pub error: Option<TaskError>,
    /// For a task that failed: the minimum delay before another attempt, in milliseconds; at most an hour.
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

impl TaskOutcome {
    /// The name in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
        }
    }
}

/// Why a task failed.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TaskError {
    /// A stable code.
    pub code: String,
    /// A description of the error, for people.
    #[serde(default)]
    pub message: String,
    /// Whether another attempt may succeed; default: no.
    #[serde(default)]
    pub retryable: bool,
}

/// The answer after the outcome is in the log.
#[derive(Debug, Serialize, JsonSchema)]
pub struct CompletedTask<'a> {
    /// The task.
    pub task_id: &'a str,
    /// Always `recorded`.
    pub status: &'static str,
}
