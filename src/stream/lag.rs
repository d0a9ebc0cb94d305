//! The lag of a processor: the number of unprocessed records and the age of the oldest one.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use schemars::JsonSchema;
use serde::Serialize;

use super::progress::Ends;
use crate::{
    base::clock::Millis,
    log::{Isolation, Log, LogError, Unavailable},
};

/// The lag of one or more partitions.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Lag {
    /// Records not processed yet, those of open transactions included (on Kafka markers of transactions count).
    pub records: u64,
    /// How many of these follow the start of an open transaction, and cannot be read before it ends.
    pub uncommitted: u64,
    /// The age of the oldest readable one, in milliseconds.
    pub age_ms: i64,
}

/// Time limit for reading the oldest unprocessed records.
const DEADLINE: Duration = Duration::from_secs(5);

/// The lag of a position in a partition. Reads the oldest unprocessed record, if any, to learn its age.
pub fn lag(
    log: &dyn Log,
    topic: &str,
    partition: u32,
    next: u64,
    now: Millis,
) -> Result<Lag, LogError> {
    let all = lags(log, topic, &[(partition, next)], now)?;
    all.into_iter().next().unwrap_or_else(|| Ok(Lag::default()))
}

/// The lag of each of these positions (partition, next offset) in a topic; an error for a partition whose end is not known now.
/// Requests all end offsets at once, and reads the oldest unprocessed records concurrently.
pub fn lags(
    log: &dyn Log,
    topic: &str,
    positions: &[(u32, u64)],
    now: Millis,
) -> Result<Vec<Result<Lag, LogError>>, LogError> {
    let name: Arc<str> = topic.into();
    let at: Vec<_> = positions
        .iter()
        .map(|(p, _)| (Arc::clone(&name), *p))
        .collect();
    let ends = ends(log, &at)?;
    let mut all = Vec::with_capacity(positions.len());
    let mut behind = Vec::new();
    for (index, (position, ends)) in positions.iter().zip(ends).enumerate() {
        let unprocessed = unprocessed(log, topic, *position, ends);
        if let Ok((next, ends)) = unprocessed
            && next < ends.stable
        {
            behind.push((index, position.0, next, ends));
        }
        all.push(unprocessed.map(|(next, ends)| open(ends, ends.stable.max(next))));
    }
    let read: Vec<_> = behind.iter().map(|(_, p, next, _)| (*p, *next)).collect();
    let first = first_records(log, topic, &read, DEADLINE)?;
    for ((index, _, next, ends), first) in behind.into_iter().zip(first) {
        let readable = match first {
            First::Record { offset, at } => Lag {
                records: ends.stable.saturating_sub(offset.max(next)),
                uncommitted: 0,
                age_ms: (now.0 - at.0).max(0),
            },
            First::None => Lag::default(),
            First::Unknown => Lag {
                records: ends.stable - next,
                ..Lag::default()
            },
        };
        if let Ok(lag) = &mut all[index] {
            lag.records += readable.records;
            lag.age_ms = readable.age_ms;
        }
    }
    Ok(all)
}

/// Where the unprocessed records of a partition begin, and its ends.
fn unprocessed(
    log: &dyn Log,
    topic: &str,
    (partition, next): (u32, u64),
    ends: Option<Ends>,
) -> Result<(u64, Ends), LogError> {
    let Some(ends) = ends else {
        return Err(LogError::Unavailable(Unavailable::EndUnknown {
            topic: topic.to_owned(),
            partition,
        }));
    };
    if next > ends.high {
        // A position beyond the end does not belong to this log: all records may be unread.
        return Ok((log.offset_range(topic, partition)?.start, ends));
    }
    Ok((next, ends))
}

/// The number of records after the last stable offset.
fn open(ends: Ends, from: u64) -> Lag {
    let uncommitted = ends.high.saturating_sub(from);
    Lag {
        records: uncommitted,
        uncommitted,
        age_ms: 0,
    }
}

/// The first record of a partition from an offset on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum First {
    /// A record exists.
    Record {
        /// Its offset.
        offset: u64,
        /// When it was appended.
        at: Millis,
    },
    /// Only transaction markers up to the end.
    None,
    /// It was not read within the time limit.
    Unknown,
}

