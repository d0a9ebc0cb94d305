//! The dead-letter queue: rejected records byte for byte, with the reason in added headers, truncated if they exceed the topic's size
//! limit.

pub mod letters;
pub mod name;
pub mod redrive;
pub mod redriven;
mod returns;

use bytes::Bytes;

use crate::{
    base::clock::Millis,
    log::{Fetched, Headers, LogError, Record, Unavailable, header_size, record_size},
};

/// Prefix of the headers' names.
pub const PREFIX: &str = "omnilink.dlq.";

/// Header of a truncated letter: the original size of its value in bytes. Truncated letters cannot be redriven.
pub const TRUNCATED: &str = "omnilink.dlq.truncated";

/// Size limit of the message, which may quote the record.
const MESSAGE: usize = 4096;

/// Where and why a record was rejected.
#[derive(Clone, Copy, Debug)]
pub struct Reason<'a> {
    /// The full name of the topic that it was read from.
    pub topic: &'a str,
    /// The processor that rejected it.
    pub stage: &'a str,
    /// A stable code.
    pub code: &'a str,
    /// Human-readable text.
    pub message: &'a str,
    /// When it was rejected.
    pub failed_at: Millis,
}

/// Header of a dead letter of a timer: its due time in milliseconds. Such a letter cannot be redriven.
pub const TIMER: &str = "omnilink.dlq.timer";

/// The dead letter of a timer: it has the timer's key, no value, and no original topic.
pub fn timer(key: Bytes, due: Millis, partition: u32, reason: &Reason<'_>) -> Record {
    let mut headers = vec![(TIMER.into(), Some(due.0.to_string().into()))];
    headers.push(named("partition", partition.to_string()));
    headers.extend(reasons(reason, MESSAGE));
    Record {
        key: Some(key),
        value: None,
        headers,
    }
}

/// The dead letter of a record. `value` replaces the record's, for one item of a batch.
pub fn record(rejected: &Fetched, value: Option<Bytes>, reason: &Reason<'_>) -> Record {
    let mut record = rejected.record.clone();
    if value.is_some() {
        record.value = value;
    }
    record.headers.extend(why(rejected, reason, MESSAGE));
    record
}

/// As [`record`], truncated to the topic's size limit: first the value, then the record's headers, then the key. Returns `None` if not
/// even the added headers fit. `bare` omits the record's headers, because other letters of the same record have them.
pub fn fitted(
    rejected: &Fetched,
    value: Option<Bytes>,
    reason: &Reason<'_>,
    bare: bool,
    limit: usize,
) -> Option<Record> {
    let bare = bare && !rejected.record.headers.is_empty();
    if !bare {
        let whole = record(rejected, value.clone(), reason);
        if record_size(&whole) <= limit {
            return Some(whole);
        }
    }
    let original = &rejected.record;
    let value = value.or_else(|| original.value.clone());
    let length = value.as_ref().map_or(0, Bytes::len);
    let mut letter = Record {
        key: None,
        value: None,
        headers: why(rejected, reason, MESSAGE),
    };
    // It is recognised by its position: headers of producers come before it.
    let cut = (TRUNCATED.to_owned(), Some(length.to_string().into()));
    letter.headers.push(cut);
    let over = record_size(&letter).saturating_sub(limit);
    if over > 0 {
        let most = reason.message.len().min(MESSAGE).checked_sub(over)?;
        let cut = letter.headers.pop();
        letter.headers = why(rejected, reason, most);
        letter.headers.extend(cut);
    }
    // The part that is truncated first gets the space that the others leave.
    let mut room = limit - record_size(&letter);
    letter.key = original.key.as_ref().map(|key| {
        let kept = key.len().min(room);
        room -= kept;
        key.slice(..kept)
    });
    let own: &[_] = if bare { &[] } else { &original.headers };
    let fits = |header: &&(String, Option<Bytes>)| {
        let left = room.checked_sub(header_size(&header.0, header.1.as_deref()));
        room = left.unwrap_or(room);
        left.is_some()
    };
    let mut headers: Headers = own.iter().take_while(fits).cloned().collect();
    // Either the value is complete, or all headers before it are.
    let kept = if headers.len() == own.len() {
        length.min(room)
    } else {
        0
    };
    letter.value = value.map(|value| value.slice(..kept));
    headers.append(&mut letter.headers);
    letter.headers = headers;
    Some(letter)
}

/// The error for a dead letter that does not fit even when truncated.
pub(crate) fn too_narrow(dlq: &str, limit: usize) -> LogError {
    let dlq = dlq.to_owned();
    Unavailable::TooNarrow { dlq, limit }.into()
}

/// Whether a letter is truncated.
pub fn is_truncated(letter: &Record) -> bool {
    let last = letter.headers.last();
    last.is_some_and(|(name, _)| name == TRUNCATED)
}

