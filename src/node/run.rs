//! Starts, runs and stops a node: the order in which its parts are opened, started and stopped.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::{
    control_records::ControlRecords,
    cron, event_schemas,
    lags::NodeLags,
    notify, planner,
    postgres::{self, Postgres},
    sagas,
    storage::{self, Storage},
    topologies::{self, Topologies},
    watch::Watch,
    workers,
    workflows::{self, Reloading},
};
use crate::{
    admission::{self, Admission},
    audit::Audit,
    base::clock::SystemClock,
    config::Config,
    controls::{Controls, Held},
    envelope::foreign::{NoRegistry, Schemas},
    event_schemas::EventSchemas,
    jwt::Jwt,
    limits::{Limiter, RedisOptions},
    port::{self, Nodes, Port, Tls, Tools},
    registry::Registry,
    saga::{Answers, Followers},
    starts::Guardian,
    stream::{lane, progress::Progress},
    telemetry::{self, Need, PartStatus, Readiness},
    workflows::Current,
};

/// How long a stop waits for the audit log.
const AUDIT_DEADLINE: Duration = Duration::from_secs(2);

/// The parts that a node runs; other nodes run the rest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each part is either run or left to other nodes"
)]
pub struct Parts {
    /// From `ingress` to `events`, and starts of workflows by events and times.
    pub admission: bool,
    /// From `commands` to `runs`, `steps` and `ingress`.
    pub sagas: bool,
    /// From `events` to Postgres.
    pub projections: bool,
    /// The topologies of topologies_dir.
    pub topologies: bool,
    /// Calls of HTTP workers, from `steps` to `commands`; plans of goals, from `goals` to `commands`; and notifications.
    pub workers: bool,
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
    let tls = load_tls(&config)?;
    let event_schemas = event_schemas::read(&config)?;
    let workflows = Current::new(workflows::read(&config)?);
    let storage = Storage::open(&config, provision).await?;
    let (controls, tail) = storage.controls(&config).await?;
    controls.hold(Held::from_environment(|name| std::env::var(name).ok())?);
    let (audit, audit_writer) =
        Audit::start(Arc::clone(&storage.log), Arc::clone(&storage.names.audit));
    // Before starting parts that would have to be stopped if the address is in use.
    let listener = Port::listen(config.listen).await?;
    let readiness = Readiness::default();
    report(&readiness, &config, &storage, &controls);
    let reloads = tls.as_ref().map(|tls| {
        readiness.part("tls", Need::Optional, tls.probe(Arc::new(SystemClock)));
        tls.watch()
    });
    let reloads = reloads.transpose().context("cannot listen for signals")?;
    let first = if config.on_kafka() {
        None
    } else {
        let holder = storage::FirstKey::new(None, None, None)?;
        let log = (&*storage.log, &storage.names);
        let created =
            storage::create_first_key(&config, log, &controls, holder, "omnilink").await?;
        created.map(|(_, token)| token)
    };

    let schemas = connect_registry(&config, &readiness)?;
    let mut watch = Watch::new(&storage.log, audit.clone());
    let admission = if parts.admission {
        let window_ms = set.admission_window_ms();
        Some(start_admission(
            &config,
            window_ms,
            &storage,
            &controls,
            (&schemas, &event_schemas, &workflows),
            &readiness,
            &mut watch,
        )?)
    } else {
        None
    };
    let cron = if parts.admission {
        Some(cron::start(&storage, &controls, &workflows, &readiness)?)
    } else {
        None
    };
    let followers = Followers::default();
    // The embedded log has one node.
    let answers = config.on_kafka().then(|| {
        let partitions = config.topics.partitions;
        Answers::new(&storage.log, &storage.names, partitions, &followers)
    });
    let sagas = if parts.sagas {
        Some(sagas::start(
            &config, &storage, &controls, &followers, &readiness, &mut watch,
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
            (&controls, &schemas),
            &readiness,
            watch.watched(),
            provision,
        )?)
    } else {
        None
    };
    let (nodes, limiter) = connect_nodes(&config, &readiness)?;
    let tool_states = workers::tool_states(&config, &workflows);
    let calls = if parts.workers {
        Some(workers::start(
            &config,
            &storage,
            &controls,
            (&tool_states, &limiter),
            &readiness,
            &mut watch,
        )?)
    } else {
        None
    };
    let (planner, following) = planner::follow(&config, &storage, &workflows, &readiness)?;
    let planning = if parts.workers {
        Some(planner::start(
            &planner, &storage, &controls, &readiness, &mut watch,
        )?)
    } else {
        None
    };
    let notifications = if parts.workers {
        notify::start(&config, &storage, &readiness, &mut watch)?
    } else {
        None
    };
    let control_records = ControlRecords::start(
        Arc::clone(&storage.log),
        &storage.names,
        storage.state.clone(),
        Arc::clone(&controls),
    );
    let lags = NodeLags::new(&storage.log, watch.watched());
    let watching = watch.start().context("cannot start a thread")?;

