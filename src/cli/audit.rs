//! `omnilink audit`: lists and follows the audit log.

use std::{
    collections::{BTreeSet, VecDeque},
    time::Duration,
};

use serde_json::Value;

use super::{Global, client::Client, moment, output, runtime};
use crate::{
    api::time::rfc3339,
    base::clock::{Clock, Millis, SystemClock},
};

/// Time between requests with `--follow`.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// How far back `--follow` reads in each request, in milliseconds, because older entries may become visible late.
const OVERLAP_MS: i64 = 30_000;
/// The number of entries that `--follow` remembers, to print each once.
const REMEMBERED: usize = 20_000;
/// The maximum number of entries of a request with `--follow`.
const FOLLOWED: u16 = 1000;

#[derive(clap::Args)]
#[command(after_help = "Examples:
  omnilink audit --since 1h
  omnilink audit --action 'key.*' --since 2026-01-31
  omnilink audit --tenant - --action authentication.failed
  omnilink audit --follow --json | jq -c 'select(.outcome == \"denied\")'

Newest first; with --follow in order of arrival, each once. The key needs the permission `admin`, or `operator` for another tenant;
`-` has the entries of the whole installation, and those of requests without a valid key.")]
pub(super) struct Args {
    /// Entries of this time or later: RFC 3339, a date, or how long ago, such as 2h
    #[arg(long, value_name = "TIME", value_parser = moment::parse)]
    since: Option<Millis>,
    /// Entries before this time
    #[arg(long, value_name = "TIME", value_parser = moment::parse, conflicts_with = "follow")]
    until: Option<Millis>,
    /// Entries of this action, or of all with this prefix: key.*
    #[arg(long)]
    action: Option<String>,
    /// Entries of this principal
    #[arg(long)]
    principal: Option<String>,
    /// Entries of this tenant [default: that of the key used]
    #[arg(long)]
    tenant: Option<String>,
    /// Print new entries as they come
    #[arg(long, conflicts_with_all = ["cursor", "limit"])]
    follow: bool,
    /// How many at most
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=1000))]
    limit: u16,
    /// Where to continue: `next_cursor` of the previous page
    #[arg(long)]
    cursor: Option<String>,
}

pub(super) fn main(global: &Global, args: &Args) -> anyhow::Result<()> {
    let config = global.load(|sources| sources)?;
    let client = Client::new(&config)?;
    runtime()?.block_on(async {
        if args.follow {
            return follow(global, &client, args).await;
        }
        let response = page(&client, args, args.since, args.limit).await?;
        if global.json {
            return output::json(&response);
        }
        output::page(&response, &HEADING, row);
        Ok(())
    })
}

async fn page(
    client: &Client,
    args: &Args,
    since: Option<Millis>,
    limit: u16,
) -> anyhow::Result<Value> {
    let filters = [
        ("since", &since.map(rfc3339)),
        ("until", &args.until.map(rfc3339)),
        ("action", &args.action),
        ("principal", &args.principal),
        ("tenant", &args.tenant),
        ("cursor", &args.cursor),
    ];
    client.page("/v1/audit", limit, &filters).await
}

/// Prints new entries until the process is interrupted.
async fn follow(global: &Global, client: &Client, args: &Args) -> anyhow::Result<()> {
    let mut since = args.since.unwrap_or_else(|| SystemClock.now());
    let (mut seen, mut order) = (BTreeSet::new(), VecDeque::new());
    loop {
        let now = SystemClock.now();
        let response = page(client, args, Some(since), FOLLOWED).await?;
        let items = response["items"].as_array().cloned().unwrap_or_default();
        for item in items.iter().rev() {
            let id = item["id"].as_str().unwrap_or_default().to_owned();
            if !seen.insert(id.clone()) {
                continue;
            }
            order.push_back(id);
            if order.len() > REMEMBERED
                && let Some(oldest) = order.pop_front()
            {
                seen.remove(&oldest);
            }
            if global.json {
                output::json(item)?;
            } else {
                output::line(&row(item).join("  "));
            }
        }
        if response["next_cursor"].is_string() {
            output::note(
                "some entries were skipped because there were too many; list them without --follow",
            );
        }
        since = Millis(since.0.max(now.0 - OVERLAP_MS));
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

const HEADING: [&str; 6] = [
    "AT",
    "PRINCIPAL",
    "ACTION",
    "RESOURCE",
    "OUTCOME",
    "ADDRESS",
];

fn row(entry: &Value) -> Vec<String> {
    let text = |name: &str| entry[name].as_str().unwrap_or("-").to_owned();
    let resource = match (&entry["resource_type"], &entry["resource_id"]) {
        (Value::String(kind), Value::String(id)) => format!("{kind} {id}"),
        (Value::String(kind), _) => kind.clone(),
        _ => "-".to_owned(),
    };
    vec![
        text("at"),
        text("principal"),
        text("action"),
        resource,
        text("outcome"),
        text("address"),
    ]
}
