//! A sorted run of a window's hashes: pages on disk, fences and a filter in memory.

use std::{cmp::Ordering, ops::Range};

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::{ID, group::Group};
use crate::{
    base::id::{Identity, IdentityMap},
    state::{Filter, Probe},
};

pub(super) const PAGE_ENTRIES: usize = 256;

/// The first 8 bytes of a hash, as a number.
fn prefix(hash: &[u8; ID]) -> u64 {
    hash.iter().take(8).fold(0, |n, b| n << 8 | u64::from(*b))
}

/// Hashes in memory, with their payloads.
pub(super) type Recent = IdentityMap<[u8; ID]>;

/// Hashes in order, cut into pages.
pub(super) struct Sorted {
    /// The first 8 bytes of each page's first hash.
    fences: Vec<u64>,
    filter: Filter,
    pages: Vec<Bytes>,
}

impl Sorted {
    /// Sorts, and fills the group's filter.
    pub(super) fn of(hashes: &Recent, payload: usize, group: Option<&Group>) -> Self {
        let mut sorted: Vec<_> = hashes.iter().collect();
        sorted.sort_unstable_by_key(|(id, _)| id.0);
        let filter = Filter::for_keys(sorted.len());
        let mut bytes = BytesMut::with_capacity(sorted.len() * (ID + payload));
        let mut fences = Vec::with_capacity(sorted.len().div_ceil(PAGE_ENTRIES));
        let mut pages = Vec::with_capacity(fences.capacity());
        for entries in sorted.chunks(PAGE_ENTRIES) {
            fences.push(prefix(&entries[0].0.0));
            for (id, kept) in entries {
                filter.insert(&id.0);
                if let Some(group) = group {
                    group.insert(&id.0);
                }
                bytes.put_slice(&id.0);
                bytes.put_slice(&kept[..payload]);
            }
            pages.push(bytes.split().freeze());
        }
        Self {
            fences,
            filter,
            pages,
        }
    }
}

/// A run. Its pages are kept in memory until they are surely on disk.
pub(super) struct Run {
    pub(super) number: u64,
    pub(super) fences: Vec<u64>,
    filter: Filter,
    /// All of them, or none.
    pub(super) pages: Vec<Bytes>,
}

impl Run {
    pub(super) fn new(number: u64, sorted: Sorted) -> Self {
        Self {
            number,
            fences: sorted.fences,
            filter: sorted.filter,
            pages: sorted.pages,
        }
    }

    /// From its head.
    pub(super) fn open(number: u64, head: &[u8]) -> Option<Self> {
        let mut rest = head;
        let pages = rest.try_get_u32().ok()?;
        if rest.len() < pages as usize * 8 {
            return None;
        }
        let fences = (0..pages).map(|_| rest.get_u64()).collect();
        Some(Self {
            number,
            fences,
            filter: Filter::from_bytes(rest)?,
            pages: Vec::new(),
        })
    }

    /// Fences and filter.
    pub(super) fn head(&self) -> Bytes {
        let mut head = BytesMut::new();
        head.put_u32(self.fences.len() as u32);
        for fence in &self.fences {
            head.put_u64(*fence);
        }
        head.put_slice(&self.filter.to_bytes());
        head.freeze()
    }

    pub(super) fn may_contain(&self, probe: &Probe) -> bool {
        self.filter.may_contain(probe)
    }

    /// The pages that may hold a hash.
    pub(super) fn pages_of(&self, id: &Identity) -> Range<usize> {
        let wanted = prefix(&id.0);
        // The last page whose first hash is not greater. Equal prefixes may straddle two pages: look at the one before as well.
        let upper = self.fences.partition_point(|fence| *fence <= wanted);
        let lower = self.fences.partition_point(|fence| *fence < wanted);
        lower.saturating_sub(1)..upper
    }
}

/// The payload of a hash in a page.
pub(super) fn find(page: &[u8], id: &Identity, payload: usize) -> Option<[u8; ID]> {
    let entry = ID + payload;
    let at = |i: usize| &page[i * entry..(i + 1) * entry];
    let (mut low, mut high) = (0, page.len() / entry);
    while low < high {
        let middle = usize::midpoint(low, high);
        match at(middle)[..ID].cmp(&id.0) {
            Ordering::Equal => return Some(split(at(middle)).1),
            Ordering::Less => low = middle + 1,
            Ordering::Greater => high = middle,
        }
    }
    None
}

/// An entry's hash and payload.
pub(super) fn split(entry: &[u8]) -> (Identity, [u8; ID]) {
    let mut id = [0; ID];
    id.copy_from_slice(&entry[..ID]);
    let mut payload = [0; ID];
    payload[..entry.len() - ID].copy_from_slice(&entry[ID..]);
    (Identity(id), payload)
}
