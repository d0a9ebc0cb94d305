//! Workflows and tools on a node: read at the start, and again on SIGHUP.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, bail};
use tokio::signal::unix::{SignalKind, signal};

use super::topologies::refuse_errors;
use crate::{
    config::Config,
    telemetry,
    workflows::{self, Catalog, Checked, Current, FileKind},
};

/// The files of tools and workflows that are checked together.
pub(crate) struct Files {
    pub(crate) tools: Vec<PathBuf>,
    pub(crate) workflows: Vec<PathBuf>,
}

/// All files of tools_dir and workflows_dir.
pub(crate) fn all_files(config: &Config) -> anyhow::Result<Files> {
    Ok(Files {
        tools: find(&config.tools_dir)?,
        workflows: find(&config.workflows_dir)?,
    })
}

/// The named files that declare a tool or a workflow, and the others. A workflow is checked with all tools of tools_dir.
pub(crate) fn among(config: &Config, named: &[PathBuf]) -> anyhow::Result<(Files, Vec<PathBuf>)> {
    let mut files = Files {
        tools: Vec::new(),
        workflows: Vec::new(),
    };
    let mut others = Vec::new();
    for file in named {
        // What cannot be read is reported as a topology.
        let kind = std::fs::read_to_string(file).map(|text| workflows::kind_of(&text));
        match kind.unwrap_or(FileKind::Other) {
            FileKind::Tool => files.tools.push(file.clone()),
            FileKind::Workflow => files.workflows.push(file.clone()),
            FileKind::Other => others.push(file.clone()),
        }
    }
    if !files.tools.is_empty() || !files.workflows.is_empty() {
        let same = |a: &Path, b: &Path| a.canonicalize().ok() == b.canonicalize().ok();
        for tool in find(&config.tools_dir)? {
            if !files.tools.iter().any(|named| same(named, &tool)) {
                files.tools.push(tool);
            }
        }
    }
    Ok((files, others))
}

/// Checks files together.
pub(crate) fn check(files: &Files) -> Checked {
    workflows::check(&files.tools, &files.workflows)
}

/// Reads the files and prints their problems. Errors prevent the start.
pub(crate) fn read(config: &Config) -> anyhow::Result<Catalog> {
    let checked = check(&all_files(config)?);
    for problem in &checked.problems {
        telemetry::print_note(&problem.render(false));
    }
    refuse_errors(&checked.problems)?;
    match checked.catalog {
        Some(catalog) => Ok(catalog),
        None => bail!("the files of workflows and tools cannot be used"),
    }
}

/// Reads the files again on SIGHUP, as long as it is not dropped.
pub(crate) struct Reloading(tokio::task::JoinHandle<()>);

impl Drop for Reloading {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Reloading {
    /// Listens for SIGHUP.
    pub(crate) fn start(config: &Config, current: Current) -> anyhow::Result<Self> {
        let mut hangup = signal(SignalKind::hangup()).context("cannot listen for signals")?;
        let config = Arc::new(config.clone());
        Ok(Self(tokio::spawn(async move {
            while hangup.recv().await.is_some() {
                let (config, current) = (Arc::clone(&config), current.clone());
                let done = tokio::task::spawn_blocking(move || reload(&config, &current)).await;
                if let Err(error) = done {
                    tracing::error!(%error, "workflows and tools were not read again");
                }
            }
        })))
    }
}

/// Puts the files as they are now in force. If they have errors, logs them and changes nothing.
fn reload(config: &Config, current: &Current) {
    match read(config) {
        Ok(catalog) => {
            let (workflows, tools) = (catalog.workflows().count(), catalog.tools().count());
            current.replace(catalog);
            tracing::info!(workflows, tools, "workflows and tools were read again");
        }
        Err(error) => tracing::error!(
            %error,
            "workflows and tools were not read again; those before stay in force"
        ),
    }
}

fn find(dir: &Path) -> anyhow::Result<Vec<PathBuf>> {
    workflows::find(dir).map_err(|e| anyhow::anyhow!("{} cannot be read: {e}", dir.display()))
}
