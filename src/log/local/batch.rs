//! The encoding of records in the store: a batch for each commit and partition, as one value.
//!
//! `version(1) count(4) last_offset_delta(4) base_timestamp(8) max_timestamp(8)`, then the records; with version 2 these are one LZ4
//! block after its length (4). A record is, with LEB128 varints: offset delta, timestamp delta, key, value, headers. Key and value are `0`
//! if absent, otherwise length + 1 and the bytes.

use bytes::{Buf, Bytes};

use crate::{
    base::{clock::Millis, varint},
    log::{Fetched, Record},
};

/// Uncompressed: batches in memory, and those too small to benefit from compression.
const PLAIN: u8 = 1;
/// The records as one LZ4 block, typically a third of the size.
const LZ4: u8 = 2;
/// Batches with fewer bytes of records are not compressed.
const COMPRESS_FROM: usize = 512;
/// The largest uncompressed block; longer ones are never written.
const MOST: usize = 64 << 20;
const HEAD: usize = 25;

/// A batch under construction.
pub(super) struct Builder {
    pub(super) base: u64,
    next: u64,
    count: u32,
    base_timestamp: i64,
    max_timestamp: i64,
    bytes: Vec<u8>,
}

impl Builder {
    pub(super) fn new(base: u64, timestamp: Millis) -> Self {
        let mut bytes = Vec::with_capacity(4096);
        bytes.resize(HEAD, 0);
        Self {
            base,
            next: base,
            count: 0,
            base_timestamp: timestamp.0,
            max_timestamp: timestamp.0,
            bytes,
        }
    }

    pub(super) fn push(&mut self, offset: u64, timestamp: Millis, record: &Record) {
        varint::put(offset - self.base, &mut self.bytes);
        varint::put(timestamp.0.abs_diff(self.base_timestamp), &mut self.bytes);
        optional(&mut self.bytes, record.key.as_deref());
        optional(&mut self.bytes, record.value.as_deref());
        varint::put(record.headers.len() as u64, &mut self.bytes);
        for (name, value) in &record.headers {
            varint::put(name.len() as u64, &mut self.bytes);
            self.bytes.extend_from_slice(name.as_bytes());
            optional(&mut self.bytes, value.as_deref());
        }
        self.count += 1;
        self.next = offset + 1;
        self.max_timestamp = self.max_timestamp.max(timestamp.0);
    }

    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Finishes the batch. `next`: one past the last offset that it covers, if that is not the last record (after compaction).
    pub(super) fn finish(mut self, next: Option<u64>) -> Batch {
        self.next = next.unwrap_or(self.next);
        self.bytes[0] = PLAIN;
        self.bytes[1..5].copy_from_slice(&self.count.to_be_bytes());
        self.bytes[5..9].copy_from_slice(&((self.next - self.base) as u32).to_be_bytes());
        self.bytes[9..17].copy_from_slice(&self.base_timestamp.to_be_bytes());
        self.bytes[17..25].copy_from_slice(&self.max_timestamp.to_be_bytes());
        self.bytes.shrink_to_fit();
        Batch {
            base: self.base,
            next: self.next,
            max_timestamp: self.max_timestamp,
            bytes: self.bytes.into(),
        }
    }
}

/// A finished batch.
#[derive(Clone)]
pub(super) struct Batch {
    pub(super) base: u64,
    /// One past the last offset.
    pub(super) next: u64,
    pub(super) max_timestamp: i64,
    pub(super) bytes: Bytes,
}

impl Batch {
    /// Reads the header of a stored value. `None`: damaged.
    pub(super) fn open(base: u64, bytes: Bytes) -> Option<Self> {
        let bytes = match *bytes.first()? {
            PLAIN => bytes,
            LZ4 => expand(&bytes)?,
            _ => return None,
        };
        let mut head = bytes.get(1..HEAD)?;
        let _count = head.get_u32();
        let next = base.checked_add(u64::from(head.get_u32()))?;
        let _base_timestamp = head.get_i64();
        let max_timestamp = head.get_i64();
        Some(Self {
            base,
            next,
            max_timestamp,
            bytes,
        })
    }

    /// Encodes it as a value of the store.
    pub(super) fn stored(&self) -> Bytes {
        let records = &self.bytes[HEAD..];
        if records.len() < COMPRESS_FROM {
            return self.bytes.clone();
        }
        let mut out = Vec::with_capacity(HEAD + 4 + records.len() / 2);
        out.extend_from_slice(&self.bytes[..HEAD]);
        out[0] = LZ4;
        out.extend_from_slice(&lz4_flex::block::compress_prepend_size(records));
        out.into()
    }

