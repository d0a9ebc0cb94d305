//! Tables made anew from the log, beside the old ones, and swapped in one transaction.
//!
//! ```text
//!   1. new partitions beside the tables, filled from the log's first offset up to where the running projector is
//!   2. again, until little is missing
//!   3. one transaction: lock the projector's positions ─► fill in the rest, up to exactly these
//!      ─► take the old partitions off the tables, put the new ones on ─► generation + 1 ─► commit
//! ```
//!
//! The tables themselves stay: with them their grants, policies and the views on them. Readers wait for the moments of step
//! 3; the projector waits at its positions, finds another generation there, and begins anew with the new tables. Only a
//! reader's transaction of isolation level `REPEATABLE READ` that began before the swap, and reads a table for the first time
//! after it, sees fewer rows: the new ones were written after its snapshot.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use sqlx::{AssertSqlSafe, Connection, PgConnection};

use super::{
    error::ProjectionError,
    lane::Setup,
    link::{DEADLINE, Link, Stop},
    offsets,
    pipeline::Pipeline,
    reject::LeaveOut,
    target::{PROJECTION, REBUILD, Target},
};
use crate::{
    log::{LogError, Reader},
    store::{
        Session, StoreError,
        months::{self, MonthlyTable},
    },
    stream::lane::Backoff,
};

/// One rebuild of a database at a time: `omnirebu` in ASCII.
const LOCK: i64 = 0x6f6d_6e69_7265_6275;
/// So few records missing are filled in while the projector waits.
const FEW: u64 = 20_000;
/// After so many rounds the rest is filled in whatever its size.
const ROUNDS: u32 = 20;
/// The log is silent for so long: it does not have what it must have.
const SILENCE: Duration = Duration::from_secs(30);
/// How often the swap is tried while readers hold the tables.
const TRIES: u32 = 60;
const MEMORY: usize = 32 << 20;
const BACKOFF: Backoff = Backoff {
    first: Duration::from_millis(50),
    max: Duration::from_secs(2),
};

/// `events` beside the live one.
const EVENTS: MonthlyTable = MonthlyTable {
    table: "events_rebuild",
    column: "received_at",
    checked: true,
};
const ENTITIES: &str = "entities_rebuild";

/// Which tables are made anew.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct What {
    /// `omnilink.events`.
    pub events: bool,
    /// `omnilink.entities`.
    pub entities: bool,
}

/// What a rebuild did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rebuilt {
    /// Records read.
    pub records: u64,
    /// How long the projector stood still for the swap.
    pub paused: Duration,
}

