//! A lane on Kafka: group member, transactional producer, keyed state with its changelog.
//!
//! One type alone owns the transaction. The changelog topic `state.{processor}` has the input's partitions; each
//! transaction adds its changes of state there, and a record with the key [`POSITION`] that says which input they reflect. This node's
//! copy of the state keeps the changelog offset it has read to, so a restart replays only the tail.

use std::{
    cell::Cell,
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use rdkafka::{
    ClientContext, Message, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    error::{KafkaError, RDKafkaErrorCode},
    message::DeliveryResult,
    producer::{BaseProducer, BaseRecord, Producer, ProducerContext},
};

use super::{
    KafkaOptions,
    group::GroupConsumer,
    offsets::Offsets,
    producer::headers,
    restore::{POSITION, Restore, changelog_row, followed_to, position_value, reflects_row},
    watermarks,
};
use crate::{
    backoff::{WORTH, rest},
    chaos::{Bug, pause, planted},
    clock::{Clock, SystemClock},
    log::{Fetched, Headers, Lane, LogError, Polled, Transaction, Watermarks},
    state::StateStore,
};

const TRANSACTION: Duration = Duration::from_secs(10);

/// How often deliveries are looked for.
const STEP: Duration = Duration::from_micros(250);

/// Notes how far the changelog has grown.
#[derive(Clone)]
struct Context {
    changelog: Arc<str>,
    ends: Arc<Mutex<HashMap<u32, u64>>>,
}

impl ClientContext for Context {}

impl ProducerContext for Context {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        // What was not delivered fails the transaction.
        if let Ok(message) = result
            && message.topic() == &*self.changelog
        {
            let end = message.offset() as u64 + 1;
            self.ends
                .lock()
                .entry(message.partition() as u32)
                .and_modify(|e| *e = end.max(*e))
                .or_insert(end);
        }
    }
}

pub(super) struct KafkaLane {
    options: KafkaOptions,
    state: StateStore,
    /// The member of the group, which holds the seat: after the producer, so that its id is free when both are gone.
    producer: Arc<BaseProducer<Context>>,
    offsets: Offsets,
    /// librdkafka does not come back from a call: the producer is left behind.
    stuck: Cell<bool>,
    group: GroupConsumer,
    context: Context,
    /// Asked for high watermarks.
    uncommitted: Arc<BaseConsumer>,
    processor: Arc<str>,
    transactional_id: String,
    changelog: Arc<str>,
    /// Records of the last poll.
    polled: usize,
    /// The committed positions of partitions whose state is restored, and that are opened next.
    prepared: HashMap<(usize, u32), Option<u64>>,
}

impl KafkaLane {
    pub(super) fn new(
        options: &KafkaOptions,
        state: StateStore,
        group: GroupConsumer,
        uncommitted: Arc<BaseConsumer>,
        changelog: &str,
    ) -> Result<Self, LogError> {
        let changelog: Arc<str> = changelog.into();
        let context = Context {
            changelog: Arc::clone(&changelog),
            ends: Arc::default(),
        };
        let mut config = options.config();
        config
            .set("transaction.timeout.ms", "10000")
            .set("linger.ms", "0")
            .set("batch.size", "1000000")
            .set("queue.buffering.max.messages", "1000000");
        let mut config = options.tuned(config);
        let seat = group.seat();
        let processor = Arc::clone(seat.processor());
        let transactional_id = seat.id(options);
        config
            .set("transactional.id", &transactional_id)
            .set("partitioner", "murmur2_random");
        let producer: BaseProducer<Context> = config.create_with_context(context.clone())?;
        producer.init_transactions(Duration::from_secs(30))?;
        let producer = Arc::new(producer);
        Ok(Self {
            options: options.clone(),
            state,
            group,
            offsets: Offsets::new(&producer, TRANSACTION)?,
            stuck: Cell::new(false),
            producer,
            context,
            uncommitted,
            processor,
            transactional_id,
            changelog,
            polled: 0,
            prepared: HashMap::new(),
        })
    }

    fn number(&self, row: &[u8]) -> Result<Option<u64>, LogError> {
        let row = self.state.meta(row)?;
        Ok(row
            .and_then(|r| r.get(..8).and_then(|b| b.try_into().ok()))
            .map(u64::from_be_bytes))
    }

