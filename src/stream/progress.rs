//! What the lanes of a processor report of themselves: state, positions, timers. Readiness, metrics and `lag` read it.
//!
//! A lane reports once a transaction, never once a record. Whether a lane *stalls* it cannot say itself: a lane that hangs reports
//! nothing at all. [`super::stall`] compares its positions with the ends of the log, and notes here how long records have waited.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use crate::{base::clock::Millis, telemetry::metrics};

/// A lane that made no progress for this long, with records waiting or after an error, stalls.
pub const STALLED_AFTER: Duration = Duration::from_secs(10);
/// A partition may wait this long while others of its lane go on: a backlog is worked off partition by partition.
const PARTITION_STALLED_AFTER: Duration = Duration::from_secs(30);
/// A call to something outside that lasts this long, with no progress meanwhile, is a wait.
const CALL_SHOWN_AFTER: Duration = Duration::from_secs(5);
/// A start that takes no longer is not shown: every rebalance has one.
const START_SHOWN_AFTER: Duration = Duration::from_secs(10);
/// An error that comes within this time of the last one, with no progress meanwhile, is the same failure going on.
const SAME_FAILURE: Duration = Duration::from_secs(15);

/// What a lane says that it is doing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum LaneState {
    /// It is on its way to work: it joins its group, or restores state.
    Starting {
        /// What it waits for, for people.
        what: String,
    },
    /// It works, or would if there were records.
    Running,
    /// It waits for something that it can name.
    Waiting {
        /// What it waits for, for people.
        what: String,
    },
    /// It failed and tries again.
    Retrying {
        /// Why it failed.
        error: String,
    },
}

/// How a processor, or one of its lanes, is.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum ProcessorStatus {
    /// It works.
    Running,
    /// It waits for something that it can name: a schema registry, Postgres, partitions.
    Waiting(String),
    /// It failed and tries again.
    Retrying(String),
    /// Records wait, and nothing moved for [`STALLED_AFTER`]: why, as far as it is known.
    Stalled(String),
}

impl ProcessorStatus {
    /// For people; `None`: it works.
    pub fn detail(&self) -> Option<String> {
        match self {
            Self::Running => None,
            Self::Waiting(what) => Some(format!("waiting: {what}")),
            Self::Retrying(error) => Some(format!("retrying: {error}")),
            Self::Stalled(why) => Some(format!("stalled: {why}")),
        }
    }
}

/// What a lane's timers were when they were last checked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Timers {
    /// When they were checked.
    pub at: Millis,
    /// When the next one is due.
    pub next: Option<Millis>,
}

/// The ends of a partition.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ends {
    /// One past the last record that can be read: on Kafka the last stable offset.
    pub stable: u64,
    /// One past the last record, those of open transactions included: on Kafka the high watermark.
    pub high: u64,
}

/// A processor's state and positions on this node, reported by each of its lanes: one that works hides none that stalls.
#[derive(Debug, Default)]
pub struct Progress {
    lanes: Mutex<Vec<Arc<Mutex<Reported>>>>,
    rejected: AtomicU64,
}

/// What one lane has reported.
#[derive(Debug)]
struct Reported {
    state: LaneState,
    /// Since when it is in this state.
    since: Instant,
    failure: Option<Failing>,
    /// When a position last moved; at first, when the lane was made.
    progressed: Instant,
    partitions: Vec<Partition>,
    timers: Option<Timers>,
    /// Calls to something outside that are in flight.
    calls: Vec<InFlight>,
    next_call: u64,
}

#[derive(Debug)]
struct InFlight {
    id: u64,
    what: &'static str,
    since: Instant,
}

/// Errors with no progress between them: trying again may look like work for a moment.
#[derive(Debug)]
struct Failing {
    since: Instant,
    last: Instant,
    error: String,
}

#[derive(Debug)]
struct Partition {
    topic: Arc<str>,
    number: u32,
    next: u64,
    backlog: Option<Backlog>,
    /// From `next` up to this offset there are only markers of transactions.
    markers_to: u64,
}

/// Records that wait.
#[derive(Debug)]
struct Backlog {
    since: Instant,
    ends: Ends,
    /// A record was found among them; before that they may be markers alone.
    confirmed: bool,
    /// Since when a transaction has been open at `ends.stable`.
    open_since: Option<Instant>,
}

