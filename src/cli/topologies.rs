//! The users' topologies while `up` runs: started with it, read again on SIGHUP.

use std::{path::PathBuf, sync::Arc};

use anyhow::{Context, bail};
use parking_lot::Mutex;
use tokio::signal::unix::{SignalKind, signal};

use super::{
    check,
    node::{self, Storage},
    output,
    watch::Watched,
};
use crate::{
    clock::SystemClock,
    config::Config,
    envelope::foreign::Schemas,
    stream::topology::{self, Deployed, Deployment, Set, Setup},
    telemetry::{Need, PartStatus, Readiness},
};

/// The name of the part in `/readyz`.
const PART: &str = "topologies";

/// Reads the files of the folder. What is wrong is printed, and refuses the start.
pub(super) fn read(config: &Config) -> anyhow::Result<Set> {
    let (_, checked) = check::read(config, &[])?;
    for problem in &checked.problems {
        output::note(&problem.render(false));
    }
    check::refuse(&checked.problems)?;
    match checked.set {
        Some(set) => Ok(set),
        None => bail!("the topology files cannot be used"),
    }
}

/// The running topologies. Dropping it stops them.
pub(super) struct Topologies {
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
    pub(super) fn start(
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
    pub(super) async fn stop(self) {
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
            output::note(&problem.render(false));
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
