//! `omnilink runs cancel`, `pause`, `resume` and `retry`, for one run or all that match a filter.

use std::path::PathBuf;

use serde_json::Value;
use uuid::Uuid;

use super::{
    many::{self, Many},
    read,
    selected::{Action, Selected},
    text,
};
use crate::{
    api::run_controls::{CancelRun, PauseRun, RetryRun},
    cli::{Global, client::Client, output},
};

#[derive(clap::Args)]
#[command(after_help = "Examples:
  omnilink runs cancel 7dbd6d41-6f85-5f7b-98af-6637f5372c2e --reason 'ordered twice'
  omnilink runs cancel 7dbd6d41-6f85-5f7b-98af-6637f5372c2e --abandon --reason 'undone by hand'
  omnilink runs cancel --workflow expense --older-than 7d --dry-run

Attempts in flight are awaited. The key needs the permission `runs:write`, with --abandon also `runs:abandon`, for a filter also
`runs:read`.")]
pub(in crate::cli) struct Cancel {
    #[command(flatten)]
    runs: Selected,
    /// Why, for the history and the audit log
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Do not undo anything
    #[arg(long)]
    abandon: bool,
}

#[derive(clap::Args)]
#[command(after_help = "Examples:
  omnilink runs pause 7dbd6d41-6f85-5f7b-98af-6637f5372c2e
  omnilink runs pause --workflow expense

The key needs the permission `runs:write`, for a filter also `runs:read`.")]
pub(in crate::cli) struct Pause {
    #[command(flatten)]
    runs: Selected,
}

#[derive(clap::Args)]
#[command(after_help = "Examples:
  omnilink runs resume 7dbd6d41-6f85-5f7b-98af-6637f5372c2e
  omnilink runs resume --status paused --workflow expense

The key needs the permission `runs:write`, for a filter also `runs:read`.")]
pub(in crate::cli) struct Resume {
    #[command(flatten)]
    runs: Selected,
}

#[derive(clap::Args)]
#[command(after_help = "Examples:
  omnilink runs retry 7dbd6d41-6f85-5f7b-98af-6637f5372c2e
  omnilink runs retry 7dbd6d41-6f85-5f7b-98af-6637f5372c2e --reuse --plan plan.json
  omnilink runs retry --status failed --workflow expense --reuse --dry-run

A new run repeats one that has ended. With a filter each run is repeated once: running the same command again does not start them
twice, unless it has another --idempotency-key. The key needs the permission `runs:write`, with --plan also `plans:inline`, for a
filter also `runs:read`.")]
pub(in crate::cli) struct Retry {
    #[command(flatten)]
    runs: Selected,
    /// Reuse the outputs of steps that succeeded and were not undone
    #[arg(long)]
    reuse: bool,
    /// Only retry the compensations that failed
    #[arg(long, conflicts_with_all = ["reuse", "plan"])]
    compensations: bool,
    /// A file with another plan
    #[arg(long, value_name = "FILE")]
    plan: Option<PathBuf>,
    /// Identifies the new run, together with the id of the old one [default: a random one; with a filter `bulk`]
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
}

pub(super) async fn cancel(global: &Global, client: &Client, args: Cancel) -> anyhow::Result<()> {
    let body = CancelRun {
        reason: args.reason,
        compensate: !args.abandon,
    };
    perform(global, client, &args.runs, Action::new("cancel", &body)?).await
}

pub(super) async fn pause(global: &Global, client: &Client, args: &Pause) -> anyhow::Result<()> {
    perform(
        global,
        client,
        &args.runs,
        Action::new("pause", &PauseRun {})?,
    )
    .await
}

pub(super) async fn resume(global: &Global, client: &Client, args: &Resume) -> anyhow::Result<()> {
    perform(
        global,
        client,
        &args.runs,
        Action::new("resume", &PauseRun {})?,
    )
    .await
}

pub(super) async fn retry(global: &Global, client: &Client, args: Retry) -> anyhow::Result<()> {
    let body = RetryRun {
        reuse: args.reuse,
        compensations: args.compensations,
        plan: args.plan.as_deref().map(read).transpose()?,
    };
    let mut action = Action::new("retry", &body)?;
    let default = || match args.runs.id {
        Some(_) => Uuid::now_v7().to_string(),
        None => "bulk".to_owned(),
    };
    action.idempotency_key = Some(args.idempotency_key.unwrap_or_else(default));
    perform(global, client, &args.runs, action).await
}

async fn perform(
    global: &Global,
    client: &Client,
    runs: &Selected,
    action: Action,
) -> anyhow::Result<()> {
    let Some(id) = runs.id else {
        return many::perform(global, &Many::new(client, runs, action)).await;
    };
    let path = action.path(&id.to_string(), runs.tenant.as_deref());
    let body = action.body.clone();
    let Some(key) = &action.idempotency_key else {
        let response = client
            .call(hyper::Method::POST, &path, Some(body.into()))
            .await?;
        return super::print_response(global, response);
    };
    let answer = client.post_once(&path, key, body.into()).await?.success()?;
    if global.json {
        return output::json(&answer);
    }
    let started: &Value = &answer["results"][0];
    let duplicate = started["duplicate"] == true;
    let verb = if duplicate {
        "started before as"
    } else {
        "started"
    };
    output::line(&format!("{verb} {}", text(started, "run_id")));
    Ok(())
}
