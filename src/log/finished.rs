//! What an effect has finished in a partition.

use std::collections::BTreeSet;

use base64::{Engine, engine::general_purpose::STANDARD_NO_PAD};

/// Offsets beyond the low-water mark that the commit's metadata can hold: a bitmap of this many bits is, in base64, below Kafka's
/// `offset.metadata.max.bytes` (4,096).
const SPAN: u64 = 24_000;

/// All before `next` is finished, and so is `beyond`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Finished {
    next: u64,
    beyond: BTreeSet<u64>,
}

impl Finished {
    /// Nothing beyond `next`.
    pub fn from(next: u64) -> Self {
        Self {
            next,
            beyond: BTreeSet::new(),
        }
    }

    /// The low-water mark: the first offset that is not finished.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// Whether an offset is finished.
    pub fn contains(&self, offset: u64) -> bool {
        offset < self.next || self.beyond.contains(&offset)
    }

    /// Whether an offset is so far beyond the low-water mark that it could not be kept: wait with it.
    pub fn too_far(&self, offset: u64) -> bool {
        offset >= self.next + SPAN
    }

    /// Marks an offset as finished.
    pub fn insert(&mut self, offset: u64) {
        if offset >= self.next {
            self.beyond.insert(offset);
        }
        while self.beyond.remove(&self.next) {
            self.next += 1;
        }
    }

    /// Moves the low-water mark over offsets that hold no records (compaction, markers of transactions).
    pub fn skip_to(&mut self, next: u64) {
        self.next = self.next.max(next);
        self.beyond = self.beyond.split_off(&self.next);
        while self.beyond.remove(&self.next) {
            self.next += 1;
        }
    }

    /// The offsets beyond `next` as text.
    pub fn metadata(&self) -> String {
        let Some(last) = self.beyond.last() else {
            return String::new();
        };
        let mut bits = vec![0u8; ((last - self.next) / 8 + 1) as usize];
        for offset in &self.beyond {
            let bit = offset - self.next;
            bits[(bit / 8) as usize] |= 1 << (bit % 8);
        }
        STANDARD_NO_PAD.encode(bits)
    }

    /// Reads it back. Text that is not ours counts as nothing: the work is done again.
    pub fn parse(next: u64, metadata: &str) -> Self {
        let bits = STANDARD_NO_PAD.decode(metadata).unwrap_or_default();
        let mut finished = Self::from(next);
        for bit in 0..(bits.len() as u64 * 8).min(SPAN) {
            if bits[(bit / 8) as usize] >> (bit % 8) & 1 == 1 {
                finished.beyond.insert(next + bit);
            }
        }
        finished
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn survives_its_own_text(next in 0u64..1000, offsets in prop::collection::vec(0u64..3000, 0..200)) {
            let mut finished = Finished::from(next);
            for offset in &offsets {
                finished.insert(*offset);
            }
            prop_assert!(!finished.contains(finished.next()));
            for offset in offsets {
                prop_assert!(finished.contains(offset));
            }
            prop_assert_eq!(Finished::parse(finished.next(), &finished.metadata()), finished);
        }

        #[test]
        fn the_text_is_never_too_long(offset in 0..SPAN) {
            let mut finished = Finished::from(7);
            finished.insert(7 + offset);
            prop_assert!(finished.metadata().len() <= 4096);
        }
    }
}
