//! `omnilink doctor`: checks everything that a node needs, and suggests fixes.

use std::sync::Arc;

use anyhow::bail;
use hyper::Method;

use super::{
    Global,
    client::{ADMIN_KEY, Client},
    clocks,
    findings::{Finding, Findings, Status},
    held, identities, output, planning,
    processors::{Processor, processors},
    runtime, stalls, targets,
};
use crate::{
    base::clock::{Clock, SystemClock},
    config::Config,
    controls::Emergency,
    embedded_postgres as embedded,
    log::{Log, LogError, PositionFault, survey},
    node::{postgres, storage},
    port::{Certificate, Files},
    registry,
    store::{Session, Store, exposure},
    telemetry,
};

#[derive(clap::Args)]
#[command(after_help = "Examples:
  omnilink doctor
  omnilink doctor --json | jq '.items[] | select(.status == \"failed\")'

Exit code 1 if a check failed. It changes nothing. On Kafka it checks the processors of all nodes, and watches those with
records waiting for up to 10 s: one that makes no progress is `stalled`. Calls (of workers, the planner, notifications)
may last longer, so of these it only says that the position has not moved. It also names open producer transactions that
hold records back.")]
pub(super) struct Args {}

/// Below this much free space the embedded log refuses to write.
const MIN_FREE_BYTES: u64 = 256 << 20;
/// Below this much free space doctor warns.
const LOW_FREE_BYTES: u64 = 2 << 30;

pub(super) fn main(global: &Global, _: &Args) -> anyhow::Result<()> {
    let mut found = Findings::default();
    match global.load(|sources| sources) {
        Ok(config) => examine(&config, &mut found)?,
        Err(error) => found.add("config", Status::Failed, output::in_one_line(&error)),
    }
    let failed = found
        .0
        .iter()
        .filter(|f| f.status == Status::Failed)
        .count();
    if global.json {
        output::json(&serde_json::json!({ "items": found.0 }))?;
    } else {
        print(&found.0);
    }
    match failed {
        0 => Ok(()),
        1 => bail!("one check failed"),
        n => bail!("{n} checks failed"),
    }
}

fn print(findings: &[Finding]) {
    let row = |finding: &Finding| {
        let status = match finding.status {
            Status::Ok => "ok",
            Status::Warning => "warning",
            Status::Failed => "FAILED",
            Status::Skipped => "-",
        };
        vec![
            finding.check.to_owned(),
            status.to_owned(),
            finding.detail.clone(),
        ]
    };
    let rows: Vec<_> = findings.iter().map(row).collect();
    output::list(&["CHECK", "STATUS", "DETAIL"], &rows);
}

fn examine(config: &Config, found: &mut Findings) -> anyhow::Result<()> {
    let from = config.file.as_ref();
    let from = from.map_or("defaults, environment and flags".into(), |file| {
        file.display().to_string()
    });
    found.add("config", Status::Ok, from);
    let running = storage::log_in_use(config);
    disk(config, found);
    planning::embeddings(config, found);
    secret(config, found);
    key(config, found);
    tls(config, found);
    let runtime = runtime()?;
    if running {
        found.add("log", Status::Ok, "open in a running node; see `node`");
    } else {
        log(config, found);
    }
    runtime.block_on(async {
        node(config, running, found).await;
        postgres(config, running, found).await;
        targets::redis(config, found).await;
        targets::notified(config, found).await;
        planning::models(config, found).await;
        planning::qdrant(config, found).await;
        schema_registry(config, found).await;
        identities::issuers(config, found).await;
    });
    if !found.0.iter().any(|f| f.check == "clock") {
        found.add("clock", Status::Skipped, "no other clock to compare with");
    }
    Ok(())
}

