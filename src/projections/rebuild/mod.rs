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
    sync::Arc,
    time::{Duration, Instant},
};

use sqlx::{Connection, PgConnection};

pub use self::tables::RebuildTables;
use self::{
    loader::{Loader, link},
    tables::{
        AUDIT_TABLES, ENTITIES, EVENTS, NewTables, ODOO_TABLES, RUN_TABLES, SUFFIX, TASK_TABLES,
    },
};
use super::{
    audit::AuditRows,
    batches::{Batches, Rows},
    error::ProjectionError,
    lane::Setup,
    odoo::OdooRows,
    offsets,
    pipe::Pipe,
    pipeline::Pipeline,
    reject::SkipRejected,
    runs::RunRows,
    target::{
        AUDIT, AUDIT_REBUILD, ODOO, ODOO_DLQ, ODOO_DLQ_REBUILD, ODOO_INGRESS, ODOO_INGRESS_REBUILD,
        ODOO_REBUILD, PROJECTION, REBUILD, RUNS, RUNS_REBUILD, TASKS, TASKS_REBUILD, Target,
    },
    tasks::TaskRows,
};
use crate::{base::backoff::Backoff, log::LogError, store::Session};

/// The key of the advisory lock that allows one rebuild of a database at a time: `omnirebu` in ASCII.
const LOCK: i64 = 0x6f6d_6e69_7265_6275;
/// How long a rebuild waits for the lock, and how often it tries.
const LOCK_WAIT: Duration = Duration::from_secs(2);
const LOCK_RETRY: Duration = Duration::from_millis(50);
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

/// The size of the entity cache, in bytes.
const MEMORY: usize = 32 << 20;

/// A projection whose tables are filled anew.
struct Part {
    /// Its name in `projection_offsets`.
    live: &'static str,
    /// The name of the rebuild there.
    rebuild: &'static str,
    /// The topic that it reads.
    topic: Arc<str>,
}

/// One rebuild: tables, and the projections that write them.
struct Job<'a> {
    setup: &'a Setup,
    tables: NewTables,
    parts: Vec<Part>,
    /// What loads each part.
    loaders: Vec<Loader>,
    progress: &'a mut dyn FnMut(u64, u64),
}

/// The exclusive end offsets of each part, by partition.
type Bounds = Vec<BTreeMap<u32, u64>>;

