//! The log: topics of ordered, partitioned records, on Kafka or embedded, behind one interface.
//!
//! [`Log`] is the shared handle (append, read, look up offsets). A [`Lane`] processes exactly once: it reads its assigned partitions
//! and commits outputs, keyed state and positions in one transaction. A [`Source`] assigns input partitions like a lane, but stores
//! no position: projections store theirs in Postgres.
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

/// The position of an appended record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Position {
    /// The partition, from 0.
    pub partition: u32,
    /// The offset in the partition, from 0.
    pub offset: u64,
}

/// Resolves once the records are durable (on Kafka: `acks=all`), in the order in which they were given.
pub type Acknowledged = oneshot::Receiver<Result<Vec<Position>, LogError>>;

/// The offsets of a partition: the first one that has not been deleted, and the one that the next record will get (on Kafka: the last
/// stable offset).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OffsetRange {
    /// The first offset that has not been deleted.
    pub start: u64,
    /// One past the last readable record.
    pub end: u64,
}

/// Whether records of open transactions are included, as Kafka's `isolation.level`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Isolation {
    /// They are not: on Kafka up to the last stable offset.
    Committed,
    /// They are: on Kafka up to the high watermark.
    Uncommitted,
}

/// An open transaction: read-committed readers stop before its first record until it ends.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OpenTransaction {
    /// The full topic name.
    pub topic: Arc<str>,
    /// The partition, from 0.
    pub partition: u32,
    /// The offset of its first record: the last stable offset.
    pub first: u64,
    /// One past the last record: the high watermark.
    pub end: u64,
    /// When the first record was appended, or made, as the topic has it; `None`: it could not be read, or its producer gave no
    /// plausible time.
    pub since: Option<Millis>,
}

/// Reports that retention deleted records (offsets `from` to before `to`) before a processor had read them. For processors that store
/// their position outside the log.
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

/// A handle to the log, shared by all modules. Calls may block on the network, so async code must call them in `spawn_blocking`; only
/// [`Log::append`] and [`Log::append_to`] never block.
pub trait Log: Send + Sync {
    /// Creates missing topics, and checks the partition counts of existing ones, which never change. With `create` false a missing
    /// topic is an error. On Kafka partitions may have been added to some of these topics, which cannot be undone: they stay unused,
    /// and [`Log::troubles`] reports them.
    fn provision(&self, topics: &[TopicSpec], create: bool) -> Result<(), LogError>;

    /// The number of partitions of a topic; for one given to [`Log::provision`], the number in use.
    fn partitions(&self, topic: &str) -> Result<u32, LogError>;

    /// The current id and partition count of a topic. `None`: unknown.
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

    /// Appends outside a transaction. Records of one call for one partition keep their order; on the embedded log the call is atomic.
    /// `state` is written in the same commit on the embedded log, and after the acknowledgement on Kafka.
    fn append(&self, records: Vec<Append>, state: Option<state::Changes>) -> Acknowledged;

    /// As [`Log::append`], but records may have a partition. One that does not exist is
    /// [`LogError::UnknownTopic`]; on Kafka the other records of the call are appended nevertheless.
    fn append_to(&self, records: Vec<Output>, state: Option<state::Changes>) -> Acknowledged;

    /// A reader of chosen partitions of a topic, which sees only committed and durable records.
    fn reader(&self, topic: &str) -> Result<Box<dyn Reader>, LogError>;

    /// As [`Log::reader`], including records of open and aborted transactions. For a topic with authenticated records, so that an open
    /// transaction of another producer does not block the records after it.
    fn reader_uncommitted(&self, topic: &str) -> Result<Box<dyn Reader>, LogError> {
        self.reader(topic)
    }

    /// A lane of `processor` over `topics`, which reads its assigned partitions and commits transactions. The partitions are
    /// distributed over the lanes of the processor on all nodes.
    fn lane(&self, processor: &str, topics: &[String]) -> Result<Box<dyn Lane>, LogError>;

    /// The input of a projection, with partitions of `topic` assigned by the group. Each is read from the offset given to
    /// [`Source::open`].
    fn source(&self, processor: &str, topic: &str) -> Result<Box<dyn Source>, LogError>;

    /// The input of an effect, with partitions assigned by the group. It stores the finished work.
    fn work(&self, processor: &str, topic: &str) -> Result<Box<dyn Work>, LogError>;

    /// The offsets of a partition.
    fn offset_range(&self, topic: &str, partition: u32) -> Result<OffsetRange, LogError>;

    /// One past the last record of each of these partitions; `None`: currently unknown, as during a leader election. Uses one request
    /// (on Kafka one to each broker).
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

