//! The mark of a redriven record: how often it was redriven, signed with `secret_key`, so that nobody else can bypass dedupe.

use std::fmt::Write;

use bytes::Bytes;

use crate::{
    base::id::Identity,
    controls::SecretKeys,
    log::{Record, header},
};

/// Header: how often the record was redriven.
pub const COUNT: &str = "omnilink.dlq.redriven";
/// Header: the signature in hexadecimal digits.
pub const SIGNATURE: &str = "omnilink.dlq.redriven.hmac";

/// Header: the stage that rejected the record, and is the only one to process it again. On `events`, which many processors read, and on
/// `ingress` for a trigger of a workflow.
pub const STAGE: &str = "omnilink.dlq.redriven.stage";

/// What the stages of triggers begin with; the workflow's name follows.
pub const TRIGGER: &str = "trigger.";

const PURPOSE: &str = "redriven";

/// Marks a record for a topic, replacing an existing mark.
pub fn mark(secrets: &SecretKeys, topic: &str, record: &mut Record, count: u32) {
    record
        .headers
        .retain(|(name, _)| name != COUNT && name != SIGNATURE);
    let signature = with_parts(topic, record, count, |parts| secrets.sign(PURPOSE, parts));
    let mut hex = String::with_capacity(64);
    for byte in signature {
        // A `String` never refuses text.
        let _ = write!(hex, "{byte:02x}");
    }
    let count = count.to_string().into();
    record.headers.push((COUNT.into(), Some(count)));
    record.headers.push((SIGNATURE.into(), Some(hex.into())));
}

/// How often a record was redriven, if its mark is valid.
pub fn count(secrets: &SecretKeys, topic: &str, record: &Record) -> Option<u32> {
    let count = claimed(record)?;
    let signature = unhex(header(&record.headers, SIGNATURE)?)?;
    with_parts(topic, record, count, |parts| {
        secrets.signed(PURPOSE, parts, &signature)
    })
    .then_some(count)
}

/// The count of the mark, without checking the signature.
pub fn claimed(record: &Record) -> Option<u32> {
    std::str::from_utf8(header(&record.headers, COUNT)?)
        .ok()?
        .parse()
        .ok()
}

/// Sets the stage that a redriven record is for.
pub fn address(record: &mut Record, stage: &str) {
    record.headers.retain(|(name, _)| name != STAGE);
    let stage = stage.to_owned().into();
    record.headers.push((STAGE.into(), Some(stage)));
}

/// The workflow whose trigger alone a redriven record of `ingress` is for. Only a record whose mark is valid says so.
pub fn trigger(record: &Record) -> Option<&str> {
    let stage = std::str::from_utf8(header(&record.headers, STAGE)?).ok()?;
    stage.strip_prefix(TRIGGER)
}

/// Whether a record of `events` is a redriven copy for a processor that rejected the first one.
pub fn is_addressed(record: &Record) -> bool {
    header(&record.headers, STAGE).is_some()
}

/// Whether a record of `events` is for this processor: it has no addressee, or it is addressed to this processor or one of its later
/// stages (`topology.orders.2`).
pub fn concerns(record: &Record, processor: &str) -> bool {
    let Some(stage) = header(&record.headers, STAGE) else {
        return true;
    };
    let rest = stage.strip_prefix(processor.as_bytes());
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(b"."))
}

/// The identity for dedupe of the `count`th redrive of an event, which passes once.
pub fn identity(of: &Identity, count: u32) -> Identity {
    Identity::of("redriven", &[&of.to_string(), &count.to_string()])
}

/// The signed bytes: the topic, and the record without the mark.
fn with_parts<T>(topic: &str, record: &Record, count: u32, then: impl FnOnce(&[&[u8]]) -> T) -> T {
    let count = count.to_be_bytes();
    let mut parts: Vec<&[u8]> = vec![topic.as_bytes(), &count];
    let key_and_value = [record.key.as_ref(), record.value.as_ref()];
    for bytes in key_and_value {
        optional(bytes, &mut parts);
    }
    for (name, value) in &record.headers {
        if name != COUNT && name != SIGNATURE {
            parts.push(name.as_bytes());
            optional(value.as_ref(), &mut parts);
        }
    }
    then(&parts)
}

/// Distinguishes an absent value from an empty one.
fn optional<'a>(bytes: Option<&'a Bytes>, parts: &mut Vec<&'a [u8]>) {
    parts.push(if bytes.is_some() { b"1" } else { b"0" });
    parts.push(bytes.map_or(&[], |bytes| bytes));
}

fn unhex(text: &[u8]) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(2) {
        return None;
    }
    text.chunks_exact(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use base64::{Engine, engine::general_purpose::STANDARD};

    use super::*;

    fn secrets(n: u8) -> SecretKeys {
        SecretKeys::new([&STANDARD.encode([n; 32])[..]]).unwrap()
    }

    #[test]
    fn a_record_that_went_back_concerns_one_processor() {
        let mut record = Record {
            key: None,
            value: None,
            headers: Vec::new(),
        };
        assert!(concerns(&record, "events") && !is_addressed(&record));
        address(&mut record, "events");
        address(&mut record, "topology.orders.2");
        assert_eq!(record.headers.len(), 1);
        assert!(concerns(&record, "topology.orders"));
        for other in [
            "events",
            "topology.order",
            "topology.orders.2.1",
            "topology.orders-2",
        ] {
            assert!(!concerns(&record, other), "{other}");
        }
    }

    #[test]
    fn a_mark_counts_only_as_it_was_made() {
        let mut record = Record {
            key: Some("k".into()),
            value: Some("v".into()),
            headers: vec![("a".into(), None)],
        };
        mark(&secrets(1), "in", &mut record, 1);
        mark(&secrets(1), "in", &mut record, 2);
        assert_eq!(record.headers.len(), 3);
        assert_eq!(count(&secrets(1), "in", &record), Some(2));
        assert_eq!(count(&secrets(2), "in", &record), None);
        assert_eq!(count(&secrets(1), "other", &record), None);
        let mut more = record.clone();
        more.headers[1].1 = Some("3".into());
        assert_eq!(claimed(&more), Some(3));
        assert_eq!(count(&secrets(1), "in", &more), None);
        for change in [
            |r: &mut Record| r.value = None,
            |r: &mut Record| r.key = Some("".into()),
            |r: &mut Record| r.headers[0].1 = Some("".into()),
        ] {
            let mut changed = record.clone();
            change(&mut changed);
            assert_eq!(count(&secrets(1), "in", &changed), None);
        }
    }
}
