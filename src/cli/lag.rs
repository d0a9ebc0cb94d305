//! `omnilink lag`: how far behind each processor is, by records and by age.

use anyhow::anyhow;
use hyper::Method;
use serde_json::{Value, json};

use super::{
    Global,
    access::Access,
    held, output,
    processors::{Kind, Positions, Processor, is_without_topic, processors},
    runtime,
};
use crate::{
    base::clock::{Clock, SystemClock},
    config::Config,
    log::{Log, topics::Names},
    stream::lag::{self, Item},
};

#[derive(clap::Args)]
#[command(after_help = "Examples:
  omnilink lag
  omnilink lag --json | jq '[.items[].records] | add'

AGE is that of the oldest record that is not processed yet. An unknown value (Postgres is down, a partition has no
leader) is `?`, in JSON null with an `error`. With the embedded log, or with OMNILINK_URL set, the running node answers:
the key needs the permission `operator`. Otherwise Kafka and Postgres are read directly, with the topologies in
topologies_dir on this machine.")]
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

/// The lag of all processors. One that cannot be read becomes an item with the reason; fails if none can be read.
fn of_log(config: &Config, log: &dyn Log, names: &Names) -> anyhow::Result<Vec<Item>> {
    let (processors, trouble) = processors(config, names);
    let positions = Positions::new(config, log);
    let mut items = Vec::new();
    let mut known = false;
    let mut first_error = None;
    for one in &processors {
        match of_processor(log, &positions, one) {
            Ok(found) => {
                known |= found.iter().any(|item| item.records.is_some());
                items.extend(found);
            }
            // There is nothing to read.
            Err(error) if one.kind == Kind::Topology && is_without_topic(&error) => {}
            // Each further question would wait as long.
            Err(error) if one.kind != Kind::Projection && log.health().is_err() => {
                return Err(error);
            }
            Err(error) => {
                items.push(Item::unknown(&one.name, output::in_one_line(&error)));
                first_error.get_or_insert(error);
            }
        }
    }
    if let Some(why) = trouble {
        items.push(Item::unknown("topologies", &why));
        first_error.get_or_insert_with(|| anyhow!(why));
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

/// The lag of a processor in each partition.
fn of_processor(
    log: &dyn Log,
    positions: &Positions<'_>,
    one: &Processor,
) -> anyhow::Result<Vec<Item>> {
    let positions = positions.of(one)?;
    let processor = (&*one.name, &*one.topic);
    Ok(lag::items(log, processor, &positions, SystemClock.now())?)
}