/// A partition whose backlog must be read to learn whether it is more than markers of transactions.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Suspect {
    /// The topic.
    pub topic: Arc<str>,
    /// The partition.
    pub partition: u32,
    /// The next offset of the processor.
    pub next: u64,
    /// One past the last record that can be read.
    pub stable: u64,
}

impl Progress {
    /// Where one more lane reports, or whatever else does the processor's work.
    pub fn lane(self: &Arc<Self>) -> LaneProgress {
        let reported = Arc::new(Mutex::new(Reported::new(Instant::now())));
        self.lanes.lock().push(Arc::clone(&reported));
        LaneProgress {
            of: Arc::clone(self),
            reported,
        }
    }

    fn each<T>(&self, read: impl Fn(&mut Reported) -> T) -> Vec<T> {
        let lanes = self.lanes.lock();
        lanes.iter().map(|lane| read(&mut lane.lock())).collect()
    }

    /// How it is: as the worst of its lanes.
    pub fn status(&self) -> ProcessorStatus {
        self.status_at(Instant::now())
    }

    fn status_at(&self, now: Instant) -> ProcessorStatus {
        let all = self.each(|lane| lane.status(now));
        all.into_iter().max().unwrap_or(ProcessorStatus::Running)
    }

    /// Why it does not work, for people; `None`: it works.
    pub fn trouble(&self) -> Option<String> {
        self.status().detail()
    }

    /// What its lanes found when they last checked their timers: the earliest of each. `None`: one has not checked yet.
    pub fn timers(&self) -> Option<Timers> {
        let all: Option<Vec<Timers>> = self.each(|lane| lane.timers).into_iter().collect();
        let all = all?;
        Some(Timers {
            at: all.iter().map(|timers| timers.at).min()?,
            next: all.iter().filter_map(|timers| timers.next).min(),
        })
    }

    /// Records that went to the dead-letter queue since the start.
    pub fn rejections(&self) -> u64 {
        self.rejected.load(Ordering::Relaxed)
    }

    /// All positions: topic, partition, next offset.
    pub fn positions(&self) -> Vec<(Arc<str>, u32, u64)> {
        let mut all: Vec<(Arc<str>, u32, u64)> = Vec::new();
        for lane in self.lanes.lock().iter() {
            for at in &lane.lock().partitions {
                all.push((Arc::clone(&at.topic), at.number, at.next));
            }
        }
        // A lane that has not learnt yet that it lost a partition is the one behind.
        all.sort_unstable_by(|a, b| (&a.0, a.1, b.2).cmp(&(&b.0, b.1, a.2)));
        all.dedup_by(|a, b| (&a.0, a.1) == (&b.0, b.1));
        all
    }

    /// Notes where partitions end now. Answers with what must be read before it counts as a backlog.
    pub fn observe(&self, ends: impl Fn(&str, u32) -> Option<Ends>, now: Instant) -> Vec<Suspect> {
        let mut suspects = Vec::new();
        for lane in self.lanes.lock().iter() {
            for at in &mut lane.lock().partitions {
                if let Some(ends) = ends(&at.topic, at.number) {
                    suspects.extend(at.observe(ends, now));
                }
            }
        }
        suspects
    }

    /// Notes whether a record lies before the end of a suspect.
    pub fn confirm(&self, suspect: &Suspect, has_records: bool) {
        for lane in self.lanes.lock().iter() {
            let mut lane = lane.lock();
            let at = lane.partitions.iter_mut().find(|at| {
                (&at.topic, at.number, at.next) == (&suspect.topic, suspect.partition, suspect.next)
            });
            if let Some(at) = at {
                at.confirm(suspect.stable, has_records);
            }
        }
    }
}

impl Reported {
    fn new(now: Instant) -> Self {
        Self {
            state: LaneState::Running,
            since: now,
            failure: None,
            progressed: now,
            partitions: Vec::new(),
            timers: None,
            calls: Vec::new(),
            next_call: 0,
        }
    }

    fn enter(&mut self, state: LaneState, now: Instant) {
        if self.state != state {
            if std::mem::discriminant(&self.state) != std::mem::discriminant(&state) {
                self.since = now;
            }
            self.state = state;
        }
    }

    fn failed(&mut self, error: String, now: Instant) {
        let going_on = self.failure.as_ref().filter(|failure| {
            self.progressed <= failure.since && now.duration_since(failure.last) < SAME_FAILURE
        });
        self.failure = Some(Failing {
            since: going_on.map_or(now, |failure| failure.since),
            last: now,
            error: error.clone(),
        });
        self.enter(LaneState::Retrying { error }, now);
    }

