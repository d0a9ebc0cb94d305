//! `omnilink readers`: which Postgres login may read which tenant.

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
    /// Revoke a login's access to a tenant
    Revoke(Revoke),
    /// List which login may read which tenant
    List(List),
}

#[derive(clap::Args)]
#[command(after_help = "Examples:
  omnilink readers grant analyst acme
  omnilink readers grant analyst acme --json

The login needs the role, which an administrator of Postgres grants once: GRANT omnilink_reader TO analyst
The login need not exist yet. The key needs the permission `admin`, or `operator` for a tenant other than its own.")]
pub(super) struct Grant {
    /// The name of the login in Postgres, case-sensitive
    login: String,
    /// The tenant that it may read
    tenant: String,
}

#[derive(clap::Args)]
#[command(after_help = "Examples:
  omnilink readers revoke analyst acme
  omnilink readers revoke analyst acme --json

The login keeps the role omnilink_reader and its access to other tenants.")]
pub(super) struct Revoke {
    /// The name of the login in Postgres, case-sensitive
    login: String,
    /// The tenant that it may no longer read
    tenant: String,
}

#[derive(clap::Args)]
#[command(after_help = "Examples:
  omnilink readers list
  omnilink readers list --tenant acme --json | jq -r '.items[].login'")]
pub(super) struct List {
    /// Only this tenant [default: that of the key used; for operators all]
    #[arg(long)]
    tenant: Option<String>,
    /// How many at most
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=1000))]
    limit: u16,
    /// Where to continue: `next_cursor` of the previous page
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
    let response = Client::new(config)?
        .call(Method::POST, "/v1/readers", Some(body.to_string().into()))
        .await?
        .success()?;
    if global.json {
        return output::json(&response);
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
        let response = json!({ "login": args.login, "tenant": args.tenant, "status": "revoked" });
        return output::json(&response);
    }
    output::note(&format!(
        "{} may no longer read tenant {}",
        args.login, args.tenant
    ));
    Ok(())
}

async fn list(global: &Global, config: &Config, args: &List) -> anyhow::Result<()> {
    let filters = [("tenant", &args.tenant), ("cursor", &args.cursor)];
    let response = Client::new(config)?
        .page("/v1/readers", args.limit, &filters)
        .await?;
    if global.json {
        return output::json(&response);
    }
    let row = |grant: &Value| {
        ["login", "tenant", "granted_by", "granted_at"]
            .map(|name| grant[name].as_str().unwrap_or("-").to_owned())
            .to_vec()
    };
    let heading = ["LOGIN", "TENANT", "GRANTED BY", "GRANTED"];
    output::page(&response, &heading, row);
    Ok(())
}
