//! Restores keyed state from a changelog, for all partitions of an assignment at once.
//!
//! The last transaction of the former owner may have just ended, with its commit marker not yet written to the changelog (a
//! transaction's markers are written to each partition separately, on three brokers by three leaders). Until then, the last stable
//! offset lies before that transaction's records, so a restore up to it would miss them. Therefore the order is:
//!
//! 1. get the committed offsets of the group, which the broker returns once no transaction is about to change them;
//! 2. get the high watermarks of the changelog: the records committed with those offsets lie before them, because a transaction
//!    commits only after all in-sync replicas have acknowledged all its records;
//! 3. wait until the last stable offset has reached them;
//! 4. read up to the high watermarks, read-committed, with one reader.
//!
//! A former owner that hangs in the middle of a transaction would block this until `transaction.timeout.ms`, plus the interval at
//! which the broker checks it (10 s by default). The metadata of each committed offset has the transactional id that committed it, so
//! the new owner fences the former one after [`GRACE`], which aborts the open transaction at once.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use rdkafka::{
    ClientConfig, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer, ConsumerContext},
    error::RDKafkaErrorCode,
    producer::{BaseProducer, Producer},
};

use super::{
    CLIENT, COMMITTED, END, KafkaOptions, REQUEST,
    classify::Doing,
    committed_position,
    position::{Followed, POSITION, Positions, from_record},
    reader::KafkaReader,
    while_leaders_move,
};
use crate::{
    base::{
        backoff::Backoff,
        clock::{Clock, Millis, SystemClock},
    },
    chaos::{Bug, planted},
    log::{
        Described, LogError, OpenTransaction, Reader, Unavailable,
        identity::{Place, StoredPosition, announce_changelog, committer},
    },
    state::{Changes, Space, StateStore},
};

/// How long to wait for an open transaction of a former owner before that owner is fenced. After a clean shutdown the wait takes some
/// milliseconds.
const GRACE: Duration = Duration::from_millis(1_500);
/// How long to wait for an open transaction in all; then the lane reports it and retries.
const PENDING: Duration = Duration::from_secs(15);
/// Longer than a lane's transaction may last (`transaction.timeout.ms` is 10 s): one that was open all this time hangs (`hanging.rs`).
const HANGING: Duration = Duration::from_secs(13);
/// Time limit for fencing a former owner.
const FENCE: Duration = Duration::from_secs(10);
/// Time limit for the next record of a changelog.
const RESTORE: Duration = Duration::from_secs(30);
/// Local state that is this far behind its changelog is dropped: tombstones that it has not read may have been deleted
/// (`delete.retention.ms` is 24 h).
const STALE_MS: i64 = 12 * 3600 * 1000;
const COMMITTED_OFFSETS: &str = "asking for the committed offsets";
/// Pauses between two checks of an open transaction.
const CHECKS: Backoff = Backoff {
    first: Duration::from_millis(5),
    max: Duration::from_millis(100),
};

/// The dependencies of a restore, borrowed from the lane.
pub(super) struct Restore<'a, X: ConsumerContext> {
    pub(super) options: &'a KafkaOptions,
    pub(super) state: &'a StateStore,
    pub(super) processor: &'a Arc<str>,
    pub(super) changelog: &'a str,
    /// The changelog as it is now; `None`: the brokers have not described it.
    pub(super) described: Option<Described>,
    pub(super) positions: &'a Positions,
    /// A consumer of the group, read-committed.
    pub(super) member: &'a BaseConsumer<X>,
    /// A consumer with `read_uncommitted`: its end offsets are high watermarks.
    pub(super) uncommitted: &'a BaseConsumer,
    /// That of the lane itself, which is not fenced.
    pub(super) transactional_id: &'a str,
}

/// The next offset by partition.
type Offsets = BTreeMap<u32, u64>;

