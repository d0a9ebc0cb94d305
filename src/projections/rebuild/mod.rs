//! Rebuilding tables from the log: new tables are filled beside the live ones, and swapped in by one transaction.
//!
//! ```text
//!   1. create new partitions, and load the log into them from its first offset up to the running projector's offset
//!   2. load the records that were projected meanwhile, until few are missing
//!   3. one transaction: lock the projector's offsets ─► load the rest, up to exactly these offsets
//!      ─► detach the old partitions, attach the new ones ─► generation + 1 ─► commit
//! ```
//!
//! The tables themselves stay, with their grants, policies and views. Readers wait during step 3 only. The projector waits for its
//! offsets, finds another generation there, and continues with the new partitions. One kind of reader sees fewer rows: a `REPEATABLE
//! READ` transaction that began before the swap and reads a table for the first time after it, because the new rows were written after
//! its snapshot.

mod loader;
mod tables;

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use sqlx::{Connection, PgConnection};

pub use self::tables::RebuildTables;
use self::{
    loader::Loader,
    tables::{ENTITIES, EVENTS},
};
use super::{
    error::ProjectionError,
    lane::Setup,
    offsets,
    target::{PROJECTION, REBUILD, Target},
};
use crate::{base::backoff::Backoff, log::LogError, store::Session};

/// The key of the advisory lock that allows one rebuild of a database at a time: `omnirebu` in ASCII.
const LOCK: i64 = 0x6f6d_6e69_7265_6275;
/// When at most this many records are missing, they are loaded while the projector waits.
const SWAP_RECORDS: u64 = 20_000;
/// After this many rounds of step 2 the rest is loaded while the projector waits, however large it is.
const MAX_ROUNDS: u32 = 20;
/// How often the swap is retried while readers hold locks on the tables.
const SWAP_RETRIES: u32 = 60;
const BACKOFF: Backoff = Backoff {
    first: Duration::from_millis(50),
    max: Duration::from_secs(2),
};

/// What a rebuild did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rebuilt {
    /// The number of records read.
    pub records: u64,
    /// How long the projector was blocked by the swap.
    pub paused: Duration,
}

