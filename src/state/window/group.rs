//! A filter over several runs, so that a new hash asks few filters however many runs there are.

use std::{
    ops::Range,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
};

use super::{ID, rows::page_key};
use crate::state::{Filter, Probe, Space, StateStore};

/// Runs that share a bucket's first filter. Each further filter is for twice as many as the one before, so that a new hash asks
/// few filters however many runs there are, and a bucket with few runs needs little memory.
const FIRST: usize = 16;

/// The first run of group `n`.
pub(super) fn first(n: usize) -> usize {
    FIRST * ((1 << n) - 1)
}

/// The runs of group `n`, of so many in all.
pub(super) fn runs(n: usize, all: usize) -> Range<usize> {
    first(n)..first(n + 1).min(all)
}

/// The filter of several runs ([`runs`]).
pub(super) struct Group {
    filter: Filter,
    /// Whether all hashes of its runs are in it.
    complete: AtomicBool,
}

impl Group {
    /// Group `n`, for runs of `keys` keys each that are made from now on.
    pub(super) fn new(n: usize, keys: usize) -> Arc<Self> {
        Arc::new(Self {
            filter: Filter::for_keys(keys * runs(n, usize::MAX).len()),
            complete: AtomicBool::new(true),
        })
    }

    pub(super) fn insert(&self, id: &[u8; ID]) {
        self.filter.insert(id);
    }

    /// Whether one of its runs may have the hash.
    pub(super) fn may_contain(&self, probe: &Probe) -> bool {
        !self.complete.load(Ordering::Acquire) || self.filter.may_contain(probe)
    }
}

/// A run that was there before its group's filter.
pub(super) struct Found {
    pub(super) group: Weak<Group>,
    pub(super) bucket: u32,
    pub(super) run: u64,
    pub(super) pages: u32,
}

/// Fills the filters of groups from the pages of their runs, on a thread of its own. Until a group's is complete, its
/// runs are asked one by one.
pub(super) fn fill(store: &StateStore, space: &Space, entry: usize, found: Vec<Found>) {
    for group in found.iter().filter_map(|f| f.group.upgrade()) {
        group.complete.store(false, Ordering::Relaxed);
    }
    let (store, space) = (store.clone(), space.clone());
    let fill = move || {
        let mut rest = found.as_slice();
        while let Some(first) = rest.first() {
            let same = |f: &Found| Weak::ptr_eq(&f.group, &first.group);
            let (runs, after) = rest.split_at(rest.partition_point(same));
            rest = after;
            if runs.iter().all(|found| read(&store, &space, entry, found))
                && let Some(group) = first.group.upgrade()
            {
                group.complete.store(true, Ordering::Release);
            }
        }
    };
    let thread = std::thread::Builder::new().name("window-fill".into());
    if let Err(error) = thread.spawn(fill) {
        tracing::warn!(%error, "no thread to read a window's filters back: look-ups stay slower");
    }
}

/// Puts a run's hashes in; false: not all could be read, or nobody needs them any more.
fn read(store: &StateStore, space: &Space, entry: usize, found: &Found) -> bool {
    (0..found.pages).all(|page| {
        let Some(group) = found.group.upgrade() else {
            return false;
        };
        let key = page_key(found.bucket, found.run, page);
        let Ok(Some(bytes)) = store.get(space, &key) else {
            return false;
        };
        let ids = bytes.chunks_exact(entry).filter_map(|e| e.first_chunk());
        ids.for_each(|id| group.insert(id));
        true
    })
}
