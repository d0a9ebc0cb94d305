//! `omnilink doctor`: looks at everything that a node needs, and says what to do about what is wrong.

use std::time::Duration;

use anyhow::bail;
use hyper::Method;

use super::{
    Global,
    client::{ADMIN_KEY, Client},
    findings::{Finding, Findings, Status},
    output, runtime, stalls,
};
use crate::node::{postgres, storage as node};
use crate::{
    base::clock::{Clock, SystemClock},
    config::Config,
    embedded_postgres as embedded,
    log::{Log, LogError, PositionFault, survey, topics::Names},
    registry,
    store::{Session, Store},
};

/// Nothing beside the global flags.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  omnilink doctor
  omnilink doctor --json | jq '.items[] | select(.status == \"failed\")'

Ends with 1 if a check failed. It changes nothing. On Kafka it looks at the processors of all nodes, and watches those
with records waiting for up to 10 s: one that makes no progress is `stalled`. A transaction of a producer that holds
records back is named too.")]
pub(super) struct Args {}

/// Below this much free space the embedded log refuses to write.
const LEAST_FREE: u64 = 256 << 20;
/// Below this it is worth a warning.
const LITTLE_FREE: u64 = 2 << 30;
/// A clock that is off by more is worth a warning: append times and key expiry go by it.
const SKEW: Duration = Duration::from_secs(2);
/// How long any part may take to answer.
const ANSWER: Duration = Duration::from_secs(5);

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
    let running = node::log_in_use(config);
    disk(config, found);
    secret(config, found);
    key(config, found);
    let runtime = runtime()?;
    if running {
        found.add("log", Status::Ok, "a running node has it; see `node`");
    } else {
        log(config, found);
    }
    runtime.block_on(async {
        node(config, running, found).await;
        postgres(config, running, found).await;
        redis(config, found).await;
        schema_registry(config, found).await;
    });
    if !found.0.iter().any(|f| f.check == "clock") {
        found.add(
            "clock",
            Status::Skipped,
            "nothing else is here to compare it with",
        );
    }
    Ok(())
}

fn disk(config: &Config, found: &mut Findings) {
    // The data directory is made by the first start: until then, what it will lie in.
    let Some(dir) = config.data_dir.ancestors().find(|dir| dir.exists()) else {
        return found.add("disk", Status::Failed, "the data directory has no parent");
    };
    let stat = match rustix::fs::statvfs(dir) {
        Ok(stat) => stat,
        Err(error) => {
            let detail = format!("{} cannot be asked: {error}", dir.display());
            return found.add("disk", Status::Failed, detail);
        }
    };
    if rustix::fs::access(dir, rustix::fs::Access::WRITE_OK).is_err() {
        let detail = format!("{} cannot be written by this user", dir.display());
        return found.add("disk", Status::Failed, detail);
    }
    let free = stat.f_bavail * stat.f_frsize;
    let detail = format!("{} MiB free under {}", free >> 20, dir.display());
    match free {
        free if free < LEAST_FREE => {
            let detail = format!("{detail}; below 256 MiB appends are refused");
            found.add("disk", Status::Failed, detail);
        }
        free if free < LITTLE_FREE => found.add("disk", Status::Warning, detail),
        _ => found.add("disk", Status::Ok, detail),
    }
}

fn secret(config: &Config, found: &mut Findings) {
    if config.secret_key.is_empty() && !config.data_dir.join("secret.key").exists() {
        let detail = "none yet; the first `omnilink up` makes it in the data directory";
        return found.add("secret key", Status::Warning, detail);
    }
    match node::secret_keys(config) {
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
        "none here: set OMNILINK_KEY, or make the first one with `omnilink keys create --first`"
    } else {
        "none yet; the first `omnilink up` makes it"
    };
    found.add("api key", Status::Warning, detail);
}

fn log(config: &Config, found: &mut Findings) {
    if !config.on_kafka() && !config.data_dir.join("log").is_dir() {
        let detail = "none yet; the first `omnilink up` makes it";
        return found.add("log", Status::Warning, detail);
    }
    let log = match node::open_log(config) {
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
    topics(config, &*log, found);
    positions(config, &*log, found);
    if config.on_kafka() {
        stalls::examine(config, &*log, found);
    }
}

/// What processors have committed, against what the log has: without a node too.
fn positions(config: &Config, log: &dyn Log, found: &mut Findings) {
    const CHECK: &str = "positions";
    let names = Names::new(&config.topics.prefix);
    let mut all_well = true;
    // Topologies that cannot be read are another check's.
    let (processors, _) = stalls::processors(config, &names);
    for stalls::Reads { processor, topic } in processors {
        let faults = match log.position_faults(&processor, &topic) {
            // It has not begun.
            Err(LogError::UnknownTopic(_)) => continue,
            Err(error) => {
                all_well = false;
                found.add(CHECK, Status::Failed, error.to_string());
                continue;
            }
            Ok(faults) => faults,
        };
        for PositionFault { detail, stalls } in faults {
            all_well = false;
            let status = if stalls {
                Status::Failed
            } else {
                Status::Warning
            };
            found.add(CHECK, status, detail);
        }
    }
    if all_well {
        found.add(CHECK, Status::Ok, "");
    }
}

fn topics(config: &Config, log: &dyn Log, found: &mut Findings) {
    let names = Names::new(&config.topics.prefix);
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
        let detail = format!("{} as they should be", surveyed.len());
        found.add("topics", Status::Ok, detail);
    }
}

