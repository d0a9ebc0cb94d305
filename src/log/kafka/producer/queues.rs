//! Records that wait to be sent: a queue for each partition, and for each broker the partitions with work for it.
//!
//! A partition has at most one batch in flight, so its records keep their order whatever fails. A batch keeps its sequence number
//! until it is acknowledged: a broker that already has it detects the duplicate, and does not append it again. A batch that is given up
//! leaves a gap in the sequence numbers; a new producer id starts without one.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use kafka_protocol::{error::ResponseError, messages::MetadataResponse};
use parking_lot::Condvar;

use super::{
    super::{
        topics::{Counts, partition_among},
        wire::batch::{self, ProducerId},
    },
    Call, queue_full,
};
use crate::log::{LogError, Output, Position, Record, Unavailable};

/// The most records in all queues.
const MOST_RECORDS: usize = 200_000;
/// The most bytes in all queues.
const MOST_BYTES: usize = 128 << 20;
/// The most bytes of a batch: a little less than a broker's default limit (`message.max.bytes`). A larger record is sent alone.
const BATCH: usize = 1_000_000;
/// The largest record that is sent, in bytes.
const RECORD: usize = 64 << 20;
/// For a topic with a smaller limit: after a batch that it accepts the next one may be larger by this fraction (1/16), until batches have
/// the usual size. A topic whose limit stays small refuses about every tenth batch.
const GROWTH: usize = 16;
/// The most bytes of a request.
const REQUEST: usize = 8_000_000;
/// Time limit from `append` to the acknowledgement of a record.
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(30);
/// How long to wait for a missing topic, which may just have been created.
const MISSING: Duration = Duration::from_secs(5);

/// A record in a queue, or in a batch that is not acknowledged yet.
pub(super) struct Pending {
    record: Record,
    /// The partition that the caller chose; `None`: that of the key.
    named: Option<u32>,
    size: usize,
    call: Arc<Call>,
    index: usize,
    deadline: Instant,
}

/// Records of one partition in one produce request.
pub(super) struct Batch {
    /// The index of the topic in `Queues::names`.
    pub(super) topic: usize,
    pub(super) partition: u32,
    /// The encoded batch; empty until it is encoded.
    pub(super) bytes: Bytes,
    pub(super) producer: ProducerId,
    pub(super) sequence: i32,
    records: Vec<Pending>,
}

impl Batch {
    /// An upper bound of its encoded bytes.
    fn size(&self) -> usize {
        batch::HEAD + self.records.iter().map(|p| p.size).sum::<usize>()
    }

    pub(super) fn records(&self) -> impl ExactSizeIterator<Item = &Record> + Clone {
        self.records.iter().map(|pending| &pending.record)
    }
}

/// Outcomes of records, delivered when no lock is held.
#[derive(Default)]
pub(super) struct Ended(Vec<(Vec<Pending>, Result<u64, LogError>, u32)>);

impl Ended {
    /// Reports the outcomes to the waiting calls of `append`.
    pub(super) fn notify(self) {
        for (records, result, partition) in self.0 {
            for (n, pending) in records.into_iter().enumerate() {
                let position = result.clone().map(|first| Position {
                    partition,
                    offset: first + n as u64,
                });
                pending.call.done(pending.index, position);
            }
        }
    }
}

#[derive(Default)]
struct Partition {
    queue: VecDeque<Pending>,
    /// A batch to send again, before others and with the same sequence number.
    retry: Option<Batch>,
    in_flight: bool,
    /// It is in the `ready` list of its leader.
    ready: bool,
    leader: Option<i32>,
    /// The producer id of the last batch, and the next sequence number.
    numbered: Option<(ProducerId, i32)>,
    /// The most bytes of a batch, if one was refused recently.
    most: Option<usize>,
}

impl Partition {
    fn has_work(&self) -> bool {
        !self.in_flight && (self.retry.is_some() || !self.queue.is_empty())
    }
}

struct Topic {
    name: Arc<str>,
    partitions: Vec<Partition>,
    /// The current number of partitions, which is smaller if the topic was recreated with fewer.
    count: usize,
    /// Records queued before the number of partitions was known.
    waiting: VecDeque<Pending>,
    missing: Option<Instant>,
}

impl Topic {
    /// Whether records wait for a partition without a known leader.
    fn lacks_leader(&self) -> bool {
        let leaderless = |of: &Partition| of.leader.is_none() && of.has_work();
        !self.waiting.is_empty() || self.partitions.iter().any(leaderless)
    }
}

