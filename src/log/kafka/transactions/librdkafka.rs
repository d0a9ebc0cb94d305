//! Transactions with librdkafka's producer.
//!
//! A broker refuses a whole batch that exceeds the limit of its topic. The batch size is therefore the smallest limit of the topics
//! that are written to ([`Shape`]); single records that are too large are rejected by the caller beforehand. Refusals that happen
//! nevertheless, as when the limit of a topic has just been lowered, are reported to [`Limits`] for the next attempt.

use std::{
    cell::Cell,
    collections::HashMap,
    sync::{Arc, atomic::AtomicBool},
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use rdkafka::{
    ClientConfig, ClientContext, Message, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    error::{KafkaError as ClientError, RDKafkaErrorCode},
    message::DeliveryResult,
    producer::{BaseProducer, BaseRecord, Producer, ProducerContext, PurgeConfig},
};

use super::{
    super::{
        CLIENT, KafkaOptions,
        classify::{Doing, call, is_fatal, is_fenced},
        error::KafkaError,
        group::GroupConsumer,
        limits::Limits,
        offsets::Offsets,
        position::{POSITION, POSITION_BYTES, to_record},
        producer::headers,
    },
    ABORT, BATCH, BEGIN_PRODUCER, COMMIT, DELIVER, OFFSETS, OUTCOME, Stopping, TRANSACTION,
    own_partition,
};
use crate::{
    chaos::{Bug, pause, planted},
    log::{
        BATCH_HEADER, Fenced, Headers, LogError, Transaction,
        identity::{StoredPosition, committed_by, to_metadata},
        record_size, row_size,
    },
};

/// Time limit of one call that waits for an outcome; between calls the stop flag is checked.
const SLICE: Duration = Duration::from_secs(1);
/// How often delivery reports are polled.
const STEP: Duration = Duration::from_micros(250);

/// How long a producer keeps an unusual shape after its last use.
const UNUSUAL: Duration = Duration::from_mins(1);

/// The size limits of a producer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Shape {
    /// The most bytes of a batch of several records: the smallest limit of the topics.
    batch: usize,
    /// The most bytes of a record. librdkafka allocates accordingly, so it is no larger than necessary.
    record: usize,
}

impl Shape {
    const USUAL: Self = Self {
        batch: BATCH,
        record: BATCH,
    };

    /// A shape that satisfies both.
    fn with(self, other: Self) -> Self {
        Self {
            batch: self.batch.min(other.batch),
            record: self.record.max(other.record),
        }
    }
}

/// Collects from delivery reports the end offsets of the changelog, and the refused records.
#[derive(Clone)]
struct Context {
    changelog: Arc<str>,
    ends: Arc<Mutex<HashMap<u32, u64>>>,
    /// The numbers, in the order of sending, of records that were too large.
    refused: Arc<Mutex<Vec<usize>>>,
}

impl ClientContext for Context {}

impl ProducerContext for Context {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, number: usize) {
        match result {
            Ok(message) if message.topic() == &*self.changelog => {
                let end = message.offset() as u64 + 1;
                self.ends
                    .lock()
                    .entry(message.partition() as u32)
                    .and_modify(|e| *e = end.max(*e))
                    .or_insert(end);
            }
            // Other failures fail the transaction anyway.
            Err((error, _))
                if error.rdkafka_error_code() == Some(RDKafkaErrorCode::MessageSizeTooLarge) =>
            {
                self.refused.lock().push(number);
            }
            _ => {}
        }
    }
}

/// The transactional producer of one lane.
pub(in super::super) struct Librdkafka {
    options: KafkaOptions,
    processor: Arc<str>,
    changelog: Arc<str>,
    id: Arc<str>,
    config: ClientConfig,
    shape: Shape,
    /// When an unusual shape was needed last.
    unusual: Option<Instant>,
    producer: Arc<BaseProducer<Context>>,
    offsets: Offsets,
    /// A call of librdkafka did not return: the producer is abandoned.
    stuck: Cell<bool>,
    context: Context,
    limits: Limits,
    stopping: Stopping,
}

