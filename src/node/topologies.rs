//! The users' topologies while `up` runs: started with it, read again on SIGHUP.

use std::{path::PathBuf, sync::Arc};

use anyhow::{Context, bail};
use parking_lot::Mutex;
use tokio::signal::unix::{SignalKind, signal};

use super::{storage as node, storage::Storage, watch::Watched};
use crate::{
    base::clock::SystemClock,
    config::Config,
    envelope::foreign::Schemas,
    telemetry::{self, Need, PartStatus, Readiness},
    topology::{self, Checked, Deployed, Deployment, Problem, Set, Setup, Severity},
};

/// The name of the part in `/readyz`.
const PART: &str = "topologies";

/// Reads the files of the folder. What is wrong is printed, and refuses the start.
pub(crate) fn read(config: &Config) -> anyhow::Result<Set> {
    let (_, checked) = read_files(config, &[])?;
    for problem in &checked.problems {
        telemetry::print_note(&problem.render(false));
    }
    refuse_errors(&checked.problems)?;
    match checked.set {
        Some(set) => Ok(set),
        None => bail!("the topology files cannot be used"),
    }
}

/// The files that were named, or those of the folder, checked together.
pub(crate) fn read_files(
    config: &Config,
    named: &[PathBuf],
) -> anyhow::Result<(Vec<PathBuf>, Checked)> {
    let files = if named.is_empty() {
        topology::find(&config.topologies_dir).map_err(|e| {
            anyhow::anyhow!("{} cannot be read: {e}", config.topologies_dir.display())
        })?
    } else {
        named.to_vec()
    };
    let checked = topology::check(&files, &config.topics.prefix);
    Ok((files, checked))
}

/// An error that counts them, if any is one.
pub(crate) fn refuse_errors(problems: &[Problem]) -> anyhow::Result<()> {
    let errors: Vec<_> = problems
        .iter()
        .filter(|p| p.severity == Severity::Error)
        .collect();
    let mut files: Vec<&str> = errors.iter().map(|p| p.file.name.as_str()).collect();
    files.dedup();
    match (errors.len(), files.len()) {
        (0, _) => Ok(()),
        (1, _) => bail!("1 error in the topology files"),
        (count, 1) => bail!("{count} errors in {}", files[0]),
        (count, files) => bail!("{count} errors in {files} files"),
    }
}

/// The running topologies. Dropping it stops them.
pub(crate) struct Topologies {
    deployment: Arc<Mutex<Deployment>>,
    hangups: tokio::task::JoinHandle<()>,
}

impl Drop for Topologies {
    fn drop(&mut self) {
        self.hangups.abort();
    }
}

/// What a reload needs.
struct Reload {
    dir: PathBuf,
    prefix: String,
    /// The window that admission was started with.
    admission_window_ms: Option<i64>,
    deployment: Arc<Mutex<Deployment>>,
    watched: Watched,
}

impl Topologies {
    /// Starts the topologies of a set, and listens for SIGHUP.
    pub(crate) fn start(
        set: &Set,
        config: &Config,
        storage: &Storage,
        schemas: &Arc<dyn Schemas>,
        readiness: &Readiness,
        watched: Watched,
        provision: bool,
    ) -> anyhow::Result<Self> {
        let mut deployment = Deployment::new(Setup {
            log: Arc::clone(&storage.log),
            names: storage.names.clone(),
            clock: Arc::new(SystemClock),
            schemas: Arc::clone(schemas),
            partitions: config.topics.partitions,
            provision,
            make_foreign: !config.on_kafka(),
            lanes: node::lanes(config),
        })
        .with_secrets(Arc::new(node::secret_keys(config)?));
        deployment
            .deploy(set)
            .context("a thread cannot be started")?;
        watched.replace(&deployment.progress());
        let deployment = Arc::new(Mutex::new(deployment));
        let asked = Arc::clone(&deployment);
        readiness.part(PART, Need::Optional, move || status(&asked.lock()));
        let reload = Arc::new(Reload {
            dir: config.topologies_dir.clone(),
            prefix: config.topics.prefix.clone(),
            admission_window_ms: set.admission_window_ms(),
            deployment: Arc::clone(&deployment),
            watched,
        });
        let mut hangup = signal(SignalKind::hangup()).context("cannot listen for signals")?;
        let hangups = tokio::spawn(async move {
            while hangup.recv().await.is_some() {
                let reload = Arc::clone(&reload);
                // It reads files and waits for lanes to stop.
                let done = tokio::task::spawn_blocking(move || reload.run()).await;
                if let Err(error) = done {
                    tracing::error!(%error, "the topologies were not read again");
                }
            }
        });
        Ok(Self {
            deployment,
            hangups,
        })
    }

    /// Stops them all; waits for the transactions in hand.
    pub(crate) async fn stop(self) {
        self.hangups.abort();
        let deployment = Arc::clone(&self.deployment);
        // What did not stop ends with the process.
        let _ = tokio::task::spawn_blocking(move || deployment.lock().stop()).await;
    }
}

impl Reload {
    /// Reads the files again. A bad set changes nothing and says why.
    fn run(&self) {
        let checked = match topology::find(&self.dir) {
            Ok(files) => topology::check(&files, &self.prefix),
            Err(error) => {
                tracing::error!(dir = %self.dir.display(), %error, "the topologies were not read again; what runs goes on as before");
                return;
            }
        };
        for problem in &checked.problems {
            telemetry::print_note(&problem.render(false));
        }
        let Some(set) = &checked.set else {
            tracing::error!(
                errors = checked.problems.len(),
                "the topology files have errors; what runs goes on as before"
            );
            return;
        };
        if set.admission_window_ms() != self.admission_window_ms {
            tracing::warn!("the window of `admission` changes with the next start");
        }
        let mut deployment = self.deployment.lock();
        match deployment.deploy(set) {
            Ok(Deployed {
                started,
                stopped,
                kept,
            }) => {
                tracing::info!(
                    ?started,
                    ?stopped,
                    kept = kept.len(),
                    "the topologies were read again"
                );
            }
            Err(error) => tracing::error!(%error, "not all topologies could be started"),
        }
        self.watched.replace(&deployment.progress());
    }
}

fn status(deployment: &Deployment) -> PartStatus {
    let progress = deployment.progress();
    let troubles: Vec<_> = progress
        .iter()
        .filter_map(|(name, progress)| Some(format!("{name}: {}", progress.trouble()?)))
        .collect();
    if troubles.is_empty() {
        PartStatus::ok("")
    } else {
        PartStatus::degraded(troubles.join("; "))
    }
}
