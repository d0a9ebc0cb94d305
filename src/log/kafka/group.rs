//! A member of a consumer group: its share of the input, read from positions that we give.
//!
//! librdkafka waits for our call after each change of the assignment; we make it when the caller has restored or committed what it must, not within its callback.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::Deref,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use rdkafka::{
    ClientContext, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer, ConsumerContext},
    groups::GroupInfo,
    types::RDKafkaRespErr,
};

use super::{
    ASSIGN, CLIENT, KafkaOptions,
    classify::Doing,
    offset_range, provision,
    reader::{AssignmentSpacing, drain},
    seat::SeatGuard,
    topics::Watched,
};
use crate::{
    base::threads,
    log::{Class, Fetched, LogError, Polled, Source, TopicId},
};

/// How long a member that is closed in good order may take to leave its group.
const LEAVE: Duration = Duration::from_secs(1);
/// How long a consumer may take to close.
const CLOSE: Duration = Duration::from_secs(10);

enum Change {
    Assigned(Vec<(String, u32)>),
    Revoked(Vec<(String, u32)>, bool),
}

#[derive(Default)]
struct Changes {
    queue: VecDeque<Change>,
    /// The consumer is being dropped: nobody will make the call any more.
    closing: bool,
}

/// Queues changes of the assignment until the caller polls.
#[derive(Clone, Default)]
pub(super) struct GroupContext(Arc<Mutex<Changes>>);

impl ClientContext for GroupContext {}

impl ConsumerContext for GroupContext {
    fn rebalance(
        &self,
        consumer: &BaseConsumer<Self>,
        event: RDKafkaRespErr,
        list: &mut TopicPartitionList,
    ) {
        let mut changes = self.0.lock();
        let partitions = list
            .elements()
            .iter()
            .map(|e| (e.topic().to_owned(), e.partition() as u32))
            .collect();
        if changes.closing {
            if let Err(error) = consumer.unassign() {
                tracing::warn!(%error, "partitions were not unassigned");
            }
        } else if event == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS {
            changes.queue.push_back(Change::Assigned(partitions));
        } else {
            let lost = consumer.assignment_lost();
            changes.queue.push_back(Change::Revoked(partitions, lost));
        }
    }
}

/// A member's consumer and its seat, which is free once the consumer is closed.
///
/// librdkafka closes a consumer for as long as it takes. When this is dropped a thread closes it, which is waited for [`CLOSE`] at
/// most and then left behind with the seat.
pub(super) struct Member(Option<(BaseConsumer<GroupContext>, SeatGuard)>);

impl Member {
    fn seat(&self) -> &SeatGuard {
        match &self.0 {
            Some((_, seat)) => seat,
            None => unreachable!("only `drop` takes it"),
        }
    }
}

impl Deref for Member {
    type Target = BaseConsumer<GroupContext>;

    fn deref(&self) -> &Self::Target {
        match &self.0 {
            Some((consumer, _)) => consumer,
            None => unreachable!("only `drop` takes it"),
        }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        let member = self.0.take();
        let closing = std::thread::Builder::new().name("close-consumer".into());
        // Without a thread the closure is dropped here, which closes the consumer too.
        if let Ok(thread) = closing.spawn(move || drop(member)) {
            threads::join_within(thread, CLOSE);
        }
    }
}

/// A static member of a consumer group.
pub(super) struct GroupConsumer {
    pub(super) consumer: Member,
    context: GroupContext,
    pub(super) topics: Vec<String>,
    /// What is read, and the next offset of each.
    open: BTreeMap<(usize, u32), u64>,
    /// `open` has changed and librdkafka does not know yet.
    changed: bool,
    spacing: AssignmentSpacing,
    /// The ids of the topics that positions were taken in.
    pub(super) watched: Watched,
    /// Polled, but the brokers do not say whether they are of these topics.
    unconfirmed: Vec<Fetched>,
    group: String,
    /// Its `group.instance.id`.
    instance: String,
    /// It has not joined yet, or it failed: it does not leave its group when dropped, so that its successor rejoins as the same member.
    keeps_seat: bool,
}

