//! The reader of the in-memory log.

use std::{sync::Arc, time::Duration};

use super::Shared;
use crate::log::{Fetched, LogError, Reader};

/// The read positions in some topics.
pub(super) struct Cursor {
    shared: Arc<Shared>,
    pub(super) topics: Vec<String>,
    assigned: Vec<Assigned>,
    /// The index in `assigned` at which the next poll starts, so that no partition starves.
    turn: usize,
}

struct Assigned {
    topic: usize,
    partition: u32,
    next: u64,
    /// One past the last offset to be read.
    end: u64,
}

impl Cursor {
    pub(super) fn new<T: AsRef<str>>(shared: Arc<Shared>, topics: &[T]) -> Result<Self, LogError> {
        for topic in topics {
            shared.content.lock().topic(topic.as_ref())?;
        }
        Ok(Self {
            shared,
            topics: topics.iter().map(|topic| topic.as_ref().into()).collect(),
            assigned: Vec::new(),
            turn: 0,
        })
    }

    pub(super) fn assign(
        &mut self,
        topic: usize,
        partition: u32,
        next: u64,
        end: u64,
    ) -> Result<(), LogError> {
        let content = self.shared.content.lock();
        content.records(&self.topics[topic], partition)?;
        drop(content);
        self.release(topic, partition);
        self.assigned.push(Assigned {
            topic,
            partition,
            next,
            end,
        });
        Ok(())
    }

    /// The next offset of an assigned partition.
    pub(super) fn next(&self, topic: usize, partition: u32) -> Option<u64> {
        let mut assigned = self.assigned.iter();
        let at = assigned.find(|at| (at.topic, at.partition) == (topic, partition))?;
        Some(at.next)
    }

    pub(super) fn release(&mut self, topic: usize, partition: u32) {
        self.assigned
            .retain(|at| (at.topic, at.partition) != (topic, partition));
    }

    pub(super) fn poll(&mut self, out: &mut Vec<Fetched>) -> Result<(), LogError> {
        let content = self.shared.content.lock();
        let mut room = content.poll_records;
        let count = self.assigned.len();
        for n in 0..count {
            let index = (self.turn + n) % count;
            let at = &mut self.assigned[index];
            let records = content.records(&self.topics[at.topic], at.partition)?;
            let end = (records.len() as u64).min(at.end);
            let next = at.next.saturating_add(room as u64).min(end);
            if next <= at.next {
                continue;
            }
            let read = &records[at.next as usize..next as usize];
            room -= read.len();
            at.next = next;
            out.extend(read.iter().map(|fetched| Fetched {
                topic: at.topic,
                ..fetched.clone()
            }));
            if room == 0 {
                self.turn = index + 1;
                break;
            }
        }
        Ok(())
    }
}

pub(super) struct MemoryReader(pub(super) Cursor);

impl Reader for MemoryReader {
    fn assign(&mut self, partition: u32, offset: u64) -> Result<(), LogError> {
        self.0.assign(0, partition, offset, u64::MAX)
    }

    fn assign_range(&mut self, partition: u32, offset: u64, end: u64) -> Result<(), LogError> {
        self.0.assign(0, partition, offset, end)
    }

    fn at_end(&self, partition: u32) -> bool {
        let Cursor {
            shared,
            topics,
            assigned,
            ..
        } = &self.0;
        let content = shared.content.lock();
        let end = content
            .records(&topics[0], partition)
            .map_or(0, |records| records.len() as u64);
        let mut assigned = assigned.iter();
        assigned.any(|at| at.partition == partition && at.next >= end.min(at.end))
    }

    fn poll(&mut self, _wait: Duration, out: &mut Vec<Fetched>) -> Result<(), LogError> {
        self.0.poll(out)
    }
}
