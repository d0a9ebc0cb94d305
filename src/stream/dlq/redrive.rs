//! Redrive: appends dead letters to their original topics again, in log order, so that the order of each key is kept.
//!
//! Redriven letters are recorded in the topic `state.dlq` after each chunk is durable: after a crash between the two the chunk is
//! redriven again with the same redrive count, so that deduplication accepts each of its records once.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use schemars::JsonSchema;
use serde::Serialize;

use super::{
    self as dlq,
    letters::field,
    name::Name,
    redriven,
    returns::{Note, Returns},
};
use crate::{
    controls::SecretKeys,
    log::{
        Append, Fetched, Log, LogError, Record, Unavailable, header, read_ranges, record_size,
        topics::Names,
    },
};

/// The number of letters in a chunk.
const PIECE: usize = 500;
const PIECE_BYTES: usize = 4 << 20;
/// Time limit for the log to confirm a chunk.
const CONFIRM: Duration = Duration::from_secs(35);

/// Which letters are redriven.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Pick {
    /// These, even if they were redriven before.
    Names(BTreeSet<Name>),
    /// All that were never redriven.
    All,
    /// All with this code that were never redriven.
    Code(String),
}

/// Progress and result of a redrive.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, JsonSchema)]
pub struct Redriven {
    /// Letters examined.
    pub done: u64,
    /// Letters to examine.
    pub total: u64,
    /// Letters redriven.
    pub redriven: u64,
    /// Letters that were redriven before and not named explicitly.
    pub left_out: u64,
    /// Letters without an original topic, or from a topic that accepts no redrive.
    pub homeless: u64,
    /// Truncated letters, which cannot be redriven.
    pub truncated: u64,
    /// Letters whose records exceed the current size limit of their topics.
    pub too_large: u64,
    /// Names without a letter.
    pub missing: Vec<Name>,
    /// Names of dead letters of timers, which have no original topic.
    pub timers: Vec<Name>,
}

/// The decision for a letter: the record to append, or why there is none.
enum Decision {
    Append(Append),
    /// The letter has no original topic, or one that accepts no redrive.
    NoTopic,
    Truncated,
    TooLarge,
}

/// The dependencies of a redrive.
pub struct Redrive<'a> {
    /// The log.
    pub log: &'a dyn Log,
    /// The names of its topics.
    pub names: &'a Names,
    /// The keys with which marks are signed.
    pub secrets: &'a SecretKeys,
}

