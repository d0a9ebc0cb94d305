//! `omnilink integrations`: creates, lists, rotates and deletes sources of webhooks.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use hyper::Method;
use serde_json::{Map, Value, json};

use super::{
    Global,
    client::{Client, encoded},
    output,
};
use crate::config::Config;

#[derive(clap::Subcommand)]
pub(super) enum Command {
    /// Create a source of webhooks; its token, if it has one, is shown once
    Create(Create),
    /// List the sources of a tenant
    List(List),
    /// Replace the secret or the token of a source
    Rotate(Rotate),
    /// Delete a source; its events stay
    Delete(Delete),
}

#[derive(clap::Args)]
#[command(after_help = "Examples:
  omnilink integrations create --name github --dialect github --secret-file github.secret
  omnilink integrations create --name odoo-sales --dialect odoo-native --json | jq -r .url
  omnilink integrations create --file webhooks/slack.yaml --secret-file slack.secret

A file has the fields of POST /v1/integrations, in YAML or JSON; its `tests` are for `omnilink test`. Dialects: ipai, ipai-body,
odoo-native, standard-webhooks, github, stripe, hmac.")]
pub(super) struct Create {
    /// A file with the definition
    #[arg(long, value_name = "FILE", required_unless_present_all = ["name", "dialect"])]
    file: Option<PathBuf>,
    /// Its name, a part of the URL
    #[arg(long)]
    name: Option<String>,
    /// The dialect, which defines the signature
    #[arg(long)]
    dialect: Option<String>,
    /// A file with a secret, without its last line end; `-` is standard input; may be repeated
    #[arg(long = "secret-file", value_name = "FILE")]
    secret_files: Vec<PathBuf>,
    /// A file with a mapping, in VRL
    #[arg(long, value_name = "FILE")]
    mapping: Option<PathBuf>,
    /// The tenant that its events belong to [default: that of the key used]
    #[arg(long)]
    tenant: Option<String>,
}

#[derive(clap::Args)]
#[command(after_help = "Examples:
  omnilink integrations list
  omnilink integrations list --json | jq -r '.items[].url'")]
