//! Aborts hanging transactions of lanes: those for which a partition has no marker, though their coordinator considers them ended.
//!
//! A transaction ends in a partition when its coordinator writes a marker there. The coordinator takes a partition that has no leader
//! at that moment as deleted, and skips it (seen with Kafka 4.3: the only broker lost its session because its machine was busy, while
//! a transaction ran into its timeout). Then the transaction never ends in that partition: readers stop before it, and a restore waits
//! for ever. Worse, the next transaction of the same producer would end it too, with the outcome of that transaction.
//!
//! A marker ends everything that its producer has open in a partition. So another transaction with the same transactional id writes a
//! record to each such partition, and is aborted. That is done only if the hanging transaction was not committed, that is, if the
//! positions in its changelog records are greater than the committed ones.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use rdkafka::{
    Message, Offset, TopicPartitionList,
    consumer::{Consumer, ConsumerContext},
    producer::{BaseRecord, Producer},
};

use super::{
    REQUEST,
    classify::Doing,
    ends::{open_transactions, reader_of},
    offsets::Offsets,
    position::{POSITION, from_record},
    restore::{Restore, partitions_of},
};
use crate::log::{LogError, OpenTransaction};

/// Time limit of each request of the transaction that is aborted.
const REQUESTS: Duration = Duration::from_secs(10);
/// Time limit for reading the records of hanging transactions.
const READ: Duration = Duration::from_secs(5);
/// The key of the records in the transaction that is aborted.
const KEY: &[u8] = b"\0aborted";
const POSITIONS: &str = "reading the positions of a hanging transaction";
const ENDING: &str = "aborting a hanging transaction";

impl<X: ConsumerContext> Restore<'_, X> {
    /// The open transactions in OmniLink's own topics.
    pub(super) fn open_in_own_topics(&self) -> Result<Vec<OpenTransaction>, LogError> {
        let metadata = self.member.client().fetch_metadata(None, REQUEST);
        let metadata = metadata.doing("asking which topics there are")?;
        let mut partitions: Vec<(Arc<str>, u32)> = Vec::new();
        for topic in metadata.topics() {
            if topic.name().starts_with(&self.options.prefix) {
                let name: Arc<str> = topic.name().into();
                let count = topic.partitions().len() as u32;
                partitions.extend((0..count).map(|partition| (Arc::clone(&name), partition)));
            }
        }
        let consumers = (self.member, self.uncommitted);
        open_transactions(self.options, consumers, &partitions)
    }

    /// Aborts the transactions in `hanging` that former owners of these partitions of the input, or this lane itself, have left open.
    /// The lane must rejoin its group: its own producer may be fenced.
    pub(super) fn abort_hanging(
        &self,
        hanging: &[OpenTransaction],
        partitions: &BTreeSet<u32>,
        inputs: &[String],
    ) -> Result<(), LogError> {
        let committed = self.last_committed(partitions_of(inputs, partitions))?;
        if let Some(one) = self.find_committed(hanging, &committed, inputs)? {
            tracing::error!(
                topic = &*one.topic, partition = one.partition, offset = one.first, processor = %self.processor,
                "a transaction was committed, but its marker is missing in this partition; \
                 `kafka-transactions.sh` describes and ends it"
            );
            return Ok(());
        }
        let mut owners = self.owners(&committed);
        owners.insert(self.transactional_id.to_owned());
        for owner in owners {
            tracing::warn!(processor = %self.processor, owner, partitions = hanging.len(), "aborting a hanging transaction: its coordinator has not ended it in these partitions");
            self.abort(&owner, hanging, &committed)?;
        }
        Ok(())
    }

    /// Finds a partition whose hanging transaction has positions that are committed.
    fn find_committed<'f>(
        &self,
        hanging: &'f [OpenTransaction],
        committed: &TopicPartitionList,
        inputs: &[String],
    ) -> Result<Option<&'f OpenTransaction>, LogError> {
        let mut left: BTreeMap<u32, &OpenTransaction> = hanging
            .iter()
            .filter(|one| *one.topic == *self.changelog)
            .map(|one| (one.partition, one))
            .collect();
        let reader = reader_of(self.options, left.values().copied(), POSITIONS)?;
        let deadline = Instant::now() + READ;
        while !left.is_empty() {
            if Instant::now() > deadline {
                return Ok(left.into_values().next());
            }
            let Some(message) = reader.poll(Duration::from_millis(100)) else {
                continue;
            };
            let message = message.doing(POSITIONS)?;
            let partition = message.partition() as u32;
            let Some(one) = left.get(&partition).copied() else {
                continue;
            };
            if message.key() == Some(POSITION)
                && let Some((topic, position)) = from_record(message.payload().unwrap_or_default())
                && let Some(input) = inputs.get(topic)
                && let Some(found) = committed.find_partition(input, message.partition())
                && let Offset::Offset(committed) = found.offset()
                && committed as u64 >= position.next
            {
                return Ok(Some(one));
            }
            if message.offset() as u64 + 1 >= one.end {
                left.remove(&partition);
            }
        }
        Ok(None)
    }

    fn abort(
        &self,
        owner: &str,
        hanging: &[OpenTransaction],
        committed: &TopicPartitionList,
    ) -> Result<(), LogError> {
        let producer = Arc::new(self.fence(owner)?);
        producer.begin_transaction().doing(ENDING)?;
        for one in hanging {
            let record = BaseRecord::<[u8], [u8]>::to(&one.topic)
                .partition(one.partition as i32)
                .key(KEY);
            let sent = producer.send(record);
            sent.map_err(|(error, _)| error)
                .doing_of(ENDING, &one.topic)?;
        }
        producer.flush(REQUESTS).doing(ENDING)?;
        // Offsets that wait for its end are in a partition of the offsets topic.
        let mut positions = TopicPartitionList::new();
        for element in committed.elements() {
            if let Offset::Offset(_) = element.offset() {
                let added = positions.add_partition_offset(
                    element.topic(),
                    element.partition(),
                    element.offset(),
                );
                added.doing_of(ENDING, element.topic())?;
            }
        }
        if positions.count() > 0
            && let Some(group) = self.member.group_metadata()
        {
            let sent = Offsets::new(&producer, REQUESTS)?.send(positions, group);
            sent.unwrap_or(Ok(())).doing(ENDING)?;
        }
        producer.abort_transaction(REQUESTS).doing(ENDING)
    }
}