impl Redrive<'_> {
    /// Redrives the letters that exist now. Calls `tell` with the progress, and ends when it returns false. Blocks.
    pub fn run(
        &self,
        pick: &Pick,
        tell: &mut dyn FnMut(&Redriven) -> bool,
    ) -> Result<Redriven, LogError> {
        let returns = Returns::load(self.log, self.names)?;
        let mut stretches = Vec::new();
        let mut outcome = Redriven::default();
        for partition in 0..self.log.partitions(&self.names.dlq)? {
            let marks = self.log.offset_range(&self.names.dlq, partition)?;
            stretches.extend(stretch(pick, partition, marks.start, marks.end));
        }
        outcome.total = stretches.iter().map(|(_, from, to)| to - from).sum();
        let mut missing = match pick {
            Pick::Names(names) => names.clone(),
            Pick::All | Pick::Code(_) => BTreeSet::new(),
        };
        let mut topics = HashSet::new();
        for stretch in stretches {
            let mut piece = Piece::default();
            let mut reader = self.log.reader(&self.names.dlq)?;
            let mut at = stretch.1;
            let mut stopped = false;
            let read = read_ranges(&mut *reader, &[stretch], |letter| {
                let name = Name {
                    partition: letter.partition,
                    offset: letter.offset,
                };
                outcome.done += letter.offset + 1 - at;
                at = letter.offset + 1;
                missing.remove(&name);
                let times = returns.times(name);
                match pick {
                    Pick::Names(names) if !names.contains(&name) => return Ok(()),
                    Pick::Code(code) if field(&letter, "code").as_ref() != Some(code) => {
                        return Ok(());
                    }
                    Pick::All | Pick::Code(_) if times > 0 => {
                        outcome.left_out += 1;
                        return Ok(());
                    }
                    _ => {}
                }
                if header(&letter.record.headers, dlq::TIMER).is_some() {
                    match pick {
                        Pick::Names(_) => outcome.timers.push(name),
                        Pick::All | Pick::Code(_) => outcome.homeless += 1,
                    }
                    return Ok(());
                }
                match self.decide(letter, times) {
                    Decision::Append(append) => piece.push(name, append),
                    Decision::NoTopic => outcome.homeless += 1,
                    Decision::Truncated => outcome.truncated += 1,
                    Decision::TooLarge => outcome.too_large += 1,
                }
                if piece.is_full() {
                    outcome.redriven += self.send(&mut piece, &mut topics)?;
                    if !tell(&outcome) {
                        stopped = true;
                        return Err(Unavailable::Closing.into());
                    }
                }
                Ok(())
            });
            if stopped {
                return Ok(outcome);
            }
            read?;
            outcome.done += stretch.2 - at;
            outcome.redriven += self.send(&mut piece, &mut topics)?;
            if !tell(&outcome) {
                return Ok(outcome);
            }
        }
        outcome.missing = missing.into_iter().collect();
        Ok(outcome)
    }

    /// Decides whether a letter that was redriven `times` times before is redriven.
    fn decide(&self, letter: Fetched, times: u32) -> Decision {
        let (topic, stage) = (field(&letter, "topic"), field(&letter, "stage"));
        let names = self.names;
        let state = &*names.state("");
        let closed = [&*names.controls, &*names.audit, &*names.dlq];
        let open = |topic: &String| {
            !topic.is_empty() && !closed.contains(&topic.as_str()) && !topic.starts_with(state)
        };
        let Some(topic) = topic.filter(open) else {
            return Decision::NoTopic;
        };
        if dlq::is_truncated(&letter.record) {
            return Decision::Truncated;
        }
        let mut record = without_why(letter.record);
        as_batch(&mut record);
        let before = redriven::count(self.secrets, &topic, &record);
        if *topic == *names.events {
            let Some(stage) = stage else {
                return Decision::NoTopic;
            };
            redriven::address(&mut record, &stage);
        } else if *topic == *names.ingress
            && let Some(stage) = stage.filter(|stage| stage.starts_with(redriven::TRIGGER))
        {
            // The event was admitted: only its trigger failed.
            redriven::address(&mut record, &stage);
        }
        let count = before.unwrap_or(0).saturating_add(times).saturating_add(1);
        redriven::mark(self.secrets, &topic, &mut record, count);
        if record_size(&record) > self.log.record_limit(&topic) {
            return Decision::TooLarge;
        }
        Decision::Append(Append {
            topic: topic.into(),
            record,
        })
    }

    /// Redrives a chunk and records it. Returns the number of letters.
    fn send(&self, piece: &mut Piece, topics: &mut HashSet<Arc<str>>) -> Result<u64, LogError> {
        let Piece { names, appends, .. } = std::mem::take(piece);
        for append in &appends {
            if !topics.contains(&append.topic) {
                // A broker may create topics on the first write.
                self.log.partitions(&append.topic)?;
                topics.insert(Arc::clone(&append.topic));
            }
        }
        if appends.is_empty() {
            return Ok(0);
        }
        self.append(appends)?;
        let mut notes: BTreeMap<u32, Vec<(u64, u64)>> = BTreeMap::new();
        for name in &names {
            let ranges = notes.entry(name.partition).or_default();
            match ranges.last_mut() {
                Some((_, to)) if *to == name.offset => *to += 1,
                _ => ranges.push((name.offset, name.offset + 1)),
            }
        }
        let note = |(partition, ranges)| {
            let note = serde_json::to_vec(&Note { partition, ranges });
            let value = note.map_err(|error| LogError::Json {
                what: "the note of redriven letters",
                source: Arc::new(error),
            })?;
            Ok(Append {
                topic: Arc::clone(&self.names.redriven),
                record: Record {
                    key: Some(partition.to_string().into()),
                    value: Some(value.into()),
                    headers: Vec::new(),
                },
            })
        };
        self.append(
            notes
                .into_iter()
                .map(note)
                .collect::<Result<_, LogError>>()?,
        )?;
        Ok(names.len() as u64)
    }

    fn append(&self, appends: Vec<Append>) -> Result<(), LogError> {
        let mut appended = self.log.append(appends, None);
        let began = Instant::now();
        loop {
            match appended.try_recv() {
                Ok(Err(error @ LogError::TooLarge(_))) => {
                    // The topic's size limit was lowered in between.
                    self.log.forget_record_limits();
                    return Err(error);
                }
                Ok(result) => return result.map(drop),
                Err(tokio::sync::oneshot::error::TryRecvError::Closed) => {
                    return Err(Unavailable::Closing.into());
                }
                Err(tokio::sync::oneshot::error::TryRecvError::Empty) => {}
            }
            if began.elapsed() > CONFIRM {
                return Err(Unavailable::NotConfirmed {
                    what: "a chunk of redriven records",
                    within: CONFIRM,
                    advice: Some(
                        "redrive again: deduplication discards records that were already appended",
                    ),
                }
                .into());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// The offsets to read in a partition.
fn stretch(pick: &Pick, partition: u32, start: u64, end: u64) -> Option<(u32, u64, u64)> {
    let (from, to) = match pick {
        Pick::All | Pick::Code(_) => (start, end),
        Pick::Names(names) => {
            let mut mine = names.iter().filter(|name| name.partition == partition);
            let first = mine.next()?;
            let last = mine.next_back().unwrap_or(first);
            (
                first.offset.max(start),
                last.offset.saturating_add(1).min(end),
            )
        }
    };
    (from < to).then_some((partition, from, to))
}

/// The original record.
fn without_why(mut record: Record) -> Record {
    record.headers.retain(|(name, _)| {
        let marks = [redriven::COUNT, redriven::SIGNATURE, redriven::STAGE];
        !name.starts_with(dlq::PREFIX) || marks.contains(&name.as_str())
    });
    record
}

/// A single item of a batch, which has the batch's media type, becomes a batch of one.
fn as_batch(record: &mut Record) {
    let media = header(&record.headers, "content-type").unwrap_or_default();
    let is_batch = media.starts_with(b"application/cloudevents-batch");
    if let Some(value) = record.value.as_ref().filter(|_| is_batch)
        && value.trim_ascii_start().first() != Some(&b'[')
    {
        let mut batch = Vec::with_capacity(value.len() + 2);
        batch.push(b'[');
        batch.extend_from_slice(value);
        batch.push(b']');
        record.value = Some(Bytes::from(batch));
    }
}

/// A chunk that is being redriven.
#[derive(Default)]
struct Piece {
    names: Vec<Name>,
    appends: Vec<Append>,
    bytes: usize,
}

impl Piece {
    fn push(&mut self, name: Name, append: Append) {
        self.names.push(name);
        self.bytes += record_size(&append.record);
        self.appends.push(append);
    }

    fn is_full(&self) -> bool {
        self.names.len() >= PIECE || self.bytes >= PIECE_BYTES
    }
}
