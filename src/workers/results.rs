//! Appends results of calls to `commands`.

use std::sync::Arc;

use serde::Serialize;

use crate::{
    base::clock::Millis,
    commands::Command,
    log::{Append, Log},
    runs::StepCommand,
    stream::appends::{Appends, Closing},
    telemetry::metrics::WORKER_RESULT_APPENDS,
};

/// The writer of results to `commands`. Cheap to clone.
#[derive(Clone)]
pub struct Results {
    appends: Appends,
    topic: Arc<str>,
}

/// A result was not appended.
#[derive(Debug, thiserror::Error)]
pub enum NotAppended {
    /// The log is closing, because the node stops.
    #[error(transparent)]
    Closing(#[from] Closing),
    /// The body cannot be serialized as JSON.
    #[error("the record cannot be encoded: {0}")]
    Json(#[from] serde_json::Error),
    /// The record cannot be written as Avro.
    #[error("the record cannot be encoded: {0}")]
    Avro(#[from] apache_avro::Error),
}

impl Results {
    /// Starts the task that appends to `topic`, on the current runtime. It ends when the log is closed or all clones are dropped.
    pub fn start(log: &Arc<dyn Log>, topic: Arc<str>) -> Self {
        Self {
            appends: Appends::start(log, WORKER_RESULT_APPENDS.counter(&[])),
            topic,
        }
    }

    /// Sends a report about a call to its run. Returns when the record is durable.
    pub async fn send(
        &self,
        step: &StepCommand,
        kind: &str,
        body: &impl Serialize,
        now: Millis,
    ) -> Result<(), NotAppended> {
        let command = Command {
            tenant: step.tenant.clone(),
            run_id: step.run_id.clone(),
            kind: kind.to_owned(),
            at: now.0.saturating_mul(1000),
            principal: format!("tool:{}", step.tool),
            on_behalf_of: None,
            traceparent: step.traceparent.clone(),
            tracestate: step.tracestate.clone(),
            body: serde_json::to_string(body)?,
        };
        let append = Append {
            topic: Arc::clone(&self.topic),
            record: command.encode()?,
        };
        Ok(self.appends.append(append).await?)
    }
}
