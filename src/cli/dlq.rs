//! `omnilink dlq`: lists, shows and redrives dead letters.

use std::fmt::Write;

use anyhow::bail;
use hyper::Method;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Map, Value, json};

use super::{
    Global,
    access::Access,
    client::{Client, encoded},
    output, recorded, runtime,
};
use crate::{
    audit::{LETTER_READ, LETTER_REDRIVEN},
    config::Config,
    node::storage,
    stream::dlq::{
        letters::{self, Listing, Shown, parse_cursor},
        name::Name,
        redrive::{Pick, Redrive},
    },
};

#[derive(clap::Subcommand)]
pub(super) enum Command {
    /// List rejected records, newest first
    List(List),
    /// Show rejected records with their contents
    Show(Show),
    /// Put records back on their topics, in the order in which they were rejected
    Redrive(RedriveArgs),
}

#[derive(clap::Args)]
#[command(after_help = "Examples:
  omnilink dlq list
  omnilink dlq list --code missing_tenant --limit 1000
  omnilink dlq list --json | jq -r '.items | group_by(.code)[] | \"\\(length) \\(.[0].code)\"'")]
pub(super) struct List {
    /// Only those with this code
    #[arg(long)]
    code: Option<String>,
    /// How many at most
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=1000))]
    limit: u16,
    /// Where to continue: `next_cursor` of the previous page
    #[arg(long)]
    cursor: Option<String>,
}

#[derive(clap::Args)]
#[command(after_help = "Examples:
  omnilink dlq show 3:17
  omnilink dlq show --code missing_tenant --json | jq -r .value
  omnilink dlq show 3:17 --json | jq -r .value")]
#[group(id = "shown", required = true, multiple = false)]
pub(super) struct Show {
    /// Names, as `dlq list` shows them
    #[arg(value_name = "PARTITION:OFFSET", group = "shown")]
    names: Vec<Name>,
    /// All, newest first
    #[arg(long, group = "shown")]
    all: bool,
    /// All with this code, newest first
    #[arg(long, group = "shown")]
    code: Option<String>,
}

#[derive(clap::Args)]
#[command(after_help = "Examples:
  omnilink dlq redrive 3:17 3:18
  omnilink dlq redrive --code missing_tenant
  omnilink dlq redrive --all --json

--all and --code skip records that were redriven before; a name forces it. Records of one key keep their order. Deduplication
accepts a redriven record once, even if its event was seen before. A record that fails again becomes a new dead letter.")]
#[group(id = "which", required = true, multiple = false)]
pub(super) struct RedriveArgs {
    /// Names, as `dlq list` shows them
    #[arg(value_name = "PARTITION:OFFSET", group = "which")]
    names: Vec<Name>,
    /// All that were never redriven
    #[arg(long, group = "which")]
    all: bool,
    /// All with this code that were never redriven
    #[arg(long, group = "which")]
    code: Option<String>,
}

pub(super) fn main(global: &Global, command: Command) -> anyhow::Result<()> {
    let config = global.load(|sources| sources)?;
    match command {
        Command::List(args) => list(global, &config, &args),
        Command::Show(args) => show(global, &config, &args),
        Command::Redrive(args) => redrive(global, &config, args),
    }
}

fn list(global: &Global, config: &Config, args: &List) -> anyhow::Result<()> {
    let (code, cursor) = (args.code.as_deref(), args.cursor.as_deref());
    let page = page(&Access::of(config)?, code, args.limit, cursor)?;
    if global.json {
        return output::json(&page);
    }
    let items = page["items"].as_array();
    let rows: Vec<Vec<String>> = items.into_iter().flatten().map(row).collect();
    output::table(
        &[
            "NAME", "FAILED", "STAGE", "CODE", "TOPIC", "REDRIVEN", "MESSAGE",
        ],
        &rows,
    );
    if let Some(cursor) = page["next_cursor"].as_str() {
        output::note(&format!("more follow: --cursor {cursor}"));
    }
    Ok(())
}

