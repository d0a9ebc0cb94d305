//! `omnilink lag`: how far behind each processor is, by records and by age.

use std::time::Duration;

use anyhow::{Context, bail};
use hyper::Method;
use serde_json::{Value, json};

use super::{Global, access::Access, output, runtime};
use crate::node::postgres;
use crate::{
    admission,
    base::clock::{Clock, SystemClock},
    config::Config,
    log::{Log, LogError, topics::Names},
    projections::{self, PROJECTION},
    store::Store,
    stream::lag::{self, Item},
};

/// How long Postgres may take to say where the projection is.
const POSTGRES: Duration = Duration::from_secs(10);

/// Nothing beside the global flags.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  omnilink lag
  omnilink lag --json | jq '[.items[].records] | add'

The age is that of the oldest record not processed yet. What cannot be known now (Postgres is down) is `?`, in JSON null
with an `error`. A running node is asked over its port, with the permission
`operator`; Kafka and Postgres are read directly, with the topologies of topologies_dir here, unless OMNILINK_URL names a node.")]
pub(super) struct Args {}

pub(super) fn main(global: &Global, _: &Args) -> anyhow::Result<()> {
    let config = global.load(|sources| sources)?;
    let items = match Access::of(&config)? {
        Access::Port(client) => {
            let answer = runtime()?.block_on(client.call(Method::GET, "/v1/lag", None))?;
            let answer = answer.success()?;
            answer["items"].as_array().cloned().unwrap_or_default()
        }
        Access::Log(log, names) => {
            let items = of_log(&config, &*log, &names)?;
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

/// What is known; a part that is not known is an item that says why. Fails where nothing is known.
pub(super) fn of_log(config: &Config, log: &dyn Log, names: &Names) -> anyhow::Result<Vec<Item>> {
    let mut items = Vec::new();
    let mut known = false;
    let mut first = None;
    for (part, found) in [
        (admission::NAME, of_admission(log, names)),
        (PROJECTION, of_projections(config, log, names)),
        ("topologies", of_topologies(config, log)),
    ] {
        match found {
            Ok(found) => {
                known |= !found.is_empty();
                items.extend(found);
            }
            Err(why) => {
                items.push(Item::unknown(part, output::in_one_line(&why)));
                first.get_or_insert(why);
            }
        }
    }
    match first {
        Some(why) if !known => Err(why),
        _ => Ok(items),
    }
}

fn print(items: &[Value]) {
    let note = |item: &Value| match (&item["error"], item["uncommitted"].as_u64()) {
        (Value::String(error), _) => format!("not known: {error}"),
        (_, Some(held)) => {
            format!("{held} behind a transaction that is open; see `omnilink doctor`")
        }
        _ => String::new(),
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

/// Seconds, as people read them.
fn age(seconds: f64) -> String {
    match seconds {
        s if s <= 0.0 => "-".into(),
        s if s < 120.0 => format!("{s:.1} s"),
        s if s < 7200.0 => format!("{:.0} min", s / 60.0),
        s if s < 172_800.0 => format!("{:.0} h", s / 3600.0),
        s => format!("{:.0} d", s / 86400.0),
    }
}

fn of_admission(log: &dyn Log, names: &Names) -> anyhow::Result<Vec<Item>> {
    let positions = log.positions(admission::NAME, &names.ingress)?;
    let processor = (admission::NAME, &*names.ingress);
    let positions = lag::from_start(&positions);
    Ok(lag::items(log, processor, &positions, SystemClock.now())?)
}

/// The position of the projection in each partition of `events`.
pub(super) fn projected(
    config: &Config,
    log: &dyn Log,
    names: &Names,
) -> anyhow::Result<Vec<Option<u64>>> {
    let store = if let Some(url) = &config.postgres_url {
        Store::new(url.expose())?
    } else {
        let file = postgres::url_file(&config.data_dir);
        let url = std::fs::read_to_string(&file)
            .with_context(|| format!("{} cannot be read", file.display()))?;
        Store::new(url.trim())?
    };
    let asked = async { tokio::time::timeout(POSTGRES, projections::projected(&store)).await };
    let projected = runtime()?
        .block_on(asked)
        .with_context(|| format!("Postgres gave no answer within {} s", POSTGRES.as_secs()))?
        .context("Postgres")?;
    let partitions = log.partitions(&names.events)?;
    Ok((0..partitions)
        .map(|p| projected.get(&p).copied())
        .collect())
}

fn of_projections(config: &Config, log: &dyn Log, names: &Names) -> anyhow::Result<Vec<Item>> {
    let positions = lag::from_start(&projected(config, log, names)?);
    let processor = (PROJECTION, &*names.events);
    Ok(lag::items(log, processor, &positions, SystemClock.now())?)
}

/// The users' topologies, as their files are here. One that has not made its topics yet has nothing to read.
fn of_topologies(config: &Config, log: &dyn Log) -> anyhow::Result<Vec<Item>> {
    let (_, checked) = crate::node::topologies::read_files(config, &[])?;
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
