//! Starts, runs and stops a node: the order in which its parts are opened, started and stopped.

use std::{net::SocketAddr, sync::Arc, time::Duration};

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
    audit::Audit,
    base::clock::SystemClock,
    config::Config,
    envelope::foreign::{NoRegistry, Schemas},
    port::{self, Nodes, Port, Tools},
    registry::Registry,
    stream::{lane, progress::Progress},
    telemetry::{self, Need, PartStatus, Readiness},
};

/// How long a stop waits for the audit log.
const AUDIT_DEADLINE: Duration = Duration::from_secs(2);

/// The parts that a node runs; other nodes run the rest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Parts {
    /// From `ingress` to `events`.
    pub admission: bool,
    /// From `events` to Postgres.
    pub projections: bool,
    /// The topologies of topologies_dir.
    pub topologies: bool,
}

/// Runs a node until SIGINT or SIGTERM. With `provision` it creates missing topics and migrates Postgres. `listening` is called
/// once the port listens, with its address, and with the first key if this start created it.
pub async fn run(
    config: Config,
    provision: bool,
    parts: Parts,
    listening: impl FnOnce(&Config, SocketAddr, Option<&str>),
) -> anyhow::Result<()> {
    telemetry::metrics::install();
    // First, so that a signal during a long start stops it.
    let stop = stop_on_signals()?;
    let set = topologies::read(&config)?;
    let storage = Storage::open(&config, provision).await?;
    let (controls, tail) = storage.controls(&config).await?;
    let (audit, audit_writer) =
        Audit::start(Arc::clone(&storage.log), Arc::clone(&storage.names.audit));
    // Before starting parts that would have to be stopped if the address is in use.
    let listener = Port::listen(config.listen).await?;
    let readiness = Readiness::default();
    report(&readiness, &config, &storage, &controls);
    let first = if config.on_kafka() {
        None
    } else {
        let holder = storage::FirstKey::new(None, None, None)?;
        let created = storage::create_first_key(&config, &controls, holder).await?;
        created.map(|(_, token)| token)
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
            tables: projections
                .as_ref()
                .map_or_else(|| Arc::new(postgres::NoTables) as _, Postgres::tables),
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
            audit,
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
    let metrics_upkeep = tokio::spawn(metrics_upkeep());

    port.serve(stop.cancelled_owned()).await;

    // The port first, so that no more events come in, then the processors.
    metrics_upkeep.abort();
    drop(watching);
    if let Some(topologies) = topologies {
        topologies.stop().await;
    }
    drop(admission);
    if let Some(projections) = projections {
        tokio::task::spawn_blocking(|| projections.stop()).await?;
    }
    drop(tail);
    audit_writer.finish(AUDIT_DEADLINE).await;
    drop(storage);
    telemetry::print_note("stopped");
    Ok(())
}

/// The source of the schemas of foreign Avro.
fn connect_registry(config: &Config, readiness: &Readiness) -> anyhow::Result<Arc<dyn Schemas>> {
    let Some(url) = &config.schema_registry_url else {
        return Ok(Arc::new(NoRegistry));
    };
    let registry = Registry::start(url).context("`schema_registry.url` cannot be used")?;
    let registry = Arc::new(registry);
    let weak = Arc::downgrade(&registry);
    readiness.part("schema_registry", Need::Optional, move || {
        let trouble = weak.upgrade().and_then(|registry| registry.last_error());
        trouble.map_or_else(|| PartStatus::ok(""), PartStatus::degraded)
    });
    Ok(registry)
}

/// The state that the port shares with other nodes, if Redis is configured.
fn connect_nodes(config: &Config, readiness: &Readiness) -> anyhow::Result<Option<Nodes>> {
    let Some(url) = &config.redis_url else {
        return Ok(None);
    };
    let nodes = Nodes::start(url, &config.topics.prefix, config.limits.dedupe_window)
        .with_context(|| format!("`redis.url` is not a valid Redis URL: {url}"))?;
    readiness.part("redis", Need::Optional, nodes.probe());
    Ok(Some(nodes))
}

/// Starts admission, from `ingress` to `events`.
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
    // Only the port of this process can write to the embedded log.
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

/// Registers the parts that `/readyz` always reports.
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
            PartStatus::down("not read to its end for 5 s")
        }
    });
}

/// Periodic maintenance of histograms, which otherwise keep every value until the next scrape.
async fn metrics_upkeep() {
    let mut due = tokio::time::interval(telemetry::metrics::UPKEEP);
    loop {
        due.tick().await;
        telemetry::metrics::run_upkeep();
    }
}

/// A token that the first SIGINT or SIGTERM cancels; the second ends the process immediately.
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
        telemetry::print_note("stopping; signal again to stop immediately");
        stop.cancel();
        signals().await;
        std::process::exit(130);
    });
    Ok(token)
}
