//! A lane on Kafka: group member, transactional producer, keyed state with its changelog.
//!
//! [`Transactions`] alone owns the transaction. The changelog topic `state.{processor}` has the input's partitions; each
//! transaction appends its state changes there, and a record with the key [`super::position::POSITION`] that says which input they reflect. This node's
//! copy of the state keeps the changelog offset it has read to, so a restart replays only the tail.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, atomic::AtomicBool},
    time::{Duration, Instant},
};

use rdkafka::consumer::BaseConsumer;

use super::{
    KafkaOptions, committed,
    group::GroupConsumer,
    limits::Limits,
    offset_range,
    position::{Followed, Positions},
    reader::KafkaReader,
    restore::Restore,
    transactions::Transactions,
};
use crate::{
    base::{
        backoff::{FULL_TRANSACTION, commit_pause},
        clock::{Clock, SystemClock},
    },
    log::{
        Fetched, Lane, LogError, OffsetRange, Polled, Reader, TopicId, Transaction, Unavailable,
        identity::{Place, StoredPosition, later, resolve},
    },
    state::StateStore,
};

/// Time limits of [`Lane::is_empty`], and of each of its polls.
const IS_EMPTY: Duration = Duration::from_secs(2);
const POLL_WAIT: Duration = Duration::from_millis(100);
/// The longest pause of a lane after [`Lane::hurry`]. A transaction takes 4 ms on one broker: with pauses of up to 20 ms a run of several
/// steps spends most of its time in pauses, and with pauses shorter than this, transactions of few records cost more than they gain.
const HURRY: Duration = Duration::from_millis(4);
/// How long a commit waits for brokers that do not answer before it is repeated.
const CONFIRM: Duration = Duration::from_secs(10);

pub(super) struct KafkaLane {
    options: KafkaOptions,
    state: StateStore,
    /// Dropped before `group`, which holds the static member: the transactional id is free once both are gone.
    transactions: Transactions,
    group: GroupConsumer,
    /// For requests of high watermarks.
    uncommitted: Arc<BaseConsumer>,
    processor: Arc<str>,
    transactional_id: String,
    changelog: Arc<str>,
    positions: Positions,
    /// The topic id of the changelog that the state follows.
    changelog_id: Option<TopicId>,
    /// The number of records of the last poll.
    polled: usize,
    /// The longest pause between transactions.
    longest_pause: Duration,
    /// The committed positions of partitions whose state has been restored, and that are opened next.
    prepared: HashMap<(usize, u32), Option<StoredPosition>>,
}

impl KafkaLane {
    pub(super) fn new(
        options: &KafkaOptions,
        state: StateStore,
        group: GroupConsumer,
        uncommitted: Arc<BaseConsumer>,
        changelog: &str,
        limits: Limits,
    ) -> Result<Self, LogError> {
        let changelog: Arc<str> = changelog.into();
        let member = group.static_member();
        let processor = Arc::clone(member.processor());
        let transactional_id = member.transactional_id(options);
        let transactions =
            Transactions::new(options, &processor, &changelog, &transactional_id, limits)?;
        Ok(Self {
            options: options.clone(),
            positions: Positions::new(&state, &processor),
            state,
            group,
            transactions,
            uncommitted,
            processor,
            transactional_id,
            changelog,
            changelog_id: None,
            polled: 0,
            longest_pause: Duration::MAX,
            prepared: HashMap::new(),
        })
    }

    /// Checks before a commit that the input topics still have the ids to which the positions belong.
    fn confirm(&mut self) -> Result<(), LogError> {
        let deadline = Instant::now() + CONFIRM;
        while !self.group.watched.confirm()? {
            let now = Instant::now();
            if now >= deadline || self.transactions.gives_up(now) {
                return Err(Unavailable::TopicsUnidentified.into());
            }
        }
        Ok(())
    }

    /// Refuses an input with more partitions than the changelog: the state of a key may be in another partition than its records.
    fn refuse_growth(&self, topic: &str, input: u32, changelog: u32) -> Result<(), LogError> {
        // Of OmniLink's own topics only the configured partitions are used, even if more were added.
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

    fn prepare_all(
        &mut self,
        partitions: &[(usize, u32)],
    ) -> Result<HashMap<(usize, u32), Option<StoredPosition>>, LogError> {
        if partitions.is_empty() {
            return Ok(HashMap::new());
        }
        let named: Vec<(&str, u32)> = partitions
            .iter()
            .map(|(topic, partition)| (self.group.topics[*topic].as_str(), *partition))
            .collect();
        let mut restore = Restore {
            options: &self.options,
            state: &self.state,
            processor: &self.processor,
            changelog: &self.changelog,
            described: None,
            positions: &self.positions,
            member: &*self.group.consumer,
            uncommitted: &self.uncommitted,
            transactional_id: &self.transactional_id,
        };
        // First the position, then the state: if more is committed in between, the state is newer, and its input is skipped.
        let mut committed = restore.committed(&named, &self.group.topics)?;
        let described = self.group.watched.describe()?;
        let (changelog, inputs) = described.split_last().unwrap_or((&None, &[]));
        self.changelog_id = changelog.and_then(|changelog| changelog.id);
        let read: BTreeSet<usize> = partitions.iter().map(|(topic, _)| *topic).collect();
        for topic in read {
            if let (Some(input), Some(changelog)) = (inputs[topic], changelog) {
                let name = &self.group.topics[topic];
                self.refuse_growth(name, input.partitions, changelog.partitions)?;
            }
            let id = inputs[topic].and_then(|input| input.id);
            self.group.watched.set_id(topic, id)?;
        }
        self.group.watched.set_id(inputs.len(), self.changelog_id)?;
        let mut positions = HashMap::new();
        let mut of_changelog = BTreeSet::new();
        let mut incomplete = BTreeSet::new();
        for (topic, partition) in partitions {
            let name = (self.group.topics[*topic].clone(), *partition);
            let position = committed.remove(&name);
            let reflects = self.positions.reflects(*topic, *partition)?;
            of_changelog.insert(*partition);
            if position.is_some_and(|at| reflects.is_none_or(|reflects| reflects.next < at.next)) {
                incomplete.insert(*partition);
            }
            positions.insert((*topic, *partition), position);
        }
        let complete = &of_changelog - &incomplete;
        restore.described = *changelog;
        restore.restore(of_changelog, &complete, &self.group.topics)?;
        Ok(positions)
    }
}

impl Lane for KafkaLane {
    fn stop_with(&mut self, stop: Arc<AtomicBool>) {
        self.transactions.stop_with(stop);
    }

