//! `/v1/tools`: the tools, and what calls of them are like.

use schemars::JsonSchema;
use serde::Serialize;

/// Lists tools, runs and what is around them.
pub const RUNS_READ: &str = "runs:read";

/// A tool. What is under way, held or open is that of the node that answers.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Tool {
    /// Its name.
    pub name: String,
    /// What kind of thing it does: `read`, `write`, `delete`, `payment`, `message`; absent: it is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<&'static str>,
    /// How it is treated: `safe`, `sensitive`, `blocked`; absent: it is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lane: Option<&'static str>,
    /// Who does the work: `http`, `kafka`, `claim`, `builtin`.
    pub worker: &'static str,
    /// Calls under way.
    pub running: usize,
    /// Calls that wait for a seat.
    pub queued: usize,
    /// Calls that were held back, and come back later.
    pub held: usize,
    /// Why the last one was held back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hold_reason: Option<String>,
    /// When that one comes back.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "date-time"))]
    pub held_until: Option<String>,
    /// The circuit breaker: `closed`, `open`, `half_open`.
    pub breaker: &'static str,
    /// When an open breaker lets a call through, to try.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "date-time"))]
    pub open_until: Option<String>,
    /// How much of it there may be at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<ToolLimit>,
}

/// How much of a tool there may be at once.
#[derive(Debug, Serialize, JsonSchema)]
pub struct ToolLimit {
    /// Calls at one time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<u64>,
    /// How many there are, on the node that answers.
    pub used: usize,
    /// Calls in a window.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<ToolRate>,
}

/// Calls in a window.
#[derive(Debug, Serialize, JsonSchema)]
pub struct ToolRate {
    /// How many.
    pub limit: u64,
    /// In how many seconds.
    pub window_s: u64,
}