/// Rebuilds `events`, `entities`, or both from the log, and returns after they were swapped in. Blocks: call it on a thread, or with
/// `spawn_blocking`.
///
/// `progress` is called with (done, total) in records. Projectors of any node may keep running. If a rebuild is interrupted, the live
/// tables are unchanged, and the next rebuild removes what it left behind.
pub fn rebuild(
    setup: &Setup,
    tables: RebuildTables,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Rebuilt, ProjectionError> {
    let part = Part {
        live: PROJECTION,
        rebuild: REBUILD,
        topic: Arc::clone(&setup.topic),
    };
    let target = Target::of(
        REBUILD,
        tables.events.then_some(EVENTS),
        tables.entities.then_some(ENTITIES),
    );
    let pipe = |records| -> Box<dyn Pipe> {
        let mut pipeline = Pipeline::new(
            link(setup),
            target,
            Arc::clone(&setup.clock),
            Arc::new(SkipRejected),
            MEMORY,
            Box::new(|_, _| {}),
        );
        pipeline.assume_empty_tables(records);
        Box::new(pipeline)
    };
    let mut job = Job::new(setup, NewTables::OfEvents(tables), vec![part], progress);
    let connection = job.prepare()?;
    let loader = Loader::new(setup, &setup.topic, pipe)?;
    job.loaders.push(loader);
    job.run(connection)
}

/// As [`rebuild`], for `audit_log` and `rejections`; `setup` names the topic `audit`.
pub fn rebuild_audit(
    setup: &Setup,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Rebuilt, ProjectionError> {
    let part = Part {
        live: AUDIT,
        rebuild: AUDIT_REBUILD,
        topic: Arc::clone(&setup.topic),
    };
    let tables = NewTables::Whole(AUDIT_TABLES);
    let mut job = Job::new(setup, tables, vec![part], progress);
    let connection = job.prepare()?;
    job.load(AuditRows::of(SUFFIX))?;
    job.run(connection)
}

/// As [`rebuild`], for `runs`, `run_steps`, `run_history` and `approvals`; `setup` names the topic `runs`.
pub fn rebuild_runs(
    setup: &Setup,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Rebuilt, ProjectionError> {
    let part = Part {
        live: RUNS,
        rebuild: RUNS_REBUILD,
        topic: Arc::clone(&setup.topic),
    };
    let tables = NewTables::Whole(RUN_TABLES);
    let mut job = Job::new(setup, tables, vec![part], progress);
    let connection = job.prepare()?;
    job.load(RunRows::of(SUFFIX))?;
    job.run(connection)
}

/// As [`rebuild`], for `tasks`; `setup` names the topic `steps`. The new table has no leases: they have lapsed.
pub fn rebuild_tasks(
    setup: &Setup,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Rebuilt, ProjectionError> {
    let part = Part {
        live: TASKS,
        rebuild: TASKS_REBUILD,
        topic: Arc::clone(&setup.topic),
    };
    let tables = NewTables::Whole(TASK_TABLES);
    let mut job = Job::new(setup, tables, vec![part], progress);
    let connection = job.prepare()?;
    job.load(TaskRows::of(SUFFIX))?;
    job.run(connection)
}

/// As [`rebuild`], for `odoo.webhook_events`; `setup` names the topics `events` and `dlq`, and `ingress` is the third.
pub fn rebuild_odoo(
    setup: &Setup,
    ingress: &Arc<str>,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Rebuilt, ProjectionError> {
    let parts = vec![
        Part {
            live: ODOO,
            rebuild: ODOO_REBUILD,
            topic: Arc::clone(&setup.topic),
        },
        Part {
            live: ODOO_DLQ,
            rebuild: ODOO_DLQ_REBUILD,
            topic: Arc::clone(&setup.dlq),
        },
        Part {
            live: ODOO_INGRESS,
            rebuild: ODOO_INGRESS_REBUILD,
            topic: Arc::clone(ingress),
        },
    ];
    let mut job = Job::new(setup, NewTables::Whole(ODOO_TABLES), parts, progress);
    let connection = job.prepare()?;
    job.load(OdooRows::completed(SUFFIX))?;
    job.load(OdooRows::failed(SUFFIX))?;
    job.load(OdooRows::pending(SUFFIX))?;
    job.run(connection)
}

impl<'a> Job<'a> {
    fn new(
        setup: &'a Setup,
        tables: NewTables,
        parts: Vec<Part>,
        progress: &'a mut dyn FnMut(u64, u64),
    ) -> Self {
        Self {
            setup,
            tables,
            parts,
            loaders: Vec::new(),
            progress,
        }
    }

    /// Takes the advisory lock, which the returned connection holds, removes what an earlier rebuild left behind, and creates the new
    /// tables.
    fn prepare(&self) -> Result<PgConnection, ProjectionError> {
        self.setup.runtime.block_on(self.preparing())
    }

    /// Adds the loader of the next part.
    fn load(&mut self, rows: impl Rows) -> Result<(), ProjectionError> {
        let part = &self.parts[self.loaders.len()];
        let (setup, rebuild) = (self.setup, part.rebuild);
        let reject = Arc::new(SkipRejected);
        let pipe = |_| -> Box<dyn Pipe> {
            let on_commit = Box::new(|_: &_| {});
            Box::new(Batches::new(link(setup), rebuild, rows, reject, on_commit))
        };
        self.loaders.push(Loader::new(setup, &part.topic, pipe)?);
        Ok(())
    }

    fn run(mut self, mut connection: PgConnection) -> Result<Rebuilt, ProjectionError> {
        let runtime = &self.setup.runtime;
        let mut missing = u64::MAX;
        for _ in 0..MAX_ROUNDS {
            let bounds = runtime.block_on(self.bounds(&mut connection))?;
            missing = self.missing(&bounds);
            if missing <= SWAP_RECORDS {
                break;
            }
            self.load_up_to(&bounds)?;
        }
        tracing::info!(
            missing,
            "the new tables have caught up with the running projector: swapping"
        );
        runtime.block_on(self.tables.analyze(&mut connection))?;
        let mut attempt = 0;
        loop {
            let started_at = Instant::now();
            match self.swap(&mut connection) {
                Ok(()) => {
                    return Ok(Rebuilt {
                        records: self.loaders.iter().map(Loader::done).sum(),
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

    async fn preparing(&self) -> Result<PgConnection, ProjectionError> {
        let setup = self.setup;
        let mut connection = setup.store.connect(Session::Maintenance).await?;
        // The session of a rebuild that has just ended may still hold the lock for a moment.
        let until = Instant::now() + LOCK_WAIT;
        while !sqlx::query_scalar::<_, bool>("SELECT pg_try_advisory_lock($1)")
            .bind(LOCK)
            .fetch_one(&mut connection)
            .await?
        {
            if Instant::now() > until {
                return Err(ProjectionError::RebuildRunning);
            }
            tokio::time::sleep(LOCK_RETRY).await;
        }
        let mut transaction = connection.begin().await?;
        self.tables.create(&mut transaction).await?;
        self.delete_offsets(&mut transaction).await?;
        for part in &self.parts {
            // Every partition needs an offset that the swap can lock, even if no projector has taken the partition yet.
            let partitions = setup.log.partitions(&part.topic)?;
            sqlx::query(
                "INSERT INTO omnilink.projection_offsets (projection, log_partition, next, epoch, generation) \
                 SELECT $1, p, 0, 0, COALESCE((SELECT max(generation) FROM omnilink.projection_offsets WHERE projection = $1), 1) \
                 FROM generate_series(0, $2 - 1) p ON CONFLICT DO NOTHING",
            )
            .bind(part.live)
            .bind(partitions as i32)
            .execute(&mut *transaction)
            .await?;
        }
        transaction.commit().await?;
        Ok(connection)
    }

    /// Deletes the offsets of the rebuild itself.
    async fn delete_offsets(&self, connection: &mut PgConnection) -> Result<(), ProjectionError> {
        for part in &self.parts {
            sqlx::query("DELETE FROM omnilink.projection_offsets WHERE projection = $1")
                .bind(part.rebuild)
                .execute(&mut *connection)
                .await?;
        }
        Ok(())
    }

    /// The number of records before the bounds that were not read yet.
    fn missing(&self, bounds: &Bounds) -> u64 {
        let loaders = self.loaders.iter().zip(bounds);
        loaders.map(|(loader, bounds)| loader.missing(bounds)).sum()
    }

    /// Loads and commits all records before the bounds.
    fn load_up_to(&mut self, bounds: &Bounds) -> Result<(), ProjectionError> {
        for n in 0..self.loaders.len() {
            let others = self.loaders.iter().zip(bounds).enumerate();
            let others = others.filter(|(other, _)| *other != n);
            let (done, missing) = others.fold((0, 0), |(done, missing), (_, (loader, bounds))| {
                (done + loader.done(), missing + loader.missing(bounds))
            });
            let progress = &mut *self.progress;
            self.loaders[n].load_up_to(&bounds[n], &mut |own_done, own_missing| {
                let done = done + own_done;
                progress(done, done + missing + own_missing);
            })?;
        }
        Ok(())
    }

    /// The offsets up to which the partitions are loaded: those of the running projectors. If all their tables are rebuilt, a log that
    /// has lost its end, or a recreated topic, is accepted as it is.
    async fn bounds(&self, connection: &mut PgConnection) -> Result<Bounds, ProjectionError> {
        let mut all = Vec::with_capacity(self.parts.len());
        for part in &self.parts {
            all.push(self.bounds_of(part, connection).await?);
        }
        Ok(all)
    }

    async fn bounds_of(
        &self,
        part: &Part,
        connection: &mut PgConnection,
    ) -> Result<BTreeMap<u32, u64>, ProjectionError> {
        let are_all = self.tables.are_all();
        if let Some(is) = self.topic_id(part)?
            && !are_all
        {
            let topics = offsets::topics(connection, part.live).await?;
            if let Some(was) = topics.into_iter().find(|was| *was != is) {
                return Err(ProjectionError::AnotherTopic {
                    projection: part.live.to_owned(),
                    position: 0,
                    was,
                    is,
                });
            }
        }
        let mut bounds = BTreeMap::new();
        for (partition, owned) in offsets::positions(connection, part.live).await? {
            let end = self.setup.log.offset_range(&part.topic, partition)?.end;
            if owned.next > end && !are_all {
                return Err(ProjectionError::AheadOfLog {
                    projection: part.live.to_owned(),
                    topic: part.topic.to_string(),
                    partition,
                    position: owned.next,
                    end,
                });
            }
            bounds.insert(partition, owned.next.min(end));
        }
        Ok(bounds)
    }

    /// The id of the topic that a part is rebuilt from; `None` if the log has no topic ids.
    fn topic_id(&self, part: &Part) -> Result<Option<String>, LogError> {
        let described = self.setup.log.describe(&part.topic)?;
        Ok(described.and_then(|d| d.id).map(|id| id.to_string()))
    }

    /// Step 3. If it fails, nothing has changed, and it may be retried.
    fn swap(&mut self, connection: &mut PgConnection) -> Result<(), ProjectionError> {
        let runtime = &self.setup.runtime;
        let mut transaction = runtime.block_on(connection.begin())?;
        let swapped = self.swap_in_transaction(&mut transaction);
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
        &mut self,
        transaction: &mut PgConnection,
    ) -> Result<(), ProjectionError> {
        let runtime = &self.setup.runtime;
        for part in &self.parts {
            runtime.block_on(
                sqlx::query(
                    "SELECT FROM omnilink.projection_offsets WHERE projection = $1 FOR UPDATE",
                )
                .bind(part.live)
                .execute(&mut *transaction),
            )?;
        }
        // The rows are locked now, so the offsets no longer change.
        let bounds = runtime.block_on(self.bounds(transaction))?;
        let topics: Vec<Option<String>> = self
            .parts
            .iter()
            .map(|part| self.topic_id(part))
            .collect::<Result<_, _>>()?;
        self.load_up_to(&bounds)?;
        runtime.block_on(async {
            self.tables.swap(transaction).await?;
            for ((part, bounds), topic) in self.parts.iter().zip(&bounds).zip(&topics) {
                for (partition, next) in bounds {
                    sqlx::query(
                        "UPDATE omnilink.projection_offsets SET next = $3, generation = generation + 1, \
                         topic_id = COALESCE($4, topic_id) WHERE projection = $1 AND log_partition = $2",
                    )
                    .bind(part.live)
                    .bind(*partition as i32)
                    .bind(*next as i64)
                    .bind(topic.as_deref())
                    .execute(&mut *transaction)
                    .await?;
                }
            }
            self.delete_offsets(transaction).await
        })
    }
}