fn disk(config: &Config, found: &mut Findings) {
    // The first start creates the data directory: until then its nearest existing parent is checked.
    let Some(dir) = config.data_dir.ancestors().find(|dir| dir.exists()) else {
        return found.add("disk", Status::Failed, "the data directory has no parent");
    };
    let stat = match rustix::fs::statvfs(dir) {
        Ok(stat) => stat,
        Err(error) => {
            let detail = format!(
                "the free space of {} cannot be read: {error}",
                dir.display()
            );
            return found.add("disk", Status::Failed, detail);
        }
    };
    if rustix::fs::access(dir, rustix::fs::Access::WRITE_OK).is_err() {
        let detail = format!("{} is not writable by this user", dir.display());
        return found.add("disk", Status::Failed, detail);
    }
    let free = stat.f_bavail * stat.f_frsize;
    let detail = format!("{} MiB free under {}", free >> 20, dir.display());
    match free {
        free if free < MIN_FREE_BYTES => {
            let detail = format!("{detail}; below 256 MiB appends are refused");
            found.add("disk", Status::Failed, detail);
        }
        free if free < LOW_FREE_BYTES => found.add("disk", Status::Warning, detail),
        _ => found.add("disk", Status::Ok, detail),
    }
}

fn secret(config: &Config, found: &mut Findings) {
    if config.secret_key.is_empty() && !config.data_dir.join("secret.key").exists() {
        let detail = "none yet; the first `omnilink up` creates it in the data directory";
        return found.add("secret key", Status::Warning, detail);
    }
    match storage::secret_keys(config) {
        Ok(_) => found.add("secret key", Status::Ok, ""),
        Err(error) => found.add("secret key", Status::Failed, output::in_one_line(&error)),
    }
}

fn key(config: &Config, found: &mut Findings) {
    if std::env::var_os("OMNILINK_KEY").is_some() {
        return found.add("api key", Status::Ok, "OMNILINK_KEY");
    }
    let file = config.data_dir.join(ADMIN_KEY);
    if file.exists() {
        return found.add("api key", Status::Ok, file.display().to_string());
    }
    let detail = if config.on_kafka() {
        "none here: set OMNILINK_KEY, or create the first one with `omnilink keys create --first`"
    } else {
        "none yet; the first `omnilink up` creates it"
    };
    found.add("api key", Status::Warning, detail);
}

fn tls(config: &Config, found: &mut Findings) {
    const CHECK: &str = "tls";
    let Some((cert, key)) = config.tls.files() else {
        if config.listen.ip().is_loopback() {
            let detail = "not configured; the port listens on this machine only";
            return found.add(CHECK, Status::Skipped, detail);
        }
        let detail = "not configured, and other machines can reach the port: keys are sent unencrypted unless a proxy in front encrypts them";
        return found.add(CHECK, Status::Warning, detail);
    };
    let files = Files {
        cert: cert.to_owned(),
        key: key.to_owned(),
    };
    match Certificate::load(&files) {
        Ok(certificate) => {
            let status = certificate.status(SystemClock.now());
            let good = status.status == telemetry::Status::Ok;
            let rating = if good { Status::Ok } else { Status::Warning };
            found.add(CHECK, rating, status.detail);
        }
        Err(error) => found.add(CHECK, Status::Failed, error.to_string()),
    }
}

fn log(config: &Config, found: &mut Findings) {
    if !config.on_kafka() && !config.data_dir.join("log").is_dir() {
        let detail = "none yet; the first `omnilink up` creates it";
        return found.add("log", Status::Warning, detail);
    }
    let log = match storage::open_log(config) {
        Ok(log) => log,
        Err(error) => return found.add("log", Status::Failed, output::in_one_line(&error)),
    };
    if let Err(error) = log.health() {
        return found.add("log", Status::Failed, error.to_string());
    }
    let what = if config.on_kafka() {
        format!("Kafka at {}", config.kafka.brokers.join(","))
    } else {
        "embedded; no node runs".into()
    };
    found.add("log", Status::Ok, what);
    clocks::brokers(&*log, &storage::names(config), found);
    topics(config, &*log, found);
    positions(config, &*log, found);
    let emergency = controls(config, &log, found);
    if config.on_kafka() {
        stalls::examine(config, &*log, &emergency, found);
    }
}

