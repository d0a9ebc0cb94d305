//! `omnilink up`: runs everything in one process.

use std::{net::SocketAddr, time::Duration};

use anyhow::Context;
use tokio::runtime::Runtime;

use super::{Global, client::scheme, output};
use crate::{
    config::Config,
    node::{self, Parts, postgres, storage::admin_key_file},
    telemetry,
};

/// Flags of `omnilink up`.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  omnilink up
  omnilink up --listen 127.0.0.1:8080 --data-dir /var/lib/omnilink
  OMNILINK__KAFKA__BROKERS=kafka-1:9092 omnilink up --no-provision")]
pub struct Args {
    /// Address and port [default: 127.0.0.1:7700]
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
    /// Allow an address that other machines can reach without TLS, although keys are sent unencrypted
    #[arg(long)]
    insecure_listen: bool,
    /// Create no topics and run no migrations: a missing one is an error
    #[arg(long)]
    no_provision: bool,
    /// Do not run a part that other nodes run
    #[arg(long, value_name = "PART", value_enum)]
    without: Vec<Part>,
}

/// A part that a node may leave to other nodes.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Part {
    /// From `ingress` to `events`, and starts of workflows at times.
    Admission,
    /// Runs: from `commands` to `runs` and `steps`.
    Sagas,
    /// From `events` to Postgres.
    Projections,
    /// The topologies of topologies_dir.
    Topologies,
    /// Calls of HTTP workers and builtin tools, plans of goals, and notifications.
    Workers,
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
    raise_file_limit();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("port")
        .build()
        .context("cannot start the runtime")?;
    let runs = |part| !args.without.contains(&part);
    let parts = Parts {
        admission: runs(Part::Admission),
        sagas: runs(Part::Sagas),
        projections: runs(Part::Projections),
        topologies: runs(Part::Topologies),
        workers: runs(Part::Workers),
    };
    let result = runtime.block_on(node::run(config, !args.no_provision, parts, welcome));
    // A thread that still blocks after this second is abandoned.
    Runtime::shutdown_timeout(runtime, Duration::from_secs(1));
    result
}

fn welcome(config: &Config, address: SocketAddr, first: Option<&str>) {
    let url = format!("{}://{address}", scheme(config));
    let file = admin_key_file(config);
    let file = file.display();
    output::line(&format!(
        "OmniLink {} listens on {url}",
        env!("CARGO_PKG_VERSION")
    ));
    match first {
        Some(token) => output::line(&format!(
            "Admin key (kept in {file}, shown this once): {token}"
        )),
        None if config.on_kafka() && !admin_key_file(config).exists() => {
            output::line("Keys: `omnilink keys create --first` creates the first one");
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
            "and query it: psql \"$(cat {})\" -c 'TABLE omnilink.entities'",
            file.display()
        ));
    }
}

/// Raises the limit of open files to the hard limit: each connection takes one.
fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    // If that fails, the port can serve fewer connections at once.
    let _ = setrlimit(
        Resource::Nofile,
        Rlimit {
            current: limit.maximum,
            maximum: limit.maximum,
        },
    );
}
