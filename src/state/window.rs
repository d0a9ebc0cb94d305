//! A set of 16-byte hashes that were seen within a window of time, for dedupe and idempotency: on disk, with
//! filters in memory, so that its memory grows by two bytes a hash and a new hash costs no read.
//!
//! Time is cut into buckets, dropped whole. A transaction adds one row a bucket that holds its new hashes (that
//! row is what the changelog carries); when enough have gathered they are rewritten, on this node only, as a sorted
//! run in pages with a filter. A hash may carry a 16-byte payload (the port keeps a body's hash).
//!
//! | row | holds |
//! |---|---|
//! | `w` bucket(4) sequence(8) | the new hashes of one transaction |
//! | `p` bucket(4) run(8) page(4) | one page of a sorted run |
//! | `f` bucket(4) run(8) | the run's fences (first 8 bytes of each page) and filter |

use std::collections::{BTreeMap, HashMap};

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::{Changes, Space, StateError, StateStore, filter::Filter};
use crate::{clock::Millis, id::Identity};

const ID: usize = 16;
const PAGE_ENTRIES: usize = 256;
/// Buckets a window: hashes live for the window and up to one bucket more.
const BUCKETS: i64 = 6;

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
}

type Recent = HashMap<Identity, [u8; ID], std::hash::BuildHasherDefault<Uniform>>;

#[derive(Default)]
struct Bucket {
    recent: Recent,
    /// What was sealed last: found here until its pages are surely written, which they are when the next is sealed.
    sealed: Recent,
    /// Sequences of the rows that `recent` came from.
    rows: Vec<u64>,
    runs: Vec<Run>,
}

struct Run {
    number: u64,
    pages: u32,
    fences: Vec<u64>,
    filter: Filter,
}

/// Identities are hashes already.
#[derive(Default)]
struct Uniform(u64);

