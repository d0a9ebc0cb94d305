//! Transactions implemented with the protocol itself: one request adds all partitions, and each leader gets the records of all its
//! partitions in one request, while the group's coordinator gets the offsets.
//!
//! A batch keeps its sequence number until it is acknowledged, so a batch that is sent again is appended once. A request whose answer
//! was lost is repeated on another connection, and the first one may still arrive late. So before the next transaction the producer
//! gets a new epoch, and brokers refuse requests with the old one; getting it also aborts the open transaction, if it has to be aborted.

use std::{
    collections::{BTreeMap, HashMap},
    io,
    mem::take,
    sync::{Arc, atomic::AtomicBool},
    time::{Duration, Instant},
};

use bytes::Bytes;
use kafka_protocol::{
    error::ResponseError,
    messages::{
        GroupId, ProduceResponse, TopicName, TransactionalId, TxnOffsetCommitRequest,
        produce_response::PartitionProduceResponse,
        txn_offset_commit_request::{TxnOffsetCommitRequestPartition, TxnOffsetCommitRequestTopic},
    },
    protocol::StrBytes,
};
use rdkafka::consumer::Consumer;

use super::{
    super::{
        KafkaOptions,
        error::KafkaError,
        ffi::{GroupMember, group_member},
        group::GroupConsumer,
        limits::Limits,
        position::{POSITION, to_record},
        topics::{Counts, partition_among},
        wire::{
            Connection, Coordinates, OfTopic, TransactionOf,
            batch::{self, Fields, ProducerId, Within},
        },
    },
    ABORT, BATCH, BEGIN_PRODUCER, COMMIT, DELIVER, OFFSETS, OUTCOME, Stopping, TRANSACTION,
    cluster::{Attempts, Cluster, Coordinator, Unanswered},
    own_partition,
};
use crate::{
    base::clock::{Clock, Millis, SystemClock},
    chaos::{Bug, pause, planted},
    log::{
        Fenced, Headers, LogError, Output, Transaction, Unavailable,
        identity::{StoredPosition, committed_by, to_metadata},
        row_size,
    },
};

const BEGIN: &str = "adding partitions to the transaction";
/// The most bytes of a produce request, unless a batch is larger. The limit of brokers is 100 MB.
const REQUEST: usize = 16 << 20;
/// The longest pause while partitions have no leader.
const LEADERLESS: Duration = Duration::from_millis(100);

