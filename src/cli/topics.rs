//! `omnilink topics`: lists and creates topics.

use hyper::Method;
use serde_json::{Map, Value, json};

use super::{Global, access::Access, output, recorded, runtime};
use crate::{api::topics::CreateTopics, audit::TOPIC_CREATED, config::Config, log::survey};

#[derive(clap::Subcommand)]
pub(super) enum Command {
    /// List the system's topics and their problems
    List(List),
    /// Create the system's topics, or others by name; existing ones are checked and not changed
    Create(Create),
}

#[derive(clap::Args)]
#[command(after_help = "Examples:
  omnilink topics list
  omnilink topics list --json | jq -r '.items[] | select(.trouble) | .name'")]
pub(super) struct List {}

#[derive(clap::Args)]
#[command(after_help = "Examples:
  omnilink topics create                            # before `omnilink up --no-provision`
  omnilink topics create shop.copy --partitions 3   # a topic to replay into")]
pub(super) struct Create {
    /// Topics of your own to create [default: the system's topics]
    names: Vec<String>,
    /// Partitions of the named topics; cannot be changed later [default: topics.partitions]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    partitions: Option<u32>,
}

pub(super) fn main(global: &Global, command: Command) -> anyhow::Result<()> {
    let config = global.load(|sources| sources)?;
    let items = match command {
        Command::List(_) => list(&config)?,
        Command::Create(args) => create(&config, &args)?,
    };
    if global.json {
        output::json(&json!({ "items": items }))?;
    } else {
        print(&items);
    }
    Ok(())
}

fn list(config: &Config) -> anyhow::Result<Vec<Value>> {
    match Access::of(config)? {
        Access::Port(client) => {
            let response = runtime()?.block_on(client.call(Method::GET, "/v1/topics", None))?;
            Ok(items(&response.success()?))
        }
        Access::Log(log, names) => {
            let found = survey(&*log, &names.specs(config.topics.partitions))?;
            Ok(found.iter().map(|topic| json!(topic)).collect())
        }
    }
}

fn create(config: &Config, args: &Create) -> anyhow::Result<Vec<Value>> {
    let wanted = CreateTopics {
        names: args.names.clone(),
        partitions: args.partitions,
    };
    match Access::of(config)? {
        Access::Port(client) => {
            let body = Some(json!(wanted).to_string().into());
            let response = runtime()?.block_on(client.call(Method::POST, "/v1/topics", body))?;
            Ok(items(&response.success()?))
        }
        Access::Log(log, system) => {
            let specs = wanted.specs(&system, config.topics.partitions)?;
            let before = survey(&*log, &specs)?;
            log.provision(&specs, true)?;
            let found = survey(&*log, &specs)?;
            let made = before.iter().filter(|topic| topic.partitions.is_none());
            let entries: Vec<_> = made
                .map(|topic| {
                    let of = ("topic", &*topic.name);
                    recorded::entry(None, TOPIC_CREATED, of, Map::new())
                })
                .collect();
            recorded::record(&*log, &system, &entries)?;
            Ok(found.iter().map(|topic| json!(topic)).collect())
        }
    }
}

fn items(response: &Value) -> Vec<Value> {
    response["items"].as_array().cloned().unwrap_or_default()
}

fn print(items: &[Value]) {
    let row = |topic: &Value| {
        let text = |name: &str| topic[name].as_str().unwrap_or_default().to_owned();
        vec![
            text("name"),
            topic["partitions"]
                .as_u64()
                .map_or("-".into(), |n| n.to_string()),
            text("cleanup"),
            topic["records"].to_string(),
            topic["trouble"].as_str().unwrap_or("ok").to_owned(),
        ]
    };
    let rows: Vec<_> = items.iter().map(row).collect();
    output::table(
        &["NAME", "PARTITIONS", "CLEANUP", "RECORDS", "STATE"],
        &rows,
    );
}