impl std::hash::Hasher for Uniform {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks_exact(8) {
            self.0 ^= prefix(chunk);
        }
    }
    fn write_usize(&mut self, _: usize) {}
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
        };
        for row in store.scan(&window.space, b"f") {
            let (key, value) = row?;
            window.load_run(&key, &value)?;
        }
        let mut sealed = Changes::default();
        for row in store.scan(&window.space, b"w") {
            let (key, value) = row?;
            let (bucket, sequence) = parse_key(&key).ok_or_else(|| damaged(&key))?;
            window.next_sequence = window.next_sequence.max(sequence + 1);
            let entry = ID + options.payload;
            let target = window.buckets.entry(bucket).or_default();
            for chunk in value.chunks_exact(entry) {
                let (id, payload) = split(chunk);
                target.recent.insert(id, payload);
            }
            target.rows.push(sequence);
            if target.recent.len() >= options.seal_at {
                window.seal(bucket, &mut sealed);
            }
        }
        // Whatever was gathered in the last run before now is on disk, as is this.
        store.apply(&sealed, &[])?;
        Ok(window)
    }

    fn load_run(&mut self, key: &[u8], value: &[u8]) -> Result<(), StateError> {
        let (bucket, number) = parse_key(key).ok_or_else(|| damaged(key))?;
        let mut rest = value;
        if rest.len() < 4 {
            return Err(damaged(key));
        }
        let pages = rest.get_u32();
        if rest.len() < pages as usize * 8 {
            return Err(damaged(key));
        }
        let fences = (0..pages).map(|_| rest.get_u64()).collect();
        let filter = Filter::from_bytes(rest).ok_or_else(|| damaged(key))?;
        self.next_sequence = self.next_sequence.max(number + 1);
        self.buckets.entry(bucket).or_default().runs.push(Run {
            number,
            pages,
            fences,
            filter,
        });
        Ok(())
    }

    fn bucket_ms(&self) -> i64 {
        (self.options.window_ms / BUCKETS).max(1)
    }

    fn bucket_at(&self, at: i64) -> u32 {
        (at.max(0) / self.bucket_ms()) as u32
    }

    /// The payload of a hash that was inserted within the window before `now`; zeros when none is kept.
    pub fn get(&self, id: &Identity, now: Millis) -> Result<Option<[u8; ID]>, StateError> {
        let oldest = self.bucket_at(now.0 - self.options.window_ms);
        for (number, bucket) in self.buckets.range(oldest..).rev() {
            if let Some(payload) = bucket.recent.get(id).or_else(|| bucket.sealed.get(id)) {
                return Ok(Some(*payload));
            }
            for run in bucket.runs.iter().rev() {
                if run.filter.may_contain(&id.0)
                    && let Some(payload) = self.find(*number, run, id)?
                {
                    return Ok(Some(payload));
                }
            }
        }
        Ok(None)
    }

    fn find(&self, bucket: u32, run: &Run, id: &Identity) -> Result<Option<[u8; ID]>, StateError> {
        let wanted = prefix(&id.0);
        // The last page whose first hash is not greater. Equal prefixes may straddle two pages: look at the one before as well.
        let upper = run.fences.partition_point(|fence| *fence <= wanted);
        let lower = run.fences.partition_point(|fence| *fence < wanted);
        for page in lower.saturating_sub(1)..upper {
            let Some(bytes) = self
                .store
                .get(&self.space, &page_key(bucket, run.number, page as u32))?
            else {
                continue;
            };
            let entry = ID + self.options.payload;
            let at = |i: usize| &bytes[i * entry..(i + 1) * entry];
            let (mut low, mut high) = (0, bytes.len() / entry);
            while low < high {
                let middle = usize::midpoint(low, high);
                match at(middle)[..ID].cmp(&id.0) {
                    std::cmp::Ordering::Equal => return Ok(Some(split(at(middle)).1)),
                    std::cmp::Ordering::Less => low = middle + 1,
                    std::cmp::Ordering::Greater => high = middle,
                }
            }
        }
        Ok(None)
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
        for (bucket, row) in std::mem::take(&mut self.added) {
            let sequence = self.next_sequence;
            self.next_sequence += 1;
            changes.put(&self.space, row_key(b'w', bucket, sequence), row.freeze());
            let target = self.buckets.entry(bucket).or_default();
            target.rows.push(sequence);
            if target.recent.len() >= self.options.seal_at {
                self.seal(bucket, &mut changes);
            }
        }
        self.expire(&mut changes);
        changes
    }

    /// Rewrites a bucket's recent hashes as a sorted run.
    fn seal(&mut self, bucket: u32, changes: &mut Changes) {
        let number = self.next_sequence;
        self.next_sequence += 1;
        let payload = self.options.payload;
        let Some(target) = self.buckets.get_mut(&bucket) else {
            return;
        };
        target.sealed = std::mem::take(&mut target.recent);
        let mut sorted: Vec<_> = target
            .sealed
            .iter()
            .map(|(id, kept)| (*id, *kept))
            .collect();
        sorted.sort_unstable_by_key(|a| a.0);
        let mut filter = Filter::for_keys(sorted.len());
        let mut fences = Vec::new();
        for (page, entries) in sorted.chunks(PAGE_ENTRIES).enumerate() {
            fences.push(prefix(&entries[0].0.0));
            let mut bytes = BytesMut::with_capacity(entries.len() * (ID + payload));
            for (id, kept) in entries {
                filter.insert(&id.0);
                bytes.put_slice(&id.0);
                bytes.put_slice(&kept[..payload]);
            }
            let key = page_key(bucket, number, page as u32);
            changes.upkeep(&self.space, key, Some(bytes.freeze()));
        }
        let pages = fences.len() as u32;
        let mut head = BytesMut::new();
        head.put_u32(pages);
        for fence in &fences {
            head.put_u64(*fence);
        }
        head.put_slice(&filter.to_bytes());
        changes.upkeep(
            &self.space,
            row_key(b'f', bucket, number),
            Some(head.freeze()),
        );
        for sequence in target.rows.drain(..) {
            changes.upkeep(&self.space, row_key(b'w', bucket, sequence), None);
        }
        target.runs.push(Run {
            number,
            pages,
            fences,
            filter,
        });
    }

    /// Drops buckets that have left the window.
    fn expire(&mut self, changes: &mut Changes) {
        let oldest = self.bucket_at(self.latest - self.options.window_ms);
        let live = self.buckets.split_off(&oldest);
        for (number, bucket) in std::mem::replace(&mut self.buckets, live) {
            for sequence in bucket.rows {
                changes.upkeep(&self.space, row_key(b'w', number, sequence), None);
            }
            for run in bucket.runs {
                changes.upkeep(&self.space, row_key(b'f', number, run.number), None);
                for page in 0..run.pages {
                    changes.upkeep(&self.space, page_key(number, run.number, page), None);
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

fn split(entry: &[u8]) -> (Identity, [u8; ID]) {
    let mut id = [0; ID];
    id.copy_from_slice(&entry[..ID]);
    let mut payload = [0; ID];
    payload[..entry.len() - ID].copy_from_slice(&entry[ID..]);
    (Identity(id), payload)
}

fn row_key(kind: u8, bucket: u32, number: u64) -> Bytes {
    let mut key = BytesMut::with_capacity(13);
    key.put_u8(kind);
    key.put_u32(bucket);
    key.put_u64(number);
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
    StateError(format!("row {} of a window is damaged", key.escape_ascii()))
}

#[cfg(test)]
mod tests {
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
