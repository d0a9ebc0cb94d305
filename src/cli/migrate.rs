//! `omnilink migrate`: runs the migrations of the schema in Postgres, as `up` does when it starts.

use anyhow::Context;

use super::{Global, output};
use crate::{embedded_postgres::Embedded, store::Store};

#[derive(clap::Args)]
#[command(after_help = "Examples:
  omnilink migrate
  OMNILINK__POSTGRES__URL=env:ADMIN_URL omnilink migrate

For nodes that run `omnilink up --no-provision`. The login needs CREATEROLE the first time.")]
pub(super) struct Args {}

pub(super) fn main(global: &Global, _: &Args) -> anyhow::Result<()> {
    let config = global.load(|sources| sources)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let migrated = if let Some(url) = &config.postgres_url {
        let store = Store::new(url.expose())?;
        runtime.block_on(store.migrate())?
    } else {
        let embedded = runtime
            .block_on(Embedded::start(&config.data_dir))
            .context(
                "the embedded Postgres cannot be started; if `omnilink up` is running, it has applied the migrations already",
            )?;
        let migrated = runtime.block_on(embedded.store().migrate());
        embedded.stop();
        migrated?
    };
    if global.json {
        return output::json(&serde_json::json!({ "applied": migrated.ran }));
    }
    if migrated.ran.is_empty() {
        output::line("the schema is up to date");
    }
    for name in &migrated.ran {
        output::line(&format!("applied {name}"));
    }
    Ok(())
}
