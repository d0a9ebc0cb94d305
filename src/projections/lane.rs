//! A lane of a projector: one thread that reads its assigned partitions of a topic and writes their rows ([`crate::stream::consumer`]).
//! Which rows is its [`Pipe`]'s.
//!
//! ```text
//!              ┌──────── poll ─► add ─► push ────────┐
//!              ▼                                     │ error
//!   take, seek to the table's offset                 ▼
//!              ▲                          discard uncommitted rows
//!              └──── pause, keep polling ◄───────────┘
//! ```
//!
//! While it cannot write, it keeps polling to remain a member of its consumer group, and discards the records.

use std::{
    collections::BTreeMap,
    sync::Arc,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use tokio::runtime::Handle;

use super::{
    batches::OnCommit,
    error::ProjectionError,
    link::{Link, Stop},
    offsets::Owned,
    pipe::Pipe,
    reject::{DeadLetters, Reject, Rejection},
};
use crate::{
    base::{clock::Clock, threads},
    log::{Class, Fetched, Log, LogError, Source, announce_dropped},
    store::{self, Store},
    stream::{
        consumer::{
            BACKOFF, Consumer, Fault, Handler, IDLE, Member, Next, Partitions, State, Step,
        },
        progress::{LaneProgress, Progress},
    },
    telemetry::metrics,
};

/// How long a poll waits while records wait for Postgres.
const BUSY: Duration = Duration::from_millis(1);
/// The pause between polls while nothing can be written.
const STALLED: Duration = Duration::from_millis(250);
/// How long a partition that another owner has taken is excluded, unless it is assigned again. By then a node that was suspended has
/// learnt that it lost the partition.
const EXCLUSION: Duration = Duration::from_secs(15);
/// How long a rebalance waits for the open batches to be committed.
const SOON: Duration = Duration::from_secs(5);
/// A poll that returns this many records is taken as the sign of a backlog.
const MANY: usize = 100;

/// What the projector needs.
#[derive(Clone)]
pub struct Setup {
    /// Postgres. If it is not migrated yet, the projector retries until it is.
    pub store: Store,
    /// The log with the topic.
    pub log: Arc<dyn Log>,
    /// The full name of the topic that is projected.
    pub topic: Arc<str>,
    /// The full name of the dead-letter topic.
    pub dlq: Arc<str>,
    /// The clock that decides which monthly partitions are created, and that timestamps dead letters.
    pub clock: Arc<dyn Clock>,
    /// The runtime for SQL.
    pub runtime: Handle,
    /// Where the lanes report their state.
    pub progress: Arc<Progress>,
}

impl Setup {
    /// The dead-letter queue for the records of this topic that a projection rejects.
    pub(super) fn dead_letters(&self, projection: &'static str) -> Arc<dyn Reject> {
        Arc::new(DeadLetters {
            log: Arc::clone(&self.log),
            dlq: Arc::clone(&self.dlq),
            topic: Arc::clone(&self.topic),
            stage: projection,
            clock: Arc::clone(&self.clock),
            runtime: self.runtime.clone(),
        })
    }
}

/// A running projector. Dropping it stops it: the open batches are committed, which takes at most a few seconds.
pub struct Projector {
    stop: Stop,
    runtime: Handle,
    lanes: Vec<JoinHandle<()>>,
}

/// What a lane hands to its pipe.
pub(super) struct LaneParts {
    pub(super) link: Link,
    pub(super) reject: Arc<dyn Reject>,
    pub(super) progress: Arc<LaneProgress>,
}

impl LaneParts {
    /// Reports the committed positions in `topic`, and counts the commits.
    pub(super) fn report(&self, topic: &Arc<str>) -> OnCommit {
        let (report, topic) = (Arc::clone(&self.progress), Arc::clone(topic));
        let commits = metrics::PROJECTION_COMMITS.counter(&[]);
        Box::new(move |positions: &BTreeMap<u32, Owned>| {
            for (partition, at) in positions {
                report.set_position(&topic, *partition, at.next);
            }
            commits.increment(1);
        })
    }
}

impl Projector {
    /// Starts the lanes of a projection; each drives a pipe of its own.
    pub(super) fn run(
        setup: &Setup,
        projection: &'static str,
        lanes: usize,
        reject: &Arc<dyn Reject>,
        pipe: &dyn Fn(LaneParts) -> Box<dyn Pipe>,
    ) -> std::io::Result<Self> {
        let stop = Stop::default();
        let mut projector = Self {
            stop: stop.clone(),
            runtime: setup.runtime.clone(),
            lanes: Vec::new(),
        };
        for n in 0..lanes {
            let lane = Lane::new(setup.clone(), projection, reject, stop.clone(), pipe);
            let of = Member {
                name: projection.to_owned(),
                topics: vec![setup.topic.to_string()],
                progress: Arc::clone(&lane.progress),
            };
            let (consumer, stop) = (Consumer::new(of, lane, rand::random()), stop.clone());
            let thread = std::thread::Builder::new().name(format!("project-{n}"));
            let thread = thread.spawn(move || consumer.run(|| stop.is_asked()))?;
            projector.lanes.push(thread);
        }
        Ok(projector)
    }

    /// Requests a stop, without waiting for it.
    pub fn stop(&self) {
        self.stop.ask(&self.runtime);
    }
}

impl Drop for Projector {
    fn drop(&mut self) {
        self.stop();
        for lane in self.lanes.drain(..) {
            threads::join(lane);
        }
    }
}

struct Lane {
    setup: Setup,
    projection: &'static str,
    progress: Arc<LaneProgress>,
    pipe: Box<dyn Pipe>,
    /// The assigned partitions that another owner has taken, and the end of their exclusion.
    excluded: BTreeMap<u32, Instant>,
    /// When to take the partitions again, after an error or a rebalance; `None` while records can be written.
    retake_at: Option<Instant>,
    /// Attempts without a commit, and the number of commits before them.
    attempt: u32,
    commits: u64,
    /// For each partition, the offset up to which retention has deleted records that were not projected.
    dropped: BTreeMap<u32, u64>,
}

impl Lane {
    fn new(
        setup: Setup,
        projection: &'static str,
        reject: &Arc<dyn Reject>,
        stop: Stop,
        pipe: &dyn Fn(LaneParts) -> Box<dyn Pipe>,
    ) -> Self {
        let progress = Arc::new(setup.progress.lane());
        let reject: Arc<dyn Reject> = Arc::new(Counted {
            to: Arc::clone(reject),
            projection,
            progress: Arc::clone(&progress),
        });
        let pipe = pipe(LaneParts {
            link: Link {
                calls: Some(progress.calls()),
                runtime: setup.runtime.clone(),
                store: setup.store.clone(),
                stop,
            },
            reject,
            progress: Arc::clone(&progress),
        });
        Self {
            setup,
            projection,
            progress,
            pipe,
            excluded: BTreeMap::new(),
            retake_at: None,
            attempt: 0,
            commits: 0,
            dropped: BTreeMap::new(),
        }
    }
}

impl Handler for Lane {
    type Input = dyn Source;

    fn join(&mut self) -> Result<Box<dyn Source>, LogError> {
        self.setup.log.source(self.projection, &self.setup.topic)
    }

    fn next(&mut self, source: &mut Self::Input, assigned: &Partitions) -> Result<Next, Fault> {
        self.end_exclusions();
        if self.retake_at.is_some_and(|at| Instant::now() >= at) {
            self.take_over(source, assigned)?;
        }
        let wait = if self.pipe.is_empty() { IDLE } else { BUSY };
        Ok(Next::Poll(wait.min(self.until_retake())))
    }

    fn records(
        &mut self,
        source: &mut Self::Input,
        batch: &mut Vec<Fetched>,
        assigned: &Partitions,
    ) -> Result<Step, Fault> {
        let records = batch.len();
        if self.retake_at.is_none() {
            if let Err(error) = self.process(std::mem::take(batch)) {
                self.failed(error)?;
            }
        } else if records > 0 {
            self.hold(source, assigned);
        }
        Ok(Step::Processed { records, timers: 0 })
    }

    fn assigned(&mut self, _: &mut Self::Input, partitions: &[(usize, u32)]) -> Result<(), Fault> {
        for (_, partition) in partitions {
            self.excluded.remove(partition);
        }
        self.flush();
        self.retake_at = Some(Instant::now());
        Ok(())
    }

    fn revoked(
        &mut self,
        _: &mut Self::Input,
        partitions: &[(usize, u32)],
        lost: bool,
    ) -> Result<(), LogError> {
        if !lost {
            self.flush();
        }
        for (_, partition) in partitions {
            self.excluded.remove(partition);
        }
        self.pipe.reset();
        self.retake_at = Some(Instant::now());
        Ok(())
    }

    fn over(&mut self) {
        self.pipe.reset();
    }

    fn stop(&mut self, source: &mut Self::Input, assigned: &Partitions) -> Result<(), LogError> {
        self.flush();
        let all: Vec<_> = assigned.iter().copied().collect();
        source.release(&all)
    }

    /// While it cannot write, the reason has been reported already.
    fn state(&self) -> Option<State<'_>> {
        self.retake_at.is_none().then_some(State::Running)
    }
}

