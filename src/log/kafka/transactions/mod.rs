//! The transactional producer of a lane: one type alone owns the transaction.
//!
//! ```text
//!  begin ─► outputs, changelog ─► offsets ─► commit
//!    ▲               │               │         │
//!    └──── abort ◄───┴─── failed ◄───┴─────────┘
//!          if the abort fails: a new producer with the same id fences the old one, which aborts its open transaction
//! ```
//!
//! librdkafka sends each partition in a separate request, and a transaction of a lane has dozens. [`direct`] implements the protocol
//! itself, and sends the records of all partitions that a broker leads in one request (docs/decisions/0006). It is used for plaintext
//! connections, as in [`super::producer`].

mod cluster;
mod direct;
mod librdkafka;

use std::{
    cell::Cell,
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use self::{direct::Direct, librdkafka::Librdkafka};
use super::{
    KafkaOptions,
    group::GroupConsumer,
    limits::Limits,
    topics::{Counts, partition_among},
    wire,
};
use crate::log::{LogError, Transaction};

// The steps of a transaction, for error messages.
const BEGIN_PRODUCER: &str = "taking over the transactional id";
const DELIVER: &str = "waiting until all records are delivered";
const OFFSETS: &str = "adding offsets to the transaction";
const COMMIT: &str = "committing the transaction";
const ABORT: &str = "aborting the transaction";
/// Time limit of a step, and the `transaction.timeout.ms` after which brokers abort a transaction.
const TRANSACTION: Duration = Duration::from_secs(10);
/// Time limit for the outcome of a commit or an abort, and for taking over the transactional id.
const OUTCOME: Duration = Duration::from_secs(30);
/// How long a lane that has been asked to stop still waits for brokers.
const STOPPING: Duration = Duration::from_secs(3);
/// The most bytes of a batch, unless the limit of a topic is smaller or a record is larger.
const BATCH: usize = 1_000_000;

/// The stop flag of a lane, and when it was first seen.
#[derive(Default)]
struct Stopping {
    flag: Arc<AtomicBool>,
    since: Cell<Option<Instant>>,
}

impl Stopping {
    fn is_set(&self) -> bool {
        self.flag.load(Ordering::Relaxed)
    }

    /// Whether the flag was set [`STOPPING`] ago, so that waits end.
    fn gives_up(&self, now: Instant) -> bool {
        if !self.is_set() {
            return false;
        }
        let since = self.since.get().unwrap_or(now);
        self.since.set(Some(since));
        now >= since + STOPPING
    }
}

/// The transactional producer of one lane.
pub(super) enum Transactions {
    Direct(Box<Direct>),
    Librdkafka(Box<Librdkafka>),
}

impl Transactions {
    /// Fences the previous producer with this transactional id, and aborts its open transaction.
    pub(super) fn new(
        options: &KafkaOptions,
        processor: &Arc<str>,
        changelog: &Arc<str>,
        id: &str,
        limits: Limits,
    ) -> Result<Self, LogError> {
        Ok(if wire::is_usable(options) {
            Self::Direct(Box::new(Direct::new(
                options, processor, changelog, id, limits,
            )?))
        } else {
            Self::Librdkafka(Box::new(Librdkafka::new(
                options, processor, changelog, id, limits,
            )?))
        })
    }

    /// Sets the flag that ends waits for brokers.
    pub(super) fn stop_with(&mut self, stop: Arc<AtomicBool>) {
        match self {
            Self::Direct(direct) => direct.stop_with(stop),
            Self::Librdkafka(librdkafka) => librdkafka.stop_with(stop),
        }
    }

    /// Takes the new end offset of each changelog partition that was written since the last call.
    pub(super) fn take_ends(&mut self) -> HashMap<u32, u64> {
        match self {
            Self::Direct(direct) => direct.take_ends(),
            Self::Librdkafka(librdkafka) => librdkafka.take_ends(),
        }
    }

    /// Whether the lane was asked to stop [`STOPPING`] ago, so that waits end.
    pub(super) fn gives_up(&self, now: Instant) -> bool {
        match self {
            Self::Direct(direct) => direct.gives_up(now),
            Self::Librdkafka(librdkafka) => librdkafka.gives_up(now),
        }
    }

    /// Commits. The class of an error is what the caller must do.
    pub(super) fn commit(
        &mut self,
        group: &GroupConsumer,
        transaction: &Transaction,
    ) -> Result<(), LogError> {
        match self {
            Self::Direct(direct) => direct.commit(group, transaction),
            Self::Librdkafka(librdkafka) => librdkafka.commit(group, transaction),
        }
    }
}

/// The partition of a record in one of OmniLink's own topics: one of the configured partitions, even if more were added. `None`: another
/// topic.
fn own_partition(counts: &Counts, topic: &str, key: Option<&[u8]>) -> Option<u32> {
    let count = counts.get(topic)?;
    Some(partition_among(key, *count))
}
