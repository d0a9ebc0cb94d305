//! The input of an effect: its low-water mark is the group's committed offset, what is finished beyond it travels in the
//! commit's metadata.

use std::time::Duration;

use rdkafka::{
    Offset, TopicPartitionList,
    consumer::{CommitMode, Consumer},
};

use super::{REQUEST, group::GroupConsumer, watermarks};
use crate::log::{Fetched, Finished, LogError, Polled, Work};

pub(super) struct KafkaWork(pub(super) GroupConsumer);

impl Work for KafkaWork {
    fn poll(&mut self, wait: Duration, out: &mut Vec<Fetched>) -> Result<Polled, LogError> {
        self.0.poll_group(wait, out)
    }

    fn open(&mut self, partition: u32) -> Result<Finished, LogError> {
        let topic = self.0.topics[0].clone();
        let mut list = TopicPartitionList::new();
        list.add_partition(&topic, partition as i32);
        let committed = self.0.consumer.committed_offsets(list, REQUEST)?;
        let elements = committed.elements();
        let kept = elements.first().and_then(|e| match e.offset() {
            Offset::Offset(next) => Some(Finished::parse(next as u64, e.metadata())),
            _ => None,
        });
        let finished = match kept {
            Some(finished) => finished,
            None => Finished::from(watermarks(&self.0.consumer, &topic, partition)?.start),
        };
        self.0.open_at(0, partition, finished.next());
        Ok(finished)
    }

    fn commit(&mut self, partition: u32, finished: &Finished) -> Result<(), LogError> {
        let mut list = TopicPartitionList::new();
        let offset = Offset::Offset(finished.next() as i64);
        list.add_partition_offset(&self.0.topics[0], partition as i32, offset)?;
        if let Some(mut element) = list.find_partition(&self.0.topics[0], partition as i32) {
            element.set_metadata(finished.metadata());
        }
        self.0.consumer.commit(&list, CommitMode::Sync)?;
        Ok(())
    }

    fn release(&mut self, partitions: &[(usize, u32)]) -> Result<(), LogError> {
        self.0.give_up(partitions)
    }
}
