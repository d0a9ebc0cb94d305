//! `omnilink up`: everything in one process.

use std::{sync::Arc, time::Duration};

use anyhow::Context;
use tokio::{
    runtime::Runtime,
    signal::unix::{SignalKind, signal},
};
use tokio_util::sync::CancellationToken;

use super::{
    Global,
    lag::NodeLags,
    node,
    node::Storage,
    output,
    postgres::{self, Postgres},
    topologies::{self, Topologies},
    watch::Watch,
};
use crate::{
    admission::{self, Admission},
    clock::SystemClock,
    config::Config,
    envelope::foreign::{NoRegistry, Schemas},
    port::{Nodes, Parts, Port, Tools},
    registry::Registry,
    stream::{lane, progress::Progress},
    telemetry::{self, Need, PartStatus, Readiness},
};

/// What to do differently.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  omnilink up
  omnilink up --listen 127.0.0.1:8080 --data-dir /var/lib/omnilink
  OMNILINK__KAFKA__BROKERS=kafka-1:9092 omnilink up --no-provision")]
pub struct Args {
    /// Address and port [default: 127.0.0.1:7700]
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
    /// Allow an address that other machines reach, though keys travel unencrypted
    #[arg(long)]
    insecure_listen: bool,
    /// Make no topics and migrate nothing: what is missing is an error
    #[arg(long)]
    no_provision: bool,
    /// Leave out a part that other nodes run
    #[arg(long, value_name = "PART", value_enum)]
    without: Vec<Part>,
}

/// What a node may leave to others.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Part {
    /// From `ingress` to `events`.
    Admission,
    /// From `events` to Postgres.
    Projections,
    /// The topologies of topologies_dir.
    Topologies,
}

pub(super) fn main(global: &Global, args: &Args) -> anyhow::Result<()> {
    let config = global.load(|sources| {
        sources
            .flag("--listen", "listen", args.listen.clone())
            .flag(
                "--insecure-listen",
                "insecure_listen",
                args.insecure_listen.then(|| "true".into()),
            )
    })?;
    telemetry::init_logs(config.log_format);
    more_files();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("port")
        .build()
        .context("cannot start the runtime")?;
    let result = runtime.block_on(run(config, !args.no_provision, &args.without));
    // What still blocks a thread now has had its time.
    Runtime::shutdown_timeout(runtime, Duration::from_secs(1));
    result
}

/// Runs until it is interrupted.
pub async fn run(config: Config, provision: bool, without: &[Part]) -> anyhow::Result<()> {
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
        let who = node::FirstKey::new(None, None, None)?;
        let made = node::make_first_key(&config, &controls, who).await?;
        made.map(|(_, token)| token)
    };

    let schemas = connect_registry(&config, &readiness)?;
    let mut watch = Watch::new(&storage.log);
    let admission = if without.contains(&Part::Admission) {
        None
    } else {
        let window_ms = set.admission_window_ms();
        Some(start_admission(
            &config, window_ms, &storage, &schemas, &readiness, &mut watch,
        )?)
    };
    let projections = (!without.contains(&Part::Projections)).then(|| {
        Postgres::start(
            &config, &storage, &controls, &readiness, &mut watch, provision,
        )
    });
    let topologies = if without.contains(&Part::Topologies) {
        None
    } else {
        Some(Topologies::start(
            &set,
            &config,
            &storage,
            &schemas,
            &readiness,
            watch.watched(),
            provision,
        )?)
    };
    let lags = NodeLags::new(&storage.log, watch.watched());
    let watching = watch.start().context("cannot start a thread")?;

    let nodes = connect_nodes(&config, &readiness)?;
    let port = Port::new(
        listener,
        Parts {
            rebuilds: projections
                .as_ref()
                .map_or_else(|| Arc::new(postgres::NoRebuilds) as _, Postgres::rebuilds),
            tools: Tools {
                log: Arc::clone(&storage.log),
                names: storage.names.clone(),
                partitions: config.topics.partitions,
                lags: Arc::new(lags),
                secrets: Arc::new(node::secret_keys(&config)?),
                index_dir: node::index_dir(&config),
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
    welcome(&config, address, first.as_deref());
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
    output::note("stopped");
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
        let trouble = asked.upgrade().and_then(|registry| registry.trouble());
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
        .with_secrets(Arc::new(node::secret_keys(config)?))
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

fn welcome(config: &Config, address: std::net::SocketAddr, first: Option<&str>) {
    let url = format!("http://{address}");
    let file = node::admin_key_file(config);
    let file = file.display();
    output::line(&format!(
        "OmniLink {} listens on {url}",
        env!("CARGO_PKG_VERSION")
    ));
    match first {
        Some(token) => output::line(&format!(
            "Admin key (kept in {file}, shown this once): {token}"
        )),
        None if config.on_kafka() && !node::admin_key_file(config).exists() => {
            output::line("Keys: `omnilink keys create --first` makes the first one");
        }
        None => output::line(&format!("Admin key: in {file}")),
    }
    output::line("Try:");
    output::line(&format!(
        "  curl -i {url}/v1/events -H \"Authorization: Bearer $(cat {file})\" -H 'Content-Type: application/json' \\\n    \
         -d '{{\"id\":\"1\",\"source\":\"/shop\",\"type\":\"order.paid\",\"entity\":{{\"type\":\"order\",\"external_id\":\"1\"}},\"data\":{{\"total\":9.5}}}}'"
    ));
    output::line(&format!("  curl {url}/readyz"));
    output::line(&format!("  curl {url}/metrics"));
    if config.postgres_url.is_none() {
        let file = postgres::url_file(&config.data_dir);
        output::line(&format!(
            "and read it back: psql \"$(cat {})\" -c 'TABLE omnilink.entities'",
            file.display()
        ));
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
        output::note("stopping; again to stop at once");
        stop.cancel();
        signals().await;
        std::process::exit(130);
    });
    Ok(token)
}

/// Each connection is a file: takes as many as the system allows.
fn more_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    // Refused, the port serves fewer connections at once.
    let _ = setrlimit(
        Resource::Nofile,
        Rlimit {
            current: limit.maximum,
            maximum: limit.maximum,
        },
    );
}
