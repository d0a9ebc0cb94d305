//! `omnilink controls`: the emergency controls.

use clap::ValueEnum;
use hyper::Method;
use serde_json::Value;

use super::{Global, client::Client, output};
use crate::{api::controls::ChangeControls, config::Config};

/// The path of the controls on the port.
const PATH: &str = "/v1/controls";

#[derive(clap::Subcommand)]
pub(super) enum Command {
    /// Show the emergency controls, and since when each has been in force
    Show(Show),
    /// Change the emergency controls, on every node within a second
    Set(Set),
}

#[derive(clap::Args)]
#[command(after_help = "Examples:
  omnilink controls show
  omnilink controls show --json | jq .kill_switch

The key needs the permission `operator`.")]
pub(super) struct Show {}

#[derive(clap::Args)]
#[command(after_help = "Examples:
  omnilink controls set --kill-switch on --reason 'incident 17'
  omnilink controls set --safe-mode on --allow crm:* --reason 'mails are sent twice'
  omnilink controls set --disable 'tool:send_mail=the provider rejects our mail' --reason 'incident 17'
  omnilink controls set --kill-switch off --enable tool:send_mail --reason 'incident 17 is over'

Controls that are not named stay unchanged. The key needs the permission `operator`.
Features: events, goals, commands, workflows, webhooks, planner, workers, tool:NAME, workflow:NAME, source:NAME.")]
#[command(group(clap::ArgGroup::new("changes").required(true).multiple(true)))]
pub(super) struct Set {
    /// Accept no requests, start no runs, dispatch no calls
    #[arg(long, value_enum, value_name = "on|off", group = "changes")]
    kill_switch: Option<Switch>,
    /// Let only persons start and control runs, and decide approvals
    #[arg(long, value_enum, value_name = "on|off", group = "changes")]
    takeover: Option<Switch>,
    /// Hold all steps that change something outside
    #[arg(long, value_enum, value_name = "on|off", group = "changes")]
    safe_mode: Option<Switch>,
    /// A tool that safe mode lets through, or `prefix:*`; may be repeated. Together they replace the list
    #[arg(long, value_name = "OP", group = "changes")]
    allow: Vec<String>,
    /// Empty the list of tools that safe mode lets through
    #[arg(long, group = "changes", conflicts_with = "allow")]
    allow_none: bool,
    /// Disable a feature, for a reason; may be repeated
    #[arg(long, value_name = "FEATURE=REASON", value_parser = feature, group = "changes")]
    disable: Vec<(String, String)>,
    /// Enable a feature again; may be repeated
    #[arg(long, value_name = "FEATURE", group = "changes")]
    enable: Vec<String>,
    /// Why, for the audit log
    #[arg(long, value_name = "TEXT")]
    reason: String,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Switch {
    On,
    Off,
}

/// The feature and the reason of `--disable`.
fn feature(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((feature, reason)) if !feature.is_empty() && !reason.is_empty() => {
            Ok((feature.to_owned(), reason.to_owned()))
        }
        _ => Err("must be FEATURE=REASON, such as `goals=the planner is wrong`".to_owned()),
    }
}

pub(super) fn main(global: &Global, command: Command) -> anyhow::Result<()> {
    let config = global.load(|sources| sources)?;
    super::runtime()?.block_on(async {
        match command {
            Command::Show(_) => show(global, &config).await,
            Command::Set(args) => set(global, &config, args).await,
        }
    })
}

async fn show(global: &Global, config: &Config) -> anyhow::Result<()> {
    let response = Client::new(config)?.call(Method::GET, PATH, None).await?;
    print(global, &response.success()?)
}

async fn set(global: &Global, config: &Config, args: Set) -> anyhow::Result<()> {
    let on = |switch: Option<Switch>| switch.map(|switch| switch == Switch::On);
    let disabled = args
        .disable
        .into_iter()
        .map(|(feature, reason)| (feature, Some(reason)));
    let enabled = args.enable.into_iter().map(|feature| (feature, None));
    let change = ChangeControls {
        kill_switch: on(args.kill_switch),
        operator_takeover: on(args.takeover),
        safe_mode: on(args.safe_mode),
        allowed_operations: (args.allow_none || !args.allow.is_empty()).then_some(args.allow),
        disabled: disabled.chain(enabled).collect(),
        reason: Some(args.reason),
    };
    let body = serde_json::to_string(&change)?;
    let response = Client::new(config)?
        .call(Method::PATCH, PATH, Some(body.into()))
        .await?;
    print(global, &response.success()?)
}

fn print(global: &Global, controls: &Value) -> anyhow::Result<()> {
    if global.json {
        return output::json(controls);
    }
    let since = |control: &str| {
        controls["since"][control]
            .as_str()
            .unwrap_or("-")
            .to_owned()
    };
    let held = |control: &str| {
        let mut held = controls["held_by_environment"]
            .as_array()
            .into_iter()
            .flatten();
        held.any(|name| name == control)
    };
    let mut rows = Vec::new();
    for control in ["kill_switch", "operator_takeover", "safe_mode"] {
        let on = controls[control].as_bool().unwrap_or_default();
        let note = match (control, &controls["allowed_operations"]) {
            _ if held(control) => "held by the environment of the node".to_owned(),
            ("kill_switch", _) if controls["unverified"] == true => {
                "a record of the controls cannot be verified: change them to replace it".to_owned()
            }
            ("safe_mode", Value::Array(allowed)) if !allowed.is_empty() => {
                let names: Vec<_> = allowed.iter().filter_map(Value::as_str).collect();
                format!("allowed: {}", names.join(", "))
            }
            _ => String::new(),
        };
        let state = if on { "ON" } else { "off" };
        rows.push(vec![
            control.to_owned(),
            state.to_owned(),
            since(control),
            note,
        ]);
    }
    for (feature, reason) in controls["disabled"].as_object().into_iter().flatten() {
        let reason = reason.as_str().unwrap_or_default().to_owned();
        rows.push(vec![
            feature.clone(),
            "DISABLED".to_owned(),
            since(feature),
            reason,
        ]);
    }
    output::table(&["CONTROL", "STATE", "SINCE", "NOTE"], &rows);
    if let (Some(by), Some(at)) = (
        controls["changed_by"].as_str(),
        controls["changed_at"].as_str(),
    ) {
        let reason = controls["reason"].as_str().unwrap_or_default();
        output::note(&format!(
            "version {}, changed by {by} at {at}: {reason}",
            controls["version"]
        ));
    }
    Ok(())
}
