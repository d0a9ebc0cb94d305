//! What Postgres holds.

use std::{collections::HashMap, time::Duration};

use sqlx::{Connection, PgConnection};

const DEADLINE: Duration = Duration::from_mins(1);

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

/// The number of rows of `events`; `None`: Postgres does not answer, or there is no such table yet.
pub async fn count(url: &str) -> Option<u64> {
    let asked = async {
        let mut connection = PgConnection::connect(url).await.ok()?;
        let count: i64 = sqlx::query_scalar("select count(*) from omnilink.events")
            .fetch_one(&mut connection)
            .await
            .ok()?;
        drop(connection.close().await);
        Some(count as u64)
    };
    tokio::time::timeout(Duration::from_secs(5), asked)
        .await
        .ok()?
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
