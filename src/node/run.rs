//! A node from its start to its stop: what is opened, started and stopped, and in which order.

use std::{net::SocketAddr, sync::Arc};

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::{
    lags::NodeLags,
    postgres::{self, Postgres},
    storage::{self, Storage},
    topologies::{self, Topologies},
    watch::Watch,
};
use crate::{
    admission::{self, Admission},
    base::clock::SystemClock,
    config::Config,
    envelope::foreign::{NoRegistry, Schemas},
    port::{self, Nodes, Port, Tools},
    registry::Registry,
    stream::{lane, progress::Progress},
    telemetry::{self, Need, PartStatus, Readiness},
};

/// What a node does, and leaves to others.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Parts {
    /// From `ingress` to `events`.
    pub admission: bool,
    /// From `events` to Postgres.
    pub projections: bool,
    /// The topologies of topologies_dir.
    pub topologies: bool,
}

/// Runs until it is interrupted. With `provision` missing topics are made, and Postgres is migrated. `listening` is called when the port listens: with its address, and the first key if that was made
/// just now.
pub async fn run(
    config: Config,
    provision: bool,
    parts: Parts,
    listening: impl FnOnce(&Config, SocketAddr, Option<&str>),
) -> anyhow::Result<()> {
    telemetry::metrics::install();
    // Before anything is started: an interrupt during a long start must be heard.
    let stop = stop_on_signals()?;
    let set = topologies::read(&config)?;
    let storage = Storage::open(&config, provision).await?;
    let (controls, tail) = storage.controls(&config).await?;
    // Before anything is started that would have to be stopped again.
    let listener = Port::listen(config.listen).await?;
    let readiness = Readiness::default();
    report(&readiness, &config, &storage, &controls);
    let first = if config.on_kafka() {
        None
    } else {
        let who = storage::FirstKey::new(None, None, None)?;
        let made = storage::make_first_key(&config, &controls, who).await?;
        made.map(|(_, token)| token)
    };

    let schemas = connect_registry(&config, &readiness)?;
    let mut watch = Watch::new(&storage.log);
    let admission = if parts.admission {
        let window_ms = set.admission_window_ms();
        Some(start_admission(
            &config, window_ms, &storage, &schemas, &readiness, &mut watch,
        )?)
    } else {
        None
    };
    let projections = parts.projections.then(|| {
        Postgres::start(
            &config, &storage, &controls, &readiness, &mut watch, provision,
        )
    });
    let topologies = if parts.topologies {
        Some(Topologies::start(
            &set,
            &config,
            &storage,
            &schemas,
            &readiness,
            watch.watched(),
            provision,
        )?)
    } else {
        None
    };
    let lags = NodeLags::new(&storage.log, watch.watched());
    let watching = watch.start().context("cannot start a thread")?;

    let nodes = connect_nodes(&config, &readiness)?;
    let port = Port::new(
        listener,
        port::Parts {
            rebuilds: projections
                .as_ref()
                .map_or_else(|| Arc::new(postgres::NoRebuilds) as _, Postgres::rebuilds),
            tools: Tools {
                log: Arc::clone(&storage.log),
                names: storage.names.clone(),
                partitions: config.topics.partitions,
                lags: Arc::new(lags),
                secrets: Arc::new(storage::secret_keys(&config)?),
                index_dir: storage::index_dir(&config),
                redriving: Arc::default(),
            },
            log: Arc::clone(&storage.log),
            ingress: Arc::clone(&storage.names.ingress),
            state: storage.state.clone(),
            appends: storage.appends,
            controls,
            readiness,
            clock: Arc::new(SystemClock),
            limits: config.limits.clone(),
            trusted_proxies: config.trusted_proxies.clone(),
            cors: config.cors.clone(),
            nodes,
        },
    )?;
    let address = port.address().context("the port has no address")?;
    listening(&config, address, first.as_deref());
    let upkeep = tokio::spawn(upkeep());

    port.serve(stop.cancelled_owned()).await;

    // The port first, so that nothing more comes in; then what carries on with what did.
    upkeep.abort();
    drop(watching);
    if let Some(topologies) = topologies {
        topologies.stop().await;
    }
    drop(admission);
    if let Some(projections) = projections {
        tokio::task::spawn_blocking(|| projections.stop()).await?;
    }
    drop(tail);
    drop(storage);
    telemetry::print_note("stopped");
    Ok(())
}

