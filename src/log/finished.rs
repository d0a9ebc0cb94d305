//! What an effect has finished in a partition.

use std::{collections::BTreeMap, iter};

use base64::{Engine, engine::general_purpose::STANDARD_NO_PAD};

use crate::base::varint;

/// The most bytes of the text before base64: with the topic's id it is then below Kafka's `offset.metadata.max.bytes` (4,096).
const BYTES: usize = 3_000;
/// Offsets from the low-water mark on that a bitmap has room for.
const SPAN: u64 = 8 * BYTES as u64;
/// The most bytes of a distance in a list.
const DISTANCE: u64 = 10;
/// The beginning of a list. Other text is a bitmap.
const LISTED: &str = "open=";

/// All before `next` is finished, and so are the offsets of `beyond`.
///
/// Its text is a bitmap from `next` on, as earlier versions have it, as long as there is room for that, else a list of the offsets that
/// are not finished: a call that hangs takes a few bytes then, and not a bit for each offset after it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Finished {
    next: u64,
    /// Ranges, each the first offset and the end. Before each there are offsets that are not finished.
    beyond: BTreeMap<u64, u64>,
    /// The number of offsets in `beyond`.
    count: u64,
}

impl Finished {
    /// Nothing beyond `next`.
    pub fn from(next: u64) -> Self {
        Self {
            next,
            ..Self::default()
        }
    }

    /// The low-water mark: the first offset that is not finished.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// Whether an offset is finished.
    pub fn contains(&self, offset: u64) -> bool {
        let range = self.range_at(offset);
        offset < self.next || range.is_some_and(|(_, end)| offset < end)
    }

    /// Whether an offset is so far beyond the low-water mark, with so many unfinished ones between, that it could not be kept: wait with
    /// it. Offsets are to be asked for in their order; then all that were not too far can be kept, whatever is finished first.
    pub fn too_far(&self, offset: u64) -> bool {
        !self.fits(offset, BYTES)
    }

    /// Whether there is room for an offset that was too far, and for some after it.
    pub fn has_room(&self, offset: u64) -> bool {
        self.fits(offset, BYTES - BYTES / 8)
    }

    /// Whether an offset and all before it fit into so many bytes.
    fn fits(&self, offset: u64, bytes: usize) -> bool {
        if offset < self.end() {
            return true;
        }
        let bytes = bytes as u64;
        let span = (offset - self.next).saturating_add(1);
        let list = list_bytes(span - self.count, span);
        // One more distance: offsets without records may follow.
        span <= 8 * bytes || list.saturating_add(DISTANCE) <= bytes
    }

    /// Marks an offset as finished.
    pub fn insert(&mut self, offset: u64) {
        self.insert_range(offset, offset.saturating_add(1));
    }

    /// Marks the offsets from `start` on that are before `end` as finished.
    pub fn insert_range(&mut self, start: u64, end: u64) {
        let (mut start, mut end) = (start.max(self.next), end);
        if start >= end {
            return;
        }
        // Ranges that it touches become part of it.
        while let Some((first, last)) = self.range_at(end)
            && last >= start
        {
            self.beyond.remove(&first);
            self.count -= last - first;
            start = start.min(first);
            end = end.max(last);
        }
        if start == self.next {
            self.next = end;
        } else {
            self.beyond.insert(start, end);
            self.count += end - start;
        }
    }

    /// Moves the low-water mark over offsets that hold no records (compaction, markers of transactions).
    pub fn skip_to(&mut self, next: u64) {
        self.insert_range(self.next, next);
    }

    /// The last range that begins at an offset or before it.
    fn range_at(&self, offset: u64) -> Option<(u64, u64)> {
        let range = self.beyond.range(..=offset).next_back();
        range.map(|(first, end)| (*first, *end))
    }

    /// One past the last finished offset.
    fn end(&self) -> u64 {
        let last = self.beyond.last_key_value();
        last.map_or(self.next, |(_, end)| *end)
    }

    /// The offsets beyond `next` as text. Those for which there is no room are left out; [`Self::too_far`] prevents that.
    pub fn metadata(&self) -> String {
        if self.beyond.is_empty() {
            return String::new();
        }
        if self.end() - self.next > SPAN
            && let Some(list) = self.list()
        {
            return format!("{LISTED}{}", STANDARD_NO_PAD.encode(list));
        }
        STANDARD_NO_PAD.encode(self.bitmap())
    }

    /// A bit for each offset from `next` on.
    fn bitmap(&self) -> Vec<u8> {
        let end = self.end().min(self.next.saturating_add(SPAN));
        let mut bits = vec![0u8; (end - self.next).div_ceil(8) as usize];
        for (first, last) in &self.beyond {
            for offset in *first..end.min(*last) {
                let bit = offset - self.next;
                bits[(bit / 8) as usize] |= 1 << (bit % 8);
            }
        }
        bits
    }

    /// The unfinished offsets after `next`, and one past the last finished one, each as its distance from the one before. `None`: they
    /// are too many.
    fn list(&self) -> Option<Vec<u8>> {
        let mut list = Vec::new();
        let mut before = self.next;
        for offset in self.unfinished().skip(1).chain(iter::once(self.end())) {
            varint::put(offset - before, &mut list);
            if list.len() > BYTES {
                return None;
            }
            before = offset;
        }
        Some(list)
    }

