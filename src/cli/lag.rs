//! `omnilink lag`: how far behind each processor is, by records and by age.

use std::sync::Arc;

use anyhow::{Context, bail};
use hyper::Method;
use serde_json::{Value, json};

use super::{Global, access::Access, check, output, postgres, runtime, watch::Watched};
use crate::{
    admission,
    clock::{Clock, SystemClock},
    config::Config,
    log::{Log, LogError, topics::Names},
    port::Lags,
    projections::{self, PROJECTION},
    store::Store,
    stream::lag::{self, Item},
};

/// Nothing beside the global flags.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  omnilink lag
  omnilink lag --json | jq '[.items[].records] | add'

The age is that of the oldest record not processed yet. A running node is asked over its port, with the permission
`operator`; Kafka and Postgres are read directly, with the topologies of topologies_dir here, unless OMNILINK_URL names a node.")]
pub(super) struct Args {}

pub(super) fn main(global: &Global, _: &Args) -> anyhow::Result<()> {
    let config = global.load(|sources| sources)?;
    let (items, trouble) = match Access::of(&config)? {
        Access::Port(client) => {
            let answer = runtime()?.block_on(client.call(Method::GET, "/v1/lag", None))?;
            let answer = answer.success()?;
            let items = answer["items"].as_array().cloned().unwrap_or_default();
            (items, None)
        }
        Access::Log(log, names) => {
            let mut items = of_admission(&*log, &names)?;
            let mut trouble = None;
            for (part, more) in [
                ("projections", of_projections(&config, &*log, &names)),
                ("topologies", of_topologies(&config, &*log)),
            ] {
                match more {
                    Ok(more) => items.extend(more),
                    Err(why) => {
                        let why = why.context(format!("the lag of the {part} is not known"));
                        trouble.get_or_insert(why);
                    }
                }
            }
            let items = items.iter().map(|item| json!(item)).collect();
            (items, trouble)
        }
    };
    if global.json {
        output::json(&json!({ "items": items }))?;
    } else {
        print(&items);
    }
    trouble.map_or(Ok(()), Err)
}

fn print(items: &[Value]) {
    let row = |item: &Value| {
        vec![
            item["processor"].as_str().unwrap_or("-").to_owned(),
            item["partition"].to_string(),
            item["records"].to_string(),
            age(item["age_s"].as_f64().unwrap_or_default()),
        ]
    };
    let rows: Vec<_> = items.iter().map(row).collect();
    output::table(&["PROCESSOR", "PARTITION", "RECORDS", "AGE"], &rows);
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

fn of_admission(log: &dyn Log, names: &Names) -> Result<Vec<Item>, LogError> {
    let positions = log.positions(admission::NAME, &names.ingress)?;
    let processor = (admission::NAME, &*names.ingress);
    lag::items(log, processor, &positions, SystemClock.now())
}

fn of_projections(config: &Config, log: &dyn Log, names: &Names) -> anyhow::Result<Vec<Item>> {
    let store = if let Some(url) = &config.postgres_url {
        Store::new(url.expose())?
    } else {
        let file = postgres::url_file(&config.data_dir);
        let url = std::fs::read_to_string(&file)
            .with_context(|| format!("{} cannot be read", file.display()))?;
        Store::new(url.trim())?
    };
    let projected = runtime()?.block_on(projections::projected(&store))?;
    if projected.is_empty() {
        bail!("the projection has not begun yet");
    }
    let partitions = log.partitions(&names.events)?;
    let positions: Vec<_> = (0..partitions)
        .map(|p| projected.get(&p).copied())
        .collect();
    let processor = (PROJECTION, &*names.events);
    Ok(lag::items(log, processor, &positions, SystemClock.now())?)
}

/// The users' topologies, as their files are here. One that has not made its topics yet has nothing to read.
fn of_topologies(config: &Config, log: &dyn Log) -> anyhow::Result<Vec<Item>> {
    let (_, checked) = check::read(config, &[])?;
    let Some(set) = checked.set else {
        bail!("the topology files have errors; `omnilink check` shows them");
    };
    let mut items = Vec::new();
    for (processor, topic) in set.processors() {
        match log.positions(processor, topic) {
            Err(LogError::UnknownTopic(_)) => {}
            positions => {
                let now = SystemClock.now();
                items.extend(lag::items(log, (processor, topic), &positions?, now)?);
            }
        }
    }
    Ok(items)
}

/// The lag of what runs in this process, for its port.
pub(super) struct NodeLags {
    log: Arc<dyn Log>,
    watched: Watched,
}

impl NodeLags {
    pub(super) fn new(log: &Arc<dyn Log>, watched: Watched) -> Self {
        Self {
            log: Arc::clone(log),
            watched,
        }
    }
}

impl Lags for NodeLags {
    fn lags(&self) -> Result<Vec<Item>, LogError> {
        let now = SystemClock.now();
        let mut items = Vec::new();
        for (name, progress) in self.watched.processors() {
            for (topic, partition, next) in progress.positions() {
                let lag = lag::lag(&*self.log, &topic, partition, next, now)?;
                items.push(Item {
                    processor: name.clone(),
                    partition,
                    records: lag.records,
                    age_s: lag.age_ms as f64 / 1000.0,
                });
            }
        }
        Ok(items)
    }
}