    fn set_position(&mut self, topic: &str, partition: u32, next: u64, now: Instant) {
        let known = self.partitions.iter_mut();
        let mut known = known.filter(|at| at.number == partition && *at.topic == *topic);
        match known.next() {
            Some(at) if at.next == next => {}
            Some(at) => {
                at.next = next;
                at.backlog = None;
                self.progressed = now;
            }
            None => self.partitions.push(Partition {
                topic: topic.into(),
                number: partition,
                next,
                backlog: None,
                markers_to: 0,
            }),
        }
    }

    fn status(&self, now: Instant) -> ProcessorStatus {
        let idle = now.saturating_duration_since(self.progressed);
        match &self.state {
            LaneState::Starting { what } => {
                if now.saturating_duration_since(self.since) < START_SHOWN_AFTER {
                    ProcessorStatus::Running
                } else {
                    ProcessorStatus::Waiting(what.clone())
                }
            }
            LaneState::Waiting { what } => ProcessorStatus::Waiting(what.clone()),
            LaneState::Retrying { error } => {
                let failing = self
                    .failure
                    .as_ref()
                    .map_or(self.since, |failing| failing.since);
                let failing = now.saturating_duration_since(failing).min(idle);
                if failing >= STALLED_AFTER {
                    let waiting = self.waiting_records();
                    ProcessorStatus::Stalled(stalled(waiting, idle, Some(error)))
                } else {
                    ProcessorStatus::Retrying(error.clone())
                }
            }
            LaneState::Running => match self.oldest_call(now) {
                Some((what, age)) if age.min(idle) >= CALL_SHOWN_AFTER => {
                    ProcessorStatus::Waiting(format!("{what}, for {} s", age.as_secs()))
                }
                // Others end meanwhile, and the position stays before the one that does not.
                Some((_, age)) if age >= CALL_SHOWN_AFTER => ProcessorStatus::Running,
                _ => self.stuck(idle, now).unwrap_or(ProcessorStatus::Running),
            },
        }
    }

    fn oldest_call(&self, now: Instant) -> Option<(&'static str, Duration)> {
        let oldest = self.calls.iter().min_by_key(|call| call.since)?;
        Some((oldest.what, now.saturating_duration_since(oldest.since)))
    }

    /// What a partition waits for that does not move.
    fn stuck(&self, idle: Duration, now: Instant) -> Option<ProcessorStatus> {
        let mut worst = None;
        for at in &self.partitions {
            let Some(backlog) = &at.backlog else { continue };
            let waited = now.saturating_duration_since(backlog.since);
            if at.read_to() >= backlog.ends.stable {
                let open = backlog
                    .open_since
                    .map(|at| now.saturating_duration_since(at));
                if let Some(open) = open.filter(|open| *open >= STALLED_AFTER) {
                    let (topic, partition) = (&at.topic, at.number);
                    let Ends { stable, high } = backlog.ends;
                    let status = ProcessorStatus::Waiting(format!(
                        "a producer's transaction on {topic}/{partition} has been open for {} s: offsets {stable} to {} cannot be read before it ends",
                        open.as_secs(),
                        high - 1,
                    ));
                    worst = worst.max(Some(status));
                }
                continue;
            }
            let alone = waited >= PARTITION_STALLED_AFTER;
            if backlog.confirmed && (alone || waited.min(idle) >= STALLED_AFTER) {
                let why = self.failure.as_ref().map(|failure| &*failure.error);
                let records = backlog.ends.stable - at.next;
                let what = Some((&*at.topic, at.number, at.next, records));
                worst = worst.max(Some(ProcessorStatus::Stalled(stalled(what, waited, why))));
            }
        }
        worst
    }

    /// The partition in which most records wait, as far as that is known.
    fn waiting_records(&self) -> Option<(&str, u32, u64, u64)> {
        let waiting = self.partitions.iter().filter_map(|at| {
            let records = at.backlog.as_ref()?.ends.stable.checked_sub(at.next)?;
            Some((&*at.topic, at.number, at.next, records))
        });
        waiting.max_by_key(|(.., records)| *records)
    }
}

fn stalled(waiting: Option<(&str, u32, u64, u64)>, idle: Duration, error: Option<&str>) -> String {
    let waiting = waiting.map_or_else(String::new, |(topic, partition, next, records)| {
        format!("; {records} records wait in {topic}/{partition} from offset {next}")
    });
    let error = error.map_or_else(
        || "no error was reported".to_owned(),
        |error| format!("last error: {error}"),
    );
    format!("no progress for {} s{waiting}; {error}", idle.as_secs())
}