/// Makes tables anew from the log and swaps them; returns after the swap. Blocks: for a thread, or `spawn_blocking`.
///
/// `progress` is told (done, total) in records. Works beside running projectors of any node. What an interrupted rebuild left
/// is removed by the next.
pub fn rebuild(
    setup: &Setup,
    what: What,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Rebuilt, ProjectionError> {
    let mut guard = setup.runtime.block_on(prepare(setup, what))?;
    let target = Target::of(
        REBUILD,
        what.events.then_some(EVENTS),
        what.entities.then_some(ENTITIES),
    );
    let mut feed = Feed::new(setup, target, progress)?;
    let mut missing = u64::MAX;
    for _ in 0..ROUNDS {
        let bounds = setup.runtime.block_on(bounds(setup, &mut guard, what))?;
        missing = feed.missing(&bounds);
        if missing <= FEW {
            break;
        }
        feed.up_to(&bounds)?;
    }
    tracing::info!(missing, "rebuilt up to the running projector: swapping");
    setup.runtime.block_on(analyze(&mut guard, what))?;
    let mut attempt = 0;
    loop {
        let began = Instant::now();
        match swap(setup, &mut guard, what, &mut feed) {
            Ok(()) => {
                return Ok(Rebuilt {
                    records: feed.done(),
                    paused: began.elapsed(),
                });
            }
            // Readers hold the tables, or the projector its positions.
            Err(ProjectionError::Store(e))
                if e.sqlstate().as_deref() == Some("55P03") && attempt < TRIES =>
            {
                std::thread::sleep(BACKOFF.pause(attempt));
                attempt += 1;
            }
            Err(error) => return Err(error),
        }
    }
}

/// Takes the lock, removes what an earlier rebuild left, and makes the empty tables.
async fn prepare(setup: &Setup, what: What) -> Result<PgConnection, ProjectionError> {
    let mut guard = setup.store.connect(Session::Maintenance).await?;
    let alone = sqlx::query_scalar::<_, bool>("SELECT pg_try_advisory_lock($1)")
        .bind(LOCK)
        .fetch_one(&mut guard)
        .await?;
    if !alone {
        return Err(ProjectionError::RebuildRuns);
    }
    let mut transaction = guard.begin().await?;
    let events = EVENTS.table;
    let mut sql = vec![
        format!("DROP TABLE IF EXISTS omnilink.{events}, omnilink.{ENTITIES}"),
        format!("DELETE FROM omnilink.projection_offsets WHERE projection = '{REBUILD}'"),
    ];
    if what.events {
        sql.extend([
            format!(
                "CREATE TABLE omnilink.{events} (LIKE omnilink.events INCLUDING ALL) \
                 PARTITION BY RANGE (received_at)"
            ),
            format!("ALTER TABLE omnilink.{events} ENABLE ROW LEVEL SECURITY"),
            format!(
                "CREATE TABLE omnilink.{events}_default PARTITION OF omnilink.{events} DEFAULT"
            ),
            format!("ALTER TABLE omnilink.{events}_default ENABLE ROW LEVEL SECURITY"),
        ]);
    }
    if what.entities {
        sql.extend([
            format!(
                "CREATE TABLE omnilink.{ENTITIES} (LIKE omnilink.entities INCLUDING ALL) \
                 WITH (fillfactor = 70)"
            ),
            format!("ALTER TABLE omnilink.{ENTITIES} ENABLE ROW LEVEL SECURITY"),
        ]);
    }
    run(&mut transaction, &sql).await?;
    // Each partition has a position that the swap can lock, even if no projector has met it yet.
    let partitions = partitions(setup)?;
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
    Ok(guard)
}

/// Several statements in one round trip.
async fn run(connection: &mut PgConnection, statements: &[String]) -> Result<(), StoreError> {
    sqlx::raw_sql(AssertSqlSafe(statements.join("; ")))
        .execute(connection)
        .await?;
    Ok(())
}

fn partitions(setup: &Setup) -> Result<u32, LogError> {
    setup.log.partitions(&setup.topic)
}

/// Up to where each partition is to be rebuilt: where the projector is. A log that has lost its end is taken as it is,
/// when all tables are made anew.
async fn bounds(
    setup: &Setup,
    connection: &mut PgConnection,
    what: What,
) -> Result<BTreeMap<u32, u64>, ProjectionError> {
    if let Some(is) = topic_id(setup)?
        && !(what.events && what.entities)
    {
        let of = offsets::topics(connection, PROJECTION).await?;
        if let Some(was) = of.into_iter().find(|was| *was != is) {
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
        let end = end(setup, partition)?;
        if owned.next > end && !(what.events && what.entities) {
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

/// Which topic the tables are made from; `None`: the log cannot tell.
fn topic_id(setup: &Setup) -> Result<Option<String>, LogError> {
    let described = setup.log.describe(&setup.topic)?;
    Ok(described.and_then(|d| d.id).map(|id| id.to_string()))
}

fn end(setup: &Setup, partition: u32) -> Result<u64, LogError> {
    Ok(setup.log.offset_range(&setup.topic, partition)?.end)
}

/// Statistics for the new tables, before readers meet them.
async fn analyze(connection: &mut PgConnection, what: What) -> Result<(), ProjectionError> {
    if what.events {
        for month in months::existing(connection, EVENTS.table).await? {
            let sql = format!("ANALYZE omnilink.{}", month.partition(EVENTS.table));
            run(connection, &[sql]).await?;
        }
    }
    if what.entities {
        run(connection, &[format!("ANALYZE omnilink.{ENTITIES}")]).await?;
    }
    Ok(())
}

/// Step 3. Should it fail, nothing has changed, and it may be tried again.
fn swap(
    setup: &Setup,
    guard: &mut PgConnection,
    what: What,
    feed: &mut Feed<'_>,
) -> Result<(), ProjectionError> {
    let runtime = &setup.runtime;
    let mut transaction = runtime.block_on(guard.begin())?;
    let swapped = swap_within(setup, &mut transaction, what, feed);
    // Whoever waits for our locks must not wait for the next try.
    runtime.block_on(async {
        match swapped {
            Ok(()) => transaction.commit().await?,
            Err(_) => transaction.rollback().await?,
        }
        swapped
    })
}

fn swap_within(
    setup: &Setup,
    transaction: &mut PgConnection,
    what: What,
    feed: &mut Feed<'_>,
) -> Result<(), ProjectionError> {
    let runtime = &setup.runtime;
    runtime.block_on(
        sqlx::query("SELECT FROM omnilink.projection_offsets WHERE projection = $1 FOR UPDATE")
            .bind(PROJECTION)
            .execute(&mut *transaction),
    )?;
    // Nobody moves them now.
    let bounds = runtime.block_on(bounds(setup, transaction, what))?;
    let topic = topic_id(setup)?;
    feed.up_to(&bounds)?;
    runtime.block_on(async {
        if what.events {
            swap_events(transaction).await?;
        }
        if what.entities {
            swap_entities(transaction).await?;
        }
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
        sqlx::query("DELETE FROM omnilink.projection_offsets WHERE projection = $1")
            .bind(REBUILD)
            .execute(&mut *transaction)
            .await?;
        Ok(())
    })
}

async fn swap_events(transaction: &mut PgConnection) -> Result<(), StoreError> {
    let live = months::EVENTS.table;
    let new = EVENTS.table;
    let mut sql = vec![format!(
        "LOCK TABLE omnilink.{live} IN ACCESS EXCLUSIVE MODE"
    )];
    for old in partitions_of(transaction, live).await? {
        sql.push(format!(
            "ALTER TABLE omnilink.{live} DETACH PARTITION omnilink.{old}"
        ));
        sql.push(format!("DROP TABLE omnilink.{old}"));
    }
    for month in months::existing(transaction, new).await? {
        let (from, to) = (month.partition(new), month.partition(live));
        let (values, check) = (month.for_values(), months::CHECK);
        // The check says what the bounds say, so that nothing is read to attach it.
        sql.extend([
            format!("ALTER TABLE omnilink.{new} DETACH PARTITION omnilink.{from}"),
            format!("ALTER TABLE omnilink.{from} RENAME TO {to}"),
            format!("ALTER TABLE omnilink.{live} ATTACH PARTITION omnilink.{to} {values}"),
            format!("ALTER TABLE omnilink.{to} DROP CONSTRAINT {check}"),
        ]);
    }
    sql.extend([
        format!("ALTER TABLE omnilink.{new} DETACH PARTITION omnilink.{new}_default"),
        format!("ALTER TABLE omnilink.{new}_default RENAME TO {live}_default"),
        format!("ALTER TABLE omnilink.{live} ATTACH PARTITION omnilink.{live}_default DEFAULT"),
        format!("DROP TABLE omnilink.{new}"),
    ]);
    run(transaction, &sql).await?;
    rename_indexes(transaction, new, live).await
}

async fn swap_entities(transaction: &mut PgConnection) -> Result<(), StoreError> {
    let mut sql = vec!["LOCK TABLE omnilink.entities IN ACCESS EXCLUSIVE MODE".to_owned()];
    for old in partitions_of(transaction, "entities").await? {
        sql.push(format!(
            "ALTER TABLE omnilink.entities DETACH PARTITION omnilink.{old}"
        ));
        sql.push(format!("DROP TABLE omnilink.{old}"));
    }
    sql.push(format!(
        "ALTER TABLE omnilink.{ENTITIES} RENAME TO entities_all"
    ));
    sql.push(
        "ALTER TABLE omnilink.entities ATTACH PARTITION omnilink.entities_all \
         FOR VALUES FROM (MINVALUE) TO (MAXVALUE)"
            .to_owned(),
    );
    run(transaction, &sql).await?;
    rename_indexes(transaction, ENTITIES, "entities_all").await
}

/// The partitions of a table, quoted.
async fn partitions_of(
    connection: &mut PgConnection,
    table: &str,
) -> Result<Vec<String>, StoreError> {
    let names = sqlx::query_scalar::<_, String>(
        "SELECT quote_ident(c.relname) FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid \
         WHERE i.inhparent = to_regclass('omnilink.' || $1) ORDER BY c.relname",
    )
    .bind(table)
    .fetch_all(connection)
    .await?;
    Ok(names)
}

/// Indexes keep the names of the tables that they were made for; the next rebuild needs those.
async fn rename_indexes(
    connection: &mut PgConnection,
    from: &str,
    to: &str,
) -> Result<(), StoreError> {
    let renames = sqlx::query_scalar::<_, String>(
        "SELECT format('ALTER INDEX omnilink.%I RENAME TO %I', c.relname, $2 || substr(c.relname, length($1) + 1)) \
         FROM pg_class c WHERE c.relnamespace = 'omnilink'::regnamespace AND c.relkind IN ('i', 'I') \
           AND starts_with(c.relname, $1) \
           AND to_regclass(format('omnilink.%I', $2 || substr(c.relname, length($1) + 1))) IS NULL",
    )
    .bind(from)
    .bind(to)
    .fetch_all(&mut *connection)
    .await?;
    for rename in renames {
        sqlx::raw_sql(AssertSqlSafe(rename))
            .execute(&mut *connection)
            .await?;
    }
    Ok(())
}

/// Reads the log into the new tables.
struct Feed<'a> {
    setup: &'a Setup,
    pipeline: Pipeline,
    reader: Box<dyn Reader>,
    /// The first offset of each partition, and the next to be read.
    starts: BTreeMap<u32, u64>,
    at: BTreeMap<u32, u64>,
    progress: &'a mut dyn FnMut(u64, u64),
}

impl<'a> Feed<'a> {
    fn new(
        setup: &'a Setup,
        target: Target,
        progress: &'a mut dyn FnMut(u64, u64),
    ) -> Result<Self, ProjectionError> {
        let mut at = BTreeMap::new();
        let mut all = 0;
        for partition in 0..partitions(setup)? {
            let marks = setup.log.offset_range(&setup.topic, partition)?;
            at.insert(partition, marks.start);
            all += marks.end - marks.start;
        }
        let mut pipeline = Pipeline::new(
            Link {
                calls: None,
                runtime: setup.runtime.clone(),
                store: setup.store.clone(),
                stop: Stop::default(),
            },
            target,
            Arc::clone(&setup.clock),
            Arc::new(LeaveOut),
            MEMORY,
            Box::new(|_, _| {}),
        );
        pipeline.take(at.keys().copied(), None)?;
        pipeline.start_fresh(all);
        Ok(Self {
            setup,
            pipeline,
            reader: setup.log.reader(&setup.topic)?,
            starts: at.clone(),
            at,
            progress,
        })
    }

    /// How many records were read.
    fn done(&self) -> u64 {
        let done = |(partition, at): (&u32, &u64)| at - self.starts.get(partition).unwrap_or(at);
        self.at.iter().map(done).sum()
    }

    /// How many records are missing.
    fn missing(&self, bounds: &BTreeMap<u32, u64>) -> u64 {
        let missing = |(partition, at): (&u32, &u64)| {
            bounds.get(partition).map_or(0, |b| b.saturating_sub(*at))
        };
        self.at.iter().map(missing).sum()
    }

    /// Fills in all records before the bounds, and commits them.
    fn up_to(&mut self, bounds: &BTreeMap<u32, u64>) -> Result<(), ProjectionError> {
        let bound = |partition: &u32| bounds.get(partition).copied().unwrap_or(0);
        for (partition, at) in &self.at {
            if *at < bound(partition) {
                self.reader.assign(*partition, *at)?;
            }
        }
        let mut last = Instant::now();
        while self.missing(bounds) > 0 {
            let mut records = Vec::new();
            self.reader.poll(Duration::from_millis(200), &mut records)?;
            records.retain(|r| {
                let Some(at) = self.at.get_mut(&r.partition) else {
                    return false;
                };
                let due = r.offset >= *at && r.offset < bound(&r.partition);
                if due {
                    *at = r.offset + 1;
                }
                due
            });
            if records.is_empty() {
                self.silent_since(last, bounds)?;
                continue;
            }
            last = Instant::now();
            match self
                .pipeline
                .add(records)
                .and_then(|()| self.pipeline.push(true))
            {
                // Rejected once, it is refused again: it is found, and left out.
                Err(ProjectionError::Row(_)) => self.again()?,
                other => other?,
            }
            let missing = self.missing(bounds);
            let done = self.done();
            (self.progress)(done, done + missing);
        }
        match self.pipeline.flush(DEADLINE) {
            Err(ProjectionError::Row(_)) => {
                self.again()?;
                self.up_to(bounds)
            }
            other => other,
        }
    }

    /// Begins again where the new tables are.
    fn again(&mut self) -> Result<(), ProjectionError> {
        let partitions: Vec<u32> = self.at.keys().copied().collect();
        self.pipeline.take(partitions, None)?;
        for (partition, next) in self.pipeline.owned() {
            let start = self.starts.get(&partition).copied().unwrap_or(0);
            self.at.insert(partition, next.max(start));
            self.reader.assign(partition, next.max(start))?;
        }
        Ok(())
    }

    fn silent_since(
        &self,
        last: Instant,
        bounds: &BTreeMap<u32, u64>,
    ) -> Result<(), ProjectionError> {
        let behind = self
            .at
            .iter()
            .find(|(p, at)| bounds.get(p).is_some_and(|b| *at < b));
        match behind {
            Some((partition, offset)) if last.elapsed() > SILENCE => Err(ProjectionError::Silent {
                topic: self.setup.topic.to_string(),
                partition: *partition,
                offset: *offset,
                waited_s: SILENCE.as_secs(),
            }),
            _ => Ok(()),
        }
    }
}
