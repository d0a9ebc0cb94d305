//! Entities in memory: what the projector knows of the table, bounded by bytes, least recently used out first (by the
//! clock algorithm). What is not yet committed stays.

use std::{
    collections::HashMap,
    hash::{BuildHasherDefault, Hasher},
};

use xxhash_rust::xxh3::xxh3_64;

use crate::entity::Entity;

/// What an entry takes beside its texts, about.
const OVERHEAD: usize = 192;

/// Keys are hashes already.
#[derive(Default)]
struct Hashed(u64);

impl Hasher for Hashed {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, _: &[u8]) {
        unreachable!("only u64 keys are hashed here");
    }
    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

/// Where an entity lies in the cache; good until the batch that it was looked up for is committed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct At(u32);

/// What is known of an entity.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Known {
    /// Nothing yet: the table must be asked.
    No,
    /// The table is being asked.
    Asked,
    /// The table has no row.
    Absent,
    /// The table has a row, as of the last committed batch.
    Present,
}

#[derive(Debug)]
pub(super) struct Slot {
    /// `tenant NUL type NUL external_id`; no part has a NUL.
    key: Box<[u8]>,
    hash: u64,
    /// The next slot of the same hash.
    chain: Option<u32>,
    pub(super) known: Known,
    pub(super) entity: Entity,
    /// The version that the table has, or has once what was handed over is committed; 0: no row.
    pub(super) stored: i64,
    /// The last batch that changed it.
    batch: u64,
    recent: bool,
    weight: usize,
}

impl Slot {
    /// Sorts as the primary key does.
    pub(super) fn order(&self) -> &[u8] {
        &self.key
    }

    /// Tenant, type, external id.
    pub(super) fn key(&self) -> [&str; 3] {
        let mut parts = self.key.split(|b| *b == 0);
        // Made of three texts.
        [(); 3].map(|()| {
            parts
                .next()
                .and_then(|p| std::str::from_utf8(p).ok())
                .unwrap_or_default()
        })
    }
}

/// The cache. Batches are numbered from 1, in the order in which they are committed.
#[derive(Default)]
pub(super) struct Cache {
    budget: usize,
    weight: usize,
    index: HashMap<u64, u32, BuildHasherDefault<Hashed>>,
    slots: Vec<Option<Slot>>,
    free: Vec<u32>,
    hand: usize,
    key: Vec<u8>,
    seen: Option<Seen>,
}

/// A Bloom filter of all entities that were ever placed: what it does not know has no row, in tables that were empty when
/// it began.
struct Seen {
    bits: Vec<u64>,
}

impl Seen {
    /// About 10 bits each for so many entities, 64 MiB at most.
    fn of(entities: u64) -> Self {
        let words = (entities.saturating_mul(10) / 64)
            .clamp(1_024, 8 << 20)
            .next_power_of_two();
        Self {
            bits: vec![0; words as usize],
        }
    }

    /// Adds a hash; false if it was not there for sure.
    fn add(&mut self, hash: u64) -> bool {
        let mask = self.bits.len() as u64 * 64 - 1;
        let step = (hash >> 32) | 1;
        let mut there = true;
        for n in 0..6 {
            let bit = hash.wrapping_add(step.wrapping_mul(n)) & mask;
            let word = &mut self.bits[(bit / 64) as usize];
            there &= *word >> (bit % 64) & 1 == 1;
            *word |= 1 << (bit % 64);
        }
        there
    }
}

impl Cache {
    pub(super) fn new(budget: usize) -> Self {
        Self {
            budget,
            ..Self::default()
        }
    }

    /// The tables are empty, and at most so many entities will come: those that never came have no row.
    pub(super) fn start_fresh(&mut self, entities: u64) {
        self.seen = Some(Seen::of(entities));
    }

    /// The place of an entity, for a batch; a new one is
    /// [`Known::No`], or [`Known::Absent`] if that is sure. The bool: this batch meets it for the first time.
    pub(super) fn place(&mut self, key: [&str; 3], batch: u64) -> (At, bool) {
        self.key.clear();
        for (i, part) in key.iter().enumerate() {
            if i > 0 {
                self.key.push(0);
            }
            self.key.extend_from_slice(part.as_bytes());
        }
        let hash = xxh3_64(&self.key);
        let mut next = self.index.get(&hash).copied();
        while let Some(at) = next {
            let slot = self.slot(At(at));
            next = slot.chain;
            if slot.hash == hash && *slot.key == *self.key {
                let slot = self.slot_mut(At(at));
                slot.recent = true;
                let first = slot.batch != batch;
                slot.batch = batch;
                return (At(at), first);
            }
        }
        let new = self.seen.as_mut().is_some_and(|seen| !seen.add(hash));
        let slot = Slot {
            key: self.key.as_slice().into(),
            hash,
            chain: None,
            known: if new { Known::Absent } else { Known::No },
            entity: Entity::default(),
            stored: 0,
            batch,
            recent: false,
            weight: self.key.len() + OVERHEAD,
        };
        self.weight += slot.weight;
        let at = self.free.pop().unwrap_or(self.slots.len() as u32);
        let chain = self.index.insert(hash, at);
        let slot = Some(Slot { chain, ..slot });
        match self.slots.get_mut(at as usize) {
            Some(free) => *free = slot,
            None => self.slots.push(slot),
        }
        (At(at), true)
    }

