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

/// The header of a letter that is a timer's: the time it was due, in milliseconds. Such a letter cannot be redriven.
pub const TIMER: &str = "omnilink.dlq.timer";

/// The letter of a timer: its key as the record's, no value. It came from no topic, so it names none.
pub fn timer(key: Bytes, due: Millis, partition: u32, reason: &Reason<'_>) -> Record {
    let mut record = Record {
        key: Some(key),
        value: None,
        headers: vec![(TIMER.into(), Some(due.0.to_string().into()))],
    };
    add(&mut record, "partition", partition.to_string());
    add_reason(&mut record, reason);
    record
}

/// The record for the dead-letter queue. `value`: in place of the original's, for one item of a batch.
pub fn record(rejected: &Fetched, value: Option<Bytes>, reason: &Reason<'_>) -> Record {
    let mut record = rejected.record.clone();
    if value.is_some() {
        record.value = value;
    }
    add(&mut record, "topic", reason.topic.to_owned());
    add(&mut record, "partition", rejected.partition.to_string());
    add(&mut record, "offset", rejected.offset.to_string());
    add(&mut record, "timestamp", rejected.timestamp.0.to_string());
    add_reason(&mut record, reason);
    record
}

fn add(record: &mut Record, name: &str, value: String) {
    let name = format!("{PREFIX}{name}");
    record.headers.push((name, Some(value.into())));
}

fn add_reason(record: &mut Record, reason: &Reason<'_>) {
    let failed_at = jiff::Timestamp::from_millisecond(reason.failed_at.0).unwrap_or_default();
    add(record, "stage", reason.stage.to_owned());
    add(record, "code", reason.code.to_owned());
    add(record, "message", reason.message.to_owned());
    add(record, "failed_at", failed_at.to_string());
}