impl Lane {
    /// Adds records to the pipe, and writes rows if there are enough.
    fn process(&mut self, records: Vec<Fetched>) -> Result<(), ProjectionError> {
        let backlog = records.len() >= MANY;
        if !records.is_empty() {
            self.pipe.add(records)?;
        }
        self.pipe.push(backlog)?;
        if self.attempt > 0 && self.pipe.commits() > self.commits {
            self.attempt = 0;
        }
        Ok(())
    }

    /// The time until the partitions are taken again.
    fn until_retake(&self) -> Duration {
        self.retake_at
            .map_or(IDLE, |at| at.saturating_duration_since(Instant::now()))
    }

    /// Commits the open batches before a rebalance. Records that cannot be committed are read again by the next owner.
    fn flush(&mut self) {
        if self.retake_at.is_none()
            && let Err(error) = self.pipe.flush(SOON)
        {
            tracing::warn!(%error, "dropped a batch: it will be read again");
        }
    }

    /// Takes the assigned partitions, and seeks to their offsets in the table.
    fn take_over(
        &mut self,
        source: &mut dyn Source,
        assigned: &Partitions,
    ) -> Result<(), LogError> {
        match self.try_take_over(source, assigned) {
            Ok(()) => {
                self.retake_at = None;
                Ok(())
            }
            Err(error) => self.failed(error),
        }
    }

