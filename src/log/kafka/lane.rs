//! A lane on Kafka: group member, transactional producer, keyed state with its changelog.
//!
//! One type alone owns the transaction. The changelog topic `state.{processor}` has the input's partitions; each
//! transaction adds its changes of state there, and a record with the key [`POSITION`] that says which input they reflect. This node's
//! copy of the state keeps the changelog offset it has read to, so a restart replays only the tail.

use std::{
    collections::{HashMap, HashSet},
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
    KafkaOptions, committed,
    group::GroupConsumer,
    position::{Followed, Positions, from_record, to_record},
    producer::headers,
    reader::KafkaReader,
    topics::{Counts, partition_among},
    watermarks,
};
use crate::{
    backoff::{WORTH, rest},
    chaos::{Bug, pause, planted},
    clock::{Clock, SystemClock},
    log::{
        Described, Fetched, Headers, Lane, LogError, Polled, Reader, TopicId, Transaction,
        Watermarks,
        identity::{Kept, Place, announce_changelog, later, resolve, to_metadata},
    },
    state::{Changes, Space, StateStore},
};

/// The changelog key of the record that says which input the state reflects.
const POSITION: &[u8] = b"\0position";
const TRANSACTION: Duration = Duration::from_secs(10);
/// How long a restore waits for the next record of a changelog.
const RESTORE: Duration = Duration::from_secs(30);
/// Local state that has not followed its changelog for this long is dropped: tombstones that it missed may be gone
/// (`delete.retention.ms` is 24 h).
const STALE_MS: i64 = 12 * 3600 * 1000;

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

/// Which lanes of each processor there are in this process.
#[derive(Clone, Default)]
pub(super) struct Seats(Arc<Mutex<HashSet<Seat>>>);

/// A lane's transactional id is made of its seat. A lane that comes after one that ended, be it after a crash, takes its seat:
/// it fences it, and ends the transaction that it left open, for which readers would wait until its timeout.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Seat {
    processor: Arc<str>,
    number: u32,
}

/// A seat, given back when the lane ends.
pub(super) struct Seated {
    seat: Seat,
    of: Seats,
}

impl Seats {
    /// The first free seat of a processor.
    pub(super) fn take(&self, processor: &str) -> Seated {
        let mut taken = self.0.lock();
        let mut seat = Seat {
            processor: processor.into(),
            number: 0,
        };
        while !taken.insert(seat.clone()) {
            seat.number += 1;
        }
        Seated {
            seat,
            of: self.clone(),
        }
    }
}

impl Drop for Seated {
    fn drop(&mut self) {
        self.of.0.lock().remove(&self.seat);
    }
}

pub(super) struct KafkaLane {
    options: KafkaOptions,
    state: StateStore,
    group: GroupConsumer,
    producer: BaseProducer<Context>,
    context: Context,
    processor: Arc<str>,
    changelog: Arc<str>,
    positions: Positions,
    /// Which changelog is followed.
    changelog_id: Option<TopicId>,
    /// Records of the last poll.
    polled: usize,
    /// After the producer: its id is free when it is gone.
    _seated: Seated,
}

impl KafkaLane {
    pub(super) fn new(
        options: &KafkaOptions,
        state: StateStore,
        group: GroupConsumer,
        changelog: &str,
        seated: Seated,
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
        let Seat { processor, number } = seated.seat.clone();
        let id = format!("{}{processor}-{}-{number}", options.prefix, options.node);
        config
            .set("transactional.id", id)
            .set("partitioner", "murmur2_random");
        let producer: BaseProducer<Context> = config.create_with_context(context.clone())?;
        producer.init_transactions(Duration::from_secs(30))?;
        Ok(Self {
            options: options.clone(),
            positions: Positions::new(&state, &processor),
            state,
            group,
            producer,
            context,
            processor,
            changelog,
            changelog_id: None,
            polled: 0,
            _seated: seated,
        })
    }

    /// Refuses an input that has more partitions than the state: a record's state may lie in another partition than the record.
    fn refuse_growth(&self, topic: &str, input: u32, changelog: u32) -> Result<(), LogError> {
        // Of OmniLink's own topics the configured partitions are used, whatever was added.
        let counts = self.group.watched.topics().counts();
        let used = counts.get(topic).copied().unwrap_or(input);
        if used <= changelog {
            return Ok(());
        }
        Err(LogError::Grown {
            topic: topic.to_owned(),
            partitions: used,
            processor: self.processor.to_string(),
            changelog: self.changelog.to_string(),
            changelog_partitions: changelog,
        })
    }

