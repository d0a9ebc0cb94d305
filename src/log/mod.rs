//! The log: topics of ordered, partitioned records, on Kafka or embedded, behind one interface.
//!
//! [`Log`] is a handle for everyone (append, read, look up offsets); a [`Lane`] is the exactly-once
//! side: it reads its share of the input partitions and commits outputs, keyed state and positions
//! in one transaction; a [`Source`] shares out input partitions like a lane and keeps no position:
//! projections keep theirs in Postgres.
//!
//! One conformance suite (`tests/it/log_conformance.rs`) runs against both implementations.

mod error;
mod finished;
mod followed;
mod identity;
mod partitioner;
mod range;
mod record_size;
mod survey;
mod topic_id;
pub mod topics;

#[cfg(feature = "kafka")]
pub mod kafka;
pub mod local;
pub mod memory;

use std::{
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

pub use crate::base::record::{Append, Fetched, Headers, Output, Record, header};
pub use error::{Class, Fenced, LogError, ThreadError, Unavailable};
pub use finished::Finished;
use followed::Unchanging;
pub use followed::{FollowedTopic, TopicWatch};
pub use identity::PositionFault;
pub use partitioner::{murmur2, partition_for};
pub use range::read_ranges;
pub(crate) use record_size::row_size;
pub use record_size::{BATCH_HEADER, header_size, record_size};
pub use survey::{Surveyed, survey};
use tokio::sync::oneshot;
pub use topic_id::{Described, InvalidTopicId, TopicId};
pub use topics::{Cleanup, TopicSpec};

use crate::{base::clock::Millis, state};

/// Where an appended record lies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Position {
    /// The partition, from 0.
    pub partition: u32,
    /// The offset in the partition, from 0.
    pub offset: u64,
}

/// Resolves once the records are durable (on Kafka: `acks=all`), in the order in which they were given.
pub type Acknowledged = oneshot::Receiver<Result<Vec<Position>, LogError>>;

/// First offset that is still there, and the offset that the next record will get
/// (on Kafka: the last stable offset).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OffsetRange {
    /// The first offset still there.
    pub start: u64,
    /// One past the last readable record.
    pub end: u64,
}

/// Whether records of transactions that are still open count.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Isolation {
    /// They do not: on Kafka up to the last stable offset.
    Committed,
    /// They do: on Kafka up to the high watermark.
    Uncommitted,
}

/// A transaction that holds records back: nothing behind its first record can be read before it ends.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OpenTransaction {
    /// The topic.
    pub topic: Arc<str>,
    /// The partition.
    pub partition: u32,
    /// The offset of its first record: the last stable offset.
    pub first: u64,
    /// One past the last record: the high watermark.
    pub end: u64,
    /// When the first record was appended, or made, as the topic has it; `None`: it could not be read, or its producer gave no time that
    /// can be meant.
    pub since: Option<Millis>,
}

/// Says that retention dropped records before a processor had read them, which goes on behind them; for whoever keeps a
/// position elsewhere than in the log. Offsets from the first to before the second.
pub(crate) fn announce_dropped(
    processor: &str,
    topic: &str,
    partition: u32,
    (from, to): (u64, u64),
) {
    let place = identity::Place {
        processor,
        topic,
        partition,
    };
    identity::announce_dropped(place, from, to);
}

/// A handle to the log, shared by all rooms. Calls that may wait on the network block: from async code,
/// call them in `spawn_blocking`; [`Log::append`] alone never blocks.
pub trait Log: Send + Sync {
    /// Makes missing topics; checks the partition counts of those that exist, which never change once
    /// made. With `create` false a missing topic is an error. On Kafka somebody may have added partitions to some of these
    /// topics, which cannot be undone: they are left unused, and [`Log::troubles`] says so.
    fn provision(&self, topics: &[TopicSpec], create: bool) -> Result<(), LogError>;

    /// The number of partitions of a topic; of one that was given to [`Log::provision`], how many are used.
    fn partitions(&self, topic: &str) -> Result<u32, LogError>;

    /// A topic as it is now: which one it is, and how many partitions it has. `None` if the log cannot tell.
    fn describe(&self, topic: &str) -> Result<Option<Described>, LogError> {
        Ok(Some(Described {
            id: None,
            partitions: self.partitions(topic)?,
        }))
    }

