//! Starts workflows whose times have come.

use std::sync::Arc;

use anyhow::Context;

use super::storage::Storage;
use crate::{
    base::clock::SystemClock,
    controls::Controls,
    cron::{Cron, Running},
    telemetry::{Need, PartStatus, Readiness},
    workflows::Current,
};

/// Starts cron triggers, and registers them for readiness.
pub(super) fn start(
    storage: &Storage,
    controls: &Arc<Controls>,
    workflows: &Current,
    readiness: &Readiness,
) -> anyhow::Result<Running> {
    let log = Arc::clone(&storage.log);
    let clock = Arc::new(SystemClock);
    let cron = Cron::new(log, &storage.names, workflows.clone(), clock);
    let running = cron
        .run(Arc::clone(controls))
        .context("times of workflows cannot be watched")?;
    let trouble = running.trouble();
    readiness.part("cron", Need::Optional, move || {
        trouble().map_or(PartStatus::ok(""), PartStatus::degraded)
    });
    Ok(running)
}
