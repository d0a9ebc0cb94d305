//! The builtin tools that use a Postgres, as the configuration sets them up.

use super::{record_create::Records, sql_query::Queries};
use crate::config;

/// The builtin tools `sql_query` and `record_create`.
pub struct DatabaseTools {
    pub(super) queries: Queries,
    pub(super) records: Records,
}

/// A URL that names no Postgres.
#[derive(Debug, thiserror::Error)]
#[error("{key}: {source}")]
pub struct BadUrl {
    key: &'static str,
    source: sqlx::Error,
}

impl DatabaseTools {
    /// Of a configuration. Does not connect.
    pub fn new(config: &config::DatabaseTools) -> Result<Self, BadUrl> {
        let of = |key| move |source| BadUrl { key, source };
        Ok(Self {
            queries: Queries::new(&config.sql_query).map_err(of("tools.sql_query.url"))?,
            records: Records::new(&config.record_create).map_err(of("tools.record_create.url"))?,
        })
    }
}