    /// Looks at which topic has this name from now on, for a [`FollowedTopic`].
    fn watch_topic(&self, topic: &str) -> Result<Box<dyn TopicWatch>, LogError> {
        let described = self.describe(topic)?;
        let id = described.and_then(|described| described.id);
        Ok(Box::new(Unchanging(id)))
    }

    /// Appends outside a transaction. Records of one call for one partition keep their order; on the local
    /// log the call is atomic. `state` is written in the same commit on the local log, and
    /// after the acknowledgement on Kafka.
    fn append(&self, records: Vec<Append>, state: Option<state::Changes>) -> Acknowledged;

    /// As [`Log::append`], but records may name their partitions. A partition that does not exist is
    /// [`LogError::UnknownTopic`]; on Kafka the other records of the call are appended nevertheless.
    fn append_to(&self, records: Vec<Output>, state: Option<state::Changes>) -> Acknowledged;

    /// A reader of chosen partitions of a topic, read-committed and durable only.
    fn reader(&self, topic: &str) -> Result<Box<dyn Reader>, LogError>;

    /// As [`Log::reader`], with records of transactions that are open or were aborted: for a topic whose records prove by
    /// themselves who wrote them, so that nobody's open transaction hides what comes after it.
    fn reader_uncommitted(&self, topic: &str) -> Result<Box<dyn Reader>, LogError> {
        self.reader(topic)
    }

    /// A lane of `processor` over `topics`: reads its share of the partitions and commits
    /// transactions. Lanes of one processor share the partitions of all nodes.
    fn lane(&self, processor: &str, topics: &[String]) -> Result<Box<dyn Lane>, LogError>;

    /// The group-managed input of a projection: its share of the partitions of `topic`, each read from the
    /// offset given to [`Source::open`].
    fn source(&self, processor: &str, topic: &str) -> Result<Box<dyn Source>, LogError>;

    /// The group-managed input of an effect, which keeps what is finished.
    fn work(&self, processor: &str, topic: &str) -> Result<Box<dyn Work>, LogError>;

    /// First and next offset of a partition.
    fn offset_range(&self, topic: &str, partition: u32) -> Result<OffsetRange, LogError>;

    /// One past the last record of each of these partitions; `None`: not known now, as while a leader is chosen. One request
    /// for all of them (on Kafka one to each broker).
    fn end_offsets(
        &self,
        partitions: &[(Arc<str>, u32)],
        _isolation: Isolation,
    ) -> Result<Vec<Option<u64>>, LogError> {
        let end = |(topic, partition): &(Arc<str>, u32)| match self.offset_range(topic, *partition)
        {
            Ok(range) => Ok(Some(range.end)),
            Err(LogError::UnknownTopic(_)) => Ok(None),
            Err(error) => Err(error),
        };
        partitions.iter().map(end).collect()
    }

    /// One past the last record of a partition, transactions that are open counted (on Kafka: the high watermark).
    fn high_watermark(&self, topic: &str, partition: u32) -> Result<u64, LogError> {
        let ends = self.end_offsets(&[(topic.into(), partition)], Isolation::Uncommitted)?;
        let unknown = || {
            let topic = topic.to_owned();
            LogError::Unavailable(Unavailable::EndUnknown { topic, partition })
        };
        ends.first().copied().flatten().ok_or_else(unknown)
    }

    /// Transactions of producers on these partitions that are open now. Only Kafka has any that last.
    fn open_transactions(
        &self,
        _partitions: &[(Arc<str>, u32)],
    ) -> Result<Vec<OpenTransaction>, LogError> {
        Ok(Vec::new())
    }

    /// The first offset whose record was appended at or after `at`; the end if there is none.
    fn offset_at(&self, topic: &str, partition: u32, at: Millis) -> Result<u64, LogError>;

    /// The committed position of a processor: the next offset that it will read; `None` if it never committed.
    fn committed(
        &self,
        processor: &str,
        topic: &str,
        partition: u32,
    ) -> Result<Option<u64>, LogError>;

    /// The committed positions of a processor in all partitions of a topic.
    fn positions(&self, processor: &str, topic: &str) -> Result<Vec<Option<u64>>, LogError> {
        (0..self.partitions(topic)?)
            .map(|partition| self.committed(processor, topic, partition))
            .collect()
    }

