//! The dead-letter queue: a rejected record byte for byte, with why in added headers (`contracts.md` section 1).

use bytes::Bytes;

use crate::{
    clock::Millis,
    log::{Fetched, Record},
};

/// In front of the headers' names.
pub const PREFIX: &str = "omnilink.dlq.";

/// Where and why a record was rejected.
#[derive(Clone, Copy, Debug)]
pub struct Reason<'a> {
    /// The whole name of the topic that it was read from.
    pub topic: &'a str,
    /// The processor that rejected it.
    pub stage: &'a str,
    /// A stable code.
    pub code: &'a str,
    /// For people.
    pub message: &'a str,
    /// When.
    pub failed_at: Millis,
}

/// The record for the dead-letter queue. `value`: in place of the original's, for one item of a batch.
pub fn record(rejected: &Fetched, value: Option<Bytes>, reason: &Reason<'_>) -> Record {
    let mut record = rejected.record.clone();
    if value.is_some() {
        record.value = value;
    }
    let failed_at = jiff::Timestamp::from_millisecond(reason.failed_at.0).unwrap_or_default();
    let mut add = |name: &str, value: String| {
        record
            .headers
            .push((format!("{PREFIX}{name}"), Some(value.into())));
    };
    add("topic", reason.topic.to_owned());
    add("partition", rejected.partition.to_string());
    add("offset", rejected.offset.to_string());
    add("timestamp", rejected.timestamp.0.to_string());
    add("stage", reason.stage.to_owned());
    add("code", reason.code.to_owned());
    add("message", reason.message.to_owned());
    add("failed_at", failed_at.to_string());
    record
}