/// Why a transaction was not committed.
enum Failed {
    /// A broker refused a request.
    Refused(&'static str, ResponseError),
    /// There was no answer within the time limit.
    Lost(&'static str, io::Error),
    /// A broker refused records.
    Records(Arc<str>, u32, ResponseError),
    /// An error that is not of a request.
    Log(LogError),
}

impl Failed {
    fn of(doing: &'static str) -> impl Fn(Unanswered) -> Self {
        move |unanswered| match unanswered {
            Unanswered::Refused(error) => Self::Refused(doing, error),
            Unanswered::Lost(error) => Self::Lost(doing, error),
        }
    }

    fn response(&self) -> Option<ResponseError> {
        match self {
            Self::Refused(_, error) | Self::Records(_, _, error) => Some(*error),
            Self::Lost(..) | Self::Log(_) => None,
        }
    }

    /// Whether another producer or member has fenced this one, or the coordinator has aborted its transaction.
    fn is_fenced(&self) -> bool {
        use ResponseError::{FencedInstanceId, InvalidProducerEpoch, ProducerFenced};
        matches!(
            self.response(),
            Some(FencedInstanceId | InvalidProducerEpoch | ProducerFenced)
        )
    }

    /// Whether the producer cannot be used any more, so that there is no transaction to end.
    fn ends_producer(&self) -> bool {
        use ResponseError::{
            ClusterAuthorizationFailed, InvalidProducerEpoch, InvalidTransactionTimeout,
            ProducerFenced, TransactionalIdAuthorizationFailed, UnsupportedVersion,
        };
        matches!(
            self.response(),
            Some(
                ClusterAuthorizationFailed
                    | InvalidProducerEpoch
                    | InvalidTransactionTimeout
                    | ProducerFenced
                    | TransactionalIdAuthorizationFailed
                    | UnsupportedVersion
            )
        )
    }

    fn into_kafka(self) -> Result<Arc<KafkaError>, LogError> {
        Ok(Arc::new(match self {
            Self::Refused(doing, source) => KafkaError::Request { doing, source },
            Self::Lost(doing, source) => KafkaError::Connection {
                doing,
                source: Arc::new(source),
            },
            Self::Records(topic, partition, source) => KafkaError::Refused {
                topic,
                partition,
                source,
            },
            Self::Log(error) => return Err(error),
        }))
    }

    fn into_log_error(self) -> LogError {
        let fenced = self.is_fenced();
        match self.into_kafka() {
            Ok(error) if fenced => LogError::Fenced(Fenced::Kafka(error)),
            Ok(error) => LogError::Kafka(error),
            Err(error) => error,
        }
    }
}

/// The transactional producer of one lane.
pub(in super::super) struct Direct {
    processor: Arc<str>,
    changelog: Arc<str>,
    /// The transactional id as in the metadata of committed offsets.
    committed_by: String,
    cluster: Cluster,
    transaction: Coordinator,
    group: Coordinator,
    producer: ProducerId,
    /// The sequence number of the next record of each partition.
    sequences: HashMap<(Arc<str>, u32), i32>,
    /// A transaction may be open.
    open: bool,
    /// A batch was sent without an answer, or given up.
    unanswered: bool,
    /// The sizes of records that were refused as too large.
    refused: HashMap<Arc<str>, Vec<usize>>,
    ends: HashMap<u32, u64>,
    limits: Limits,
    stopping: Stopping,
}

impl Direct {
    pub(super) fn new(
        options: &KafkaOptions,
        processor: &Arc<str>,
        changelog: &Arc<str>,
        id: &str,
        limits: Limits,
    ) -> Result<Self, LogError> {
        let group = format!("{}{processor}", options.prefix);
        let mut direct = Self {
            processor: Arc::clone(processor),
            changelog: Arc::clone(changelog),
            committed_by: committed_by(id),
            cluster: Cluster::new(options),
            transaction: Coordinator::new(Coordinates::Transaction, id),
            group: Coordinator::new(Coordinates::Group, &group),
            producer: ProducerId { id: -1, epoch: -1 },
            sequences: HashMap::new(),
            open: false,
            unanswered: false,
            refused: HashMap::new(),
            ends: HashMap::new(),
            limits,
            stopping: Stopping::default(),
        };
        if let Err(failed) = direct.init(None) {
            let passes = !failed.ends_producer();
            return Err(match failed.into_kafka() {
                Ok(error) if passes => Unavailable::Kafka(error).into(),
                Ok(error) => LogError::Kafka(error),
                Err(error) => error,
            });
        }
        Ok(direct)
    }

    pub(super) fn stop_with(&mut self, stop: Arc<AtomicBool>) {
        self.cluster.stop_with(Arc::clone(&stop));
        self.transaction.close();
        self.group.close();
        self.stopping.flag = stop;
    }

    pub(super) fn take_ends(&mut self) -> HashMap<u32, u64> {
        take(&mut self.ends)
    }

    pub(super) fn gives_up(&self, now: Instant) -> bool {
        self.stopping.gives_up(now)
    }

    pub(super) fn commit(
        &mut self,
        group: &GroupConsumer,
        transaction: &Transaction,
    ) -> Result<(), LogError> {
        if planted(Bug::ZombieNotFenced) {
            pause();
        }
        match self.transact(group, transaction) {
            Ok(()) => Ok(()),
            Err(failed) => Err(self.abort(failed)),
        }
    }

    /// Whether a request that was given up may still arrive.
    fn is_unsure(&self) -> bool {
        self.unanswered || self.transaction.lost || self.group.lost
    }

    /// Gets a new epoch, which aborts an open transaction. With the current producer id in `had` (no transaction may be open then), this
    /// fails if another producer has fenced this one.
    fn init(&mut self, had: Option<ProducerId>) -> Result<(), Failed> {
        let id = self.transaction.key.clone();
        let asked = self
            .transaction
            .ask(&mut self.cluster, &self.stopping, OUTCOME, |link| {
                link.init_producer_id(Some((&id, TRANSACTION)), had)
            });
        self.producer = asked.map_err(Failed::of(BEGIN_PRODUCER))?;
        self.sequences.clear();
        self.open = false;
        self.unanswered = false;
        // Requests with the old epoch are refused.
        self.transaction.lost = false;
        self.group.lost = false;
        Ok(())
    }

    fn transact(&mut self, group: &GroupConsumer, transaction: &Transaction) -> Result<(), Failed> {
        if self.is_unsure() {
            self.init(Some(self.producer))?;
        }
        let mut queues = Queues::default();
        let counts = group.watched.topics().counts();
        for output in &transaction.outputs {
            let partition = self.partition(&counts, output)?;
            let record = &output.record;
            let size = batch::size(record);
            let to = (&output.topic, partition);
            queues.push(to, (record.into(), size), |topic| self.limits.batch(topic));
        }
        if planted(Bug::NoTransaction) && !queues.queues.is_empty() {
            self.add(&queues, false)?;
            self.produce(&mut queues)?;
            self.end(true)?;
            pause();
            queues = Queues::default();
        }
        let none = Headers::new();
        let fields = |key, value| Fields {
            key: Some(key),
            value,
            headers: &none,
        };
        let mut stateful = Vec::new();
        for change in transaction.state.0.iter().filter(|change| change.logged) {
            let partition = change.space.partition;
            let value = change.value.as_deref();
            let size = row_size(&change.key, value.unwrap_or_default());
            let to = (&self.changelog, partition);
            let row = (fields(&change.key, value), size);
            queues.push(to, row, |topic| self.limits.batch(topic));
            if !stateful.contains(&partition) {
                stateful.push(partition);
            }
        }
        let positions: Vec<_> = transaction
            .positions
            .iter()
            .filter(|(_, partition, _)| stateful.contains(partition))
            .map(|(topic, partition, next)| {
                let id = group.watched.id(*topic);
                (
                    *partition,
                    to_record(*topic, StoredPosition { next: *next, id }),
                )
            })
            .collect();
        for (partition, value) in &positions {
            let size = row_size(POSITION, value);
            let to = (&self.changelog, *partition);
            let row = (fields(POSITION, Some(value)), size);
            queues.push(to, row, |topic| self.limits.batch(topic));
        }
        let offsets = self.offsets(group, transaction)?;
        if queues.queues.is_empty() && offsets.is_none() {
            return Ok(());
        }
        self.add(&queues, offsets.is_some())?;
        // The group's coordinator takes the offsets while the leaders take the records.
        let mut sent = false;
        if let (Some(offsets), Some(link)) = (&offsets, self.group.link()) {
            sent = link.send_offsets(offsets).is_ok();
            if !sent {
                self.group.close();
                self.group.lost = true;
            }
        }
        if let Err(failed) = self.produce(&mut queues) {
            if sent {
                // The answer is left in the connection.
                self.group.close();
                self.group.lost = true;
            }
            return Err(failed);
        }
        if let Some(offsets) = &offsets {
            let asked = self
                .group
                .ask(&mut self.cluster, &self.stopping, TRANSACTION, |link| {
                    if !take(&mut sent) {
                        link.send_offsets(offsets)?;
                    }
                    link.offsets_sent()
                });
            asked.map_err(Failed::of(OFFSETS))?;
        }
        // Checks the latest known topic ids, without a request.
        group.watched.verify().map_err(Failed::Log)?;
        self.end(true)
    }

    /// The partition of a record.
    fn partition(&mut self, counts: &Counts, output: &Output) -> Result<u32, Failed> {
        let key = output.record.key.as_deref();
        let given = output.partition;
        if let Some(partition) = given.or_else(|| own_partition(counts, &output.topic, key)) {
            return Ok(partition);
        }
        let mut attempts = Attempts::within(TRANSACTION);
        loop {
            if let Some(count) = self.cluster.partitions(&output.topic) {
                return Ok(partition_among(key, count));
            }
            // Brokers may create the topic, as with librdkafka's producer.
            let topics = std::slice::from_ref(&output.topic);
            let asked = self.cluster.refresh(topics, true);
            if self.cluster.partitions(&output.topic).is_some() {
                continue;
            }
            if !attempts.pause(LEADERLESS, &self.stopping) {
                return Err(match asked {
                    Ok(()) => Failed::Log(LogError::UnknownTopic(output.topic.to_string())),
                    Err(error) => Failed::Lost(DELIVER, error),
                });
            }
        }
    }

    fn of(&self) -> TransactionOf {
        TransactionOf {
            id: self.transaction.key.clone(),
            producer: self.producer,
        }
    }

    /// Begins a transaction by adding partitions, and the offsets of the group.
    fn add(&mut self, queues: &Queues<'_>, offsets: bool) -> Result<(), Failed> {
        let partitions = queues.partitions();
        let of = self.of();
        let group = offsets.then(|| self.group.key.clone());
        self.open = true;
        let asked = self
            .transaction
            .ask(&mut self.cluster, &self.stopping, TRANSACTION, |link| {
                link.add_to_transaction(&of, &partitions, group.as_ref())
            });
        asked.map_err(Failed::of(BEGIN))
    }

    fn end(&mut self, commit: bool) -> Result<(), Failed> {
        let of = self.of();
        let asked = self
            .transaction
            .ask(&mut self.cluster, &self.stopping, OUTCOME, |link| {
                link.end_transaction(&of, commit)
            });
        asked.map_err(Failed::of(if commit { COMMIT } else { ABORT }))?;
        self.open = false;
        Ok(())
    }

    /// The request with the offsets of the group; `None`: no input was read.
    fn offsets(
        &self,
        group: &GroupConsumer,
        transaction: &Transaction,
    ) -> Result<Option<TxnOffsetCommitRequest>, Failed> {
        if transaction.positions.is_empty() {
            return Ok(None);
        }
        let mut topics: BTreeMap<usize, Vec<TxnOffsetCommitRequestPartition>> = BTreeMap::new();
        for (topic, partition, next) in &transaction.positions {
            // The next owner fences the producer that committed last, in case it has left a transaction open.
            let metadata = to_metadata(group.watched.id(*topic), &self.committed_by);
            let offset = TxnOffsetCommitRequestPartition::default()
                .with_partition_index(*partition as i32)
                .with_committed_offset(*next as i64)
                .with_committed_metadata(Some(StrBytes::from_string(metadata)));
            topics.entry(*topic).or_default().push(offset);
        }
        let topics = topics.into_iter().map(|(topic, partitions)| {
            let name = StrBytes::from_string(group.topics[topic].clone());
            TxnOffsetCommitRequestTopic::default()
                .with_name(TopicName(name))
                .with_partitions(partitions)
        });
        let mut member = group_member(group.consumer.client());
        if planted(Bug::ZombieNotFenced) {
            // The broker does not check a consumer that never joined.
            member = Some(GroupMember {
                generation: -1,
                id: String::new(),
                instance: None,
            });
        }
        let no_member = || Failed::Log(LogError::Kafka(Arc::new(KafkaError::NoMember)));
        let member = member.ok_or_else(no_member)?;
        Ok(Some(
            TxnOffsetCommitRequest::default()
                .with_transactional_id(TransactionalId(self.transaction.key.clone()))
                .with_group_id(GroupId(self.group.key.clone()))
                .with_producer_id(self.producer.id.into())
                .with_producer_epoch(self.producer.epoch)
                .with_generation_id(member.generation)
                .with_member_id(StrBytes::from_string(member.id))
                .with_group_instance_id(member.instance.map(StrBytes::from_string))
                .with_topics(topics.collect()),
        ))
    }

    /// Sends all records, and waits until they are acknowledged.
    fn produce(&mut self, queues: &mut Queues<'_>) -> Result<(), Failed> {
        let produced = self.try_produce(queues);
        if produced.is_err() {
            // Brokers may have appended batches without acknowledging them; their sequence numbers must not be reused.
            self.unanswered |= queues.queues.iter().any(|queue| queue.batch.is_some());
        }
        produced
    }

    fn try_produce(&mut self, queues: &mut Queues<'_>) -> Result<(), Failed> {
        let mut attempts = Attempts::within(TRANSACTION);
        while !queues.are_empty() {
            let Some(retry) = self.send_round(queues)? else {
                attempts.progress();
                continue;
            };
            // A broker that is busy with another request for this transaction answers `NETWORK_EXCEPTION`.
            let refreshed = match retry.response() {
                Some(ResponseError::NetworkException) => Ok(()),
                _ => self.cluster.refresh(&queues.topics(), false),
            };
            if !attempts.pause(LEADERLESS, &self.stopping) {
                return Err(match refreshed {
                    Ok(()) => retry,
                    Err(error) => Failed::Lost(DELIVER, error),
                });
            }
        }
        Ok(())
    }

    /// Sends each leader one request, and handles the responses. `Some`: why batches must be sent again.
    fn send_round(&mut self, queues: &mut Queues<'_>) -> Result<Option<Failed>, Failed> {
        let mut leaders: BTreeMap<i32, Vec<usize>> = BTreeMap::new();
        let mut retry = None;
        for (number, queue) in queues.queues.iter().enumerate() {
            if queue.is_done() {
                continue;
            }
            let (topic, partition) = &queue.to;
            if let Some(leader) = self.cluster.leader(topic, *partition) {
                leaders.entry(leader).or_default().push(number);
            } else {
                let error = ResponseError::LeaderNotAvailable;
                retry = Some(Failed::Records(Arc::clone(topic), *partition, error));
            }
        }
        let now = SystemClock.now();
        let id = self.transaction.key.clone();
        let mut asked = Vec::with_capacity(leaders.len());
        for (leader, mut numbers) in leaders {
            // A request has each topic once.
            numbers.sort_by_key(|number| queues.queues[*number].topic);
            let mut room = REQUEST;
            numbers.retain(|number| {
                let queue = &mut queues.queues[*number];
                if room == 0 {
                    return false;
                }
                let size = queue.encode(self.producer, &self.sequences, now);
                room = room.saturating_sub(size);
                true
            });
            let batches = numbers.iter().filter_map(|number| {
                let queue = &queues.queues[*number];
                let batch = queue.batch.as_ref()?;
                Some((&queue.to.0, queue.to.1, batch.bytes.clone()))
            });
            let sent = self.cluster.link(leader);
            match sent.and_then(|link| link.send(Some(&id), batches)) {
                Ok(()) => asked.push((leader, numbers)),
                Err(error) => {
                    self.cluster.close(leader);
                    self.unanswered = true;
                    retry = Some(Failed::Lost(DELIVER, error));
                }
            }
        }
        // Reads all answers, so that none is left in a connection.
        let mut refused = None;
        for (leader, numbers) in asked {
            let answer = self.cluster.link(leader).and_then(Connection::sent);
            match answer {
                Ok(answer) => {
                    for number in numbers {
                        match self.settle(&mut queues.queues[number], &answer) {
                            Settled::Done => {}
                            Settled::Retry(failed) => retry = Some(failed),
                            Settled::Refused(failed) => refused = Some(failed),
                        }
                    }
                }
                Err(error) => {
                    self.cluster.close(leader);
                    self.unanswered = true;
                    retry = Some(Failed::Lost(DELIVER, error));
                }
            }
        }
        match refused {
            Some(failed) => Err(failed),
            None => Ok(retry),
        }
    }

    /// Handles the result of a batch.
    fn settle(&mut self, queue: &mut Queue<'_>, answer: &ProduceResponse) -> Settled {
        let (topic, partition) = &queue.to;
        let failed = |error| Failed::Records(Arc::clone(topic), *partition, error);
        let Some(found) = response(answer, topic, *partition) else {
            return Settled::Retry(failed(ResponseError::UnknownServerError));
        };
        match ResponseError::try_from_code(found.error_code) {
            // It was appended before, and that answer was lost.
            None | Some(ResponseError::DuplicateSequenceNumber) => {}
            Some(error @ (ResponseError::MessageTooLarge | ResponseError::RecordListTooLarge)) => {
                let sizes = self.refused.entry(Arc::clone(topic)).or_default();
                sizes.extend(queue.batch_sizes());
                return Settled::Refused(failed(error));
            }
            Some(error) if error.is_retriable() => return Settled::Retry(failed(error)),
            Some(error) => return Settled::Refused(failed(error)),
        }
        let Some(batch) = queue.batch.take() else {
            return Settled::Done;
        };
        queue.next += batch.count;
        self.sequences
            .insert(queue.to.clone(), sequence_after(&batch));
        if *queue.to.0 == *self.changelog && found.base_offset >= 0 {
            let end = found.base_offset as u64 + batch.count as u64;
            self.ends.insert(queue.to.1, end);
        }
        Settled::Done
    }

    /// Ends a failed transaction. The class of the returned error is what the caller must do.
    fn abort(&mut self, failed: Failed) -> LogError {
        self.ends.clear();
        let ended = self.end_failed(failed);
        for (topic, sizes) in take(&mut self.refused) {
            self.limits.refused(&topic, &sizes);
        }
        ended
    }

    fn end_failed(&mut self, failed: Failed) -> LogError {
        if failed.ends_producer() {
            return failed.into_log_error();
        }
        let ended = if self.is_unsure() {
            self.init(None)
        } else if self.open {
            self.end(false)
        } else {
            Ok(())
        };
        // Another member has replaced this one; the transaction has been ended above.
        if failed.is_fenced() {
            return failed.into_log_error();
        }
        let failed = Arc::new(failed.into_log_error());
        let second = match ended {
            Ok(()) => return LogError::Aborted(failed),
            Err(second) => Arc::new(second.into_log_error()),
        };
        let replacement = if self.stopping.is_set() {
            // The next producer with this id aborts the transaction, or its timeout does.
            None
        } else {
            // This also ends a commit with an unknown outcome, which is read back from the log.
            tracing::warn!(processor = %self.processor, error = %failed, %second, "the abort failed; a new producer ends the transaction");
            match self.init(None) {
                Ok(()) => return LogError::Aborted(failed),
                Err(third) => Some(Arc::new(third.into_log_error())),
            }
        };
        LogError::NotEnded {
            failed,
            abort: Some(second),
            replacement,
        }
    }
}

/// The result of a batch.
enum Settled {
    Done,
    Retry(Failed),
    Refused(Failed),
}

fn response<'a>(
    answer: &'a ProduceResponse,
    topic: &str,
    partition: u32,
) -> Option<&'a PartitionProduceResponse> {
    let mut topics = answer.responses.iter();
    let of_topic = topics.find(|of| **of.name == *topic)?;
    let mut partitions = of_topic.partition_responses.iter();
    partitions.find(|of| of.index == partition as i32)
}