impl Partition {
    /// Before this offset there is nothing left to read.
    fn read_to(&self) -> u64 {
        self.next.max(self.markers_to)
    }

    fn observe(&mut self, ends: Ends, now: Instant) -> Option<Suspect> {
        let read_to = self.read_to();
        if read_to >= ends.high {
            self.backlog = None;
            return None;
        }
        let backlog = self.backlog.get_or_insert(Backlog {
            since: now,
            ends: Ends { stable: 0, high: 0 },
            confirmed: false,
            open_since: None,
        });
        // Nothing could be read before: the wait begins with what came now.
        if backlog.ends.stable <= read_to {
            backlog.since = now;
        }
        backlog.update(ends, now);
        let backlog = self.backlog.as_ref()?;
        let due = !backlog.confirmed
            && ends.stable > read_to
            && now.saturating_duration_since(backlog.since) >= STALLED_AFTER;
        due.then(|| Suspect {
            topic: Arc::clone(&self.topic),
            partition: self.number,
            next: self.next,
            stable: ends.stable,
        })
    }

    fn confirm(&mut self, stable: u64, has_records: bool) {
        if let Some(backlog) = &mut self.backlog {
            if has_records {
                backlog.confirmed = true;
            } else {
                self.markers_to = self.markers_to.max(stable);
            }
        }
    }
}

impl Backlog {
    fn update(&mut self, ends: Ends, now: Instant) {
        if ends.stable >= ends.high {
            self.open_since = None;
        } else if self.ends.stable != ends.stable || self.open_since.is_none() {
            self.open_since = Some(now);
        }
        self.ends = ends;
    }
}

/// Where one lane reports. Dropped when the lane ends.
#[derive(Debug)]
pub struct LaneProgress {
    of: Arc<Progress>,
    reported: Arc<Mutex<Reported>>,
}

impl LaneProgress {
    /// It works.
    pub fn running(&self) {
        self.reported
            .lock()
            .enter(LaneState::Running, Instant::now());
    }

    /// It is on its way to work, and waits for this: a wait that is shown if it lasts.
    pub fn starting(&self, what: impl Into<String>) {
        let what = what.into();
        let mut reported = self.reported.lock();
        reported.enter(LaneState::Starting { what }, Instant::now());
    }

    /// It waits for this, and goes on by itself when that is there.
    pub fn waiting(&self, what: impl Into<String>) {
        let what = what.into();
        let mut reported = self.reported.lock();
        reported.enter(LaneState::Waiting { what }, Instant::now());
    }

    /// It failed for this reason, and tries again.
    pub fn retrying(&self, error: impl Into<String>) {
        let mut reported = self.reported.lock();
        reported.failed(error.into(), Instant::now());
    }

    /// Its next offset in a partition.
    pub fn set_position(&self, topic: &str, partition: u32, next: u64) {
        let mut reported = self.reported.lock();
        reported.set_position(topic, partition, next, Instant::now());
    }

    /// Where its calls to something outside are noted. Holding it does not keep the lane.
    pub fn calls(&self) -> Calls {
        Calls(Arc::clone(&self.reported))
    }

    /// It got something done that shows in no position yet.
    pub fn progressed(&self) {
        self.reported.lock().progressed = Instant::now();
    }

    /// Another lane, here or on another node, has the partition now.
    pub fn revoked(&self, topic: &str, partition: u32) {
        let mut reported = self.reported.lock();
        let other = |at: &Partition| at.number != partition || *at.topic != *topic;
        reported.partitions.retain(other);
    }

    /// Its whole share of the partitions: positions in all others are another lane's.
    pub fn assigned(&self, ours: impl Fn(&str, u32) -> bool) {
        let mut reported = self.reported.lock();
        reported.partitions.retain(|at| ours(&at.topic, at.number));
    }

    /// It has checked which timers are due, and fired what it could.
    pub fn timers_checked(&self, timers: Timers) {
        self.reported.lock().timers = Some(timers);
    }

    /// Counts a record that went to the dead-letter queue for good.
    pub fn rejected(&self, stage: &str, code: &str) {
        self.of.rejected.fetch_add(1, Ordering::Relaxed);
        metrics::count_dead_letter(stage, code);
    }
}

/// Where calls of a lane to something outside are noted. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Calls(Arc<Mutex<Reported>>);

