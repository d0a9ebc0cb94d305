//! What the lanes of a processor report of themselves: state, positions, timers. Readiness, metrics and `lag` read it.
//!
//! A lane reports once a transaction, never once a record. Whether a lane *stalls* it cannot say itself: a lane that hangs reports
//! nothing at all. [`super::stall`] compares its positions with the ends of the log, and notes here how long records have waited.

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

/// A lane that made no progress for this long, with records waiting or after an error, stalls.
pub const STALLED_AFTER: Duration = Duration::from_secs(10);

/// What a lane's timers were when they were last checked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Timers {
    /// When they were checked.
    pub at: Millis,
    /// When the next one is due.
    pub next: Option<Millis>,
}

/// A processor's state and positions on this node, reported by each of its lanes: one that works hides none that stalls.
#[derive(Debug)]
pub struct Progress {
    clock: Arc<dyn Clock>,
    lanes: Mutex<Vec<Arc<Mutex<Reported>>>>,
    rejected: AtomicU64,
}

impl Default for Progress {
    /// By the machine's clock.
    fn default() -> Self {
        Self::new(Arc::new(SystemClock))
    }
}

impl Progress {
    /// Ages are counted in the monotonic time of this clock.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            clock,
            lanes: Mutex::default(),
            rejected: AtomicU64::new(0),
        }
    }

    /// Where one more lane reports, or whatever else does the processor's work.
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

    /// How it is: as the worst of its lanes.
    pub fn status(&self) -> ProcessorStatus {
        let now = self.clock.monotonic();
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

#[cfg(test)]
mod tests;
