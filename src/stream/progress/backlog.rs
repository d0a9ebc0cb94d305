//! Unprocessed records of a partition: since when they wait, and whether there is more than transaction markers.

use std::{sync::Arc, time::Duration};

use super::STALLED_AFTER;

/// The end offsets of a partition.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ends {
    /// One past the last readable record: on Kafka the last stable offset.
    pub stable: u64,
    /// One past the last record, including open transactions: on Kafka the high watermark.
    pub high: u64,
}

#[derive(Debug)]
pub(super) struct Partition {
    pub(super) topic: Arc<str>,
    pub(super) number: u32,
    pub(super) next: u64,
    pub(super) backlog: Option<Backlog>,
    /// There are only transaction markers from `next` up to this offset.
    markers_to: u64,
}

/// Unprocessed records.
#[derive(Debug)]
pub(super) struct Backlog {
    pub(super) since: Duration,
    pub(super) ends: Ends,
    /// Whether a record was found; before that there may be only markers.
    pub(super) confirmed: bool,
    /// Since when a transaction has been open at `ends.stable`.
    pub(super) open_since: Option<Duration>,
}

/// A partition that must be read to learn whether its backlog is more than transaction markers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Suspect {
    /// The topic.
    pub topic: Arc<str>,
    /// The partition.
    pub partition: u32,
    /// The next offset of the processor.
    pub next: u64,
    /// One past the last readable record.
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

    /// There are no unprocessed records before this offset.
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
        // There was nothing to read before: the wait begins now.
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