impl Librdkafka {
    /// Fences the previous producer with this transactional id, and aborts its open transaction.
    pub(super) fn new(
        options: &KafkaOptions,
        processor: &Arc<str>,
        changelog: &Arc<str>,
        id: &str,
        limits: Limits,
    ) -> Result<Self, LogError> {
        let context = Context {
            changelog: Arc::clone(changelog),
            ends: Arc::default(),
            refused: Arc::default(),
        };
        let mut config = options.config();
        config
            .set("transaction.timeout.ms", "10000")
            .set("linger.ms", "0")
            .set("queue.buffering.max.messages", "1000000");
        let mut config = options.tuned(config);
        config
            .set("transactional.id", id)
            .set("partitioner", "murmur2_random");
        let producer = Arc::new(make(&config, Shape::USUAL, &context)?);
        producer.init_transactions(OUTCOME).doing(BEGIN_PRODUCER)?;
        Ok(Self {
            options: options.clone(),
            processor: Arc::clone(processor),
            changelog: Arc::clone(changelog),
            id: id.into(),
            config,
            shape: Shape::USUAL,
            unusual: None,
            offsets: Offsets::new(&producer, TRANSACTION)?,
            stuck: Cell::new(false),
            producer,
            context,
            limits,
            stopping: Stopping::default(),
        })
    }

    /// Sets the flag that ends waits for brokers.
    pub(super) fn stop_with(&mut self, stop: Arc<AtomicBool>) {
        self.stopping.flag = stop;
    }

    /// Takes the new end offset of each changelog partition that was written since the last call.
    pub(super) fn take_ends(&self) -> HashMap<u32, u64> {
        std::mem::take(&mut *self.context.ends.lock())
    }

    /// Commits. The class of an error is what the caller must do.
    pub(super) fn commit(
        &mut self,
        group: &GroupConsumer,
        transaction: &Transaction,
    ) -> Result<(), LogError> {
        self.ensure_shape(transaction)?;
        let failed = match self.transact(group, transaction) {
            Ok(()) => return Ok(()),
            Err(failed) => failed,
        };
        let ended = self.abort(failed);
        self.report_refused(transaction);
        Err(ended)
    }

    /// Replaces the producer if its shape does not fit the transaction.
    fn ensure_shape(&mut self, transaction: &Transaction) -> Result<(), LogError> {
        let needed = self.needed(transaction);
        let now = Instant::now();
        if needed != Shape::USUAL {
            self.unusual = Some(now);
        }
        let mut shape = self.shape.with(needed);
        // Returns to the usual shape when no topic or record has needed another one for a while.
        if self.unusual.is_some_and(|last| now >= last + UNUSUAL) {
            self.unusual = None;
            shape = Shape::USUAL;
        }
        if shape == self.shape {
            return Ok(());
        }
        tracing::debug!(processor = %self.processor, ?shape, "replacing the producer: other sizes are needed");
        self.shape = shape;
        self.new_producer()
    }

    fn needed(&self, transaction: &Transaction) -> Shape {
        let mut shape = Shape::USUAL;
        let mut asked: Vec<&Arc<str>> = Vec::new();
        let mut narrow = |topic, shape: &mut Shape| {
            if !asked
                .iter()
                .any(|one| Arc::ptr_eq(one, topic) || *one == topic)
            {
                asked.push(topic);
                shape.batch = shape.batch.min(self.limits.batch(topic));
            }
        };
        for output in &transaction.outputs {
            narrow(&output.topic, &mut shape);
            shape.record = shape.record.max(record_size(&output.record));
        }
        for change in transaction.state.0.iter().filter(|c| c.logged) {
            narrow(&self.changelog, &mut shape);
            let value = change.value.as_deref().unwrap_or_default();
            let size = BATCH_HEADER + row_size(&change.key, value);
            shape.record = shape.record.max(size);
        }
        if shape.record > BATCH {
            // In powers of two, since each change needs a new producer.
            let step = shape.record.next_power_of_two();
            shape.record = step.min(self.options.message_bytes().max(shape.record));
        }
        shape
    }