impl<X: ConsumerContext> Restore<'_, X> {
    /// The committed position of each (topic, partition); absent: nothing was committed yet. Waits for open transactions that may
    /// change them.
    pub(super) fn committed(
        &self,
        partitions: &[(&str, u32)],
        inputs: &[String],
    ) -> Result<BTreeMap<(String, u32), StoredPosition>, LogError> {
        let mut list = TopicPartitionList::new();
        for (topic, partition) in partitions {
            list.add_partition(topic, *partition as i32);
        }
        let topics: BTreeSet<&str> = partitions.iter().map(|(topic, _)| *topic).collect();
        let topics = Vec::from_iter(topics).join("`, `");
        let found = match self.member.committed_offsets(list.clone(), GRACE) {
            Err(error) if is_pending(error.rdkafka_error_code()) => {
                // If the group's coordinator is slow or unavailable, there is no owner to fence.
                if let Err(error) = self.fence_owners(list.clone()) {
                    tracing::debug!(%error, "the former owner was not fenced");
                }
                let suspects = self.open_in_own_topics();
                let found = self.member.committed_offsets(list, COMMITTED);
                if let (Err(error), Ok(suspects)) = (&found, suspects)
                    && is_pending(error.rdkafka_error_code())
                {
                    let partitions = partitions.iter().map(|(_, partition)| *partition);
                    let hanging = self.still_open(suspects)?;
                    self.abort_hanging(&hanging, &partitions.collect(), inputs)?;
                }
                found.doing_of(COMMITTED_OFFSETS, &topics)?
            }
            answer => answer.doing_of(COMMITTED_OFFSETS, &topics)?,
        };
        let mut positions = BTreeMap::new();
        for element in found.elements() {
            let topic = element.topic();
            element.error().doing_of(COMMITTED_OFFSETS, topic)?;
            if let Some(position) = committed_position(&element) {
                let at = (element.topic().to_owned(), element.partition() as u32);
                positions.insert(at, position);
            }
        }
        Ok(positions)
    }

    /// Reads the changelog of these partitions, from the offset of this node's copy up to the high watermark. `inputs` are the names of
    /// the input topics. In `complete` partitions this node's copy reflects all commits.
    pub(super) fn restore(
        &self,
        mut partitions: BTreeSet<u32>,
        complete: &BTreeSet<u32>,
        inputs: &[String],
    ) -> Result<(), LogError> {
        // Partitions that the changelog does not have were added to the input, and have no state.
        if let Some(described) = self.described {
            partitions.retain(|partition| *partition < described.partitions);
        }
        let ends = match end_offsets(self.uncommitted, self.changelog, &partitions) {
            Ok(ends) => ends,
            // A processor without state has no changelog.
            Err(LogError::UnknownTopic(_)) => return Ok(()),
            Err(error) => return Err(error),
        };
        let now = SystemClock.now();
        // (next, end) of the offsets that this node lacks.
        let mut behind = BTreeMap::new();
        for (partition, mut end) in ends {
            let mut next = self.local_copy(partition, end, now, complete.contains(&partition))?;
            if planted(Bug::RestoreEndsEarly) {
                self.state.clear(&self.space(partition))?;
                (next, end) = (0, end.saturating_sub(SHORT));
            }
            if next < end {
                behind.insert(partition, (next, end));
            }
        }
        self.wait_until_stable(&behind, inputs)?;
        // All changelog records are written in transactions, each of which ends in a marker that readers do not see. A single
        // missing offset is therefore the marker of the last one.
        behind.retain(|_, (next, end)| *end - *next > 1);
        self.read(behind, now)
    }

    /// The changelog offset from which this node's copy of a partition's state continues. An unusable copy is dropped.
    fn local_copy(
        &self,
        partition: u32,
        end: u64,
        now: Millis,
        complete: bool,
    ) -> Result<u64, LogError> {
        let Some(followed) = self.positions.followed(partition)? else {
            // If the changelog starts later, the reader resets to its start.
            return Ok(0);
        };
        let id = self.described.and_then(|described| described.id);
        let next = match (followed.id, id) {
            (Some(was), Some(is)) if was != is => {
                let place = Place {
                    processor: self.processor,
                    topic: self.changelog,
                    partition,
                };
                announce_changelog(place, (was, is), complete);
                if !complete {
                    self.state.clear(&self.space(partition))?;
                }
                0
            }
            _ if followed.next > end || followed.at.0 < now.0 - STALE_MS => {
                tracing::warn!(processor = %self.processor, partition, next = followed.next, end, "the local state is too old; it is restored from its changelog");
                self.state.clear(&self.space(partition))?;
                return Ok(0);
            }
            _ => followed.next,
        };
        if followed.id != id && id.is_some() {
            // Adds the changelog's topic id to the position.
            let row = (
                self.positions.changelog_row(partition),
                Followed { next, at: now, id }.to_bytes(),
            );
            self.state.apply(&Changes::default(), &[row])?;
        }
        Ok(next)
    }

    fn space(&self, partition: u32) -> Space {
        Space {
            processor: Arc::clone(self.processor),
            partition,
        }
    }

    /// Waits until no transaction is open below the given ends.
    fn wait_until_stable(
        &self,
        behind: &BTreeMap<u32, (u64, u64)>,
        inputs: &[String],
    ) -> Result<(), LogError> {
        let mut open: BTreeSet<u32> = behind.keys().copied().collect();
        let started = Instant::now();
        // When the former owners were fenced, and the transactions that were open then.
        let mut fenced = None;
        for attempt in 0.. {
            if open.is_empty() {
                return Ok(());
            }
            let stable = end_offsets(self.member, self.changelog, &open)?;
            open.retain(|partition| {
                let reached = stable.get(partition).copied().unwrap_or_default();
                behind.get(partition).is_some_and(|(_, end)| reached < *end)
            });
            let Some(first) = open.first() else {
                return Ok(());
            };
            if started.elapsed() > PENDING {
                if let Some((since, suspects)) = fenced
                    && Instant::elapsed(&since) > HANGING
                {
                    let hanging = self.still_open(suspects)?;
                    if !hanging.is_empty() {
                        self.abort_hanging(&hanging, &open, inputs)?;
                    }
                }
                let at = stable.get(first).copied().unwrap_or_default();
                return Err(LogError::Unavailable(Unavailable::OpenTransaction {
                    changelog: self.changelog.to_owned(),
                    partition: *first,
                    offset: at,
                }));
            }
            if fenced.is_none() && started.elapsed() > GRACE {
                fenced = Some((Instant::now(), self.open_in_own_topics()?));
                self.fence_owners(partitions_of(inputs, &open))?;
            }
            std::thread::sleep(CHECKS.pause(attempt));
        }
        Ok(())
    }

    /// Returns those of these transactions that are still open.
    fn still_open(
        &self,
        mut suspects: Vec<OpenTransaction>,
    ) -> Result<Vec<OpenTransaction>, LogError> {
        let open = self.open_in_own_topics()?;
        let begin = |one: &OpenTransaction| (Arc::clone(&one.topic), one.partition, one.first);
        let open: BTreeSet<_> = open.iter().map(begin).collect();
        suspects.retain(|one| open.contains(&begin(one)));
        Ok(suspects)
    }

    /// Fences the producers that committed these offsets last, which aborts their open transactions.
    fn fence_owners(&self, list: TopicPartitionList) -> Result<(), LogError> {
        let mut owners = self.owners(&self.last_committed(list)?);
        owners.remove(self.transactional_id);
        for owner in owners {
            tracing::warn!(processor = %self.processor, owner, "the former owner left a transaction open: it is fenced");
            self.fence(&owner)?;
        }
        Ok(())
    }

    /// Makes a producer with this transactional id, which fences any other with it.
    pub(super) fn fence(&self, owner: &str) -> Result<BaseProducer, LogError> {
        let mut config: ClientConfig = self.options.config();
        config
            .set("transactional.id", owner)
            .set("transaction.timeout.ms", "10000");
        let producer: BaseProducer = config.create().doing(CLIENT)?;
        let fenced = producer.init_transactions(FENCE);
        fenced.doing("fencing the former owner")?;
        Ok(producer)
    }

    /// The committed offsets, without regard to open transactions that may change them.
    pub(super) fn last_committed(
        &self,
        list: TopicPartitionList,
    ) -> Result<TopicPartitionList, LogError> {
        let mut config = self.options.uncommitted_config();
        config.set("group.id", self.group());
        let asker: BaseConsumer = config.create().doing(CLIENT)?;
        let found = asker.committed_offsets(list, REQUEST);
        found.doing("asking who committed last")
    }

    fn group(&self) -> String {
        format!("{}{}", self.options.prefix, self.processor)
    }

    /// The transactional ids that committed these offsets.
    pub(super) fn owners(&self, committed: &TopicPartitionList) -> BTreeSet<String> {
        let prefix = self.group();
        let elements = committed.elements();
        let ids = elements
            .iter()
            .filter_map(|element| committer(element.metadata()).map(str::to_owned));
        // Other tools may write something else there.
        ids.filter(|id| {
            id.strip_prefix(&prefix)
                .is_some_and(|rest| rest.starts_with('-'))
        })
        .collect()
    }

    /// Reads the missing offsets of all partitions with one reader.
    fn read(&self, mut behind: BTreeMap<u32, (u64, u64)>, now: Millis) -> Result<(), LogError> {
        if behind.is_empty() {
            return Ok(());
        }
        let mut reader = KafkaReader::new(self.options, self.changelog)?;
        for (partition, (next, _)) in &behind {
            reader.assign(*partition, *next)?;
        }
        let id = self.described.and_then(|described| described.id);
        let mut fetched = Vec::new();
        let mut last_record = Instant::now();
        while !behind.is_empty() {
            reader.poll(Duration::from_millis(100), &mut fetched)?;
            if !fetched.is_empty() {
                last_record = Instant::now();
            } else if last_record.elapsed() > RESTORE {
                return Err(LogError::Unavailable(Unavailable::NoRecord {
                    of: format!("the changelog `{}`", self.changelog),
                    within: RESTORE,
                }));
            }
            let mut changes = Changes::default();
            let mut reflects = BTreeMap::new();
            let mut moved = Offsets::new();
            for change in fetched.drain(..) {
                let partition = change.partition;
                moved.insert(partition, change.offset + 1);
                let Some(key) = change.record.key else {
                    continue;
                };
                if key == POSITION {
                    let value = change.record.value.unwrap_or_default();
                    if let Some((topic, position)) = from_record(&value) {
                        let row = self.positions.reflects_row(topic, partition);
                        reflects.insert(row, position.to_bytes());
                    }
                } else {
                    changes.upkeep(&self.space(partition), key, change.record.value);
                }
            }
            // There may be only markers after the last record. The reader's end is at or after ours, so there is nothing more to read.
            behind.retain(|partition, (next, end)| {
                *next = moved.get(partition).copied().unwrap_or(*next);
                if reader.at_end(*partition) {
                    *next = (*end).max(*next);
                    moved.insert(*partition, *next);
                }
                *next < *end
            });
            let mut meta: Vec<_> = reflects.into_iter().collect();
            meta.extend(moved.into_iter().map(|(partition, next)| {
                (
                    self.positions.changelog_row(partition),
                    Followed { next, at: now, id }.to_bytes(),
                )
            }));
            if !meta.is_empty() {
                self.state.apply(&changes, &meta)?;
            }
        }
        Ok(())
    }
}

