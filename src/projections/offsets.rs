//! Positions, kept beside the rows: who owns a partition, how far it is, and the fence.
//!
//! ```text
//!   take:   epoch + 1, answers `next`      (a new owner; waits for, or ends, the old one's open transaction)
//!   commit: next: old → new, if next, epoch and generation are what the owner knows; else it is fenced
//!   swap:   generation + 1                 (a rebuild; the owner comes again and reads everything anew)
//! ```

use std::{collections::BTreeMap, time::Duration};

use sqlx::{Connection, PgConnection, Row};

use super::{error::ProjectionError, target::PROJECTION};
use crate::{
    log::TopicId,
    store::{PROJECTION_APPLICATION, Session, Store, StoreError},
};

/// How often a take is tried against an old owner's open transaction.
const TRIES: u32 = 20;

/// A partition that is ours.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Owned {
    pub(super) epoch: i64,
    pub(super) generation: i64,
    /// The next offset of the table, once what is under way is written.
    pub(super) next: u64,
    /// The next offset to be read: what lies between the two is in the open batch.
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

/// A partition's step forward, as one transaction makes it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Step {
    pub(super) partition: u32,
    pub(super) from: u64,
    pub(super) to: u64,
    pub(super) epoch: i64,
    pub(super) generation: i64,
}

/// Takes a partition over. From its return on nobody else's transaction commits, and all that others committed is seen.
/// `topic`: which topic is there now, if the log can tell; a position in another one is [`ProjectionError::AnotherTopic`].
pub(super) async fn take(
    connection: &mut PgConnection,
    projection: &str,
    partition: u32,
    topic: Option<TopicId>,
) -> Result<Owned, ProjectionError> {
    let mut tries = 0;
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
            Err(e) if e.sqlstate().as_deref() == Some("55P03") && tries < TRIES => {
                // An open transaction of the old owner is in the way; so may be a rebuild's swap, which is soon over.
                end_owner(connection, projection, partition).await?;
                tries += 1;
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
    // Durable at once: the old owner must stay fenced if the server crashes now.
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

/// Ends the server process of the owner that the table names, should it still be one of ours: a stopped node would hold its
/// lock for as long as it stands still.
async fn end_owner(
    connection: &mut PgConnection,
    projection: &str,
    partition: u32,
) -> Result<(), StoreError> {
    // As the login: the right to end its other sessions is the login's own.
    sqlx::raw_sql("RESET ROLE")
        .execute(&mut *connection)
        .await?;
    let ended = sqlx::query_scalar::<_, bool>(
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
    match ended {
        Ok(Some(true)) => tracing::warn!(
            projection,
            partition,
            "ended the transaction of a former owner"
        ),
        // It ended by itself, or it is not ours to end.
        Ok(_) => {}
        Err(error) => {
            tracing::warn!(projection, partition, %error, "cannot end the transaction of a former owner");
        }
    }
    tokio::time::sleep(Duration::from_millis(20)).await;
    Ok(())
}

/// Moves positions on, in the caller's transaction: the fence. [`ProjectionError::Fenced`] means that nothing was moved, or not
/// all, and that the transaction must not commit.
pub(super) async fn advance(
    transaction: &mut PgConnection,
    projection: &str,
    steps: &[Step],
) -> Result<(), ProjectionError> {
    if steps.is_empty() {
        return Ok(());
    }
    let column = |of: fn(&Step) -> i64| steps.iter().map(of).collect::<Vec<i64>>();
    let moved = sqlx::query(
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
    if moved == steps.len() as u64 {
        Ok(())
    } else {
        Err(ProjectionError::Fenced)
    }
}

/// The topics that a projection has positions in; more than one only while `events` was made again.
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

/// The next offset of the projection in each partition of `events` that it has begun.
pub async fn projected(store: &Store) -> Result<BTreeMap<u32, u64>, StoreError> {
    let mut connection = store.connect(Session::Service).await?;
    let found = positions(&mut connection, PROJECTION).await?;
    connection.close().await?;
    Ok(found
        .into_iter()
        .map(|(p, owned)| (p, owned.next))
        .collect())
}

/// The positions of a projection, by partition.
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
