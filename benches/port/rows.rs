//! Rows as other connections see them.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use sqlx::{Connection, PgConnection};
use tokio::runtime::Runtime;

use crate::postgres;

/// A reader's connection.
pub struct Rows {
    pub url: String,
    runtime: Runtime,
    connection: PgConnection,
}

impl Rows {
    /// Connects to the Postgres at a URL.
    pub fn at(url: &str) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let connection = runtime.block_on(PgConnection::connect(url)).unwrap();
        let mut rows = Self {
            url: url.to_owned(),
            runtime,
            connection,
        };
        rows.wait_for_tables();
        rows
    }

    /// Connects to the embedded Postgres in a data directory, once it runs.
    pub fn embedded(dir: &Path) -> Self {
        let file = dir.join("postgres.url");
        let deadline = Instant::now() + Duration::from_mins(1);
        loop {
            // The file of an earlier start may be outdated.
            if let Ok(url) = std::fs::read_to_string(&file)
                && reaches(url.trim())
            {
                return Self::at(url.trim());
            }
            assert!(Instant::now() < deadline, "no Postgres");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn wait_for_tables(&mut self) {
        let deadline = Instant::now() + Duration::from_mins(1);
        let query = "SELECT to_regclass('omnilink.entities') IS NOT NULL";
        loop {
            let asked = sqlx::query_scalar::<_, bool>(query);
            if self
                .runtime
                .block_on(asked.fetch_one(&mut self.connection))
                .unwrap()
            {
                return;
            }
            assert!(Instant::now() < deadline, "no tables");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Counts the rows of `omnilink.events`.
    pub fn events(&mut self) -> u64 {
        self.count("SELECT count(*) FROM omnilink.events")
    }

    fn count(&mut self, query: &'static str) -> u64 {
        let query = sqlx::query_scalar::<_, i64>(query);
        let count = query.fetch_one(&mut self.connection);
        self.runtime.block_on(count).unwrap() as u64
    }

    /// Counts the runs that have ended.
    pub fn ended_runs(&mut self) -> u64 {
        self.count("SELECT count(*) FROM omnilink.runs WHERE finished_at IS NOT NULL")
    }

    /// Counts the runs whose plan came from the cache.
    pub fn plans_from_cache(&mut self) -> u64 {
        self.count("SELECT count(*) FROM omnilink.run_events WHERE type = 'plan_ready' AND record->>'source' = 'cache'")
    }

    /// The entities of type `probe` among these that have a row.
    pub fn found(&mut self, ids: &[String]) -> Vec<String> {
        let query = sqlx::query_scalar(
            "SELECT external_id FROM omnilink.entities \
             WHERE tenant = 'default' AND entity_type = 'probe' AND external_id = ANY($1)",
        )
        .bind(ids);
        self.runtime
            .block_on(query.fetch_all(&mut self.connection))
            .unwrap()
    }

    /// The postmaster process, if it runs on this machine.
    pub fn postmaster(&mut self) -> Option<u32> {
        self.runtime
            .block_on(postgres::postmaster(&mut self.connection))
    }
}

fn reaches(url: &str) -> bool {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async { PgConnection::connect(url).await.is_ok() })
}
