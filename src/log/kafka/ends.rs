//! The end offsets of many partitions: the last stable offset, at which readers stop while a transaction is open, and the
//! high watermark.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use rdkafka::{
    Message, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer, ConsumerContext},
    error::{KafkaError, RDKafkaErrorCode},
};

use super::{CLIENT, KafkaOptions, REQUEST, classify::Doing, reader::plausible_timestamp};
use crate::{
    base::clock::{Clock, SystemClock},
    log::{LogError, OpenTransaction},
};

/// Time limit for reading the first records of open transactions.
const READ: Duration = Duration::from_secs(3);
const ENDS: &str = "asking where partitions end";
const FIRST: &str = "reading where open transactions begin";

/// The ends as `consumer` sees them: one request to each broker that leads some of the partitions. A topic that is not there, or
/// whose leaders are being chosen, has none for now, and hides no other's.
pub(super) fn end_offsets<X: ConsumerContext>(
    consumer: &BaseConsumer<X>,
    partitions: &[(Arc<str>, u32)],
) -> Result<Vec<Option<u64>>, LogError> {
    match ask(consumer, partitions) {
        Ok(ends) => Ok(ends),
        Err(error) if of_some_topic(&error) => {
            let mut all = Vec::with_capacity(partitions.len());
            for topic in partitions.chunk_by(|a, b| a.0 == b.0) {
                match ask(consumer, topic) {
                    Ok(ends) => all.extend(ends),
                    Err(error) if of_some_topic(&error) => {
                        all.extend(topic.iter().map(|_| None));
                    }
                    failed => return failed.doing(ENDS),
                }
            }
            Ok(all)
        }
        failed => failed.doing(ENDS),
    }
}

/// Whether an error concerns one topic or its leaders, not the brokers as a whole.
fn of_some_topic(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(
            RDKafkaErrorCode::UnknownTopicOrPartition
                | RDKafkaErrorCode::UnknownTopic
                | RDKafkaErrorCode::UnknownPartition
                | RDKafkaErrorCode::NotLeaderForPartition
                | RDKafkaErrorCode::LeaderNotAvailable
                | RDKafkaErrorCode::TopicAuthorizationFailed
        )
    )
}

fn ask<X: ConsumerContext>(
    consumer: &BaseConsumer<X>,
    partitions: &[(Arc<str>, u32)],
) -> Result<Vec<Option<u64>>, KafkaError> {
    if partitions.is_empty() {
        return Ok(Vec::new());
    }
    let mut list = TopicPartitionList::with_capacity(partitions.len());
    for (topic, partition) in partitions {
        // As a timestamp, the protocol's "latest".
        list.add_partition_offset(topic, *partition as i32, Offset::End)?;
    }
    let found = consumer.offsets_for_times(list, REQUEST)?;
    let end = |(topic, partition): &(Arc<str>, u32)| {
        let found = found.find_partition(topic, *partition as i32)?;
        match (found.error(), found.offset()) {
            (Ok(()), Offset::Offset(end)) => Some(end as u64),
            _ => None,
        }
    };
    Ok(partitions.iter().map(end).collect())
}

/// Partitions whose last stable offset lies before the high watermark.
pub(super) fn open_transactions<X: ConsumerContext>(
    options: &KafkaOptions,
    (committed, uncommitted): (&BaseConsumer<X>, &BaseConsumer),
    partitions: &[(Arc<str>, u32)],
) -> Result<Vec<OpenTransaction>, LogError> {
    // In this order: a transaction that ends between the two does not look open.
    let high = end_offsets(uncommitted, partitions)?;
    let stable = end_offsets(committed, partitions)?;
    let mut open: Vec<OpenTransaction> = Vec::new();
    for (((topic, partition), end), first) in partitions.iter().zip(high).zip(stable) {
        if let (Some(end), Some(first)) = (end, first)
            && first < end
        {
            open.push(OpenTransaction {
                topic: Arc::clone(topic),
                partition: *partition,
                first,
                end,
                since: None,
            });
        }
    }
    if !open.is_empty() {
        read_first(options, &mut open)?;
    }
    Ok(open)
}

/// Reads these transactions from their first records on, before they have ended.
pub(super) fn reader_of<'o>(
    options: &KafkaOptions,
    open: impl Iterator<Item = &'o OpenTransaction>,
    doing: &'static str,
) -> Result<BaseConsumer, LogError> {
    let mut config = options.uncommitted_config();
    config
        .set("auto.offset.reset", "error")
        // librdkafka requires a group id; the group is never joined.
        .set("group.id", format!("{}reader", options.prefix));
    let reader: BaseConsumer = config.create().doing(CLIENT)?;
    let mut list = TopicPartitionList::new();
    for one in open {
        let first = Offset::Offset(one.first as i64);
        list.add_partition_offset(&one.topic, one.partition as i32, first)
            .doing_of(doing, &one.topic)?;
    }
    reader.assign(&list).doing(doing)?;
    Ok(reader)
}

/// Reads when each of them began.
fn read_first(options: &KafkaOptions, open: &mut [OpenTransaction]) -> Result<(), LogError> {
    let reader = reader_of(options, open.iter(), FIRST)?;
    let deadline = Instant::now() + READ;
    let mut unread: Vec<&mut OpenTransaction> = open.iter_mut().collect();
    while !unread.is_empty() && Instant::now() < deadline {
        // What cannot be read has no time, which its caller shows.
        let Some(Ok(message)) = reader.poll(Duration::from_millis(100)) else {
            continue;
        };
        let is_of = |one: &&mut OpenTransaction| {
            (&*one.topic, one.partition as i32) == (message.topic(), message.partition())
        };
        if let Some(at) = unread.iter().position(is_of) {
            unread.swap_remove(at).since =
                plausible_timestamp(message.timestamp(), SystemClock.now());
        }
    }
    Ok(())
}
