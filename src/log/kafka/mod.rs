//! The log on Kafka, through librdkafka, whose properties can be set with `kafka.properties`.

mod classify;
mod ends;
mod error;
mod ffi;
mod group;
mod hanging;
mod lane;
mod limits;
mod offsets;
mod position;
mod producer;
mod provision;
mod reader;
mod restore;
mod retention;
mod static_member;
mod topics;
mod transactions;
mod wire;
mod work;

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use classify::Doing;
pub use error::KafkaError;
use group::GroupConsumer;
use limits::Limits;
use producer::Appender;
use rdkafka::{
    ClientConfig, Offset, TopicPartitionList,
    config::RDKafkaLogLevel,
    consumer::{BaseConsumer, Consumer, ConsumerContext},
    error::{KafkaError as ClientError, RDKafkaErrorCode},
    topic_partition_list::TopicPartitionListElem,
};
use static_member::StaticMembers;
use tokio::sync::oneshot;
use topics::Topics;

use super::{
    Acknowledged, Append, Cleanup, Described, Isolation, Lane, Log, LogError, OffsetRange,
    OpenTransaction, Output, PositionFault, Reader, Source, TopicId, TopicSpec, TopicWatch, Work,
    identity::{self, Place, StoredPosition},
};
use crate::{
    base::clock::Millis,
    state::{Changes, StateStore},
};

/// Time limit of a single request to a broker.
const REQUEST: Duration = Duration::from_secs(5);
/// Time limit of a request for committed offsets, which waits for open transactions of the group to end.
const COMMITTED: Duration = Duration::from_secs(15);

/// Bytes of one fetch. librdkafka refuses less than `message.max.bytes`.
const FETCH_BYTES: usize = 8 << 20;
/// The largest record of our producers, unless a larger `message.max.bytes` is configured.
const MESSAGE_BYTES: usize = 64 << 20;
/// The largest `message.max.bytes` that librdkafka accepts.
const MOST_MESSAGE_BYTES: usize = 1_000_000_000;

// The purposes of librdkafka calls, for error messages.
const CLIENT: &str = "making a client";
const ASSIGN: &str = "assigning partitions";
const AT: &str = "asking which offset is of a time";
const END: &str = "asking where a partition ends";

/// How to reach Kafka.
#[derive(Clone, Debug, Default)]
pub struct KafkaOptions {
    /// `host:port`, comma-separated.
    pub brokers: String,
    /// librdkafka properties, as they are.
    pub properties: BTreeMap<String, String>,
    /// The prefix of consumer groups and transactional ids: `topics.prefix`.
    pub prefix: String,
    /// The name of this node. It must survive restarts, so that a restart aborts at once the transactions that a killed process
    /// left open.
    pub node: String,
    /// The replication factor of topics that are created; `None`: the broker's default.
    pub replication_factor: Option<i32>,
}

impl KafkaOptions {
    fn config(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", &self.brokers)
            .set("client.id", format!("omnilink-{}", self.node))
            .set("retry.backoff.ms", "1")
            .set("reconnect.backoff.max.ms", "1000")
            .set("socket.nagle.disable", "true")
            // A broker that has just started may report that it has no topics, which the default would cache for 15 minutes.
            .set("topic.metadata.refresh.interval.ms", "10000")
            .set("metadata.max.age.ms", "30000")
            .set_log_level(RDKafkaLogLevel::Warning);
        self.tuned(config)
    }

    /// Applies the configured properties. Those that exactly-once depends on are set afterwards.
    fn tuned(&self, mut config: ClientConfig) -> ClientConfig {
        for (name, value) in &self.properties {
            config.set(name, value);
        }
        config
    }

    /// The configured `message.max.bytes`: the largest record of producers to `ingress`.
    fn given_message_bytes(&self) -> Option<usize> {
        self.properties.get("message.max.bytes")?.parse().ok()
    }