/// A running node: whether it answers, takes the key, and is ready.
async fn node(config: &Config, running: bool, found: &mut Findings) {
    let Ok(client) = Client::new(config) else {
        return found.add("node", Status::Skipped, "no key to ask one with");
    };
    let answer = match client.call(Method::GET, "/readyz", None).await {
        Ok(answer) => answer,
        Err(error) if running => {
            return found.add("node", Status::Failed, output::in_one_line(&error));
        }
        Err(_) => return found.add("node", Status::Skipped, "none answers here"),
    };
    let parts = answer.body["parts"].as_object();
    let mut all_well = true;
    for (name, part) in parts.into_iter().flatten() {
        let status = match part["status"].as_str() {
            Some("ok") if part["detail"].as_str().is_none_or(str::is_empty) => continue,
            Some("down") => Status::Failed,
            _ => Status::Warning,
        };
        all_well = false;
        let detail = part["detail"].as_str().unwrap_or_default();
        found.add("node", status, format!("{name}: {detail}"));
    }
    if all_well {
        found.add("node", Status::Ok, "ready");
    }
    match client.call(Method::GET, "/v1/topics", None).await {
        Ok(answer) if answer.status.is_success() => {
            let items = answer.body["items"].as_array();
            let troubles = items.into_iter().flatten().filter_map(|topic| {
                let trouble = topic["trouble"].as_str()?;
                Some(format!("{}: {trouble}", topic["name"].as_str()?))
            });
            let troubles: Vec<_> = troubles.collect();
            if running && troubles.is_empty() {
                let count = items.map_or(0, Vec::len);
                found.add("topics", Status::Ok, format!("{count} as they should be"));
            }
            if running {
                for trouble in troubles {
                    found.add("topics", Status::Failed, trouble);
                }
            }
        }
        Ok(answer) if answer.status == hyper::StatusCode::UNAUTHORIZED => {
            found.add("api key", Status::Failed, "the node does not know it");
        }
        // Keys that may do less are keys all the same.
        _ => {}
    }
}

async fn postgres(config: &Config, running: bool, found: &mut Findings) {
    const CHECK: &str = "postgres";
    let url = if let Some(url) = &config.postgres_url {
        url.expose().to_owned()
    } else if running {
        let Ok(url) = std::fs::read_to_string(postgres::url_file(&config.data_dir)) else {
            let detail = "the embedded one has not started; the node's log says why";
            return found.add(CHECK, Status::Warning, detail);
        };
        url.trim().to_owned()
    } else if let Some(major) = embedded::available() {
        let detail = format!("embedded {major}; no node runs");
        return found.add(CHECK, Status::Ok, detail);
    } else {
        let detail = "no binaries on this machine, and no `postgres.url`: there will be no rows";
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
                "{} migrations are missing; `omnilink migrate`, or the next `omnilink up`, runs them",
                missing.len()
            );
            found.add(CHECK, Status::Warning, detail);
        }
        Err(error) => found.add(CHECK, Status::Failed, error.to_string()),
    }
    if let Ok(mut connection) = store.connect(Session::Login).await {
        let asked = sqlx::query_scalar::<_, i64>(
            "SELECT (EXTRACT(EPOCH FROM clock_timestamp()) * 1000)::bigint",
        );
        if let Ok(theirs) = asked.fetch_one(&mut connection).await {
            clock("Postgres", theirs, found);
        }
    }
}

async fn redis(config: &Config, found: &mut Findings) {
    const CHECK: &str = "redis";
    let Some(url) = &config.redis_url else {
        return found.add(
            CHECK,
            Status::Skipped,
            "not configured; one node needs none",
        );
    };
    let asking = async {
        let client = redis::Client::open(url.expose())?;
        let mut connection = client.get_multiplexed_async_connection().await?;
        redis::cmd("TIME")
            .query_async::<(i64, i64)>(&mut connection)
            .await
    };
    match tokio::time::timeout(ANSWER, asking).await {
        Ok(Ok((seconds, micros))) => {
            found.add(CHECK, Status::Ok, "");
            clock("Redis", seconds * 1000 + micros / 1000, found);
        }
        // Never the URL.
        Ok(Err(error)) => found.add(CHECK, Status::Failed, error.category().to_owned()),
        Err(_) => found.add(CHECK, Status::Failed, "no answer within 5 s"),
    }
}

async fn schema_registry(config: &Config, found: &mut Findings) {
    const CHECK: &str = "schema registry";
    let Some(url) = &config.schema_registry_url else {
        return found.add(
            CHECK,
            Status::Skipped,
            "not configured; Avro under others' schemas is not read",
        );
    };
    let answer = match registry::Client::new(url) {
        Ok(client) => client.probe().await.map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    match answer {
        Ok(()) => found.add(CHECK, Status::Ok, ""),
        Err(error) => found.add(CHECK, Status::Failed, error),
    }
}

fn clock(whose: &str, theirs: i64, found: &mut Findings) {
    let apart = (SystemClock.now().0 - theirs).unsigned_abs();
    let status = if u128::from(apart) > SKEW.as_millis() {
        Status::Warning
    } else {
        Status::Ok
    };
    found.add("clock", status, format!("{apart} ms from that of {whose}"));
}