/// Rebuilds tables from the log, and returns after they were swapped in. Blocks: call it on a thread, or with `spawn_blocking`.
///
/// `progress` is called with (done, total) in records. Projectors of any node may keep running. If a rebuild is interrupted, the live
/// tables are unchanged, and the next rebuild removes what it left behind.
pub fn rebuild(
    setup: &Setup,
    tables: RebuildTables,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Rebuilt, ProjectionError> {
    let mut connection = setup.runtime.block_on(prepare(setup, tables))?;
    let target = Target::of(
        REBUILD,
        tables.events.then_some(EVENTS),
        tables.entities.then_some(ENTITIES),
    );
    let mut loader = Loader::new(setup, target, progress)?;
    let mut missing = u64::MAX;
    for _ in 0..MAX_ROUNDS {
        let bounds = setup
            .runtime
            .block_on(bounds(setup, &mut connection, tables))?;
        missing = loader.missing(&bounds);
        if missing <= SWAP_RECORDS {
            break;
        }
        loader.load_up_to(&bounds)?;
    }
    tracing::info!(
        missing,
        "the new tables have caught up with the running projector: swapping"
    );
    setup.runtime.block_on(tables.analyze(&mut connection))?;
    let mut attempt = 0;
    loop {
        let started_at = Instant::now();
        match swap(setup, &mut connection, tables, &mut loader) {
            Ok(()) => {
                return Ok(Rebuilt {
                    records: loader.done(),
                    paused: started_at.elapsed(),
                });
            }
            // Readers hold locks on the tables, or the projector on its offsets.
            Err(ProjectionError::Store(e))
                if e.sqlstate().as_deref() == Some("55P03") && attempt < SWAP_RETRIES =>
            {
                std::thread::sleep(BACKOFF.pause(attempt));
                attempt += 1;
            }
            Err(error) => return Err(error),
        }
    }
}

/// Takes the advisory lock, which the returned connection holds, removes what an earlier rebuild left behind, and creates the new tables.
async fn prepare(setup: &Setup, tables: RebuildTables) -> Result<PgConnection, ProjectionError> {
    let mut connection = setup.store.connect(Session::Maintenance).await?;
    let is_only_one = sqlx::query_scalar::<_, bool>("SELECT pg_try_advisory_lock($1)")
        .bind(LOCK)
        .fetch_one(&mut connection)
        .await?;
    if !is_only_one {
        return Err(ProjectionError::RebuildRunning);
    }
    let mut transaction = connection.begin().await?;
    tables.create(&mut transaction).await?;
    delete_offsets(&mut transaction).await?;
    // Every partition needs an offset that the swap can lock, even if no projector has taken the partition yet.
    let partitions = setup.log.partitions(&setup.topic)?;
    sqlx::query(
        "INSERT INTO omnilink.projection_offsets (projection, log_partition, next, epoch, generation) \
         SELECT $1, p, 0, 0, COALESCE((SELECT max(generation) FROM omnilink.projection_offsets WHERE projection = $1), 1) \
         FROM generate_series(0, $2 - 1) p ON CONFLICT DO NOTHING",
    )
    .bind(PROJECTION)
    .bind(partitions as i32)
    .execute(&mut *transaction)
    .await?;
    transaction.commit().await?;
    Ok(connection)
}

/// Deletes the offsets of the rebuild itself.
async fn delete_offsets(connection: &mut PgConnection) -> Result<(), ProjectionError> {
    sqlx::query("DELETE FROM omnilink.projection_offsets WHERE projection = $1")
        .bind(REBUILD)
        .execute(connection)
        .await?;
    Ok(())
}

/// The offsets up to which the partitions are loaded: those of the running projector. If all tables are rebuilt, a log that has lost its
/// end, or a recreated topic, is accepted as it is.
async fn bounds(
    setup: &Setup,
    connection: &mut PgConnection,
    tables: RebuildTables,
) -> Result<BTreeMap<u32, u64>, ProjectionError> {
    if let Some(is) = topic_id(setup)?
        && !tables.are_all()
    {
        let topics = offsets::topics(connection, PROJECTION).await?;
        if let Some(was) = topics.into_iter().find(|was| *was != is) {
            return Err(ProjectionError::AnotherTopic {
                projection: PROJECTION.to_owned(),
                position: 0,
                was,
                is,
            });
        }
    }
    let mut bounds = BTreeMap::new();
    for (partition, owned) in offsets::positions(connection, PROJECTION).await? {
        let end = setup.log.offset_range(&setup.topic, partition)?.end;
        if owned.next > end && !tables.are_all() {
            return Err(ProjectionError::AheadOfLog {
                projection: PROJECTION.to_owned(),
                topic: setup.topic.to_string(),
                partition,
                position: owned.next,
                end,
            });
        }
        bounds.insert(partition, owned.next.min(end));
    }
    Ok(bounds)
}

/// The id of the topic that the tables are rebuilt from; `None` if the log has no topic ids.
fn topic_id(setup: &Setup) -> Result<Option<String>, LogError> {
    let described = setup.log.describe(&setup.topic)?;
    Ok(described.and_then(|d| d.id).map(|id| id.to_string()))
}

/// Step 3. If it fails, nothing has changed, and it may be retried.
fn swap(
    setup: &Setup,
    connection: &mut PgConnection,
    tables: RebuildTables,
    loader: &mut Loader<'_>,
) -> Result<(), ProjectionError> {
    let runtime = &setup.runtime;
    let mut transaction = runtime.block_on(connection.begin())?;
    let swapped = swap_in_transaction(setup, &mut transaction, tables, loader);
    // Roll back at once, so that nobody waits for our locks until the next attempt.
    runtime.block_on(async {
        match swapped {
            Ok(()) => transaction.commit().await?,
            Err(_) => transaction.rollback().await?,
        }
        swapped
    })
}

fn swap_in_transaction(
    setup: &Setup,
    transaction: &mut PgConnection,
    tables: RebuildTables,
    loader: &mut Loader<'_>,
) -> Result<(), ProjectionError> {
    let runtime = &setup.runtime;
    runtime.block_on(
        sqlx::query("SELECT FROM omnilink.projection_offsets WHERE projection = $1 FOR UPDATE")
            .bind(PROJECTION)
            .execute(&mut *transaction),
    )?;
    // The rows are locked now, so the offsets no longer change.
    let bounds = runtime.block_on(bounds(setup, transaction, tables))?;
    let topic = topic_id(setup)?;
    loader.load_up_to(&bounds)?;
    runtime.block_on(async {
        tables.swap(transaction).await?;
        for (partition, next) in &bounds {
            sqlx::query(
                "UPDATE omnilink.projection_offsets SET next = $3, generation = generation + 1, topic_id = COALESCE($4, topic_id) \
                 WHERE projection = $1 AND log_partition = $2",
            )
            .bind(PROJECTION)
            .bind(*partition as i32)
            .bind(*next as i64)
            .bind(topic.as_deref())
            .execute(&mut *transaction)
            .await?;
        }
        delete_offsets(transaction).await
    })
}
