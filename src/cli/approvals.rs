//! `omnilink approvals`: lists, shows and decides approvals and incidents.

use std::path::PathBuf;

use anyhow::Context;
use clap::{ValueEnum, builder::PossibleValuesParser};
use hyper::{Method, StatusCode};
use serde_json::{Value, value::RawValue};

use super::{
    Global,
    client::Client,
    output,
    runs::{Text, control, json_text, of_tenant, read, text},
};
use crate::api::run_controls::{DecideApproval, DecisionMade};

/// The path of approvals on the port.
const PATH: &str = "/v1/approvals";
/// The maximum number of pending approvals that are searched.
const PENDING_MAX: u16 = 1000;
/// The statuses of approvals.
const STATUSES: [&str; 7] = [
    "pending", "approved", "denied", "expired", "retry", "skip", "fail",
];

#[derive(clap::Subcommand)]
pub(super) enum Command {
    /// List approvals and incidents, newest first
    List(List),
    /// Show an approval or an incident with its input
    Show(Show),
    /// Approve a step or a run
    Approve(Approve),
    /// Deny a step or a run: the run is undone
    Deny(Deny),
    /// Decide an approval or an incident
    Decide(Decide),
}

#[derive(clap::Args)]
#[command(after_help = "Examples:
  omnilink approvals list
  omnilink approvals list --status denied --limit 20

