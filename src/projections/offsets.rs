//! The offsets of a projection, stored beside its rows: who owns a partition, the next offset, and the fence.
//!
//! ```text
//!   take:   epoch + 1, returns `next`      (a new owner; waits for the old owner's open transaction, or terminates it)
//!   commit: next: old → new, if next, epoch and generation are the ones that the owner knows; else the owner is fenced
//!   swap:   generation + 1                 (a rebuild; the owner takes the partition again, and starts from the new tables)
//! ```

use std::{collections::BTreeMap, time::Duration};

use sqlx::{Connection, PgConnection, Row};

use super::error::ProjectionError;
use crate::{
    log::TopicId,
    store::{PROJECTION_APPLICATION, Session, Store, StoreError},
};

/// How often [`take`] is retried while an old owner's transaction is open.
const TAKE_RETRIES: u32 = 20;

/// A partition that this projector owns.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Owned {
    pub(super) epoch: i64,
    pub(super) generation: i64,
    /// The next offset according to the table, once the submitted batches are committed.
    pub(super) next: u64,
    /// The next offset to read. The records from `next` up to it are in the open batch.
    pub(super) read: u64,
}

impl Owned {
    fn at(next: i64, epoch: i64, generation: i64) -> Self {
        Self {
            epoch,
            generation,
            next: next as u64,
            read: next as u64,
        }
    }
}

/// How a batch advances the offset of a partition.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Advance {
    pub(super) partition: u32,
    pub(super) from: u64,
    pub(super) to: u64,
    pub(super) epoch: i64,
    pub(super) generation: i64,
}

