//! `/v1/tools`: the tools, and the state of their calls.

use schemars::JsonSchema;
use serde::Serialize;

/// Allows listing tools and reading runs.
pub const RUNS_READ: &str = "runs:read";

/// A tool. The numbers of calls and the breaker are those of the node that answers; tasks are counted over all nodes.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Tool {
    /// Its name.
    pub name: String,
    /// What it does: `read`, `write`, `delete`, `payment`, `message`; absent if unknown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<&'static str>,
    /// Its risk lane: `safe`, `sensitive`, `blocked`; absent if unknown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lane: Option<&'static str>,
    /// The kind of worker: `http`, `kafka`, `claim`, `builtin`.
    pub worker: &'static str,
    /// The number of running calls; with `claim` tasks of the tenant that are claimed, absent while Postgres is not readable.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub running: Option<u64>,
    /// The number of calls that wait for a free seat; with `claim` tasks of the tenant that wait to be claimed, at most 10,000.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queued: Option<u64>,
    /// The number of calls that were held back and will be retried later.
    pub held: usize,
    /// The control that holds all calls of the tool on the node that answers: `kill_switch`, `safe_mode`, `workers`, or `tool:NAME` if it is
    /// disabled. Else why the last call was held back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hold_reason: Option<String>,
    /// When that call will be retried; a control has no end.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "date-time"))]
    pub held_until: Option<String>,
    /// The circuit breaker: `closed`, `open`, `half_open`.
    pub breaker: &'static str,
    /// When an open breaker lets a trial call through.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "date-time"))]
    pub open_until: Option<String>,
    /// The limits on calls.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<ToolLimit>,
}

/// The limits on calls of a tool.
#[derive(Debug, Serialize, JsonSchema)]
pub struct ToolLimit {
    /// The maximum number of concurrent calls.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<u64>,
    /// The number of concurrent calls on the node that answers; with `claim` on all nodes, of all tenants.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub used: Option<u64>,
    /// The maximum number of calls in a window.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<ToolRate>,
}

/// A limit on calls in a window.
#[derive(Debug, Serialize, JsonSchema)]
pub struct ToolRate {
    /// The number of calls.
    pub limit: u64,
    /// The length of the window in seconds.
    pub window_s: u64,
}
