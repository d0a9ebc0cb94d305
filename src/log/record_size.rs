//! The size of a record in a log, computed before it is written.
//!
//! The measure is Kafka's: a broker compares `max.message.bytes` with the whole record batch (version 2), so a record is
//! counted as the only one in a batch, uncompressed, with the longest encoding of every length. A record that fits by this measure
//! fits however the client batches or compresses it. The embedded log counts the same way.

use super::Record;

/// Bytes of a record batch before its records (Kafka's protocol guide, "Record Batch").
pub const BATCH_HEADER: usize = 61;
/// The longest varint of a length or of a delta.
const VARINT: usize = 5;

/// An upper bound of the bytes of a record in a batch of its own.
pub fn record_size(record: &Record) -> usize {
    let headers = record.headers.iter();
    let headers = headers.map(|(name, value)| header_size(name, value.as_deref()));
    BATCH_HEADER
        + row_size(
            record.key.as_deref().unwrap_or_default(),
            record.value.as_deref().unwrap_or_default(),
        )
        + headers.sum::<usize>()
}

/// An upper bound of the bytes of a header within a record.
pub fn header_size(name: &str, value: Option<&[u8]>) -> usize {
    VARINT + name.len() + VARINT + value.map_or(0, <[u8]>::len)
}

/// An upper bound of the bytes of a record without headers within a batch.
pub(crate) fn row_size(key: &[u8], value: &[u8]) -> usize {
    // Length, attributes, the two deltas, the lengths of key and value, the number of headers.
    VARINT + 1 + 2 * VARINT + VARINT + key.len() + VARINT + value.len() + VARINT
}
