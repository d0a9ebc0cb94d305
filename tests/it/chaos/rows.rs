//! The rows in Postgres.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use omnilink::projections::PROJECTION;
use sqlx::{Connection, PgConnection};

const DEADLINE: Duration = Duration::from_mins(1);
const ANSWER: Duration = Duration::from_secs(5);

pub struct Row {
    pub tenant: String,
    pub id: String,
    pub source: String,
    pub entity: String,
    pub partition: u32,
    pub offset: u64,
}

#[derive(Default)]
pub struct Found {
    pub events: Vec<Row>,
    /// The version of each entity.
    pub versions: HashMap<String, i64>,
}

/// Queries Postgres repeatedly, over one connection while it works.
pub struct Watcher {
    url: String,
    connection: Option<PgConnection>,
}

impl Watcher {
    pub fn new(url: &str) -> Self {
        Self {
            url: url.to_owned(),
            connection: None,
        }
    }

    async fn ask<T>(
        &mut self,
        ask: impl AsyncFnOnce(&mut PgConnection) -> sqlx::Result<T>,
    ) -> Option<T> {
        let (url, kept) = (&self.url, self.connection.take());
        let asked = async {
            let mut connection = match kept {
                Some(connection) => connection,
                None => PgConnection::connect(url).await.ok()?,
            };
            let answer = ask(&mut connection).await.ok()?;
            Some((connection, answer))
        };
        let (connection, answer) = tokio::time::timeout(ANSWER, asked).await.ok()??;
        self.connection = Some(connection);
        Some(answer)
    }

    /// The number of rows of `events`; `None` if Postgres does not respond, or the table does not exist yet.
    pub async fn count(&mut self) -> Option<u64> {
        let sql = "select count(*) from omnilink.events";
        let count: i64 = self
            .ask(async |c: &mut PgConnection| sqlx::query_scalar(sql).fetch_one(c).await)
            .await?;
        Some(count as u64)
    }

    /// The projector's position in each partition.
    pub async fn positions(&mut self) -> Option<BTreeMap<i32, i64>> {
        let sql = "select log_partition::int, next::bigint from omnilink.projection_offsets where projection = $1";
        let found: Vec<(i32, i64)> = self
            .ask(async |c: &mut PgConnection| {
                sqlx::query_as(sql).bind(PROJECTION).fetch_all(c).await
            })
            .await?;
        Some(found.into_iter().collect())
    }
}

/// All rows.
pub async fn read(url: &str) -> Result<Found, String> {
    tokio::time::timeout(DEADLINE, all(url))
        .await
        .map_err(|_| format!("Postgres did not answer within {DEADLINE:?}"))?
        .map_err(|e| e.to_string())
}

async fn all(url: &str) -> sqlx::Result<Found> {
    let mut connection = PgConnection::connect(url).await?;
    let rows: Vec<(String, String, String, Option<String>, i32, i64)> = sqlx::query_as(
        "select tenant, id, source, entity_id, log_partition::int, log_offset::bigint from omnilink.events",
    )
    .fetch_all(&mut connection)
    .await?;
    let events = rows
        .into_iter()
        .map(|(tenant, id, source, entity, partition, offset)| Row {
            tenant,
            id,
            source,
            entity: entity.unwrap_or_default(),
            partition: partition as u32,
            offset: offset as u64,
        })
        .collect();
    let versions: Vec<(String, i64)> =
        sqlx::query_as("select external_id, version from omnilink.entities")
            .fetch_all(&mut connection)
            .await?;
    Ok(Found {
        events,
        versions: versions.into_iter().collect(),
    })
}
