//! `omnilink runs`: lists, shows, watches and controls runs.

mod act;
mod history;
mod many;
mod picture;
mod screen;
mod selected;
mod show;
mod watch;

use std::path::PathBuf;

use anyhow::Context;
use clap::builder::PossibleValuesParser;
use hyper::Method;
use serde::Serialize;
use serde_json::{Value, value::RawValue};
use uuid::Uuid;

use super::{
    Global,
    client::{Client, Response, encoded},
    output,
};
use crate::{
    api::{plans::GiveFeedback, run_controls::SignalRun},
    runs::RunStatus,
};

/// The path of runs on the port.
const PATH: &str = "/v1/runs";

#[derive(clap::Subcommand)]
pub(super) enum Command {
    /// List runs, newest first
    List(List),
    /// Show a run: its steps, open approvals, and why it failed
    Show(Show),
    /// Show all records of a run
    History(Show),
    /// Watch a run until it ends: its plan, live
    Watch(watch::Args),
    /// Cancel runs; what they did is undone
    Cancel(act::Cancel),
    /// Pause runs: nothing more is scheduled, and deadlines stand still
    Pause(act::Pause),
    /// Resume paused runs
    Resume(act::Resume),
    /// Repeat runs that have ended
    Retry(act::Retry),
    /// Send a run a signal that one of its steps waits for
    Signal(Signal),
    /// Say whether the plan of a run was right
    Feedback(Feedback),
}

#[derive(clap::Args)]
#[command(after_help = "Examples:
  omnilink runs list --status waiting_approval
  omnilink runs list --workflow expense --limit 20
  omnilink runs list --json | jq -r '.items[].run_id'

The key needs the permission `runs:read`, or `runs:read:own` for the runs that it asked for itself.")]
pub(super) struct List {
    /// Only runs with this status
    #[arg(long, value_parser = PossibleValuesParser::new(RunStatus::ALL.map(RunStatus::name)))]
    status: Option<String>,
    /// Only runs of this workflow
    #[arg(long, value_name = "NAME")]
    workflow: Option<String>,
    /// Only runs that this principal asked for
    #[arg(long)]
    principal: Option<String>,
    /// The tenant whose runs are listed [default: that of the key used]
    #[arg(long)]
    tenant: Option<String>,
    /// How many at most
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=1000))]
    limit: u16,
    /// Where to continue: `next_cursor` of the previous page
    #[arg(long)]
    cursor: Option<String>,
}

#[derive(clap::Args)]
#[command(after_help = "Examples:
  omnilink runs show 7dbd6d41-6f85-5f7b-98af-6637f5372c2e
  omnilink runs show 7dbd6d41-6f85-5f7b-98af-6637f5372c2e --json | jq .output
  omnilink runs history 7dbd6d41-6f85-5f7b-98af-6637f5372c2e

The key needs the permission `runs:read`.")]
pub(super) struct Show {
    #[command(flatten)]
    run: Named,
}

#[derive(clap::Args)]
#[command(after_help = "Examples:
  omnilink runs signal 7dbd6d41-6f85-5f7b-98af-6637f5372c2e delivered
  omnilink runs signal 7dbd6d41-6f85-5f7b-98af-6637f5372c2e delivered --data '{\"parcel\": \"JD014600003\"}'
  omnilink runs signal 7dbd6d41-6f85-5f7b-98af-6637f5372c2e delivered --data-file parcel.json

A signal that no step waits for yet is kept. The key needs the permission `runs:write`.")]
pub(super) struct Signal {
    #[command(flatten)]
    run: Named,
    /// The signal's name
    #[arg(value_name = "SIGNAL")]
    name: String,
    /// Its data, the output of the step: JSON [default: null]
    #[arg(long, value_name = "JSON", value_parser = json_text, conflicts_with = "data_file")]
    data: Option<Text>,
    /// A file with its data
    #[arg(long, value_name = "FILE")]
    data_file: Option<PathBuf>,
}

#[derive(clap::Args)]
#[command(group = clap::ArgGroup::new("verdict").required(true).args(["good", "bad"]), after_help = "Examples:
  omnilink runs feedback 7dbd6d41-6f85-5f7b-98af-6637f5372c2e --good
  omnilink runs feedback 7dbd6d41-6f85-5f7b-98af-6637f5372c2e --bad --reason 'the wrong airport'

A plan that was not right is no longer cached. The key needs the permission `runs:write`.")]
pub(super) struct Feedback {
    #[command(flatten)]
    run: Named,
    /// The plan was right
    #[arg(long)]
    good: bool,
    /// The plan was not right
    #[arg(long)]
    bad: bool,
    /// Why, for the audit log
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
}

/// A run and its tenant.
#[derive(clap::Args)]
pub(super) struct Named {
    /// The run's id
    #[arg(value_name = "RUN_ID")]
    id: Uuid,
    /// The run's tenant [default: that of the key used]
    #[arg(long)]
    tenant: Option<String>,
}

/// JSON text.
#[derive(Clone, Debug)]
pub(super) struct Text(Box<RawValue>);

impl Text {
    pub(super) fn into_raw(self) -> Box<RawValue> {
        self.0
    }
}

/// Parses an argument that must be JSON.
pub(super) fn json_text(text: &str) -> Result<Text, String> {
    RawValue::from_string(text.to_owned())
        .map(Text)
        .map_err(|error| format!("it is not JSON: {error}"))
}

impl Named {
    /// The path on the port of the run, or of a part of it such as `/cancel`.
    fn path(&self, part: &str) -> String {
        format!(
            "{PATH}/{}{part}{}",
            self.id,
            of_tenant(self.tenant.as_deref())
        )
    }
}

