//! Postgres of this node, configured or embedded, and the projections that write to it.
//!
//! It starts in the background: the port accepts events without it.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{runtime::Handle, task::JoinHandle};

use super::{
    rebuild::{Setups, Wanted},
    storage::{self, Storage},
    watch::Watch,
};
use crate::{
    api::rebuild::{Rebuild, RebuildStatus},
    base::{backoff::Backoff, clock::SystemClock},
    config::{Config, SecretUrl},
    controls::{Controls, seal::write_private},
    embedded_postgres::{Embedded, EmbeddedError},
    log::topics::Names,
    port::{NotBegun, Rebuilds, Tables, TablesError},
    projections::{self, ControlledTable, ControlledTables, Projector, Retention, Setup},
    store::Store,
    stream::progress::Progress,
    telemetry::{Need, PartStatus, Readiness},
};

const BACKOFF: Backoff = Backoff {
    first: Duration::from_millis(200),
    max: Duration::from_secs(10),
};
/// Time limit of the readiness probe.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);

/// The state of the start.
enum State {
    Starting,
    /// The last attempt failed with this error; the next follows.
    Retrying(String),
    /// Postgres cannot be used, for this reason; there is no further attempt.
    Unavailable(String),
    Running(Box<Running>),
    Stopped,
}

struct Running {
    /// Dropped before the server stops.
    projectors: Vec<Projector>,
    tables: ControlledTables,
    retention: Retention,
    setups: Setups,
    embedded: Option<Embedded>,
}

/// The projections and their Postgres, started in the background.
pub(crate) struct Postgres {
    state: Arc<Mutex<State>>,
    task: JoinHandle<()>,
}

struct Start {
    url: Option<SecretUrl>,
    data_dir: PathBuf,
    provision: bool,
    state: Arc<Mutex<State>>,
    log: Arc<dyn crate::log::Log>,
    names: Names,
    /// The progress of each projection, in the order of [`projections::topics`].
    progress: [Arc<Progress>; 7],
    controls: Arc<Controls>,
    /// The progress of each table that follows `controls`, in the order of [`controlled`].
    tables: Vec<Arc<Progress>>,
    audit_retention_days: u32,
    lanes: usize,
}

/// The tables that follow `controls`.
fn controlled(controls: &Arc<Controls>) -> Vec<ControlledTable> {
    vec![
        ControlledTable::reader_grants(controls),
        ControlledTable::api_keys(controls),
        ControlledTable::integrations(controls),
        ControlledTable::emergency_controls(controls),
    ]
}

impl Postgres {
    /// Starts in the background; returns immediately.
    pub(crate) fn start(
        config: &Config,
        storage: &Storage,
        controls: &Arc<Controls>,
        readiness: &Readiness,
        watch: &mut Watch,
        provision: bool,
    ) -> Self {
        let state = Arc::new(Mutex::new(State::Starting));
        report_postgres(readiness, &state);
        let progress = projections::topics(&storage.names).map(|(name, _)| {
            let progress = Arc::<Progress>::default();
            report_projection(readiness, name, &progress);
            watch.processor(name, &progress);
            progress
        });
        let tables = controlled(controls).into_iter().map(|table| {
            let progress = Arc::<Progress>::default();
            report_projection(readiness, table.name(), &progress);
            progress
        });
        let tables = tables.collect();
        let start = Start {
            url: config.postgres_url.clone(),
            data_dir: config.data_dir.clone(),
            provision,
            state: Arc::clone(&state),
            log: Arc::clone(&storage.log),
            names: storage.names.clone(),
            progress,
            controls: Arc::clone(controls),
            tables,
            audit_retention_days: config.audit_retention_days,
            lanes: storage::lanes(config),
        };
        Self {
            state,
            task: tokio::spawn(start.run()),
        }
    }

    /// The tables, for the port to read.
    pub(crate) fn tables(&self) -> Arc<dyn Tables> {
        Arc::new(RunningTables(Arc::clone(&self.state)))
    }

    /// Runs rebuilds of projections for the port.
    pub(crate) fn rebuilds(&self) -> Arc<dyn Rebuilds> {
        Arc::new(RebuildJob {
            state: Arc::clone(&self.state),
            last: Arc::default(),
        })
    }

    /// Finishes running transactions and stops the server. Blocks for seconds.
    pub(crate) fn stop(self) {
        self.task.abort();
        let state = std::mem::replace(&mut *self.state.lock(), State::Stopped);
        if let State::Running(mut running) = state {
            drop(running.tables);
            drop(running.retention);
            // All at once, before each is waited for.
            running.projectors.iter().for_each(Projector::stop);
            running.projectors.clear();
            if let Some(embedded) = running.embedded {
                embedded.stop();
            }
        }
    }
}