    pub(super) fn slot(&self, at: At) -> &Slot {
        self.slots[at.0 as usize]
            .as_ref()
            .expect("places are held only while their batch is not committed")
    }

    pub(super) fn slot_mut(&mut self, at: At) -> &mut Slot {
        self.slots[at.0 as usize]
            .as_mut()
            .expect("places are held only while their batch is not committed")
    }

    /// Takes note of an entity's size after a change; answers what it was and what it is.
    pub(super) fn weigh(&mut self, at: At) -> (usize, usize) {
        let slot = self.slot_mut(at);
        let weight = slot.key.len() + OVERHEAD + slot.entity.weight();
        let before = std::mem::replace(&mut slot.weight, weight);
        self.weight = self.weight + weight - before;
        (before, weight)
    }

    /// Lets go of entities until the budget is kept; those changed by a batch after `committed` stay.
    pub(super) fn shrink(&mut self, committed: u64) {
        // Twice around: the first time takes away the mark of recent use.
        let mut steps = self.slots.len() * 2;
        while self.weight > self.budget && steps > 0 {
            steps -= 1;
            self.hand = (self.hand + 1) % self.slots.len();
            if let Some(slot) = &mut self.slots[self.hand]
                && slot.batch <= committed
                && !std::mem::take(&mut slot.recent)
            {
                self.remove(self.hand as u32);
            }
        }
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        // What was ever placed may have a row.
        let seen = self.seen.take();
        *self = Self {
            seen,
            ..Self::new(self.budget)
        };
    }

    /// Bytes held, about.
    #[cfg(test)]
    pub(super) fn weight(&self) -> usize {
        self.weight
    }

    fn remove(&mut self, at: u32) {
        let Some(slot) = self.slots[at as usize].take() else {
            return;
        };
        self.weight -= slot.weight;
        self.free.push(at);
        let mut before = self.index.get(&slot.hash).copied();
        if before == Some(at) {
            match slot.chain {
                Some(next) => self.index.insert(slot.hash, next),
                None => self.index.remove(&slot.hash),
            };
            return;
        }
        while let Some(previous) = before {
            let other = self.slot_mut(At(previous));
            before = other.chain;
            if before == Some(at) {
                other.chain = slot.chain;
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_committed_stays_and_the_rest_fits() {
        let mut cache = Cache::new(10_000);
        let place = |cache: &mut Cache, n: usize, batch| {
            let id = n.to_string();
            let (at, first) = cache.place(["t", "order", &id], batch);
            if first {
                cache.slot_mut(at).entity.state = vec![b'x'; 100];
                cache.weigh(at);
            }
            at
        };
        for n in 0..100 {
            place(&mut cache, n, 1);
        }
        cache.shrink(0);
        assert!(
            cache.weight() > 10_000,
            "all are in a batch that is not committed"
        );
        let kept = place(&mut cache, 7, 2);
        cache.shrink(1);
        assert!(cache.weight() <= 10_000);
        assert_eq!(cache.slot(kept).key(), ["t", "order", "7"]);
        assert_eq!(place(&mut cache, 7, 2), kept);
        cache.clear();
        assert_eq!(cache.weight(), 0);
        assert!(cache.index.is_empty());
    }

    #[test]
    fn what_never_came_is_absent() {
        let mut cache = Cache::new(0);
        cache.start_fresh(1_000);
        let (a, _) = cache.place(["t", "a", "1"], 1);
        assert_eq!(cache.slot(a).known, Known::Absent);
        cache.shrink(1);
        let (again, _) = cache.place(["t", "a", "1"], 2);
        assert_eq!(cache.slot(again).known, Known::No);
        let unsure = (2..1_000).filter(|n| {
            let (at, _) = cache.place(["t", "a", &n.to_string()], 2);
            cache.slot(at).known == Known::No
        });
        assert!(unsure.count() < 50);
    }

    #[test]
    fn parts_cannot_run_into_each_other() {
        let mut cache = Cache::new(1_000);
        let (a, _) = cache.place(["t", "ab", "c"], 1);
        let (b, _) = cache.place(["t", "a", "bc"], 1);
        assert_ne!(a, b);
        assert_eq!(cache.place(["t", "ab", "c"], 1), (a, false));
    }
}
