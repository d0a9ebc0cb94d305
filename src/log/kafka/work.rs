//! The input of an effect: its low-water mark is the group's committed offset, and the work finished beyond it is stored in the
//! commit's metadata.

use std::time::Duration;

use rdkafka::{
    Offset, TopicPartitionList,
    consumer::{CommitMode, Consumer},
};

use super::{REQUEST, classify::Doing, group::GroupConsumer, offset_range};
use crate::log::{
    Fetched, Finished, LogError, Polled, Source, TopicId, Work,
    identity::{Place, Reset, StoredPosition, from_metadata, resolve, to_metadata},
};

const COMMIT: &str = "committing the offset";

pub(super) struct KafkaWork {
    pub(super) group: GroupConsumer,
    pub(super) processor: String,
}

impl KafkaWork {
    /// The committed progress, with the id of the topic for which it was committed.
    fn committed(
        &self,
        topic: &str,
        partition: u32,
    ) -> Result<Option<(Finished, Option<TopicId>)>, LogError> {
        let mut list = TopicPartitionList::new();
        list.add_partition(topic, partition as i32);
        let committed = self.group.consumer.committed_offsets(list, REQUEST);
        let committed = committed.doing_of("asking for the committed offset", topic)?;
        let elements = committed.elements();
        Ok(elements.first().and_then(|e| match e.offset() {
            Offset::Offset(next) => {
                let (id, beyond) = from_metadata(e.metadata());
                Some((Finished::parse(next as u64, beyond), id))
            }
            _ => None,
        }))
    }
}

impl Work for KafkaWork {
    fn poll(&mut self, wait: Duration, out: &mut Vec<Fetched>) -> Result<Polled, LogError> {
        self.group.poll_group(wait, out)
    }

    fn open(&mut self, partition: u32) -> Result<Finished, LogError> {
        let topic = self.group.topics[0].clone();
        let place = Place {
            processor: &self.processor,
            topic: &topic,
            partition,
        };
        let committed = self.committed(&topic, partition)?;
        let id = self.group.topic_id()?;
        let range = offset_range(&*self.group.consumer, &topic, partition)?;
        let position = committed.as_ref().map(|(finished, id)| StoredPosition {
            next: finished.next(),
            id: *id,
        });
        let resolved = resolve(place, position, id, range)?;
        let finished = match (committed, resolved.reset) {
            (Some((mut finished, _)), None | Some(Reset::Dropped { .. })) => {
                finished.skip_to(resolved.next);
                finished
            }
            _ => Finished::from(resolved.next),
        };
        if let Some(reset) = resolved.reset {
            reset.announce(place);
            // So that the reset is reported once.
            self.commit(partition, &finished)?;
        } else if position.is_some_and(|at| at.id.is_none() && id.is_some()) {
            // Stored by a version without topic ids: adds the id.
            self.commit(partition, &finished)?;
        }
        self.group.assign_at(0, partition, finished.next());
        Ok(finished)
    }

    fn commit(&mut self, partition: u32, finished: &Finished) -> Result<(), LogError> {
        let topic = &self.group.topics[0];
        let mut list = TopicPartitionList::new();
        let offset = Offset::Offset(finished.next() as i64);
        list.add_partition_offset(topic, partition as i32, offset)
            .doing_of(COMMIT, topic)?;
        if let Some(mut element) = list.find_partition(topic, partition as i32) {
            let metadata = to_metadata(self.group.watched.id(0), &finished.metadata());
            element.set_metadata(metadata);
        }
        let done = self.group.consumer.commit(&list, CommitMode::Sync);
        done.doing_of(COMMIT, topic)
    }

    fn pause(&mut self, partition: u32) -> Result<(), LogError> {
        self.group.pause_partition(0, partition);
        Ok(())
    }

    fn resume(&mut self, partition: u32, offset: u64) -> Result<(), LogError> {
        self.group.assign_at(0, partition, offset);
        Ok(())
    }

    fn release(&mut self, partitions: &[(usize, u32)]) -> Result<(), LogError> {
        self.group.unassign(partitions)
    }
}
