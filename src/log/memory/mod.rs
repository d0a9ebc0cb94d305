//! The log in memory, for simulation and tests: one thread, no waiting, and the same run every time.
//!
//! What is appended or committed can be read at once, and is stamped by the clock that is handed in; a poll returns at once
//! whatever it may wait. Nothing is dropped or compacted. A lane keeps its keyed state to itself and restores it from the changelog
//! when it opens a partition, as on Kafka. A crash is to drop a lane: what it committed is still here for the next one.
//!
//! The newest lane of a processor owns all partitions and fences those before it, as on the embedded log, until a test takes the
//! group in hand with [`MemoryLog::control`]. Calls that fail are asked for with [`MemoryLog::fail`].

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
    state::Changes,
};

/// A log in memory.
pub struct MemoryLog {
    shared: Arc<Shared>,
}

struct Shared {
    clock: Arc<dyn Clock>,
    content: Mutex<Content>,
}

/// A lane, source or work of a processor, in the order in which they were made; from 0.
pub type MemberId = usize;

/// What is to go wrong.
#[derive(Clone, Debug)]
pub enum Fault {
    /// A poll fails.
    Poll(LogError),
    /// A commit fails, and nothing of it is done.
    Commit(LogError),
    /// A commit is done, and its answer is lost.
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

    /// The most records that one poll gives.
    pub fn set_poll_records(&self, most: usize) {
        self.shared.content.lock().poll_records = most;
    }

    /// The test shares out the partitions of a processor from now on: nothing is assigned by itself.
    pub fn control(&self, processor: &str) {
        self.shared.content.lock().group(processor).controlled = true;
    }

    /// The members of a processor's group that are there and not fenced, the oldest first.
    pub fn members(&self, processor: &str) -> Vec<MemberId> {
        self.shared.content.lock().group(processor).members()
    }

    /// Who owns a partition (topic index, partition). One that has no owner waits to be assigned.
    pub fn owner(&self, processor: &str, partition: (usize, u32)) -> Option<MemberId> {
        self.shared.content.lock().group(processor).owner(partition)
    }

    /// Gives partitions to a member. An owner before it is not told, and is fenced: all its commits fail from now on.
    pub fn assign(&self, processor: &str, member: MemberId, partitions: &[(usize, u32)]) {
        let mut content = self.shared.content.lock();
        content.group(processor).assign(member, partitions);
    }

    /// Asks the owners for partitions back: until they release them, they may commit.
    pub fn revoke(&self, processor: &str, partitions: &[(usize, u32)]) {
        self.shared
            .content
            .lock()
            .group(processor)
            .revoke(partitions);
    }

    /// Takes partitions from their owners, who are told.
    pub fn lose(&self, processor: &str, partitions: &[(usize, u32)]) {
        self.shared.content.lock().group(processor).lose(partitions);
    }

    /// The next call of this kind by a member of the processor's group fails. Several are met in the order in which they were
    /// asked for.
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
        // The other end is here.
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