/// Reports the emergency controls in force according to the topic `controls`. Controls that the environment of a node sets are in
/// its `/readyz`.
fn controls(config: &Config, log: &Arc<dyn Log>, found: &mut Findings) -> Emergency {
    const CHECK: &str = "controls";
    let emergency = match held::read(config, log) {
        Ok(emergency) => emergency.unwrap_or_default(),
        Err(error) => {
            found.add(CHECK, Status::Failed, output::in_one_line(&error));
            return Emergency::default();
        }
    };
    let in_force = emergency.in_force();
    for one in &in_force {
        let status = if emergency.unverified && one.since.is_none() {
            Status::Failed
        } else {
            Status::Warning
        };
        found.add(CHECK, status, one.to_string());
    }
    if in_force.is_empty() {
        found.add(CHECK, Status::Ok, "nothing is switched off");
    }
    emergency
}

/// Compares the committed positions of processors with the log; works without a running node.
fn positions(config: &Config, log: &dyn Log, found: &mut Findings) {
    const CHECK: &str = "positions";
    let names = storage::names(config);
    let mut all_ok = true;
    // Unreadable topologies are reported by the check of processors.
    let (processors, _) = processors(config, &names);
    for one in processors {
        match log.position_faults(&one.name, &one.topic) {
            // The check of topics reports it.
            Err(LogError::UnknownTopic(_)) if names.is_own(&one.topic) => {}
            Err(LogError::UnknownTopic(_)) => {
                all_ok = false;
                found.add(CHECK, Status::Warning, describe_missing(&one));
            }
            Err(error) => {
                all_ok = false;
                found.add(CHECK, Status::Failed, error.to_string());
            }
            Ok(faults) => {
                for PositionFault { detail, stalls } in faults {
                    all_ok = false;
                    let status = if stalls {
                        Status::Failed
                    } else {
                        Status::Warning
                    };
                    found.add(CHECK, status, detail);
                }
            }
        }
    }
    if all_ok {
        found.add(CHECK, Status::Ok, "");
    }
}

/// Brokers delete the positions of groups with a topic, so nothing shows whether there was one.
fn describe_missing(one: &Processor) -> String {
    let Processor { name, topic, .. } = one;
    format!(
        "{name}: there is no topic `{topic}`: it was deleted, with what was not read of it, or its owner has not created it yet; {name} \
         reads it from its start as soon as it exists"
    )
}

fn topics(config: &Config, log: &dyn Log, found: &mut Findings) {
    let names = storage::names(config);
    let specs = names.specs(config.topics.partitions);
    let surveyed = match survey(log, &specs) {
        Ok(surveyed) => surveyed,
        Err(error) => return found.add("topics", Status::Failed, error.to_string()),
    };
    let troubles: Vec<_> = surveyed
        .iter()
        .filter_map(|topic| Some((topic, topic.trouble.as_ref()?)))
        .collect();
    for (topic, trouble) in &troubles {
        let status = if topic.stalls {
            Status::Failed
        } else {
            Status::Warning
        };
        found.add("topics", status, format!("{}: {trouble}", topic.name));
    }
    if troubles.is_empty() {
        let detail = format!("{} topics as configured", surveyed.len());
        found.add("topics", Status::Ok, detail);
    }
}

/// Whether a running node answers, accepts the key, and is ready.
async fn node(config: &Config, running: bool, found: &mut Findings) {
    let Ok(client) = Client::new(config) else {
        return found.add("node", Status::Skipped, "no key to authenticate with");
    };
    let response = match client.call(Method::GET, "/readyz", None).await {
        Ok(response) => response,
        Err(error) if running => {
            return found.add("node", Status::Failed, output::in_one_line(&error));
        }
        Err(_) => return found.add("node", Status::Skipped, "no node answers"),
    };
    let parts = response.body["parts"].as_object();
    let mut all_ok = true;
    for (name, part) in parts.into_iter().flatten() {
        let status = match part["status"].as_str() {
            Some("ok") if part["detail"].as_str().is_none_or(str::is_empty) => continue,
            Some("down") => Status::Failed,
            _ => Status::Warning,
        };
        all_ok = false;
        let detail = part["detail"].as_str().unwrap_or_default();
        if running && name == "controls" {
            // They are read from the log where it can be opened here.
            found.add("controls", status, detail);
        } else {
            found.add("node", status, format!("{name}: {detail}"));
        }
    }
    if all_ok {
        found.add("node", Status::Ok, "ready");
    }
    identities::keys(&client, found).await;
    match client.call(Method::GET, "/v1/topics", None).await {
        Ok(response) if response.status.is_success() => {
            let items = response.body["items"].as_array();
            let troubles = items.into_iter().flatten().filter_map(|topic| {
                let trouble = topic["trouble"].as_str()?;
                Some(format!("{}: {trouble}", topic["name"].as_str()?))
            });
            let troubles: Vec<_> = troubles.collect();
            if running && troubles.is_empty() {
                let count = items.map_or(0, Vec::len);
                found.add(
                    "topics",
                    Status::Ok,
                    format!("{count} topics as configured"),
                );
            }
            if running {
                for trouble in troubles {
                    found.add("topics", Status::Failed, trouble);
                }
            }
        }
        Ok(response) if response.status == hyper::StatusCode::UNAUTHORIZED => {
            found.add("api key", Status::Failed, "the node does not accept it");
        }
        // A key without the permission to list topics is still valid.
        _ => {}
    }
}

