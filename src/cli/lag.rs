//! `omnilink lag`: how far behind each processor is, by records and by age.

use std::time::Duration;

use anyhow::{Context, bail};
use hyper::Method;
use serde_json::{Value, json};

use super::{Global, access::Access, held, output, runtime};
use crate::{
    admission,
    base::clock::{Clock, SystemClock},
    config::Config,
    log::{Log, LogError, topics::Names},
    node::{postgres, topologies},
    projections::{self, PROJECTION},
    saga,
    store::Store,
    stream::lag::{self, Item},
    workers,
};

/// Time limit for reading the projection's positions from Postgres.
const POSTGRES_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(clap::Args)]
#[command(after_help = "Examples:
  omnilink lag
  omnilink lag --json | jq '[.items[].records] | add'

AGE is that of the oldest record that is not processed yet. An unknown value (Postgres is down) is `?`, in JSON null with
an `error`. With the embedded log, or with OMNILINK_URL set, the running node answers: the key needs the permission
`operator`. Otherwise Kafka and Postgres are read directly, with the topologies in topologies_dir on this machine.")]
pub(super) struct Args {}

pub(super) fn main(global: &Global, _: &Args) -> anyhow::Result<()> {
    let config = global.load(|sources| sources)?;
    let items = match Access::of(&config)? {
        Access::Port(client) => {
            let response = runtime()?.block_on(client.call(Method::GET, "/v1/lag", None))?;
            let response = response.success()?;
            response["items"].as_array().cloned().unwrap_or_default()
        }
        Access::Log(log, names) => {
            let mut items = of_log(&config, &*log, &names)?;
            // Ignored if the controls cannot be read; `doctor` reports why.
            if let Ok(Some(emergency)) = held::read(&config, &log) {
                for item in &mut items {
                    item.held = held::holds(&emergency, &item.processor);
                }
            }
            items.iter().map(|item| json!(item)).collect()
        }
    };
    if global.json {
        output::json(&json!({ "items": items }))
    } else {
        print(&items);
        Ok(())
    }
}

/// The lag of all processors. A part that cannot be read becomes an item with the reason; fails if none can be read.
pub(super) fn of_log(config: &Config, log: &dyn Log, names: &Names) -> anyhow::Result<Vec<Item>> {
    let mut items = Vec::new();
    let mut known = false;
    let mut first_error = None;
    for (part, found) in [
        (
            admission::NAME,
            of_lanes(log, admission::NAME, &names.ingress),
        ),
        (saga::NAME, of_lanes(log, saga::NAME, &names.commands)),
        (workers::NAME, of_lanes(log, workers::NAME, &names.steps)),
        (PROJECTION, of_projections(config, log, names)),
        ("topologies", of_topologies(config, log)),
    ] {
        match found {
            Ok(found) => {
                known |= !found.is_empty();
                items.extend(found);
            }
            Err(error) => {
                items.push(Item::unknown(part, output::in_one_line(&error)));
                first_error.get_or_insert(error);
            }
        }
    }
    match first_error {
        Some(error) if !known => Err(error),
        _ => Ok(items),
    }
}

fn print(items: &[Value]) {
    let note = |item: &Value| {
        let uncommitted = item["uncommitted"].as_u64();
        match (&item["held"], &item["error"], uncommitted) {
            (Value::String(why), ..) => format!("held: {why}"),
            (_, Value::String(error), _) => format!("unknown: {error}"),
            (.., Some(held)) => {
                format!("{held} held back by an open transaction; see `omnilink doctor`")
            }
            _ => String::new(),
        }
    };
    let noted = items.iter().any(|item| !note(item).is_empty());
    let number = |value: &Value| match value {
        Value::Null => "?".to_owned(),
        number => number.to_string(),
    };
    let row = |item: &Value| {
        let mut row = vec![
            item["processor"].as_str().unwrap_or("-").to_owned(),
            number(&item["partition"]),
            number(&item["records"]),
            item["age_s"].as_f64().map_or_else(|| "?".to_owned(), age),
        ];
        if noted {
            row.push(note(item));
        }
        row
    };
    let rows: Vec<_> = items.iter().map(row).collect();
    let columns = ["PROCESSOR", "PARTITION", "RECORDS", "AGE", "NOTE"];
    output::table(&columns[..if noted { 5 } else { 4 }], &rows);
}

/// Formats seconds with a readable unit.
fn age(seconds: f64) -> String {
    match seconds {
        s if s <= 0.0 => "-".into(),
        s if s < 120.0 => format!("{s:.1} s"),
        s if s < 7200.0 => format!("{:.0} min", s / 60.0),
        s if s < 172_800.0 => format!("{:.0} h", s / 3600.0),
        s => format!("{:.0} d", s / 86400.0),
    }
}

/// The lag of a processor whose positions are in the log.
fn of_lanes(log: &dyn Log, name: &str, topic: &str) -> anyhow::Result<Vec<Item>> {
    let positions = lag::from_start(&log.positions(name, topic)?);
    let now = SystemClock.now();
    Ok(lag::items(log, (name, topic), &positions, now)?)
}

/// The position of a projection in each partition of its topic.
pub(super) fn projected(
    config: &Config,
    log: &dyn Log,
    (projection, topic): (&str, &str),
) -> anyhow::Result<Vec<Option<u64>>> {
    let store = if let Some(url) = &config.postgres_url {
        Store::new(url.expose())?
    } else {
        let file = postgres::url_file(&config.data_dir);
        let url = std::fs::read_to_string(&file)
            .with_context(|| format!("{} cannot be read", file.display()))?;
        Store::new(url.trim())?
    };
    let query = async {
        let projected = projections::projected(&store, projection);
        tokio::time::timeout(POSTGRES_TIMEOUT, projected).await
    };
    let projected = runtime()?
        .block_on(query)
        .with_context(|| {
            format!(
                "Postgres did not answer within {} s",
                POSTGRES_TIMEOUT.as_secs()
            )
        })?
        .context("Postgres")?;
    let partitions = match log.partitions(topic) {
        // The projection has not started yet, and there is nothing to read.
        Err(LogError::UnknownTopic(_)) => 0,
        partitions => partitions?,
    };
    Ok((0..partitions)
        .map(|p| projected.get(&p).copied())
        .collect())
}

fn of_projections(config: &Config, log: &dyn Log, names: &Names) -> anyhow::Result<Vec<Item>> {
    let mut items = Vec::new();
    for (projection, topic) in projections::topics(names) {
        let processor = (projection, &*topic);
        let positions = lag::from_start(&projected(config, log, processor)?);
        items.extend(lag::items(log, processor, &positions, SystemClock.now())?);
    }
    Ok(items)
}

/// The topologies of the files on this machine. One whose topics do not exist yet has nothing to read.
fn of_topologies(config: &Config, log: &dyn Log) -> anyhow::Result<Vec<Item>> {
    let (_, checked) = topologies::read_files(config, &[])?;
    let Some(set) = checked.set else {
        bail!("the topology files have errors; `omnilink check` shows them");
    };
    let mut items = Vec::new();
    for (processor, topic) in set.processors() {
        match log.positions(processor, topic) {
            Err(LogError::UnknownTopic(_)) => {}
            positions => {
                let now = SystemClock.now();
                let positions = lag::from_start(&positions?);
                items.extend(lag::items(log, (processor, topic), &positions, now)?);
            }
        }
    }
    Ok(items)
}