    /// The `message.max.bytes` of our producers. The limits of the topics are lower.
    fn message_bytes(&self) -> usize {
        let given = self.given_message_bytes().unwrap_or_default();
        let wide = given.saturating_mul(limits::WIDER).max(MESSAGE_BYTES);
        wide.min(MOST_MESSAGE_BYTES)
    }

    fn consumer_config(&self) -> ClientConfig {
        let mut config = self.config();
        let fetch = self
            .given_message_bytes()
            .map_or(FETCH_BYTES, |bytes| bytes.max(FETCH_BYTES));
        config
            .set("fetch.wait.max.ms", "100")
            .set("fetch.queue.backoff.ms", "2")
            .set("fetch.error.backoff.ms", "50")
            // Partitions with fewer queued records are fetched. A lower value makes a busy consumer fetch every few records;
            // a higher one lets a partition drop out of a fetch, and then wait until that fetch ends.
            .set("queued.min.messages", "200")
            .set("queued.max.messages.kbytes", "16384")
            .set("fetch.max.bytes", fetch.to_string())
            .set("fetch.message.max.bytes", "2097152");
        let mut config = self.tuned(config);
        config
            .set("isolation.level", "read_committed")
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false");
        config
    }

    /// As [`Self::consumer_config`], with `read_uncommitted`: records of open and aborted transactions are read, and end offsets are
    /// high watermarks.
    fn uncommitted_config(&self) -> ClientConfig {
        let mut config = self.consumer_config();
        config.set("isolation.level", "read_uncommitted");
        config
    }
}

/// The log on Kafka.
pub struct KafkaLog {
    options: KafkaOptions,
    /// `None`: connected without keyed state, so it has no lanes.
    state: Option<StateStore>,
    appender: Appender,
    /// For requests of metadata and offsets.
    asker: Arc<BaseConsumer>,
    /// For requests of high watermarks.
    uncommitted: Arc<BaseConsumer>,
    topics: Arc<Topics>,
    static_members: StaticMembers,
    limits: Limits,
}

impl KafkaLog {
    /// Connects, without waiting for the brokers to answer. `state` holds this node's copy of keyed state.
    pub fn connect(options: KafkaOptions, state: StateStore) -> Result<Self, LogError> {
        Self::connect_with(options, Some(state))
    }

    /// Connects without keyed state: everything but lanes.
    pub fn connect_stateless(options: KafkaOptions) -> Result<Self, LogError> {
        Self::connect_with(options, None)
    }

    fn connect_with(options: KafkaOptions, state: Option<StateStore>) -> Result<Self, LogError> {
        let asker = Arc::new(options.consumer_config().create().doing(CLIENT)?);
        let uncommitted = Arc::new(options.uncommitted_config().create().doing(CLIENT)?);
        let topics = Topics::new(&asker, &options.prefix);
        let appender = Appender::new(&options, &topics)?;
        let limits = Limits::new(&options);
        Ok(Self {
            limits,
            options,
            state,
            appender,
            asker,
            uncommitted,
            topics,
            static_members: StaticMembers::default(),
        })
    }

    fn group(&self, processor: &str) -> String {
        format!("{}{processor}", self.options.prefix)
    }

    /// Joins a group. `also`: another topic that the member depends on.
    fn member(
        &self,
        processor: &str,
        topics: &[String],
        also: Option<&str>,
    ) -> Result<GroupConsumer, LogError> {
        let watched = self
            .topics
            .watch(topics.iter().map(String::as_str).chain(also))?;
        let member = self.static_members.reserve(processor);
        GroupConsumer::new(&self.options, &self.asker, member, topics, watched)
    }

    /// A consumer for requests about the committed offsets of a processor's group, which it never joins.
    fn group_asker(&self, processor: &str) -> Result<BaseConsumer, LogError> {
        let mut config = self.options.consumer_config();
        config.set("group.id", self.group(processor));
        config.create().doing(CLIENT)
    }

