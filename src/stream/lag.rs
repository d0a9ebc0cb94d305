//! How far a processor is, and how it is: for readiness, metrics and `lag`.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use serde::Serialize;

use crate::{
    clock::Millis,
    log::{Log, LogError, Watermarks},
};

/// A processor's state and positions on this node, told by each of its lanes apart: one that works hides none that stalls.
#[derive(Debug, Default)]
pub struct Progress {
    lanes: Mutex<Vec<Arc<Told>>>,
    rejected: AtomicU64,
}

/// What one lane has told.
#[derive(Debug, Default)]
struct Told {
    stalled: Mutex<Option<String>>,
    positions: Mutex<BTreeMap<(String, u32), u64>>,
    timers: Mutex<Option<Timers>>,
}

/// What a lane's timers were when it last looked at them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Timers {
    /// When it looked.
    pub at: Millis,
    /// When the next one is due.
    pub next: Option<Millis>,
}

impl Progress {
    /// The part of one more lane, or of whatever else does the processor's work.
    pub fn lane(self: &Arc<Self>) -> LaneProgress {
        let told = Arc::<Told>::default();
        self.lanes.lock().push(Arc::clone(&told));
        LaneProgress {
            of: Arc::clone(self),
            told,
        }
    }

    fn told<T>(&self, what: impl Fn(&Told) -> T) -> Vec<T> {
        self.lanes.lock().iter().map(|told| what(told)).collect()
    }

    /// Why one of its lanes stalls; `None`: all work.
    pub fn trouble(&self) -> Option<String> {
        let troubles = self.told(|told| told.stalled.lock().clone());
        troubles.into_iter().flatten().next()
    }

    /// What its lanes found when they last looked for timers: the earliest of each. `None`: one has not looked yet.
    pub fn timers(&self) -> Option<Timers> {
        let all: Option<Vec<Timers>> = self.told(|told| *told.timers.lock()).into_iter().collect();
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
    pub fn positions(&self) -> Vec<(String, u32, u64)> {
        let mut all = BTreeMap::new();
        for positions in self.told(|told| told.positions.lock().clone()) {
            // A lane that has not learnt yet that it lost a partition is the one behind.
            for (at, next) in positions {
                let known = all.entry(at).or_insert(next);
                *known = next.max(*known);
            }
        }
        all.into_iter()
            .map(|((topic, partition), next)| (topic, partition, next))
            .collect()
    }
}

/// Where one lane tells how it is. Dropped when the lane ends.
#[derive(Debug)]
pub struct LaneProgress {
    of: Arc<Progress>,
    told: Arc<Told>,
}

impl LaneProgress {
    /// It works.
    pub fn running(&self) {
        let mut stalled = self.told.stalled.lock();
        if stalled.is_some() {
            *stalled = None;
        }
    }

    /// It cannot go on, for this reason, and tries again.
    pub fn stalled(&self, why: String) {
        *self.told.stalled.lock() = Some(why);
    }

    /// Its next offset in a partition.
    pub fn at(&self, topic: &str, partition: u32, next: u64) {
        let mut positions = self.told.positions.lock();
        if let Some(at) = positions.get_mut(&(topic.to_owned(), partition)) {
            *at = next;
        } else {
            positions.insert((topic.to_owned(), partition), next);
        }
    }

    /// Another lane, here or on another node, has the partition now.
    pub fn gave_up(&self, topic: &str, partition: u32) {
        let mut positions = self.told.positions.lock();
        positions.remove(&(topic.to_owned(), partition));
    }

    /// It has looked for timers that are due, and fired what it could.
    pub fn looked(&self, timers: Timers) {
        *self.told.timers.lock() = Some(timers);
    }

    /// Counts a record that went to the dead-letter queue.
    pub fn rejected(&self) {
        self.of.rejected.fetch_add(1, Ordering::Relaxed);
    }
}

impl Drop for LaneProgress {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.stalled("the lane has panicked and is gone; restart the node".to_owned());
            return;
        }
        let mut lanes = self.of.lanes.lock();
        lanes.retain(|told| !Arc::ptr_eq(told, &self.told));
    }
}

/// How far behind.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Lag {
    /// Records not processed yet (on Kafka markers of transactions count).
    pub records: u64,
    /// The age of the oldest of them, in milliseconds.
    pub age_ms: i64,
}

/// How long the oldest unprocessed record may take to be read.
const DEADLINE: Duration = Duration::from_secs(5);

/// The lag of a position in a partition. Reads the oldest unprocessed record, if there is one, to see its age.
pub fn lag(
    log: &dyn Log,
    topic: &str,
    partition: u32,
    next: u64,
    now: Millis,
) -> Result<Lag, LogError> {
    let Watermarks { start, end } = log.watermarks(topic, partition)?;
    // A position beyond the end is none in this log: all of it may be unread.
    let next = if next > end { start } else { next };
    if next >= end {
        return Ok(Lag::default());
    }
    let mut reader = log.reader(topic)?;
    reader.assign(partition, next)?;
    let mut oldest = Vec::new();
    let began = Instant::now();
    // Markers of transactions may be all that is left.
    while oldest.is_empty() && !reader.at_end(partition) && began.elapsed() < DEADLINE {
        reader.poll(Duration::from_millis(100), &mut oldest)?;
    }
    Ok(oldest.first().map_or_else(Lag::default, |first| Lag {
        records: end - first.offset.max(next),
        age_ms: (now.0 - first.timestamp.0).max(0),
    }))
}

/// The lag of a processor in a partition, as `lag` shows it.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Item {
    /// The processor.
    pub processor: String,
    /// The partition of its input.
    pub partition: u32,
    /// Records not processed yet.
    pub records: u64,
    /// The age of the oldest of them, in seconds; 0: there is none.
    pub age_s: f64,
}

/// The lag of each position of a processor. `None`: it has not begun, and is behind by all there is.
pub fn items(
    log: &dyn Log,
    (processor, topic): (&str, &str),
    positions: &[Option<u64>],
    now: Millis,
) -> Result<Vec<Item>, LogError> {
    let item = |(partition, next): (u32, &Option<u64>)| {
        let lag = lag(log, topic, partition, next.unwrap_or(0), now)?;
        Ok(Item {
            processor: processor.to_owned(),
            partition,
            records: lag.records,
            age_s: lag.age_ms as f64 / 1000.0,
        })
    };
    (0..).zip(positions).map(item).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lane_that_works_hides_none_that_stalls() {
        let progress = Arc::<Progress>::default();
        let (one, two) = (progress.lane(), progress.lane());
        two.stalled("no disk".into());
        one.running();
        assert_eq!(progress.trouble().as_deref(), Some("no disk"));
        one.looked(Timers {
            at: Millis(5),
            next: Some(Millis(9)),
        });
        assert_eq!(progress.timers(), None);
        two.looked(Timers {
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
    fn a_partition_that_moves_between_lanes_is_told_once() {
        let progress = Arc::<Progress>::default();
        let (one, two) = (progress.lane(), progress.lane());
        one.at("events", 0, 7);
        two.at("events", 0, 9);
        assert_eq!(progress.positions(), [("events".to_owned(), 0, 9)]);
        // It learns late that it lost the partition.
        one.gave_up("events", 0);
        assert_eq!(progress.positions(), [("events".to_owned(), 0, 9)]);
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
    }
}
