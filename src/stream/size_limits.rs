//! Size limits of topics and keyed state. A lane checks sizes before a commit, so that a record whose outputs are too large becomes a
//! dead letter instead of stopping the partition.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;

use super::failure::Rejected;
use crate::{
    base::clock::Clock,
    log::{BATCH_HEADER, Log, Record, record_size, row_size},
};

/// The code of a record whose outputs or state are too large to be written.
pub(crate) const CODE: &str = "record_too_large";

/// Bytes of outputs after which a transaction ends early; the rest of the input follows in the next one.
pub(super) const TRANSACTION_BYTES: usize = 16 << 20;
/// Size limit of the outputs of one record, in bytes. A batch whose items each repeat its headers could otherwise produce gigabytes.
pub(super) const OUTPUT_BYTES: usize = 128 << 20;
/// Bytes of headers and keys that the dead letters of one record may repeat in total; further letters omit them.
pub(super) const REPEATED_BYTES: usize = 4 << 20;
/// The longest key of a row, in bytes: the embedded store allows 65,535 including its own prefix.
const KEY_BYTES: usize = 60_000;
/// How long a limit is cached.
const FRESH: Duration = Duration::from_secs(10);

/// A lane's cache of the limits. Only the lane uses it, so its lock is never contended.
pub(super) struct SizeLimits {
    log: Arc<dyn Log>,
    clock: Arc<dyn Clock>,
    processor: Box<str>,
    known: Mutex<CachedLimits>,
}

struct CachedLimits {
    topics: Vec<(Arc<str>, usize)>,
    state: Option<usize>,
    /// When it was filled, in the clock's monotonic time.
    since: Duration,
}

impl CachedLimits {
    fn empty(now: Duration) -> Self {
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
            known: Mutex::new(CachedLimits::empty(clock.monotonic())),
        })
    }

    /// Drops outdated limits. Called before each transaction.
    pub(super) fn refresh(&self) {
        let mut known = self.known.lock();
        let now = self.clock.monotonic();
        if now.saturating_sub(known.since) > FRESH {
            *known = CachedLimits::empty(now);
        }
    }

    /// Drops all limits after a failed transaction, because the log may have learnt new ones from it.
    pub(super) fn forget(&self) {
        *self.known.lock() = CachedLimits::empty(self.clock.monotonic());
    }

    /// The largest record that a topic accepts, in bytes.
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

    /// The size of a record in bytes, or a rejection if its topic does not accept it.
    pub(super) fn check(&self, topic: &Arc<str>, record: &Record) -> Result<usize, Rejected> {
        let (size, limit) = (record_size(record), self.topic(topic));
        if size <= limit {
            return Ok(size);
        }
        Err(refused(format!(
            "it produces a record of {size} bytes, but topic `{topic}` accepts at most {limit}"
        )))
    }

    /// Rejects a row that the changelog or the store does not accept.
    pub(super) fn check_row(&self, key: &[u8], value: &[u8]) -> Result<(), Rejected> {
        if key.len() > KEY_BYTES {
            return Err(refused(format!(
                "it produces a row of state with a key of {} bytes, but at most {KEY_BYTES} are allowed",
                key.len()
            )));
        }
        let (size, limit) = (BATCH_HEADER + row_size(key, value), self.state());
        if size <= limit {
            return Ok(());
        }
        Err(refused(format!(
            "it produces a row of state of {size} bytes, but the changelog of `{}` accepts at most {limit}",
            self.processor
        )))
    }
}

pub(super) fn refused(message: String) -> Rejected {
    Rejected::new(CODE, message)
}
