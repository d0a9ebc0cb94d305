//! `omnilink plans`: lists, shows and forgets cached plans, and explains how goals get theirs.

use std::{collections::BTreeMap, path::PathBuf};

use anyhow::{Context, bail};
use hyper::Method;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{
    Global,
    client::{Client, encoded},
    output,
    runs::{of_tenant, text},
};
use crate::api::plans::ExplainGoal;

/// The path of cached plans on the port.
const PATH: &str = "/v1/plans";
/// The most goals that are printed one by one, of each kind.
const SHOWN_MAX: usize = 50;

#[derive(clap::Subcommand)]
pub(super) enum Command {
    /// List cached plans, newest first
    List(List),
    /// Show a cached plan
    Show(Show),
    /// Forget a cached plan
    Forget(Show),
    /// Print how a goal gets its plan, without starting a run
    Explain(Explain),
    /// Look up many goals whose intents are known, and count hits, false hits and misses
    Eval(Eval),
}

#[derive(clap::Args)]
#[command(after_help = "Examples:
  omnilink plans list
  omnilink plans list --json | jq -r '.items[].template'

The key needs the permission `runs:read`.")]
pub(super) struct List {
    /// The tenant whose plans are listed [default: that of the key used]
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
  omnilink plans show 2cf24dba5fb0a30e26e83b2ac5b9e29e
  omnilink plans forget 2cf24dba5fb0a30e26e83b2ac5b9e29e

To show, the key needs the permission `runs:read`, to forget `runs:write`.")]
pub(super) struct Show {
    /// The plan's id, as `plans list` prints it
    #[arg(value_name = "PLAN_ID")]
    id: String,
    /// The tenant of the plan [default: that of the key used]
    #[arg(long)]
    tenant: Option<String>,
}

#[derive(clap::Args)]
#[command(after_help = "Examples:
  omnilink plans explain 'Book a flight to Oslo next friday'
  omnilink plans explain 'Book a flight to Oslo' --params '{\"class\": \"economy\"}' --json

No run is started, and no language model is asked. The key needs the permission `runs:read`.")]
pub(super) struct Explain {
    /// The goal
    goal: String,
    /// Its params: a JSON object
    #[arg(long, value_name = "JSON", value_parser = json_object)]
    params: Option<Members>,
    /// The tenant whose cached plans are searched [default: that of the key used]
    #[arg(long)]
    tenant: Option<String>,
}

#[derive(clap::Args)]
#[command(after_help = "Examples:
  omnilink plans eval goals.jsonl
  omnilink plans eval goals.jsonl --json | jq .false_hits

Each line of the file is a JSON object {\"goal\": \"…\", \"intent\": \"…\"}. The intent is the name of a workflow, or the id or the template of a
cached plan; null for a goal that must not find a plan. A hit on the intent is right, any other hit is false; no hit is a miss. No run is
started, and no language model is asked. The key needs the permission `runs:read`.")]
pub(super) struct Eval {
    /// JSON lines with goals and intents
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The tenant whose cached plans are searched [default: that of the key used]
    #[arg(long)]
    tenant: Option<String>,
}

/// The members of a JSON object.
#[derive(Clone, Debug)]
struct Members(Map<String, Value>);

fn json_object(text: &str) -> Result<Members, String> {
    serde_json::from_str(text)
        .map(Members)
        .map_err(|error| format!("it is not a JSON object: {error}"))
}

pub(super) fn main(global: &Global, command: Command) -> anyhow::Result<()> {
    let config = global.load(|sources| sources)?;
    let client = Client::new(&config)?;
    super::runtime()?.block_on(async {
        match command {
            Command::List(args) => list(global, &client, &args).await,
            Command::Show(args) => show(global, &client, &args).await,
            Command::Forget(args) => forget(global, &client, &args).await,
            Command::Explain(args) => {
                let params = args.params.map(|params| params.0);
                let explained = explained(&client, &args.goal, params, args.tenant.as_deref());
                let explained = explained.await?;
                if global.json {
                    return output::json(&explained);
                }
                print_explained(&explained);
                Ok(())
            }
            Command::Eval(args) => eval(global, &client, &args).await,
        }
    })
}

async fn list(global: &Global, client: &Client, args: &List) -> anyhow::Result<()> {
    let filters = [("tenant", &args.tenant), ("cursor", &args.cursor)];
    let response = client.page(PATH, args.limit, &filters).await?;
    if global.json {
        return output::json(&response);
    }
    let heading = ["PLAN", "TEMPLATE", "SOURCE", "WORKFLOW", "EXPIRES", "NOTE"];
    output::page(&response, &heading, |plan| {
        let note = plan["invalid"].as_str();
        vec![
            text(plan, "id"),
            text(plan, "template"),
            text(plan, "source"),
            workflow(plan),
            text(plan, "expires_at"),
            note.map_or_else(String::new, |why| format!("not used: {why}")),
        ]
    });
    Ok(())
}

fn path(id: &str, tenant: Option<&str>) -> String {
    format!("{PATH}/{}{}", encoded(id), of_tenant(tenant))
}

async fn show(global: &Global, client: &Client, args: &Show) -> anyhow::Result<()> {
    let path = path(&args.id, args.tenant.as_deref());
    let plan = client.call(Method::GET, &path, None).await?.success()?;
    if global.json {
        return output::json(&plan);
    }
    for (name, value) in [
        ("template", text(&plan, "template")),
        ("source", text(&plan, "source")),
        ("workflow", workflow(&plan)),
        ("run", text(&plan, "run_id")),
        ("created", text(&plan, "created_at")),
        ("expires", text(&plan, "expires_at")),
    ] {
        output::line(&format!("{name:<10} {value}"));
    }
    if let Some(why) = plan["invalid"].as_str() {
        output::line(&format!("{:<10} {why}", "not used"));
    }
    output::line(&format!(
        "\n{}",
        serde_json::to_string_pretty(&plan["plan"])?
    ));
    let labels = plan["labels"].as_array().map_or(&[][..], Vec::as_slice);
    if !labels.is_empty() {
        output::line("");
        let rows = labels.iter().map(|label| {
            let same = label["agrees"] == true;
            vec![
                text(label, "template"),
                text(label, "score"),
                if same {
                    "the same plan"
                } else {
                    "another plan"
                }
                .to_owned(),
            ]
        });
        output::table(
            &["OTHER GOAL", "SIMILARITY", "HAS"],
            &rows.collect::<Vec<_>>(),
        );
    }
    Ok(())
}

async fn forget(global: &Global, client: &Client, args: &Show) -> anyhow::Result<()> {
    let path = path(&args.id, args.tenant.as_deref());
    client.call(Method::DELETE, &path, None).await?.success()?;
    if global.json {
        return output::json(&json!({ "id": args.id, "forgotten": true }));
    }
    output::line("forgotten");
    Ok(())
}

async fn explained(
    client: &Client,
    goal: &str,
    params: Option<Map<String, Value>>,
    tenant: Option<&str>,
) -> anyhow::Result<Value> {
    let body = ExplainGoal {
        goal: Some(goal.to_owned()),
        params,
    };
    let body = serde_json::to_string(&body)?;
    let path = format!("{PATH}:explain{}", of_tenant(tenant));
    let response = client.call(Method::POST, &path, Some(body.into())).await?;
    response.success()
}

fn print_explained(explained: &Value) {
    output::line(&format!("template  {}", text(explained, "template")));
    let slots = explained["slots"].as_object();
    let numbered = |name: &str| name.ends_with(|c: char| c.is_ascii_digit());
    for (name, value) in slots.into_iter().flatten().filter(|(k, _)| numbered(k)) {
        let value = value
            .as_str()
            .map_or_else(|| value.to_string(), str::to_owned);
        output::line(&format!("slot      {name} = {value}"));
    }
    let guardian = &explained["guardian"];
    output::line(&format!(
        "guardian  {} (score {})\n",
        text(guardian, "verdict"),
        text(guardian, "score")
    ));
    let stages = explained["stages"].as_array().into_iter().flatten();
    let rows = stages.map(|stage| {
        let of = ["entry", "workflow"]
            .into_iter()
            .find(|name| !stage[*name].is_null());
        vec![
            text(stage, "stage"),
            text(stage, "verdict"),
            of.map_or_else(|| "-".to_owned(), |name| text(stage, name)),
            text(stage, "score"),
            text(stage, "reason"),
        ]
    });
    output::list(
        &["STAGE", "VERDICT", "PLAN", "SCORE", "WHY"],
        &rows.collect::<Vec<_>>(),
    );
    let what = match explained["source"].as_str() {
        Some("cache") => format!("the cached plan {}", text(explained, "entry")),
        Some("catalog") => format!("the workflow {}", workflow(explained)),
        Some(_) => "the plan of a language model".to_owned(),
        None => "no plan: a person would have to give one".to_owned(),
    };
    let verdict = text(guardian, "verdict");
    output::line(&match &*verdict {
        "denied" => "\nThe run would be denied by the guardian.".to_owned(),
        "flagged" => {
            format!("\nThe run would get {what}, and a person would have to approve it first.")
        }
        _ => format!("\nThe run would get {what}."),
    });
    for what in explained["degraded"].as_array().into_iter().flatten() {
        output::note(&format!(
            "not available: {}",
            what.as_str().unwrap_or_default()
        ));
    }
}

fn workflow(of: &Value) -> String {
    let workflow = &of["workflow"];
    if workflow.is_null() {
        return "-".to_owned();
    }
    format!("{} {}", text(workflow, "name"), text(workflow, "version"))
}

/// A line of the file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Expected {
    goal: String,
    intent: Option<String>,
}

/// What became of the goals.
#[derive(Debug, Default, PartialEq, Serialize)]
struct Counts {
    goals: usize,
    hits: usize,
    false_hits: usize,
    misses: usize,
    /// Goals without an intent that have found nothing.
    right_misses: usize,
    /// Right hits of all hits; 1 without any.
    precision: f64,
    /// Right hits of all goals with an intent.
    hit_ratio: f64,
    /// Right hits by the stage that decided.
    by_stage: BTreeMap<String, usize>,
    /// The goals that were not as expected.
    failures: Vec<Failure>,
}

/// A goal that was not as expected.
#[derive(Debug, PartialEq, Serialize)]
struct Failure {
    goal: String,
    intent: Option<String>,
    /// What it has found instead.
    found: Option<String>,
}

impl Counts {
    fn count(&mut self, expected: Expected, explained: &Value) {
        self.goals += 1;
        let hit = matches!(explained["source"].as_str(), Some("cache" | "catalog"));
        let names = [
            &explained["workflow"]["name"],
            &explained["entry"],
            &explained["entry_template"],
        ];
        let names = names.into_iter().filter_map(Value::as_str);
        let names: Vec<&str> = names.filter(|_| hit).collect();
        let right = expected.intent.as_deref();
        let right = right.is_some_and(|intent| names.contains(&intent));
        match (hit, right, &expected.intent) {
            (true, true, _) => {
                self.hits += 1;
                let mut stages = explained["stages"].as_array().into_iter().flatten();
                let decided = stages.rfind(|stage| stage["verdict"] == "hit");
                let stage = decided.map_or_else(String::new, |stage| text(stage, "stage"));
                *self.by_stage.entry(stage).or_default() += 1;
                return;
            }
            (true, false, _) => self.false_hits += 1,
            (false, _, Some(_)) => self.misses += 1,
            (false, _, None) => {
                self.right_misses += 1;
                return;
            }
        }
        self.failures.push(Failure {
            goal: expected.goal,
            intent: expected.intent,
            found: names.last().map(|name| (*name).to_owned()),
        });
    }

