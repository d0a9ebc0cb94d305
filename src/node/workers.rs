//! The workers of a node: what calls HTTP workers for the steps of runs.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::Context;

use super::{
    storage::{self, Storage},
    watch::Watch,
};
use crate::{
    base::clock::SystemClock,
    config::Config,
    controls::Controls,
    limits::Limiter,
    stream::{
        effect,
        progress::{ProcessorStatus, Progress},
    },
    telemetry::{Need, PartStatus, Readiness},
    workers::{self, Results, ToolStates},
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
        match reported.status() {
            // Workers may take as long as their steps allow.
            ProcessorStatus::Waiting(what) if what.starts_with(effect::CALL) => {
                PartStatus::ok(what)
            }
            status => status
                .detail()
                .map_or(PartStatus::ok(""), PartStatus::degraded),
        }
    });
    let parts = workers::Parts {
        clock: Arc::new(SystemClock),
        controls: Arc::clone(controls),
        secrets: Arc::new(storage::secret_keys(config)?),
        tools: tools.clone(),
        limiter: limiter.clone(),
        results: Results::start(&storage.log, Arc::clone(&storage.names.commands)),
        allowed_hosts: config.allow_http_hosts.clone().into(),
        drain: workers::DRAIN,
    };
    workers::start(parts, &storage.log, &storage.names, progress)
        .context("the workers cannot be started")
}
