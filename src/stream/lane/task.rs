//! One input partition of a lane: its transform, its timers, and how far its input was read.

use std::{collections::BTreeMap, time::Duration};

use rand::rngs::StdRng;

use crate::{
    base::clock::Millis,
    log::{Lane, LogError, OffsetRange},
    state::Space,
    stream::{Transform, consumer::BACKOFF, timers::Timers, transform::Gathered},
};

/// After this long without a record the log is read for records before the end that timers wait for: compaction may have removed
/// the last ones of a partition. Also the pause between two such reads.
const QUIET: Duration = Duration::from_secs(1);

/// An input partition. Times that are a [`Duration`] are in the monotonic time of the lane's clock.
pub(super) struct Task {
    pub(super) space: Space,
    pub(super) transform: Box<dyn Transform>,
    pub(super) timers: Timers,
    /// How far each input topic was read.
    pub(super) inputs: BTreeMap<usize, Input>,
    /// What it has gathered in the open transaction. `None`: it has no part in it.
    pub(super) gathered: Option<Gathered>,
    /// Timers were due, and wait until the input is read to the end that it had then.
    pub(super) due: Option<Due>,
    /// The partition is paused until then: something that a record or a timer needs is not at hand. What comes meanwhile is passed
    /// over, and read again afterwards.
    pub(super) paused_until: Option<Duration>,
    /// How often in a row.
    pub(super) pauses: u32,
    /// What it waits for, until the record that needs it was taken.
    pub(super) waits_for: Option<String>,
}

/// The position in one input topic.
pub(super) struct Input {
    pub(super) next: u64,
    /// When the last record came.
    pub(super) last: Duration,
    /// Records were taken since that was noted.
    pub(super) taken: bool,
}

/// Timers that are due at a time fire when the inputs are read to the ends that they had then.
pub(super) struct Due {
    pub(super) at: Millis,
    /// When the log was last read for records before the ends; at first the time at which the timers were found to be due.
    pub(super) checked: Duration,
    /// Topic and end.
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

    /// Pauses the partition, for longer each time in a row.
    pub(super) fn pause(&mut self, why: String, now: Duration, jitter: &mut StdRng) {
        if self.pauses == 0 {
            tracing::info!(processor = %self.space.processor, partition = self.space.partition, %why, "the partition waits");
        }
        self.paused_until = Some(now + BACKOFF.pause_by(self.pauses, jitter));
        self.pauses += 1;
        self.waits_for = Some(why);
    }

    /// When the next timer is due.
    pub(super) fn next_due(&self) -> Option<Millis> {
        // A paused partition fires nothing: its input is not read to the end.
        if self.paused_until.is_some() {
            return None;
        }
        self.timers.next_due()
    }

    /// Bytes that it has gathered.
    pub(super) fn bytes(&self) -> usize {
        self.gathered.as_ref().map_or(0, |gathered| gathered.bytes)
    }

    /// Whether the inputs were read to the ends that they had when timers were found to be due.
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