    /// Which state there is to follow, if the changelog was deleted and made again: what this node has of the one before, if
    /// that is `complete`, that is if it reflects all that was committed; else none.
    fn follow(
        &self,
        space: &Space,
        changelog: Described,
        complete: bool,
    ) -> Result<Option<Followed>, LogError> {
        let followed = self.positions.followed(space.partition)?;
        let was = followed.and_then(|followed| followed.id);
        let (Some(was), Some(is)) = (was, changelog.id) else {
            return Ok(followed);
        };
        if was == is {
            return Ok(followed);
        }
        let place = Place {
            processor: &self.processor,
            topic: &self.changelog,
            partition: space.partition,
        };
        announce_changelog(place, (was, is), complete);
        if !complete {
            self.state.clear(space)?;
        }
        Ok(None)
    }

    /// Reads the changelog from where this node's copy stands to its end.
    fn restore(
        &self,
        partition: u32,
        changelog: Option<Described>,
        complete: bool,
    ) -> Result<(), LogError> {
        let space = Space {
            processor: Arc::clone(&self.processor),
            partition,
        };
        // Partitions that were added to the input have no state.
        if changelog.is_some_and(|changelog| partition >= changelog.partitions) {
            return Ok(());
        }
        let marks = match watermarks(&self.group.consumer, &self.changelog, partition) {
            Ok(marks) => marks,
            // A processor without state has no changelog.
            Err(LogError::UnknownTopic(_)) => return Ok(()),
            Err(error) => return Err(error),
        };
        let row = self.positions.changelog_row(partition);
        let id = changelog.and_then(|changelog| changelog.id);
        let followed = match changelog {
            Some(changelog) => self.follow(&space, changelog, complete)?,
            None => self.positions.followed(partition)?,
        };
        let now = SystemClock.now();
        let mut next = followed.map_or(marks.start, |followed| followed.next);
        if next > marks.end || followed.is_some_and(|f| f.at.0 < now.0 - STALE_MS) {
            tracing::warn!(processor = %self.processor, partition, "the local state is too old; it is restored from its changelog");
            self.state.clear(&space)?;
            next = marks.start;
        }
        let followed_to = |next| Followed { next, at: now, id }.to_bytes();
        if next >= marks.end {
            // From now on it is known which changelog that is.
            if followed.is_none_or(|followed| followed.id != id) {
                let row = (row, followed_to(next));
                self.state.apply(&Changes::default(), &[row])?;
            }
            return Ok(());
        }
        let mut reader = KafkaReader::new(&self.options, &self.changelog)?;
        reader.assign(partition, next)?;
        let mut fetched = Vec::new();
        let mut idle = Instant::now();
        while next < marks.end {
            fetched.clear();
            reader.poll(Duration::from_millis(100), &mut fetched)?;
            let at_end = reader.at_end(partition);
            if fetched.is_empty() {
                // Markers of transactions, which no reader sees, may be all that is left.
                if at_end {
                    break;
                }
                if idle.elapsed() > RESTORE {
                    return Err(LogError::Unavailable(format!(
                        "the changelog of `{}` cannot be read",
                        self.processor
                    )));
                }
                continue;
            }
            idle = Instant::now();
            let mut changes = Changes::default();
            let mut meta = Vec::new();
            for change in fetched.drain(..) {
                next = change.offset + 1;
                let Some(key) = change.record.key else {
                    continue;
                };
                if key == POSITION {
                    let value = change.record.value.unwrap_or_default();
                    if let Some((topic, kept)) = from_record(&value) {
                        let row = self.positions.reflects_row(topic, partition);
                        meta.push((row, kept.to_bytes()));
                    }
                } else {
                    changes.upkeep(&space, key, change.record.value);
                }
            }
            meta.push((row.clone(), followed_to(next)));
            self.state.apply(&changes, &meta)?;
        }
        Ok(())
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
        let counts = self.group.watched.topics().counts();
        for output in &transaction.outputs {
            let record = &output.record;
            self.send(
                &output.topic,
                output
                    .partition
                    .or_else(|| in_use(&counts, &output.topic, record.key.as_deref())),
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
            let kept = self.kept(*topic, *next);
            if let Some(mut element) = list.find_partition(name, *partition as i32) {
                element.set_metadata(to_metadata(kept.id, ""));
            }
            if stateful.contains(partition) {
                let value = to_record(*topic, kept);
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
        self.producer
            .send_offsets_to_transaction(&list, &member, TRANSACTION)?;
        loop {
            match self.producer.commit_transaction(TRANSACTION) {
                Err(KafkaError::Transaction(e)) if e.is_retriable() => {}
                result => return result,
            }
        }
    }

    /// A position in the input topic that is being read.
    fn kept(&self, topic: usize, next: u64) -> Kept {
        let id = self.group.watched.id(topic);
        Kept { next, id }
    }

    /// Ends a failed transaction and says what the caller must do.
    fn abort(&self, error: KafkaError) -> LogError {
        self.context.ends.lock().clear();
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

/// The partition of a record in a topic of OmniLink's own: one of those that are configured, whatever was added.
fn in_use(counts: &Counts, topic: &str, key: Option<&[u8]>) -> Option<u32> {
    let count = counts.get(topic)?;
    Some(partition_among(key, *count))
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

    fn open(&mut self, topic: usize, partition: u32) -> Result<u64, LogError> {
        let name = self.group.topics[topic].clone();
        let at = (topic, partition);
        // First the position, then the state: whatever is committed in between is newer state, and its input is skipped.
        let mut position = committed(&self.group.consumer, &name, partition)?;
        let changelog = Some(&*self.changelog);
        let (input, changelog) = self.group.watched.describe(topic, changelog)?;
        if let (Some(input), Some(changelog)) = (input, changelog) {
            self.refuse_growth(&name, input.partitions, changelog.partitions)?;
        }
        let id = input.and_then(|input| input.id);
        let before = self.positions.reflects(topic, partition)?;
        let complete =
            position.is_none_or(|position| before.is_some_and(|b| b.next >= position.next));
        self.changelog_id = changelog.and_then(|changelog| changelog.id);
        let of_changelog = self.group.topics.len();
        self.group.watched.is(topic, id)?;
        self.group.watched.is(of_changelog, self.changelog_id)?;
        self.restore(partition, changelog, complete)?;
        let reflects = self.positions.reflects(topic, partition)?;
        if let (Some(one), Some(two)) = (position, reflects)
            && one.id.is_none()
            && two.id.is_some()
        {
            // It stands over the state's, unless it is only older: asked again, it is not.
            position = committed(&self.group.consumer, &name, partition)?;
        }
        let place = Place {
            processor: &self.processor,
            topic: &name,
            partition,
        };
        let marks = watermarks(&self.group.consumer, &name, partition)?;
        let kept = later(position, reflects, id);
        let resolved = resolve(place, kept, id, marks)?;
        if let Some(reset) = resolved.reset {
            reset.announce(place);
        }
        let next = resolved.next;
        // A reset is said once, and a position of a version that kept no ids is one in this topic from now on.
        if kept.is_some_and(|kept| kept.id != id || kept.next != next) {
            self.positions.keep_reflects(at, Kept { next, id })?;
        }
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
        self.transact(&transaction).map_err(|e| self.abort(e))?;
        let now = SystemClock.now();
        let mut meta: Vec<(Vec<u8>, Vec<u8>)> = transaction
            .positions
            .iter()
            .map(|(topic, partition, next)| {
                let row = self.positions.reflects_row(*topic, *partition);
                (row, self.kept(*topic, *next).to_bytes())
            })
            .collect();
        for (partition, end) in self.context.ends.lock().drain() {
            let followed = Followed {
                next: end,
                at: now,
                id: self.changelog_id,
            };
            let row = self.positions.changelog_row(partition);
            meta.push((row, followed.to_bytes()));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lane_takes_the_seat_of_the_one_that_ended() {
        let seats = Seats::default();
        let (one, two, other) = (seats.take("a"), seats.take("a"), seats.take("b"));
        let numbers = [&one, &two, &other].map(|seated| seated.seat.number);
        assert_eq!(numbers, [0, 1, 0]);
        drop(one);
        assert_eq!(seats.take("a").seat.number, 0);
        assert_eq!(two.seat.number, 1);
    }
}
