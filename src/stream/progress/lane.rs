//! Reports of one lane, and its calls in flight.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use parking_lot::Mutex;

use super::{Progress, Timers, backlog::Partition, reported::Reported, status::LaneState};
use crate::{base::clock::Clock, telemetry::metrics};

/// The reporting handle of one lane, dropped when the lane ends.
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

    /// The lane works.
    pub fn running(&self) {
        self.enter(LaneState::Running);
    }

    /// The lane is starting, and waits for `what`, which is shown if it takes long.
    pub fn starting(&self, what: impl Into<String>) {
        let what = what.into();
        self.enter(LaneState::Starting { what });
    }

    /// The lane waits for `what`, and continues by itself.
    pub fn waiting(&self, what: impl Into<String>) {
        let what = what.into();
        self.enter(LaneState::Waiting { what });
    }

    /// An operator holds the lane, for this reason.
    pub fn held(&self, why: impl Into<String>) {
        let why = why.into();
        self.enter(LaneState::Held { why });
    }

    /// The lane failed with this error, and retries.
    pub fn retrying(&self, error: impl Into<String>) {
        let now = self.now();
        self.reported.lock().failed(error.into(), now);
    }

    /// Reports its next offset in a partition.
    pub fn set_position(&self, topic: &str, partition: u32, next: u64) {
        let now = self.now();
        let mut reported = self.reported.lock();
        reported.set_position(topic, partition, next, now);
    }

    /// A handle for reporting external calls, which does not keep the lane alive.
    pub fn calls(&self) -> Calls {
        Calls {
            clock: Arc::clone(&self.of.clock),
            reported: Arc::clone(&self.reported),
        }
    }

    /// Reports progress that no position shows yet.
    pub fn progressed(&self) {
        let now = self.now();
        self.reported.lock().progressed = now;
    }

    /// The partition was revoked: its position belongs to another lane, here or on another node.
    pub fn revoked(&self, topic: &str, partition: u32) {
        let mut reported = self.reported.lock();
        let other = |at: &Partition| at.number != partition || *at.topic != *topic;
        reported.partitions.retain(other);
    }

    /// Reports all partitions assigned to it: positions in others belong to other lanes.
    pub fn assigned(&self, ours: impl Fn(&str, u32) -> bool) {
        let mut reported = self.reported.lock();
        reported.partitions.retain(|at| ours(&at.topic, at.number));
    }

    /// Reports that due timers were checked and fired.
    pub fn timers_checked(&self, timers: Timers) {
        self.reported.lock().timers = Some(timers);
    }

    /// Counts a committed dead letter.
    pub fn rejected(&self, stage: &str, code: &str) {
        self.of.rejected.fetch_add(1, Ordering::Relaxed);
        metrics::count_dead_letter(stage, code);
    }
}

/// Reports external calls of a lane. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Calls {
    clock: Arc<dyn Clock>,
    reported: Arc<Mutex<Reported>>,
}

impl Calls {
    /// Reports a call, which lasts until the guard is dropped.
    pub fn begin(&self, what: &'static str) -> Call {
        let now = self.clock.monotonic();
        let id = self.reported.lock().call_began(what, now);
        Call {
            of: self.clone(),
            id,
        }
    }
}

/// The guard of a call in flight.
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
            self.retrying("the lane has panicked and ended; restart the node");
            return;
        }
        let mut lanes = self.of.lanes.lock();
        lanes.retain(|reported| !Arc::ptr_eq(reported, &self.reported));
    }
}
