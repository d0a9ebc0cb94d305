//! The workers of a node: what calls HTTP workers and builtin tools for the steps of runs.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::Context;

use super::{
    effects,
    storage::{self, Storage},
    watch::Watch,
};
use crate::{
    base::clock::SystemClock,
    config::Config,
    controls::Controls,
    limits::Limiter,
    stream::{effect, progress::Progress},
    telemetry::{Need, Readiness},
    workers::{self, DatabaseTools, Results, ToolStates},
    workflows::Current,
};

/// What calls of tools are like on this node. References of tools' files (`file:PATH`) are relative to the configuration's folder.
pub(super) fn tool_states(config: &Config, catalog: &Current) -> ToolStates {
    let folder = config.file.as_deref().and_then(Path::parent);
    let base = folder.map_or_else(PathBuf::new, Path::to_owned);
    ToolStates::new(catalog.clone(), base, config.breaker, Arc::new(SystemClock))
}

/// Starts to carry out the calls on `steps`.
pub(super) fn start(
    config: &Config,
    storage: &Storage,
    controls: &Arc<Controls>,
    (tools, limiter): (&ToolStates, &Limiter),
    readiness: &Readiness,
    watch: &mut Watch,
) -> anyhow::Result<effect::Running> {
    let progress = Arc::<Progress>::default();
    watch.processor(workers::NAME, &progress);
    let reported = Arc::clone(&progress);
    readiness.part(workers::NAME, Need::Optional, move || {
        effects::status(&reported)
    });
    let parts = workers::Parts {
        clock: Arc::new(SystemClock),
        controls: Arc::clone(controls),
        secrets: Arc::new(storage::secret_keys(config)?),
        tools: tools.clone(),
        limiter: limiter.clone(),
        results: Results::start(&storage.log, Arc::clone(&storage.names.commands)),
        allowed_hosts: config.allow_http_hosts.clone().into(),
        database_tools: DatabaseTools::new(&config.database_tools)?,
        drain: workers::DRAIN,
    };
    workers::start(parts, &storage.log, &storage.names, progress)
        .context("the workers cannot be started")
}
