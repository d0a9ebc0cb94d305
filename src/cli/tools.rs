//! `omnilink tools`: lists the tools that steps call.

use hyper::Method;
use serde_json::Value;

use super::{Global, client::Client, output, runs::text};

#[derive(clap::Subcommand)]
pub(super) enum Command {
    /// List tools: their workers, running and held calls, and why calls are held
    List(List),
}

#[derive(clap::Args)]
#[command(after_help = "Examples:
  omnilink tools list
  omnilink tools list --json | jq '.items[] | select(.breaker == \"open\")'

The key needs the permission `runs:read`.")]
pub(super) struct List {}

pub(super) fn main(global: &Global, command: &Command) -> anyhow::Result<()> {
    let Command::List(List {}) = command;
    let config = global.load(|sources| sources)?;
    let client = Client::new(&config)?;
    super::runtime()?.block_on(async {
        let response = client.call(Method::GET, "/v1/tools", None).await?;
        let response = response.success()?;
        if global.json {
            return output::json(&response);
        }
        let heading = [
            "TOOL", "KIND", "LANE", "WORKER", "RUNNING", "QUEUED", "HELD", "BREAKER", "NOTE",
        ];
        output::page(&response, &heading, row);
        Ok(())
    })
}

fn row(tool: &Value) -> Vec<String> {
    let mut notes = Vec::new();
    if let Some(reason) = tool["hold_reason"].as_str() {
        notes.push(match tool["held_until"].as_str() {
            Some(until) => format!("{reason} until {until}"),
            None => reason.to_owned(),
        });
    }
    if let Some(until) = tool["open_until"].as_str() {
        notes.push(format!("open until {until}"));
    }
    if let Some(concurrency) = tool["limit"]["concurrency"].as_u64() {
        notes.push(format!("at most {concurrency} at once"));
    }
    let mut row: Vec<_> = [
        "name", "kind", "lane", "worker", "running", "queued", "held", "breaker",
    ]
    .map(|name| text(tool, name))
    .to_vec();
    row.push(notes.join(", "));
    row
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_tool_says_why_it_does_not_run() {
        let tool = json!({
            "name": "pay", "kind": "payment", "lane": "RED", "worker": "http", "running": 0, "queued": 4, "held": 4,
            "hold_reason": "safe_mode", "breaker": "open", "open_until": "2026-01-31T12:00:30Z", "limit": { "concurrency": 5, "used": 0 }
        });
        let expected = [
            "pay",
            "payment",
            "RED",
            "http",
            "0",
            "4",
            "4",
            "open",
            "safe_mode, open until 2026-01-31T12:00:30Z, at most 5 at once",
        ];
        assert_eq!(row(&tool), expected);
    }
}