    /// What is wrong with the positions that a processor has committed; changes nothing.
    fn position_faults(
        &self,
        _processor: &str,
        _topic: &str,
    ) -> Result<Vec<PositionFault>, LogError> {
        Ok(Vec::new())
    }

    /// What is not as it should be with the topics that were provisioned, by the last look of this process.
    fn troubles(&self) -> Vec<String> {
        Vec::new()
    }

    /// What happens to old records of a topic; `None`: not known. On the embedded log it is what
    /// [`Log::provision`] was told.
    fn cleanup(&self, _topic: &str) -> Result<Option<Cleanup>, LogError> {
        Ok(None)
    }

    /// The largest record that a topic takes, in bytes as [`record_size`] counts them. Remembered for some seconds; on Kafka it may
    /// ask the brokers, and where they do not say it is Kafka's default.
    fn record_limit(&self, _topic: &str) -> usize {
        usize::MAX
    }

    /// The largest row of a processor's keyed state (key and value as a record), in bytes as [`record_size`] counts them.
    fn state_limit(&self, _processor: &str) -> usize {
        usize::MAX
    }

    /// The least that a topic of the system's own has to take, so that what `ingress` takes can be carried on.
    /// `None`: not one of these, or nothing that could be set.
    fn wanted_record_limit(&self, _topic: &str) -> Option<usize> {
        None
    }

    /// Forgets what is remembered of limits: a record was refused that should have fitted.
    fn forget_record_limits(&self) {}

    /// Drops what retention and compaction let go, now. It happens by itself as well; on Kafka only so.
    fn tidy(&self) -> Result<(), LogError> {
        Ok(())
    }

    /// Changes how long records of a topic are kept, if the broker keeps them for another time. On the embedded log it is what
    /// [`Log::provision`] was told. What goes wrong is logged: the topic then stays as it is.
    fn keep_for(&self, _topic: &str, _retention_ms: i64) {}

    /// Why this log, or the state beside it, cannot be written any more: the process is to end, and the next start recovers.
    fn failure(&self) -> Option<String> {
        None
    }

    /// Whether the log answers now; for readiness. The text says what is wrong.
    fn health(&self) -> Result<(), LogError>;
}

/// Reads chosen partitions of one topic.
pub trait Reader: Send {
    /// Starts to read a partition at an offset (one past the end is the end; offsets that retention has
    /// dropped read from the first one left). May be called again to seek.
    fn assign(&mut self, partition: u32, offset: u64) -> Result<(), LogError>;

    /// As [`Reader::assign`], and nothing at or after `end` is wanted: whoever asks leaves out what comes all the same.
    fn assign_range(&mut self, partition: u32, offset: u64, _end: u64) -> Result<(), LogError> {
        self.assign(partition, offset)
    }

    /// Whether all of a partition has been read that was readable at the last poll. Offsets alone do not say so: markers
    /// of transactions and compaction leave some without a record.
    fn at_end(&self, partition: u32) -> bool;

    /// Appends records to `out` as soon as there are any, else returns after `wait`. At most about
    /// 10,000 records or 8 MiB a call.
    fn poll(&mut self, wait: Duration, out: &mut Vec<Fetched>) -> Result<(), LogError>;
}

/// What a poll of shared-out input met.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Polled {
    /// Records were appended to `out`, or none came within the wait.
    Records,
    /// Partitions are ours now (topic index in the order given, partition): call `open` for each.
    Assigned(Vec<(usize, u32)>),
    /// Partitions are to be given up: commit what is open, then call `release`.
    Revoked(Vec<(usize, u32)>),
    /// Partitions were taken: drop what is open, commit nothing, then call `release`.
    Lost(Vec<(usize, u32)>),
}

/// Input shared out among the nodes, whose position is kept elsewhere.
pub trait Source: Send {
    /// As [`Reader::poll`]; hands on changes of the assignment.
    fn poll(&mut self, wait: Duration, out: &mut Vec<Fetched>) -> Result<Polled, LogError>;

    /// Which topic it is now, for whoever keeps positions in it. `None`: the log cannot tell. From the next
    /// [`Source::open`] on, another topic under this name is [`LogError::Recreated`].
    fn topic_id(&mut self) -> Result<Option<TopicId>, LogError> {
        Ok(None)
    }

