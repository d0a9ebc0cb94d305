//! Records that wait in a partition: since when, and whether they are more than markers of transactions.

use std::{sync::Arc, time::Duration};

use super::STALLED_AFTER;

/// The ends of a partition.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ends {
    /// One past the last record that can be read: on Kafka the last stable offset.
    pub stable: u64,
    /// One past the last record, those of open transactions included: on Kafka the high watermark.
    pub high: u64,
}

#[derive(Debug)]
pub(super) struct Partition {
    pub(super) topic: Arc<str>,
    pub(super) number: u32,
    pub(super) next: u64,
    pub(super) backlog: Option<Backlog>,
    /// From `next` up to this offset there are only markers of transactions.
    markers_to: u64,
}

/// Records that wait.
#[derive(Debug)]
pub(super) struct Backlog {
    pub(super) since: Duration,
    pub(super) ends: Ends,
    /// A record was found among them; before that they may be markers alone.
    pub(super) confirmed: bool,
    /// Since when a transaction has been open at `ends.stable`.
    pub(super) open_since: Option<Duration>,
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

impl Partition {
    pub(super) fn new(topic: &str, number: u32, next: u64) -> Self {
        Self {
            topic: topic.into(),
            number,
            next,
            backlog: None,
            markers_to: 0,
        }
    }

    /// Before this offset there is nothing left to read.
    pub(super) fn read_to(&self) -> u64 {
        self.next.max(self.markers_to)
    }

    pub(super) fn observe(&mut self, ends: Ends, now: Duration) -> Option<Suspect> {
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
            && now.saturating_sub(backlog.since) >= STALLED_AFTER;
        due.then(|| Suspect {
            topic: Arc::clone(&self.topic),
            partition: self.number,
            next: self.next,
            stable: ends.stable,
        })
    }

    pub(super) fn confirm(&mut self, stable: u64, has_records: bool) {
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
    fn update(&mut self, ends: Ends, now: Duration) {
        if ends.stable >= ends.high {
            self.open_since = None;
        } else if self.ends.stable != ends.stable || self.open_since.is_none() {
            self.open_since = Some(now);
        }
        self.ends = ends;
    }
}