/// The query string that names a tenant.
pub(super) fn of_tenant(tenant: Option<&str>) -> String {
    tenant.map_or_else(String::new, |tenant| format!("?tenant={}", encoded(tenant)))
}

pub(super) fn main(global: &Global, command: Command) -> anyhow::Result<()> {
    let config = global.load(|sources| sources)?;
    let client = Client::new(&config)?;
    super::runtime()?.block_on(async {
        match command {
            Command::List(args) => list(global, &client, &args).await,
            Command::Show(args) => {
                let run = client.call(Method::GET, &args.run.path(""), None).await?;
                show::print(global, &run.success()?)
            }
            Command::History(args) => history::print(global, &client, &args.run).await,
            Command::Watch(args) => watch::watch(global, &client, &args).await,
            Command::Cancel(args) => act::cancel(global, &client, args).await,
            Command::Pause(args) => act::pause(global, &client, &args).await,
            Command::Resume(args) => act::resume(global, &client, &args).await,
            Command::Retry(args) => act::retry(global, &client, args).await,
            Command::Signal(args) => {
                let data = match (args.data, args.data_file) {
                    (Some(text), _) => Some(text.into_raw()),
                    (None, Some(file)) => Some(read(&file)?),
                    (None, None) => None,
                };
                let path = args.run.path("/signal");
                let signal = Some(args.name);
                control(global, &client, &path, &SignalRun { signal, data }).await
            }
            Command::Feedback(args) => feedback(global, &client, args).await,
        }
    })
}

/// Reads a file that must contain JSON.
pub(super) fn read(file: &std::path::Path) -> anyhow::Result<Box<RawValue>> {
    let shown = file.display();
    let text = std::fs::read_to_string(file).with_context(|| format!("{shown} cannot be read"))?;
    RawValue::from_string(text).with_context(|| format!("{shown} is not JSON"))
}

async fn list(global: &Global, client: &Client, args: &List) -> anyhow::Result<()> {
    let filters = [
        ("status", &args.status),
        ("workflow", &args.workflow),
        ("principal", &args.principal),
        ("tenant", &args.tenant),
        ("cursor", &args.cursor),
    ];
    let response = client.page(PATH, args.limit, &filters).await?;
    if global.json {
        return output::json(&response);
    }
    let heading = ["RUN", "STATUS", "WHAT", "PRINCIPAL", "CREATED", "FINISHED"];
    output::page(&response, &heading, |run| {
        vec![
            text(run, "run_id"),
            text(run, "status"),
            what(run),
            text(run, "principal"),
            text(run, "created_at"),
            text(run, "finished_at"),
        ]
    });
    Ok(())
}

/// Sends a control to a run, and prints the response.
pub(super) async fn control(
    global: &Global,
    client: &Client,
    path: &str,
    body: &impl Serialize,
) -> anyhow::Result<()> {
    let body = serde_json::to_string(body)?;
    let response = client.call(Method::POST, path, Some(body.into())).await?;
    print_response(global, response)
}

async fn feedback(global: &Global, client: &Client, args: Feedback) -> anyhow::Result<()> {
    let body = GiveFeedback {
        good: Some(args.good && !args.bad),
        reason: args.reason,
    };
    let body = serde_json::to_string(&body)?;
    let path = args.run.path("/feedback");
    let response = client.call(Method::POST, &path, Some(body.into())).await?;
    let given = response.success()?;
    if global.json {
        return output::json(&given);
    }
    match given["forgotten"].as_str() {
        Some(entry) => output::line(&format!("recorded; the plan {entry} is no longer cached")),
        None => output::line("recorded"),
    }
    Ok(())
}

fn print_response(global: &Global, response: Response) -> anyhow::Result<()> {
    let body = response.success()?;
    if global.json {
        return output::json(&body);
    }
    let run = text(&body, "run_id");
    match body["status"].as_str() {
        Some("accepted") => output::line(&format!(
            "accepted: the run has not answered yet; `omnilink runs show {run}` shows it"
        )),
        _ => output::line("done"),
    }
    Ok(())
}

/// A member of an object as text, or `-` if it is null.
pub(super) fn text(of: &Value, name: &str) -> String {
    match &of[name] {
        Value::String(text) => text.clone(),
        Value::Null => "-".to_owned(),
        other => other.to_string(),
    }
}

/// The workflow or the goal of a run.
fn what(run: &Value) -> String {
    if let Some(name) = run["workflow"]["name"].as_str() {
        return match run["workflow"]["version"].as_str() {
            Some(version) => format!("{name} {version}"),
            None => name.to_owned(),
        };
    }
    run["goal"].as_str().unwrap_or("-").to_owned()
}

/// An error of a run or a step, in one line.
fn error(error: &Value) -> String {
    match (error["code"].as_str(), error["message"].as_str()) {
        (Some(code), Some(message)) if !message.is_empty() => format!("{code}: {message}"),
        (Some(code), _) => code.to_owned(),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_a_run_carries_out() {
        let workflow = json!({ "workflow": { "name": "pay", "version": "1.2.0" }, "goal": "g" });
        assert_eq!(what(&workflow), "pay 1.2.0");
        assert_eq!(what(&json!({ "goal": "book a flight" })), "book a flight");
        assert_eq!(what(&json!({})), "-");
    }

    #[test]
    fn a_path_names_a_tenant_if_need_be() {
        let id = Uuid::from_u128(7);
        let mut run = Named { id, tenant: None };
        assert_eq!(run.path("/cancel"), format!("/v1/runs/{id}/cancel"));
        run.tenant = Some("a b".into());
        assert_eq!(run.path(""), format!("/v1/runs/{id}?tenant=a%20b"));
    }
}
