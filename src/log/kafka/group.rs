//! A member of a consumer group: reads its assigned partitions from positions that the caller gives.
//!
//! After each change of the assignment librdkafka waits for a call of `assign` or `unassign`. It is made once the caller has
//! restored or committed its state, not in the rebalance callback.

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
    static_member::StaticMember,
    topics::Watched,
};
use crate::{
    base::threads,
    log::{Class, Fetched, LogError, Polled, Source, TopicId},
};

/// Time limit for a member to leave its group when it is closed in good order.
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
    /// The consumer is being dropped, so no caller will apply the change.
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

/// The consumer of a static member, whose ids are free once the consumer is closed.
///
/// There is no limit to the time that librdkafka takes to close a consumer. When this is dropped, a thread closes it. After
/// [`CLOSE`] that thread is left to itself, and the ids stay reserved until it ends.
pub(super) struct MemberConsumer(Option<(BaseConsumer<GroupContext>, StaticMember)>);

impl MemberConsumer {
    fn static_member(&self) -> &StaticMember {
        match &self.0 {
            Some((_, member)) => member,
            None => unreachable!("only `drop` takes it"),
        }
    }
}

impl Deref for MemberConsumer {
    type Target = BaseConsumer<GroupContext>;

    fn deref(&self) -> &Self::Target {
        match &self.0 {
            Some((consumer, _)) => consumer,
            None => unreachable!("only `drop` takes it"),
        }
    }
}

impl Drop for MemberConsumer {
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
    pub(super) consumer: MemberConsumer,
    context: GroupContext,
    pub(super) topics: Vec<String>,
    /// The next offset of each partition that is read.
    open: BTreeMap<(usize, u32), u64>,
    /// `open` has changed, and librdkafka has not been told yet.
    changed: bool,
    spacing: AssignmentSpacing,
    /// The ids of the topics to which the positions belong.
    pub(super) watched: Watched,
    /// Records that were polled, but not returned: the brokers have not confirmed the topic ids of late.
    unconfirmed: Vec<Fetched>,
    group: String,
    /// Its `group.instance.id`.
    instance: String,
    /// It has not joined yet, or it failed: it does not leave its group when dropped, so that its successor rejoins as the same
    /// static member.
    keeps_membership: bool,
}

impl GroupConsumer {
    /// `asker` is used to look up the partitions of the topics, which are the first of those that are `watched`.
    pub(super) fn new(
        options: &KafkaOptions,
        asker: &BaseConsumer,
        member: StaticMember,
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
        let group = format!("{}{}", options.prefix, member.processor());
        let instance = member.instance_id(options, &counts);
        config
            .set("group.id", &group)
            .set("group.instance.id", &instance)
            // A position outside the log is never reset silently: the code that opens the partition decides.
            .set("auto.offset.reset", "error")
            .set("partition.assignment.strategy", "range")
            .set("session.timeout.ms", "10000")
            // A member learns of a rebalance by its heartbeat; until then the other members wait.
            .set("heartbeat.interval.ms", "500");
        let consumer: BaseConsumer<GroupContext> =
            config.create_with_context(context.clone()).doing(CLIENT)?;
        let names: Vec<&str> = topics.iter().map(String::as_str).collect();
        consumer.subscribe(&names).doing("subscribing")?;
        Ok(Self {
            consumer: MemberConsumer(Some((consumer, member))),
            context,
            topics: topics.to_vec(),
            open: BTreeMap::new(),
            changed: false,
            spacing: AssignmentSpacing::default(),
            watched,
            unconfirmed: Vec::new(),
            group,
            instance,
            keeps_membership: true,
        })
    }

    pub(super) fn static_member(&self) -> &StaticMember {
        self.consumer.static_member()
    }

    /// After an error that ends this member, its successor rejoins as the same static member: it does not leave the group in
    /// between.
    pub(super) fn keep_membership_after<T>(&mut self, result: &Result<T, LogError>) {
        self.keeps_membership = match result {
            // The new topic may have another number of partitions, and the successor then has another instance id.
            Ok(_) | Err(LogError::Recreated { .. }) => false,
            Err(error) => error.class() != Class::Abortable,
        };
    }

    /// Leaves the group by unsubscribing. Closing the consumer of a static member does not, and the other members would wait for its
    /// session timeout.
    fn leave(&self) {
        // Answers an assignment that librdkafka may wait for; until then it would delay what follows.
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
            // Brokers derive the member id of a static member from its instance id.
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
                // An empty assignment must be applied too: librdkafka waits for the call.
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

    /// One past the last offset that polls have returned. librdkafka's position also advances past transaction markers and
    /// aborted records.
    pub(super) fn handed_out(&self, topic: usize, partition: u32) -> Result<u64, LogError> {
        let Some(next) = self.open.get(&(topic, partition)) else {
            return Ok(0);
        };
        // librdkafka's position belongs to an earlier assignment, or includes records that were not returned yet.
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

    /// Fetches nothing until partitions are assigned again; the member keeps its assignment in the group.
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
        // They are fetched again: the positions have not advanced past them.
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
        self.keep_membership_after(&polled);
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
        // Drops records that were fetched before a seek, and those of partitions that were lost.
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
        // The eager protocol revokes all partitions at once; any left open would be assigned again.
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
        if !self.keeps_membership {
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
