//! How far a processor is, and how it is: for readiness, metrics and `lag`.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use serde::Serialize;

use crate::{
    clock::Millis,
    log::{Log, LogError},
};

/// A processor's state and positions, told by its lanes.
#[derive(Debug, Default)]
pub struct Progress {
    stalled: Mutex<Option<String>>,
    positions: Mutex<BTreeMap<(String, u32), u64>>,
    timers: Mutex<Option<Timers>>,
    rejected: AtomicU64,
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
    /// It works.
    pub fn running(&self) {
        let mut stalled = self.stalled.lock();
        if stalled.is_some() {
            *stalled = None;
        }
    }

    /// It cannot go on, for this reason, and tries again.
    pub fn stalled(&self, why: String) {
        *self.stalled.lock() = Some(why);
    }

    /// Why it stalls; `None`: it works.
    pub fn trouble(&self) -> Option<String> {
        self.stalled.lock().clone()
    }

    /// Its next offset in a partition.
    pub fn at(&self, topic: &str, partition: u32, next: u64) {
        let mut positions = self.positions.lock();
        if let Some(at) = positions.get_mut(&(topic.to_owned(), partition)) {
            *at = next;
        } else {
            positions.insert((topic.to_owned(), partition), next);
        }
    }

    /// Another node has the partition now.
    pub fn gave_up(&self, topic: &str, partition: u32) {
        self.positions.lock().remove(&(topic.to_owned(), partition));
    }

    /// It has looked for timers that are due, and fired what it could.
    pub fn looked(&self, timers: Timers) {
        *self.timers.lock() = Some(timers);
    }

    /// What it found when it last looked for timers.
    pub fn timers(&self) -> Option<Timers> {
        *self.timers.lock()
    }

    /// Counts a record that went to the dead-letter queue.
    pub fn rejected(&self) {
        self.rejected.fetch_add(1, Ordering::Relaxed);
    }

    /// Records that went to the dead-letter queue since the start.
    pub fn rejections(&self) -> u64 {
        self.rejected.load(Ordering::Relaxed)
    }

    /// All positions: topic, partition, next offset.
    pub fn positions(&self) -> Vec<(String, u32, u64)> {
        let positions = self.positions.lock();
        positions
            .iter()
            .map(|((topic, partition), next)| (topic.clone(), *partition, *next))
            .collect()
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
    let end = log.watermarks(topic, partition)?.end;
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
