//! Reads chosen partitions, and converts librdkafka's messages to records.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use bytes::Bytes;
use rdkafka::{
    ClientConfig, ClientContext, Message, Offset, Timestamp, TopicPartitionList,
    consumer::{BaseConsumer, Consumer, ConsumerContext},
    error::{KafkaError, RDKafkaErrorCode},
    message::{BorrowedMessage, Headers as _},
};

use super::{
    ASSIGN, CLIENT, KafkaOptions,
    classify::{Doing, classified},
};
use crate::{
    base::clock::{Clock, Millis, SystemClock},
    log::{Fetched, LogError, Reader, Record, record_size},
};

/// The most records and bytes of one poll.
const POLL_RECORDS: usize = 10_000;
const POLL_BYTES: usize = 8 << 20;
/// How long a seek may take.
const SEEK: Duration = Duration::from_secs(5);

/// Does not log the end of a partition, which librdkafka reports as an error.
struct Context;

impl ClientContext for Context {
    fn error(&self, error: KafkaError, reason: &str) {
        let end = matches!(
            error,
            KafkaError::PartitionEOF(_) | KafkaError::Global(RDKafkaErrorCode::PartitionEOF)
        );
        if !end {
            tracing::warn!(%error, reason, "Kafka");
        }
    }
}

impl ConsumerContext for Context {}

pub(super) struct KafkaReader {
    consumer: BaseConsumer<Context>,
    topic: String,
    assigned: Vec<(u32, u64)>,
    /// `assigned` has changed, and librdkafka has not been told yet.
    changed: bool,
    spacing: AssignmentSpacing,
    /// Partitions that have been read to their end.
    at_end: BTreeSet<u32>,
    /// The assignment of librdkafka.
    applied: BTreeSet<u32>,
}

/// Enforces a minimum interval between changes of an assignment: librdkafka aborts the process when a partition is removed for the
/// second time before its fetcher has stopped (librdkafka issue 5573).
#[derive(Default)]
pub(super) struct AssignmentSpacing(Option<Instant>);

impl AssignmentSpacing {
    const LEAST: Duration = Duration::from_millis(50);

    /// Waits for the interval; to be called before each change.
    pub(super) fn wait(&mut self) {
        if let Some(last) = self.0 {
            std::thread::sleep(Self::LEAST.saturating_sub(last.elapsed()));
        }
        self.0 = Some(Instant::now());
    }
}

impl KafkaReader {
    pub(super) fn new(options: &KafkaOptions, topic: &str) -> Result<Self, LogError> {
        Self::with(options.consumer_config(), options, topic)
    }

    /// Reads with `read_uncommitted`: records of open and aborted transactions too.
    pub(super) fn uncommitted(options: &KafkaOptions, topic: &str) -> Result<Self, LogError> {
        Self::with(options.uncommitted_config(), options, topic)
    }

    fn with(
        mut config: ClientConfig,
        options: &KafkaOptions,
        topic: &str,
    ) -> Result<Self, LogError> {
        config
            .set("auto.offset.reset", "earliest")
            .set("enable.partition.eof", "true")
            // librdkafka requires a group id; the group is never joined.
            .set("group.id", format!("{}reader", options.prefix));
        Ok(Self {
            consumer: config.create_with_context(Context).doing(CLIENT)?,
            topic: topic.to_owned(),
            assigned: Vec::new(),
            changed: false,
            spacing: AssignmentSpacing::default(),
            at_end: BTreeSet::new(),
            applied: BTreeSet::new(),
        })
    }

    fn apply_assignment(&mut self) -> Result<(), LogError> {
        let mut list = TopicPartitionList::new();
        for (partition, offset) in &self.assigned {
            let offset = Offset::Offset(*offset as i64);
            list.add_partition_offset(&self.topic, *partition as i32, offset)
                .doing_of(ASSIGN, &self.topic)?;
        }
        self.spacing.wait();
        let done = self.consumer.assign(&list);
        done.doing_of(ASSIGN, &self.topic)?;
        self.changed = false;
        self.applied = self.assigned.iter().map(|(p, _)| *p).collect();
        Ok(())
    }
}

impl Reader for KafkaReader {
    fn assign(&mut self, partition: u32, offset: u64) -> Result<(), LogError> {
        self.assigned.retain(|(p, _)| *p != partition);
        self.assigned.push((partition, offset));
        self.at_end.remove(&partition);
        // A seek takes about a millisecond; a change of the assignment stops all fetching first.
        let to = Offset::Offset(offset as i64);
        let sought = !self.changed
            && self.applied.contains(&partition)
            && self
                .consumer
                .seek(&self.topic, partition as i32, to, SEEK)
                .is_ok();
        self.changed |= !sought;
        Ok(())
    }

    fn at_end(&self, partition: u32) -> bool {
        self.at_end.contains(&partition)
    }

    fn poll(&mut self, wait: Duration, out: &mut Vec<Fetched>) -> Result<(), LogError> {
        if self.changed {
            self.apply_assignment()?;
        }
        let before = out.len();
        let topics = std::slice::from_ref(&self.topic);
        let ends = drain(&self.consumer, topics, wait, out)?;
        let mut kept = before;
        for index in before..out.len() {
            let (partition, offset) = (out[index].partition, out[index].offset);
            let at = self.assigned.iter_mut().find(|(p, _)| *p == partition);
            // Drops records that were fetched before a seek.
            if let Some((_, next)) = at
                && offset >= *next
            {
                *next = offset + 1;
                self.at_end.remove(&partition);
                out.swap(kept, index);
                kept += 1;
            }
        }
        out.truncate(kept);
        self.at_end.extend(ends);
        Ok(())
    }
}

