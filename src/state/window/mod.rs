//! A set of 16-byte hashes that were seen within a window of time, for dedupe and idempotency: on disk, with
//! filters in memory, so that its memory grows by two bytes a hash and a new hash costs no read.
//!
//! Time is cut into buckets, dropped whole. A transaction adds one row a bucket (a large one more) that holds its new hashes (that
//! row is what the changelog carries); when enough have gathered they are rewritten, on this node only, as a sorted
//! run in pages with a filter: sorted by a thread of its own, written a few pages a transaction, so that no transaction waits
//! for it. A hash may carry a 16-byte payload (the port keeps a body's hash).
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

mod group;
mod run;

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Arc,
        mpsc::{Receiver, TryRecvError, sync_channel},
    },
};

use bytes::{Buf, BufMut, Bytes, BytesMut};

use self::{
    group::{Found, Group},
    run::{PAGE_ENTRIES, Run, Sorted, split},
};
use super::{Changes, Probe, Space, StateError, StateStore};
use crate::base::{
    clock::Millis,
    id::{Identity, IdentityMap},
};

const ID: usize = 16;
/// Buckets a window: hashes live for the window and up to one bucket more.
const BUCKETS: i64 = 6;
/// Pages of a run that a transaction writes, beside twice what it adds itself.
const PAGES: usize = 32;
/// Hashes of one row, which is a record of the changelog: any topic takes it.
const ROW_ENTRIES: usize = 8192;
/// Transactions that may be under way at once: after so many more, what a transaction wrote can be read.
const UNDER_WAY: usize = 64;
/// Rows of the changelog that a transaction deletes.
const DELETES: u64 = 64;

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

/// What is to be deleted from the changelog. Buckets follow each other, and so do the sequences of their rows.
#[derive(Default)]
struct Deletes {
    /// The first sequence of each bucket.
    firsts: BTreeMap<u32, u64>,
    /// Buckets that are over, and which of their sequences are left.
    left: VecDeque<(u32, std::ops::Range<u64>)>,
}

/// Where a hash is.
pub enum Located {
    /// In memory, with this payload.
    Here([u8; ID]),
    /// In none of what is held.
    Nowhere,
    /// In one of these pages, newest first, or nowhere.
    OnDisk(Vec<Page>),
}

/// A page of a run on disk, which never changes; gone, it has left the window.
pub struct Page {
    store: StateStore,
    space: Space,
    key: Bytes,
    payload: usize,
}

impl Page {
    /// The payload of a hash, if it is in the page. Reads the disk.
    pub fn find(&self, id: &Identity) -> Result<Option<[u8; ID]>, StateError> {
        let bytes = self.store.get(&self.space, &self.key)?;
        Ok(bytes.and_then(|bytes| run::find(&bytes, id, self.payload)))
    }

    /// Whether it is the same page.
    pub fn is(&self, other: &Self) -> bool {
        self.key == other.key
    }
}

type Recent = IdentityMap<[u8; ID]>;

#[derive(Default)]
struct Bucket {
    recent: Recent,
    /// Sequences of the rows that `recent` came from.
    rows: Vec<u64>,
    sealing: Option<Sealing>,
    runs: Vec<Run>,
    /// Each for several of them.
    groups: Vec<Arc<Group>>,
}

/// Hashes on their way from memory to a run.
struct Sealing {
    number: u64,
    /// Sequences of the rows that they came from.
    rows: Vec<u64>,
    step: Step,
}

enum Step {
    Sorting(Arc<Recent>, Receiver<Sorted>),
    /// The last of the bucket's runs, of which so many pages are written.
    Writing(usize),
    /// All is written; its pages stay in memory for so many more transactions.
    Settling(usize),
}