    fn id(&self, topic: &str) -> Result<Option<TopicId>, LogError> {
        Ok(self.describe(topic)?.and_then(|described| described.id))
    }

    /// The committed positions of a processor, by partition.
    fn committed_positions(
        &self,
        processor: &str,
        topic: &str,
    ) -> Result<Vec<Option<StoredPosition>>, LogError> {
        let partitions = provision::partitions(&self.asker, topic)?
            .ok_or_else(|| LogError::UnknownTopic(topic.into()))?;
        let mut list = TopicPartitionList::new();
        list.add_partition_range(topic, 0, partitions as i32 - 1);
        let asker = self.group_asker(processor)?;
        let found = asker
            .committed_offsets(list, COMMITTED)
            .doing_of("asking for the committed offsets", topic)?;
        let elements = found.elements();
        let of = |partition| {
            let mut elements = elements.iter();
            committed_position(elements.find(|e| e.partition() == partition as i32)?)
        };
        Ok((0..partitions).map(of).collect())
    }
}

impl Log for KafkaLog {
    fn provision(&self, topics: &[TopicSpec], create: bool) -> Result<(), LogError> {
        let counts = self.topics.counts();
        provision::provision(&self.options, &self.asker, &counts, topics, create)?;
        self.limits.widen(topics, create);
        let specs = topics.iter();
        let counts = specs.map(|spec| (Arc::clone(&spec.name), spec.partitions));
        self.topics.configured(counts);
        Ok(())
    }

    fn keep_for(&self, topic: &str, retention_ms: i64) {
        retention::keep_for(&self.options, topic, retention_ms);
    }

    fn partitions(&self, topic: &str) -> Result<u32, LogError> {
        if let Some(count) = self.topics.counts().get(topic) {
            return Ok(*count);
        }
        provision::partitions(&self.asker, topic)?
            .ok_or_else(|| LogError::UnknownTopic(topic.into()))
    }

    fn describe(&self, topic: &str) -> Result<Option<Described>, LogError> {
        Ok(self.topics.describe(&[topic])?.get(topic).copied())
    }

    fn watch_topic(&self, topic: &str) -> Result<Box<dyn TopicWatch>, LogError> {
        let watched = self.topics.watch([topic].into_iter())?;
        // Now, so that whoever begins to read knows the topic.
        self.topics.describe(&[topic])?;
        Ok(Box::new(watched))
    }

    fn troubles(&self) -> Vec<String> {
        self.topics.troubles()
    }

    fn append(&self, records: Vec<Append>, state: Option<Changes>) -> Acknowledged {
        let (answer, acknowledged) = oneshot::channel();
        let state = self.state.clone().zip(state);
        self.appender.append(records, state, answer);
        acknowledged
    }

    fn append_to(&self, records: Vec<Output>, state: Option<Changes>) -> Acknowledged {
        let (answer, acknowledged) = oneshot::channel();
        let state = self.state.clone().zip(state);
        self.appender.append(records, state, answer);
        acknowledged
    }

    fn reader(&self, topic: &str) -> Result<Box<dyn Reader>, LogError> {
        Ok(Box::new(reader::KafkaReader::new(&self.options, topic)?))
    }

    fn reader_uncommitted(&self, topic: &str) -> Result<Box<dyn Reader>, LogError> {
        let reader = reader::KafkaReader::uncommitted(&self.options, topic)?;
        Ok(Box::new(reader))
    }

    fn lane(&self, processor: &str, topics: &[String]) -> Result<Box<dyn Lane>, LogError> {
        let Some(state) = self.state.clone() else {
            return Err(LogError::Stateless);
        };
        let changelog = format!("{}state.{processor}", self.options.prefix);
        let group = self.member(processor, topics, Some(&changelog))?;
        Ok(Box::new(lane::KafkaLane::new(
            &self.options,
            state,
            group,
            Arc::clone(&self.uncommitted),
            &changelog,
            self.limits.clone(),
        )?))
    }