fn why(rejected: &Fetched, reason: &Reason<'_>, message: usize) -> Headers {
    let place = [
        named("topic", reason.topic.to_owned()),
        named("partition", rejected.partition.to_string()),
        named("offset", rejected.offset.to_string()),
        named("timestamp", rejected.timestamp.0.to_string()),
    ];
    place.into_iter().chain(reasons(reason, message)).collect()
}

fn reasons(reason: &Reason<'_>, message: usize) -> [(String, Option<Bytes>); 4] {
    let failed_at = jiff::Timestamp::from_millisecond(reason.failed_at.0).unwrap_or_default();
    [
        named("stage", reason.stage.to_owned()),
        named("code", reason.code.to_owned()),
        named("message", prefix(reason.message, message).to_owned()),
        named("failed_at", failed_at.to_string()),
    ]
}

fn named(name: &str, value: String) -> (String, Option<Bytes>) {
    (format!("{PREFIX}{name}"), Some(value.into()))
}

/// The longest prefix of the text with at most this many bytes.
fn prefix(text: &str, most: usize) -> &str {
    &text[..text.floor_char_boundary(most)]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::log::header;

    const REASON: Reason<'static> = Reason {
        topic: "in",
        stage: "s",
        code: "c",
        message: "why",
        failed_at: Millis(0),
    };

    fn rejected(key: usize, value: usize, headers: &[usize]) -> Fetched {
        let header = |length: &usize| ("h".to_owned(), Some(vec![b'h'; *length].into()));
        Fetched {
            topic: 0,
            partition: 0,
            offset: 7,
            timestamp: Millis(0),
            record: Record {
                key: Some(vec![b'k'; key].into()),
                value: Some(vec![b'v'; value].into()),
                headers: headers.iter().map(header).collect(),
            },
        }
    }

    fn lengths(letter: &Record) -> (usize, usize, usize) {
        let own = letter.headers.iter().filter(|(name, _)| name == "h");
        let length = |bytes: &Option<Bytes>| bytes.as_ref().unwrap().len();
        (length(&letter.key), own.count(), length(&letter.value))
    }

    #[test]
    fn the_value_is_cut_first_then_the_headers_then_the_key() {
        let mut from = rejected(100, 10_000, &[500, 500]);
        let whole = record(&from, None, &REASON);
        let size = record_size(&whole);
        let cut = |from: &Fetched, limit| {
            let cut = fitted(from, None, &REASON, false, limit).unwrap();
            assert!(record_size(&cut) <= limit);
            assert!(is_truncated(&cut), "{limit}");
            assert_eq!(header(&cut.headers, TRUNCATED), Some(&b"10000"[..]));
            lengths(&cut)
        };
        assert_eq!(fitted(&from, None, &REASON, false, size).unwrap(), whole);
        assert!(!is_truncated(&whole));
        let (key, headers, value) = cut(&from, size - 1);
        assert_eq!((key, headers), (100, 2));
        assert!((9_900..10_000).contains(&value), "{value}");
        assert_eq!(cut(&from, size - 10_000), (100, 1, 0));
        assert_eq!(cut(&from, size - 10_600), (100, 0, 0));
        let (key, ..) = cut(&from, size - 11_050);
        assert!((1..100).contains(&key), "{key}");
        assert_eq!(fitted(&from, None, &REASON, false, 100), None);
        // Producers may use the names of our headers: these are truncated like any other and have no meaning.
        let theirs = (format!("{PREFIX}x"), Some(vec![0; 5_000].into()));
        from.record.headers = vec![theirs, (TRUNCATED.into(), None)];
        assert!(!is_truncated(&record(&from, None, &REASON)));
        assert_eq!(cut(&from, 1_000), (100, 0, 0));
    }

    #[test]
    fn headers_that_another_letter_has_are_left_out() {
        let from = rejected(1, 100, &[500]);
        let item = Some(Bytes::from_static(b"item"));
        let bare = fitted(&from, item.clone(), &REASON, true, 10_000).unwrap();
        assert_eq!(lengths(&bare), (1, 0, 4));
        assert_eq!(header(&bare.headers, TRUNCATED), Some(&b"4"[..]));
        let without = rejected(1, 100, &[]);
        let whole = fitted(&without, item, &REASON, true, 10_000).unwrap();
        assert!(!is_truncated(&whole));
    }

    proptest! {
        #[test]
        fn what_is_cut_fits(
            key in 0usize..300,
            value in 0usize..3000,
            message in 0usize..6000,
            headers in prop::collection::vec(0usize..800, 0..5),
            limit in 0usize..12_000,
            bare: bool,
        ) {
            let message = "é".repeat(message / 2);
            let reason = Reason { message: &message, ..REASON };
            match fitted(&rejected(key, value, &headers), None, &reason, bare, limit) {
                None => prop_assert!(limit < 1_000),
                Some(letter) => prop_assert!(record_size(&letter) <= limit),
            }
        }
    }
}