fn prefix(bytes: &[u8]) -> u64 {
    bytes.iter().take(8).fold(0, |n, b| n << 8 | u64::from(*b))
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
        for row in store.scan(&window.space, b"f") {
            let (key, value) = row?;
            let (bucket, number) = parse_key(&key).ok_or_else(|| damaged(&key))?;
            let run = Run::open(number, &value).ok_or_else(|| damaged(&key))?;
            window.next_sequence = window.next_sequence.max(number + 1);
            window.buckets.entry(bucket).or_default().runs.push(run);
        }
        window.fill_groups();
        let mut changes = Changes::default();
        // Runs that were not written to their end.
        for row in store.scan(&window.space, b"b") {
            let (key, mut value) = row?;
            let (bucket, number) = parse_key(&key).ok_or_else(|| damaged(&key))?;
            let pages = value.try_get_u32().map_err(|_| damaged(&key))?;
            window.next_sequence = window.next_sequence.max(number + 1);
            for page in 0..pages {
                changes.upkeep(&window.space, page_key(bucket, number, page), None);
            }
            changes.upkeep(&window.space, key, None);
        }
        for row in store.scan(&window.space, b"w") {
            let (key, value) = row?;
            let (bucket, sequence) = parse_key(&key).ok_or_else(|| damaged(&key))?;
            window.next_sequence = window.next_sequence.max(sequence + 1);
            let entry = window.entry();
            let target = window.buckets.entry(bucket).or_default();
            for chunk in value.chunks_exact(entry) {
                let (id, payload) = split(chunk);
                target.recent.insert(id, payload);
            }
            target.rows.push(sequence);
            if target.recent.len() >= options.seal_at {
                window.seal(bucket, true);
                window.write(bucket, usize::MAX, &mut changes);
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
        let mut deletes = Deletes::default();
        for row in self.store.scan(&self.space, b"r") {
            let (key, mut value) = row?;
            let bucket = key
                .get(1..)
                .and_then(|bucket| Some(u32::from_be_bytes(bucket.try_into().ok()?)));
            let first = value.try_get_u64().ok();
            let (bucket, first) = bucket.zip(first).ok_or_else(|| damaged(&key))?;
            self.next_sequence = self.next_sequence.max(first + 1);
            deletes.firsts.insert(bucket, first);
        }
        // Those that were over before, and not all of whose rows were deleted.
        let over: Vec<u32> = deletes
            .firsts
            .keys()
            .copied()
            .filter(|b| !self.buckets.contains_key(b))
            .collect();
        for bucket in over {
            deletes.end(bucket, self.next_sequence);
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
        for (number, bucket) in self.buckets.range(oldest..).rev() {
            if let Some(payload) = bucket.recent.get(id) {
                return Located::Here(*payload);
            }
            if let Some(Step::Sorting(hashes, _)) = bucket.sealing.as_ref().map(|s| &s.step)
                && let Some(payload) = hashes.get(id)
            {
                return Located::Here(*payload);
            }
            let groups = bucket.groups.iter().enumerate().rev();
            for (n, _) in groups.filter(|(_, group)| group.may_contain(&probe)) {
                let runs = bucket.runs[group::runs(n, bucket.runs.len())].iter();
                for run in runs.rev().filter(|run| run.may_contain(&probe)) {
                    for page in run.pages_of(id) {
                        if let Some(bytes) = run.pages.get(page) {
                            if let Some(payload) = run::find(bytes, id, self.options.payload) {
                                return Located::Here(payload);
                            }
                            continue;
                        }
                        pages.push(Page {
                            store: self.store.clone(),
                            space: self.space.clone(),
                            key: page_key(*number, run.number, page as u32),
                            payload: self.options.payload,
                        });
                    }
                }
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
                if let Some(deletes) = &mut self.deletes
                    && !deletes.firsts.contains_key(&bucket)
                {
                    deletes.firsts.insert(bucket, sequence);
                    changes.put(
                        &self.space,
                        first_key(bucket),
                        sequence.to_be_bytes().to_vec(),
                    );
                }
                let part = row.split_to(row.len().min(self.entry() * ROW_ENTRIES));
                changes.put(&self.space, row_key(b'w', bucket, sequence), part);
                self.buckets.entry(bucket).or_default().rows.push(sequence);
            }
        }
        let (current, full) = (self.bucket_at(self.latest), self.options.seal_at);
        let live: Vec<u32> = self.buckets.keys().copied().collect();
        for number in live {
            let bucket = &self.buckets[&number];
            let (idle, most) = (bucket.sealing.is_none(), bucket.recent.len());
            // A bucket that gets no more goes to disk as well, if it is worth a run.
            if idle && (most >= full || number < current && most >= full / 16) {
                self.seal(number, false);
            } else if !idle {
                if let Some(bucket) = self.buckets.get_mut(&number) {
                    bucket.settle(1);
                }
                self.sorted(number, most >= 2 * full);
                self.write(number, pages, &mut changes);
            }
        }
        self.expire(&mut changes);
        self.delete(&mut changes);
        changes
    }

    /// Deletes some rows of buckets that are over from the changelog.
    fn delete(&mut self, changes: &mut Changes) {
        let Some(deletes) = &mut self.deletes else {
            return;
        };
        let mut most = DELETES;
        while most > 0
            && let Some((bucket, left)) = deletes.left.front_mut()
        {
            for sequence in left.by_ref().take(most as usize) {
                changes.delete(&self.space, row_key(b'w', *bucket, sequence));
                most -= 1;
            }
            if left.is_empty() {
                changes.delete(&self.space, first_key(*bucket));
                deletes.firsts.remove(bucket);
                deletes.left.pop_front();
            }
        }
    }

    /// Begins to rewrite a bucket's recent hashes as a sorted run; `here`: and sorts them on this thread.
    fn seal(&mut self, bucket: u32, here: bool) {
        let Some(target) = self.buckets.get_mut(&bucket) else {
            return;
        };
        // What `load` reads back is committed before anyone looks.
        target.settle(UNDER_WAY);
        let number = self.next_sequence;
        self.next_sequence += 1;
        let groups = target.groups.len();
        if target.runs.len() == group::first(groups) {
            target.groups.push(Group::new(groups, self.options.seal_at));
        }
        let hashes = Arc::new(std::mem::take(&mut target.recent));
        let payload = self.options.payload;
        let (give, sorted) = sync_channel(1);
        let job = {
            let (hashes, group) = (Arc::clone(&hashes), target.groups.last().cloned());
            // Nobody waits for it any more when the window is gone.
            move || drop(give.send(Sorted::of(&hashes, payload, group.as_deref())))
        };
        target.sealing = Some(Sealing {
            number,
            rows: std::mem::take(&mut target.rows),
            step: Step::Sorting(hashes, sorted),
        });
        if here {
            job();
        } else if let Err(error) = std::thread::Builder::new()
            .name("window-sort".into())
            .spawn(job)
        {
            // The job went with it: it is begun again below.
            tracing::warn!(%error, "no thread to sort a window's hashes: it is done here");
        }
        self.sorted(bucket, here);
    }

    /// Takes the sorted run in, if it is there, or once it is.
    fn sorted(&mut self, bucket: u32, wait: bool) {
        let payload = self.options.payload;
        let Some(target) = self.buckets.get_mut(&bucket) else {
            return;
        };
        let Some(sealing) = &mut target.sealing else {
            return;
        };
        let Step::Sorting(hashes, sorted) = &sealing.step else {
            return;
        };
        let sort = || Sorted::of(hashes, payload, target.groups.last().map(|group| &**group));
        let sorted = match sorted.try_recv() {
            Ok(sorted) => sorted,
            Err(TryRecvError::Empty) if !wait => return,
            // The thread is gone, or was never there.
            Err(TryRecvError::Disconnected) => sort(),
            Err(TryRecvError::Empty) => sorted.recv().unwrap_or_else(|_| sort()),
        };
        sealing.step = Step::Writing(0);
        target.runs.push(Run::new(sealing.number, sorted));
    }

    /// Writes up to `most` pages of the run that is under way, and, when that was the last, what makes it whole.
    fn write(&mut self, bucket: u32, most: usize, changes: &mut Changes) {
        let Some(target) = self.buckets.get_mut(&bucket) else {
            return;
        };
        let (Some(sealing), Some(run)) = (&mut target.sealing, target.runs.last()) else {
            return;
        };
        let Step::Writing(done) = &mut sealing.step else {
            return;
        };
        let begun = row_key(b'b', bucket, run.number);
        if *done == 0 {
            let pages = Bytes::copy_from_slice(&(run.pages.len() as u32).to_be_bytes());
            changes.upkeep(&self.space, begun.clone(), Some(pages));
        }
        let upto = run.pages.len().min(done.saturating_add(most));
        for (page, bytes) in run.pages[*done..upto].iter().enumerate() {
            let key = page_key(bucket, run.number, (*done + page) as u32);
            changes.upkeep(&self.space, key, Some(bytes.clone()));
        }
        *done = upto;
        if upto < run.pages.len() {
            return;
        }
        let head = row_key(b'f', bucket, run.number);
        changes.upkeep(&self.space, head, Some(run.head()));
        changes.upkeep(&self.space, begun, None);
        for sequence in &sealing.rows {
            changes.upkeep(&self.space, row_key(b'w', bucket, *sequence), None);
        }
        sealing.rows = Vec::new();
        sealing.step = Step::Settling(UNDER_WAY);
    }

    /// Drops buckets that have left the window.
    fn expire(&mut self, changes: &mut Changes) {
        let oldest = self.bucket_at(self.latest - self.options.window_ms);
        let live = self.buckets.split_off(&oldest);
        for (number, bucket) in std::mem::replace(&mut self.buckets, live) {
            let sealing = bucket.sealing.into_iter();
            let rows = sealing.flat_map(|sealing| {
                changes.upkeep(&self.space, row_key(b'b', number, sealing.number), None);
                sealing.rows
            });
            let rows: Vec<u64> = rows.chain(bucket.rows).collect();
            let known = self
                .deletes
                .as_ref()
                .is_none_or(|deletes| deletes.firsts.contains_key(&number));
            for sequence in rows {
                let key = row_key(b'w', number, sequence);
                if known {
                    changes.upkeep(&self.space, key, None);
                } else {
                    // From before its changelog was told.
                    changes.delete(&self.space, key);
                }
            }
            if let Some(deletes) = &mut self.deletes {
                deletes.end(number, self.next_sequence);
            }
            for run in bucket.runs {
                changes.upkeep(&self.space, row_key(b'f', number, run.number), None);
                for page in 0..run.fences.len() {
                    let key = page_key(number, run.number, page as u32);
                    changes.upkeep(&self.space, key, None);
                }
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

impl Deletes {
    /// A bucket is over: its sequences end where the next bucket's begin.
    fn end(&mut self, bucket: u32, next: u64) {
        let mut from = self.firsts.range(bucket..);
        let Some(first) = from
            .next()
            .filter(|(found, _)| **found == bucket)
            .map(|(_, first)| *first)
        else {
            return;
        };
        let end = from.next().map_or(next, |(_, first)| *first);
        self.left.push_back((bucket, first..end));
    }
}

impl Bucket {
    /// Lets go of the newest run's pages when `transactions` more are enough: from then on the store is read.
    fn settle(&mut self, transactions: usize) {
        let Some(Sealing {
            step: Step::Settling(left),
            ..
        }) = &mut self.sealing
        else {
            return;
        };
        *left = left.saturating_sub(transactions);
        if *left == 0 {
            self.sealing = None;
            if let Some(run) = self.runs.last_mut() {
                run.pages = Vec::new();
            }
        }
    }
}

fn row_key(kind: u8, bucket: u32, number: u64) -> Bytes {
    let mut key = BytesMut::with_capacity(13);
    key.put_u8(kind);
    key.put_u32(bucket);
    key.put_u64(number);
    key.freeze()
}

fn first_key(bucket: u32) -> Bytes {
    let mut key = BytesMut::with_capacity(5);
    key.put_u8(b'r');
    key.put_u32(bucket);
    key.freeze()
}

fn page_key(bucket: u32, run: u64, page: u32) -> Bytes {
    let mut key = BytesMut::with_capacity(17);
    key.put_slice(&row_key(b'p', bucket, run));
    key.put_u32(page);
    key.freeze()
}

fn parse_key(key: &[u8]) -> Option<(u32, u64)> {
    let mut rest = key.get(1..13)?;
    Some((rest.get_u32(), rest.get_u64()))
}

fn damaged(key: &[u8]) -> StateError {
    StateError::damaged(format!("row {} of a window", key.escape_ascii()))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    const OPTIONS: WindowOptions = WindowOptions {
        window_ms: 600,
        payload: 16,
        seal_at: 40,
    };

    fn id(n: u64) -> Identity {
        Identity::of("t", &[&n.to_string()])
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        /// Against a plain map: whatever is inserted is found for the whole window, nothing else is, across seals and restarts.
        #[test]
        fn remembers_what_it_saw(
            steps in prop::collection::vec((0u64..400, 0i64..12, prop::bool::weighted(0.1), prop::bool::weighted(0.02)), 1..600)
        ) {
            let dir = tempfile::tempdir().unwrap();
            let store = StateStore::open(dir.path()).unwrap();
            let space = Space::new("t", 3);
            let mut window = Window::load(&store, space.clone(), OPTIONS).unwrap();
            let mut model: HashMap<u64, i64> = HashMap::new();
            let mut now = 1_000_000;
            for (n, step, commit, reload) in steps {
                now += step;
                let seen = window.get(&id(n), Millis(now)).unwrap();
                let expected = model.get(&n).copied();
                match expected {
                    Some(at) if now - at <= OPTIONS.window_ms => prop_assert_eq!(seen, Some(id(n + 1).0)),
                    Some(at) if now - at > OPTIONS.window_ms + OPTIONS.window_ms / BUCKETS + 1 => prop_assert_eq!(seen, None),
                    Some(_) => {}
                    None => prop_assert_eq!(seen, None),
                }
                if seen.is_none() {
                    window.insert(id(n), id(n + 1).0, Millis(now));
                    model.insert(n, now);
                }
                if commit || reload {
                    store.apply(&window.take_changes(), &[]).unwrap();
                }
                if reload {
                    window = Window::load(&store, space.clone(), OPTIONS).unwrap();
                }
            }
        }
    }

    #[test]
    fn many_runs_share_few_filters() {
        let dir = tempfile::tempdir().unwrap();
        let store = StateStore::open(dir.path()).unwrap();
        let space = Space::new("t", 0);
        let options = WindowOptions {
            window_ms: 1_000_000,
            ..OPTIONS
        };
        let mut window = Window::load(&store, space.clone(), options).unwrap();
        let now = Millis(1_000_000);
        // A run is whole, and the next may begin, some transactions after it was sealed.
        let mut many = 0;
        while window.sizes().1 <= group::first(2) && many < 50_000 {
            window.insert(id(many), id(many + 1).0, now);
            store.apply(&window.take_changes(), &[]).unwrap();
            many += 1;
        }
        for _ in 0..2 {
            let bucket = window.buckets.values().next().unwrap();
            let (runs, groups) = (bucket.runs.len(), bucket.groups.len());
            assert!(runs > group::first(2), "{runs} runs");
            assert!(group::first(groups) >= runs && group::first(groups - 1) < runs);
            for n in 0..many {
                assert_eq!(window.get(&id(n), now).unwrap(), Some(id(n + 1).0));
            }
            assert_eq!(window.get(&id(many), now).unwrap(), None);
            window = Window::load(&store, space.clone(), options).unwrap();
        }
    }

    /// What a compacted changelog keeps of a window that deletes its rows there; with starts on the way, and one from the changelog alone.
    #[test]
    fn expired_rows_leave_a_changelog_that_drops_none_by_age() {
        let dir = tempfile::tempdir().unwrap();
        let space = Space::new("t", 0);
        let mut log: BTreeMap<Bytes, Bytes> = BTreeMap::new();
        let apply = |store: &StateStore, log: &mut BTreeMap<Bytes, Bytes>, changes: Changes| {
            for change in changes.0.iter().filter(|change| change.logged) {
                match &change.value {
                    Some(value) => drop(log.insert(change.key.clone(), value.clone())),
                    None => drop(log.remove(&change.key)),
                }
            }
            store.apply(&changes, &[]).unwrap();
        };
        let open = |store: &StateStore| {
            Window::load(store, space.clone(), OPTIONS)
                .unwrap()
                .log_deletes()
                .unwrap()
        };
        let mut store = StateStore::open(&dir.path().join("0")).unwrap();
        let mut window = open(&store);
        let mut most = 0;
        for n in 0..3_000_u64 {
            let now = Millis(1_000_000 + n as i64 * 7);
            window.insert(id(n), [0; 16], now);
            apply(&store, &mut log, window.take_changes());
            most = most.max(log.len());
            if n % 700 == 350 {
                window = open(&store);
            }
            if n == 2_000 {
                // Another node restores from the changelog alone.
                drop((window, store));
                store = StateStore::open(&dir.path().join("1")).unwrap();
                let mut changes = Changes::default();
                for (key, value) in &log {
                    changes.put(&space, key.clone(), value.clone());
                }
                store.apply(&changes, &[]).unwrap();
                window = open(&store);
            }
            let last = (n + 1).saturating_sub(OPTIONS.window_ms as u64 / 7);
            for known in [last, n] {
                assert!(
                    window.get(&id(known), now).unwrap().is_some(),
                    "{known} of {n}"
                );
            }
        }
        // A window has so many rows, a sixth more, what was not deleted yet, and a row for each bucket.
        let rows = OPTIONS.window_ms as usize / 7;
        assert!(most < rows * 2 + 200, "{most} rows, a window has {rows}");
        assert!(log.len() < rows * 2, "{} rows", log.len());
    }

    #[test]
    fn expired_rows_leave_the_disk() {
        let dir = tempfile::tempdir().unwrap();
        let store = StateStore::open(dir.path()).unwrap();
        let space = Space::new("t", 0);
        let mut window = Window::load(&store, space.clone(), OPTIONS).unwrap();
        for n in 0..500 {
            window.insert(id(n), [0; 16], Millis(1_000_000 + n as i64));
            store.apply(&window.take_changes(), &[]).unwrap();
        }
        assert!(store.scan(&space, b"").count() > 20);
        window.insert(id(9999), [0; 16], Millis(2_000_000));
        store.apply(&window.take_changes(), &[]).unwrap();
        assert_eq!(store.scan(&space, b"").count(), 1);
    }
}
