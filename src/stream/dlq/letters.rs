//! Reads the dead-letter queue: which records were rejected, where, and why.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Serialize;

use super::{
    self as dlq,
    name::{Name, NotAName},
    redriven,
    returns::Returns,
};
use crate::{
    base::clock::Millis,
    log::{Fetched, Log, LogError, header, read_ranges, topics::Names},
};

/// A dead letter without key, value and headers.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, JsonSchema)]
pub struct Letter {
    /// Its name.
    pub name: Name,
    /// When it was rejected according to its header, or else when it was appended.
    pub failed_at: String,
    /// The processor that rejected it.
    pub stage: String,
    /// A stable code.
    pub code: String,
    /// Human-readable text.
    pub message: String,
    /// The record's original topic.
    pub topic: String,
    /// Its original partition.
    pub partition: Option<u32>,
    /// Its original offset.
    pub offset: Option<u64>,
    /// How often the record was redriven, including earlier dead letters of the same record.
    pub redriven: u32,
    /// The original size of its value in bytes, if the letter was truncated. Truncated letters cannot be redriven.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub truncated: Option<u64>,
}

/// A header of the queue as text: `topic`, `partition`, `offset`, `timestamp`, `stage`, `code`, `message`, `failed_at`.
pub fn field(letter: &Fetched, name: &str) -> Option<String> {
    let value = header(&letter.record.headers, &format!("{}{name}", dlq::PREFIX))?;
    Some(String::from_utf8_lossy(value).into_owned())
}

impl Letter {
    /// Reads the headers, which may be missing if another program wrote the record.
    pub fn of(letter: &Fetched, returns: &Returns) -> Self {
        let name = Name {
            partition: letter.partition,
            offset: letter.offset,
        };
        let text = |name| field(letter, name).unwrap_or_default();
        let before = redriven::claimed(&letter.record).unwrap_or(0);
        Self {
            name,
            failed_at: field(letter, "failed_at").unwrap_or_else(|| rfc3339(letter.timestamp)),
            stage: text("stage"),
            code: text("code"),
            message: text("message"),
            topic: text("topic"),
            partition: field(letter, "partition").and_then(|p| p.parse().ok()),
            offset: field(letter, "offset").and_then(|o| o.parse().ok()),
            redriven: before.saturating_add(returns.times(name)),
            truncated: dlq::is_truncated(&letter.record)
                .then(|| text("truncated").parse().unwrap_or(0)),
        }
    }
}

fn rfc3339(at: Millis) -> String {
    jiff::Timestamp::from_millisecond(at.0)
        .map(|t| t.to_string())
        .unwrap_or_default()
}

/// A query for dead letters.
#[derive(Clone, Debug, Default)]
pub struct Listing {
    /// Only those with this code.
    pub code: Option<String>,
    /// The maximum number of letters.
    pub limit: usize,
    /// The end of the previous page ([`parse_cursor`]).
    pub cursor: Option<Cursor>,
}

/// A page of dead letters, newest first.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Letters {
    /// The letters.
    pub items: Vec<Letter>,
    /// The cursor of the next page; absent on the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}

/// The number of letters that are read for one page: with a rare code a page may have fewer items than its limit, and a cursor.
const LOOKED_AT: usize = 50_000;

/// Lists dead letters, newest first, by reading each partition backwards from its end.
pub fn list(log: &dyn Log, names: &Names, listing: &Listing) -> Result<Letters, LogError> {
    let returns = Returns::load(log, names)?;
    let mut ends = Backwards::new(log, names, listing)?;
    let mut items = Vec::new();
    let mut looked_at = 0;
    while items.len() < listing.limit
        && looked_at < LOOKED_AT
        && let Some(letter) = ends.next(&returns)?
    {
        looked_at += 1;
        if listing
            .code
            .as_ref()
            .is_none_or(|code| *code == letter.code)
        {
            items.push(letter);
        }
    }
    Ok(Letters {
        items,
        next_cursor: ends.cursor(),
    })
}