/// The records of a transaction for one partition, in order.
struct Queue<'a> {
    to: (Arc<str>, u32),
    /// The index of its topic in `Queues::topics`.
    topic: usize,
    /// Each with an upper bound of its encoded bytes.
    records: Vec<(Fields<'a>, usize)>,
    /// The most bytes of a batch of several records.
    limit: usize,
    /// The first record that is not acknowledged.
    next: usize,
    /// The batch that is to be sent, or was sent and is not acknowledged.
    batch: Option<Batch>,
}

struct Batch {
    bytes: Bytes,
    count: usize,
    sequence: i32,
}

/// The sequence number after a batch, which wraps to 0.
fn sequence_after(batch: &Batch) -> i32 {
    ((i64::from(batch.sequence) + batch.count as i64) % (1 << 31)) as i32
}

impl Queue<'_> {
    fn is_done(&self) -> bool {
        self.next == self.records.len()
    }

    /// Encodes the next batch, unless there is one already; returns its size in bytes.
    fn encode(
        &mut self,
        producer: ProducerId,
        sequences: &HashMap<(Arc<str>, u32), i32>,
        now: Millis,
    ) -> usize {
        if let Some(batch) = &self.batch {
            return batch.bytes.len();
        }
        let (mut count, mut room) = (0, 0);
        for (_, size) in &self.records[self.next..] {
            if count > 0 && batch::HEAD + room + size > self.limit {
                break;
            }
            count += 1;
            room += size;
        }
        let records = &self.records[self.next..self.next + count];
        let fields = records.iter().map(|(fields, _)| *fields);
        let sequence = sequences.get(&self.to).copied().unwrap_or(0);
        let numbered = (producer, sequence);
        let bytes = batch::encode(fields, room, numbered, Within::Transaction, now);
        let size = bytes.len();
        self.batch = Some(Batch {
            bytes,
            count,
            sequence,
        });
        size
    }

    /// The sizes of the records of the batch, each as the only one in a batch.
    fn batch_sizes(&self) -> Vec<usize> {
        let count = self.batch.as_ref().map_or(0, |batch| batch.count);
        let records = &self.records[self.next..self.next + count];
        records.iter().map(|(_, size)| batch::HEAD + size).collect()
    }
}

