//! `/v1/rebuild`: projections made anew from the log.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Which projections to make anew.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StartRebuild {
    /// Their names: `events`, `entities`, `audit`, `odoo`.
    pub projections: Vec<String>,
}

/// How far the last rebuild of this node is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Rebuild {
    /// Where it is.
    pub status: RebuildStatus,
    /// Records written.
    pub done: u64,
    /// Records that there were when it was last looked.
    pub total: u64,
    /// How long the projection paused for the swap, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub paused_ms: Option<u64>,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Where a rebuild is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub enum RebuildStatus {
    /// None was started since the node started.
    #[default]
    Idle,
    /// It is running.
    Running,
    /// It has succeeded.
    Done,
    /// It has failed; the tables are as they were.
    Failed,
}