    /// One past the last record of a partition, including open transactions (on Kafka: the high watermark).
    fn high_watermark(&self, topic: &str, partition: u32) -> Result<u64, LogError> {
        let ends = self.end_offsets(&[(topic.into(), partition)], Isolation::Uncommitted)?;
        let unknown = || {
            let topic = topic.to_owned();
            LogError::Unavailable(Unavailable::EndUnknown { topic, partition })
        };
        ends.first().copied().flatten().ok_or_else(unknown)
    }

    /// The open transactions on these partitions. Only Kafka has any that last.
    fn open_transactions(
        &self,
        _partitions: &[(Arc<str>, u32)],
    ) -> Result<Vec<OpenTransaction>, LogError> {
        Ok(Vec::new())
    }

    /// The first offset whose record was appended at or after `at`; the end if there is none.
    fn offset_at(&self, topic: &str, partition: u32, at: Millis) -> Result<u64, LogError>;

    /// The committed position of a processor: the next offset that it will read; `None` if it has never committed.
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

    /// Faults in the committed positions of a processor. Changes nothing.
    fn position_faults(
        &self,
        _processor: &str,
        _topic: &str,
    ) -> Result<Vec<PositionFault>, LogError> {
        Ok(Vec::new())
    }

    /// Faults in the provisioned topics, by the last check of this process; each a sentence.
    fn troubles(&self) -> Vec<String> {
        Vec::new()
    }

    /// The cleanup policy of a topic; `None`: unknown. On the embedded log it is the one given to [`Log::provision`].
    fn cleanup(&self, _topic: &str) -> Result<Option<Cleanup>, LogError> {
        Ok(None)
    }

    /// The largest record of a topic, in bytes as [`record_size`] counts them. On Kafka this may send a request, and is cached for some
    /// seconds; it is Kafka's default if the brokers do not answer.
    fn record_limit(&self, _topic: &str) -> usize {
        usize::MAX
    }

    /// The largest row of a processor's keyed state (key and value as a record), in bytes as [`record_size`] counts them.
    fn state_limit(&self, _processor: &str) -> usize {
        usize::MAX
    }

    /// The smallest record limit that one of OmniLink's own topics needs for all records of `ingress` to be processed, in bytes. `None`:
    /// another topic, or a log without such a setting.
    fn wanted_record_limit(&self, _topic: &str) -> Option<usize> {
        None
    }

    /// Invalidates cached record limits, after a record was refused that should have fitted.
    fn forget_record_limits(&self) {}

    /// Applies retention and compaction now. This also happens in the background; on Kafka only there.
    fn tidy(&self) -> Result<(), LogError> {
        Ok(())
    }

    /// Sets the retention of a topic, if the broker has another one. On the embedded log the retention is the one given to
    /// [`Log::provision`]. Errors are logged, and the topic stays as it is.
    fn keep_for(&self, _topic: &str, _retention_ms: i64) {}

    /// Why this log, or the state beside it, cannot be written any more: the process should exit, and the next start recovers.
    fn failure(&self) -> Option<String> {
        None
    }

    /// Whether the log is available now; for readiness.
    fn health(&self) -> Result<(), LogError>;
}

/// Reads chosen partitions of one topic.
pub trait Reader: Send {
    /// Starts to read a partition at an offset. An offset past the end is taken as the end, and one that retention has deleted as the
    /// first remaining one. May be called again to seek.
    fn assign(&mut self, partition: u32, offset: u64) -> Result<(), LogError>;

    /// As [`Reader::assign`], with a hint that records at or after `end` are not needed. They may still be returned, and the caller must
    /// skip them.
    fn assign_range(&mut self, partition: u32, offset: u64, _end: u64) -> Result<(), LogError> {
        self.assign(partition, offset)
    }

    /// Whether all records of a partition that were readable at the last poll have been returned. Offsets alone do not tell, since
    /// transaction markers and compaction leave offsets without a record.
    fn at_end(&self, partition: u32) -> bool;

    /// Appends records to `out` as soon as there are any, or returns after `wait`. At most about 10,000 records or 8 MiB per call.
    fn poll(&mut self, wait: Duration, out: &mut Vec<Fetched>) -> Result<(), LogError>;
}

/// The result of a poll of group-assigned input.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Polled {
    /// Records were appended to `out`, or none came within the wait.
    Records,
    /// Partitions (topic index in the order given, partition) were assigned: call `open` for each.
    Assigned(Vec<(usize, u32)>),
    /// Partitions are being revoked: commit open work, then call `release`.
    Revoked(Vec<(usize, u32)>),
    /// Partitions were lost: drop open work without a commit, then call `release`.
    Lost(Vec<(usize, u32)>),
}

/// Input with group-assigned partitions, whose positions are stored elsewhere.
pub trait Source: Send {
    /// As [`Reader::poll`]; also returns changes of the assignment.
    fn poll(&mut self, wait: Duration, out: &mut Vec<Fetched>) -> Result<Polled, LogError>;