async fn postgres(config: &Config, running: bool, found: &mut Findings) {
    const CHECK: &str = "postgres";
    let url = if let Some(url) = &config.postgres_url {
        url.expose().to_owned()
    } else if running {
        let Ok(url) = std::fs::read_to_string(postgres::url_file(&config.data_dir)) else {
            let detail = "the embedded Postgres has not started; the node's log says why";
            return found.add(CHECK, Status::Warning, detail);
        };
        url.trim().to_owned()
    } else if let Some(major) = embedded::available() {
        let detail = format!("embedded {major}; no node runs");
        return found.add(CHECK, Status::Ok, detail);
    } else {
        let detail = "no Postgres binaries on this machine, and no `postgres.url`: events will not be written to tables";
        return found.add(CHECK, Status::Warning, detail);
    };
    let store = match Store::new(&url) {
        Ok(store) => store,
        Err(error) => return found.add(CHECK, Status::Failed, error.to_string()),
    };
    if let Err(error) = store.health().await {
        return found.add(CHECK, Status::Failed, error.to_string());
    }
    match store.pending().await {
        Ok(missing) if missing.is_empty() => found.add(CHECK, Status::Ok, "up to date"),
        Ok(missing) => {
            let detail = format!(
                "{} migrations are pending; `omnilink migrate` or the next `omnilink up` applies them",
                missing.len()
            );
            found.add(CHECK, Status::Warning, detail);
        }
        Err(error) => found.add(CHECK, Status::Failed, error.to_string()),
    }
    if let Ok(mut connection) = store.connect(Session::Login).await {
        rights(&mut connection, found).await;
        let query = sqlx::query_scalar::<_, i64>(
            "SELECT (EXTRACT(EPOCH FROM clock_timestamp()) * 1000)::bigint",
        );
        if let Ok(theirs) = query.fetch_one(&mut connection).await {
            clocks::compare("Postgres", theirs, found);
        }
    }
}

/// Reports rows that readers of Postgres can see but should not, and excess rights of the roles.
async fn rights(connection: &mut sqlx::PgConnection, found: &mut Findings) {
    const CHECK: &str = "rights";
    match exposure::problems(connection).await {
        Ok(problems) if problems.is_empty() => {
            let detail = "every table shows a reader its own tenants; partitions show nothing";
            found.add(CHECK, Status::Ok, detail);
        }
        Ok(problems) => {
            for problem in problems {
                found.add(CHECK, Status::Warning, problem);
            }
        }
        Err(error) => found.add(CHECK, Status::Warning, error.to_string()),
    }
}

async fn schema_registry(config: &Config, found: &mut Findings) {
    const CHECK: &str = "schema registry";
    let Some(url) = &config.schema_registry_url else {
        return found.add(
            CHECK,
            Status::Skipped,
            "not configured; Avro with schemas of other registries is not read",
        );
    };
    let response = match registry::Client::new(url) {
        Ok(client) => client.probe().await.map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    match response {
        Ok(()) => found.add(CHECK, Status::Ok, ""),
        Err(error) => found.add(CHECK, Status::Failed, error),
    }
}