/// The first record from each of these offsets (partition, offset) on, read concurrently.
pub fn first_records(
    log: &dyn Log,
    topic: &str,
    from: &[(u32, u64)],
    deadline: Duration,
) -> Result<Vec<First>, LogError> {
    let mut first = vec![First::Unknown; from.len()];
    if from.is_empty() {
        return Ok(first);
    }
    let mut reader = log.reader(topic)?;
    for (partition, offset) in from {
        reader.assign(*partition, *offset)?;
    }
    let mut records = Vec::new();
    let began = Instant::now();
    while first.contains(&First::Unknown) && began.elapsed() < deadline {
        records.clear();
        reader.poll(Duration::from_millis(100), &mut records)?;
        for record in &records {
            let at = from
                .iter()
                .position(|(partition, _)| *partition == record.partition);
            let Some(at) = at.map(|at| &mut first[at]) else {
                continue;
            };
            if *at == First::Unknown {
                *at = First::Record {
                    offset: record.offset,
                    at: record.timestamp,
                };
            }
        }
        for ((partition, _), first) in from.iter().zip(&mut first) {
            if *first == First::Unknown && reader.at_end(*partition) {
                *first = First::None;
            }
        }
    }
    Ok(first)
}

/// The lag of a processor in a partition, as `lag` shows it.
#[derive(Clone, PartialEq, Debug, Serialize, JsonSchema)]
#[schemars(rename = "Lag")]
pub struct Item {
    /// The processor.
    pub processor: String,
    /// The partition of its input; `None` stands for all of them, if the lag is unknown.
    pub partition: Option<u32>,
    /// The number of unprocessed records; `None` if unknown.
    pub records: Option<u64>,
    /// The age of the oldest one in seconds, 0 if there is none; `None` if unknown.
    pub age_s: Option<f64>,
    /// How many of the records wait for the end of an open transaction of their producer.
    #[serde(skip_serializing_if = "is_zero")]
    pub uncommitted: u64,
    /// Why an operator holds the processor, if one does: it takes no records.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub held: Option<String>,
    /// Why the lag is unknown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_zero(n: &u64) -> bool {
    *n == 0
}

impl Item {
    fn of(processor: &str, partition: u32, lag: Lag) -> Self {
        Self {
            processor: processor.to_owned(),
            partition: Some(partition),
            records: Some(lag.records),
            age_s: Some(lag.age_ms as f64 / 1000.0),
            uncommitted: lag.uncommitted,
            held: None,
            error: None,
        }
    }

    /// The item of a processor whose lag is unknown.
    pub fn unknown(processor: impl Into<String>, error: impl Into<String>) -> Self {
        Self {
            processor: processor.into(),
            partition: None,
            records: None,
            age_s: None,
            uncommitted: 0,
            held: None,
            error: Some(error.into()),
        }
    }
}

/// The lag of these positions (partition, next offset) of a processor; a partition whose end is not known now has the error.
pub fn items(
    log: &dyn Log,
    (processor, topic): (&str, &str),
    positions: &[(u32, u64)],
    now: Millis,
) -> Result<Vec<Item>, LogError> {
    let lags = lags(log, topic, positions, now)?;
    let item = |(position, lag): (&(u32, u64), Result<Lag, LogError>)| match lag {
        Ok(lag) => Item::of(processor, position.0, lag),
        Err(error) => Item {
            partition: Some(position.0),
            ..Item::unknown(processor, error.to_string())
        },
    };
    Ok(positions.iter().zip(lags).map(item).collect())
}

/// Committed positions in the form that [`items`] takes: 0 for partitions without one, so that all their records count.
pub fn from_start(positions: &[Option<u64>]) -> Vec<(u32, u64)> {
    let positions = positions.iter().map(|next| next.unwrap_or(0));
    (0..).zip(positions).collect()
}

/// The end offsets of partitions; `None` if currently unknown.
pub fn ends(log: &dyn Log, at: &[(Arc<str>, u32)]) -> Result<Vec<Option<Ends>>, LogError> {
    // In this order, so that a transaction that ends between the two requests does not look open.
    let high = log.end_offsets(at, Isolation::Uncommitted)?;
    let stable = log.end_offsets(at, Isolation::Committed)?;
    let both = |(stable, high): (Option<u64>, Option<u64>)| {
        let stable = stable?;
        let high = high?.max(stable);
        Some(Ends { stable, high })
    };
    Ok(stable.into_iter().zip(high).map(both).collect())
}
