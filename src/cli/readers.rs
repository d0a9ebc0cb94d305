//! `omnilink readers`: which login of Postgres sees which tenant.

use hyper::Method;
use serde_json::{Value, json};

use super::{
    Global,
    client::{Client, encoded},
    output,
};
use crate::config::Config;

#[derive(clap::Subcommand)]
pub(super) enum Command {
    /// Let a login read a tenant
    Grant(Grant),
    /// End a login's right to read a tenant
    Revoke(Revoke),
    /// List who reads which tenant
    List(List),
}

#[derive(clap::Args)]
#[command(after_help = "Examples:
  omnilink readers grant analyst acme
  omnilink readers grant analyst acme --json

The login must have the role, which Postgres's administrator gives it once: GRANT omnilink_reader TO analyst
It need not be there yet. The key must have the permission `admin`, or for another tenant than its own `operator`.")]
pub(super) struct Grant {
    /// The login in Postgres, as it is spelt there
    login: String,
    /// The tenant that it may read
    tenant: String,
}

#[derive(clap::Args)]
#[command(after_help = "Examples:
  omnilink readers revoke analyst acme
  omnilink readers revoke analyst acme --json

The login keeps the role omnilink_reader, and sees what else it was granted.")]
pub(super) struct Revoke {
    /// The login in Postgres, as it is spelt there
    login: String,
    /// The tenant that it may read no more
    tenant: String,
}

#[derive(clap::Args)]
#[command(after_help = "Examples:
  omnilink readers list
  omnilink readers list --tenant acme --json | jq -r '.items[].login'")]
pub(super) struct List {
    /// Whose [default: that of the key that asks; for operators all]
    #[arg(long)]
    tenant: Option<String>,
    /// How many at most
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=1000))]
    limit: u16,
    /// Where to go on: `next_cursor` of the list before
    #[arg(long)]
    cursor: Option<String>,
}

pub(super) fn main(global: &Global, command: Command) -> anyhow::Result<()> {
    let config = global.load(|sources| sources)?;
    super::runtime()?.block_on(async {
        match command {
            Command::Grant(args) => grant(global, &config, &args).await,
            Command::Revoke(args) => revoke(global, &config, &args).await,
            Command::List(args) => list(global, &config, &args).await,
        }
    })
}

async fn grant(global: &Global, config: &Config, args: &Grant) -> anyhow::Result<()> {
    let body = json!({ "login": args.login, "tenant": args.tenant });
    let answer = Client::new(config)?
        .call(Method::POST, "/v1/readers", Some(body.to_string().into()))
        .await?
        .success()?;
    if global.json {
        return output::json(&answer);
    }
    output::note(&format!(
        "{} may read tenant {}; if it lacks the role: GRANT omnilink_reader TO \"{}\"",
        args.login,
        args.tenant,
        args.login.replace('"', "\"\"")
    ));
    Ok(())
}

async fn revoke(global: &Global, config: &Config, args: &Revoke) -> anyhow::Result<()> {
    let path = format!(
        "/v1/readers/{}?tenant={}",
        encoded(&args.login),
        encoded(&args.tenant)
    );
    Client::new(config)?
        .call(Method::DELETE, &path, None)
        .await?
        .success()?;
    if global.json {
        let answer = json!({ "login": args.login, "tenant": args.tenant, "status": "revoked" });
        return output::json(&answer);
    }
    output::note(&format!(
        "{} may not read tenant {} any more",
        args.login, args.tenant
    ));
    Ok(())
}

async fn list(global: &Global, config: &Config, args: &List) -> anyhow::Result<()> {
    let of = [("tenant", &args.tenant), ("cursor", &args.cursor)];
    let answer = Client::new(config)?
        .page("/v1/readers", args.limit, &of)
        .await?;
    if global.json {
        return output::json(&answer);
    }
    let row = |grant: &Value| {
        ["login", "tenant", "granted_by", "granted_at"]
            .map(|name| grant[name].as_str().unwrap_or("-").to_owned())
            .to_vec()
    };
    let heading = ["LOGIN", "TENANT", "GRANTED BY", "GRANTED"];
    output::page(&answer, &heading, row);
    Ok(())
}