    /// Appends the records from `from` on to `out`, at most `limit`. `None`: damaged.
    pub(super) fn read(
        &self,
        (topic, partition): (usize, u32),
        from: u64,
        limit: usize,
        out: &mut Vec<Fetched>,
    ) -> Option<()> {
        let mut head = self.bytes.get(1..HEAD)?;
        let count = head.get_u32();
        head.advance(4);
        let base_timestamp = head.get_i64();
        let mut at = Cursor {
            bytes: &self.bytes,
            at: HEAD,
        };
        let mut taken = 0;
        for _ in 0..count {
            let offset = self.base.wrapping_add(at.varint()?);
            let timestamp = Millis(base_timestamp.wrapping_add(at.varint()? as i64));
            let (key, value) = (at.optional().ok()?, at.optional().ok()?);
            let headers = (0..at.varint()?)
                .map(|_| {
                    let length = at.varint()?;
                    let name = at.take(length as usize)?;
                    let name = std::str::from_utf8(&name).ok()?.to_owned();
                    Some((name, at.optional().ok()?))
                })
                .collect::<Option<Vec<_>>>()?;
            if offset < from {
                continue;
            }
            if taken == limit {
                break;
            }
            taken += 1;
            out.push(Fetched {
                topic,
                partition,
                offset,
                timestamp,
                record: Record {
                    key,
                    value,
                    headers,
                },
            });
        }
        Some(())
    }
}

/// Decompresses a value. `None`: damaged.
fn expand(bytes: &[u8]) -> Option<Bytes> {
    let (head, block) = bytes.split_at_checked(HEAD)?;
    let length = u32::from_le_bytes(*block.first_chunk::<4>()?) as usize;
    if length > MOST {
        return None;
    }
    let mut out = vec![0; HEAD + length];
    out[..HEAD].copy_from_slice(head);
    out[0] = PLAIN;
    let wrote = lz4_flex::block::decompress_into(&block[4..], &mut out[HEAD..]).ok()?;
    (wrote == length).then(|| out.into())
}

struct Damaged;

struct Cursor<'a> {
    bytes: &'a Bytes,
    at: usize,
}

impl Cursor<'_> {
    fn varint(&mut self) -> Option<u64> {
        let mut rest = self.bytes.get(self.at..)?;
        let value = varint::take(&mut rest).ok();
        self.at = self.bytes.len() - rest.len();
        value
    }

    fn take(&mut self, length: usize) -> Option<Bytes> {
        let end = self.at.checked_add(length)?;
        if end > self.bytes.len() {
            return None;
        }
        let taken = self.bytes.slice(self.at..end);
        self.at = end;
        Some(taken)
    }

    /// `Err`: damaged.
    fn optional(&mut self) -> Result<Option<Bytes>, Damaged> {
        match self.varint().ok_or(Damaged)? {
            0 => Ok(None),
            length => self.take(length as usize - 1).map(Some).ok_or(Damaged),
        }
    }
}

fn optional(out: &mut Vec<u8>, bytes: Option<&[u8]>) {
    match bytes {
        None => out.push(0),
        Some(bytes) => {
            varint::put(bytes.len() as u64 + 1, out);
            out.extend_from_slice(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bytes() -> impl Strategy<Value = Option<Bytes>> {
        prop::option::of(prop::collection::vec(any::<u8>(), 0..300).prop_map(Bytes::from))
    }

    proptest! {
        #[test]
        fn records_survive_a_round_trip(
            records in prop::collection::vec((bytes(), bytes(), prop::collection::vec(("[a-z]{0,9}", bytes()), 0..3)), 1..40),
            from in 0u64..50,
        ) {
            let mut builder = Builder::new(5, Millis(1000));
            let records: Vec<_> = records.into_iter().map(|(key, value, headers)| Record { key, value, headers }).collect();
            for (i, record) in records.iter().enumerate() {
                builder.push(5 + i as u64, Millis(1000 + i as i64), record);
            }
            let batch = builder.finish(None);
            let batch = Batch::open(5, batch.stored()).unwrap();
            prop_assert_eq!(batch.next, 5 + records.len() as u64);
            let mut out = Vec::new();
            batch.read((0, 2), from, usize::MAX, &mut out).unwrap();
            let expected: Vec<_> = records.into_iter().enumerate().filter(|(i, _)| 5 + *i as u64 >= from).collect();
            prop_assert_eq!(out.len(), expected.len());
            for (got, (i, record)) in out.into_iter().zip(expected) {
                prop_assert_eq!(got.offset, 5 + i as u64);
                prop_assert_eq!(got.timestamp, Millis(1000 + i as i64));
                prop_assert_eq!(got.record, record);
            }
        }

        #[test]
        fn damaged_batches_do_not_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            if let Some(batch) = Batch::open(0, bytes.into()) {
                let _ = batch.read((0, 0), 0, usize::MAX, &mut Vec::new());
            }
        }
    }
}