/// The records of a transaction.
#[derive(Default)]
struct Queues<'a> {
    queues: Vec<Queue<'a>>,
    /// Topics with their limit and the queue of each partition.
    topics: Vec<(Arc<str>, usize, HashMap<u32, usize>)>,
}

impl<'a> Queues<'a> {
    /// Adds a record with the upper bound of its bytes. `limit` returns the largest batch of a topic.
    fn push(
        &mut self,
        (topic, partition): (&Arc<str>, u32),
        (fields, size): (Fields<'a>, usize),
        limit: impl Fn(&str) -> usize,
    ) {
        let mut known = self.topics.iter();
        let known = known.position(|(name, ..)| Arc::ptr_eq(name, topic) || name == topic);
        let known = known.unwrap_or_else(|| {
            let limit = limit(topic).min(BATCH);
            self.topics.push((Arc::clone(topic), limit, HashMap::new()));
            self.topics.len() - 1
        });
        let (name, limit, of_topic) = &mut self.topics[known];
        let queues = &mut self.queues;
        let number = *of_topic.entry(partition).or_insert_with(|| {
            queues.push(Queue {
                to: (Arc::clone(name), partition),
                topic: known,
                records: Vec::new(),
                limit: *limit,
                next: 0,
                batch: None,
            });
            queues.len() - 1
        });
        queues[number].records.push((fields, size));
    }

    fn are_empty(&self) -> bool {
        self.queues.iter().all(Queue::is_done)
    }

    fn topics(&self) -> Vec<Arc<str>> {
        self.topics
            .iter()
            .map(|(topic, ..)| Arc::clone(topic))
            .collect()
    }

    fn partitions(&self) -> Vec<OfTopic<i32>> {
        let of_topic = |(topic, _, queues): &(Arc<str>, usize, HashMap<u32, usize>)| {
            let mut partitions: Vec<i32> = queues.keys().map(|n| *n as i32).collect();
            partitions.sort_unstable();
            (Arc::clone(topic), partitions)
        };
        self.topics.iter().map(of_topic).collect()
    }
}

#[cfg(test)]
mod tests {
    use kafka_protocol::records::RecordBatchDecoder;

