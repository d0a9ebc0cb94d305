//! A lane of the projector: one thread that reads its share of `events` and keeps the tables up with it.
//!
//! ```text
//!              ┌──────── poll ─► add ─► push ────────┐
//!              ▼                                     │ an error
//!   take, seek to the table's position               ▼
//!              ▲                          drop what is not committed
//!              └──── pause, polling on ◄─────────────┘
//! ```
//!
//! While it cannot write it goes on polling, so that it stays in its group, and drops what it gets.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use tokio::runtime::Handle;

use super::{
    assemble::Counts,
    error::ProjectionError,
    link::{Link, Stop},
    offsets::Owned,
    pipeline::Pipeline,
    reject::{DeadLetters, Reject, Rejection},
    target::{PROJECTION, Target},
};
use crate::{
    base::clock::Clock,
    log::{Class, Fetched, Log, LogError, Polled, Source, announce_dropped},
    store::{self, Store},
    stream::{
        lane::{Backoff, JOINING},
        progress::{LaneProgress, Progress},
    },
    telemetry::metrics,
};

/// How long a poll waits when there is nothing to do…
const IDLE: Duration = Duration::from_millis(100);
/// … and when Postgres is at work and records wait for it.
const BUSY: Duration = Duration::from_millis(1);
/// The pause between polls while nothing can be written.
const STALLED: Duration = Duration::from_millis(250);
/// A partition that another owner took is not taken back before this, unless it is assigned again: by then a stopped
/// node has learnt that it lost it.
const SHUN: Duration = Duration::from_secs(15);
/// How long a change of partitions waits for what is in hand.
const SOON: Duration = Duration::from_secs(5);
/// A poll that gives so many records has more where they came from.
const MANY: usize = 100;
const BACKOFF: Backoff = Backoff {
    first: Duration::from_millis(50),
    max: Duration::from_secs(1),
};
/// Entities in memory, of all lanes together.
const MEMORY: usize = 32 << 20;

/// What the projector needs.
#[derive(Clone)]
pub struct Setup {
    /// Postgres, migrated or not: the projector waits until it is.
    pub store: Store,
    /// The log.
    pub log: Arc<dyn Log>,
    /// The whole name of the topic `events`.
    pub topic: Arc<str>,
    /// The whole name of the dead-letter topic.
    pub dlq: Arc<str>,
    /// For partitions ahead of time and dead letters.
    pub clock: Arc<dyn Clock>,
    /// Where SQL runs.
    pub runtime: Handle,
    /// Where the lanes report how they are.
    pub progress: Arc<Progress>,
}

/// A running projector. Dropping it commits what is in hand, within seconds, and stops.
pub struct Projector {
    stop: Stop,
    runtime: Handle,
    lanes: Vec<JoinHandle<()>>,
}

impl Projector {
    /// Starts the projector of `events` and `entities`, with so many lanes: one does for a small machine.
    pub fn start(setup: &Setup, lanes: usize) -> std::io::Result<Self> {
        let reject: Arc<dyn Reject> = Arc::new(DeadLetters {
            log: Arc::clone(&setup.log),
            dlq: Arc::clone(&setup.dlq),
            topic: Arc::clone(&setup.topic),
            stage: PROJECTION,
            clock: Arc::clone(&setup.clock),
            runtime: setup.runtime.clone(),
        });
        Self::start_with(setup, lanes, &reject)
    }

    /// As [`Projector::start`], with another place for records that cannot become rows.
    pub fn start_with(
        setup: &Setup,
        lanes: usize,
        reject: &Arc<dyn Reject>,
    ) -> std::io::Result<Self> {
        let stop = Stop::default();
        let mut projector = Self {
            stop: stop.clone(),
            runtime: setup.runtime.clone(),
            lanes: Vec::new(),
        };
        let lanes = lanes.max(1);
        for n in 0..lanes {
            let lane = Lane::new(
                setup.clone(),
                Arc::clone(reject),
                stop.clone(),
                MEMORY / lanes,
            );
            let thread = std::thread::Builder::new().name(format!("project-{n}"));
            projector.lanes.push(thread.spawn(move || lane.run())?);
        }
        Ok(projector)
    }

