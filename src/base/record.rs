//! What lies in a log.

use bytes::Bytes;

use crate::base::clock::Millis;

/// Headers in order; names may repeat, the last one counts.
pub type Headers = Vec<(String, Option<Bytes>)>;

/// The value of the last header of that name.
pub fn header<'a>(headers: &'a Headers, name: &str) -> Option<&'a [u8]> {
    headers
        .iter()
        .rev()
        .find(|(n, _)| n == name)
        .and_then(|(_, v)| v.as_deref())
}

/// Key, value and headers. A record without a value is a tombstone.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Record {
    /// The key, which chooses the partition.
    pub key: Option<Bytes>,
    /// The value; `None` is a tombstone.
    pub value: Option<Bytes>,
    /// Headers, in the order in which they were sent; a name may come more than once.
    pub headers: Headers,
}

/// A record for a topic outside a transaction, which goes to the partition of its key.
#[derive(Clone, Debug)]
pub struct Append {
    /// The whole name of the topic.
    pub topic: std::sync::Arc<str>,
    /// The record.
    pub record: Record,
}

/// A record for a topic within a transaction.
#[derive(Clone, Debug)]
pub struct Output {
    /// The whole name of the topic.
    pub topic: std::sync::Arc<str>,
    /// The partition; `None`: that of the key.
    pub partition: Option<u32>,
    /// The record.
    pub record: Record,
}

/// A record as read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fetched {
    /// The topic: the index in the list that the reader was made with.
    pub topic: usize,
    /// The partition.
    pub partition: u32,
    /// The offset.
    pub offset: u64,
    /// When it was appended (LogAppendTime); on foreign topics what their producers said, or when it was read where they said
    /// nothing that could be meant (−1, seconds, microseconds).
    pub timestamp: Millis,
    /// The record.
    pub record: Record,
}
