//! Restoring keyed state from a changelog, for all partitions of an assignment at once.
//!
//! The last transaction of the former owner may have ended a moment ago, and its commit marker may not be on the changelog's leader
//! yet (a transaction's markers are written to each partition separately, on three brokers by three leaders). Until it is, the last
//! stable offset lies before that transaction's records, so an end taken from it would miss them. The order is therefore:
//!
//! 1. the committed offsets of the group, which the broker answers when no transaction is about to change them;
//! 2. the high watermarks of the changelog: what those offsets were committed with lies before them, for a transaction commits
//!    only when all its records are acknowledged by all in-sync replicas;
//! 3. a wait until the last stable offset has reached them;
//! 4. one read-committed reader, up to the high watermarks.
//!
//! A former owner that hangs in the middle of a transaction would hold this up until `transaction.timeout.ms`, plus the broker's
//! interval for looking (10 s by default). Each committed offset carries the transactional id that committed it, so the new owner fences the former one
//! when it has waited for [`GRACE`]: that aborts the open transaction at once.

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

/// How long an open transaction of a former owner is waited for before that owner is fenced. One that ended in good order needs some milliseconds.
const GRACE: Duration = Duration::from_millis(1_500);
/// How long an open transaction is waited for in all; then the lane says so, and tries again.
const PENDING: Duration = Duration::from_secs(15);
/// Longer than a lane's transaction may last (`transaction.timeout.ms` is 10 s): what was open all this time is forgotten (`hanging.rs`).
const FORGOTTEN: Duration = Duration::from_secs(13);
/// How long fencing a former owner may take.
const FENCE: Duration = Duration::from_secs(10);
/// How long a restore waits for the next record of a changelog.
const RESTORE: Duration = Duration::from_secs(30);
/// Local state that has not followed its changelog for this long is dropped: tombstones that it missed may be gone
/// (`delete.retention.ms` is 24 h).
const STALE_MS: i64 = 12 * 3600 * 1000;
const COMMITTED_OFFSETS: &str = "asking for the committed offsets";
/// Pauses between two looks at an open transaction.
const LOOKS: Backoff = Backoff {
    first: Duration::from_millis(5),
    max: Duration::from_millis(100),
};

/// What a restore works with: a lane's own.
pub(super) struct Restore<'a, X: ConsumerContext> {
    pub(super) options: &'a KafkaOptions,
    pub(super) state: &'a StateStore,
    pub(super) processor: &'a Arc<str>,
    pub(super) changelog: &'a str,
    /// The changelog as it is now; `None`: the brokers do not say.
    pub(super) described: Option<Described>,
    pub(super) positions: &'a Positions,
    /// A read-committed member of the group.
    pub(super) member: &'a BaseConsumer<X>,
    /// Reads uncommitted, so that its ends are high watermarks.
    pub(super) uncommitted: &'a BaseConsumer,
    /// The lane's own, which it does not fence.
    pub(super) transactional_id: &'a str,
}

/// The next offset by partition.
type Offsets = BTreeMap<u32, u64>;

impl<X: ConsumerContext> Restore<'_, X> {
    /// The committed position of each (topic, partition); absent: nothing was ever committed. Waits for open transactions that may change them.
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
                // The group's coordinator may be slow, or away: then there is nobody to fence.
                if let Err(error) = self.fence_owners(list.clone()) {
                    tracing::debug!(%error, "the former owner was not fenced");
                }
                let suspects = self.open_in_own_topics();
                let found = self.member.committed_offsets(list, COMMITTED);
                if let (Err(error), Ok(suspects)) = (&found, suspects)
                    && is_pending(error.rdkafka_error_code())
                {
                    let partitions = partitions.iter().map(|(_, partition)| *partition);
                    let forgotten = self.still_open(suspects)?;
                    self.abort_forgotten(&forgotten, &partitions.collect(), inputs)?;
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

    /// Reads the changelog of these partitions from where this node's copy stands to its high watermarks. `inputs` are the input topics'
    /// names. Of the `complete` ones this node's copy reflects all that was committed.
    pub(super) fn restore(
        &self,
        mut partitions: BTreeSet<u32>,
        complete: &BTreeSet<u32>,
        inputs: &[String],
    ) -> Result<(), LogError> {
        // Partitions that were added to the input have no state.
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
        // (next, end) of what this node does not have.
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
        // Each transaction ends in a marker, which no reader sees. All that is written there is written in transactions, so a single
        // offset is the marker of the last one.
        behind.retain(|_, (next, end)| *end - *next > 1);
        self.read(behind, now)
    }

    /// Where this node's copy of a partition's state stands; a copy that cannot be carried on is dropped.
    fn local_copy(
        &self,
        partition: u32,
        end: u64,
        now: Millis,
        complete: bool,
    ) -> Result<u64, LogError> {
        let Some(followed) = self.positions.followed(partition)? else {
            // Where the changelog begins later, the reader resets to its start.
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
            // The position is kept with the changelog's id from now on.
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
        // The open transactions when the former owners were fenced.
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
                    && Instant::elapsed(&since) > FORGOTTEN
                {
                    let forgotten = self.still_open(suspects)?;
                    if !forgotten.is_empty() {
                        self.abort_forgotten(&forgotten, &open, inputs)?;
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
            std::thread::sleep(LOOKS.pause(attempt));
        }
        Ok(())
    }

    /// Those of these transactions that are still open.
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

    /// Fences whoever committed these offsets last, which aborts what it left open.
    fn fence_owners(&self, list: TopicPartitionList) -> Result<(), LogError> {
        let mut owners = self.owners(&self.last_committed(list)?);
        owners.remove(self.transactional_id);
        for owner in owners {
            tracing::warn!(processor = %self.processor, owner, "the former owner left a transaction open: it is fenced");
            self.fence(&owner)?;
        }
        Ok(())
    }

    /// A producer with this transactional id: any other with it is fenced.
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

    /// The committed offsets as they were before transactions that are about to change them.
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
        // What other tools write there is no transactional id of ours.
        ids.filter(|id| {
            id.strip_prefix(&prefix)
                .is_some_and(|rest| rest.starts_with('-'))
        })
        .collect()
    }

    /// Reads what is missing of all partitions with one reader.
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
            // Behind the last record there may be markers alone: at the reader's end, which lies at or after ours, there is nothing more.
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

/// These partitions of each of the inputs.
pub(super) fn partitions_of(inputs: &[String], partitions: &BTreeSet<u32>) -> TopicPartitionList {
    let mut list = TopicPartitionList::new();
    for input in inputs {
        for partition in partitions {
            list.add_partition(input, *partition as i32);
        }
    }
    list
}

/// By how many offsets a planted bug ends too early: the last transactions of some seconds.
const SHORT: u64 = 40;

/// The end of each of these partitions, asked for in one request a broker: for a consumer that reads uncommitted the high watermark,
/// else the last stable offset.
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
        // As a time, the end is the special value "latest".
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

/// Whether committed offsets could not be told because a transaction is about to change them.
fn is_pending(code: Option<RDKafkaErrorCode>) -> bool {
    matches!(
        code,
        Some(RDKafkaErrorCode::OperationTimedOut | RDKafkaErrorCode::UnstableOffsetCommit)
    )
}
