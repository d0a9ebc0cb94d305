//! `GET /healthz`. What `GET /readyz` answers with is [`crate::telemetry::Report`].

use schemars::JsonSchema;
use serde::Serialize;

/// The process answers.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Health {
    /// Always `ok`.
    pub status: HealthStatus,
}

/// The only status that a process can give of itself.
#[derive(Debug, Clone, Copy, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub enum HealthStatus {
    /// It answers.
    Ok,
}