    /// Begins to read an assigned partition at `offset`; may be called again to seek. An offset outside
    /// the log is [`LogError::OutOfRange`], never a reset.
    fn open(&mut self, partition: u32, offset: u64) -> Result<(), LogError>;

    /// Gives up partitions after [`Polled::Revoked`] or [`Polled::Lost`].
    fn release(&mut self, partitions: &[(usize, u32)]) -> Result<(), LogError>;
}

/// The input of an effect: work may finish out of order, and what finished beyond the low-water mark is kept with it,
/// so that one slow call makes nothing else repeat.
pub trait Work: Send {
    /// As [`Source::poll`].
    fn poll(&mut self, wait: Duration, out: &mut Vec<Fetched>) -> Result<Polled, LogError>;

    /// Begins to read an assigned partition at its low-water mark, and says what is finished.
    fn open(&mut self, partition: u32) -> Result<Finished, LogError>;

    /// Keeps what is finished.
    fn commit(&mut self, partition: u32, finished: &Finished) -> Result<(), LogError>;

    /// Gives up partitions after [`Polled::Revoked`] or [`Polled::Lost`].
    fn release(&mut self, partitions: &[(usize, u32)]) -> Result<(), LogError>;
}

/// One transaction of a lane: all of it is committed, or nothing.
#[derive(Default, Debug)]
pub struct Transaction {
    /// Records to append.
    pub outputs: Vec<Output>,
    /// Changes of keyed state, and on Kafka its changelog.
    pub state: state::Changes,
    /// Input consumed: (topic index, partition, next offset).
    pub positions: Vec<(usize, u32, u64)>,
}

/// The exactly-once input of a transform.
pub trait Lane: Send {
    /// Hands over the flag that asks the lane to stop: a commit that waits for the log gives up soon after it is set.
    fn stop_with(&mut self, _stop: Arc<AtomicBool>) {}

    /// Makes a busy lane commit more often: records are processed sooner, at a higher cost of each.
    fn hurry(&mut self) {}

    /// As [`Source::poll`].
    fn poll(&mut self, wait: Duration, out: &mut Vec<Fetched>) -> Result<Polled, LogError>;

    /// Does for assigned partitions at once what [`Lane::open`] else does for each: to be called before they are opened.
    fn prepare(&mut self, _partitions: &[(usize, u32)]) -> Result<(), LogError> {
        Ok(())
    }

    /// Restores the keyed state of an assigned partition and begins to read it at the committed position,
    /// which is returned. Where the topic was made again since, or retention has passed the position, that is said aloud and
    /// reading begins at the start; a log that ends before the position is [`LogError::LostEnd`].
    fn open(&mut self, topic: usize, partition: u32) -> Result<u64, LogError>;

    /// Reads an open partition again from its committed position, which is `offset`; the state is as it was.
    fn seek(&mut self, topic: usize, partition: u32, offset: u64) -> Result<(), LogError>;

    /// Stops fetching all open partitions, which stay assigned; [`Lane::seek`] reads one on. Records may still come from a lane
    /// that cannot stop.
    fn pause(&mut self) {}

    /// Gives up partitions after [`Polled::Revoked`] or [`Polled::Lost`].
    fn release(&mut self, partitions: &[(usize, u32)]) -> Result<(), LogError>;

    /// Commits. [`Class::Abortable`] means that nothing was committed: drop uncommitted state, `open` again.
    /// [`Class::Fatal`]: build a new lane.
    fn commit(&mut self, transaction: Transaction) -> Result<(), LogError>;

    /// First and next offset of an input partition, for timers: one due at T fires after the lane has read past the
    /// end that it saw at or after T.
    fn offset_range(&self, topic: usize, partition: u32) -> Result<OffsetRange, LogError>;

    /// One past the last offset that polls have returned of an open partition. Offsets without a record (markers of
    /// transactions, aborted records) count as returned once the polls are past them.
    fn handed_out(&self, topic: usize, partition: u32) -> Result<u64, LogError>;

    /// Whether no record lies in these offsets of an input partition. Reads the log: only for partitions whose last offsets
    /// have no record for long, such as after compaction, which [`Lane::handed_out`] does not see.
    fn is_empty(
        &mut self,
        _topic: usize,
        _partition: u32,
        _offsets: OffsetRange,
    ) -> Result<bool, LogError> {
        Ok(false)
    }

    /// The keyed state of this node.
    fn state(&self) -> &state::StateStore;
}