    fn source(&self, processor: &str, topic: &str) -> Result<Box<dyn Source>, LogError> {
        let topics = [topic.to_owned()];
        let group = self.member(processor, &topics, None)?;
        Ok(Box::new(group))
    }

    fn work(&self, processor: &str, topic: &str) -> Result<Box<dyn Work>, LogError> {
        let topics = [topic.to_owned()];
        let group = self.member(processor, &topics, None)?;
        Ok(Box::new(work::KafkaWork {
            group,
            processor: processor.to_owned(),
        }))
    }

    fn offset_range(&self, topic: &str, partition: u32) -> Result<OffsetRange, LogError> {
        offset_range(&*self.asker, topic, partition)
    }

    fn end_offsets(
        &self,
        partitions: &[(Arc<str>, u32)],
        isolation: Isolation,
    ) -> Result<Vec<Option<u64>>, LogError> {
        match isolation {
            Isolation::Committed => ends::end_offsets(&self.asker, partitions),
            Isolation::Uncommitted => ends::end_offsets(&self.uncommitted, partitions),
        }
    }

    fn open_transactions(
        &self,
        partitions: &[(Arc<str>, u32)],
    ) -> Result<Vec<OpenTransaction>, LogError> {
        ends::open_transactions(&self.options, (&self.asker, &self.uncommitted), partitions)
    }

    fn offset_at(&self, topic: &str, partition: u32, at: Millis) -> Result<u64, LogError> {
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(topic, partition as i32, Offset::Offset(at.0))
            .doing_of(AT, topic)?;
        let ask = || self.asker.offsets_for_times(list.clone(), REQUEST);
        let found = while_leaders_move(&*self.asker, topic, ask).doing_of(AT, topic)?;
        match found.elements().first().map(TopicPartitionListElem::offset) {
            Some(Offset::Offset(offset)) => Ok(offset as u64),
            _ => Ok(self.offset_range(topic, partition)?.end),
        }
    }

    fn committed(
        &self,
        processor: &str,
        topic: &str,
        partition: u32,
    ) -> Result<Option<u64>, LogError> {
        let position = committed(&self.group_asker(processor)?, topic, partition)?;
        Ok(in_this_topic(position, self.id(topic)?))
    }

    fn positions(&self, processor: &str, topic: &str) -> Result<Vec<Option<u64>>, LogError> {
        let positions = self.committed_positions(processor, topic)?;
        let id = self.id(topic)?;
        let next = |position| in_this_topic(position, id);
        Ok(positions.into_iter().map(next).collect())
    }

    fn position_faults(
        &self,
        processor: &str,
        topic: &str,
    ) -> Result<Vec<PositionFault>, LogError> {
        let positions = self.committed_positions(processor, topic)?;
        let id = self.id(topic)?;
        let mut faults = Vec::new();
        for (partition, position) in (0..).zip(positions).filter(|(_, p)| p.is_some()) {
            let place = Place {
                processor,
                topic,
                partition,
            };
            let range = self.offset_range(topic, partition)?;
            faults.extend(identity::fault(place, position, id, range));
        }
        Ok(faults)
    }

    fn cleanup(&self, topic: &str) -> Result<Option<Cleanup>, LogError> {
        provision::cleanup(&self.options, topic)
    }

    fn record_limit(&self, topic: &str) -> usize {
        self.limits.record(topic)
    }

    fn state_limit(&self, processor: &str) -> usize {
        self.limits
            .record(&format!("{}state.{processor}", self.options.prefix))
    }

    fn wanted_record_limit(&self, topic: &str) -> Option<usize> {
        limits::wanted(&self.options, topic)
    }

    fn forget_record_limits(&self) {
        self.limits.forget();
    }

    fn failure(&self) -> Option<String> {
        self.state.as_ref().and_then(StateStore::failure)
    }

