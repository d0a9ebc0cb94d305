//! `/v1/tasks/…`: work of steps that is claimed and ended over HTTP.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::base::clock::Millis;

/// Completes tasks.
pub const TASKS_COMPLETE: &str = "tasks:complete";
/// Claims tasks.
pub const TASKS_CLAIM: &str = "tasks:claim";

/// The most tools of a claim.
pub const TOOLS_MAX: usize = 32;
/// The most tasks of a claim.
pub const CLAIM_MAX: usize = 100;
/// The longest that a claim waits, in seconds.
pub const WAIT_MAX_S: u64 = 60;
/// How long a lease lasts unless the claim says otherwise, in seconds.
pub const LEASE_S: u64 = 60;
/// The longest lease, in seconds.
pub const LEASE_MAX_S: u64 = 3_600;

/// Which tasks a worker takes.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("required" = ["tools"]))]
pub struct ClaimTasks {
    /// The tools whose tasks it takes: 1 to 32 names.
    #[schemars(with = "Vec<String>", length(min = 1, max = 32))]
    pub tools: Option<Vec<String>>,
    /// The most tasks, 1 to 100; 1 unless given.
    #[schemars(range(min = 1, max = 100))]
    pub max: Option<usize>,
    /// How long to wait for a task where there is none, in seconds: at most 60; 0 unless given.
    #[schemars(range(min = 0, max = 60))]
    pub wait_s: Option<u64>,
    /// How long the leases last, in seconds: 1 to 3,600; 60 unless given.
    #[schemars(range(min = 1, max = 3600))]
    pub lease_s: Option<u64>,
}

/// The tasks of a claim.
#[derive(Debug, Serialize, JsonSchema)]
pub struct ClaimedTasks {
    /// The tasks, the longest waiting first; empty if none came in time.
    pub tasks: Vec<ClaimedTask>,
    /// Tools whose tasks an emergency control holds back.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub held: Vec<HeldTool>,
}

/// A task, with its lease.
#[derive(Debug, Serialize, JsonSchema)]
pub struct ClaimedTask {
    /// `run_id:step_id:kind:attempt`.
    pub task_id: String,
    /// What extends and completes it.
    pub lease: String,
    /// When somebody else may claim it, unless the lease is extended.
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub lease_expires_at: Millis,
    /// Whose run it is.
    pub tenant: String,
    /// The run.
    pub run_id: String,
    /// The name of its workflow.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workflow: Option<String>,
    /// The step.
    pub step_id: String,
    /// From 1.
    pub attempt: i64,
    /// `execute`, or `compensate`: it undoes the step.
    pub kind: String,
    /// The tool.
    pub tool: String,
    /// The rendered input.
    #[schemars(with = "serde_json::Value")]
    pub input: Box<RawValue>,
    /// The same for all attempts of a call.
    pub idempotency_key: String,
    /// When the attempt is given up.
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub deadline: Millis,
    /// Of a compensation: what it undoes, `{idempotency_key, input, output?, outcome}`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<serde_json::Value>")]
    pub execute: Option<Box<RawValue>>,
    /// Of a compensation: why, `{code, message}`.
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

/// A tool that an emergency control holds back.
#[derive(Debug, Serialize, JsonSchema)]
pub struct HeldTool {
    /// Its name.
    pub tool: String,
    /// `safe_mode`, or `tool:NAME`: it is disabled.
    pub reason: String,
}

/// A worker still works on a task.
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
    /// How long the lease lasts from now on, in seconds: 1 to 3,600; as long as before unless given.
    #[schemars(range(min = 1, max = 3600))]
    pub lease_s: Option<u64>,
}

/// The lease goes on.
#[derive(Debug, Serialize, JsonSchema)]
pub struct ExtendedLease<'a> {
    /// The task.
    pub task_id: &'a str,
    /// When the lease lapses.
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub lease_expires_at: Millis,
    /// When the attempt is given up.
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub deadline: Millis,
}

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

impl TaskOutcome {
    /// As it is written.
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