    /// Asks it to stop; does not wait.
    pub fn stop(&self) {
        self.stop.ask(&self.runtime);
    }
}

impl Drop for Projector {
    fn drop(&mut self) {
        self.stop();
        for lane in self.lanes.drain(..) {
            // A lane that panicked has said why.
            let _ = lane.join();
        }
    }
}

struct Lane {
    setup: Setup,
    progress: Arc<LaneProgress>,
    stop: Stop,
    pipeline: Pipeline,
    /// The group has given it a share, be it an empty one.
    member: bool,
    /// What the log has given us to read.
    assigned: BTreeSet<u32>,
    /// Of those, what another owner took, and until when we leave it alone.
    shunned: BTreeMap<u32, Instant>,
    /// Nothing can be written now, or the partitions changed: take over again at this time.
    again: Option<Instant>,
    /// Tries without a commit, and the commits before them.
    attempt: u32,
    commits: u64,
    /// Up to where retention has dropped records that were not written yet.
    dropped: BTreeMap<u32, u64>,
}

impl Lane {
    fn new(setup: Setup, reject: Arc<dyn Reject>, stop: Stop, memory: usize) -> Self {
        let progress = Arc::new(setup.progress.lane());
        let (report, topic) = (Arc::clone(&progress), Arc::clone(&setup.topic));
        let written = metrics::PROJECTION_EVENTS.counter(&[]);
        let merged = metrics::PROJECTION_ENTITIES.counter(&[]);
        let commits = metrics::PROJECTION_COMMITS.counter(&[]);
        let delay = metrics::PROJECTION_DELAY.histogram(&[]);
        let clock = Arc::clone(&setup.clock);
        let on_commit = Box::new(move |counts: Counts, positions: &BTreeMap<u32, Owned>| {
            for (partition, at) in positions {
                report.set_position(&topic, *partition, at.next);
            }
            written.increment(counts.events);
            merged.increment(counts.entities);
            commits.increment(1);
            if let Some(oldest) = counts.oldest {
                delay.record((clock.now().0 - oldest.0).max(0) as f64 / 1000.0);
            }
        });
        let counted: Arc<dyn Reject> = Arc::new(Counted {
            to: reject,
            progress: Arc::clone(&progress),
        });
        let pipeline = Pipeline::new(
            Link {
                calls: Some(progress.calls()),
                runtime: setup.runtime.clone(),
                store: setup.store.clone(),
                stop: stop.clone(),
            },
            Target::live(),
            Arc::clone(&setup.clock),
            counted,
            memory,
            on_commit,
        );
        Self {
            setup,
            progress,
            stop,
            pipeline,
            member: false,
            assigned: BTreeSet::new(),
            shunned: BTreeMap::new(),
            again: None,
            attempt: 0,
            commits: 0,
            dropped: BTreeMap::new(),
        }
    }

    fn stopping(&self) -> bool {
        self.stop.is_asked()
    }

    fn run(mut self) {
        while !self.stopping() {
            self.member = false;
            self.progress.starting(JOINING);
            let served = self
                .setup
                .log
                .source(PROJECTION, &self.setup.topic)
                .and_then(|mut source| self.serve(&mut *source));
            let Err(error) = served else { return };
            self.pipeline.reset();
            self.assigned.clear();
            self.stalled(&error.into());
            self.pause();
        }
    }