impl Calls {
    /// A call begins; the lane waits for it until the guard is dropped.
    pub fn begin(&self, what: &'static str) -> Call {
        let mut reported = self.0.lock();
        let id = reported.next_call;
        reported.next_call += 1;
        let since = Instant::now();
        reported.calls.push(InFlight { id, what, since });
        drop(reported);
        Call {
            of: self.clone(),
            id,
        }
    }
}

/// A call in flight; dropped when it ends.
#[derive(Debug)]
pub struct Call {
    of: Calls,
    id: u64,
}

impl Drop for Call {
    fn drop(&mut self) {
        let mut reported = self.of.0.lock();
        reported.calls.retain(|call| call.id != self.id);
    }
}

impl Drop for LaneProgress {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.retrying("the lane has panicked and is gone; restart the node");
            return;
        }
        let mut lanes = self.of.lanes.lock();
        lanes.retain(|reported| !Arc::ptr_eq(reported, &self.reported));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn lane() -> (Arc<Progress>, LaneProgress, Instant) {
        let progress = Arc::<Progress>::default();
        let lane = progress.lane();
        lane.set_position("events", 0, 5);
        (progress, lane, Instant::now())
    }

    fn ends(stable: u64, high: u64) -> impl Fn(&str, u32) -> Option<Ends> {
        move |_, _| Some(Ends { stable, high })
    }

    #[test]
    fn a_lane_that_works_hides_none_that_stalls() {
        let progress = Arc::<Progress>::default();
        let (one, two) = (progress.lane(), progress.lane());
        two.retrying("no disk");
        one.running();
        assert_eq!(progress.trouble().as_deref(), Some("retrying: no disk"));
        one.timers_checked(Timers {
            at: Millis(5),
            next: Some(Millis(9)),
        });
        assert_eq!(progress.timers(), None);
        two.timers_checked(Timers {
            at: Millis(4),
            next: None,
        });
        let timers = Timers {
            at: Millis(4),
            next: Some(Millis(9)),
        };
        assert_eq!(progress.timers(), Some(timers));
        drop(two);
        assert_eq!(progress.trouble(), None);
    }

    #[test]
    fn a_partition_that_moves_between_lanes_is_reported_once() {
        let progress = Arc::<Progress>::default();
        let (one, two) = (progress.lane(), progress.lane());
        one.set_position("events", 0, 7);
        two.set_position("events", 0, 9);
        let at = |next| vec![(Arc::from("events"), 0, next)];
        assert_eq!(progress.positions(), at(9));
        // It learns late that it lost the partition.
        one.revoked("events", 0);
        assert_eq!(progress.positions(), at(9));
    }

    #[test]
    fn a_lane_that_panicked_is_seen() {
        let progress = Arc::<Progress>::default();
        let lane = progress.lane();
        let ended = std::thread::spawn(move || {
            let _held = lane;
            panic!("on purpose");
        });
        assert!(ended.join().is_err());
        assert!(progress.trouble().is_some());
        let later = progress.status_at(Instant::now() + 11 * SECOND);
        assert!(matches!(later, ProcessorStatus::Stalled(_)), "{later:?}");
    }

    #[test]
    fn records_that_wait_for_ten_seconds_are_a_stall_once_one_was_found() {
        let (progress, lane, start) = lane();
        assert_eq!(progress.observe(ends(9, 9), start), []);
        let after = |seconds: u32| start + seconds * SECOND;
        assert_eq!(progress.observe(ends(9, 9), after(9)), []);
        let suspects = progress.observe(ends(9, 9), after(10));
        assert_eq!(suspects.len(), 1);
        assert_eq!(progress.status_at(after(10)), ProcessorStatus::Running);
        progress.confirm(&suspects[0], true);
        let ProcessorStatus::Stalled(why) = progress.status_at(after(11)) else {
            panic!("{:?}", progress.status_at(after(11)));
        };
        assert!(
            why.contains("4 records wait in events/0 from offset 5"),
            "{why}"
        );
        // What moves on does not stall.
        lane.set_position("events", 0, 6);
        assert_eq!(progress.observe(ends(9, 9), after(12)), []);
        assert_eq!(progress.status_at(after(12)), ProcessorStatus::Running);
    }

    #[test]
    fn markers_of_transactions_are_no_backlog() {
        let (progress, _lane, start) = lane();
        let after = |seconds: u32| start + seconds * SECOND;
        progress.observe(ends(6, 6), start);
        let suspects = progress.observe(ends(6, 6), after(10));
        progress.confirm(&suspects[0], false);
        assert_eq!(progress.observe(ends(6, 6), after(60)), []);
        assert_eq!(progress.status_at(after(60)), ProcessorStatus::Running);
        // The wait of a record behind them begins when it comes.
        assert_eq!(progress.observe(ends(8, 8), after(61)), []);
        assert_eq!(progress.observe(ends(8, 8), after(70)), []);
        let suspects = progress.observe(ends(8, 8), after(71));
        progress.confirm(&suspects[0], true);
        let now = progress.status_at(after(71));
        assert!(matches!(now, ProcessorStatus::Stalled(_)), "{now:?}");
    }

    #[test]
    fn one_partition_stalls_beside_others_that_go_on() {
        let (progress, lane, start) = lane();
        let after = |seconds: u32| start + seconds * SECOND;
        let both = |_: &str, _: u32| {
            Some(Ends {
                stable: 100,
                high: 100,
            })
        };
        let step = |second: u32| {
            let next = u64::from(second) + 1;
            let mut reported = lane.reported.lock();
            reported.set_position("events", 1, next, after(second));
            drop(reported);
            for suspect in progress.observe(both, after(second)) {
                progress.confirm(&suspect, true);
            }
            progress.status_at(after(second))
        };
        for second in 0..30 {
            assert_eq!(step(second), ProcessorStatus::Running, "{second}");
        }
        let now = step(30);
        assert!(
            matches!(&now, ProcessorStatus::Stalled(why) if why.contains("events/0")),
            "{now:?}"
        );
    }

    #[test]
    fn a_named_wait_is_no_stall_however_long_it_lasts() {
        let (progress, lane, start) = lane();
        lane.waiting("Postgres: it is away");
        for second in [10, 20, 600] {
            let now = start + second * SECOND;
            for suspect in progress.observe(ends(9, 9), now) {
                progress.confirm(&suspect, true);
            }
            let waits = ProcessorStatus::Waiting("Postgres: it is away".to_owned());
            assert_eq!(progress.status_at(now), waits);
        }
    }

    #[test]
    fn a_call_that_does_not_return_is_a_wait() {
        let (progress, lane, start) = lane();
        let call = lane.calls().begin("Postgres: writing a batch");
        let status = |second: u32| {
            let now = start + second * SECOND;
            for suspect in progress.observe(ends(9, 9), now) {
                progress.confirm(&suspect, true);
            }
            progress.status_at(now)
        };
        assert_eq!(status(1), ProcessorStatus::Running);
        for second in [6, 20, 60] {
            let now = status(second);
            assert!(
                matches!(&now, ProcessorStatus::Waiting(what) if what.contains("writing a batch")),
                "{now:?}"
            );
        }
        drop(call);
        let now = status(61);
        assert!(matches!(now, ProcessorStatus::Stalled(_)), "{now:?}");
    }

    #[test]
    fn a_transaction_of_a_producer_that_stays_open_is_named() {
        let (progress, _lane, start) = lane();
        let after = |seconds: u32| start + seconds * SECOND;
        assert_eq!(progress.observe(ends(5, 8), start), []);
        assert_eq!(progress.observe(ends(5, 9), after(11)), []);
        let ProcessorStatus::Waiting(what) = progress.status_at(after(12)) else {
            panic!("{:?}", progress.status_at(after(12)));
        };
        assert!(
            what.contains("events/0") && what.contains("5 to 8"),
            "{what}"
        );
    }

    #[test]
    fn a_lane_that_fails_again_and_again_stalls_with_its_error() {
        let (progress, lane, start) = lane();
        let retrying = |now| {
            let mut reported = lane.reported.lock();
            // It opens anew, reads, and fails.
            reported.enter(
                LaneState::Starting {
                    what: "its partitions".into(),
                },
                now,
            );
            reported.enter(LaneState::Running, now);
            reported.failed("the abort failed".to_owned(), now);
            drop(reported);
            progress.status_at(now)
        };
        for second in 0..6 {
            retrying(start + second * SECOND);
        }
        let early = retrying(start + 7 * SECOND);
        assert_eq!(
            early,
            ProcessorStatus::Retrying("the abort failed".to_owned())
        );
        let late = retrying(start + 11 * SECOND);
        assert!(
            matches!(&late, ProcessorStatus::Stalled(why) if why.contains("the abort failed")),
            "{late:?}"
        );
    }
}
