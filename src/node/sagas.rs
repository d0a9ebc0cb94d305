//! Starts the saga processor, from `commands` to `runs`, `steps` and `ingress`.

use std::sync::Arc;

use anyhow::Context;

use super::{
    storage::{self, Storage},
    watch::Watch,
};
use crate::{
    base::clock::SystemClock,
    config::Config,
    controls::Controls,
    saga::{Followers, NAME, Sagas, Settings},
    stream::{lane, progress::Progress},
    telemetry::{Need, PartStatus, Readiness},
};

fn settings(config: &Config) -> anyhow::Result<Settings> {
    let runs = &config.runs;
    Ok(Settings {
        approval_expiry: runs.approval_expiry,
        approve_above: runs.approve_above,
        identity_ms: i64::from(runs.identity_d) * 86_400 * 1000,
        events: runs.events,
        secrets: Some(Arc::new(storage::secret_keys(config)?)),
    })
}

/// Starts the lanes of the processor `saga`, and registers it for readiness.
pub(super) fn start(
    config: &Config,
    storage: &Storage,
    controls: &Arc<Controls>,
    followers: &Followers,
    readiness: &Readiness,
    watch: &mut Watch,
) -> anyhow::Result<lane::Running> {
    let partitions = config.topics.partitions;
    let sagas = Sagas::new(
        &storage.names,
        partitions,
        settings(config)?,
        followers.clone(),
    );
    let controls = Arc::clone(controls);
    let sagas = sagas.with_own_holds(move || controls.own_holds());
    let progress = Arc::<Progress>::default();
    watch.processor(NAME, &progress);
    let setup = lane::Setup {
        log: Arc::clone(&storage.log),
        dlq: Arc::clone(&storage.names.dlq),
        clock: Arc::new(SystemClock),
        progress: Arc::clone(&progress),
    };
    readiness.part(NAME, Need::Optional, move || {
        progress
            .trouble()
            .map_or(PartStatus::ok(""), PartStatus::degraded)
    });
    lane::start(Arc::new(sagas), setup).context("the sagas cannot be started")
}