    /// Runs until asked to stop (`Ok`), or until the source is over.
    fn serve(&mut self, source: &mut dyn Source) -> Result<(), LogError> {
        while !self.stopping() {
            let mut records = Vec::new();
            let wait = if self.pipeline.is_empty() { IDLE } else { BUSY };
            match source.poll(wait.min(self.until_again()), &mut records)? {
                Polled::Records if self.again.is_none() => {
                    if let Err(error) = self.take_in(records) {
                        self.failed(error)?;
                    }
                }
                Polled::Records if records.is_empty() => {}
                Polled::Records => self.hold(source),
                Polled::Assigned(partitions) => {
                    for (_, partition) in partitions {
                        self.assigned.insert(partition);
                        self.shunned.remove(&partition);
                    }
                    self.member = true;
                    self.progress
                        .assigned(|_, partition| self.assigned.contains(&partition));
                    self.flush();
                    self.again = Some(Instant::now());
                }
                Polled::Revoked(partitions) => {
                    self.flush();
                    self.give_up(source, &partitions)?;
                }
                Polled::Lost(partitions) => self.give_up(source, &partitions)?,
            }
            self.look_at_shunned();
            if self.again.is_some_and(|at| Instant::now() >= at) {
                self.take_over(source)?;
            }
        }
        self.flush();
        let all: Vec<_> = self
            .assigned
            .iter()
            .map(|partition| (0, *partition))
            .collect();
        source.release(&all)
    }

    fn take_in(&mut self, records: Vec<Fetched>) -> Result<(), ProjectionError> {
        let backlog = records.len() >= MANY;
        if !records.is_empty() {
            self.pipeline.add(records)?;
        }
        self.pipeline.push(backlog)?;
        if self.attempt > 0 && self.pipeline.commits() > self.commits {
            self.attempt = 0;
        }
        Ok(())
    }

    /// How long until partitions are to be taken over.
    fn until_again(&self) -> Duration {
        self.again
            .map_or(IDLE, |at| at.saturating_duration_since(Instant::now()))
    }

    /// Commits what is in hand before partitions change. What cannot be committed is read again by whoever has it next.
    fn flush(&mut self) {
        if self.again.is_none()
            && let Err(error) = self.pipeline.flush(SOON)
        {
            tracing::warn!(%error, "dropped a batch: it will be read again");
        }
    }

    fn give_up(
        &mut self,
        source: &mut dyn Source,
        partitions: &[(usize, u32)],
    ) -> Result<(), LogError> {
        for (_, partition) in partitions {
            self.assigned.remove(partition);
            self.shunned.remove(partition);
            self.progress.revoked(&self.setup.topic, *partition);
        }
        self.pipeline.reset();
        self.member = false;
        self.progress.starting(JOINING);
        self.again = Some(Instant::now());
        source.release(partitions)
    }

    /// Takes over all that is assigned, and reads on from where the table is.
    fn take_over(&mut self, source: &mut dyn Source) -> Result<(), LogError> {
        match self.try_take_over(source) {
            Ok(()) => {
                self.again = None;
                if self.member {
                    self.progress.running();
                }
                Ok(())
            }
            Err(error) => self.failed(error),
        }
    }

    fn try_take_over(&mut self, source: &mut dyn Source) -> Result<(), ProjectionError> {
        let ours = self
            .assigned
            .iter()
            .copied()
            .filter(|p| !self.shunned.contains_key(p));
        let topic = source.topic_id()?;
        self.pipeline.take(ours, topic)?;
        for (partition, next) in self.pipeline.owned() {
            match source.open(partition, next) {
                Err(LogError::OutOfRange { end, .. }) if next > end => {
                    return Err(ProjectionError::AheadOfLog {
                        projection: PROJECTION.to_owned(),
                        topic: self.setup.topic.to_string(),
                        partition,
                        position: next,
                        end,
                    });
                }
                // Nothing brings back what retention has dropped.
                Err(LogError::OutOfRange { start, .. }) => {
                    source.open(partition, start)?;
                    // The position moves with the next commit; until then it is said once.
                    if self.dropped.insert(partition, start) != Some(start) {
                        announce_dropped(PROJECTION, &self.setup.topic, partition, (next, start));
                    }
                }
                opened => opened?,
            }
            self.progress
                .set_position(&self.setup.topic, partition, next);
        }
        Ok(())
    }

