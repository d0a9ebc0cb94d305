//! A set of 16-byte hashes that were seen within a window of time, for dedupe and idempotency: on disk, with
//! filters in memory, so that its memory grows by two bytes a hash and a new hash costs no read.
//!
//! Time is divided into buckets, which expire as a whole. A transaction adds one row for each bucket (a large one several) with its new
//! hashes, which is what the changelog carries. When there are enough, they are rewritten, on this node only, as a sorted run: pages with
//! a filter. A thread of its own sorts it, and each transaction writes a few of its pages, so that no transaction waits for it. A hash may carry a 16-byte payload (the port keeps a body's hash).
//!
//! | row | holds |
//! |---|---|
//! | `w` bucket(4) sequence(8) | the new hashes of one transaction |
//! | `b` bucket(4) run(8) | how many pages a run will have that is being written |
//! | `p` bucket(4) run(8) page(4) | one page of a sorted run |
//! | `f` bucket(4) run(8) | the run's fences (first 8 bytes of each page) and filter: it is whole |
//! | `r` bucket(4) | the first sequence of the bucket's `w` rows, where the changelog is told of their end ([`Window::log_deletes`]) |
//!
//! A changelog that holds windows alone drops their rows by age. One that also holds rows of other kinds, which may live for any time, must
//! not: there each `w` row is deleted when its bucket is, a few a transaction.

mod bucket;
mod deletes;
mod group;
mod page;
mod rows;
mod run;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, sync::Arc};

use bytes::{Buf, BufMut, BytesMut};

pub use self::page::{Located, Page};
use self::{
    bucket::{Bucket, UNDER_WAY},
    deletes::Deletes,
    group::{Found, Group},
    rows::{BEGUN_RUN, HASHES, RUN, damaged, page_key, parse_row_key, row_key},
    run::{PAGE_ENTRIES, Run, split},
};
use super::{Changes, Probe, Space, StateError, StateStore};
use crate::base::{clock::Millis, id::Identity};

const ID: usize = 16;
/// Buckets a window: hashes live for the window and up to one bucket more.
const BUCKETS: i64 = 6;
/// Pages of a run that a transaction writes, beside twice what it adds itself.
const PAGES: usize = 32;
/// Hashes of one row, which is a record of the changelog: any topic takes it.
const ROW_ENTRIES: usize = 8192;

/// How a window is kept.
#[derive(Clone, Copy, Debug)]
pub struct WindowOptions {
    /// How long a hash is remembered, at least; up to a sixth more.
    pub window_ms: i64,
    /// Bytes kept beside a hash: 0 or 16.
    pub payload: usize,
    /// Hashes in memory before they are sorted into a run on disk.
    pub seal_at: usize,
}

/// The window. One owner; changes become durable with the transaction that takes them.
pub struct Window {
    store: StateStore,
    space: Space,
    options: WindowOptions,
    buckets: BTreeMap<u32, Bucket>,
    /// What the open transaction added, by bucket.
    added: BTreeMap<u32, BytesMut>,
    next_sequence: u64,
    latest: i64,
    deletes: Option<Deletes>,
}

