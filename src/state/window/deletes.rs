//! Which rows are to be deleted from a changelog that drops none by age.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::Range,
};

use bytes::Buf;

use super::rows::{FIRST, HASHES, damaged, first_key, parse_first_key, row_key};
use crate::state::{Changes, Space, StateError, StateStore};

/// Rows of the changelog that a transaction deletes.
const DELETES: u64 = 64;

/// What is to be deleted from the changelog. Buckets follow each other, and so do the sequences of their rows.
#[derive(Default)]
pub(super) struct Deletes {
    /// The first sequence of each bucket.
    firsts: BTreeMap<u32, u64>,
    /// Buckets that have expired, and which of their sequences are left.
    expired: VecDeque<(u32, Range<u64>)>,
}

impl Deletes {
    /// Reads back where buckets begin.
    pub(super) fn load(store: &StateStore, space: &Space) -> Result<Self, StateError> {
        let mut deletes = Self::default();
        for row in store.scan(space, &[FIRST]) {
            let (key, mut value) = row?;
            let first = value.try_get_u64().map_err(|_| damaged(&key))?;
            deletes.firsts.insert(parse_first_key(&key)?, first);
        }
        Ok(deletes)
    }

    /// All buckets that have rows in the changelog, in order, and their first sequences.
    pub(super) fn buckets(&self) -> impl Iterator<Item = (u32, u64)> {
        self.firsts.iter().map(|(bucket, first)| (*bucket, *first))
    }

    /// Whether the changelog was told where a bucket begins.
    pub(super) fn has(&self, bucket: u32) -> bool {
        self.firsts.contains_key(&bucket)
    }

    /// A bucket gets a row: notes the sequence where it is the bucket's first.
    pub(super) fn begin(
        &mut self,
        bucket: u32,
        sequence: u64,
        space: &Space,
        changes: &mut Changes,
    ) {
        if !self.has(bucket) {
            self.firsts.insert(bucket, sequence);
            changes.put(space, first_key(bucket), sequence.to_be_bytes().to_vec());
        }
    }

    /// A bucket has expired: its sequences end where the next bucket's begin, or at `next`.
    pub(super) fn expire(&mut self, bucket: u32, next: u64) {
        let mut from = self.firsts.range(bucket..);
        let Some(first) = from
            .next()
            .filter(|(found, _)| **found == bucket)
            .map(|(_, first)| *first)
        else {
            return;
        };
        let end = from.next().map_or(next, |(_, first)| *first);
        self.expired.push_back((bucket, first..end));
    }

    /// Deletes some rows of expired buckets.
    pub(super) fn delete(&mut self, space: &Space, changes: &mut Changes) {
        let mut most = DELETES;
        while most > 0
            && let Some((bucket, left)) = self.expired.front_mut()
        {
            for sequence in left.by_ref().take(most as usize) {
                changes.delete(space, row_key(HASHES, *bucket, sequence));
                most -= 1;
            }
            if left.is_empty() {
                changes.delete(space, first_key(*bucket));
                self.firsts.remove(bucket);
                self.expired.pop_front();
            }
        }
    }
}