impl GroupConsumer {
    /// `asker` is asked for the partitions of the topics, which are the first of those that are `watched`.
    pub(super) fn new(
        options: &KafkaOptions,
        asker: &BaseConsumer,
        seated: SeatGuard,
        topics: &[String],
        watched: Watched,
    ) -> Result<Self, LogError> {
        let context = GroupContext::default();
        let mut counts = Vec::with_capacity(topics.len());
        for topic in topics {
            let count = provision::partitions(asker, topic)?;
            counts.push((topic.clone(), count.unwrap_or_default()));
        }
        let mut config = options.consumer_config();
        let group = format!("{}{}", options.prefix, seated.processor());
        let instance = seated.instance_id(options, &counts);
        config
            .set("group.id", &group)
            .set("group.instance.id", &instance)
            // A position outside the log is never reset silently: whoever opens the partition says what it means.
            .set("auto.offset.reset", "error")
            .set("partition.assignment.strategy", "range")
            .set("session.timeout.ms", "10000")
            // A member hears of a rebalance by its heartbeat; until then the others wait.
            .set("heartbeat.interval.ms", "500");
        let consumer: BaseConsumer<GroupContext> =
            config.create_with_context(context.clone()).doing(CLIENT)?;
        let names: Vec<&str> = topics.iter().map(String::as_str).collect();
        consumer.subscribe(&names).doing("subscribing")?;
        Ok(Self {
            consumer: Member(Some((consumer, seated))),
            context,
            topics: topics.to_vec(),
            open: BTreeMap::new(),
            changed: false,
            spacing: AssignmentSpacing::default(),
            watched,
            unconfirmed: Vec::new(),
            group,
            instance,
            keeps_seat: true,
        })
    }

    pub(super) fn seat(&self) -> &SeatGuard {
        self.consumer.seat()
    }

    /// After an error that ends a member, the one that is built in its place takes its seat: it does not leave the group meanwhile.
    pub(super) fn keep_seat_on<T>(&mut self, result: &Result<T, LogError>) {
        self.keeps_seat = match result {
            // The topic that is there now may have another number of partitions, and a member of that is another one.
            Ok(_) | Err(LogError::Recreated { .. }) => false,
            Err(error) => error.class() != Class::Abortable,
        };
    }

    /// A static member does not leave its group when it is closed, and the others would wait for its session; unsubscribing does.
    fn leave(&self) {
        // Should librdkafka wait for the answer to an assignment, this is one: else it would put off what follows.
        if let Err(error) = self.consumer.assign(&TopicPartitionList::new()) {
            tracing::debug!(%error, "nothing was assigned");
        }
        self.consumer.unsubscribe();
        let deadline = Instant::now() + LEAVE;
        while Instant::now() < deadline {
            // Serves the rebalance callback, which unassigns everything; then librdkafka leaves.
            drop(self.consumer.poll(Duration::from_millis(10)));
            let left = deadline.saturating_duration_since(Instant::now());
            let listed = self
                .consumer
                .client()
                .fetch_group_list(Some(&self.group), left);
            let Ok(listed) = listed else { continue };
            let mut members = listed.groups().iter().flat_map(GroupInfo::members);
            // Brokers make the member's id of the instance's.
            if !members.any(|member| member.id().starts_with(&self.instance)) {
                return;
            }
        }
    }

    fn indexed(&self, partitions: &[(String, u32)]) -> Vec<(usize, u32)> {
        partitions
            .iter()
            .filter_map(|(topic, partition)| {
                let index = self.topics.iter().position(|t| t == topic)?;
                Some((index, *partition))
            })
            .collect()
    }

    fn next_change(&mut self) -> Option<Polled> {
        let change = self.context.0.lock().queue.pop_front()?;
        Some(match change {
            Change::Assigned(partitions) => {
                // An empty share is an assignment too, and librdkafka waits for the call.
                self.changed = true;
                Polled::Assigned(self.indexed(&partitions))
            }
            Change::Revoked(partitions, true) => Polled::Lost(self.indexed(&partitions)),
            Change::Revoked(partitions, false) => Polled::Revoked(self.indexed(&partitions)),
        })
    }

    pub(super) fn assign_at(&mut self, topic: usize, partition: u32, offset: u64) {
        self.open.insert((topic, partition), offset);
        self.changed = true;
    }

    /// One past the last offset that polls have returned. librdkafka's position is also past markers of transactions and aborted
    /// records, once it has passed over them.
    pub(super) fn handed_out(&self, topic: usize, partition: u32) -> Result<u64, LogError> {
        let Some(next) = self.open.get(&(topic, partition)) else {
            return Ok(0);
        };
        // The position is that of another assignment, or of records that were not returned yet.
        if self.changed || !self.unconfirmed.is_empty() {
            return Ok(*next);
        }
        let positions = self.consumer.position().doing("reading the position")?;
        let found = positions.find_partition(&self.topics[topic], partition as i32);
        match found.map(|at| at.offset()) {
            Some(Offset::Offset(position)) => Ok((position as u64).max(*next)),
            // Nothing was polled since the assignment.
            _ => Ok(*next),
        }
    }