impl Window {
    /// Reads back what the store holds of the space.
    pub fn load(
        store: &StateStore,
        space: Space,
        options: WindowOptions,
    ) -> Result<Self, StateError> {
        let mut window = Self {
            store: store.clone(),
            space,
            options,
            buckets: BTreeMap::new(),
            added: BTreeMap::new(),
            next_sequence: 0,
            latest: i64::MIN,
            deletes: None,
        };
        for row in store.scan(&window.space, &[RUN]) {
            let (key, value) = row?;
            let (bucket, number) = parse_row_key(&key)?;
            let run = Run::open(number, &value).ok_or_else(|| damaged(&key))?;
            window.next_sequence = window.next_sequence.max(number + 1);
            window.buckets.entry(bucket).or_default().runs.push(run);
        }
        window.fill_groups();
        let mut changes = Changes::default();
        // Runs that were not written to their end.
        for row in store.scan(&window.space, &[BEGUN_RUN]) {
            let (key, mut value) = row?;
            let (bucket, number) = parse_row_key(&key)?;
            let pages = value.try_get_u32().map_err(|_| damaged(&key))?;
            window.next_sequence = window.next_sequence.max(number + 1);
            for page in 0..pages {
                changes.upkeep(&window.space, page_key(bucket, number, page), None);
            }
            changes.upkeep(&window.space, key, None);
        }
        for row in store.scan(&window.space, &[HASHES]) {
            let (key, value) = row?;
            let (bucket, sequence) = parse_row_key(&key)?;
            window.next_sequence = window.next_sequence.max(sequence + 1);
            let entry = window.entry();
            let target = window.buckets.entry(bucket).or_default();
            for chunk in value.chunks_exact(entry) {
                let (id, payload) = split(chunk);
                target.recent.insert(id, payload);
            }
            target.rows.push(sequence);
            if target.recent.len() >= options.seal_at {
                target.seal(window.next_sequence, &options, true);
                window.next_sequence += 1;
                target.write(bucket, usize::MAX, &window.space, &mut changes);
            }
        }
        // Whatever was gathered in the last run before now is on disk, as is this.
        store.apply(&changes, &[])?;
        for bucket in window.buckets.values_mut() {
            bucket.settle(UNDER_WAY);
        }
        Ok(window)
    }

    /// From now on rows are deleted from the changelog as well, for it drops none by age.
    pub fn log_deletes(mut self) -> Result<Self, StateError> {
        let mut deletes = Deletes::load(&self.store, &self.space)?;
        let buckets: Vec<_> = deletes.buckets().collect();
        for (_, first) in &buckets {
            self.next_sequence = self.next_sequence.max(first + 1);
        }
        // Those that had expired before, and not all of whose rows were deleted.
        for (bucket, _) in buckets {
            if !self.buckets.contains_key(&bucket) {
                deletes.expire(bucket, self.next_sequence);
            }
        }
        self.deletes = Some(deletes);
        Ok(self)
    }

    /// Makes the groups of the runs that were read back.
    fn fill_groups(&mut self) {
        let mut found = Vec::new();
        for (number, bucket) in &mut self.buckets {
            let all = bucket.runs.len();
            let groups = (0..).take_while(|n| group::first(*n) < all);
            for n in groups {
                let group = Group::new(n, self.options.seal_at);
                let runs = bucket.runs[group::runs(n, all)].iter();
                found.extend(runs.map(|run| Found {
                    group: Arc::downgrade(&group),
                    bucket: *number,
                    run: run.number,
                    pages: run.fences.len() as u32,
                }));
                bucket.groups.push(group);
            }
        }
        if !found.is_empty() {
            group::fill(&self.store, &self.space, self.entry(), found);
        }
    }

    /// Bytes of a hash and its payload.
    fn entry(&self) -> usize {
        ID + self.options.payload
    }

    fn bucket_ms(&self) -> i64 {
        (self.options.window_ms / BUCKETS).max(1)
    }

    fn bucket_at(&self, at: i64) -> u32 {
        (at.max(0) / self.bucket_ms()) as u32
    }

    /// The payload of a hash that was inserted within the window before `now`; zeros when none is kept. May read the disk.
    pub fn get(&self, id: &Identity, now: Millis) -> Result<Option<[u8; ID]>, StateError> {
        match self.locate(id, now) {
            Located::Here(payload) => Ok(Some(payload)),
            Located::Nowhere => Ok(None),
            Located::OnDisk(pages) => {
                for page in pages {
                    if let Some(payload) = page.find(id)? {
                        return Ok(Some(payload));
                    }
                }
                Ok(None)
            }
        }
    }