The key needs the permission `approvals:read`.")]
pub(super) struct List {
    /// Only those with this status
    #[arg(long, default_value = "pending", value_parser = PossibleValuesParser::new(STATUSES))]
    status: String,
    /// The tenant whose approvals are listed [default: that of the key used]
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
  omnilink approvals show 7dbd6d41-6f85-5f7b-98af-6637f5372c2e.4

The key needs the permission `runs:read`, or `approvals:read` for one that is pending.")]
pub(super) struct Show {
    #[command(flatten)]
    approval: Named,
}

#[derive(clap::Args)]
#[command(after_help = "Examples:
  omnilink approvals approve 7dbd6d41-6f85-5f7b-98af-6637f5372c2e.4 --reason 'within the budget'
  omnilink approvals approve 7dbd6d41-6f85-5f7b-98af-6637f5372c2e.4 --input-hash 2cf24dba…
  omnilink approvals approve 7dbd6d41-6f85-5f7b-98af-6637f5372c2e.4 --input '{\"amount\": 450}'

With --input-hash, which `approvals show` prints, the decision applies only to the input that was shown. The requester of a run
cannot approve it. The key needs the permission `approvals:decide`.")]
pub(super) struct Approve {
    #[command(flatten)]
    approval: Named,
    #[command(flatten)]
    how: How,
    /// A changed input: JSON
    #[arg(long, value_name = "JSON", value_parser = json_text)]
    input: Option<Text>,
}

#[derive(clap::Args)]
#[command(after_help = "Examples:
  omnilink approvals deny 7dbd6d41-6f85-5f7b-98af-6637f5372c2e.4 --reason 'too expensive'

What the run has done is undone, and it ends `denied`. The key needs the permission `approvals:decide`.")]
pub(super) struct Deny {
    #[command(flatten)]
    approval: Named,
    #[command(flatten)]
    how: How,
}

#[derive(clap::Args)]
#[command(after_help = "Examples:
  omnilink approvals decide 7dbd6d41-6f85-5f7b-98af-6637f5372c2e.9 retry --reason 'the bank is back'
  omnilink approvals decide 7dbd6d41-6f85-5f7b-98af-6637f5372c2e.9 skip --output '{\"paid\": true}' --reason 'paid by hand'
  omnilink approvals decide 7dbd6d41-6f85-5f7b-98af-6637f5372c2e.9 fail
  omnilink approvals decide 7dbd6d41-6f85-5f7b-98af-6637f5372c2e.4 approved --plan plan.json

An incident (a step whose attempts have all failed) is decided with retry, skip or fail, an approval with approved or denied, one of
kind `plan` (a goal without a plan) with approved and a plan, or denied. The key needs the permission `approvals:decide`.")]
pub(super) struct Decide {
    #[command(flatten)]
    approval: Named,
    /// The decision
    #[arg(value_enum)]
    decision: Choice,
    #[command(flatten)]
    how: How,
    /// With approved, a changed input: JSON
    #[arg(long, value_name = "JSON", value_parser = json_text)]
    input: Option<Text>,
    /// With skip, the output of the step: JSON [default: null]
    #[arg(long, value_name = "JSON", value_parser = json_text)]
    output: Option<Text>,
    /// With approved, a file with the plan of a goal: JSON
    #[arg(long, value_name = "FILE", conflicts_with_all = ["input", "output"])]
    plan: Option<PathBuf>,
}

/// An approval and its tenant.
#[derive(clap::Args)]
struct Named {
    /// The approval's id
    #[arg(value_name = "APPROVAL_ID", value_parser = approval_id)]
    id: String,
    /// The run's tenant [default: that of the key used]
    #[arg(long)]
    tenant: Option<String>,
}

#[derive(clap::Args)]
struct How {
    /// Why, for the history and the audit log
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// The hash of the input that was shown
    #[arg(long, value_name = "HASH")]
    input_hash: Option<String>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Choice {
    Approved,
    Denied,
    Retry,
    Skip,
    Fail,
}

impl Choice {
    fn made(self) -> DecisionMade {
        match self {
            Self::Approved => DecisionMade::Approved,
            Self::Denied => DecisionMade::Denied,
            Self::Retry => DecisionMade::Retry,
            Self::Skip => DecisionMade::Skip,
            Self::Fail => DecisionMade::Fail,
        }
    }
}

/// Checks that an id is `RUN_ID.NUMBER`.
fn approval_id(text: &str) -> Result<String, String> {
    let good = text.split_once('.').is_some_and(|(run, number)| {
        uuid::Uuid::try_parse(run).is_ok() && number.parse::<u64>().is_ok()
    });
    if good {
        return Ok(text.to_owned());
    }
    Err("it must be RUN_ID.NUMBER, as `omnilink approvals list` shows it".to_owned())
}

pub(super) fn main(global: &Global, command: Command) -> anyhow::Result<()> {
    let config = global.load(|sources| sources)?;
    let client = Client::new(&config)?;
    super::runtime()?.block_on(async {
        match command {
            Command::List(args) => list(global, &client, &args).await,
            Command::Show(args) => show(global, &client, &args.approval).await,
            Command::Approve(args) => {
                let made = Made {
                    input: args.input.map(Text::into_raw),
                    ..Made::of(DecisionMade::Approved)
                };
                decide(global, &client, &args.approval, made, args.how).await
            }
            Command::Deny(args) => {
                let made = Made::of(DecisionMade::Denied);
                decide(global, &client, &args.approval, made, args.how).await
            }
            Command::Decide(args) => {
                let made = Made {
                    decision: args.decision.made(),
                    input: args.input.map(Text::into_raw),
                    output: args.output.map(Text::into_raw),
                    plan: args.plan.as_deref().map(read).transpose()?,
                };
                decide(global, &client, &args.approval, made, args.how).await
            }
        }
    })
}

async fn list(global: &Global, client: &Client, args: &List) -> anyhow::Result<()> {
    let filters = [
        ("status", &Some(args.status.clone())),
        ("tenant", &args.tenant),
        ("cursor", &args.cursor),
    ];
    let response = client.page(PATH, args.limit, &filters).await?;
    if global.json {
        return output::json(&response);
    }
    let heading = [
        "APPROVAL",
        "KIND",
        "STEP",
        "LANE",
        "STATUS",
        "REQUESTED",
        "EXPIRES",
        "MESSAGE",
    ];
    output::page(&response, &heading, |approval| {
        [
            "id",
            "kind",
            "step_id",
            "lane",
            "status",
            "requested_at",
            "expires_at",
            "message",
        ]
        .map(|name| text(approval, name))
        .to_vec()
    });
    Ok(())
}

/// Shows an approval, read from its run. If the key may not read runs, only pending approvals are found.
async fn show(global: &Global, client: &Client, named: &Named) -> anyhow::Result<()> {
    let (run, _) = named.id.split_once('.').unwrap_or_default();
    let tenant = of_tenant(named.tenant.as_deref());
    let path = format!("/v1/runs/{run}{tenant}");
    let run = client.call(Method::GET, &path, None).await?;
    let (all, whose) = if run.status == StatusCode::FORBIDDEN {
        let tenant = [("tenant", &named.tenant)];
        let pending = client.page(PATH, PENDING_MAX, &tenant).await?;
        (pending["items"].clone(), "there is no pending approval")
    } else {
        (
            run.success()?["approvals"].clone(),
            "the run has no approval",
        )
    };
    let mut approvals = all.as_array().into_iter().flatten();
    let approval = approvals
        .find(|approval| approval["id"].as_str() == Some(&named.id))
        .with_context(|| format!("{whose} {}", named.id))?;
    if global.json {
        return output::json(approval);
    }
    for line in described(approval) {
        output::line(&line);
    }
    Ok(())
}

/// An approval as text, with the commands that decide it.
fn described(approval: &Value) -> Vec<String> {
    let mut lines = Vec::new();
    for (name, field) in [
        ("approval", "id"),
        ("kind", "kind"),
        ("status", "status"),
        ("step", "step_id"),
        ("lane", "lane"),
        ("risk", "risk_score"),
        ("message", "message"),
        ("requested", "requested_at"),
        ("expires", "expires_at"),
        ("decided", "decided_at"),
        ("by", "decided_by"),
        ("reason", "reason"),
        ("input hash", "input_hash"),
    ] {
        if !approval[field].is_null() {
            lines.push(format!("{name:<12}{}", text(approval, field)));
        }
    }
    let reasons = approval["reasons"].as_array().into_iter().flatten();
    let reasons: Vec<_> = reasons.filter_map(Value::as_str).collect();
    if !reasons.is_empty() {
        lines.push(format!("{:<12}{}", "because", reasons.join(", ")));
    }
    lines.push("input".to_owned());
    // A value of JSON always has a JSON form.
    let input = serde_json::to_string_pretty(&approval["input"]).unwrap_or_default();
    lines.extend(input.lines().map(|line| format!("  {line}")));
    if approval["status"] == "pending" {
        let (id, hash) = (text(approval, "id"), text(approval, "input_hash"));
        lines.push(String::new());
        if approval["kind"] == "incident" {
            lines.push(format!("omnilink approvals decide {id} retry|skip|fail"));
        } else if approval["kind"] == "plan" {
            let approve = "approved --plan FILE";
            lines.push(format!("omnilink approvals decide {id} {approve}"));
            lines.push(format!("omnilink approvals deny {id} --reason TEXT"));
        } else {
            lines.push(format!(
                "omnilink approvals approve {id} --input-hash {hash}"
            ));
            lines.push(format!("omnilink approvals deny {id} --reason TEXT"));
        }
    }
    lines
}

/// A decision, and what comes with it.
struct Made {
    decision: DecisionMade,
    input: Option<Box<RawValue>>,
    output: Option<Box<RawValue>>,
    plan: Option<Box<RawValue>>,
}

impl Made {
    fn of(decision: DecisionMade) -> Self {
        Self {
            decision,
            input: None,
            output: None,
            plan: None,
        }
    }
}

async fn decide(
    global: &Global,
    client: &Client,
    named: &Named,
    made: Made,
    how: How,
) -> anyhow::Result<()> {
    let body = DecideApproval {
        decision: Some(made.decision),
        reason: how.reason,
        input_hash: how.input_hash,
        input: made.input,
        output: made.output,
        plan: made.plan,
    };
    let tenant = of_tenant(named.tenant.as_deref());
    // An id needs no encoding: it consists of digits, letters, dashes and a dot.
    let path = format!("{PATH}/{}{tenant}", named.id);
    control(global, client, &path, &body).await
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_open_approval_is_shown_with_what_decides_it() {
        let mut approval = json!({
            "id": "r.4", "kind": "step", "status": "pending", "step_id": "pay", "lane": "RED", "risk_score": 0.8,
            "reasons": ["kind_payment"], "input": { "amount": 5 }, "input_hash": "ab", "requested_at": "t1", "expires_at": "t2"
        });
        let lines = described(&approval);
        assert_eq!(lines[0], "approval    r.4");
        assert!(lines.contains(&"because     kind_payment".to_owned()));
        assert!(lines.contains(&"    \"amount\": 5".to_owned()), "{lines:?}");
        assert_eq!(
            lines[lines.len() - 2],
            "omnilink approvals approve r.4 --input-hash ab"
        );
        approval["kind"] = "incident".into();
        assert_eq!(
            described(&approval).last().unwrap(),
            "omnilink approvals decide r.4 retry|skip|fail"
        );
        approval["kind"] = "plan".into();
        let lines = described(&approval);
        assert_eq!(
            lines[lines.len() - 2],
            "omnilink approvals decide r.4 approved --plan FILE"
        );
        approval["status"] = "approved".into();
        assert_eq!(described(&approval).last().unwrap(), "  }");
    }

    #[test]
    fn ids_of_approvals() {
        let run = uuid::Uuid::from_u128(7);
        assert!(approval_id(&format!("{run}.4")).is_ok());
        for wrong in [
            run.to_string(),
            format!("{run}."),
            format!("{run}.x"),
            "x.4".into(),
        ] {
            assert!(approval_id(&wrong).is_err(), "{wrong}");
        }
    }
}