    /// Makes a new producer with the same id, which fences the old one and aborts its open transaction.
    fn new_producer(&mut self) -> Result<(), LogError> {
        let producer = Arc::new(make(&self.config, self.shape, &self.context)?);
        self.retry(|| producer.init_transactions(SLICE))
            .doing(BEGIN_PRODUCER)?;
        self.offsets = Offsets::new(&producer, TRANSACTION)?;
        self.stuck.set(false);
        self.producer = producer;
        // Discards the delivery reports of the old one.
        self.context.ends.lock().clear();
        Ok(())
    }

    /// Repeats a call until its outcome is known, or [`OUTCOME`] has passed.
    fn retry(&self, mut call: impl FnMut() -> Result<(), ClientError>) -> Result<(), ClientError> {
        let deadline = Instant::now() + OUTCOME;
        loop {
            match call() {
                Err(ClientError::Transaction(error)) if error.is_retriable() => {
                    let now = Instant::now();
                    if now >= deadline || self.gives_up(now) {
                        return Err(ClientError::Transaction(error));
                    }
                    // Avoids a busy loop if the call fails at once.
                    std::thread::sleep(STEP);
                }
                result => return result,
            }
        }
    }

    pub(super) fn gives_up(&self, now: Instant) -> bool {
        self.stopping.gives_up(now)
    }

    fn send(
        &self,
        number: usize,
        topic: &str,
        partition: Option<u32>,
        (key, value): (Option<&[u8]>, Option<&[u8]>),
        with: &Headers,
    ) -> Result<(), Failed> {
        let mut record: BaseRecord<'_, [u8], [u8], usize> =
            BaseRecord::with_opaque_to(topic, number);
        if let Some(partition) = partition {
            record = record.partition(partition as i32);
        }
        if let Some(key) = key {
            record = record.key(key);
        }
        if let Some(value) = value {
            record = record.payload(value);
        }
        if !with.is_empty() {
            record = record.headers(headers(with));
        }
        let mut deadline = None;
        loop {
            match self.producer.send(record) {
                Ok(()) => return Ok(()),
                Err((ClientError::MessageProduction(RDKafkaErrorCode::QueueFull), back))
                    if Instant::now()
                        < *deadline.get_or_insert_with(|| Instant::now() + TRANSACTION) =>
                {
                    record = back;
                    self.producer.poll(Duration::ZERO);
                    std::thread::sleep(STEP);
                }
                Err((error, _)) => {
                    if error.rdkafka_error_code() == Some(RDKafkaErrorCode::MessageSizeTooLarge) {
                        self.context.refused.lock().push(number);
                    }
                    return Err(Failed::Kafka(call("sending a record", Some(topic), error)));
                }
            }
        }
    }

    /// Waits until all records are delivered. rdkafka's own `flush` always polls for 100 ms at a time, and its `poll` spins during the
    /// last millisecond of a wait.
    fn flush(&self) -> Result<(), ClientError> {
        let deadline = Instant::now() + TRANSACTION;
        let mut waiting = self.producer.in_flight_count();
        while waiting > 0 {
            self.producer.poll(Duration::ZERO);
            let left = self.producer.in_flight_count();
            if left == waiting {
                let now = Instant::now();
                if now >= deadline || self.gives_up(now) {
                    return Err(ClientError::Flush(RDKafkaErrorCode::OperationTimedOut));
                }
                std::thread::sleep(STEP);
            }
            waiting = left;
        }
        Ok(())
    }

