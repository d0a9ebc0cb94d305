//! What topics and keyed state take, as a lane knows it: sizes are compared before anything is committed, so that a record that
//! cannot be carried on becomes a dead letter and stops nothing.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;

use super::failure::Rejected;
use crate::{
    base::clock::Clock,
    log::{BATCH_HEADER, Log, Record, record_size, row_size},
};

/// The code of a record that cannot be carried on.
pub(crate) const CODE: &str = "record_too_large";

/// Bytes of outputs after which a transaction ends before its input does: the rest follows in the next one.
pub(super) const TRANSACTION_BYTES: usize = 16 << 20;
/// Bytes of outputs of one record. A batch of items that each take its headers on could make gigabytes.
pub(super) const OUTPUT_BYTES: usize = 128 << 20;
/// Bytes of headers and keys that the letters of one record repeat; further letters go without.
pub(super) const REPEATED_BYTES: usize = 4 << 20;
/// The longest key of a row: the embedded store takes 65,535 bytes, its own prefix included.
const KEY_BYTES: usize = 60_000;
/// How long an answer of the log is used.
const FRESH: Duration = Duration::from_secs(10);

/// A lane's own copy of what the log says: its lock is never waited for.
pub(super) struct SizeLimits {
    log: Arc<dyn Log>,
    clock: Arc<dyn Clock>,
    processor: Box<str>,
    known: Mutex<Known>,
}

struct Known {
    topics: Vec<(Arc<str>, usize)>,
    state: Option<usize>,
    /// Since when, in the monotonic time of the clock.
    since: Duration,
}

impl Known {
    fn nothing(now: Duration) -> Self {
        Self {
            topics: Vec::new(),
            state: None,
            since: now,
        }
    }
}

impl SizeLimits {
    pub(super) fn new(log: &Arc<dyn Log>, clock: &Arc<dyn Clock>, processor: &str) -> Arc<Self> {
        Arc::new(Self {
            log: Arc::clone(log),
            clock: Arc::clone(clock),
            processor: processor.into(),
            known: Mutex::new(Known::nothing(clock.monotonic())),
        })
    }

    /// To be called before each transaction.
    pub(super) fn refresh(&self) {
        let mut known = self.known.lock();
        let now = self.clock.monotonic();
        if now.saturating_sub(known.since) > FRESH {
            *known = Known::nothing(now);
        }
    }

    /// A transaction failed: what the log has learnt by it is asked for anew.
    pub(super) fn forget(&self) {
        *self.known.lock() = Known::nothing(self.clock.monotonic());
    }

    /// The largest record that a topic takes.
    pub(super) fn topic(&self, topic: &Arc<str>) -> usize {
        let mut known = self.known.lock();
        let mut topics = known.topics.iter();
        let found = topics.find(|(name, _)| Arc::ptr_eq(name, topic) || name == topic);
        if let Some((_, limit)) = found {
            return *limit;
        }
        let limit = self.log.record_limit(topic);
        known.topics.push((Arc::clone(topic), limit));
        limit
    }

    fn state(&self) -> usize {
        let mut known = self.known.lock();
        *known
            .state
            .get_or_insert_with(|| self.log.state_limit(&self.processor))
    }

    /// Whether a topic takes a record.
    pub(super) fn check(&self, topic: &Arc<str>, record: &Record) -> Result<usize, Rejected> {
        let (size, limit) = (record_size(record), self.topic(topic));
        if size <= limit {
            return Ok(size);
        }
        Err(refused(format!(
            "it makes a record of {size} bytes, and topic `{topic}` takes {limit}"
        )))
    }

    /// Whether the keyed state takes a row.
    pub(super) fn check_row(&self, key: &[u8], value: &[u8]) -> Result<(), Rejected> {
        if key.len() > KEY_BYTES {
            return Err(refused(format!(
                "it makes a row of state with a key of {} bytes, of which there may be {KEY_BYTES}",
                key.len()
            )));
        }
        let (size, limit) = (BATCH_HEADER + row_size(key, value), self.state());
        if size <= limit {
            return Ok(());
        }
        Err(refused(format!(
            "it makes a row of state of {size} bytes, and the changelog of `{}` takes {limit}",
            self.processor
        )))
    }
}

pub(super) fn refused(message: String) -> Rejected {
    Rejected::new(CODE, message)
}