/// A broker that leads partitions.
pub(super) struct Broker {
    pub(super) address: String,
    /// Notified when there is work for it.
    pub(super) more: Arc<Condvar>,
    /// Its thread waits for `more`.
    pub(super) idle: bool,
    ready: VecDeque<(usize, u32)>,
}

/// The queues of all partitions, and which brokers lead them.
#[derive(Default)]
pub(super) struct Queues {
    names: HashMap<Arc<str>, usize>,
    topics: Vec<Topic>,
    pub(super) brokers: BTreeMap<i32, Broker>,
    /// Of OmniLink's own topics only the configured partitions are used, even if more were added.
    pub(super) counts: Arc<Counts>,
    pub(super) producer: Option<ProducerId>,
    /// Metadata must be requested.
    pub(super) stale: bool,
    pub(super) closing: bool,
    records: usize,
    bytes: usize,
}

impl Queues {
    /// Queues a record.
    pub(super) fn push(
        &mut self,
        append: Output,
        call: &Arc<Call>,
        index: usize,
    ) -> Result<(), LogError> {
        let size = batch::size(&append.record);
        if size > RECORD {
            return Err(LogError::TooLarge(size));
        }
        if self.records >= MOST_RECORDS || self.bytes + size > MOST_BYTES {
            return Err(queue_full());
        }
        if self.closing {
            return Err(Unavailable::Closing.into());
        }
        let pending = Pending {
            record: append.record,
            named: append.partition,
            size,
            call: Arc::clone(call),
            index,
            deadline: Instant::now() + DELIVERY_TIMEOUT,
        };
        let topic = self.topic(&append.topic);
        if let Some(refused) = self.enqueue(topic, pending) {
            return Err(self.no_partition(topic, &refused));
        }
        self.records += 1;
        self.bytes += size;
        Ok(())
    }

    fn no_partition(&self, topic: usize, pending: &Pending) -> LogError {
        let partition = pending.named.unwrap_or_default();
        LogError::UnknownTopic(format!("{}/{partition}", self.topics[topic].name))
    }

    fn topic(&mut self, name: &Arc<str>) -> usize {
        if let Some(topic) = self.names.get(name) {
            return *topic;
        }
        self.topics.push(Topic {
            name: Arc::clone(name),
            partitions: Vec::new(),
            count: 0,
            waiting: VecDeque::new(),
            missing: None,
        });
        self.names.insert(Arc::clone(name), self.topics.len() - 1);
        self.stale = true;
        self.topics.len() - 1
    }

    /// Queues a record for its partition. Returns it if the topic does not have the chosen partition.
    fn enqueue(&mut self, topic: usize, pending: Pending) -> Option<Pending> {
        let count = self.topics[topic].count as u32;
        if count == 0 {
            self.topics[topic].waiting.push_back(pending);
            self.stale = true;
            return None;
        }
        let partition = if let Some(named) = pending.named {
            if named >= count {
                return Some(pending);
            }
            named
        } else {
            let used = self.counts.get(&self.topics[topic].name);
            let used = used.map_or(count, |used| count.min(*used));
            partition_among(pending.record.key.as_deref(), used)
        };
        self.topics[topic].partitions[partition as usize]
            .queue
            .push_back(pending);
        self.offer(topic, partition);
        None
    }

    /// Adds a partition with work to the `ready` list of its leader.
    fn offer(&mut self, topic: usize, partition: u32) {
        let of = &mut self.topics[topic].partitions[partition as usize];
        if of.ready || !of.has_work() {
            return;
        }
        let Some(broker) = of.leader.and_then(|leader| self.brokers.get_mut(&leader)) else {
            self.stale = true;
            return;
        };
        of.ready = true;
        broker.ready.push_back((topic, partition));
        if broker.idle {
            broker.idle = false;
            broker.more.notify_one();
        }
    }

    /// Whether there is work for a broker.
    pub(super) fn has_work(&self, broker: i32) -> bool {
        let broker = self.brokers.get(&broker);
        broker.is_some_and(|broker| !broker.ready.is_empty())
    }

    /// Takes the batches of all ready partitions of a broker, up to the size of a request, sorted by topic.
    pub(super) fn take(&mut self, broker: i32, producer: ProducerId) -> Vec<Batch> {
        let mut batches = Vec::new();
        let mut room = REQUEST;
        while room >= BATCH {
            let next = self
                .brokers
                .get_mut(&broker)
                .and_then(|b| b.ready.pop_front());
            let Some((topic, partition)) = next else {
                break;
            };
            let of = &mut self.topics[topic].partitions[partition as usize];
            of.ready = false;
            // The leader may have moved since.
            if of.leader != Some(broker) || !of.has_work() {
                self.offer(topic, partition);
                continue;
            }
            let batch = match of.retry.take() {
                Some(batch) => batch,
                None => of.batch(topic, partition, producer),
            };
            of.in_flight = true;
            room -= batch
                .records
                .iter()
                .map(|p| p.size)
                .sum::<usize>()
                .min(room);
            batches.push(batch);
        }
        batches.sort_by_key(|batch| (batch.topic, batch.partition));
        batches
    }