pub(super) struct List {
    /// The tenant whose sources to list, for operators [default: that of the key used]
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
  omnilink integrations rotate 0199c2f4-0000-7000-8000-000000000000 --secret-file new.secret
  omnilink integrations rotate 0199c2f4-0000-7000-8000-000000000000 --overlap-s 0   # a new token; the old one ends at once")]
pub(super) struct Rotate {
    /// The source's id, as `integrations list` shows it
    id: String,
    /// A file with the new secret, without its last line end; `-` is standard input. Not for a source with a token
    #[arg(long, value_name = "FILE")]
    secret_file: Option<PathBuf>,
    /// For how many seconds the previous one stays valid [default: 86400]
    #[arg(long, value_name = "SECONDS")]
    overlap_s: Option<u32>,
}

#[derive(clap::Args)]
#[command(after_help = "Example:
  omnilink integrations delete 0199c2f4-0000-7000-8000-000000000000")]
pub(super) struct Delete {
    /// The source's id, as `integrations list` shows it
    id: String,
}

pub(super) fn main(global: &Global, command: Command) -> anyhow::Result<()> {
    let config = global.load(|sources| sources)?;
    super::runtime()?.block_on(async {
        match command {
            Command::Create(args) => create(global, &config, args).await,
            Command::List(args) => list(global, &config, &args).await,
            Command::Rotate(args) => rotate(global, &config, &args).await,
            Command::Delete(args) => delete(global, &config, &args).await,
        }
    })
}

async fn create(global: &Global, config: &Config, args: Create) -> anyhow::Result<()> {
    let mut definition = match &args.file {
        Some(file) => read_definition(file)?,
        None => Map::new(),
    };
    definition.remove("tests");
    for (field, value) in [
        ("name", args.name),
        ("dialect", args.dialect),
        ("tenant", args.tenant),
    ] {
        if let Some(value) = value {
            definition.insert(field.into(), value.into());
        }
    }
    if let Some(file) = &args.mapping {
        definition.insert("mapping".into(), read(file)?.into());
    }
    if !args.secret_files.is_empty() {
        let secrets = args.secret_files.iter().map(|file| read_secret(file));
        let secrets = secrets.collect::<anyhow::Result<Vec<_>>>()?;
        definition.insert("secrets".into(), secrets.into());
    }
    let body = Value::Object(definition).to_string();
    let response = Client::new(config)?
        .call(Method::POST, "/v1/integrations", Some(body.into()))
        .await?
        .success()?;
    if global.json {
        return output::json(&response);
    }
    show(&response);
    Ok(())
}

/// Prints the path on standard output, and everything else as a note.
fn show(response: &Value) {
    let text = |name: &str| response[name].as_str().unwrap_or_default();
    let note = format!("source {} ({})", text("name"), text("id"));
    output::note(&if response["token"].is_string() {
        format!("{note}; its path holds the token, which is not shown again:")
    } else {
        format!("{note}; its senders call:")
    });
    output::line(text("url"));
}

async fn list(global: &Global, config: &Config, args: &List) -> anyhow::Result<()> {
    let filters = [("tenant", &args.tenant), ("cursor", &args.cursor)];
    let response = Client::new(config)?
        .page("/v1/integrations", args.limit, &filters)
        .await?;
    if global.json {
        return output::json(&response);
    }
    let row = |integration: &Value| {
        ["id", "name", "dialect", "url", "created_at"]
            .map(|name| integration[name].as_str().unwrap_or("-").to_owned())
            .to_vec()
    };
    let heading = ["ID", "NAME", "DIALECT", "PATH", "CREATED"];
    output::page(&response, &heading, row);
    Ok(())
}

async fn rotate(global: &Global, config: &Config, args: &Rotate) -> anyhow::Result<()> {
    let mut body = json!({});
    if let Some(file) = &args.secret_file {
        body["secret"] = read_secret(file)?.into();
    }
    if let Some(overlap_s) = args.overlap_s {
        body["overlap_s"] = overlap_s.into();
    }
    let path = format!("/v1/integrations/{}/rotate", encoded(&args.id));
    let response = Client::new(config)?
        .call(Method::POST, &path, Some(body.to_string().into()))
        .await?
        .success()?;
    if global.json {
        return output::json(&response);
    }
    show(&response);
    Ok(())
}

async fn delete(global: &Global, config: &Config, args: &Delete) -> anyhow::Result<()> {
    let path = format!("/v1/integrations/{}", encoded(&args.id));
    Client::new(config)?
        .call(Method::DELETE, &path, None)
        .await?
        .success()?;
    if global.json {
        return output::json(&json!({ "id": args.id, "status": "deleted" }));
    }
    output::note(&format!("integration {} is deleted", args.id));
    Ok(())
}

fn read_definition(file: &Path) -> anyhow::Result<Map<String, Value>> {
    // JSON is YAML.
    let read: Value = serde_saphyr::from_str(&read(file)?)
        .with_context(|| format!("{} is not valid YAML or JSON", file.display()))?;
    match read {
        Value::Object(definition) => Ok(definition),
        _ => bail!("{} must be a mapping with the definition", file.display()),
    }
}

/// Reads a secret from a file. It must not be an argument, which other users of the machine can see.
fn read_secret(file: &Path) -> anyhow::Result<String> {
    let text = if file == Path::new("-") {
        std::io::read_to_string(std::io::stdin()).context("standard input cannot be read")?
    } else {
        read(file)?
    };
    let line = text.strip_suffix('\n').unwrap_or(&text);
    Ok(line.strip_suffix('\r').unwrap_or(line).to_owned())
}

fn read(file: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(file).with_context(|| format!("{} cannot be read", file.display()))
}
