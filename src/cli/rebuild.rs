//! `omnilink rebuild`: asks the running node to rebuild projections, and waits for the swap.

use std::time::Duration;

use anyhow::bail;
use hyper::Method;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use super::{Global, client::Client, output, runtime};

/// Time between requests for the progress of the rebuild.
const POLL_INTERVAL: Duration = Duration::from_millis(250);

#[derive(clap::Args)]
#[command(after_help = "Examples:
  omnilink rebuild events entities
  omnilink rebuild entities --json
  omnilink rebuild audit odoo

The new tables are filled while the old ones stay in use, and swapped in one transaction: readers see no gap, and grants are kept. The
key needs the permission `operator`.")]
pub(super) struct Args {
    /// The projections to rebuild: events, entities, runs, approvals, tasks, audit, odoo
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
    let request = client.call(Method::POST, "/v1/rebuild", Some(body.into()));
    request.await?.success()?;
    // indicatif hides it if standard error is not a terminal.
    let bar = ProgressBar::new(0).with_style(ProgressStyle::with_template(
        "{bar:40} {human_pos}/{human_len} records, {per_sec}, {eta} left",
    )?);
    let last = loop {
        tokio::time::sleep(POLL_INTERVAL).await;
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
        bail!("the rebuild failed, and the tables are unchanged: {why}");
    }
    if global.json {
        return output::json(&last);
    }
    output::line(&format!(
        "rebuilt {} from {} records; the projector was paused for {} ms",
        projections.join(" and "),
        last["done"],
        last["paused_ms"]
    ));
    Ok(())
}