/// Where the schemas of foreign Avro come from.
fn connect_registry(config: &Config, readiness: &Readiness) -> anyhow::Result<Arc<dyn Schemas>> {
    let Some(url) = &config.schema_registry_url else {
        return Ok(Arc::new(NoRegistry));
    };
    let registry = Registry::start(url).context("`schema_registry.url` cannot be used")?;
    let registry = Arc::new(registry);
    let asked = Arc::downgrade(&registry);
    readiness.part("schema_registry", Need::Optional, move || {
        let trouble = asked.upgrade().and_then(|registry| registry.last_error());
        trouble.map_or_else(|| PartStatus::ok(""), PartStatus::degraded)
    });
    Ok(registry)
}

/// What the port shares with other nodes, if Redis is configured.
fn connect_nodes(config: &Config, readiness: &Readiness) -> anyhow::Result<Option<Nodes>> {
    let Some(url) = &config.redis_url else {
        return Ok(None);
    };
    let nodes = Nodes::start(url, &config.topics.prefix, config.limits.dedupe_window)
        .with_context(|| format!("`redis.url` is no URL of a Redis: {url}"))?;
    readiness.part("redis", Need::Optional, nodes.probe());
    Ok(Some(nodes))
}

/// From `ingress` to `events`.
fn start_admission(
    config: &Config,
    tuned_window_ms: Option<i64>,
    storage: &Storage,
    schemas: &Arc<dyn Schemas>,
    readiness: &Readiness,
    watch: &mut Watch,
) -> anyhow::Result<lane::Running> {
    let configured = config.limits.dedupe_window.as_millis() as i64;
    let window_ms = tuned_window_ms.unwrap_or(configured);
    // Only the port of this very process can write to the embedded log.
    let trusted = !config.on_kafka();
    let partitions = config.topics.partitions;
    let admission = Admission::new(&storage.names, partitions, window_ms, trusted)
        .with_secrets(Arc::new(storage::secret_keys(config)?))
        .with_schemas(Arc::clone(schemas));
    let progress = Arc::<Progress>::default();
    watch.processor(admission::NAME, &progress);
    let setup = lane::Setup {
        log: Arc::clone(&storage.log),
        dlq: Arc::clone(&storage.names.dlq),
        clock: Arc::new(SystemClock),
        progress: Arc::clone(&progress),
    };
    readiness.part(admission::NAME, Need::Optional, move || {
        progress
            .trouble()
            .map_or(PartStatus::ok(""), PartStatus::degraded)
    });
    lane::start(Arc::new(admission), setup).context("admission cannot be started")
}

/// The parts that `/readyz` always has.
fn report(
    readiness: &Readiness,
    config: &Config,
    storage: &Storage,
    controls: &Arc<crate::controls::Controls>,
) {
    let name = if config.on_kafka() { "kafka" } else { "log" };
    let log = Arc::clone(&storage.log);
    readiness.part(name, Need::Required, move || match log.health() {
        Ok(()) => {
            let (troubles, notices) = (log.troubles(), telemetry::notices());
            let detail = [&troubles[..], &notices[..]].concat().join("; ");
            if troubles.is_empty() {
                PartStatus::ok(detail)
            } else {
                PartStatus::degraded(detail)
            }
        }
        Err(error) => PartStatus::down(error.to_string()),
    });
    let controls = Arc::clone(controls);
    readiness.part("controls", Need::Required, move || {
        if controls.readable() {
            PartStatus::ok("")
        } else {
            PartStatus::down("not read for 5 s")
        }
    });
}

/// Histograms keep every value until they are asked for, or until this.
async fn upkeep() {
    let mut due = tokio::time::interval(telemetry::metrics::UPKEEP);
    loop {
        due.tick().await;
        telemetry::metrics::run_upkeep();
    }
}

/// Cancelled by the first interrupt or SIGTERM; the second ends the process at once.
fn stop_on_signals() -> anyhow::Result<CancellationToken> {
    let token = CancellationToken::new();
    let stop = token.clone();
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for signals")?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for signals")?;
    tokio::spawn(async move {
        let mut signals = async || {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        };
        signals().await;
        telemetry::print_note("stopping; again to stop at once");
        stop.cancel();
        signals().await;
        std::process::exit(130);
    });
    Ok(token)
}
