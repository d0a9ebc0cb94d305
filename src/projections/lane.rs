//! A lane of the projector: one thread that reads its share of `events` and keeps the tables up with it ([`crate::stream::consumer`]).
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
    collections::BTreeMap,
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

/// How long a poll waits when Postgres is at work and records wait for it.
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
            let of = Member {
                name: PROJECTION.to_owned(),
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
    pipeline: Pipeline,
    /// Of what is assigned, what another owner took, and until when we leave it alone.
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
                stop,
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
            pipeline,
            shunned: BTreeMap::new(),
            again: None,
            attempt: 0,
            commits: 0,
            dropped: BTreeMap::new(),
        }
    }
}

impl Handler for Lane {
    type Input = dyn Source;

    fn join(&mut self) -> Result<Box<dyn Source>, LogError> {
        self.setup.log.source(PROJECTION, &self.setup.topic)
    }

    fn next(&mut self, source: &mut Self::Input, assigned: &Partitions) -> Result<Next, Fault> {
        self.look_at_shunned();
        if self.again.is_some_and(|at| Instant::now() >= at) {
            self.take_over(source, assigned)?;
        }
        let wait = if self.pipeline.is_empty() { IDLE } else { BUSY };
        Ok(Next::Poll(wait.min(self.until_again())))
    }

    fn records(
        &mut self,
        source: &mut Self::Input,
        batch: &mut Vec<Fetched>,
        assigned: &Partitions,
    ) -> Result<Step, Fault> {
        let records = batch.len();
        if self.again.is_none() {
            if let Err(error) = self.take_in(std::mem::take(batch)) {
                self.failed(error)?;
            }
        } else if records > 0 {
            self.hold(source, assigned);
        }
        Ok(Step::Processed { records, timers: 0 })
    }

    fn assigned(&mut self, _: &mut Self::Input, partitions: &[(usize, u32)]) -> Result<(), Fault> {
        for (_, partition) in partitions {
            self.shunned.remove(partition);
        }
        self.flush();
        self.again = Some(Instant::now());
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
            self.shunned.remove(partition);
        }
        self.pipeline.reset();
        self.again = Some(Instant::now());
        Ok(())
    }

    fn over(&mut self) {
        self.pipeline.reset();
    }

    fn stop(&mut self, source: &mut Self::Input, assigned: &Partitions) -> Result<(), LogError> {
        self.flush();
        let all: Vec<_> = assigned.iter().copied().collect();
        source.release(&all)
    }

    /// While it cannot write, it has said why.
    fn state(&self) -> Option<State<'_>> {
        self.again.is_none().then_some(State::Running)
    }
}

impl Lane {
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

    /// Takes over all that is assigned, and reads on from where the table is.
    fn take_over(
        &mut self,
        source: &mut dyn Source,
        assigned: &Partitions,
    ) -> Result<(), LogError> {
        match self.try_take_over(source, assigned) {
            Ok(()) => {
                self.again = None;
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
        let ours = ours.filter(|p| !self.shunned.contains_key(p));
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
    fn hold(&self, source: &mut dyn Source, assigned: &Partitions) {
        for (partition, next) in self.pipeline.last_taken() {
            if assigned.contains(&(0, *partition)) {
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
