//! Where one lane reports, and the calls that it has in flight.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use parking_lot::Mutex;

use super::{Progress, Timers, backlog::Partition, reported::Reported, status::LaneState};
use crate::{base::clock::Clock, telemetry::metrics};

/// Where one lane reports. Dropped when the lane ends.
#[derive(Debug)]
pub struct LaneProgress {
    pub(super) of: Arc<Progress>,
    pub(super) reported: Arc<Mutex<Reported>>,
}

impl LaneProgress {
    fn now(&self) -> Duration {
        self.of.clock.monotonic()
    }

    fn enter(&self, state: LaneState) {
        let now = self.now();
        self.reported.lock().enter(state, now);
    }

    /// It works.
    pub fn running(&self) {
        self.enter(LaneState::Running);
    }

    /// It is on its way to work, and waits for this: a wait that is shown if it lasts.
    pub fn starting(&self, what: impl Into<String>) {
        let what = what.into();
        self.enter(LaneState::Starting { what });
    }

    /// It waits for this, and goes on by itself when that is there.
    pub fn waiting(&self, what: impl Into<String>) {
        let what = what.into();
        self.enter(LaneState::Waiting { what });
    }

    /// An operator holds it, for this reason.
    pub fn held(&self, why: impl Into<String>) {
        let why = why.into();
        self.enter(LaneState::Held { why });
    }

    /// It failed for this reason, and tries again.
    pub fn retrying(&self, error: impl Into<String>) {
        let now = self.now();
        self.reported.lock().failed(error.into(), now);
    }

    /// Its next offset in a partition.
    pub fn set_position(&self, topic: &str, partition: u32, next: u64) {
        let now = self.now();
        let mut reported = self.reported.lock();
        reported.set_position(topic, partition, next, now);
    }

    /// Where its calls to something outside are noted. Holding it does not keep the lane.
    pub fn calls(&self) -> Calls {
        Calls {
            clock: Arc::clone(&self.of.clock),
            reported: Arc::clone(&self.reported),
        }
    }

    /// It got something done that shows in no position yet.
    pub fn progressed(&self) {
        let now = self.now();
        self.reported.lock().progressed = now;
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
pub struct Calls {
    clock: Arc<dyn Clock>,
    reported: Arc<Mutex<Reported>>,
}

impl Calls {
    /// A call begins; the lane waits for it until the guard is dropped.
    pub fn begin(&self, what: &'static str) -> Call {
        let now = self.clock.monotonic();
        let id = self.reported.lock().call_began(what, now);
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
        self.of.reported.lock().call_ended(self.id);
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
