//! The transactional producer of a lane: one type alone owns the transaction.
//!
//! ```text
//!  begin ─► outputs, changelog ─► offsets ─► commit
//!    ▲               │               │         │
//!    └──── abort ◄───┴─── failed ◄───┴─────────┘
//!          where that fails too: a new producer under the same id, which fences the old one and ends what it left open
//! ```
//!
//! librdkafka sends each partition in a request of its own, and a transaction of a lane has dozens. [`direct`] speaks the protocol
//! itself and sends all that a broker leads in one (docs/decisions/0006). It is used where the connection is plain, as for
//! [`super::producer`].

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

// What steps are for, as errors say it.
const BEGIN_PRODUCER: &str = "taking over the transactional id";
const DELIVER: &str = "waiting until all records are delivered";
const OFFSETS: &str = "adding offsets to the transaction";
const COMMIT: &str = "committing the transaction";
const ABORT: &str = "aborting the transaction";
/// How long a step of a transaction may take. Brokers abort it after this time as well.
const TRANSACTION: Duration = Duration::from_secs(10);
/// How long the outcome of a commit, of an abort, or of taking over the id may take.
const OUTCOME: Duration = Duration::from_secs(30);
/// How long a lane that is to stop still waits for brokers.
const STOPPING: Duration = Duration::from_secs(3);
/// Bytes of a batch, unless a topic takes less or a record is larger.
const BATCH: usize = 1_000_000;

/// Whether the lane is to stop.
#[derive(Default)]
struct Stopping {
    flag: Arc<AtomicBool>,
    since: Cell<Option<Instant>>,
}

impl Stopping {
    fn is_set(&self) -> bool {
        self.flag.load(Ordering::Relaxed)
    }

    /// Whether it is to stop, for long enough that nothing is waited for any more.
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
    /// Fences the producer that had this transactional id before, and aborts the transaction that it left open.
    pub(super) fn new(
        options: &KafkaOptions,
        processor: &Arc<str>,
        changelog: &Arc<str>,
        id: &str,
        limits: Limits,
    ) -> Result<Self, LogError> {
        Ok(if wire::speaks(options) {
            Self::Direct(Box::new(Direct::new(
                options, processor, changelog, id, limits,
            )?))
        } else {
            Self::Librdkafka(Box::new(Librdkafka::new(
                options, processor, changelog, id, limits,
            )?))
        })
    }

    /// Hands over the flag that stops waiting for brokers.
    pub(super) fn stop_with(&mut self, stop: Arc<AtomicBool>) {
        match self {
            Self::Direct(direct) => direct.stop_with(stop),
            Self::Librdkafka(librdkafka) => librdkafka.stop_with(stop),
        }
    }

    /// The end of each partition of the changelog that was written to since the last call.
    pub(super) fn take_ends(&mut self) -> HashMap<u32, u64> {
        match self {
            Self::Direct(direct) => direct.take_ends(),
            Self::Librdkafka(librdkafka) => librdkafka.take_ends(),
        }
    }

    /// Whether the lane is to stop, for long enough that nothing is waited for any more.
    pub(super) fn gives_up(&self, now: Instant) -> bool {
        match self {
            Self::Direct(direct) => direct.gives_up(now),
            Self::Librdkafka(librdkafka) => librdkafka.gives_up(now),
        }
    }

    /// Commits, or says what the caller must do.
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

/// The partition of a record in a topic of OmniLink's own: one of those that are configured, whatever was added.
fn in_use(counts: &Counts, topic: &str, key: Option<&[u8]>) -> Option<u32> {
    let count = counts.get(topic)?;
    Some(partition_among(key, *count))
}