/// Partitions that are read backwards in chunks and merged by time.
struct Backwards {
    reader: Box<dyn crate::log::Reader>,
    /// The unread rest of each partition: from its first offset to before this one.
    left: BTreeMap<u32, Left>,
    piece: u64,
}

struct Left {
    start: u64,
    /// The lowest offset that was returned.
    given: u64,
    /// The lowest offset that was read.
    read: u64,
    /// Letters that were read but not returned, the newest last.
    ready: Vec<Fetched>,
}

impl Backwards {
    fn new(log: &dyn Log, names: &Names, listing: &Listing) -> Result<Self, LogError> {
        let mut left = BTreeMap::new();
        for partition in 0..log.partitions(&names.dlq)? {
            let marks = log.offset_range(&names.dlq, partition)?;
            let end = match &listing.cursor {
                None => marks.end,
                // Partitions that are not in the cursor are exhausted.
                Some(cursor) => cursor
                    .get(&partition)
                    .map_or(marks.start, |at| (*at).clamp(marks.start, marks.end)),
            };
            left.insert(
                partition,
                Left {
                    start: marks.start,
                    given: end,
                    read: end,
                    ready: Vec::new(),
                },
            );
        }
        Ok(Self {
            reader: log.reader(&names.dlq)?,
            left,
            piece: (listing.limit as u64).clamp(16, 500),
        })
    }

    /// Reads another chunk of each partition without buffered letters.
    fn fill(&mut self) -> Result<(), LogError> {
        loop {
            let mut ranges = Vec::new();
            for (partition, left) in &mut self.left {
                if left.ready.is_empty() && left.read > left.start {
                    let from = left.read.saturating_sub(self.piece).max(left.start);
                    ranges.push((*partition, from, left.read));
                    left.read = from;
                }
            }
            if ranges.is_empty() {
                return Ok(());
            }
            let left = &mut self.left;
            read_ranges(&mut *self.reader, &ranges, |mut letter| {
                // Contents may be large, and a list does not show them.
                letter.record.value = None;
                if let Some(left) = left.get_mut(&letter.partition) {
                    left.ready.push(letter);
                }
                Ok(())
            })?;
        }
    }

    fn next(&mut self, returns: &Returns) -> Result<Option<Letter>, LogError> {
        self.fill()?;
        let newest = self
            .left
            .iter()
            .filter_map(|(partition, left)| Some((left.ready.last()?.timestamp, *partition)))
            .max();
        let Some((_, partition)) = newest else {
            return Ok(None);
        };
        let Some(left) = self.left.get_mut(&partition) else {
            return Ok(None);
        };
        Ok(left.ready.pop().map(|letter| {
            left.given = letter.offset;
            Letter::of(&letter, returns)
        }))
    }

    /// The cursor: `PARTITION:OFFSET` of each partition with more letters, before which the next page continues.
    fn cursor(&self) -> Option<String> {
        let more = self.left.iter().filter_map(|(partition, left)| {
            let before = left.ready.last().map_or(left.read, |_| left.given);
            (before > left.start).then(|| format!("{partition}:{before}"))
        });
        let more: Vec<_> = more.collect();
        (!more.is_empty()).then(|| more.join(","))
    }
}

/// The positions at which a list continues, by partition.
pub type Cursor = BTreeMap<u32, u64>;

/// Parses the `next_cursor` of a page.
pub fn parse_cursor(cursor: &str) -> Result<Cursor, NotACursor> {
    let parse = |text: &str| text.parse().map(|name: Name| (name.partition, name.offset));
    let parsed: Result<Cursor, NotAName> = cursor.split(',').map(parse).collect();
    parsed.map_err(|source| NotACursor {
        cursor: cursor.to_owned(),
        source,
    })
}

/// The text is not a cursor of [`list`].
#[derive(Clone, Debug, thiserror::Error)]
#[error("`{cursor}` is not a cursor of this list")]
pub struct NotACursor {
    cursor: String,
    source: NotAName,
}