/// Waits for a first record, then takes all that are available. Returns the partitions that were read to their end.
pub(super) fn drain<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    topics: &[String],
    wait: Duration,
    out: &mut Vec<Fetched>,
) -> Result<BTreeSet<u32>, LogError> {
    let mut at_end = BTreeSet::new();
    let deadline = Instant::now() + wait;
    let mut timeout = wait;
    let (before, mut bytes) = (out.len(), 0);
    while out.len() - before < POLL_RECORDS && bytes < POLL_BYTES {
        match consumer.poll(timeout) {
            None => break,
            Some(Ok(message)) => {
                at_end.remove(&(message.partition() as u32));
                let fetched = fetched(&message, topics);
                // Includes headers: 10,000 records with large headers can be gigabytes.
                bytes += record_size(&fetched.record);
                out.push(fetched);
                timeout = Duration::ZERO;
            }
            Some(Err(error)) if is_transient(&error) => {
                // librdkafka retries by itself; a lasting failure shows in readiness and lag.
                if let KafkaError::PartitionEOF(partition) = error {
                    at_end.insert(partition as u32);
                }
                tracing::debug!(%error, "Kafka");
                timeout = if out.len() > before {
                    Duration::ZERO
                } else {
                    deadline.saturating_duration_since(Instant::now())
                };
            }
            Some(Err(error)) => {
                return Err(classified("reading", Some(&topics.join("`, `")), error));
            }
        }
    }
    Ok(at_end)
}

fn is_transient(error: &KafkaError) -> bool {
    match error {
        KafkaError::PartitionEOF(_) => true,
        KafkaError::MessageConsumption(code) => !matches!(
            code,
            RDKafkaErrorCode::OffsetOutOfRange
                | RDKafkaErrorCode::AutoOffsetReset
                | RDKafkaErrorCode::TopicAuthorizationFailed
                | RDKafkaErrorCode::GroupAuthorizationFailed
                | RDKafkaErrorCode::UnknownTopicOrPartition
        ),
        _ => false,
    }
}

fn fetched(message: &BorrowedMessage<'_>, topics: &[String]) -> Fetched {
    let topic = message.topic();
    // Else the time at which the record was taken in.
    let now = SystemClock.now();
    let timestamp = plausible_timestamp(message.timestamp(), now).unwrap_or(now);
    let headers = message.headers().map_or_else(Vec::new, |headers| {
        headers
            .iter()
            .map(|h| (h.key.to_owned(), h.value.map(Bytes::copy_from_slice)))
            .collect()
    });
    let (key, value) = copy_key_value(message.key(), message.payload());
    Fetched {
        topic: topics.iter().position(|t| t == topic).unwrap_or_default(),
        partition: message.partition() as u32,
        offset: message.offset() as u64,
        timestamp,
        record: Record {
            key,
            value,
            headers,
        },
    }
}

/// The earliest plausible timestamp of a record, in milliseconds: 2000-01-01T00:00:00Z.
const EARLIEST: i64 = 946_684_800_000;
/// How far a producer's clock may be ahead, in milliseconds.
const AHEAD_MS: i64 = 24 * 60 * 60 * 1000;

/// The time of a record, by the broker or by its producer; `None`: its producer gave none, or an implausible one (seconds or
/// microseconds in place of milliseconds, a clock that was never set). Units are not guessed.
pub(super) fn plausible_timestamp(given: Timestamp, now: Millis) -> Option<Millis> {
    let ms = match given {
        Timestamp::LogAppendTime(ms) => Some(ms),
        Timestamp::CreateTime(ms) => {
            let latest = now.0.saturating_add(AHEAD_MS);
            (EARLIEST..=latest).contains(&ms).then_some(ms)
        }
        Timestamp::NotAvailable => None,
    };
    ms.map(Millis)
}

/// Copies key and value into one buffer, which halves the allocations.
fn copy_key_value(key: Option<&[u8]>, value: Option<&[u8]>) -> (Option<Bytes>, Option<Bytes>) {
    let (Some(key), Some(value)) = (key, value) else {
        let copy = Bytes::copy_from_slice;
        return (key.map(copy), value.map(copy));
    };
    let mut buffer = Vec::with_capacity(key.len() + value.len());
    buffer.extend_from_slice(key);
    buffer.extend_from_slice(value);
    let mut value = Bytes::from(buffer);
    let key = value.split_to(key.len());
    (Some(key), Some(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn implausible_timestamps_are_replaced() {
        let now = Millis(1_764_411_000_123);
        let created = |ms| plausible_timestamp(Timestamp::CreateTime(ms), now);
        for good in [EARLIEST, now.0 - 5, now.0, now.0 + AHEAD_MS] {
            assert_eq!(created(good), Some(Millis(good)));
        }
        for bad in [
            i64::MIN,
            -1,
            0,
            now.0 / 1000,
            EARLIEST - 1,
            now.0 + AHEAD_MS + 1,
            now.0 * 1000,
            i64::MAX,
        ] {
            assert_eq!(created(bad), None, "{bad}");
        }
        let appended = plausible_timestamp(Timestamp::LogAppendTime(5), now);
        assert_eq!(appended, Some(Millis(5)));
        assert_eq!(plausible_timestamp(Timestamp::NotAvailable, now), None);
    }
}
