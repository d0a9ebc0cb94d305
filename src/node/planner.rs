//! The planner of a node: the table of cached plans on every node, and the planning of goals.

use std::sync::Arc;

use anyhow::Context;

use super::{effects, storage::Storage, watch::Watch};
use crate::{
    base::clock::SystemClock,
    config::Config,
    controls::Controls,
    planner::{self, EffectParts, Following, Planner, Settings},
    stream::{effect, progress::Progress},
    telemetry::{Need, PartStatus, Readiness},
    workflows::Current,
};

/// Makes the planner, and follows the topic `plans`.
pub(super) fn follow(
    config: &Config,
    storage: &Storage,
    workflows: &Current,
    readiness: &Readiness,
) -> anyhow::Result<(Planner, Following)> {
    let planner = Planner::new(
        &Settings::of(config),
        workflows.clone(),
        Arc::new(SystemClock),
    );
    let planner = planner
        .context("`planner`, `guardian.llm` or `qdrant` cannot be used: a URL is not valid")?;
    let reported = planner.clone();
    readiness.part(planner::NAME, Need::Optional, move || reported.status());
    let reported = planner.clone();
    readiness.part("embeddings", Need::Optional, move || {
        reported.embeddings_status()
    });
    if planner.qdrant_status().is_some() {
        let reported = planner.clone();
        readiness.part("qdrant", Need::Optional, move || {
            reported.qdrant_status().unwrap_or(PartStatus::ok(""))
        });
    }
    let following = planner.follow(&storage.log, &storage.names);
    let following = following.context("cannot start a thread")?;
    Ok((planner, following))
}

/// Starts to plan the goals on `goals`.
pub(super) fn start(
    planner: &Planner,
    storage: &Storage,
    controls: &Arc<Controls>,
    readiness: &Readiness,
    watch: &mut Watch,
) -> anyhow::Result<effect::Running> {
    let progress = Arc::<Progress>::default();
    watch.processor(planner::NAME, &progress);
    let (reported, of_processor) = (planner.clone(), Arc::clone(&progress));
    readiness.part(planner::NAME, Need::Optional, move || {
        effects::status(&of_processor).and(reported.status())
    });
    let parts = EffectParts {
        controls: Arc::clone(controls),
        drain: planner::DRAIN,
    };
    planner
        .start(parts, &storage.log, &storage.names, progress)
        .context("the planner cannot be started")
}
