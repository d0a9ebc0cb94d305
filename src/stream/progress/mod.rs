//! Reports of a processor's lanes: state, positions, timers. Readiness, metrics and `lag` read them.
//!
//! A lane reports once per transaction, not per record. A lane cannot report that it stalls, because a hanging lane reports nothing:
//! [`super::stall`] compares its positions with the end offsets of the log, and records here how long records have waited.

mod backlog;
mod lane;
mod reported;
mod status;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;

use self::reported::Reported;
pub use self::{
    backlog::{Ends, Suspect},
    lane::{Call, Calls, LaneProgress},
    status::{LaneState, ProcessorStatus},
};
use crate::base::clock::{Clock, Millis, SystemClock};

/// A lane is stalled if it makes no progress for this long although records wait or after an error.
pub const STALLED_AFTER: Duration = Duration::from_secs(10);

/// The state of a lane's timers at the last check.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Timers {
    /// When the timers were checked.
    pub at: Millis,
    /// When the next timer is due.
    pub next: Option<Millis>,
}

/// The state and positions of a processor on this node, kept separately for each lane, so that a working lane does not hide a stalled one.
#[derive(Debug)]
pub struct Progress {
    clock: Arc<dyn Clock>,
    lanes: Mutex<Vec<Arc<Mutex<Reported>>>>,
    rejected: AtomicU64,
}

impl Default for Progress {
    /// Uses the system clock.
    fn default() -> Self {
        Self::new(Arc::new(SystemClock))
    }
}

impl Progress {
    /// Measures ages in the monotonic time of this clock.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            clock,
            lanes: Mutex::default(),
            rejected: AtomicU64::new(0),
        }
    }

    /// A reporting handle for a further lane or other worker of the processor.
    pub fn lane(self: &Arc<Self>) -> LaneProgress {
        let reported = Arc::new(Mutex::new(Reported::new(self.clock.monotonic())));
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

    /// The status of its worst lane.
    pub fn status(&self) -> ProcessorStatus {
        let now = self.clock.monotonic();
        let all = self.each(|lane| lane.status(now));
        all.into_iter().max().unwrap_or(ProcessorStatus::Running)
    }

    /// The readable reason why it does not work; `None` if it works.
    pub fn trouble(&self) -> Option<String> {
        self.status().detail()
    }

    /// The earliest values of its lanes' last timer checks; `None` if one has not checked yet.
    pub fn timers(&self) -> Option<Timers> {
        let all: Option<Vec<Timers>> = self.each(|lane| lane.timers).into_iter().collect();
        let all = all?;
        Some(Timers {
            at: all.iter().map(|timers| timers.at).min()?,
            next: all.iter().filter_map(|timers| timers.next).min(),
        })
    }

    /// The number of dead letters since the start.
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
        // A lane that does not know yet that it lost a partition has the lower position.
        all.sort_unstable_by(|a, b| (&a.0, a.1, b.2).cmp(&(&b.0, b.1, a.2)));
        all.dedup_by(|a, b| (&a.0, a.1) == (&b.0, b.1));
        all
    }

    /// Records the current end offsets. Returns the partitions that must be read to learn whether they have a backlog.
    pub fn observe(&self, ends: impl Fn(&str, u32) -> Option<Ends>) -> Vec<Suspect> {
        let now = self.clock.monotonic();
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

    /// Records whether a suspect has an unprocessed record.
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

#[cfg(test)]
mod tests;