/// Takes ownership of a partition. After it returns, no transaction of an earlier owner commits, and everything that earlier owners have
/// committed is visible. `topic` is the id of the current topic, if the log has one; an offset in another topic is
/// [`ProjectionError::AnotherTopic`].
pub(super) async fn take(
    connection: &mut PgConnection,
    projection: &str,
    partition: u32,
    topic: Option<TopicId>,
) -> Result<Owned, ProjectionError> {
    let mut retries = 0;
    loop {
        match try_take(connection, projection, partition, topic).await {
            Ok((owned, of)) => {
                if let (Some(was), Some(is)) = (of, topic.map(|id| id.to_string()))
                    && was != is
                {
                    let projection = projection.to_owned();
                    return Err(ProjectionError::AnotherTopic {
                        projection,
                        position: owned.next,
                        was,
                        is,
                    });
                }
                return Ok(owned);
            }
            Err(e) if e.sqlstate().as_deref() == Some("55P03") && retries < TAKE_RETRIES => {
                // The row is locked by an open transaction of the old owner, or by a rebuild's swap, which soon ends.
                terminate_owner(connection, projection, partition).await?;
                retries += 1;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

async fn try_take(
    connection: &mut PgConnection,
    projection: &str,
    partition: u32,
    topic: Option<TopicId>,
) -> Result<(Owned, Option<String>), StoreError> {
    let mut transaction = connection.begin().await?;
    // A synchronous commit: the old owner must stay fenced even if the server crashes right afterwards.
    sqlx::raw_sql("SET LOCAL lock_timeout = '500ms'; SET LOCAL synchronous_commit = on")
        .execute(&mut *transaction)
        .await?;
    let row = sqlx::query(
        "INSERT INTO omnilink.projection_offsets AS o (projection, log_partition, next, epoch, generation, backend, topic_id) \
         VALUES ($1, $2, 0, 1, COALESCE((SELECT max(generation) FROM omnilink.projection_offsets WHERE projection = $1), 1), \
         pg_backend_pid(), $3) \
         ON CONFLICT (projection, log_partition) DO UPDATE SET epoch = o.epoch + 1, backend = EXCLUDED.backend, \
         topic_id = CASE WHEN o.next = 0 THEN COALESCE($3, o.topic_id) ELSE COALESCE(o.topic_id, $3) END \
         RETURNING next, epoch, generation, topic_id",
    )
    .bind(projection)
    .bind(partition as i32)
    .bind(topic.map(|id| id.to_string()))
    .fetch_one(&mut *transaction)
    .await?;
    let owned = Owned::at(row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
    let of = row.try_get(3)?;
    transaction.commit().await?;
    Ok((owned, of))
}

/// Terminates the Postgres session of the owner recorded in the table, if that session still belongs to a projection: a suspended node
/// would otherwise hold its lock for as long as it is suspended.
async fn terminate_owner(
    connection: &mut PgConnection,
    projection: &str,
    partition: u32,
) -> Result<(), StoreError> {
    // A session may only be terminated by the login that it belongs to.
    sqlx::raw_sql("RESET ROLE")
        .execute(&mut *connection)
        .await?;
    let terminated = sqlx::query_scalar::<_, bool>(
        "SELECT pg_terminate_backend(a.pid) FROM pg_stat_activity a \
         WHERE a.pid = (SELECT backend FROM omnilink.projection_offsets WHERE projection = $1 AND log_partition = $2) \
           AND a.application_name = $3 AND a.datname = current_database() AND a.pid <> pg_backend_pid() \
           AND a.state <> 'idle'",
    )
    .bind(projection)
    .bind(partition as i32)
    .bind(PROJECTION_APPLICATION)
    .fetch_optional(&mut *connection)
    .await;
    sqlx::raw_sql("SET ROLE omnilink_service")
        .execute(&mut *connection)
        .await?;
    match terminated {
        Ok(Some(true)) => tracing::warn!(
            projection,
            partition,
            "terminated the open transaction of a former owner"
        ),
        // The transaction has ended, or the session does not belong to a projection.
        Ok(_) => {}
        Err(error) => {
            tracing::warn!(projection, partition, %error, "cannot terminate the open transaction of a former owner");
        }
    }
    tokio::time::sleep(Duration::from_millis(20)).await;
    Ok(())
}

/// Advances offsets in the caller's transaction, by compare-and-set: this is the fence. After [`ProjectionError::Fenced`] some offsets
/// may have been advanced, so the transaction must not commit.
pub(super) async fn advance(
    transaction: &mut PgConnection,
    projection: &str,
    advances: &[Advance],
) -> Result<(), ProjectionError> {
    if advances.is_empty() {
        return Ok(());
    }
    let column = |value: fn(&Advance) -> i64| advances.iter().map(value).collect::<Vec<i64>>();
    let advanced = sqlx::query(
        "UPDATE omnilink.projection_offsets o SET next = k.next \
         FROM unnest($2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[]) k(part, prior, next, epoch, generation) \
         WHERE o.projection = $1 AND o.log_partition = k.part AND o.next = k.prior AND o.epoch = k.epoch \
           AND o.generation = k.generation",
    )
    .bind(projection)
    .bind(column(|s| i64::from(s.partition)))
    .bind(column(|s| s.from as i64))
    .bind(column(|s| s.to as i64))
    .bind(column(|s| s.epoch))
    .bind(column(|s| s.generation))
    .execute(transaction)
    .await?
    .rows_affected();
    if advanced == advances.len() as u64 {
        Ok(())
    } else {
        Err(ProjectionError::Fenced)
    }
}

/// The ids of the topics in which a projection has offsets: more than one only after `events` was recreated.
pub(super) async fn topics(
    connection: &mut PgConnection,
    projection: &str,
) -> Result<Vec<String>, StoreError> {
    let topics = sqlx::query_scalar::<_, String>(
        "SELECT DISTINCT topic_id FROM omnilink.projection_offsets \
         WHERE projection = $1 AND next > 0 AND topic_id IS NOT NULL",
    )
    .bind(projection)
    .fetch_all(connection)
    .await?;
    Ok(topics)
}

/// The next offset of a projection, for each partition of its topic that it has started.
pub async fn projected(store: &Store, projection: &str) -> Result<BTreeMap<u32, u64>, StoreError> {
    let mut connection = store.connect(Session::Service).await?;
    let found = positions(&mut connection, projection).await?;
    connection.close().await?;
    Ok(found
        .into_iter()
        .map(|(p, owned)| (p, owned.next))
        .collect())
}

/// The offsets of a projection, by partition.
pub(super) async fn positions(
    connection: &mut PgConnection,
    projection: &str,
) -> Result<Vec<(u32, Owned)>, StoreError> {
    let rows = sqlx::query(
        "SELECT log_partition, next, epoch, generation FROM omnilink.projection_offsets WHERE projection = $1 \
         ORDER BY log_partition",
    )
    .bind(projection)
    .fetch_all(connection)
    .await?;
    rows.iter()
        .map(|row| {
            let owned = Owned::at(row.try_get(1)?, row.try_get(2)?, row.try_get(3)?);
            Ok((row.try_get::<i32, _>(0)? as u32, owned))
        })
        .collect::<Result<_, sqlx::Error>>()
        .map_err(Into::into)
}