    /// The current id of the topic, to be stored with positions. `None`: unknown. After the next [`Source::open`], another topic with
    /// this name is [`LogError::Recreated`].
    fn topic_id(&mut self) -> Result<Option<TopicId>, LogError> {
        Ok(None)
    }

    /// Starts to read an assigned partition at `offset`; may be called again to seek. An offset outside the log is
    /// [`LogError::OutOfRange`], never a reset.
    fn open(&mut self, partition: u32, offset: u64) -> Result<(), LogError>;

    /// Gives up partitions after [`Polled::Revoked`] or [`Polled::Lost`].
    fn release(&mut self, partitions: &[(usize, u32)]) -> Result<(), LogError>;
}

/// The input of an effect. Work may finish out of order; the work finished beyond the low-water mark is stored with it, so that a slow
/// call does not cause others to be repeated.
pub trait Work: Send {
    /// As [`Source::poll`].
    fn poll(&mut self, wait: Duration, out: &mut Vec<Fetched>) -> Result<Polled, LogError>;

    /// Starts to read an assigned partition at its low-water mark, and returns the finished work.
    fn open(&mut self, partition: u32) -> Result<Finished, LogError>;

    /// Stores the finished work.
    fn commit(&mut self, partition: u32, finished: &Finished) -> Result<(), LogError>;

    /// Reads nothing more of an assigned partition until [`Work::resume`].
    fn pause(&mut self, partition: u32) -> Result<(), LogError>;

    /// Reads a paused partition on from `offset`.
    fn resume(&mut self, partition: u32, offset: u64) -> Result<(), LogError>;

    /// Gives up partitions after [`Polled::Revoked`] or [`Polled::Lost`].
    fn release(&mut self, partitions: &[(usize, u32)]) -> Result<(), LogError>;
}

/// One transaction of a lane, committed atomically.
#[derive(Default, Debug)]
pub struct Transaction {
    /// Records to append.
    pub outputs: Vec<Output>,
    /// Changes of keyed state; on Kafka they are also written to the changelog.
    pub state: state::Changes,
    /// Input consumed: (topic index, partition, next offset).
    pub positions: Vec<(usize, u32, u64)>,
}

/// The exactly-once input of a transform.
pub trait Lane: Send {
    /// Sets the flag that asks the lane to stop: a commit that waits for the log gives up soon after the flag is set.
    fn stop_with(&mut self, _stop: Arc<AtomicBool>) {}

    /// Makes a busy lane commit more often: latency is lower, at a higher cost per record.
    fn hurry(&mut self) {}

    /// As [`Source::poll`].
    fn poll(&mut self, wait: Duration, out: &mut Vec<Fetched>) -> Result<Polled, LogError>;

    /// Prepares assigned partitions together, which [`Lane::open`] otherwise does one by one. To be called before they are opened.
    fn prepare(&mut self, _partitions: &[(usize, u32)]) -> Result<(), LogError> {
        Ok(())
    }

    /// Restores the keyed state of an assigned partition and starts to read it at the committed position, which is returned. If the
    /// topic was recreated, or retention has passed the position, this is reported and reading begins at the start; a log that ends
    /// before the position is [`LogError::LostEnd`].
    fn open(&mut self, topic: usize, partition: u32) -> Result<u64, LogError>;

    /// Seeks an open partition to its committed position, which is `offset`; the state is unchanged.
    fn seek(&mut self, topic: usize, partition: u32, offset: u64) -> Result<(), LogError>;

    /// Pauses all open partitions, which stay assigned; [`Lane::seek`] resumes one. A lane that cannot pause may still return records.
    fn pause(&mut self) {}

    /// Gives up partitions after [`Polled::Revoked`] or [`Polled::Lost`].
    fn release(&mut self, partitions: &[(usize, u32)]) -> Result<(), LogError>;

    /// Commits. [`Class::Abortable`] means that nothing was committed: drop uncommitted state, `open` again.
    /// [`Class::Fatal`]: build a new lane.
    fn commit(&mut self, transaction: Transaction) -> Result<(), LogError>;

    /// The offsets of an input partition, for timers: one due at T fires after the lane has read past the end that it saw at or after T.
    fn offset_range(&self, topic: usize, partition: u32) -> Result<OffsetRange, LogError>;

    /// One past the last offset of an open partition that polls have returned. Offsets without a record (transaction markers, aborted
    /// records) count as returned once polls have passed them.
    fn handed_out(&self, topic: usize, partition: u32) -> Result<u64, LogError>;

    /// Whether an input partition has no record in these offsets. Reads the log, so it is only for partitions whose last offsets have
    /// had no record for long, such as after compaction, which [`Lane::handed_out`] does not see.
    fn is_empty(
        &mut self,
        _topic: usize,
        _partition: u32,
        _offsets: OffsetRange,
    ) -> Result<bool, LogError> {
        Ok(false)
    }

    /// The keyed state on this node.
    fn state(&self) -> &state::StateStore;
}