    fn try_take_over(
        &mut self,
        source: &mut dyn Source,
        assigned: &Partitions,
    ) -> Result<(), ProjectionError> {
        let ours = assigned.iter().map(|(_, partition)| *partition);
        let ours = ours.filter(|p| !self.excluded.contains_key(p));
        let topic = source.topic_id()?;
        let ours: Vec<u32> = ours.collect();
        self.pipe.take(&ours, topic)?;
        for (partition, next) in self.pipe.owned() {
            match source.open(partition, next) {
                Err(LogError::OutOfRange { end, .. }) if next > end => {
                    return Err(ProjectionError::AheadOfLog {
                        projection: self.projection.to_owned(),
                        topic: self.setup.topic.to_string(),
                        partition,
                        position: next,
                        end,
                    });
                }
                // Retention has deleted the records before `start`.
                Err(LogError::OutOfRange { start, .. }) => {
                    source.open(partition, start)?;
                    // The offset is advanced by the next commit. Until then this is logged once.
                    if self.dropped.insert(partition, start) != Some(start) {
                        announce_dropped(
                            self.projection,
                            &self.setup.topic,
                            partition,
                            (next, start),
                        );
                    }
                }
                opened => opened?,
            }
            self.progress
                .set_position(&self.setup.topic, partition, next);
        }
        Ok(())
    }

    /// Discards uncommitted rows and schedules the next attempt. Returns errors that end the source.
    fn failed(&mut self, error: ProjectionError) -> Result<(), LogError> {
        match error {
            ProjectionError::Log(error) if error.class() == Class::Fatal => return Err(error),
            ProjectionError::Row(_) => {
                tracing::warn!(%error, "a row is refused: looking for it");
                self.pipe.reset();
                self.try_again();
            }
            ProjectionError::Fenced => {
                self.pipe.reset();
                self.exclude_taken();
                self.retake_at = Some(Instant::now() + BACKOFF.pause(0));
            }
            // One of the two lanes always commits, so the conflict resolves itself.
            ProjectionError::Raced => {
                tracing::debug!("another lane has changed an entity: reading it again");
                self.pipe.reset();
                self.retake_at = Some(Instant::now() + BACKOFF.pause(0));
            }
            error => {
                self.pipe.reset();
                self.stalled(&error);
                self.try_again();
            }
        }
        Ok(())
    }

    /// Schedules the next attempt. The pauses grow until a transaction is committed.
    fn try_again(&mut self) {
        self.retake_at = Some(Instant::now() + BACKOFF.pause(self.attempt));
        self.attempt += 1;
        self.commits = self.pipe.commits();
    }

    /// After fencing: excludes the partitions that another owner has taken. (After a rebuild there are none.)
    fn exclude_taken(&mut self) {
        match self.pipe.taken_by_others() {
            Ok(others) => {
                for partition in others {
                    tracing::warn!(partition, "another owner has the partition");
                    self.excluded.insert(partition, Instant::now() + EXCLUSION);
                    self.progress.revoked(&self.setup.topic, partition);
                }
            }
            // The next take finds out.
            Err(error) => tracing::warn!(%error, "cannot read the positions"),
        }
    }

    /// Ends exclusions whose time has passed, and has their partitions taken again.
    fn end_exclusions(&mut self) {
        let before = self.excluded.len();
        self.excluded.retain(|_, until| Instant::now() < *until);
        if self.excluded.len() < before && self.retake_at.is_none() {
            self.flush();
            self.retake_at = Some(Instant::now());
        }
    }

    /// Seeks back before records that cannot be written now, and pauses.
    fn hold(&self, source: &mut dyn Source, assigned: &Partitions) {
        for (partition, next) in self.pipe.last_taken() {
            if assigned.contains(&(0, *partition)) {
                // An error can be ignored: the next take seeks again.
                let _ = source.open(*partition, next.next);
            }
        }
        std::thread::sleep(STALLED.min(self.until_retake()));
    }

    fn stalled(&self, error: &ProjectionError) {
        tracing::warn!(%error, attempt = self.attempt, "the projection stalls and tries again");
        match error {
            // Postgres is down, busy or restarting: this is not a failure of the processor.
            ProjectionError::Store(error) if error.class() == store::Class::Retriable => {
                self.progress.waiting(format!("Postgres: {error}"));
            }
            error => self.progress.retrying(error.to_string()),
        }
    }
}

/// Counts and logs rejected records.
struct Counted {
    to: Arc<dyn Reject>,
    projection: &'static str,
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
            self.progress.rejected(self.projection, code);
        }
        Ok(())
    }
}