impl Start {
    async fn run(self) {
        let mut attempt = 0;
        let starting = self.progress.each_ref().map(|progress| {
            let lane = progress.lane();
            lane.starting("Postgres is starting");
            lane
        });
        loop {
            match self.try_start().await {
                Ok(running) => {
                    // From here on the projector's lanes report progress.
                    drop(starting);
                    self.set(State::Running(Box::new(running)));
                    return;
                }
                Err(StartError::Permanent(why)) => {
                    crate::telemetry::print_note(&format!(
                        "events are accepted, but not written to Postgres: {why}"
                    ));
                    for lane in &starting {
                        lane.waiting(format!("Postgres is unavailable: {why}"));
                    }
                    self.set(State::Unavailable(why));
                    // Keeps `starting`, so that its status stays until the node stops.
                    return std::future::pending().await;
                }
                Err(StartError::Transient(why)) => {
                    tracing::warn!(why, "Postgres cannot be used yet; retrying");
                    for lane in &starting {
                        lane.waiting(format!("Postgres: {why}"));
                    }
                    self.set(State::Retrying(why));
                }
            }
            tokio::time::sleep(BACKOFF.pause(attempt)).await;
            attempt += 1;
        }
    }

    fn set(&self, new: State) {
        let mut state = self.state.lock();
        if !matches!(*state, State::Stopped) {
            *state = new;
        }
    }

    async fn try_start(&self) -> Result<Running, StartError> {
        let (store, embedded) = if let Some(url) = &self.url {
            let store =
                Store::new(url.expose()).map_err(|e| StartError::Permanent(e.to_string()))?;
            (store, None)
        } else {
            let embedded = Embedded::start(&self.data_dir).await.map_err(|e| match e {
                EmbeddedError::NoBinaries
                | EmbeddedError::OtherVersion { .. }
                | EmbeddedError::NoUser => StartError::Permanent(e.to_string()),
                e => StartError::Transient(e.to_string()),
            })?;
            (embedded.store(), Some(embedded))
        };
        let transient = |e: crate::store::StoreError| StartError::Transient(e.to_string());
        if self.provision {
            store.migrate().await.map_err(transient)?;
        } else if let Some(first) = store.pending().await.map_err(transient)?.first() {
            return Err(StartError::Transient(format!(
                "migration {first} is pending; run `omnilink migrate`"
            )));
        }
        let setups = self.setups(&store);
        let io = |e: std::io::Error| StartError::Transient(e.to_string());
        let projectors = vec![
            Projector::start(&setups.events, self.lanes).map_err(io)?,
            Projector::start_audit(&setups.audit).map_err(io)?,
            Projector::start_odoo(&setups.odoo).map_err(io)?,
            Projector::start_odoo_dlq(&setups.odoo_dlq).map_err(io)?,
            Projector::start_odoo_ingress(&setups.odoo_ingress).map_err(io)?,
            Projector::start_runs(&setups.runs, self.lanes).map_err(io)?,
            Projector::start_tasks(&setups.tasks).map_err(io)?,
        ];
        if let Some(embedded) = &embedded {
            let file = url_file(&self.data_dir);
            write_private(&file, &embedded.url()).map_err(|e| {
                StartError::Transient(format!("{} cannot be written: {e}", file.display()))
            })?;
        }
        let runtime = Handle::current();
        let tables = controlled(&self.controls).into_iter();
        let tables = tables.zip(self.tables.iter().cloned());
        Ok(Running {
            projectors,
            tables: ControlledTables::start(&runtime, &store, tables),
            retention: Retention::start(&runtime, &store, self.audit_retention_days),
            setups,
            embedded,
        })
    }

    fn setups(&self, store: &Store) -> Setups {
        let topics = projections::topics(&self.names).map(|(_, topic)| topic);
        let setup = |n: usize| Setup {
            store: store.clone(),
            log: Arc::clone(&self.log),
            topic: Arc::clone(&topics[n]),
            dlq: Arc::clone(&self.names.dlq),
            clock: Arc::new(SystemClock),
            runtime: Handle::current(),
            progress: Arc::clone(&self.progress[n]),
        };
        Setups {
            events: setup(0),
            audit: setup(1),
            odoo: setup(2),
            odoo_dlq: setup(3),
            runs: setup(4),
            tasks: setup(5),
            odoo_ingress: setup(6),
        }
    }
}

/// The file with the URL of the embedded Postgres, including the password; only its owner can read it.
pub(crate) fn url_file(data_dir: &Path) -> PathBuf {
    data_dir.join("postgres.url")
}