    fn finish(&mut self) {
        let ratio = |of: usize, all: usize| {
            if all == 0 {
                1.0
            } else {
                of as f64 / all as f64
            }
        };
        self.precision = ratio(self.hits, self.hits + self.false_hits);
        let with_intent = self.goals - self.right_misses;
        let without = self.failures.iter().filter(|one| one.intent.is_none());
        self.hit_ratio = ratio(self.hits, with_intent - without.count());
    }
}

async fn eval(global: &Global, client: &Client, args: &Eval) -> anyhow::Result<()> {
    let shown = args.file.display();
    let lines = std::fs::read_to_string(&args.file);
    let lines = lines.with_context(|| format!("{shown} cannot be read"))?;
    let mut counts = Counts::default();
    for (number, line) in (1..).zip(lines.lines()) {
        if line.trim().is_empty() {
            continue;
        }
        let expected: Expected =
            serde_json::from_str(line).with_context(|| format!("{shown}:{number}"))?;
        let found = explained(client, &expected.goal, None, args.tenant.as_deref());
        let found = found.await.with_context(|| format!("{shown}:{number}"))?;
        counts.count(expected, &found);
    }
    if counts.goals == 0 {
        bail!("{shown} has no goals");
    }
    counts.finish();
    if global.json {
        return output::json(&counts);
    }
    print_counts(&counts);
    Ok(())
}

fn print_counts(counts: &Counts) {
    output::line(&format!(
        "{} goals: {} hits, {} false hits, {} misses, {} rightly without a plan",
        counts.goals, counts.hits, counts.false_hits, counts.misses, counts.right_misses
    ));
    output::line(&format!(
        "precision {:.1} %, hit ratio {:.1} %",
        counts.precision * 100.0,
        counts.hit_ratio * 100.0
    ));
    let failed = |one: &&Failure| one.found.is_some();
    for (heading, failures) in [
        (
            "FALSE HIT",
            counts.failures.iter().filter(failed).collect::<Vec<_>>(),
        ),
        (
            "MISS",
            counts.failures.iter().filter(|one| !failed(one)).collect(),
        ),
    ] {
        if failures.is_empty() {
            continue;
        }
        let rows = failures.iter().take(SHOWN_MAX).map(|one| {
            let or_none = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
            vec![one.goal.clone(), or_none(&one.intent), or_none(&one.found)]
        });
        output::line("");
        output::table(&[heading, "INTENT", "FOUND"], &rows.collect::<Vec<_>>());
        if failures.len() > SHOWN_MAX {
            output::note(&format!(
                "{} more: --json has all",
                failures.len() - SHOWN_MAX
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expected(intent: Option<&str>) -> Expected {
        Expected {
            goal: "g".into(),
            intent: intent.map(str::to_owned),
        }
    }

    #[test]
    fn goals_are_counted_by_their_intents() {
        let hit = json!({
            "source": "cache", "entry": "e1", "entry_template": "Pay {ID}",
            "stages": [{ "stage": "template", "verdict": "miss" }, { "stage": "threshold", "verdict": "hit" }]
        });
        let of_workflow = json!({ "source": "catalog", "workflow": { "name": "pay", "version": "1.0.0" }, "stages": [] });
        let miss = json!({ "source": "llm", "stages": [] });
        let mut counts = Counts::default();
        counts.count(expected(Some("e1")), &hit);
        counts.count(expected(Some("Pay {ID}")), &hit);
        counts.count(expected(Some("pay")), &of_workflow);
        counts.count(expected(Some("refund")), &of_workflow);
        counts.count(expected(None), &hit);
        counts.count(expected(None), &miss);
        counts.count(expected(Some("pay")), &miss);
        counts.finish();
        assert_eq!((counts.goals, counts.hits), (7, 3));
        assert_eq!(
            (counts.false_hits, counts.misses, counts.right_misses),
            (2, 1, 1)
        );
        assert_eq!(counts.by_stage["threshold"], 2);
        assert!((counts.precision - 0.6).abs() < 1e-9);
        assert!(
            (counts.hit_ratio - 0.6).abs() < 1e-9,
            "{}",
            counts.hit_ratio
        );
        let found: Vec<_> = counts.failures.iter().map(|f| f.found.as_deref()).collect();
        assert_eq!(found, [Some("pay"), Some("Pay {ID}"), None]);
    }
}