fn page(
    access: &Access,
    code: Option<&str>,
    limit: u16,
    cursor: Option<&str>,
) -> anyhow::Result<Value> {
    match access {
        Access::Port(client) => {
            let mut path = format!("/v1/dlq?limit={limit}");
            for (name, value) in [("code", code), ("cursor", cursor)] {
                if let Some(value) = value {
                    let value = encoded(value);
                    // Writing to a `String` cannot fail.
                    let _ = write!(path, "&{name}={value}");
                }
            }
            let response = runtime()?.block_on(client.call(Method::GET, &path, None))?;
            response.success()
        }
        Access::Log(log, names) => {
            let listing = Listing {
                code: code.map(str::to_owned),
                limit: limit.into(),
                cursor: cursor.map(parse_cursor).transpose()?,
            };
            Ok(json!(letters::list(&**log, names, &listing)?))
        }
    }
}

fn row(letter: &Value) -> Vec<String> {
    let text = |name: &str| letter[name].as_str().unwrap_or("-").to_owned();
    // Cut to seconds; --json has the full time.
    let failed_at = text("failed_at");
    let failed_at = failed_at.split('.').next().unwrap_or_default();
    vec![
        text("name"),
        failed_at.trim_end_matches('Z').replace('T', " "),
        text("stage"),
        text("code"),
        text("topic"),
        letter["redriven"].to_string(),
        text("message"),
    ]
}

/// Dead letters whose contents are held in memory at a time.
const PAGE: u16 = 20;

fn show(global: &Global, config: &Config, args: &Show) -> anyhow::Result<()> {
    let access = Access::of(config)?;
    if !args.names.is_empty() {
        for name in &args.names {
            let shown = contents(&access, std::slice::from_ref(name))?;
            match shown.first() {
                Some(letter) => show_one(global, letter)?,
                None => bail!("there is no dead letter {name}; it may have expired"),
            }
        }
        return Ok(());
    }
    let mut cursor: Option<String> = None;
    loop {
        let page = page(&access, args.code.as_deref(), PAGE, cursor.as_deref())?;
        let items = page["items"].as_array().into_iter().flatten();
        let names: Result<Vec<Name>, _> = items
            .map(|letter| letter["name"].as_str().unwrap_or_default().parse())
            .collect();
        for letter in contents(&access, &names.map_err(anyhow::Error::msg)?)? {
            show_one(global, &letter)?;
        }
        match page["next_cursor"].as_str() {
            Some(next) => cursor = Some(next.to_owned()),
            None => return Ok(()),
        }
    }
}

fn contents(access: &Access, names: &[Name]) -> anyhow::Result<Vec<Value>> {
    match access {
        Access::Port(client) => {
            let runtime = runtime()?;
            let mut shown = Vec::new();
            for name in names {
                let path = format!("/v1/dlq/{name}");
                let response = runtime.block_on(client.call(Method::GET, &path, None))?;
                if response.status != hyper::StatusCode::NOT_FOUND {
                    shown.push(response.success()?);
                }
            }
            Ok(shown)
        }
        Access::Log(log, topics) => {
            let found = letters::show_all(&**log, topics, names)?;
            let shown: Vec<_> = found
                .iter()
                .map(|letter| json!(Shown::of(letter)))
                .collect();
            let read = |letter: &Value| {
                let of = ("letter", letter["name"].as_str().unwrap_or_default());
                recorded::entry(None, LETTER_READ, of, Map::new())
            };
            let entries: Vec<_> = shown.iter().map(read).collect();
            recorded::record(&**log, topics, &entries)?;
            Ok(shown)
        }
    }
}

fn show_one(global: &Global, letter: &Value) -> anyhow::Result<()> {
    if global.json {
        return output::json(letter);
    }
    print(letter);
    Ok(())
}

