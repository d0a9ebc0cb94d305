//! `omnilink rebuild`: asks the running node to make projections anew, and waits for the swap.

use std::time::Duration;

use anyhow::bail;
use hyper::Method;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use super::{Global, client::Client, output, runtime};

/// How often it asks how far the rebuild is.
const INTERVAL: Duration = Duration::from_millis(250);

/// Which projections.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  omnilink rebuild events entities
  omnilink rebuild entities --json

The new tables are filled beside the old ones and swapped in one transaction: readers see no gap, and grants stay. The
key must have the permission `operator`.")]
pub(super) struct Args {
    /// The projections to make anew: events, entities
    #[arg(required = true, value_name = "PROJECTION")]
    projections: Vec<String>,
}

pub(super) fn main(global: &Global, args: &Args) -> anyhow::Result<()> {
    let config = global.load(|sources| sources)?;
    let client = Client::new(&config)?;
    runtime()?.block_on(run(global, &client, &args.projections))
}

async fn run(global: &Global, client: &Client, projections: &[String]) -> anyhow::Result<()> {
    let body = serde_json::to_vec(&json!({ "projections": projections }))?;
    let asked = client.call(Method::POST, "/v1/rebuild", Some(body.into()));
    asked.await?.success()?;
    // Hidden by itself where standard error is no terminal.
    let bar = ProgressBar::new(0).with_style(ProgressStyle::with_template(
        "{bar:40} {human_pos}/{human_len} records, {per_sec}, {eta} left",
    )?);
    let last = loop {
        tokio::time::sleep(INTERVAL).await;
        let status = client
            .call(Method::GET, "/v1/rebuild", None)
            .await?
            .success()?;
        let number = |name: &str| status.get(name).and_then(Value::as_u64).unwrap_or_default();
        bar.set_length(number("total"));
        bar.set_position(number("done"));
        if status.get("status").and_then(Value::as_str) != Some("running") {
            break status;
        }
    };
    bar.finish_and_clear();
    if let Some(why) = last.get("error").and_then(Value::as_str) {
        bail!("the rebuild failed, and the tables are as they were: {why}");
    }
    if global.json {
        return output::json(&last);
    }
    output::line(&format!(
        "rebuilt {} from {} records; the projector stood still for {} ms",
        projections.join(" and "),
        last["done"],
        last["paused_ms"]
    ));
    Ok(())
}