    /// Drops what is not committed and plans the next try; passes on what ends the source.
    fn failed(&mut self, error: ProjectionError) -> Result<(), LogError> {
        match error {
            ProjectionError::Log(error) if error.class() == Class::Fatal => return Err(error),
            ProjectionError::Row(_) => {
                tracing::warn!(%error, "a row is refused: looking for it");
                self.pipeline.reset();
                self.try_again();
            }
            ProjectionError::Fenced => {
                self.pipeline.reset();
                self.shun_others();
                self.again = Some(Instant::now() + BACKOFF.pause(0));
            }
            // One of two lanes always gets on, so this ends by itself.
            ProjectionError::Raced => {
                tracing::debug!("another lane has changed an entity: reading it again");
                self.pipeline.reset();
                self.again = Some(Instant::now() + BACKOFF.pause(0));
            }
            error => {
                self.pipeline.reset();
                self.stalled(&error);
                self.try_again();
            }
        }
        Ok(())
    }

    /// Plans the next try. The pauses grow until something is committed.
    fn try_again(&mut self) {
        self.again = Some(Instant::now() + BACKOFF.pause(self.attempt));
        self.attempt += 1;
        self.commits = self.pipeline.commits();
    }

    /// After a fence: leaves alone what another owner has taken; after a rebuild nobody has.
    fn shun_others(&mut self) {
        match self.pipeline.taken_by_others() {
            Ok(others) => {
                for partition in others {
                    tracing::warn!(partition, "another owner has the partition");
                    self.shunned.insert(partition, Instant::now() + SHUN);
                    self.progress.revoked(&self.setup.topic, partition);
                }
            }
            // The next take-over tells.
            Err(error) => tracing::warn!(%error, "cannot read the positions"),
        }
    }

    fn look_at_shunned(&mut self) {
        let before = self.shunned.len();
        self.shunned.retain(|_, until| Instant::now() < *until);
        if self.shunned.len() < before && self.again.is_none() {
            self.flush();
            self.again = Some(Instant::now());
        }
    }

    /// Records came that cannot be written now: goes back to before them, and rests.
    fn hold(&self, source: &mut dyn Source) {
        for (partition, next) in self.pipeline.last_taken() {
            if self.assigned.contains(partition) {
                // It is opened again when it is taken over.
                let _ = source.open(*partition, next.next);
            }
        }
        std::thread::sleep(STALLED.min(self.until_again()));
    }

    fn stalled(&self, error: &ProjectionError) {
        tracing::warn!(%error, attempt = self.attempt, "the projection stalls and tries again");
        match error {
            // It is away, busy or restarting, and tells nothing of this processor.
            ProjectionError::Store(error) if error.class() == store::Class::Retriable => {
                self.progress.waiting(format!("Postgres: {error}"));
            }
            error => self.progress.retrying(error.to_string()),
        }
    }

    /// Waits before a new source is asked for.
    fn pause(&mut self) {
        let until = Instant::now() + BACKOFF.pause(self.attempt);
        self.attempt += 1;
        while !self.stopping() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Counts what is rejected.
struct Counted {
    to: Arc<dyn Reject>,
    progress: Arc<LaneProgress>,
}

impl Reject for Counted {
    fn reject(&self, rejections: &[Rejection<'_>]) -> Result<(), LogError> {
        self.to.reject(rejections)?;
        for Rejection {
            record,
            code,
            message,
        } in rejections
        {
            let (partition, offset) = (record.partition, record.offset);
            tracing::warn!(partition, offset, %code, message, "a record was rejected");
            self.progress.rejected(PROJECTION, code);
        }
        Ok(())
    }
}