    /// Where a hash is that was inserted within the window before `now`. Reads no disk: so whoever holds a lock over the window
    /// can let go of it before the pages are read.
    pub fn locate(&self, id: &Identity, now: Millis) -> Located {
        let oldest = self.bucket_at(now.0 - self.options.window_ms);
        let probe = Probe::of(&id.0);
        let mut pages = Vec::new();
        let payload = self.options.payload;
        for (number, bucket) in self.buckets.range(oldest..).rev() {
            let found = bucket.locate(id, &probe, payload, |run, page| {
                pages.push(Page {
                    store: self.store.clone(),
                    space: self.space.clone(),
                    key: page_key(*number, run, page),
                    payload,
                });
            });
            if let Some(payload) = found {
                return Located::Here(payload);
            }
        }
        if pages.is_empty() {
            return Located::Nowhere;
        }
        Located::OnDisk(pages)
    }

    /// Remembers a hash from `now` on.
    pub fn insert(&mut self, id: Identity, payload: [u8; ID], now: Millis) {
        // Append times may step back a little with the clock: the bucket never does.
        self.latest = self.latest.max(now.0);
        let number = self.bucket_at(self.latest);
        self.buckets
            .entry(number)
            .or_default()
            .recent
            .insert(id, payload);
        let row = self.added.entry(number).or_default();
        row.put_slice(&id.0);
        row.put_slice(&payload[..self.options.payload]);
    }

    /// What was inserted since the last call: to be committed with the transaction, with the upkeep that has become due. If
    /// that transaction fails, load the window again.
    pub fn take_changes(&mut self) -> Changes {
        let mut changes = Changes::default();
        if self.added.is_empty() {
            return changes;
        }
        let mut pages = PAGES;
        for (bucket, row) in std::mem::take(&mut self.added) {
            // Faster than hashes come, so that one run is written before the next is due.
            pages += 2 * row.len() / (self.entry() * PAGE_ENTRIES);
            let mut row = row.freeze();
            while !row.is_empty() {
                let sequence = self.next_sequence;
                self.next_sequence += 1;
                if let Some(deletes) = &mut self.deletes {
                    deletes.begin(bucket, sequence, &self.space, &mut changes);
                }
                let part = row.split_to(row.len().min(self.entry() * ROW_ENTRIES));
                changes.put(&self.space, row_key(HASHES, bucket, sequence), part);
                self.buckets.entry(bucket).or_default().rows.push(sequence);
            }
        }
        let (current, full) = (self.bucket_at(self.latest), self.options.seal_at);
        for (number, bucket) in &mut self.buckets {
            let most = bucket.recent.len();
            if bucket.is_sealing() {
                bucket.settle(1);
                bucket.take_sorted(self.options.payload, most >= 2 * full);
                bucket.write(*number, pages, &self.space, &mut changes);
            } else if most >= full || *number < current && most >= full / 16 {
                // A bucket that gets no more goes to disk as well, if it is worth a run.
                bucket.seal(self.next_sequence, &self.options, false);
                self.next_sequence += 1;
            }
        }
        self.expire(&mut changes);
        if let Some(deletes) = &mut self.deletes {
            deletes.delete(&self.space, &mut changes);
        }
        changes
    }

    /// Drops buckets that have left the window.
    fn expire(&mut self, changes: &mut Changes) {
        let oldest = self.bucket_at(self.latest - self.options.window_ms);
        let live = self.buckets.split_off(&oldest);
        for (number, bucket) in std::mem::replace(&mut self.buckets, live) {
            // Rows from before the changelog was told where their bucket begins are deleted from it one by one.
            let deletes = self.deletes.as_mut();
            let logged = deletes.as_ref().is_some_and(|deletes| !deletes.has(number));
            bucket.remove(number, logged, &self.space, changes);
            if let Some(deletes) = deletes {
                deletes.expire(number, self.next_sequence);
            }
        }
    }

    /// Hashes held in memory, and runs on disk: for metrics and tests.
    pub fn sizes(&self) -> (usize, usize) {
        self.buckets.values().fold((0, 0), |(recent, runs), b| {
            (recent + b.recent.len(), runs + b.runs.len())
        })
    }
}
