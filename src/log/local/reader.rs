//! The reader of the embedded log.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::{Condvar, Mutex};

use super::Shared;
use crate::log::{Fetched, LogError, OffsetRange, Reader};

/// The end up to which a reader reads.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum UpTo {
    /// Records that are on disk.
    Durable,
    /// Records that are sequenced, for lanes.
    Sequenced,
}

/// Wakes one reader.
pub(super) struct Signal {
    up_to: UpTo,
    raised: Mutex<bool>,
    wake: Condvar,
}

impl Signal {
    fn raise(&self) {
        *self.raised.lock() = true;
        self.wake.notify_one();
    }

    pub(super) fn raise_sequenced(&self) {
        if self.up_to == UpTo::Sequenced {
            self.raise();
        }
    }

    pub(super) fn raise_durable(&self) {
        if self.up_to == UpTo::Durable {
            self.raise();
        }
    }

    fn wait_until(&self, deadline: Instant) -> bool {
        let mut raised = self.raised.lock();
        while !*raised {
            if self.wake.wait_until(&mut raised, deadline).timed_out() {
                break;
            }
        }
        std::mem::take(&mut raised)
    }
}

struct Assigned {
    topic: usize,
    partition: u32,
    slot: usize,
    next: u64,
    /// One past the last offset to be read.
    end: u64,
}

/// A reader of partitions of some topics.
pub(super) struct LocalReader {
    shared: Arc<Shared>,
    topics: Vec<String>,
    signal: Arc<Signal>,
    assigned: Vec<Assigned>,
    /// The index in `assigned` at which the next poll starts, so that no partition starves.
    turn: usize,
}

const POLL_RECORDS: usize = 10_000;
const POLL_BYTES: usize = 8 << 20;

impl LocalReader {
    pub(super) fn new(shared: Arc<Shared>, topics: &[&str], up_to: UpTo) -> Result<Self, LogError> {
        for topic in topics {
            shared.catalogue.read().topic(topic)?;
        }
        Ok(Self {
            shared,
            topics: topics.iter().map(|t| (*t).to_owned()).collect(),
            signal: Arc::new(Signal {
                up_to,
                raised: Mutex::new(false),
                wake: Condvar::new(),
            }),
            assigned: Vec::new(),
            turn: 0,
        })
    }

    pub(super) fn assign_at(
        &mut self,
        topic: usize,
        partition: u32,
        offset: u64,
    ) -> Result<(), LogError> {
        let slot = self
            .shared
            .catalogue
            .read()
            .slot(&self.topics[topic], partition)?;
        self.release(topic, partition);
        self.shared.sequencer.lock().watch(slot, &self.signal);
        self.assigned.push(Assigned {
            topic,
            partition,
            slot,
            next: offset,
            end: u64::MAX,
        });
        Ok(())
    }

    pub(super) fn release(&mut self, topic: usize, partition: u32) {
        self.assigned.retain(|a| {
            let keep = (a.topic, a.partition) != (topic, partition);
            if !keep {
                self.shared.sequencer.lock().unwatch(a.slot, &self.signal);
            }
            keep
        });
    }

    /// One past the last offset that polls have returned, or that retention deleted; 0 for a partition that is not assigned.
    pub(super) fn handed_out(&self, topic: usize, partition: u32) -> u64 {
        let mut assigned = self.assigned.iter();
        let at = assigned.find(|a| (a.topic, a.partition) == (topic, partition));
        at.map_or(0, |at| at.next.max(self.offset_range(at.slot).start))
    }

    pub(super) fn release_all(&mut self) {
        let assigned: Vec<_> = self
            .assigned
            .iter()
            .map(|a| (a.topic, a.partition))
            .collect();
        for (topic, partition) in assigned {
            self.release(topic, partition);
        }
    }

    fn offset_range(&self, slot: usize) -> OffsetRange {
        let sequencer = self.shared.sequencer.lock();
        match self.signal.up_to {
            UpTo::Durable => sequencer.durable(slot),
            UpTo::Sequenced => sequencer.sequenced(slot),
        }
    }

    /// Reads the records that are available now.
    fn drain(&mut self, out: &mut Vec<Fetched>) -> Result<(), LogError> {
        let before = out.len();
        let mut bytes = 0;
        let count = self.assigned.len();
        for i in 0..count {
            let index = (self.turn + i) % count;
            loop {
                let room = POLL_RECORDS.saturating_sub(out.len() - before);
                if room == 0 || bytes >= POLL_BYTES {
                    self.turn = index;
                    return Ok(());
                }
                let at = &self.assigned[index];
                let slot = at.slot;
                let range = self.offset_range(at.slot);
                let from = at.next.max(range.start);
                if from >= range.end.min(at.end) {
                    break;
                }
                let Some(batch) = self.shared.batch_at(at.slot, from)? else {
                    break;
                };
                if batch.base >= range.end {
                    break;
                }
                let had = out.len();
                bytes += batch.bytes.len();
                batch
                    .read((at.topic, at.partition), from, room, out)
                    .ok_or_else(|| self.shared.damaged(slot, batch.base))?;
                let took = out.len() - had;
                self.assigned[index].next = match out.last() {
                    Some(last) if took == room => last.offset + 1,
                    _ => batch.next,
                };
            }
        }
        Ok(())
    }
}

impl Reader for LocalReader {
    fn assign(&mut self, partition: u32, offset: u64) -> Result<(), LogError> {
        self.assign_at(0, partition, offset)
    }

    fn assign_range(&mut self, partition: u32, offset: u64, end: u64) -> Result<(), LogError> {
        self.assign_at(0, partition, offset)?;
        if let Some(assigned) = self.assigned.last_mut() {
            assigned.end = end;
        }
        Ok(())
    }

    fn at_end(&self, partition: u32) -> bool {
        let assigned = self.assigned.iter().find(|a| a.partition == partition);
        assigned.is_some_and(|at| at.next >= self.offset_range(at.slot).end.min(at.end))
    }

    fn poll(&mut self, wait: Duration, out: &mut Vec<Fetched>) -> Result<(), LogError> {
        let deadline = Instant::now() + wait;
        let before = out.len();
        loop {
            self.drain(out)?;
            if out.len() > before || !self.signal.wait_until(deadline) {
                return Ok(());
            }
        }
    }
}

impl Drop for LocalReader {
    fn drop(&mut self) {
        let mut sequencer = self.shared.sequencer.lock();
        for at in &self.assigned {
            sequencer.unwatch(at.slot, &self.signal);
        }
    }
}