    fn transact(&self, group: &GroupConsumer, transaction: &Transaction) -> Result<(), Failed> {
        let step = |doing| move |error| Failed::Kafka(call(doing, None, error));
        if planted(Bug::ZombieNotFenced) {
            pause();
        }
        let begun = self.producer.begin_transaction();
        begun.map_err(step("beginning a transaction"))?;
        let counts = group.watched.topics().counts();
        for (number, output) in transaction.outputs.iter().enumerate() {
            let record = &output.record;
            self.send(
                number,
                &output.topic,
                output
                    .partition
                    .or_else(|| own_partition(&counts, &output.topic, record.key.as_deref())),
                (record.key.as_deref(), record.value.as_deref()),
                &record.headers,
            )?;
        }
        if planted(Bug::NoTransaction) {
            self.flush().map_err(step(DELIVER))?;
            let committed = self.producer.commit_transaction(TRANSACTION);
            committed.map_err(step(COMMIT))?;
            pause();
            let begun = self.producer.begin_transaction();
            begun.map_err(step("beginning a transaction"))?;
        }
        let none = Headers::new();
        let mut stateful = Vec::new();
        let before = transaction.outputs.len();
        for (number, change) in transaction.state.0.iter().enumerate() {
            if !change.logged {
                continue;
            }
            let partition = change.space.partition;
            self.send(
                before + number,
                &self.changelog,
                Some(partition),
                (Some(&change.key), change.value.as_deref()),
                &none,
            )?;
            if !stateful.contains(&partition) {
                stateful.push(partition);
            }
        }
        let mut list = TopicPartitionList::new();
        for (topic, partition, next) in &transaction.positions {
            let offset = Offset::Offset(*next as i64);
            let name = &group.topics[*topic];
            list.add_partition_offset(name, *partition as i32, offset)
                .map_err(step(OFFSETS))?;
            let id = group.watched.id(*topic);
            // The next owner fences the producer that committed last, in case it has left a transaction open.
            if let Some(mut element) = list.find_partition(name, *partition as i32) {
                element.set_metadata(to_metadata(id, &committed_by(&self.id)));
            }
            if stateful.contains(partition) {
                let value = to_record(*topic, StoredPosition { next: *next, id });
                self.send(
                    usize::MAX,
                    &self.changelog,
                    Some(*partition),
                    (Some(POSITION), Some(&value)),
                    &none,
                )?;
            }
        }
        // Delivery reports are drained first; otherwise send_offsets waits for a timer of librdkafka.
        self.flush().map_err(step(DELIVER))?;
        if !self.context.refused.lock().is_empty() {
            let code = RDKafkaErrorCode::MessageSizeTooLarge;
            return Err(step(DELIVER)(ClientError::MessageProduction(code)));
        }
        let mut member = group.consumer.group_metadata();
        if planted(Bug::ZombieNotFenced) {
            // A consumer that never joined has no generation, so the broker does not check it.
            let mut config = self.options.consumer_config();
            config.set(
                "group.id",
                format!("{}{}", self.options.prefix, self.processor),
            );
            let zombie = config.create::<BaseConsumer>();
            member = zombie.map_err(step(OFFSETS))?.group_metadata();
        }
        let member = member.ok_or_else(|| Failed::Kafka(Arc::new(KafkaError::NoMember)))?;
        let Some(sent) = self.offsets.send(list, member) else {
            self.stuck.set(true);
            return Err(Failed::Kafka(Arc::new(KafkaError::Stuck {
                doing: OFFSETS,
            })));
        };
        sent.map_err(step(OFFSETS))?;
        // Checks the latest known topic ids, without a request.
        group.watched.verify().map_err(Failed::Topic)?;
        // After a timeout the commit continues in the background; repeating the call returns its outcome.
        let committed = self.retry(|| self.producer.commit_transaction(SLICE));
        committed.map_err(step(COMMIT))
    }

    /// Reports records that were refused as too large to the limits.
    fn report_refused(&self, transaction: &Transaction) {
        let refused = std::mem::take(&mut *self.context.refused.lock());
        let mut sizes: HashMap<&Arc<str>, Vec<usize>> = HashMap::new();
        let before = transaction.outputs.len();
        for number in refused {
            let (topic, size) = if let Some(output) = transaction.outputs.get(number) {
                (&output.topic, record_size(&output.record))
            } else if let Some(change) = number
                .checked_sub(before)
                .and_then(|number| transaction.state.0.get(number))
            {
                let value = change.value.as_deref().unwrap_or_default();
                (&self.changelog, BATCH_HEADER + row_size(&change.key, value))
            } else {
                (
                    &self.changelog,
                    BATCH_HEADER + row_size(POSITION, &[0; POSITION_BYTES]),
                )
            };
            sizes.entry(topic).or_default().push(size);
        }
        for (topic, sizes) in sizes {
            self.limits.refused(topic, &sizes);
        }
    }