    /// The offsets before the last finished one that are not finished, the first of which is `next`.
    fn unfinished(&self) -> impl Iterator<Item = u64> {
        let ends = iter::once(self.next).chain(self.beyond.values().copied());
        let gaps = ends.zip(self.beyond.keys().copied());
        gaps.flat_map(|(end, first)| end..first)
    }

    /// Reads it back. Text that is not ours counts as nothing: the work is done again.
    pub fn parse(next: u64, metadata: &str) -> Self {
        let finished = match metadata.strip_prefix(LISTED) {
            Some(list) => Self::parse_list(next, list),
            None => Self::parse_bitmap(next, metadata),
        };
        finished.unwrap_or_else(|| Self::from(next))
    }

    fn parse_list(next: u64, text: &str) -> Option<Self> {
        let list = STANDARD_NO_PAD.decode(text).ok()?;
        let mut rest = &list[..];
        let (mut finished, mut before) = (Self::from(next), next);
        while !rest.is_empty() {
            let offset = before.checked_add(varint::take(&mut rest).ok()?)?;
            finished.insert_range(before.saturating_add(1), offset);
            before = offset;
        }
        Some(finished)
    }

    fn parse_bitmap(next: u64, text: &str) -> Option<Self> {
        let bits = STANDARD_NO_PAD.decode(text).ok()?;
        let mut finished = Self::from(next);
        for bit in 0..(bits.len() as u64 * 8).min(SPAN) {
            if bits[(bit / 8) as usize] >> (bit % 8) & 1 == 1 {
                finished.insert(next.checked_add(bit)?);
            }
        }
        Some(finished)
    }
}

/// The most bytes of a list of so many distances, whose sum is `span`. There are no more distances of two bytes than `span` has room for,
/// and so on.
fn list_bytes(distances: u64, span: u64) -> u64 {
    let longer_than = |bytes: u32| distances.min(span >> (7 * bytes));
    let all = (0..=u64::BITS / 7).map(longer_than);
    all.fold(0, u64::saturating_add)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Its text is not too long, and has what has ended and nothing that runs.
    fn check(finished: &Finished, ended: &[u64], running: &[u64]) {
        let text = finished.metadata();
        assert!(text.len() <= 4_005, "{}", text.len());
        let read = Finished::parse(finished.next(), &text);
        let lost = ended.iter().find(|offset| !read.contains(**offset));
        let begun = running.iter().find(|offset| read.contains(**offset));
        assert_eq!((lost, begun), (None, None));
    }

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
        fn any_text_is_read(next: u64, text in "(open=)?[A-Za-z0-9+/~]{0,60}") {
            prop_assert!(Finished::parse(next, &text).next() >= next);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]

        /// Calls end in any order, and between their offsets are some without records.
        #[test]
        fn what_is_not_too_far_is_kept(
            longest in 1u32..20,
            steps in prop::collection::vec((any::<u64>(), 0u32..20, any::<bool>()), 1..4000),
        ) {
            let (mut finished, mut read_to, mut waits) = (Finished::from(3), 3, false);
            let (mut running, mut ended) = (Vec::new(), Vec::new());
            for (n, (random, length, ends)) in steps.into_iter().enumerate() {
                if !waits {
                    let offset = read_to + (random & ((1 << (length % longest)) - 1));
                    finished.insert_range(read_to, offset);
                    read_to = offset;
                }
                waits = finished.too_far(read_to);
                if !waits {
                    running.push(read_to);
                    read_to += 1;
                }
                if ends && !running.is_empty() {
                    let done = running.swap_remove(random as usize % running.len());
                    finished.insert(done);
                    ended.push(done);
                }
                if n % 200 == 0 {
                    check(&finished, &ended, &running);
                }
            }
            check(&finished, &ended, &running);
            // All calls have ended: nothing waits any more.
            for done in running {
                finished.insert(done);
            }
            prop_assert_eq!(finished.next(), read_to);
            prop_assert!(finished.has_room(read_to));
        }
    }

    #[test]
    fn a_call_that_hangs_takes_a_few_bytes() {
        let mut finished = Finished::from(7);
        finished.insert_range(8, 5_000_000);
        finished.insert_range(5_000_001, 9_000_000);
        assert!(!finished.too_far(9_000_000));
        let text = finished.metadata();
        assert!(text.len() < 20, "{text}");
        let read = Finished::parse(7, &text);
        assert_eq!(read, finished);
        let open = [7, 8, 4_999_999, 5_000_000, 5_000_001, 8_999_999, 9_000_000];
        let open = open.map(|offset| !read.contains(offset));
        assert_eq!(open, [true, false, false, true, false, false, true]);
    }

    #[test]
    fn many_unfinished_calls_make_an_offset_too_far() {
        let mut finished = Finished::from(0);
        for offset in (1..SPAN).step_by(2) {
            assert!(!finished.too_far(offset));
            finished.insert(offset);
        }
        assert!(finished.too_far(SPAN) && !finished.has_room(SPAN));
        let text = finished.metadata();
        assert_eq!(Finished::parse(0, &text), finished);
        finished.insert_range(0, SPAN - 4000);
        assert!(!finished.too_far(SPAN) && finished.has_room(SPAN));
    }

    #[test]
    fn text_of_earlier_versions_is_read() {
        let finished = Finished::parse(5, "AgI");
        let beyond: Vec<u64> = (0..30)
            .filter(|offset| finished.contains(*offset))
            .collect();
        assert_eq!(beyond, [0, 1, 2, 3, 4, 6, 14]);
        assert_eq!(finished.metadata(), "AgI");
    }
}
