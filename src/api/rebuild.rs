//! `/v1/rebuild`: rebuilds projections from the log.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Which projections to rebuild.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StartRebuild {
    /// Their names: `events`, `entities`, `runs`, `approvals`, `tasks`, `audit`, `odoo`. `runs` and `approvals` are rebuilt together.
    pub projections: Vec<String>,
}

/// The progress of this node's last rebuild.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Rebuild {
    /// The state of the rebuild.
    pub status: RebuildStatus,
    /// The number of records written.
    pub done: u64,
    /// The number of records in the log when it was last checked.
    pub total: u64,
    /// How long the projection paused for the swap, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub paused_ms: Option<u64>,
    /// The reason of a failure.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// The state of a rebuild.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub enum RebuildStatus {
    /// No rebuild since the node started.
    #[default]
    Idle,
    /// It is running.
    Running,
    /// It has succeeded.
    Done,
    /// It has failed; the tables are unchanged.
    Failed,
}