    fn prepare_all(
        &self,
        partitions: &[(usize, u32)],
    ) -> Result<HashMap<(usize, u32), Option<u64>>, LogError> {
        if partitions.is_empty() {
            return Ok(HashMap::new());
        }
        let restore = Restore {
            options: &self.options,
            state: &self.state,
            processor: &self.processor,
            changelog: &self.changelog,
            member: &self.group.consumer,
            uncommitted: &self.uncommitted,
            transactional_id: &self.transactional_id,
        };
        let named: Vec<(&str, u32)> = partitions
            .iter()
            .map(|(topic, partition)| (self.group.topics[*topic].as_str(), *partition))
            .collect();
        // First the position, then the state: whatever is committed in between is newer state, and its input is skipped.
        let mut positions = restore.committed(&named)?;
        let changelog: BTreeSet<u32> = partitions.iter().map(|(_, p)| *p).collect();
        restore.restore(&changelog, &self.group.topics)?;
        let position = |(topic, partition): &(usize, u32)| {
            let name = (self.group.topics[*topic].clone(), *partition);
            ((*topic, *partition), positions.remove(&name))
        };
        Ok(partitions.iter().map(position).collect())
    }

    fn send(
        &self,
        topic: &str,
        partition: Option<u32>,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        with: &Headers,
    ) -> Result<(), KafkaError> {
        let mut record: BaseRecord<'_, [u8], [u8]> = BaseRecord::to(topic);
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
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back))
                    if Instant::now()
                        < *deadline.get_or_insert_with(|| Instant::now() + TRANSACTION) =>
                {
                    record = back;
                    self.producer.poll(Duration::ZERO);
                    std::thread::sleep(STEP);
                }
                Err((error, _)) => return Err(error),
            }
        }
    }

    /// Waits until all that was sent is delivered. rdkafka's own `flush` polls for 100 ms at a time, whatever comes, and
    /// its `poll` spins through the last millisecond of a wait.
    fn drain(&self) -> Result<(), KafkaError> {
        let deadline = Instant::now() + TRANSACTION;
        let mut waiting = self.producer.in_flight_count();
        while waiting > 0 {
            self.producer.poll(Duration::ZERO);
            let left = self.producer.in_flight_count();
            if left == waiting {
                if Instant::now() >= deadline {
                    return Err(KafkaError::Flush(RDKafkaErrorCode::OperationTimedOut));
                }
                std::thread::sleep(STEP);
            }
            waiting = left;
        }
        Ok(())
    }

    fn transact(&self, transaction: &Transaction) -> Result<(), KafkaError> {
        if planted(Bug::ZombieNotFenced) {
            pause();
        }
        self.producer.begin_transaction()?;
        for output in &transaction.outputs {
            let record = &output.record;
            self.send(
                &output.topic,
                output.partition,
                record.key.as_deref(),
                record.value.as_deref(),
                &record.headers,
            )?;
        }
        if planted(Bug::NoTransaction) {
            self.drain()?;
            self.producer.commit_transaction(TRANSACTION)?;
            pause();
            self.producer.begin_transaction()?;
        }
        let none = Headers::new();
        let mut stateful = Vec::new();
        for change in transaction.state.0.iter().filter(|c| c.logged) {
            let partition = change.space.partition;
            self.send(
                &self.changelog,
                Some(partition),
                Some(&change.key),
                change.value.as_deref(),
                &none,
            )?;
            if !stateful.contains(&partition) {
                stateful.push(partition);
            }
        }
        let mut list = TopicPartitionList::new();
        for (topic, partition, next) in &transaction.positions {
            let offset = Offset::Offset(*next as i64);
            let name = &self.group.topics[*topic];
            list.add_partition_offset(name, *partition as i32, offset)?;
            // The next owner fences whoever committed last, should it have left a transaction open.
            if let Some(mut element) = list.find_partition(name, *partition as i32) {
                element.set_metadata(&self.transactional_id);
            }
            if stateful.contains(partition) {
                let value = position_value(*topic, *next);
                self.send(
                    &self.changelog,
                    Some(*partition),
                    Some(POSITION),
                    Some(&value),
                    &none,
                )?;
            }
        }
        // Delivery reports are drained first: else send_offsets waits for a timer of librdkafka's.
        self.drain()?;
        let mut member = self.group.consumer.group_metadata();
        if planted(Bug::ZombieNotFenced) {
            // Who never joined has no generation, and the broker asks for none.
            let mut config = self.options.consumer_config();
            config.set(
                "group.id",
                format!("{}{}", self.options.prefix, self.processor),
            );
            member = config.create::<BaseConsumer>()?.group_metadata();
        }
        let member = member.ok_or_else(|| KafkaError::Canceled)?;
        let Some(sent) = self.offsets.send(list, member) else {
            self.stuck.set(true);
            return Err(KafkaError::Flush(RDKafkaErrorCode::OperationTimedOut));
        };
        sent?;
        loop {
            match self.producer.commit_transaction(TRANSACTION) {
                Err(KafkaError::Transaction(e)) if e.is_retriable() => {}
                result => return result,
            }
        }
    }

    /// Ends a failed transaction and says what the caller must do.
    fn abort(&self, error: KafkaError) -> LogError {
        self.context.ends.lock().clear();
        if self.stuck.get() {
            return LogError::Fatal(
                "librdkafka does not come back from adding offsets to the transaction; a new producer takes over".into(),
            );
        }
        let class = match &error {
            KafkaError::Transaction(e) if e.is_fatal() => return error.into(),
            _ => self.producer.client().fatal_error(),
        };
        if let Some((code, reason)) = class {
            return match code {
                RDKafkaErrorCode::ProducerFenced
                | RDKafkaErrorCode::Fenced
                | RDKafkaErrorCode::InvalidProducerEpoch => LogError::Fenced(reason),
                _ => LogError::Fatal(reason),
            };
        }
        match self.producer.abort_transaction(TRANSACTION) {
            Ok(()) => LogError::Aborted(error.to_string()),
            Err(second) => LogError::Fatal(format!("{error}; and the abort failed: {second}")),
        }
    }
}

