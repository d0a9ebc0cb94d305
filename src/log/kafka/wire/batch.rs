//! A record batch, version 2 (Kafka's protocol guide, "Record Batch"), uncompressed.

use bytes::{BufMut, Bytes, BytesMut};

use crate::{
    base::{clock::Millis, varint},
    log::{BATCH_HEADER, Headers, Record, record_size},
};

/// The id and epoch of an idempotent producer, by which its batches are numbered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in super::super) struct ProducerId {
    pub(in super::super) id: i64,
    pub(in super::super) epoch: i16,
}

/// A record to encode.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Fields<'a> {
    pub(in super::super) key: Option<&'a [u8]>,
    pub(in super::super) value: Option<&'a [u8]>,
    pub(in super::super) headers: &'a Headers,
}

impl<'a> From<&'a Record> for Fields<'a> {
    fn from(record: &'a Record) -> Self {
        Self {
            key: record.key.as_deref(),
            value: record.value.as_deref(),
            headers: &record.headers,
        }
    }
}

/// Whether the records of a batch belong to a transaction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in super::super) enum Within {
    Nothing,
    Transaction,
}

/// The bytes of a batch before its records.
pub(in super::super) const HEAD: usize = BATCH_HEADER;
/// Where the part that the checksum covers begins: after base offset, length, leader epoch, version and the checksum.
const CHECKED: usize = 21;
/// Where the part that the length covers begins: after base offset and length.
const MEASURED: usize = 12;

/// An upper bound of the bytes of a record in a batch.
pub(in super::super) fn size(record: &Record) -> usize {
    record_size(record) - HEAD
}

/// Encodes a batch of at least one record. `room`: an upper bound of the records' bytes; `sequence`: the number of the first record.
pub(in super::super) fn encode<'a>(
    records: impl ExactSizeIterator<Item = Fields<'a>>,
    room: usize,
    (producer, sequence): (ProducerId, i32),
    within: Within,
    now: Millis,
) -> Bytes {
    let count = records.len() as i32;
    let mut out = BytesMut::with_capacity(HEAD + room);
    out.put_i64(0); // base offset, set by the broker
    out.put_i32(0); // length, below
    out.put_i32(-1); // leader epoch, set by the broker
    out.put_i8(2);
    out.put_u32(0); // checksum, below
    // No compression, timestamp type CreateTime; the fifth bit marks a transactional batch.
    out.put_i16(i16::from(within == Within::Transaction) << 4);
    out.put_i32(count - 1);
    out.put_i64(now.0);
    out.put_i64(now.0);
    out.put_i64(producer.id);
    out.put_i16(producer.epoch);
    out.put_i32(sequence);
    out.put_i32(count);
    let mut body = BytesMut::new();
    for (delta, record) in records.enumerate() {
        body.clear();
        put_record(&mut body, delta as i64, &record);
        varint::put_zigzag(body.len() as i64, &mut out);
        out.put_slice(&body);
    }
    let length = (out.len() - MEASURED) as u32;
    out[8..12].copy_from_slice(&length.to_be_bytes());
    let checksum = crc32c::crc32c(&out[CHECKED..]);
    out[17..21].copy_from_slice(&checksum.to_be_bytes());
    out.freeze()
}

fn put_record(out: &mut BytesMut, delta: i64, record: &Fields<'_>) {
    out.put_i8(0); // attributes
    varint::put_zigzag(0, out); // milliseconds after the batch's time
    varint::put_zigzag(delta, out);
    put_bytes(out, record.key);
    put_bytes(out, record.value);
    varint::put_zigzag(record.headers.len() as i64, out);
    for (name, value) in record.headers {
        put_bytes(out, Some(name.as_bytes()));
        put_bytes(out, value.as_deref());
    }
}

fn put_bytes(out: &mut BytesMut, bytes: Option<&[u8]>) {
    match bytes {
        Some(bytes) => {
            varint::put_zigzag(bytes.len() as i64, out);
            out.put_slice(bytes);
        }
        None => varint::put_zigzag(-1, out),
    }
}

#[cfg(test)]
mod tests {
    use kafka_protocol::records::RecordBatchDecoder;
    use proptest::prelude::*;

    use super::*;

    fn bytes() -> impl Strategy<Value = Option<Bytes>> {
        proptest::option::of(proptest::collection::vec(any::<u8>(), 0..300).prop_map(Bytes::from))
    }

    fn record() -> impl Strategy<Value = Record> {
        let headers = proptest::collection::vec(("[a-z]{0,20}", bytes()), 0..4);
        (bytes(), bytes(), headers).prop_map(|(key, value, headers)| Record {
            key,
            value,
            headers,
        })
    }

    proptest! {
        #[test]
        fn other_implementations_read_a_batch(
            records in proptest::collection::vec(record(), 1..40),
            sequence in 0..i32::MAX,
            id in 0..i64::MAX,
            transactional: bool,
        ) {
            let numbered = (ProducerId { id, epoch: 7 }, sequence);
            let room = records.iter().map(size).sum::<usize>();
            let within = if transactional { Within::Transaction } else { Within::Nothing };
            let fields = records.iter().map(Fields::from);
            let encoded = encode(fields, room, numbered, within, Millis(1_700_000_000_000));
            prop_assert!(encoded.len() <= HEAD + room);
            // The decoder checks lengths and the checksum.
            let read = RecordBatchDecoder::decode(&mut encoded.clone()).unwrap().records;
            prop_assert_eq!(read.len(), records.len());
            for (n, (read, record)) in read.iter().zip(&records).enumerate() {
                prop_assert_eq!(&read.key, &record.key);
                prop_assert_eq!(&read.value, &record.value);
                // The decoder's headers are a map: of a repeated name only the last value remains.
                for (name, _) in &record.headers {
                    let last = crate::log::header(&record.headers, name);
                    prop_assert_eq!(read.headers[name.as_bytes()].as_deref(), last);
                }
                prop_assert_eq!(read.offset, n as i64);
                prop_assert_eq!(read.timestamp, 1_700_000_000_000);
                prop_assert_eq!(read.producer_id, id);
                prop_assert_eq!(read.producer_epoch, 7);
                prop_assert_eq!(read.sequence, sequence.wrapping_add(n as i32));
                prop_assert_eq!(read.transactional, transactional);
            }
        }
    }
}