/// One letter; `None` if there is none of that name, or retention has deleted it.
pub fn show(log: &dyn Log, names: &Names, name: Name) -> Result<Option<Fetched>, LogError> {
    Ok(show_all(log, names, &[name])?.pop())
}

/// The letters of these names, in this order; missing ones are omitted.
pub fn show_all(log: &dyn Log, names: &Names, wanted: &[Name]) -> Result<Vec<Fetched>, LogError> {
    let partitions = log.partitions(&names.dlq)?;
    let mut spans: BTreeMap<u32, (u64, u64)> = BTreeMap::new();
    for name in wanted.iter().filter(|name| name.partition < partitions) {
        let end = name.offset.saturating_add(1);
        let span = spans.entry(name.partition).or_insert((name.offset, end));
        *span = (span.0.min(name.offset), span.1.max(end));
    }
    let mut ranges = Vec::new();
    for (partition, (from, to)) in spans {
        let marks = log.offset_range(&names.dlq, partition)?;
        ranges.push((partition, from.max(marks.start), to.min(marks.end)));
    }
    let mut found = BTreeMap::new();
    let mut reader = log.reader(&names.dlq)?;
    read_ranges(&mut *reader, &ranges, |letter| {
        let name = Name {
            partition: letter.partition,
            offset: letter.offset,
        };
        if wanted.contains(&name) {
            found.insert(name, letter);
        }
        Ok(())
    })?;
    Ok(wanted
        .iter()
        .filter_map(|name| found.remove(name))
        .collect())
}

/// A dead letter with its content.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "LetterContents")]
pub struct Shown {
    /// The fields of the list; `redriven` only counts earlier letters of the record.
    #[serde(flatten)]
    letter: Letter,
    /// All headers in order; values that are not text are base64 under `base64`.
    headers: Vec<(String, Contents)>,
    /// The record's key.
    key: Contents,
    /// Its value.
    value: Contents,
    /// The value as a CloudEvent, if it is a record written by OmniLink.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<serde_json::Map<String, serde_json::Value>>")]
    event: Option<Box<serde_json::value::RawValue>>,
}

/// Bytes in readable form.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(untagged)]
#[schemars(rename = "Bytes")]
enum Contents {
    /// The bytes are absent: `null` in JSON.
    Absent(()),
    /// UTF-8.
    Text(String),
    /// Not UTF-8.
    Binary {
        /// In base64.
        base64: String,
    },
}

impl Contents {
    fn of(bytes: Option<&[u8]>) -> Self {
        use base64::{Engine, engine::general_purpose::STANDARD};
        let Some(bytes) = bytes else {
            return Self::Absent(());
        };
        match std::str::from_utf8(bytes) {
            Ok(text) => Self::Text(text.to_owned()),
            Err(_) => Self::Binary {
                base64: STANDARD.encode(bytes),
            },
        }
    }
}

impl Shown {
    /// Reads a letter with its content.
    pub fn of(letter: &Fetched) -> Self {
        let record = &letter.record;
        let headers = record.headers.iter();
        Self {
            letter: Letter::of(letter, &Returns::default()),
            headers: headers
                .map(|(name, value)| (name.clone(), Contents::of(value.as_deref())))
                .collect(),
            key: Contents::of(record.key.as_deref()),
            value: Contents::of(record.value.as_deref()),
            event: record.value.as_deref().and_then(event),
        }
    }
}

/// The event in a record of `ingress` or `events`.
fn event(value: &[u8]) -> Option<Box<serde_json::value::RawValue>> {
    use crate::envelope::{avro, write_line};
    let event = avro::decode_ingress(value)
        .or_else(|_| avro::decode_event(value).map(|(event, _)| event))
        .ok()?;
    let mut line = Vec::new();
    write_line(&event, None, &mut line);
    serde_json::value::RawValue::from_string(String::from_utf8(line).ok()?).ok()
}
