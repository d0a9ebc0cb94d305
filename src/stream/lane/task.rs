//! One input partition of a lane: its transform, its timers, and its positions.

use std::{collections::BTreeMap, time::Duration};

use rand::rngs::StdRng;

use crate::{
    base::clock::Millis,
    log::{Lane, LogError, OffsetRange},
    state::Space,
    stream::{Transform, consumer::BACKOFF, timers::Timers, transform::Gathered},
};

/// After this long without a record, a lane with due timers reads the log to learn whether there are records before the end offset:
/// compaction may have removed the last ones of a partition. Also the pause between two such reads.
const QUIET: Duration = Duration::from_secs(1);

/// An input partition. A [`Duration`] is a time of the clock's monotonic time.
pub(super) struct Task {
    pub(super) space: Space,
    pub(super) transform: Box<dyn Transform>,
    pub(super) timers: Timers,
    /// The position in each input topic.
    pub(super) inputs: BTreeMap<usize, Input>,
    /// Its uncommitted results in the open transaction; `None` if there are none.
    pub(super) gathered: Option<Gathered>,
    /// Set while due timers wait until the input is read to the end offset that it had when they became due.
    pub(super) due: Option<Due>,
    /// The partition is paused until then, because something that a record or timer needs is unavailable. Records that arrive meanwhile
    /// are skipped, and read again afterwards.
    pub(super) paused_until: Option<Duration>,
    /// The number of consecutive pauses.
    pub(super) pauses: u32,
    /// The reason for the pause, until the record was processed.
    pub(super) waits_for: Option<String>,
}

/// The position in one input topic.
pub(super) struct Input {
    pub(super) next: u64,
    /// When the last record was processed.
    pub(super) last: Duration,
    /// Whether records were processed since `last` was set.
    pub(super) taken: bool,
}

/// Timers due at `at` fire once the inputs are read to these end offsets.
pub(super) struct Due {
    pub(super) at: Millis,
    /// When the log was last read for records before the end offsets; initially when the timers became due.
    pub(super) checked: Duration,
    /// Index of the topic, end offset.
    pub(super) ends: Vec<(usize, u64)>,
}

impl Input {
    pub(super) fn at(next: u64, now: Duration) -> Self {
        Self {
            next,
            last: now,
            taken: false,
        }
    }
}

impl Task {
    pub(super) fn new(space: Space, transform: Box<dyn Transform>, timers: Timers) -> Self {
        Self {
            space,
            transform,
            timers,
            inputs: BTreeMap::new(),
            gathered: None,
            due: None,
            paused_until: None,
            pauses: 0,
            waits_for: None,
        }
    }

    /// Pauses the partition, longer with each consecutive pause.
    pub(super) fn pause(&mut self, why: String, now: Duration, jitter: &mut StdRng) {
        if self.pauses == 0 {
            tracing::info!(processor = %self.space.processor, partition = self.space.partition, %why, "the partition is paused");
        }
        self.paused_until = Some(now + BACKOFF.pause_by(self.pauses, jitter));
        self.pauses += 1;
        self.waits_for = Some(why);
    }

    /// When the next timer is due.
    pub(super) fn next_due(&self) -> Option<Millis> {
        // A paused partition fires no timers, because its input is not read to the end.
        if self.paused_until.is_some() {
            return None;
        }
        self.timers.next_due()
    }

    /// The size of its uncommitted results, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.gathered.as_ref().map_or(0, |gathered| gathered.bytes)
    }

    /// Whether the inputs were read to the end offsets that they had when the timers became due.
    pub(super) fn caught_up(
        &self,
        due: &mut Due,
        lane: &mut dyn Lane,
        now: Duration,
    ) -> Result<bool, LogError> {
        let partition = self.space.partition;
        for (topic, end) in &due.ends {
            let Some(input) = self.inputs.get(topic) else {
                return Ok(false);
            };
            if input.next >= *end {
                continue;
            }
            let start = lane.handed_out(*topic, partition)?;
            if start >= *end {
                continue;
            }
            if now.saturating_sub(input.last.max(due.checked)) <= QUIET {
                return Ok(false);
            }
            due.checked = now;
            if !lane.is_empty(*topic, partition, OffsetRange { start, end: *end })? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}
