//! The reports of one lane, and its status derived from them.

use std::time::Duration;

use super::{
    STALLED_AFTER, Timers,
    backlog::{Ends, Partition},
    status::{LaneState, ProcessorStatus},
};

/// How long a partition may wait while others of its lane progress: a backlog is processed partition by partition.
const PARTITION_STALLED_AFTER: Duration = Duration::from_secs(30);
/// An external call that lasts this long without progress is reported as a wait.
const CALL_SHOWN_AFTER: Duration = Duration::from_secs(5);
/// A shorter start is not shown, because every rebalance has one.
const START_SHOWN_AFTER: Duration = Duration::from_secs(10);
/// An error within this time of the last one, without progress in between, belongs to the same failure.
const SAME_FAILURE: Duration = Duration::from_secs(15);

/// The reports of one lane.
#[derive(Debug)]
pub(super) struct Reported {
    state: LaneState,
    /// Since when it is in this state, in the clock's monotonic time, like all times here.
    since: Duration,
    failure: Option<Failing>,
    /// When a position last moved; initially when the lane was created.
    pub(super) progressed: Duration,
    pub(super) partitions: Vec<Partition>,
    pub(super) timers: Option<Timers>,
    /// External calls in flight.
    calls: Vec<InFlight>,
    next_call: u64,
}

#[derive(Debug)]
struct InFlight {
    id: u64,
    what: &'static str,
    since: Duration,
}

/// Errors without progress in between: a retry may look like work for a moment.
#[derive(Debug)]
struct Failing {
    since: Duration,
    last: Duration,
    error: String,
    /// Whether it has worked again after the last error, or waits or is held: it has restored its state and polled.
    over: bool,
}

impl Reported {
    pub(super) fn new(now: Duration) -> Self {
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

    pub(super) fn enter(&mut self, state: LaneState, now: Duration) {
        let tries = matches!(
            state,
            LaneState::Starting { .. } | LaneState::Retrying { .. }
        );
        if !tries && let Some(failure) = &mut self.failure {
            failure.over = true;
        }
        if self.state != state {
            if std::mem::discriminant(&self.state) != std::mem::discriminant(&state) {
                self.since = now;
            }
            self.state = state;
        }
    }

    pub(super) fn failed(&mut self, error: String, now: Duration) {
        let going_on = self.failure.as_ref().filter(|failure| {
            self.progressed <= failure.since
                && (!failure.over || now.saturating_sub(failure.last) < SAME_FAILURE)
        });
        self.failure = Some(Failing {
            since: going_on.map_or(now, |failure| failure.since),
            last: now,
            error: error.clone(),
            over: false,
        });
        self.enter(LaneState::Retrying { error }, now);
    }

    pub(super) fn set_position(&mut self, topic: &str, partition: u32, next: u64, now: Duration) {
        let known = self.partitions.iter_mut();
        let mut known = known.filter(|at| at.number == partition && *at.topic == *topic);
        match known.next() {
            Some(at) if at.next == next => {}
            Some(at) => {
                at.next = next;
                at.backlog = None;
                self.progressed = now;
            }
            None => self.partitions.push(Partition::new(topic, partition, next)),
        }
    }

    pub(super) fn status(&self, now: Duration) -> ProcessorStatus {
        let idle = now.saturating_sub(self.progressed);
        match &self.state {
            LaneState::Starting { what } => self.starting(what, now),
            LaneState::Waiting { what } => ProcessorStatus::Waiting(what.clone()),
            LaneState::Held { why } => ProcessorStatus::Held(why.clone()),
            LaneState::Retrying { error } => self.failing(error, now, now),
            LaneState::Running => match self.oldest_call(now) {
                Some((what, age)) if age.min(idle) >= CALL_SHOWN_AFTER => {
                    ProcessorStatus::Waiting(format!("{what}, for {} s", age.as_secs()))
                }
                // Other calls end meanwhile, but the position stays before the one that does not.
                Some((_, age)) if age >= CALL_SHOWN_AFTER => ProcessorStatus::Running,
                _ => self.stuck(idle, now).unwrap_or(ProcessorStatus::Running),
            },
        }
    }

    /// A lane that fails when it opens its partitions starts again and again: until it has restored its state and polled, it is shown as
    /// it was when the start began.
    fn starting(&self, what: &str, now: Duration) -> ProcessorStatus {
        let began = self.since;
        let shown = now.saturating_sub(began) >= START_SHOWN_AFTER;
        let failure = self.failure.as_ref();
        if let Some(failure) = failure.filter(|one| !one.over && self.progressed <= one.since) {
            return match self.failing(&failure.error, began, now) {
                ProcessorStatus::Retrying(error) if shown => {
                    ProcessorStatus::Retrying(format!("{error}; now waiting: {what}"))
                }
                status => status,
            };
        }
        if let Some(stuck) = self.stuck(began.saturating_sub(self.progressed), began) {
            return stuck;
        }
        if shown {
            ProcessorStatus::Waiting(what.to_owned())
        } else {
            ProcessorStatus::Running
        }
    }

    /// The status of a lane whose last attempt ended at `until`: a start in progress may last long, and counts for nothing.
    fn failing(&self, error: &str, until: Duration, now: Duration) -> ProcessorStatus {
        let since = self.failure.as_ref().map_or(self.since, |one| one.since);
        if until.saturating_sub(since.max(self.progressed)) < STALLED_AFTER {
            return ProcessorStatus::Retrying(error.to_owned());
        }
        let idle = now.saturating_sub(self.progressed);
        let waiting = self.waiting_records();
        ProcessorStatus::Stalled(stalled(waiting, idle, Some(error)))
    }

    /// Records the start of a call; returns its id.
    pub(super) fn call_began(&mut self, what: &'static str, now: Duration) -> u64 {
        let id = self.next_call;
        self.next_call += 1;
        self.calls.push(InFlight {
            id,
            what,
            since: now,
        });
        id
    }

    pub(super) fn call_ended(&mut self, id: u64) {
        self.calls.retain(|call| call.id != id);
    }

    fn oldest_call(&self, now: Duration) -> Option<(&'static str, Duration)> {
        let oldest = self.calls.iter().min_by_key(|call| call.since)?;
        Some((oldest.what, now.saturating_sub(oldest.since)))
    }

    /// Why a partition makes no progress.
    fn stuck(&self, idle: Duration, now: Duration) -> Option<ProcessorStatus> {
        let mut worst = None;
        for at in &self.partitions {
            let Some(backlog) = &at.backlog else { continue };
            let waited = now.saturating_sub(backlog.since);
            if at.read_to() >= backlog.ends.stable {
                let open = backlog.open_since.map(|at| now.saturating_sub(at));
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

    /// The partition with the most waiting records, if known.
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
