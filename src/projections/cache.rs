//! A cache of entities, bounded by bytes. Entities that were not used recently are evicted (clock algorithm); entities with
//! uncommitted changes are never evicted.

use std::{
    collections::HashMap,
    hash::{BuildHasherDefault, Hasher},
};

use xxhash_rust::xxh3::xxh3_64;

use crate::entity::Entity;

/// The approximate size of an entry without its texts, in bytes.
const ENTRY_OVERHEAD: usize = 192;

/// A hasher for keys that are hashes already.
#[derive(Default)]
struct PrehashedKey(u64);

impl Hasher for PrehashedKey {
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

/// The index of a slot. Valid until the transaction that it was obtained for is committed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct SlotId(u32);

/// Whether the table has a row for an entity.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Presence {
    /// The table must be queried.
    Unknown,
    /// The table is being queried.
    Requested,
    /// The table has no row.
    Absent,
    /// The table has a row, or will have one once the submitted batches are committed.
    Present,
}

#[derive(Debug)]
pub(super) struct Slot {
    /// `tenant NUL type NUL external_id`; no part contains a NUL.
    key: Box<[u8]>,
    hash: u64,
    /// The next slot with the same hash.
    next_in_chain: Option<u32>,
    pub(super) presence: Presence,
    pub(super) entity: Entity,
    /// The version that the table has, or will have once the submitted batches are committed; 0: no row.
    pub(super) stored_version: i64,
    /// The last transaction that used it.
    transaction: u64,
    recently_used: bool,
    weight: usize,
}

impl Slot {
    /// Sorts in the same order as the primary key.
    pub(super) fn sort_key(&self) -> &[u8] {
        &self.key
    }

    /// Tenant, type and external id.
    pub(super) fn key(&self) -> [&str; 3] {
        let mut parts = self.key.split(|b| *b == 0);
        // The key was built from three texts.
        [(); 3].map(|()| {
            parts
                .next()
                .and_then(|p| std::str::from_utf8(p).ok())
                .unwrap_or_default()
        })
    }
}

/// The cache. Transactions are numbered from 1, in the order in which they are committed.
#[derive(Default)]
pub(super) struct Cache {
    /// The maximum weight in bytes.
    budget: usize,
    /// The approximate size in bytes.
    weight: usize,
    index: HashMap<u64, u32, BuildHasherDefault<PrehashedKey>>,
    slots: Vec<Option<Slot>>,
    free: Vec<u32>,
    clock_hand: usize,
    key: Vec<u8>,
    filter: Option<BloomFilter>,
}

/// A Bloom filter of all entities that were ever in the cache. If the tables were empty at first, an entity that is not in the filter
/// has no row.
struct BloomFilter {
    bits: Vec<u64>,
}

impl BloomFilter {
    /// A filter with about 10 bits for each entity, and at most 64 MiB.
    fn with_capacity(entities: u64) -> Self {
        let words = (entities.saturating_mul(10) / 64)
            .clamp(1_024, 8 << 20)
            .next_power_of_two();
        Self {
            bits: vec![0; words as usize],
        }
    }

    /// Adds a hash. Returns false if it was certainly not in the filter before.
    fn insert(&mut self, hash: u64) -> bool {
        let mask = self.bits.len() as u64 * 64 - 1;
        let step = (hash >> 32) | 1;
        let mut present = true;
        for n in 0..6 {
            let bit = hash.wrapping_add(step.wrapping_mul(n)) & mask;
            let word = &mut self.bits[(bit / 64) as usize];
            present &= *word >> (bit % 64) & 1 == 1;
            *word |= 1 << (bit % 64);
        }
        present
    }
}

impl Cache {
    pub(super) fn new(budget: usize) -> Self {
        Self {
            budget,
            ..Self::default()
        }
    }

    /// Declares that the tables are empty, so that entities that were never in the cache need no lookup. `entities` is an upper bound of
    /// the number of entities to come.
    pub(super) fn assume_empty_tables(&mut self, entities: u64) {
        self.filter = Some(BloomFilter::with_capacity(entities));
    }

    /// The slot of an entity, for a transaction. A new slot is [`Presence::Unknown`], or [`Presence::Absent`] if the entity certainly
    /// has no row. The bool says whether the transaction uses the entity for the first time.
    pub(super) fn get_or_insert(&mut self, key: [&str; 3], transaction: u64) -> (SlotId, bool) {
        self.key.clear();
        for (i, part) in key.iter().enumerate() {
            if i > 0 {
                self.key.push(0);
            }
            self.key.extend_from_slice(part.as_bytes());
        }
        let hash = xxh3_64(&self.key);
        let mut next = self.index.get(&hash).copied();
        while let Some(index) = next {
            let slot = self.slot(SlotId(index));
            next = slot.next_in_chain;
            if slot.hash == hash && *slot.key == *self.key {
                let slot = self.slot_mut(SlotId(index));
                slot.recently_used = true;
                let is_first = slot.transaction != transaction;
                slot.transaction = transaction;
                return (SlotId(index), is_first);
            }
        }
        let is_new = self
            .filter
            .as_mut()
            .is_some_and(|filter| !filter.insert(hash));
        let slot = Slot {
            key: self.key.as_slice().into(),
            hash,
            next_in_chain: None,
            presence: if is_new {
                Presence::Absent
            } else {
                Presence::Unknown
            },
            entity: Entity::default(),
            stored_version: 0,
            transaction,
            recently_used: false,
            weight: self.key.len() + ENTRY_OVERHEAD,
        };
        self.weight += slot.weight;
        let index = self.free.pop().unwrap_or(self.slots.len() as u32);
        let next_in_chain = self.index.insert(hash, index);
        let slot = Some(Slot {
            next_in_chain,
            ..slot
        });
        match self.slots.get_mut(index as usize) {
            Some(free) => *free = slot,
            None => self.slots.push(slot),
        }
        (SlotId(index), true)
    }

