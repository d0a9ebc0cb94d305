//! The content of an in-memory log: topics, positions, the changelog, groups.

use std::{collections::BTreeMap, sync::Arc};

use super::group::Group;
use crate::{
    base::clock::Millis,
    log::{Cleanup, Fetched, LogError, OffsetRange, Position, Record, TopicSpec, partition_for},
    state::{Changes, Space, StateStore},
};

/// The most records that one poll returns, as on the other logs.
const POLL_RECORDS: usize = 10_000;

pub(super) struct Topic {
    pub(super) cleanup: Cleanup,
    /// The records of each partition; an offset is an index.
    pub(super) records: Vec<Vec<Fetched>>,
}

impl Topic {
    pub(super) fn partitions(&self) -> u32 {
        self.records.len() as u32
    }
}

/// A committed position.
pub(super) struct CommittedPosition {
    pub(super) next: u64,
    /// For an effect: the work finished beyond `next`, as [`Finished::metadata`](crate::log::Finished::metadata).
    pub(super) metadata: String,
}

pub(super) struct Content {
    topics: BTreeMap<Arc<str>, Topic>,
    /// By processor and topic, then by partition.
    positions: BTreeMap<(String, String), BTreeMap<u32, CommittedPosition>>,
    /// The changes that were logged, compacted.
    changelog: StateStore,
    groups: BTreeMap<String, Group>,
    pub(super) poll_records: usize,
    /// The number of records without a key so far: they are distributed round-robin.
    keyless: u32,
}

impl Default for Content {
    fn default() -> Self {
        Self {
            topics: BTreeMap::new(),
            positions: BTreeMap::new(),
            changelog: StateStore::in_memory(),
            groups: BTreeMap::new(),
            poll_records: POLL_RECORDS,
            keyless: 0,
        }
    }
}

impl Content {
    pub(super) fn provision(&mut self, specs: &[TopicSpec], create: bool) -> Result<(), LogError> {
        for spec in specs {
            match self.topics.get_mut(&spec.name) {
                Some(topic) if topic.partitions() != spec.partitions => {
                    return Err(LogError::PartitionCount {
                        topic: spec.name.to_string(),
                        expected: spec.partitions,
                        found: topic.partitions(),
                        all: true,
                    });
                }
                Some(topic) => topic.cleanup = spec.cleanup,
                None if create => {
                    let topic = Topic {
                        cleanup: spec.cleanup,
                        records: vec![Vec::new(); spec.partitions as usize],
                    };
                    self.topics.insert(Arc::clone(&spec.name), topic);
                }
                None => return Err(LogError::UnknownTopic(spec.name.to_string())),
            }
        }
        Ok(())
    }

    pub(super) fn topic(&self, name: &str) -> Result<&Topic, LogError> {
        let unknown = || LogError::UnknownTopic(name.into());
        self.topics.get(name).ok_or_else(unknown)
    }

    pub(super) fn records(&self, topic: &str, partition: u32) -> Result<&[Fetched], LogError> {
        let records = self.topic(topic)?.records.get(partition as usize);
        let unknown = || LogError::UnknownTopic(format!("{topic}/{partition}"));
        records.map(Vec::as_slice).ok_or_else(unknown)
    }

    pub(super) fn offset_range(
        &self,
        topic: &str,
        partition: u32,
    ) -> Result<OffsetRange, LogError> {
        let end = self.records(topic, partition)?.len() as u64;
        Ok(OffsetRange { start: 0, end })
    }

    pub(super) fn offset_at(
        &self,
        topic: &str,
        partition: u32,
        at: Millis,
    ) -> Result<u64, LogError> {
        let records = self.records(topic, partition)?;
        Ok(records.partition_point(|record| record.timestamp < at) as u64)
    }

    /// Appends all of them, or none.
    pub(super) fn append(
        &mut self,
        records: Vec<(Arc<str>, Option<u32>, Record)>,
        now: Millis,
    ) -> Result<Vec<Position>, LogError> {
        for (topic, partition, _) in &records {
            match partition {
                Some(partition) => drop(self.records(topic, *partition)?),
                None => drop(self.topic(topic)?),
            }
        }
        let mut at = Vec::with_capacity(records.len());
        for (name, partition, record) in records {
            let Some(topic) = self.topics.get_mut(&name) else {
                continue;
            };
            let partition = partition.unwrap_or_else(|| {
                if let Some(key) = &record.key {
                    return partition_for(key, topic.partitions());
                }
                self.keyless = self.keyless.wrapping_add(1);
                self.keyless % topic.partitions()
            });
            let Some(records) = topic.records.get_mut(partition as usize) else {
                continue;
            };
            let offset = records.len() as u64;
            // Timestamps never decrease within a partition, whatever the clock does.
            let timestamp = records.last().map_or(now, |last| last.timestamp.max(now));
            records.push(Fetched {
                topic: 0,
                partition,
                offset,
                timestamp,
                record,
            });
            at.push(Position { partition, offset });
        }
        Ok(at)
    }

    /// Writes the changes that are marked as logged to the changelog.
    pub(super) fn log_changes(&mut self, mut changes: Changes) -> Result<(), LogError> {
        changes.0.retain(|change| change.logged);
        Ok(self.changelog.apply(&changes, &[])?)
    }

    /// The committed keyed state of all processors. Clones share it.
    pub(super) fn changelog(&self) -> StateStore {
        self.changelog.clone()
    }

    /// Restores the state of a partition in `store` from the changelog.
    pub(super) fn restore(&self, space: &Space, store: &StateStore) -> Result<(), LogError> {
        store.clear(space)?;
        let mut changes = Changes::default();
        for row in self.changelog.scan(space, b"") {
            let (key, value) = row?;
            changes.put(space, key, value);
        }
        Ok(store.apply(&changes, &[])?)
    }

    pub(super) fn position(
        &self,
        processor: &str,
        topic: &str,
        partition: u32,
    ) -> Option<&CommittedPosition> {
        let of = (processor.to_owned(), topic.to_owned());
        self.positions.get(&of)?.get(&partition)
    }

    pub(super) fn set_position(
        &mut self,
        processor: &str,
        topic: &str,
        partition: u32,
        position: CommittedPosition,
    ) {
        let of = (processor.to_owned(), topic.to_owned());
        self.positions
            .entry(of)
            .or_default()
            .insert(partition, position);
    }

    pub(super) fn group(&mut self, processor: &str) -> &mut Group {
        self.groups.entry(processor.to_owned()).or_default()
    }
}
