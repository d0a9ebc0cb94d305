//! Records of a log: as they are stored, appended and fetched.

use bytes::Bytes;

use crate::base::clock::Millis;

/// Headers in order. A name may repeat; the last value wins.
pub type Headers = Vec<(String, Option<Bytes>)>;

/// The value of the last header with this name; `None` if there is no such header or its value is null.
pub fn header<'a>(headers: &'a Headers, name: &str) -> Option<&'a [u8]> {
    headers
        .iter()
        .rev()
        .find(|(n, _)| n == name)
        .and_then(|(_, v)| v.as_deref())
}

/// Key, value and headers.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Record {
    /// The key, which determines the partition.
    pub key: Option<Bytes>,
    /// The value; `None` is a tombstone.
    pub value: Option<Bytes>,
    /// Headers, in the order in which they were sent.
    pub headers: Headers,
}

/// A record to append outside a transaction, to the partition of its key.
#[derive(Clone, Debug)]
pub struct Append {
    /// The full name of the topic, prefix included.
    pub topic: std::sync::Arc<str>,
    /// The record.
    pub record: Record,
}

/// A record to append within a transaction, or to a partition of choice.
#[derive(Clone, Debug)]
pub struct Output {
    /// The full name of the topic, prefix included.
    pub topic: std::sync::Arc<str>,
    /// The partition; `None` for the partition of the key.
    pub partition: Option<u32>,
    /// The record.
    pub record: Record,
}

impl From<Append> for Output {
    fn from(append: Append) -> Self {
        Self {
            topic: append.topic,
            partition: None,
            record: append.record,
        }
    }
}

/// A record as read from a log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fetched {
    /// The topic: an index into the list of topics that the reader was created with.
    pub topic: usize,
    /// The partition.
    pub partition: u32,
    /// The offset.
    pub offset: u64,
    /// When it was appended (`LogAppendTime`). On foreign topics the producer's timestamp (`CreateTime`), or the time of reading
    /// where that cannot be one in milliseconds (−1, or a value in seconds or microseconds).
    pub timestamp: Millis,
    /// The record.
    pub record: Record,
}
