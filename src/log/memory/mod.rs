//! The in-memory log, for simulations and tests: single-threaded, without waits, deterministic.
//!
//! Records can be read as soon as they are appended or committed, with timestamps of the given clock. A poll returns at once, whatever
//! its wait. Nothing is deleted or compacted. A lane has its own keyed state, which it restores from the changelog when it opens a
//! partition, as on Kafka. Dropping a lane simulates a crash: its commits remain for the next one.
//!
//! The newest lane of a processor owns all partitions and fences its predecessors, as on the embedded log, until a test controls the
//! group with [`MemoryLog::control`]. [`MemoryLog::fail`] makes calls fail.

mod content;
mod group;
mod lane;
mod reader;

use std::sync::Arc;

use content::Content;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::{
    Acknowledged, Append, Cleanup, Lane, Log, LogError, OffsetRange, Output, Reader, Source,
    TopicSpec, Work,
};
use crate::{
    base::clock::{Clock, Millis},
    state::{Changes, StateStore},
};

/// An in-memory log.
pub struct MemoryLog {
    shared: Arc<Shared>,
}

struct Shared {
    clock: Arc<dyn Clock>,
    content: Mutex<Content>,
}

/// The number of a lane, source or work of a processor, in the order of creation, from 0.
pub type MemberId = usize;

/// A simulated failure.
#[derive(Clone, Debug)]
pub enum Fault {
    /// A poll fails.
    Poll(LogError),
    /// A commit fails, without any effect.
    Commit(LogError),
    /// A commit succeeds, but its answer is lost.
    CommitAnswer(LogError),
}

impl MemoryLog {
    /// An empty log.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            shared: Arc::new(Shared {
                clock,
                content: Mutex::default(),
            }),
        }
    }

    /// Sets the most records that one poll returns.
    pub fn set_poll_records(&self, most: usize) {
        self.shared.content.lock().poll_records = most;
    }

    /// From now on the test assigns the partitions of a processor; there is no automatic assignment.
    pub fn control(&self, processor: &str) {
        self.shared.content.lock().group(processor).controlled = true;
    }

    /// The present members of a processor's group that are not fenced, the oldest first.
    pub fn members(&self, processor: &str) -> Vec<MemberId> {
        self.shared.content.lock().group(processor).members()
    }

    /// The owner of a partition (topic index, partition); `None`: it is not assigned.
    pub fn owner(&self, processor: &str, partition: (usize, u32)) -> Option<MemberId> {
        self.shared.content.lock().group(processor).owner(partition)
    }

    /// Assigns partitions to a member. A previous owner gets no event, and is fenced: all its commits fail from now on.
    pub fn assign(&self, processor: &str, member: MemberId, partitions: &[(usize, u32)]) {
        let mut content = self.shared.content.lock();
        content.group(processor).assign(member, partitions);
    }

    /// Revokes partitions from their owners, which may commit until they release them.
    pub fn revoke(&self, processor: &str, partitions: &[(usize, u32)]) {
        self.shared
            .content
            .lock()
            .group(processor)
            .revoke(partitions);
    }

    /// Takes partitions from their owners, which get the event [`Polled::Lost`](crate::log::Polled::Lost).
    pub fn lose(&self, processor: &str, partitions: &[(usize, u32)]) {
        self.shared.content.lock().group(processor).lose(partitions);
    }

    /// The committed keyed state of all processors, as the changelog has it now and later.
    pub fn state(&self) -> StateStore {
        self.shared.content.lock().changelog()
    }

    /// Makes the next call of this kind by a member of the processor's group fail. Several faults occur in the order of the calls.
    pub fn fail(&self, processor: &str, fault: Fault) {
        let mut content = self.shared.content.lock();
        content.group(processor).faults.push_back(fault);
    }
}

impl Log for MemoryLog {
    fn provision(&self, topics: &[TopicSpec], create: bool) -> Result<(), LogError> {
        self.shared.content.lock().provision(topics, create)
    }

    fn partitions(&self, topic: &str) -> Result<u32, LogError> {
        Ok(self.shared.content.lock().topic(topic)?.partitions())
    }

    fn append(&self, records: Vec<Append>, state: Option<Changes>) -> Acknowledged {
        self.append_to(records.into_iter().map(Output::from).collect(), state)
    }

    fn append_to(&self, records: Vec<Output>, state: Option<Changes>) -> Acknowledged {
        let now = self.shared.clock.now();
        let mut content = self.shared.content.lock();
        let records = records.into_iter();
        let records = records.map(|one| (one.topic, one.partition, one.record));
        let appended = content.append(records.collect(), now).and_then(|at| {
            content.log_changes(state.unwrap_or_default())?;
            Ok(at)
        });
        let (answer, acknowledged) = oneshot::channel();
        // The receiver exists, so this cannot fail.
        let _ = answer.send(appended);
        acknowledged
    }

    fn reader(&self, topic: &str) -> Result<Box<dyn Reader>, LogError> {
        let topics = std::slice::from_ref(&topic);
        let cursor = reader::Cursor::new(Arc::clone(&self.shared), topics)?;
        Ok(Box::new(reader::MemoryReader(cursor)))
    }

    fn lane(&self, processor: &str, topics: &[String]) -> Result<Box<dyn Lane>, LogError> {
        let member = group::Member::join(&self.shared, processor, topics)?;
        Ok(Box::new(lane::MemoryLane::new(member)))
    }

    fn source(&self, processor: &str, topic: &str) -> Result<Box<dyn Source>, LogError> {
        let member = group::Member::join(&self.shared, processor, &[topic])?;
        Ok(Box::new(lane::MemorySource(member)))
    }

    fn work(&self, processor: &str, topic: &str) -> Result<Box<dyn Work>, LogError> {
        let member = group::Member::join(&self.shared, processor, &[topic])?;
        Ok(Box::new(lane::MemoryWork(member)))
    }

    fn offset_range(&self, topic: &str, partition: u32) -> Result<OffsetRange, LogError> {
        self.shared.content.lock().offset_range(topic, partition)
    }

    fn offset_at(&self, topic: &str, partition: u32, at: Millis) -> Result<u64, LogError> {
        self.shared.content.lock().offset_at(topic, partition, at)
    }

    fn committed(
        &self,
        processor: &str,
        topic: &str,
        partition: u32,
    ) -> Result<Option<u64>, LogError> {
        let content = self.shared.content.lock();
        let position = content.position(processor, topic, partition);
        Ok(position.map(|position| position.next))
    }

    fn cleanup(&self, topic: &str) -> Result<Option<Cleanup>, LogError> {
        Ok(Some(self.shared.content.lock().topic(topic)?.cleanup))
    }

    fn health(&self) -> Result<(), LogError> {
        Ok(())
    }
}
