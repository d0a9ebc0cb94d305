//! `GET /healthz`. The answer of `GET /readyz` is [`crate::telemetry::Report`].

use schemars::JsonSchema;
use serde::Serialize;

/// The process is running.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Health {
    /// Always `ok`.
    pub status: HealthStatus,
}

/// The only status that a running process can report.
#[derive(Debug, Clone, Copy, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub enum HealthStatus {
    /// It is running.
    Ok,
}
