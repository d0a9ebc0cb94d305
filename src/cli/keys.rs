//! `omnilink keys`: creates, lists, rotates and revokes API keys.

use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::ValueEnum;
use hyper::Method;
use serde_json::{Value, json};

use super::{
    Global,
    client::{Client, encoded},
    output, recorded,
};
use crate::{
    api::keys::{OVERLAP_MAX_S, OVERLAP_S},
    config::Config,
    node::storage::{self, FirstKey},
};

#[derive(clap::Subcommand)]
pub(super) enum Command {
    /// Create a key; it is shown once
    Create(Create),
    /// List the keys of a tenant
    List(List),
    /// Give a key a new secret, which is shown once; the previous one stays valid for a while
    Rotate(Rotate),
    /// Revoke a key, with immediate effect
    Revoke(Revoke),
}

#[derive(clap::Args)]
#[command(after_help = "Examples:
  omnilink keys create --name shop --permission events:write
  omnilink keys create --name ann --kind person --permission '*' --json
  omnilink keys create --tenant acme --name acme-shop --scopes scopes.json
  omnilink keys create --first                # on Kafka, before there is any key
  omnilink keys create --first --tenant acme --name ops --principal ops@acme.example

A file for --scopes: {\"permissions\": [\"events:write\"], \"constraints\": {\"env_allowlist\": [\"prod\"]}}")]
pub(super) struct Create {
    /// The key's tenant [default: that of the key used; for the first key `default`]
    #[arg(long)]
    tenant: Option<String>,
    /// Its name [default: unnamed; for the first key admin]
    #[arg(long)]
    name: Option<String>,
    /// The principal that it acts as [default: the name]
    #[arg(long)]
    principal: Option<String>,
    /// Who holds it
    #[arg(long, value_enum, default_value_t = Kind::Service)]
    kind: Kind,
    /// A permission: `events:write`, `admin`, `prefix:*`, `*`; may be repeated
    #[arg(long = "permission", value_name = "PERMISSION", required_unless_present_any = ["scopes", "first"])]
    permissions: Vec<String>,
    /// A JSON file with permissions and constraints
    #[arg(long, value_name = "FILE", conflicts_with = "permissions")]
    scopes: Option<PathBuf>,
    /// Create the first key directly in the log: on Kafka, while there is none. It has all permissions, without limits
    #[arg(long, conflicts_with_all = ["permissions", "scopes", "kind"])]
    first: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Kind {
    Person,
    Service,
}

#[derive(clap::Args)]
#[command(after_help = "Examples:
  omnilink keys list
  omnilink keys list --json | jq -r '.items[].id'")]
pub(super) struct List {
    /// The tenant whose keys to list, for operators [default: that of the key used]
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
  omnilink keys rotate 0199c2f4-0000-7000-8000-000000000000
  omnilink keys rotate 0199c2f4-0000-7000-8000-000000000000 --overlap-s 0     # the previous secret ends at once")]
pub(super) struct Rotate {
    /// The key's id, as `keys list` shows it
    id: String,
    /// For how many seconds the previous secret stays valid
    #[arg(long, default_value_t = OVERLAP_S, value_parser = clap::value_parser!(u64).range(0..=OVERLAP_MAX_S))]
    overlap_s: u64,
}

#[derive(clap::Args)]
#[command(after_help = "Example:
  omnilink keys revoke 0199c2f4-0000-7000-8000-000000000000")]
pub(super) struct Revoke {
    /// The key's id, as `keys list` shows it
    id: String,
}

pub(super) fn main(global: &Global, command: Command) -> anyhow::Result<()> {
    let config = global.load(|sources| sources)?;
    super::runtime()?.block_on(async {
        match command {
            Command::Create(args) if args.first => first(global, &config, args).await,
            Command::Create(args) => create(global, &config, args).await,
            Command::List(args) => list(global, &config, &args).await,
            Command::Rotate(args) => rotate(global, &config, &args).await,
            Command::Revoke(args) => revoke(global, &config, &args).await,
        }
    })
}

async fn create(global: &Global, config: &Config, args: Create) -> anyhow::Result<()> {
    let scopes: Value = match &args.scopes {
        Some(file) => {
            let text = std::fs::read_to_string(file)
                .with_context(|| format!("{} cannot be read", file.display()))?;
            serde_json::from_str(&text)
                .with_context(|| format!("{} is not valid JSON", file.display()))?
        }
        None => json!({ "permissions": args.permissions }),
    };
    let kind = match args.kind {
        Kind::Person => "person",
        Kind::Service => "service",
    };
    let name = args.name.as_deref().unwrap_or("unnamed");
    let mut body = json!({ "name": name, "kind": kind, "scopes": scopes });
    for (field, value) in [("tenant", args.tenant), ("principal", args.principal)] {
        if let Some(value) = value {
            body[field] = value.into();
        }
    }
    let client = Client::new(config)?;
    let response = client
        .call(Method::POST, "/v1/keys", Some(body.to_string().into()))
        .await?
        .success()?;
    if global.json {
        return output::json(&response);
    }
    let text = |name: &str| response[name].as_str().unwrap_or_default();
    output::note(&format!(
        "key {} of tenant {} ({}); it is not shown again:",
        text("id"),
        text("tenant"),
        text("name")
    ));
    output::line(text("key"));
    Ok(())
}

async fn first(global: &Global, config: &Config, args: Create) -> anyhow::Result<()> {
    if !config.on_kafka() {
        bail!(
            "without Kafka the first `omnilink up` creates the first key, in {}/admin.key",
            config.data_dir.display()
        );
    }
    let holder = FirstKey::new(args.tenant.as_deref(), args.name, args.principal)?;
    let (key, token) = storage::first_key(config, holder, &recorded::user()).await?;
    let file = storage::admin_key_file(config);
    if global.json {
        return output::json(&json!({
            "id": key.id,
            "key": token,
            "prefix": key.prefix(),
            "name": key.name,
            "principal": key.principal,
            "tenant": key.tenant.as_str(),
            "kind": key.kind,
            "scopes": key.scopes,
            "created_at": jiff::Timestamp::from_millisecond(key.created_at.0)?,
            "file": file,
        }));
    }
    output::note(&format!(
        "the first key, of tenant {} ({}), kept in {}:",
        key.tenant,
        key.name,
        file.display()
    ));
    output::line(&token);
    Ok(())
}

async fn list(global: &Global, config: &Config, args: &List) -> anyhow::Result<()> {
    let filters = [("tenant", &args.tenant), ("cursor", &args.cursor)];
    let response = Client::new(config)?
        .page("/v1/keys", args.limit, &filters)
        .await?;
    if global.json {
        return output::json(&response);
    }
    let row = |key: &Value| {
        let text = |name: &str| key[name].as_str().unwrap_or("-").to_owned();
        let permissions = key["scopes"]["permissions"].as_array();
        let permissions = permissions.into_iter().flatten().filter_map(Value::as_str);
        vec![
            text("id"),
            text("prefix"),
            text("name"),
            text("kind"),
            permissions.collect::<Vec<_>>().join(","),
            text("created_at"),
            text("expires_at"),
            text("last_used_at"),
            match key["limits_enforced"].as_bool() {
                Some(false) => "warn only".to_owned(),
                _ => "enforced".to_owned(),
            },
        ]
    };
    let heading = [
        "ID",
        "PREFIX",
        "NAME",
        "KIND",
        "PERMISSIONS",
        "CREATED",
        "EXPIRES",
        "LAST USED",
        "LIMITS",
    ];
    output::page(&response, &heading, row);
    Ok(())
}

async fn rotate(global: &Global, config: &Config, args: &Rotate) -> anyhow::Result<()> {
    let path = format!("/v1/keys/{}/rotate", encoded(&args.id));
    let body = json!({ "overlap_s": args.overlap_s }).to_string();
    let response = Client::new(config)?
        .call(Method::POST, &path, Some(body.into()))
        .await?
        .success()?;
    if global.json {
        return output::json(&response);
    }
    let before = match args.overlap_s {
        0 => "the previous secret is no longer valid".to_owned(),
        seconds => format!("the previous secret stays valid for {seconds} s"),
    };
    output::note(&format!(
        "key {} has a new secret, which is not shown again; {before}:",
        args.id
    ));
    output::line(response["key"].as_str().unwrap_or_default());
    Ok(())
}

async fn revoke(global: &Global, config: &Config, args: &Revoke) -> anyhow::Result<()> {
    let id = encoded(&args.id);
    let path = format!("/v1/keys/{id}");
    Client::new(config)?
        .call(Method::DELETE, &path, None)
        .await?
        .success()?;
    if global.json {
        return output::json(&json!({ "id": args.id, "status": "revoked" }));
    }
    output::note(&format!("key {} is revoked", args.id));
    Ok(())
}