fn print(letter: &Value) {
    let mut rows = Vec::new();
    let mut add = |name: &str, value: &Value| {
        let text = match value {
            Value::String(text) => text.clone(),
            Value::Null => "-".into(),
            other => other.to_string(),
        };
        rows.push(vec![name.to_owned(), text]);
    };
    for name in [
        "name",
        "failed_at",
        "stage",
        "code",
        "message",
        "topic",
        "partition",
        "offset",
        "redriven",
        "key",
    ] {
        add(name, &letter[name]);
    }
    if let Some(length) = letter["truncated"].as_u64() {
        add("truncated", &json!(format!("the value had {length} bytes")));
    }
    for header in letter["headers"].as_array().into_iter().flatten() {
        let name = header[0].as_str().unwrap_or_default();
        if !name.starts_with(crate::stream::dlq::PREFIX) {
            add(&format!("header {name}"), &header[1]);
        }
    }
    add("value", &letter["value"]);
    if let Some(event) = letter.get("event") {
        add("event", event);
    }
    output::list(&["FIELD", "VALUE"], &rows);
    output::line("");
}

fn redrive(global: &Global, config: &Config, args: RedriveArgs) -> anyhow::Result<()> {
    let named = !args.names.is_empty();
    let bar = ProgressBar::new(0).with_style(ProgressStyle::with_template(
        "{bar:40} {human_pos}/{human_len} dead letters, {per_sec}, {eta} left",
    )?);
    let outcome = match Access::of(config)? {
        Access::Port(client) => runtime()?.block_on(over_port(&client, &args, &bar))?,
        Access::Log(log, names) => {
            let secrets = storage::secret_keys(config)?;
            let mut detail = Map::new();
            if named {
                let names: Vec<_> = args.names.iter().map(ToString::to_string).collect();
                detail.insert("names".into(), names.into());
            }
            if let Some(code) = &args.code {
                detail.insert("code".into(), code.as_str().into());
            }
            let entry = recorded::entry(None, LETTER_REDRIVEN, ("topic", &*names.dlq), detail);
            recorded::record(&*log, &names, &[entry])?;
            let pick = match (args.all, args.code) {
                (true, _) => Pick::All,
                (_, Some(code)) => Pick::Code(code),
                _ => Pick::Names(args.names.into_iter().collect()),
            };
            let redrive = Redrive {
                log: &*log,
                names: &names,
                secrets: &secrets,
            };
            let outcome = redrive.run(&pick, &mut |so_far| {
                bar.set_length(so_far.total);
                bar.set_position(so_far.done);
                true
            })?;
            json!(outcome)
        }
    };
    bar.finish_and_clear();
    let missing = outcome["missing"].as_array().map_or(0, Vec::len);
    if global.json {
        output::json(&outcome)?;
    } else {
        output::line(&format!(
            "{} redriven, {} skipped as redriven before, {} without a topic to return to",
            outcome["redriven"], outcome["left_out"], outcome["homeless"]
        ));
    }
    let count = |name: &str| outcome[name].as_u64().filter(|n| *n > 0);
    let mut problems = Vec::new();
    if outcome["timers"]
        .as_array()
        .is_some_and(|timers| !timers.is_empty())
    {
        problems.push(format!(
            "dead letter {} comes from a failed timer, not from a record, so it has no topic to return to",
            outcome["timers"]
        ));
    }
    if let Some(n) = count("truncated") {
        problems.push(format!(
            "{n} were truncated when they were rejected and cannot be redriven"
        ));
    }
    if let Some(n) = count("too_large") {
        problems.push(format!(
            "{n} are larger than their topics accept; raise max.message.bytes there"
        ));
    }
    if missing > 0 {
        problems.push(format!("there is no dead letter {}", outcome["missing"]));
    }
    let problems = problems.join("; ");
    if named && !problems.is_empty() {
        bail!("{problems}");
    }
    if !problems.is_empty() {
        output::note(&problems);
    }
    Ok(())
}

async fn over_port(
    client: &Client,
    args: &RedriveArgs,
    bar: &ProgressBar,
) -> anyhow::Result<Value> {
    let names: Vec<_> = args.names.iter().map(ToString::to_string).collect();
    let body = json!({ "names": names, "all": args.all, "code": args.code });
    let body = Some(body.to_string().into());
    let done = client
        .lines(Method::POST, "/v1/dlq/redrive", body, |line| {
            let so_far = &line["redrive"];
            bar.set_length(so_far["total"].as_u64().unwrap_or_default());
            bar.set_position(so_far["done"].as_u64().unwrap_or_default());
        })
        .await?;
    Ok(done["redrive"].clone())
}