/// Why Postgres could not be started.
enum StartError {
    /// A later attempt may succeed.
    Transient(String),
    /// No attempt can succeed.
    Permanent(String),
}

fn report_postgres(readiness: &Readiness, state: &Arc<Mutex<State>>) {
    let state = Arc::clone(state);
    let runtime = Handle::current();
    readiness.part("postgres", Need::Optional, move || {
        let store = match &*state.lock() {
            State::Starting => return PartStatus::degraded("starting"),
            State::Retrying(why) | State::Unavailable(why) => {
                return PartStatus::degraded(why.clone());
            }
            State::Stopped => return PartStatus::degraded("stopped"),
            State::Running(running) => running.setups.events.store.clone(),
        };
        let probed =
            runtime.block_on(async { tokio::time::timeout(PROBE_TIMEOUT, store.health()).await });
        match probed {
            Ok(Ok(())) => PartStatus::ok(""),
            Ok(Err(error)) => PartStatus::degraded(error.to_string()),
            Err(_) => {
                PartStatus::degraded(format!("no answer within {} s", PROBE_TIMEOUT.as_secs()))
            }
        }
    });
}

fn report_projection(readiness: &Readiness, name: &str, progress: &Arc<Progress>) {
    let progress = Arc::clone(progress);
    readiness.part(&format!("projection {name}"), Need::Optional, move || {
        progress
            .trouble()
            .map_or(PartStatus::ok(""), PartStatus::degraded)
    });
}

/// Runs a rebuild in this node's Postgres on its own thread.
struct RebuildJob {
    state: Arc<Mutex<State>>,
    last: Arc<Mutex<Rebuild>>,
}

impl RebuildJob {
    fn setups(&self) -> Result<Setups, NotBegun> {
        match &*self.state.lock() {
            State::Running(running) => Ok(running.setups.clone()),
            State::Retrying(why) | State::Unavailable(why) => {
                Err(NotBegun::Unavailable(why.clone()))
            }
            State::Starting | State::Stopped => {
                Err(NotBegun::Unavailable("Postgres is starting".into()))
            }
        }
    }
}

/// The Postgres of this node, once it runs.
struct RunningTables(Arc<Mutex<State>>);

impl Tables for RunningTables {
    fn store(&self) -> Result<Store, TablesError> {
        match &*self.0.lock() {
            State::Running(running) => Ok(running.setups.events.store.clone()),
            State::Retrying(why) | State::Unavailable(why) => {
                Err(TablesError::Unavailable(why.clone()))
            }
            State::Starting => Err(TablesError::Starting),
            State::Stopped => Err(TablesError::Stopping),
        }
    }
}

impl Rebuilds for RebuildJob {
    fn begin(&self, projections: &[String]) -> Result<(), NotBegun> {
        let wanted = Wanted::parse(projections)?;
        let setups = self.setups()?;
        {
            let mut last = self.last.lock();
            if last.status == RebuildStatus::Running {
                return Err(NotBegun::Running);
            }
            *last = Rebuild {
                status: RebuildStatus::Running,
                ..Rebuild::default()
            };
        }
        let last = Arc::clone(&self.last);
        let run = move || {
            let reported = Arc::clone(&last);
            let mut progress = move |done, total| {
                let mut last = reported.lock();
                (last.done, last.total) = (done, total);
            };
            let outcome = wanted.run(&setups, &mut progress);
            let mut last = last.lock();
            match outcome {
                Ok(rebuilt) => {
                    last.status = RebuildStatus::Done;
                    last.done = rebuilt.records;
                    last.paused_ms = Some(rebuilt.paused.as_millis() as u64);
                }
                Err(error) => {
                    last.status = RebuildStatus::Failed;
                    last.error = Some(error.to_string());
                }
            }
        };
        let spawned = std::thread::Builder::new()
            .name("rebuild".into())
            .spawn(run);
        spawned.map(drop).map_err(|e| {
            self.last.lock().status = RebuildStatus::Idle;
            NotBegun::Unavailable(format!("cannot start a thread: {e}"))
        })
    }

    fn status(&self) -> Rebuild {
        self.last.lock().clone()
    }
}

/// For a node that runs without projections.
pub(crate) struct NoRebuilds;

impl Rebuilds for NoRebuilds {
    fn begin(&self, _: &[String]) -> Result<(), NotBegun> {
        let why = "this node runs without projections; ask one that has them";
        Err(NotBegun::Unavailable(why.into()))
    }

    fn status(&self) -> Rebuild {
        Rebuild::default()
    }
}

/// For a node that runs without projections.
pub(crate) struct NoTables;

impl Tables for NoTables {
    fn store(&self) -> Result<Store, TablesError> {
        Err(TablesError::Without)
    }
}