    fn health(&self) -> Result<(), LogError> {
        let timeout = Duration::from_secs(2);
        self.asker
            .client()
            .fetch_metadata(Some(""), timeout)
            .or_else(|_| self.asker.client().fetch_metadata(None, timeout))
            .doing("asking for the brokers")?;
        Ok(())
    }
}

fn offset_range<C: Consumer<X>, X: ConsumerContext>(
    consumer: &C,
    topic: &str,
    partition: u32,
) -> Result<OffsetRange, LogError> {
    let ask = || consumer.fetch_watermarks(topic, partition as i32, REQUEST);
    let (start, end) = while_leaders_move(consumer, topic, ask).doing_of(END, topic)?;
    Ok(OffsetRange {
        start: start.max(0) as u64,
        end: end.max(0) as u64,
    })
}

/// Repeats a request while a partition's leader is being elected, as after its topic was created or while brokers restart.
fn while_leaders_move<T, C: Consumer<X>, X: ConsumerContext>(
    consumer: &C,
    topic: &str,
    ask: impl Fn() -> Result<T, ClientError>,
) -> Result<T, ClientError> {
    let deadline = Instant::now() + REQUEST;
    let mut pause = Duration::from_millis(20);
    loop {
        let error = match ask() {
            Err(error) if Instant::now() < deadline => error,
            answer => return answer,
        };
        match error.rdkafka_error_code() {
            // A new leader does not report its end offset before its high watermark is known (KIP-207).
            Some(
                RDKafkaErrorCode::NotLeaderForPartition
                | RDKafkaErrorCode::LeaderNotAvailable
                | RDKafkaErrorCode::OffsetNotAvailable
                | RDKafkaErrorCode::FencedLeaderEpoch
                | RDKafkaErrorCode::UnknownLeaderEpoch,
            ) => {}
            // From librdkafka's cache, perhaps filled by a broker that had just started.
            Some(
                RDKafkaErrorCode::UnknownPartition
                | RDKafkaErrorCode::UnknownTopic
                | RDKafkaErrorCode::UnknownTopicOrPartition,
            ) if topic_exists(consumer, topic) => {}
            _ => return Err(error),
        }
        std::thread::sleep(pause.mul_f64(rand::random_range(0.5..=1.0)));
        pause = (pause * 2).min(Duration::from_millis(500));
    }
}

/// Whether the brokers know a topic. The answer updates librdkafka's cache.
fn topic_exists<C: Consumer<X>, X: ConsumerContext>(consumer: &C, topic: &str) -> bool {
    let found = consumer.client().fetch_metadata(Some(topic), REQUEST);
    found.is_ok_and(|found| {
        let mut topics = found.topics().iter();
        topics.any(|t| t.name() == topic && t.error().is_none() && !t.partitions().is_empty())
    })
}

/// The committed position of the consumer's group. Waits for open transactions of the group to end.
fn committed<C: Consumer<X>, X: ConsumerContext>(
    consumer: &C,
    topic: &str,
    partition: u32,
) -> Result<Option<StoredPosition>, LogError> {
    let mut list = TopicPartitionList::new();
    list.add_partition(topic, partition as i32);
    let found = consumer
        .committed_offsets(list, COMMITTED)
        .doing_of("asking for the committed offset", topic)?;
    Ok(found.elements().first().and_then(committed_position))
}

/// A committed position, with the topic id in its metadata.
fn committed_position(element: &TopicPartitionListElem<'_>) -> Option<StoredPosition> {
    match element.offset() {
        Offset::Offset(next) => Some(StoredPosition {
            next: next as u64,
            id: identity::from_metadata(element.metadata()).0,
        }),
        _ => None,
    }
}

/// The offset, unless it belongs to an earlier topic of the same name.
fn in_this_topic(position: Option<StoredPosition>, id: Option<TopicId>) -> Option<u64> {
    let position = position?;
    let another = position.id.zip(id).is_some_and(|(was, is)| was != is);
    (!another).then_some(position.next)
}
