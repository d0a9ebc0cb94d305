//! Runs topologies on a node: starts them with it, reloads them on SIGHUP.

use std::{path::PathBuf, sync::Arc};

use anyhow::{Context, bail};
use parking_lot::Mutex;
use tokio::signal::unix::{SignalKind, signal};

use super::{
    storage::{self, Storage},
    watch::Watched,
};
use crate::{
    base::clock::SystemClock,
    config::Config,
    envelope::foreign::Schemas,
    telemetry::{self, Need, PartStatus, Readiness},
    topology::{self, Checked, Deployed, Deployment, Problem, Set, Setup, Severity},
};

/// The name of the part in `/readyz`.
const PART: &str = "topologies";

/// Reads the files of topologies_dir and prints their problems. Errors prevent the start.
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

/// Reads and checks the named files, or all of topologies_dir, together.
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

/// Fails if there are errors; the message counts them.
pub(crate) fn refuse_errors(problems: &[Problem]) -> anyhow::Result<()> {
    let errors: Vec<_> = problems
        .iter()
        .filter(|p| p.severity == Severity::Error)
        .collect();
    let mut files: Vec<&str> = errors.iter().map(|p| p.file.name.as_str()).collect();
    files.dedup();
    match (errors.len(), files.len()) {
        (0, _) => Ok(()),
        (1, _) => bail!("1 error in {}", files[0]),
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

/// Reloads the topologies.
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
            lanes: storage::lanes(config),
        })
        .with_secrets(Arc::new(storage::secret_keys(config)?));
        deployment
            .deploy(set)
            .context("a thread cannot be started")?;
        watched.replace(&deployment.progress());
        let deployment = Arc::new(Mutex::new(deployment));
        let reported = Arc::clone(&deployment);
        readiness.part(PART, Need::Optional, move || status(&reported.lock()));
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
                // It reads files and blocks until lanes have stopped.
                let done = tokio::task::spawn_blocking(move || reload.run()).await;
                if let Err(error) = done {
                    tracing::error!(%error, "the topologies were not reloaded");
                }
            }
        });
        Ok(Self {
            deployment,
            hangups,
        })
    }

    /// Stops all topologies; waits for their running transactions.
    pub(crate) async fn stop(self) {
        self.hangups.abort();
        let deployment = Arc::clone(&self.deployment);
        // A topology that does not stop ends with the process.
        let _ = tokio::task::spawn_blocking(move || deployment.lock().stop()).await;
    }
}

impl Reload {
    /// Reads the files again and deploys them. If they have errors, logs them and changes nothing.
    fn run(&self) {
        let checked = match topology::find(&self.dir) {
            Ok(files) => topology::check(&files, &self.prefix),
            Err(error) => {
                tracing::error!(dir = %self.dir.display(), %error, "the topologies were not reloaded; the running ones continue unchanged");
                return;
            }
        };
        for problem in &checked.problems {
            telemetry::print_note(&problem.render(false));
        }
        let Some(set) = &checked.set else {
            tracing::error!(
                errors = checked.problems.len(),
                "the topology files have errors; the running topologies continue unchanged"
            );
            return;
        };
        if set.admission_window_ms() != self.admission_window_ms {
            tracing::warn!("a new window of `admission` takes effect at the next start");
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
                    "the topologies were reloaded"
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