    use super::*;

    const PRODUCER: ProducerId = ProducerId { id: 3, epoch: 1 };

    #[test]
    fn batches_respect_the_limit_of_their_topic_and_keep_their_numbers() {
        let (narrow, wide): (Arc<str>, Arc<str>) = ("narrow".into(), "wide".into());
        let values: Vec<Vec<u8>> = [10, 10, 400, 10].iter().map(|len| vec![7; *len]).collect();
        let headers = Headers::new();
        let limit = |topic: &str| if topic == "narrow" { 200 } else { usize::MAX };
        let mut queues = Queues::default();
        for value in &values {
            for topic in [&narrow, &wide] {
                let fields = Fields {
                    key: None,
                    value: Some(value),
                    headers: &headers,
                };
                let row = (fields, row_size(&[], value));
                queues.push((topic, 4), row, limit);
            }
        }
        assert_eq!(
            queues.partitions(),
            [(Arc::clone(&narrow), vec![4]), (wide, vec![4])]
        );
        let mut sequences = HashMap::from([((narrow, 4), i32::MAX)]);
        let counts = |queue: &mut Queue<'_>, sequences: &mut HashMap<_, _>| {
            let mut counts = Vec::new();
            while !queue.is_done() {
                let size = queue.encode(PRODUCER, sequences, Millis(1));
                // It stays the same until it is acknowledged.
                assert_eq!(queue.encode(PRODUCER, sequences, Millis(2)), size);
                let batch = queue.batch.take().unwrap();
                assert_eq!(batch.bytes.len(), size);
                let read = RecordBatchDecoder::decode(&mut batch.bytes.clone()).unwrap();
                assert_eq!(read.records.len(), batch.count);
                assert!(read.records.iter().all(|record| record.transactional));
                assert_eq!(read.records[0].sequence, batch.sequence);
                counts.push((batch.sequence, batch.count));
                queue.next += batch.count;
                sequences.insert(queue.to.clone(), sequence_after(&batch));
            }
            counts
        };
        // A record that is larger than the limit is sent alone.
        assert_eq!(
            counts(&mut queues.queues[0], &mut sequences),
            [(i32::MAX, 2), (1, 1), (2, 1)]
        );
        assert_eq!(counts(&mut queues.queues[1], &mut sequences), [(0, 4)]);
        assert!(queues.are_empty());
    }
}