    /// The names of the topics, by [`Batch::topic`].
    pub(super) fn names(&self) -> Vec<Arc<str>> {
        self.topics.iter().map(|t| Arc::clone(&t.name)).collect()
    }

    /// A batch was acknowledged; `first` is the offset of its first record.
    pub(super) fn delivered(&mut self, batch: Batch, first: u64, ended: &mut Ended) {
        let of = &mut self.topics[batch.topic].partitions[batch.partition as usize];
        of.most = of
            .most
            .map(|most| most + most / GROWTH + 1)
            .filter(|most| *most < BATCH);
        self.release(&batch);
        self.end(batch.records, Ok(first), batch.partition, ended);
    }

    /// Sends a batch again, once metadata has its leader.
    pub(super) fn retry(&mut self, batch: Batch) {
        let (topic, partition) = (batch.topic, batch.partition);
        let of = &mut self.topics[topic].partitions[partition as usize];
        of.in_flight = false;
        of.leader = None;
        of.retry = Some(batch);
        self.stale = true;
    }

    /// A batch failed for good.
    pub(super) fn failed(&mut self, batch: Batch, error: LogError, ended: &mut Ended) {
        // The next sequence number of this producer would leave a gap.
        if self.producer == Some(batch.producer) {
            self.producer = None;
        }
        self.release(&batch);
        self.end(batch.records, Err(error), batch.partition, ended);
    }

    /// A batch exceeds the limit of its topic: its records are queued again for smaller batches; a single record fails.
    pub(super) fn too_large(&mut self, mut batch: Batch, ended: &mut Ended) {
        let of = &mut self.topics[batch.topic].partitions[batch.partition as usize];
        // It was not appended, so its sequence numbers can be reused.
        of.numbered = Some((batch.producer, batch.sequence));
        if batch.records.len() == 1 {
            let size = batch.records[0].size;
            self.release(&batch);
            return self.end(
                batch.records,
                Err(LogError::TooLarge(size)),
                batch.partition,
                ended,
            );
        }
        of.most = Some(batch.size() / 2);
        for pending in std::mem::take(&mut batch.records).into_iter().rev() {
            of.queue.push_front(pending);
        }
        self.release(&batch);
    }

    fn release(&mut self, batch: &Batch) {
        let of = &mut self.topics[batch.topic].partitions[batch.partition as usize];
        of.in_flight = false;
        self.offer(batch.topic, batch.partition);
    }

    fn end(
        &mut self,
        records: Vec<Pending>,
        result: Result<u64, LogError>,
        partition: u32,
        ended: &mut Ended,
    ) {
        self.records -= records.len();
        self.bytes -= records.iter().map(|p| p.size).sum::<usize>();
        ended.0.push((records, result, partition));
    }

    /// Updates brokers, partition counts and leaders from a metadata response.
    pub(super) fn update_metadata(&mut self, metadata: &MetadataResponse, ended: &mut Ended) {
        self.stale = false;
        for broker in &metadata.brokers {
            let address = format!("{}:{}", &*broker.host, broker.port);
            let known = self.brokers.entry(broker.node_id.0).or_insert(Broker {
                address: String::new(),
                more: Arc::default(),
                idle: false,
                ready: VecDeque::new(),
            });
            known.address = address;
        }
        for found in &metadata.topics {
            let topic = found.name.as_ref().and_then(|n| self.names.get(&*n.0));
            let Some(&topic) = topic else {
                continue;
            };
            if found.error_code != 0 || found.partitions.is_empty() {
                self.topic_missing(topic, found.error_code, ended);
                continue;
            }
            self.topics[topic].missing = None;
            let before = &mut self.topics[topic].partitions;
            if before.len() < found.partitions.len() {
                before.resize_with(found.partitions.len(), Partition::default);
            }
            let count = found.partitions.len();
            self.topics[topic].count = count;
            self.move_from(topic, count);
            for one in &found.partitions {
                let partition = one.partition_index as u32;
                let led = one.error_code == 0 && self.brokers.contains_key(&one.leader_id.0);
                if let Some(of) = self.topics[topic].partitions.get_mut(partition as usize) {
                    let leader = led.then_some(one.leader_id.0);
                    if of.leader != leader {
                        // Its entry in the list of the old leader is ignored.
                        of.ready = false;
                        of.leader = leader;
                    }
                    // Without a leader this requests metadata again if there is work.
                    self.offer(topic, partition);
                }
            }
            for pending in std::mem::take(&mut self.topics[topic].waiting) {
                if let Some(refused) = self.enqueue(topic, pending) {
                    let missing = self.no_partition(topic, &refused);
                    self.end(vec![refused], Err(missing), 0, ended);
                }
            }
        }
        // Topics that were added in the meantime, and partitions without a leader.
        self.stale |= self.topics.iter().any(Topic::lacks_leader);
    }

