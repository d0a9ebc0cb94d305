//! The thread that follows the topic `plans`. It also does what is off the path of goals: it loads the model of the embeddings, embeds new
//! templates, keeps the index outside the process up to date, and lets the topic forget what has expired.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use tokio::runtime::Handle;

use super::{
    Planner,
    qdrant::{Point, Qdrant, QdrantError},
};
use crate::{
    base::{backoff, threads},
    log::{Append, Fetched, FollowedTopic, Log, LogError, Record, topics::Names},
};

/// Longest wait of a poll for records.
const POLL_WAIT: Duration = Duration::from_millis(100);
/// Pause before a failed reader is replaced.
const PAUSE: Duration = Duration::from_millis(500);
/// How often a model that is missing is looked for.
const MODEL_EVERY: Duration = Duration::from_secs(30);
/// How often expired entries are forgotten, and how often the length of the topic is compared with what was read of it.
const UPKEEP_EVERY: Duration = Duration::from_mins(1);
/// The number of templates that are embedded, and of entries that are indexed, at a time.
const BATCH: usize = 64;

/// The running thread. Dropping it stops it.
pub struct Following {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Following {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            threads::join(thread);
        }
    }
}

struct Follower {
    planner: Planner,
    log: Arc<dyn Log>,
    topic: Arc<str>,
    followed: FollowedTopic,
    runtime: Handle,
    stop: Arc<AtomicBool>,
    /// The next offset of each partition.
    positions: Vec<u64>,
    model_looked_for: Option<Instant>,
    upkeep: Instant,
}

pub(super) fn start(planner: Planner, log: &Arc<dyn Log>, names: &Names) -> io::Result<Following> {
    let stop = Arc::new(AtomicBool::new(false));
    let mut follower = Follower {
        planner,
        log: Arc::clone(log),
        topic: Arc::clone(&names.plans),
        followed: FollowedTopic::new("plans", &names.plans),
        runtime: Handle::current(),
        stop: Arc::clone(&stop),
        positions: Vec::new(),
        model_looked_for: None,
        upkeep: Instant::now(),
    };
    let thread = std::thread::Builder::new()
        .name("plans".into())
        .spawn(move || follower.run())?;
    Ok(Following {
        stop,
        thread: Some(thread),
    })
}

