//! A member of a consumer group: its share of the input, read from positions that we give.
//!
//! librdkafka waits for our call after each change of the assignment; we make it when the caller has restored or committed what it must, not within its callback.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use rdkafka::{
    ClientContext, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer, ConsumerContext},
    types::RDKafkaRespErr,
};

use super::{
    KafkaOptions,
    reader::{Apart, drain},
    topics::{Topics, Watched},
    watermarks,
};
use crate::log::{Fetched, LogError, Polled, Source, TopicId};

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

/// Notes changes of the assignment.
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
                tracing::warn!(%error, "partitions were not given up");
            }
        } else if event == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS {
            changes.queue.push_back(Change::Assigned(partitions));
        } else {
            let lost = consumer.assignment_lost();
            changes.queue.push_back(Change::Revoked(partitions, lost));
        }
    }
}

/// The member.
pub(super) struct GroupConsumer {
    pub(super) consumer: BaseConsumer<GroupContext>,
    context: GroupContext,
    pub(super) topics: Vec<String>,
    /// What is read, and the next offset of each.
    open: BTreeMap<(usize, u32), u64>,
    /// `open` has changed and librdkafka does not know yet.
    changed: bool,
    apart: Apart,
    /// Which topics these are.
    pub(super) watched: Watched,
    /// Polled, and it is not known yet whether they are of these topics.
    unconfirmed: Vec<Fetched>,
}

impl GroupConsumer {
    /// `also`: another topic that this hangs on, after these.
    pub(super) fn new(
        options: &KafkaOptions,
        group: &str,
        topics: &[String],
        also: Option<&str>,
        known: &Arc<Topics>,
    ) -> Result<Self, LogError> {
        let context = GroupContext::default();
        let mut config = options.consumer_config();
        config
            .set("group.id", group)
            // A position that the log does not have is never passed over in silence: whoever opens the partition says what it means.
            .set("auto.offset.reset", "error")
            .set("partition.assignment.strategy", "range")
            .set("session.timeout.ms", "10000")
            // A member learns of others that come and go by its heartbeat; until it does, they wait.
            .set("heartbeat.interval.ms", "500");
        let consumer: BaseConsumer<GroupContext> = config.create_with_context(context.clone())?;
        let names: Vec<&str> = topics.iter().map(String::as_str).collect();
        consumer.subscribe(&names)?;
        Ok(Self {
            consumer,
            context,
            topics: topics.to_vec(),
            open: BTreeMap::new(),
            changed: false,
            apart: Apart::default(),
            watched: known.watch(topics.iter().map(String::as_str).chain(also))?,
            unconfirmed: Vec::new(),
        })
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

    pub(super) fn open_at(&mut self, topic: usize, partition: u32, offset: u64) {
        self.open.insert((topic, partition), offset);
        self.changed = true;
    }

    fn tell(&mut self) -> Result<(), LogError> {
        let mut list = TopicPartitionList::new();
        for ((topic, partition), next) in &self.open {
            let offset = Offset::Offset(*next as i64);
            list.add_partition_offset(&self.topics[*topic], *partition as i32, offset)?;
        }
        // They come again: the positions have not moved past them.
        self.unconfirmed.clear();
        self.apart.keep();
        self.consumer.assign(&list)?;
        self.changed = false;
        Ok(())
    }

    pub(super) fn poll_group(
        &mut self,
        wait: Duration,
        out: &mut Vec<Fetched>,
    ) -> Result<Polled, LogError> {
        if let Some(change) = self.next_change() {
            return Ok(change);
        }
        if self.changed {
            self.tell()?;
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
        // What librdkafka had fetched before a seek or a loss is not ours.
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

    pub(super) fn give_up(&mut self, partitions: &[(usize, u32)]) -> Result<(), LogError> {
        for at in partitions {
            self.open.remove(at);
        }
        self.unconfirmed.clear();
        self.apart.keep();
        self.consumer.unassign()?;
        self.changed = false;
        // Under the eager protocol all is given up at once; what remained open would be assigned again.
        self.open.clear();
        Ok(())
    }
}

impl Drop for GroupConsumer {
    fn drop(&mut self) {
        self.context.0.lock().closing = true;
        self.apart.keep();
        if let Err(error) = self.consumer.unassign() {
            tracing::debug!(%error, "nothing to give up");
        }
    }
}

impl Source for GroupConsumer {
    fn poll(&mut self, wait: Duration, out: &mut Vec<Fetched>) -> Result<Polled, LogError> {
        self.poll_group(wait, out)
    }

    fn topic_id(&mut self) -> Result<Option<TopicId>, LogError> {
        let (described, _) = self.watched.describe(0, None)?;
        let id = described.and_then(|described| described.id);
        self.watched.is(0, id)?;
        Ok(id)
    }

    fn open(&mut self, partition: u32, offset: u64) -> Result<(), LogError> {
        let marks = watermarks(&self.consumer, &self.topics[0], partition)?;
        if offset < marks.start || offset > marks.end {
            return Err(LogError::OutOfRange {
                topic: self.topics[0].clone(),
                partition,
                offset,
                start: marks.start,
                end: marks.end,
            });
        }
        self.open_at(0, partition, offset);
        Ok(())
    }

    fn release(&mut self, partitions: &[(usize, u32)]) -> Result<(), LogError> {
        self.give_up(partitions)
    }
}
