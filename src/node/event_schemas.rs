//! Event schemas on a node: read at the start, and again on SIGHUP.

use std::{path::Path, sync::Arc};

use anyhow::{Context, bail};
use tokio::{
    signal::unix::{SignalKind, signal},
    task::JoinHandle,
};

use crate::{
    config::Config,
    event_schemas::{self, EventSchemas, Set},
    telemetry,
    topology::Problem,
};

/// Reads and compiles the schemas of a folder.
pub(crate) fn read_folder(folder: &Path) -> Result<Set, Vec<Problem>> {
    let loaded = event_schemas::load(folder);
    loaded.map_err(|faults| faults.into_iter().map(Problem::from).collect())
}

/// Reads the schemas of event_schemas_dir and prints what is wrong with them. Errors prevent the start.
pub(crate) fn read(config: &Config) -> anyhow::Result<Arc<EventSchemas>> {
    match read_folder(&config.event_schemas_dir) {
        Ok(set) => Ok(Arc::new(EventSchemas::new(set))),
        Err(problems) => {
            for problem in &problems {
                telemetry::print_note(&problem.render(false));
            }
            match problems.len() {
                1 => bail!("1 error in the event schemas"),
                count => bail!("{count} errors in the event schemas"),
            }
        }
    }
}

/// Reads the schemas again on each SIGHUP. If they have errors, logs them and changes nothing.
pub(crate) fn reload_on_hangup(
    config: &Config,
    schemas: Arc<EventSchemas>,
) -> anyhow::Result<JoinHandle<()>> {
    let mut hangup = signal(SignalKind::hangup()).context("cannot listen for signals")?;
    let folder = config.event_schemas_dir.clone();
    Ok(tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            let (folder, schemas) = (folder.clone(), Arc::clone(&schemas));
            let done = tokio::task::spawn_blocking(move || reload(&folder, &schemas)).await;
            if let Err(error) = done {
                tracing::error!(%error, "the event schemas were not read again");
            }
        }
    }))
}

fn reload(folder: &Path, schemas: &EventSchemas) {
    match read_folder(folder) {
        Ok(set) => {
            let count = set.len();
            schemas.replace(set);
            tracing::info!(count, "the event schemas were read again");
        }
        Err(problems) => {
            for problem in &problems {
                telemetry::print_note(&problem.render(false));
            }
            tracing::error!(
                errors = problems.len(),
                "the event schemas have errors; those before stay in force"
            );
        }
    }
}