    let jwt = start_jwt(&config, &readiness)?;
    let reloading = Reloading::start(&config, workflows.clone())?;
    let secrets = Arc::new(storage::secret_keys(&config)?);
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
                secrets: Arc::clone(&secrets),
                index_dir: storage::index_dir(&config),
                redriving: Arc::default(),
            },
            log: Arc::clone(&storage.log),
            ingress: Arc::clone(&storage.names.ingress),
            commands: Arc::clone(&storage.names.commands),
            followers,
            answers: answers.clone(),
            state: storage.state.clone(),
            appends: storage.appends,
            controls,
            jwt,
            audit,
            readiness,
            event_schemas: Arc::clone(&event_schemas),
            clock: Arc::new(SystemClock),
            limits: config.limits.clone(),
            tls,
            trusted_proxies: config.trusted_proxies.clone(),
            cors: config.cors.clone(),
            aliases: config.aliases.clone(),
            nodes,
            limiter,
            workflows,
            guardian: Guardian::new(&config.guardian, secrets),
            planner,
            tool_states,
        },
    )?;
    let address = port.address().context("the port has no address")?;
    listening(&config, address, first.as_deref());
    let metrics_upkeep = tokio::spawn(metrics_upkeep());
    let schema_reloads = event_schemas::reload_on_hangup(&config, event_schemas)?;

    port.serve(stop.cancelled_owned()).await;

    // The port first, so that no more events come in, then the processors.
    metrics_upkeep.abort();
    drop(reloads);
    schema_reloads.abort();
    drop(reloading);
    drop(watching);
    drop(control_records);
    tokio::task::spawn_blocking(move || {
        if let Some(answers) = answers {
            answers.stop();
        }
        drop(cron);
        drop(notifications);
        drop(planning);
        drop(calls);
        drop(following);
    })
    .await?;
    if let Some(topologies) = topologies {
        topologies.stop().await;
    }
    drop(sagas);
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

/// The certificate of the port, if it has TLS.
fn load_tls(config: &Config) -> anyhow::Result<Option<Tls>> {
    let Some((cert, key)) = config.tls.files() else {
        return Ok(None);
    };
    let tls = Tls::load(cert, key).context("the port cannot use TLS (`tls.cert`, `tls.key`)")?;
    Ok(Some(tls))
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

/// What the port shares with other nodes, if Redis is configured: identities, and limits.
fn connect_nodes(
    config: &Config,
    readiness: &Readiness,
) -> anyhow::Result<(Option<Nodes>, Limiter)> {
    let clock = Arc::new(SystemClock);
    let Some(url) = &config.redis_url else {
        return Ok((None, Limiter::in_memory(clock)));
    };
    let prefix = &config.topics.prefix;
    let invalid = || format!("`redis.url` is not a valid Redis URL: {url}");
    let nodes = Nodes::start(url, prefix, config.limits.dedupe_window).with_context(invalid)?;
    let limiter =
        Limiter::with_redis(clock, &RedisOptions::new(url, prefix)).with_context(invalid)?;
    let (identities, limits) = (nodes.probe(), limiter.probe());
    readiness.part("redis", Need::Optional, move || identities().and(limits()));
    Ok((Some(nodes), limiter))
}

/// The issuers of `auth.jwt`, if there are any.
fn start_jwt(config: &Config, readiness: &Readiness) -> anyhow::Result<Option<Arc<Jwt>>> {
    if config.jwt.is_empty() {
        return Ok(None);
    }
    let jwt = Jwt::start(&config.jwt).context("the key sets of `auth.jwt` cannot be fetched")?;
    let jwt = Arc::new(jwt);
    let weak = Arc::downgrade(&jwt);
    readiness.part("jwks", Need::Optional, move || {
        weak.upgrade()
            .map_or(PartStatus::ok(""), |jwt| jwt.status())
    });
    Ok(Some(jwt))
}

/// Starts admission, from `ingress` to `events`.
fn start_admission(
    config: &Config,
    tuned_window_ms: Option<i64>,
    storage: &Storage,
    controls: &Arc<Controls>,
    (schemas, event_schemas, workflows): (&Arc<dyn Schemas>, &Arc<EventSchemas>, &Current),
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
        .with_guardian(config.guardian)
        .with_controls(Arc::clone(controls))
        .with_schemas(Arc::clone(schemas))
        .with_event_schemas(Arc::clone(event_schemas))
        .with_workflows(workflows.clone());
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
fn report(readiness: &Readiness, config: &Config, storage: &Storage, controls: &Arc<Controls>) {
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
        if !controls.readable() {
            return PartStatus::down("not read to its end for 5 s");
        }
        let in_force = controls.emergency().in_force();
        if in_force.is_empty() {
            return PartStatus::ok("");
        }
        let described: Vec<_> = in_force.iter().map(ToString::to_string).collect();
        PartStatus::degraded(described.join("; "))
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