    pub(super) fn slot(&self, id: SlotId) -> &Slot {
        self.slots[id.0 as usize]
            .as_ref()
            .expect("slots of uncommitted transactions are not evicted")
    }

    pub(super) fn slot_mut(&mut self, id: SlotId) -> &mut Slot {
        self.slots[id.0 as usize]
            .as_mut()
            .expect("slots of uncommitted transactions are not evicted")
    }

    /// Updates the weight of an entity after a change; returns the weights before and after.
    pub(super) fn update_weight(&mut self, id: SlotId) -> (usize, usize) {
        let slot = self.slot_mut(id);
        let weight = slot.key.len() + ENTRY_OVERHEAD + slot.entity.weight();
        let before = std::mem::replace(&mut slot.weight, weight);
        self.weight = self.weight + weight - before;
        (before, weight)
    }

    /// Evicts entities until the weight is within the budget, except those used by a transaction after `committed`.
    pub(super) fn evict(&mut self, committed: u64) {
        // At most two rounds: the first clears `recently_used`.
        let mut steps = self.slots.len() * 2;
        while self.weight > self.budget && steps > 0 {
            steps -= 1;
            self.clock_hand = (self.clock_hand + 1) % self.slots.len();
            if let Some(slot) = &mut self.slots[self.clock_hand]
                && slot.transaction <= committed
                && !std::mem::take(&mut slot.recently_used)
            {
                self.remove(self.clock_hand as u32);
            }
        }
    }

    /// Removes all entities.
    pub(super) fn clear(&mut self) {
        // The filter must stay: an entity that was once in the cache may have a row.
        let filter = self.filter.take();
        *self = Self {
            filter,
            ..Self::new(self.budget)
        };
    }

    #[cfg(test)]
    pub(super) fn weight(&self) -> usize {
        self.weight
    }

    fn remove(&mut self, index: u32) {
        let Some(slot) = self.slots[index as usize].take() else {
            return;
        };
        self.weight -= slot.weight;
        self.free.push(index);
        let mut in_chain = self.index.get(&slot.hash).copied();
        if in_chain == Some(index) {
            match slot.next_in_chain {
                Some(next) => self.index.insert(slot.hash, next),
                None => self.index.remove(&slot.hash),
            };
            return;
        }
        while let Some(previous) = in_chain {
            let previous = self.slot_mut(SlotId(previous));
            in_chain = previous.next_in_chain;
            if in_chain == Some(index) {
                previous.next_in_chain = slot.next_in_chain;
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_committed_entities_are_evicted() {
        let mut cache = Cache::new(10_000);
        let insert = |cache: &mut Cache, n: usize, transaction| {
            let external_id = n.to_string();
            let (id, is_first) = cache.get_or_insert(["t", "order", &external_id], transaction);
            if is_first {
                cache.slot_mut(id).entity.state = vec![b'x'; 100];
                cache.update_weight(id);
            }
            id
        };
        for n in 0..100 {
            insert(&mut cache, n, 1);
        }
        cache.evict(0);
        assert!(
            cache.weight() > 10_000,
            "no entity is committed yet, so none is evicted"
        );
        let kept = insert(&mut cache, 7, 2);
        cache.evict(1);
        assert!(cache.weight() <= 10_000);
        assert_eq!(cache.slot(kept).key(), ["t", "order", "7"]);
        assert_eq!(insert(&mut cache, 7, 2), kept);
        cache.clear();
        assert_eq!(cache.weight(), 0);
        assert!(cache.index.is_empty());
    }

    #[test]
    fn with_empty_tables_a_new_entity_is_absent() {
        let mut cache = Cache::new(0);
        cache.assume_empty_tables(1_000);
        let (a, _) = cache.get_or_insert(["t", "a", "1"], 1);
        assert_eq!(cache.slot(a).presence, Presence::Absent);
        cache.evict(1);
        let (again, _) = cache.get_or_insert(["t", "a", "1"], 2);
        assert_eq!(cache.slot(again).presence, Presence::Unknown);
        let false_positives = (2..1_000).filter(|n| {
            let (id, _) = cache.get_or_insert(["t", "a", &n.to_string()], 2);
            cache.slot(id).presence == Presence::Unknown
        });
        assert!(false_positives.count() < 50);
    }

    #[test]
    fn key_parts_that_concatenate_alike_have_different_slots() {
        let mut cache = Cache::new(1_000);
        let (a, _) = cache.get_or_insert(["t", "ab", "c"], 1);
        let (b, _) = cache.get_or_insert(["t", "a", "bc"], 1);
        assert_ne!(a, b);
        assert_eq!(cache.get_or_insert(["t", "ab", "c"], 1), (a, false));
    }
}