    /// Ends a failed transaction. The class of the returned error is what the caller must do.
    fn abort(&mut self, failed: Failed) -> LogError {
        self.context.ends.lock().clear();
        if self.stuck.get() {
            tracing::warn!(processor = %self.processor, "the call of librdkafka that adds offsets to the transaction does not return; a new producer ends it");
            return self.replace(failed.into(), None);
        }
        if let Some(over) = failed.ends_producer() {
            return over;
        }
        if let Some((code, reason)) = self.producer.client().fatal_error() {
            let source = code;
            let error = Arc::new(KafkaError::Producer { reason, source });
            return if is_fenced(code) {
                LogError::Fenced(Fenced::Kafka(error))
            } else {
                LogError::Kafka(error)
            };
        }
        // The abort waits for all delivery reports, and only this thread polls them: waits for those in flight first.
        self.producer.purge(PurgeConfig::default().queue());
        let flushed = self.flush();
        let aborted = flushed.and_then(|()| self.retry(|| self.producer.abort_transaction(SLICE)));
        self.context.ends.lock().clear();
        let failed: Arc<LogError> = failed.into();
        let Err(second) = aborted else {
            return LogError::Aborted(failed);
        };
        let second = LogError::Kafka(call(ABORT, None, second));
        if self.stopping.is_set() {
            // The next producer with this id aborts the transaction, or its timeout does.
            return LogError::NotEnded {
                failed,
                abort: Some(Arc::new(second)),
                replacement: None,
            };
        }
        // This also ends a commit with an unknown outcome, which is read back from the log.
        tracing::warn!(processor = %self.processor, error = %failed, %second, "the abort failed; a new producer ends the transaction");
        self.replace(failed, Some(Arc::new(second)))
    }

    /// Makes a new producer, which aborts the open transaction of this one.
    fn replace(&mut self, failed: Arc<LogError>, abort: Option<Arc<LogError>>) -> LogError {
        let replacement = if self.stopping.is_set() {
            // The next producer with this id aborts the transaction, or its timeout does.
            None
        } else {
            match self.new_producer() {
                Ok(()) => return LogError::Aborted(failed),
                Err(third) => Some(Arc::new(third)),
            }
        };
        LogError::NotEnded {
            failed,
            abort,
            replacement,
        }
    }
}

/// Why a transaction was not committed.
enum Failed {
    /// A step of it failed.
    Kafka(Arc<KafkaError>),
    /// A topic was recreated while its records were being processed.
    Topic(LogError),
}

impl Failed {
    /// The error for the caller if the producer cannot be used after this failure.
    fn ends_producer(&self) -> Option<LogError> {
        match self {
            Self::Kafka(error) => match &**error {
                KafkaError::Call {
                    source: source @ ClientError::Transaction(_),
                    ..
                } if is_fatal(source) => {
                    let fenced = source.rdkafka_error_code().is_some_and(is_fenced);
                    let error = Arc::clone(error);
                    Some(if fenced {
                        LogError::Fenced(Fenced::Kafka(error))
                    } else {
                        LogError::Kafka(error)
                    })
                }
                _ => None,
            },
            Self::Topic(_) => None,
        }
    }
}

impl From<Failed> for Arc<LogError> {
    fn from(failed: Failed) -> Self {
        Self::new(match failed {
            Failed::Kafka(error) => LogError::Kafka(error),
            Failed::Topic(error) => error,
        })
    }
}

fn make(
    config: &ClientConfig,
    shape: Shape,
    context: &Context,
) -> Result<BaseProducer<Context>, LogError> {
    let mut config = config.clone();
    let given = config.get("batch.size").and_then(|n| n.parse().ok());
    let batch = given.unwrap_or(usize::MAX).min(shape.batch);
    config
        .set("batch.size", batch.to_string())
        // Leaves room for the framing of a record, which librdkafka counts differently.
        .set("message.max.bytes", (shape.record + 1024).to_string());
    config.create_with_context(context.clone()).doing(CLIENT)
}