/// Lists these partitions of each of the inputs.
pub(super) fn partitions_of(inputs: &[String], partitions: &BTreeSet<u32>) -> TopicPartitionList {
    let mut list = TopicPartitionList::new();
    for input in inputs {
        for partition in partitions {
            list.add_partition(input, *partition as i32);
        }
    }
    list
}

/// The number of offsets that the planted bug omits: the transactions of the last seconds.
const SHORT: u64 = 40;

/// The end offsets of these partitions, with one request to each broker: high watermarks for a consumer with `read_uncommitted`, else
/// last stable offsets.
fn end_offsets<X: ConsumerContext>(
    consumer: &BaseConsumer<X>,
    topic: &str,
    partitions: &BTreeSet<u32>,
) -> Result<Offsets, LogError> {
    if partitions.is_empty() {
        return Ok(Offsets::new());
    }
    let mut list = TopicPartitionList::new();
    for partition in partitions {
        // As a timestamp, the protocol's "latest".
        list.add_partition_offset(topic, *partition as i32, Offset::End)
            .doing_of(END, topic)?;
    }
    let ask = || consumer.offsets_for_times(list.clone(), REQUEST);
    let found = while_leaders_move(consumer, topic, ask).doing_of(END, topic)?;
    let mut ends = Offsets::new();
    for element in found.elements() {
        element.error().doing_of(END, topic)?;
        match element.offset() {
            Offset::Offset(end) => ends.insert(element.partition() as u32, end as u64),
            _ => {
                return Err(LogError::Unavailable(Unavailable::EndUnknown {
                    topic: topic.to_owned(),
                    partition: element.partition() as u32,
                }));
            }
        };
    }
    Ok(ends)
}

/// Whether committed offsets are unavailable because of an open transaction that may change them.
fn is_pending(code: Option<RDKafkaErrorCode>) -> bool {
    matches!(
        code,
        Some(RDKafkaErrorCode::OperationTimedOut | RDKafkaErrorCode::UnstableOffsetCommit)
    )
}