impl Lane for KafkaLane {
    fn poll(&mut self, wait: Duration, out: &mut Vec<Fetched>) -> Result<Polled, LogError> {
        if self.polled < WORTH {
            std::thread::sleep(rest(self.polled).min(wait));
        }
        self.polled = 0;
        let polled = self.group.poll_group(wait, out)?;
        self.polled = out.len();
        Ok(polled)
    }

    fn prepare(&mut self, partitions: &[(usize, u32)]) -> Result<(), LogError> {
        self.prepared.clear();
        let prepared = self.prepare_all(partitions);
        self.group.keep_seat_on(&prepared);
        self.prepared = prepared?;
        Ok(())
    }

    fn open(&mut self, topic: usize, partition: u32) -> Result<u64, LogError> {
        let name = self.group.topics[topic].clone();
        if !self.prepared.contains_key(&(topic, partition)) {
            self.prepare(&[(topic, partition)])?;
        }
        let position = self.prepared.remove(&(topic, partition)).flatten();
        let reflects = self.number(&reflects_row(&self.processor, topic, partition))?;
        let next = match position.max(reflects) {
            Some(next) => next,
            None => watermarks(&self.group.consumer, &name, partition)?.start,
        };
        self.group.open_at(topic, partition, next);
        Ok(next)
    }

    fn again(&mut self, topic: usize, partition: u32, offset: u64) -> Result<(), LogError> {
        self.group.open_at(topic, partition, offset);
        Ok(())
    }

    fn release(&mut self, partitions: &[(usize, u32)]) -> Result<(), LogError> {
        self.group.give_up(partitions)
    }

    fn commit(&mut self, transaction: Transaction) -> Result<(), LogError> {
        let committed = self.transact(&transaction).map_err(|e| self.abort(e));
        self.group.keep_seat_on(&committed);
        committed?;
        let now = SystemClock.now();
        let mut meta: Vec<(Vec<u8>, Vec<u8>)> = transaction
            .positions
            .iter()
            .map(|(topic, partition, next)| {
                (
                    reflects_row(&self.processor, *topic, *partition),
                    next.to_be_bytes().to_vec(),
                )
            })
            .collect();
        for (partition, end) in self.context.ends.lock().drain() {
            meta.push((
                changelog_row(&self.processor, partition),
                followed_to(end, now),
            ));
        }
        self.state.apply(&transaction.state, &meta)?;
        Ok(())
    }

    fn watermarks(&self, topic: usize, partition: u32) -> Result<Watermarks, LogError> {
        watermarks(&self.group.consumer, &self.group.topics[topic], partition)
    }

    fn state(&self) -> &StateStore {
        &self.state
    }
}