    fn hurry(&mut self) {
        self.longest_pause = HURRY;
    }

    fn poll(&mut self, wait: Duration, out: &mut Vec<Fetched>) -> Result<Polled, LogError> {
        if self.polled < FULL_TRANSACTION {
            let pause = commit_pause(self.polled).min(self.longest_pause);
            std::thread::sleep(pause.min(wait));
        }
        self.polled = 0;
        let polled = self.group.poll_group(wait, out)?;
        self.polled = out.len();
        Ok(polled)
    }

    fn prepare(&mut self, partitions: &[(usize, u32)]) -> Result<(), LogError> {
        self.prepared.clear();
        let prepared = self.prepare_all(partitions);
        self.group.keep_membership_after(&prepared);
        self.prepared = prepared?;
        Ok(())
    }

    fn open(&mut self, topic: usize, partition: u32) -> Result<u64, LogError> {
        let name = self.group.topics[topic].clone();
        if !self.prepared.contains_key(&(topic, partition)) {
            self.prepare(&[(topic, partition)])?;
        }
        let mut position = self.prepared.remove(&(topic, partition)).flatten();
        let id = self.group.watched.id(topic);
        let reflects = self.positions.reflects(topic, partition)?;
        if let (Some(one), Some(two)) = (position, reflects)
            && one.id.is_none()
            && two.id.is_some()
        {
            // A position without an id takes precedence over that of the state, unless it has been committed anew with an id.
            position = committed(&*self.group.consumer, &name, partition)?;
        }
        let place = Place {
            processor: &self.processor,
            topic: &name,
            partition,
        };
        let range = offset_range(&*self.group.consumer, &name, partition)?;
        let stored = later(position, reflects, id);
        let resolved = resolve(place, stored, id, range)?;
        if let Some(reset) = resolved.reset {
            reset.announce(place);
        }
        let next = resolved.next;
        // A reset is reported once, and a position of a version without topic ids gets the id.
        if stored.is_some_and(|stored| stored.id != id || stored.next != next) {
            self.positions
                .set_reflects((topic, partition), StoredPosition { next, id })?;
        }
        self.group.assign_at(topic, partition, next);
        Ok(next)
    }

    fn seek(&mut self, topic: usize, partition: u32, offset: u64) -> Result<(), LogError> {
        self.group.assign_at(topic, partition, offset);
        Ok(())
    }

    fn pause(&mut self) {
        self.group.pause();
    }

    fn release(&mut self, partitions: &[(usize, u32)]) -> Result<(), LogError> {
        self.group.unassign(partitions)
    }

    fn commit(&mut self, transaction: Transaction) -> Result<(), LogError> {
        let confirmed = self.confirm();
        let committed =
            confirmed.and_then(|()| self.transactions.commit(&self.group, &transaction));
        self.group.keep_membership_after(&committed);
        committed?;
        let mut meta: Vec<(Vec<u8>, Vec<u8>)> = transaction
            .positions
            .iter()
            .map(|(topic, partition, next)| {
                let row = self.positions.reflects_row(*topic, *partition);
                let id = self.group.watched.id(*topic);
                (row, StoredPosition { next: *next, id }.to_bytes())
            })
            .collect();
        let (at, id) = (SystemClock.now(), self.changelog_id);
        for (partition, next) in self.transactions.take_ends() {
            let row = self.positions.changelog_row(partition);
            meta.push((row, Followed { next, at, id }.to_bytes()));
        }
        self.state.apply(&transaction.state, &meta)?;
        Ok(())
    }

    fn offset_range(&self, topic: usize, partition: u32) -> Result<OffsetRange, LogError> {
        offset_range(&*self.group.consumer, &self.group.topics[topic], partition)
    }

    fn handed_out(&self, topic: usize, partition: u32) -> Result<u64, LogError> {
        self.group.handed_out(topic, partition)
    }

    fn is_empty(
        &mut self,
        topic: usize,
        partition: u32,
        offsets: OffsetRange,
    ) -> Result<bool, LogError> {
        let mut reader = KafkaReader::new(&self.options, &self.group.topics[topic])?;
        reader.assign_range(partition, offsets.start, offsets.end)?;
        let deadline = Instant::now() + IS_EMPTY;
        let mut records = Vec::new();
        while !reader.at_end(partition) {
            reader.poll(POLL_WAIT, &mut records)?;
            if records.iter().any(|record| record.offset < offsets.end) {
                return Ok(false);
            }
            if !records.is_empty() {
                break;
            }
            let now = Instant::now();
            if now >= deadline || self.transactions.gives_up(now) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn state(&self) -> &StateStore {
        &self.state
    }
}