impl Follower {
    fn stopping(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn run(&mut self) {
        while !self.stopping() {
            let result = self.follow();
            let unread = &self.planner.0.unread;
            *unread.lock() = result
                .as_ref()
                .err()
                .map(|error| format!("`plans` cannot be read: {error}"));
            if let Err(error) = result {
                tracing::warn!(%error, "`plans` cannot be read; trying again");
                let stop = Arc::clone(&self.stop);
                backoff::sleep(PAUSE, || stop.load(Ordering::Relaxed));
            }
        }
    }

    /// Reads from the node's positions on, until an error or the stop, or until all that was read is forgotten.
    fn follow(&mut self) -> Result<(), LogError> {
        let partitions = self.log.partitions(&self.topic)?;
        self.positions.resize(partitions as usize, 0);
        if self.is_recreated()? || self.is_shorter()? {
            self.start_over();
        }
        let mut reader = self.log.reader(&self.topic)?;
        let mut ends = Vec::new();
        for partition in 0..partitions {
            reader.assign(partition, self.positions[partition as usize])?;
            ends.push(self.log.offset_range(&self.topic, partition)?.end);
        }
        let mut records = Vec::new();
        let mut complete = false;
        while !self.stopping() {
            if self.is_recreated()? {
                self.start_over();
                return Ok(());
            }
            reader.poll(POLL_WAIT, &mut records)?;
            let inner = &self.planner.0;
            let catalog = inner.catalog.get();
            for Fetched {
                partition,
                offset,
                record,
                ..
            } in records.drain(..)
            {
                if let Some(position) = self.positions.get_mut(partition as usize) {
                    *position = offset + 1;
                }
                let Some(key) = &record.key else {
                    continue;
                };
                inner
                    .table
                    .apply(key, record.value.as_deref(), &catalog, &inner.bounds);
            }
            if !complete {
                let read = |partition: u32| {
                    self.positions[partition as usize] >= ends[partition as usize]
                        || reader.at_end(partition)
                };
                complete = (0..partitions).all(read);
                if complete {
                    inner.table.set_read();
                    *inner.unread.lock() = None;
                }
            }
            self.embed();
            if complete {
                self.index();
            }
            if self.upkeep.elapsed() >= UPKEEP_EVERY {
                self.upkeep = Instant::now();
                if self.is_shorter()? {
                    self.start_over();
                    return Ok(());
                }
                self.forget_expired();
            }
        }
        Ok(())
    }

    fn is_recreated(&mut self) -> Result<bool, LogError> {
        self.followed.is_recreated(&*self.log)
    }

    /// Whether the topic is shorter than what was read of it.
    fn is_shorter(&self) -> Result<bool, LogError> {
        for (partition, position) in (0..).zip(&self.positions) {
            let end = self.log.offset_range(&self.topic, partition)?.end;
            if end < *position {
                tracing::error!(
                    end,
                    read = position,
                    "`plans` is shorter than what was read of it: it was recreated or truncated, and is read from its start"
                );
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Forgets all that was read.
    fn start_over(&mut self) {
        let inner = &self.planner.0;
        inner.table.reset(inner.plans.threshold);
        self.positions.fill(0);
    }

    /// Loads the model, and embeds templates that have no vector yet.
    fn embed(&mut self) {
        let inner = &self.planner.0;
        if inner.vectors.missing().is_some() {
            let looked_for = self.model_looked_for;
            if looked_for.is_some_and(|at| at.elapsed() < MODEL_EVERY) {
                return;
            }
            self.model_looked_for = Some(Instant::now());
            if !inner.vectors.load() {
                return;
            }
            tracing::info!("the model of the embeddings is loaded");
            let catalog = inner.catalog.get();
            // Otherwise the first goal does it.
            let _ = self
                .runtime
                .block_on(inner.examples.embedded(&catalog, &inner.vectors));
        }
        let entries = inner.table.take_without_vector(BATCH);
        if entries.is_empty() {
            return;
        }
        let texts: Vec<&str> = entries.iter().map(|(_, text)| text.as_str()).collect();
        match self.runtime.block_on(inner.vectors.of(&texts)) {
            Ok(vectors) => inner.table.set_vectors(entries, &vectors),
            Err(error) => {
                tracing::debug!(%error, "templates of cached plans were not embedded; trying again");
                inner.table.put_back(entries);
            }
        }
    }

    /// Brings the index outside the process up to date.
    fn index(&self) {
        let inner = &self.planner.0;
        let Some(qdrant) = &inner.qdrant else {
            return;
        };
        if !qdrant.is_complete() {
            if self.runtime.block_on(qdrant.ensure()).is_err() {
                // Its status says why.
                return;
            }
            inner.table.index_all();
        }
        loop {
            let changes = inner.table.take_unindexed(BATCH);
            let done = changes.entries.is_empty() && changes.removed.is_empty();
            let written = self.runtime.block_on(async {
                let points = changes
                    .entries
                    .iter()
                    .map(|((tenant, entry), vector)| Point {
                        tenant,
                        entry,
                        vector,
                    });
                qdrant.remove(&changes.removed).await?;
                qdrant.write(&points.collect::<Vec<_>>()).await
            });
            match written {
                Ok(()) if done => {
                    if !qdrant.is_complete() {
                        let known =
                            |tenant: &str, entry: &str| inner.table.cache().knows(tenant, entry);
                        // Entries that this node reads later are written later.
                        if let Err(error) = self.runtime.block_on(qdrant.sweep(known)) {
                            return report(qdrant, &error);
                        }
                    }
                    qdrant.set_complete();
                    return;
                }
                Ok(()) if self.stopping() => return,
                Ok(()) => {}
                // It is not complete any more, and everything is written again.
                Err(error) => return report(qdrant, &error),
            }
        }
    }

    /// Lets the topic forget what has expired long ago. Several nodes may do so at the same time.
    fn forget_expired(&self) {
        let inner = &self.planner.0;
        let expired = inner.table.expire(inner.clock.now());
        if expired.is_empty() {
            return;
        }
        let appends = expired.into_iter().map(|key| Append {
            topic: Arc::clone(&self.topic),
            record: Record {
                key: Some(key.into()),
                value: None,
                headers: Vec::new(),
            },
        });
        // If it fails, the next node that reads them from the topic does it.
        drop(self.log.append(appends.collect(), None));
    }
}

fn report(qdrant: &Qdrant, error: &QdrantError) {
    tracing::debug!(%error, trouble = qdrant.trouble(), "cached plans were not indexed; trying again");
}