    /// Fetches nothing until partitions are assigned again; the member keeps its share of the group.
    pub(super) fn pause(&mut self) {
        self.open.clear();
        self.changed = true;
    }

    /// Fetches nothing of a partition until it is assigned again.
    pub(super) fn pause_partition(&mut self, topic: usize, partition: u32) {
        self.open.remove(&(topic, partition));
        self.changed = true;
    }

    fn apply_assignment(&mut self) -> Result<(), LogError> {
        let mut list = TopicPartitionList::new();
        for ((topic, partition), next) in &self.open {
            let offset = Offset::Offset(*next as i64);
            let name = &self.topics[*topic];
            let added = list.add_partition_offset(name, *partition as i32, offset);
            added.doing_of(ASSIGN, name)?;
        }
        // They are fetched again: the positions have not moved past them.
        self.unconfirmed.clear();
        self.spacing.wait();
        self.consumer.assign(&list).doing(ASSIGN)?;
        self.changed = false;
        Ok(())
    }

    pub(super) fn poll_group(
        &mut self,
        wait: Duration,
        out: &mut Vec<Fetched>,
    ) -> Result<Polled, LogError> {
        let polled = self.try_poll(wait, out);
        self.keep_seat_on(&polled);
        polled
    }

    fn try_poll(&mut self, wait: Duration, out: &mut Vec<Fetched>) -> Result<Polled, LogError> {
        if let Some(change) = self.next_change() {
            return Ok(change);
        }
        if self.changed {
            self.apply_assignment()?;
        }
        let before = out.len();
        if self.unconfirmed.is_empty() {
            drain(&self.consumer, &self.topics, wait, out)?;
        } else {
            out.append(&mut self.unconfirmed);
        }
        if out.len() == before {
            self.watched.check()?;
            return Ok(Polled::Records);
        }
        if !self.watched.confirm()? {
            self.unconfirmed = out.split_off(before);
            return Ok(Polled::Records);
        }
        // Drops what librdkafka had fetched before a seek, or of partitions that were lost.
        let open = &mut self.open;
        let mut kept = before;
        for index in before..out.len() {
            let at = (out[index].topic, out[index].partition);
            if let Some(next) = open.get_mut(&at)
                && out[index].offset >= *next
            {
                *next = out[index].offset + 1;
                out.swap(kept, index);
                kept += 1;
            }
        }
        out.truncate(kept);
        Ok(Polled::Records)
    }

    pub(super) fn unassign(&mut self, partitions: &[(usize, u32)]) -> Result<(), LogError> {
        for at in partitions {
            self.open.remove(at);
        }
        self.unconfirmed.clear();
        self.spacing.wait();
        self.consumer.unassign().doing("unassigning partitions")?;
        self.changed = false;
        // The eager protocol revokes all partitions at once; what remained open would be assigned again.
        self.open.clear();
        Ok(())
    }
}

impl Drop for GroupConsumer {
    fn drop(&mut self) {
        self.context.0.lock().closing = true;
        self.spacing.wait();
        if let Err(error) = self.consumer.unassign() {
            tracing::debug!(%error, "nothing to unassign");
        }
        if !self.keeps_seat {
            self.leave();
        }
    }
}

impl Source for GroupConsumer {
    fn poll(&mut self, wait: Duration, out: &mut Vec<Fetched>) -> Result<Polled, LogError> {
        self.poll_group(wait, out)
    }

    fn topic_id(&mut self) -> Result<Option<TopicId>, LogError> {
        let described = self.watched.describe()?;
        let id = described[0].and_then(|described| described.id);
        self.watched.set_id(0, id)?;
        Ok(id)
    }

    fn open(&mut self, partition: u32, offset: u64) -> Result<(), LogError> {
        let range = offset_range(&*self.consumer, &self.topics[0], partition)?;
        if offset < range.start || offset > range.end {
            return Err(LogError::OutOfRange {
                topic: self.topics[0].clone(),
                partition,
                offset,
                start: range.start,
                end: range.end,
            });
        }
        self.assign_at(0, partition, offset);
        Ok(())
    }

    fn release(&mut self, partitions: &[(usize, u32)]) -> Result<(), LogError> {
        self.unassign(partitions)
    }
}