    /// The topic was recreated with `count` partitions: records that wait for higher partitions move to these.
    fn move_from(&mut self, topic: usize, count: usize) {
        let of = &mut self.topics[topic];
        for gone in of.partitions.iter_mut().skip(count) {
            gone.leader = None;
            gone.ready = false;
            let unanswered = gone.retry.take().map(|batch| batch.records);
            of.waiting.extend(unanswered.into_iter().flatten());
            of.waiting.append(&mut gone.queue);
        }
    }

    fn topic_missing(&mut self, topic: usize, code: i16, ended: &mut Ended) {
        let now = Instant::now();
        let of = &mut self.topics[topic];
        let since = *of.missing.get_or_insert(now);
        let later = ResponseError::try_from_code(code).is_none_or(|e| e.is_retriable());
        if later && now < since + MISSING {
            return;
        }
        let name = of.name.to_string();
        let waiting = Vec::from(std::mem::take(&mut of.waiting));
        self.end(waiting, Err(LogError::UnknownTopic(name)), 0, ended);
    }

    /// Fails records whose deadline has passed.
    pub(super) fn expire(&mut self, now: Instant, ended: &mut Ended) {
        if self.records == 0 {
            return;
        }
        let late = |pending: &Pending| pending.deadline <= now;
        for topic in 0..self.topics.len() {
            let waiting = &mut self.topics[topic].waiting;
            let gone = waiting.iter().take_while(|p| late(p)).count();
            let gone: Vec<Pending> = waiting.drain(..gone).collect();
            self.end(gone, Err(unconfirmed()), 0, ended);
            for partition in 0..self.topics[topic].partitions.len() {
                let of = &mut self.topics[topic].partitions[partition];
                if of.in_flight {
                    continue;
                }
                if let Some(batch) = of.retry.take_if(|batch| batch.records.iter().any(late)) {
                    self.failed(batch, unconfirmed(), ended);
                }
                let of = &mut self.topics[topic].partitions[partition];
                let gone = of.queue.iter().take_while(|p| late(p)).count();
                let gone: Vec<Pending> = of.queue.drain(..gone).collect();
                self.end(gone, Err(unconfirmed()), partition as u32, ended);
            }
        }
    }

    /// Fails all records, and sends nothing more.
    pub(super) fn close(&mut self, ended: &mut Ended) {
        self.closing = true;
        let far = Instant::now() + DELIVERY_TIMEOUT + DELIVERY_TIMEOUT;
        self.expire(far, ended);
        for broker in self.brokers.values() {
            broker.more.notify_all();
        }
    }
}

impl Partition {
    fn batch(&mut self, topic: usize, partition: u32, producer: ProducerId) -> Batch {
        let mut room = self.most.unwrap_or(BATCH).saturating_sub(batch::HEAD);
        let mut count = 0;
        for pending in &self.queue {
            // At least one record.
            if pending.size > room && count > 0 {
                break;
            }
            room = room.saturating_sub(pending.size);
            count += 1;
        }
        let records: Vec<Pending> = self.queue.drain(..count).collect();
        let sequence = match self.numbered {
            Some((same, next)) if same == producer => next,
            _ => 0,
        };
        // Sequence numbers wrap to 0 after the largest.
        let next = (sequence as u32 + records.len() as u32) & 0x7fff_ffff;
        self.numbered = Some((producer, next as i32));
        Batch {
            topic,
            partition,
            bytes: Bytes::new(),
            producer,
            sequence,
            records,
        }
    }
}

fn unconfirmed() -> LogError {
    let late = Unavailable::NotConfirmed {
        what: "a record",
        within: DELIVERY_TIMEOUT,
        advice: None,
    };
    late.into()
}

#[cfg(test)]
mod tests;
