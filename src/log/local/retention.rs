//! Retention, compaction and lookups by time in the embedded log.

use std::{collections::HashSet, time::Duration};

use bytes::Bytes;

use super::{
    Shared,
    batch::{Batch, Builder},
    catalogue::{Topic, base_of, batch_key},
};
use crate::{
    base::clock::Millis,
    log::{Cleanup, Fetched, LogError},
};

const INTERVAL: Duration = Duration::from_mins(1);
/// How long tombstones of a compacted topic are kept, so that readers see them (Kafka's `delete.retention.ms`).
const TOMBSTONE_MS: i64 = 24 * 3600 * 1000;

pub(super) fn run(shared: &Shared) {
    let mut closing = shared.closing.lock();
    while !*closing {
        let waited = shared.closed.wait_for(&mut closing, INTERVAL);
        if waited.timed_out() && !*closing {
            parking_lot::MutexGuard::unlocked(&mut closing, || {
                if let Err(error) = shared.tidy() {
                    tracing::warn!(%error, "deleting old records failed; retrying in a minute");
                }
            });
        }
    }
}

impl Shared {
    pub(super) fn tidy(&self) -> Result<(), LogError> {
        let topics = self.catalogue.read().topics().to_vec();
        let now = self.options.clock.now();
        for topic in topics {
            for partition in 0..topic.partitions {
                match topic.cleanup {
                    None | Some(Cleanup::Keep) => {}
                    Some(Cleanup::Delete { retention_ms }) => {
                        self.drop_before(&topic, partition, now.0 - retention_ms)?;
                    }
                    Some(Cleanup::Compact) => self.compact(&topic, partition, now)?,
                    Some(Cleanup::CompactDelete { retention_ms }) => {
                        self.drop_before(&topic, partition, now.0 - retention_ms)?;
                        self.compact(&topic, partition, now)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Deletes batches whose newest record is older than `before`, except the last batch, which determines the next offset.
    fn drop_before(&self, topic: &Topic, partition: u32, before: i64) -> Result<(), LogError> {
        let slot = topic.first_slot + partition as usize;
        let durable = self.sequencer.lock().durable(slot).end;
        loop {
            let mut batch = self.store.database.batch();
            let mut start = None;
            for guard in self.batches.prefix((slot as u32).to_be_bytes()).take(1000) {
                let (key, value) = guard.into_inner()?;
                let old = self.open(slot, &key, value.into())?;
                if old.max_timestamp >= before || old.next >= durable {
                    break;
                }
                start = Some(old.next);
                batch.remove(&self.batches, key);
            }
            let Some(start) = start else { return Ok(()) };
            // Readers skip these offsets before the batches are deleted.
            self.sequencer.lock().set_start(slot, start);
            self.store.commit(batch)?;
        }
    }

    /// Keeps the last record of each key. Processes one batch at a time, from the newest, which stays unchanged, to the oldest. Memory
    /// grows with the number of distinct keys.
    fn compact(&self, topic: &Topic, partition: u32, now: Millis) -> Result<(), LogError> {
        let slot = topic.first_slot + partition as usize;
        let durable = self.sequencer.lock().durable(slot).end;
        let mut seen: HashSet<Bytes> = HashSet::new();
        let mut newest = true;
        let everything = batch_key(slot, 0)..batch_key(slot, durable);
        for guard in self.batches.range(everything).rev() {
            let (key, value) = guard.into_inner()?;
            let old = self.open(slot, &key, value.into())?;
            let mut records = Vec::new();
            self.read_all(slot, &old, &mut records)?;
            let before = records.len();
            let mut kept: Vec<Fetched> = Vec::new();
            for fetched in records.into_iter().rev() {
                let Some(key) = &fetched.record.key else {
                    continue;
                };
                let last = seen.insert(key.clone());
                let stale =
                    fetched.record.value.is_none() && fetched.timestamp.0 < now.0 - TOMBSTONE_MS;
                if newest || last && !stale {
                    kept.push(fetched);
                }
            }
            newest = false;
            if kept.len() == before {
                continue;
            }
            let mut batch = self.store.database.batch();
            if kept.is_empty() {
                batch.remove(&self.batches, key);
            } else {
                let oldest = kept.last().map_or(now, |f| f.timestamp);
                let mut builder = Builder::new(old.base, oldest);
                for fetched in kept.iter().rev() {
                    builder.push(fetched.offset, fetched.timestamp, &fetched.record);
                }
                batch.insert(&self.batches, key, builder.finish(Some(old.next)).stored());
            }
            self.store.commit(batch)?;
        }
        self.sequencer.lock().forget_recent(slot);
        Ok(())
    }

    /// The first offset that was appended at or after `at`, by a binary search over offsets with one read of the store per step.
    pub(super) fn offset_at(
        &self,
        topic: &str,
        partition: u32,
        at: Millis,
    ) -> Result<u64, LogError> {
        let slot = self.catalogue.read().slot(topic, partition)?;
        let range = self.sequencer.lock().durable(slot);
        let (mut low, mut high) = (range.start, range.end);
        // The first batch with a record that is new enough …
        while low < high {
            let middle = low + (high - low) / 2;
            match self.batch_at(slot, middle)? {
                Some(batch) if batch.max_timestamp < at.0 => low = batch.next.max(middle + 1),
                Some(batch) => high = batch.base.min(middle),
                None => high = middle,
            }
        }
        // … and that record.
        let mut records = Vec::new();
        if let Some(batch) = self.batch_at(slot, low)? {
            self.read_all(slot, &batch, &mut records)?;
        }
        let first = records
            .iter()
            .find(|r| r.offset >= low && r.timestamp >= at);
        Ok(first.map_or(range.end, |r| r.offset))
    }

    fn open(&self, slot: usize, key: &[u8], value: Bytes) -> Result<Batch, LogError> {
        let base = base_of(key);
        Batch::open(base, value).ok_or_else(|| self.damaged(slot, base))
    }

    fn read_all(&self, slot: usize, batch: &Batch, out: &mut Vec<Fetched>) -> Result<(), LogError> {
        let read = batch.read((0, 0), 0, usize::MAX, out);
        read.ok_or_else(|| self.damaged(slot, batch.base))
    }
}
