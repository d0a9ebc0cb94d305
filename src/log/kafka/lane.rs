//! A lane on Kafka: group member, transactional producer, keyed state with its changelog.
//!
//! [`Transactions`] alone owns the transaction. The changelog topic `state.{processor}` has the input's partitions; each
//! transaction adds its changes of state there, and a record with the key [`POSITION`] that says which input they reflect. This node's
//! copy of the state keeps the changelog offset it has read to, so a restart replays only the tail.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use rdkafka::consumer::BaseConsumer;

use super::{
    KafkaOptions,
    group::GroupConsumer,
    limits::Limits,
    restore::{Restore, changelog_row, followed_to, reflects_row},
    transactions::Transactions,
    watermarks,
};
use crate::{
    backoff::{WORTH, rest},
    clock::{Clock, SystemClock},
    log::{Fetched, Lane, LogError, Polled, Transaction, Watermarks},
    state::StateStore,
};

pub(super) struct KafkaLane {
    options: KafkaOptions,
    state: StateStore,
    /// Before the member of the group, which holds the seat: its id is free when both are gone.
    transactions: Transactions,
    group: GroupConsumer,
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
        limits: Limits,
    ) -> Result<Self, LogError> {
        let changelog: Arc<str> = changelog.into();
        let seat = group.seat();
        let processor = Arc::clone(seat.processor());
        let transactional_id = seat.id(options);
        let transactions =
            Transactions::new(options, &processor, &changelog, &transactional_id, limits)?;
        Ok(Self {
            options: options.clone(),
            state,
            group,
            transactions,
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
}

impl Lane for KafkaLane {
    fn stop_with(&mut self, stop: Arc<AtomicBool>) {
        self.transactions.stop_with(stop);
    }

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
        let committed = self.transactions.commit(&self.group, &transaction);
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
        for (partition, end) in self.transactions.take_ends() {
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
