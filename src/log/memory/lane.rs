//! Lanes, sources and work of the in-memory log.

use std::{collections::BTreeSet, time::Duration};

use super::{Fault, content::CommittedPosition, group::Member};
use crate::{
    log::{Fetched, Finished, Lane, LogError, OffsetRange, Polled, Source, Transaction, Work},
    state::{Space, StateStore},
};

pub(super) struct MemoryLane {
    member: Member,
    state: StateStore,
    /// Partitions whose state has been restored from the changelog.
    restored: BTreeSet<u32>,
}

impl MemoryLane {
    pub(super) fn new(member: Member) -> Self {
        Self {
            member,
            state: StateStore::in_memory(),
            restored: BTreeSet::new(),
        }
    }

    /// `Some`: it was committed, but the answer is lost.
    fn try_commit(&self, transaction: Transaction) -> Result<Option<LogError>, LogError> {
        let Self { member, state, .. } = self;
        let (shared, processor) = (&member.shared, &member.processor);
        let now = shared.clock.now();
        let mut content = shared.content.lock();
        let group = content.group(processor);
        let fault = group.fault(|fault| !matches!(fault, Fault::Poll(_)));
        if let Some(Fault::Commit(error)) = fault {
            return Err(error);
        }
        let positions = &transaction.positions;
        let partitions = positions.iter().map(|(topic, at, _)| (*topic, *at));
        member.check_owner(group, partitions)?;
        let outputs = transaction.outputs.into_iter();
        let outputs = outputs.map(|output| (output.topic, output.partition, output.record));
        content.append(outputs.collect(), now)?;
        state.apply(&transaction.state, &[])?;
        content.log_changes(transaction.state)?;
        for (topic, partition, next) in transaction.positions {
            let position = CommittedPosition {
                next,
                metadata: String::new(),
            };
            content.set_position(processor, &member.cursor.topics[topic], partition, position);
        }
        match fault {
            Some(Fault::CommitAnswer(error)) => Ok(Some(error)),
            _ => Ok(None),
        }
    }
}

impl Lane for MemoryLane {
    fn poll(&mut self, _wait: Duration, out: &mut Vec<Fetched>) -> Result<Polled, LogError> {
        self.member.poll(out)
    }

    fn open(&mut self, topic: usize, partition: u32) -> Result<u64, LogError> {
        let Member {
            shared,
            processor,
            cursor,
            ..
        } = &mut self.member;
        let content = shared.content.lock();
        if self.restored.insert(partition) {
            content.restore(&Space::new(processor, partition), &self.state)?;
        }
        let position = content.position(processor, &cursor.topics[topic], partition);
        let next = position.map_or(0, |position| position.next);
        drop(content);
        cursor.assign(topic, partition, next, u64::MAX)?;
        Ok(next)
    }

    fn seek(&mut self, topic: usize, partition: u32, offset: u64) -> Result<(), LogError> {
        self.member
            .cursor
            .assign(topic, partition, offset, u64::MAX)
    }

    fn release(&mut self, partitions: &[(usize, u32)]) -> Result<(), LogError> {
        for (_, partition) in partitions {
            self.restored.remove(partition);
        }
        self.member.release(partitions);
        Ok(())
    }

    fn commit(&mut self, transaction: Transaction) -> Result<(), LogError> {
        let committed = self.try_commit(transaction);
        let error = match committed {
            Ok(None) => return Ok(()),
            Ok(Some(error)) | Err(error) => error,
        };
        // The outcome may be unknown: the state is restored from the changelog.
        self.restored.clear();
        Err(error)
    }

    fn offset_range(&self, topic: usize, partition: u32) -> Result<OffsetRange, LogError> {
        let Member { shared, cursor, .. } = &self.member;
        let content = shared.content.lock();
        content.offset_range(&cursor.topics[topic], partition)
    }

    fn handed_out(&self, topic: usize, partition: u32) -> Result<u64, LogError> {
        Ok(self.member.cursor.next(topic, partition).unwrap_or(0))
    }

    fn state(&self) -> &StateStore {
        &self.state
    }
}

pub(super) struct MemorySource(pub(super) Member);

impl Source for MemorySource {
    fn poll(&mut self, _wait: Duration, out: &mut Vec<Fetched>) -> Result<Polled, LogError> {
        self.0.poll(out)
    }

    fn open(&mut self, partition: u32, offset: u64) -> Result<(), LogError> {
        let topic = &self.0.cursor.topics[0];
        let content = self.0.shared.content.lock();
        let OffsetRange { start, end } = content.offset_range(topic, partition)?;
        drop(content);
        if offset > end {
            return Err(LogError::OutOfRange {
                topic: topic.clone(),
                partition,
                offset,
                start,
                end,
            });
        }
        self.0.cursor.assign(0, partition, offset, u64::MAX)
    }

    fn release(&mut self, partitions: &[(usize, u32)]) -> Result<(), LogError> {
        self.0.release(partitions);
        Ok(())
    }
}

pub(super) struct MemoryWork(pub(super) Member);

impl Work for MemoryWork {
    fn poll(&mut self, _wait: Duration, out: &mut Vec<Fetched>) -> Result<Polled, LogError> {
        self.0.poll(out)
    }

    fn open(&mut self, partition: u32) -> Result<Finished, LogError> {
        let Member {
            shared,
            processor,
            cursor,
            ..
        } = &mut self.0;
        let content = shared.content.lock();
        let position = content.position(processor, &cursor.topics[0], partition);
        let finished = position.map_or_else(Finished::default, |position| {
            Finished::parse(position.next, &position.metadata)
        });
        drop(content);
        cursor.assign(0, partition, finished.next(), u64::MAX)?;
        Ok(finished)
    }

    fn commit(&mut self, partition: u32, finished: &Finished) -> Result<(), LogError> {
        let member = &self.0;
        let mut content = member.shared.content.lock();
        let group = content.group(&member.processor);
        let fault = group.fault(|fault| !matches!(fault, Fault::Poll(_)));
        if let Some(Fault::Commit(error)) = fault {
            return Err(error);
        }
        member.check_owner(group, std::iter::once((0, partition)))?;
        let position = CommittedPosition {
            next: finished.next(),
            metadata: finished.metadata(),
        };
        content.set_position(
            &member.processor,
            &member.cursor.topics[0],
            partition,
            position,
        );
        match fault {
            Some(Fault::CommitAnswer(error)) => Err(error),
            _ => Ok(()),
        }
    }

    fn pause(&mut self, partition: u32) -> Result<(), LogError> {
        self.0.cursor.release(0, partition);
        Ok(())
    }

    fn resume(&mut self, partition: u32, offset: u64) -> Result<(), LogError> {
        self.0.cursor.assign(0, partition, offset, u64::MAX)
    }

    fn release(&mut self, partitions: &[(usize, u32)]) -> Result<(), LogError> {
        self.0.release(partitions);
        Ok(())
    }
}
