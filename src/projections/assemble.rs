//! Records become a batch of rows: decoded, encoded, and merged into what is known of their entities.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet, HashSet},
    ops::Range,
    vec::IntoIter,
};

use super::{
    cache::{At, Cache, Known},
    error::ProjectionError,
    offsets::{Owned, Step},
    reject::{Reject, Rejection},
    rows::{entity_row, event_row, storable_data},
    target::Target,
    write::{Found, Rows},
};
use crate::{
    base::clock::Millis,
    entity::{Change, Entity, TooLarge},
    envelope::{Event, avro},
    log::Fetched,
    store::{months::Month, storable_text},
    stream::dlq::redriven,
};

/// A batch is full at so many records…
const RECORDS: usize = 10_000;
/// … or so many bytes of rows…
const BYTES: usize = 8 << 20;
/// … or when so many bytes of entities wait for the commit.
const DIRTY_BYTES: usize = 16 << 20;
/// Entities are looked up for so many records at once…
const CHUNK: usize = 1_024;
/// … or fewer, so that what is read stays about below this. A state of few bytes may be read back as many, for Postgres writes
/// all digits of a number: so it is a bound, not a guess.
pub(super) const LOOKUP_BYTES: usize = 4 << 20;

/// What is written at once.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) records: usize,
    pub(super) rows: Rows,
    /// The months of its events.
    pub(super) months: BTreeSet<Month>,
    month: Range<i64>,
    pub(super) counts: Counts,
}

/// How much was written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Counts {
    pub(super) events: u64,
    pub(super) entities: u64,
    /// When the first of the records was appended.
    pub(super) oldest: Option<Millis>,
}

impl Counts {
    pub(super) fn add(&mut self, more: Self) {
        self.events += more.events;
        self.entities += more.entities;
        self.oldest = [self.oldest, more.oldest].into_iter().flatten().min();
    }
}

/// Entities changed since the last commit: they are written once, with the last batch of a transaction.
#[derive(Debug, Default)]
pub(super) struct Dirty {
    touched: Vec<At>,
    bytes: usize,
}

impl Dirty {
    pub(super) fn is_full(&self) -> bool {
        self.bytes >= DIRTY_BYTES
    }

    pub(super) fn clear(&mut self) {
        self.touched.clear();
        self.bytes = 0;
    }
}

impl Batch {
    pub(super) fn is_empty(&self) -> bool {
        self.records == 0
    }

    pub(super) fn is_full(&self) -> bool {
        self.records >= RECORDS || self.rows.events.len() >= BYTES
    }

    /// Forgets all but its memory.
    pub(super) fn clear(&mut self) {
        self.records = 0;
        self.rows.clear();
        self.months.clear();
        self.month = 0..0;
        self.counts = Counts::default();
    }

    /// Takes note of a month; a row of the same month as the last costs a comparison.
    fn note_month(&mut self, at: Millis) {
        if !self.month.contains(&at.0) {
            let month = Month::of(at);
            self.month = month.start().0..month.next().start().0;
            self.months.insert(month);
        }
    }

    /// Makes the steps of the positions; no record is added afterwards.
    pub(super) fn seal(&mut self, owned: &mut BTreeMap<u32, Owned>) {
        for (&partition, at) in owned.iter_mut().filter(|(_, at)| at.read > at.next) {
            self.rows.steps.push(Step {
                partition,
                from: at.next,
                to: at.read,
                epoch: at.epoch,
                generation: at.generation,
            });
            at.next = at.read;
        }
    }

    /// Makes the rows of the entities: the transaction ends with this batch.
    pub(super) fn seal_entities(&mut self, cache: &mut Cache, dirty: &mut Dirty) {
        // In the order of the index: neighbours share pages.
        let order = |a: &At, b: &At| cache.slot(*a).order().cmp(cache.slot(*b).order());
        dirty.touched.sort_by(order);
        for at in &dirty.touched {
            let slot = cache.slot_mut(*at);
            if slot.entity.version == slot.stored {
                // All its events were rejected.
                continue;
            }
            match slot.known {
                Known::Present => self.rows.changed.push(slot),
                Known::Absent | Known::Asked | Known::No => {
                    slot.known = Known::Present;
                    entity_row(&mut self.rows.new, slot);
                }
            }
            slot.stored = slot.entity.version;
            self.counts.entities += 1;
        }
        dirty.clear();
    }
}

/// Reads the entities of these keys that have a row.
pub(super) type LookUp<'a> = dyn FnMut(&[[&str; 3]]) -> Result<Found, ProjectionError> + 'a;

/// Makes batches.
pub(super) struct Assembler<'a> {
    pub(super) target: &'a Target,
    pub(super) cache: &'a mut Cache,
    /// The number of the transaction.
    pub(super) transaction: u64,
    pub(super) dirty: &'a mut Dirty,
    pub(super) owned: &'a mut BTreeMap<u32, Owned>,
    pub(super) reject: &'a dyn Reject,
    /// Records that were rejected already.
    pub(super) skip: &'a mut HashSet<(u32, u64)>,
    /// How many records are looked up at once; adapts to the size of entities.
    pub(super) chunk: &'a mut usize,
}

/// One decoded record.
struct Decoded<'a> {
    record: &'a Fetched,
    received_at: Millis,
    event: Event<'a>,
}

/// The entity of a decoded record.
#[derive(Clone, Copy)]
struct Placed {
    at: At,
    /// It is the first record of the transaction that names it.
    first: bool,
}

impl Assembler<'_> {
    /// Adds records, in order, until the batch is full, or the entities, or there are no more. `look_up` reads entities that have a row.
    pub(super) fn add(
        &mut self,
        batch: &mut Batch,
        records: &mut IntoIter<Fetched>,
        look_up: &mut LookUp<'_>,
    ) -> Result<(), ProjectionError> {
        let mut chunk = Vec::new();
        while !records.as_slice().is_empty() && !batch.is_full() && !self.dirty.is_full() {
            let owned = &mut *self.owned;
            let due = records.by_ref().filter(|record| {
                // What is not ours must not become a row: nothing would fence it. Nor what is one already.
                let at = owned.get_mut(&record.partition);
                at.filter(|at| record.offset >= at.read)
                    .map(|at| at.read = record.offset + 1)
                    .is_some()
            });
            let room = RECORDS - batch.records;
            chunk.extend(due.take(room.min(*self.chunk)));
            let added = self.add_chunk(batch, &chunk, look_up)?;
            let appended = chunk[..added].iter().map(|record| record.timestamp);
            batch.counts.oldest = appended.chain(batch.counts.oldest).min();
            batch.records += added;
            let rest = chunk.split_off(added);
            chunk.clear();
            if !rest.is_empty() {
                self.put_back(rest, records);
            }
        }
        Ok(())
    }

    /// These are the next to be added after all.
    fn put_back(&mut self, rest: Vec<Fetched>, records: &mut IntoIter<Fetched>) {
        for record in rest.iter().rev() {
            if let Some(at) = self.owned.get_mut(&record.partition) {
                at.read = record.offset;
            }
        }
        *records = rest
            .into_iter()
            .chain(&mut *records)
            .collect::<Vec<_>>()
            .into_iter();
    }

    /// Adds records, and answers how many of them, from the first on: where entities are large, not all are read at once.
    fn add_chunk(
        &mut self,
        batch: &mut Batch,
        records: &[Fetched],
        look_up: &mut LookUp<'_>,
    ) -> Result<usize, ProjectionError> {
        let mut decoded = Vec::with_capacity(records.len());
        let mut rejections = Vec::new();
        for record in records {
            // A record that went back to another processor is a row already. A rebuild meets the first copy of each.
            if self.skip.contains(&(record.partition, record.offset))
                || !redriven::concerns(&record.record, self.target.projection)
            {
                continue;
            }
            match decode(record) {
                Ok(event) => decoded.push(event),
                Err(invalid) => rejections.push(Rejection {
                    record,
                    code: invalid.code,
                    message: invalid.message,
                }),
            }
        }
        self.reject(&rejections)?;
        let (places, added) = self.place(&mut decoded, records, look_up)?;
        let mut rejections = Vec::new();
        let mut scratch = Vec::new();
        for (item, place) in decoded.iter().zip(places) {
            let event = &item.event;
            let data = storable_data(event);
            if let Some(placed) = place
                && let Err(too_large) = self.apply(event, data.as_deref(), placed, &mut scratch)
            {
                rejections.push(Rejection {
                    record: item.record,
                    code: TooLarge::CODE.into(),
                    message: too_large.to_string(),
                });
                continue;
            }
            batch.counts.events += 1;
            if self.target.events.is_some() {
                batch.note_month(item.received_at);
                let at = (item.record.partition, item.record.offset);
                event_row(
                    &mut batch.rows.events,
                    event,
                    data.as_deref(),
                    item.received_at,
                    at,
                );
            }
        }
        self.reject(&rejections)?;
        Ok(added)
    }

    fn reject(&mut self, rejections: &[Rejection<'_>]) -> Result<(), ProjectionError> {
        if rejections.is_empty() {
            return Ok(());
        }
        self.reject.reject(rejections)?;
        // Should the batch have to be made again, they are not rejected again.
        let at = |r: &Rejection<'_>| (r.record.partition, r.record.offset);
        self.skip.extend(rejections.iter().map(at));
        Ok(())
    }

    /// Finds the entities of decoded records, and reads those that the cache does not know. Where that is too much at once,
    /// the last records are dropped from `decoded`. Also answers how many of the `records` remain.
    fn place(
        &mut self,
        decoded: &mut Vec<Decoded<'_>>,
        records: &[Fetched],
        look_up: &mut LookUp<'_>,
    ) -> Result<(Vec<Option<Placed>>, usize), ProjectionError> {
        let mut places: Vec<Option<Placed>> = Vec::with_capacity(decoded.len());
        let mut unknown: Vec<At> = Vec::new();
        for Decoded { event, .. } in &*decoded {
            let Some(entity) = event.entity.as_ref().filter(|_| self.target.entities) else {
                places.push(None);
                continue;
            };
            let (kind, id) = (
                storable_text(&entity.kind),
                storable_text(&entity.external_id),
            );
            let key = [event.tenant.as_str(), &kind, &id];
            let (at, first) = self.cache.place(key, self.transaction);
            if first {
                self.dirty.touched.push(at);
            }
            let slot = self.cache.slot_mut(at);
            if slot.known == Known::No {
                slot.known = Known::Asked;
                unknown.push(at);
            }
            places.push(Some(Placed { at, first }));
        }
        let answered = self.learn(&unknown, look_up)?;
        let Some(next) = unknown.get(answered) else {
            return Ok((places, records.len()));
        };
        let names_next = |place: &Option<Placed>| place.is_some_and(|placed| placed.at == *next);
        let cut = places.iter().position(names_next).unwrap_or(places.len());
        let added = decoded.get(cut).and_then(|item| {
            records
                .iter()
                .position(|record| std::ptr::eq(record, item.record))
        });
        decoded.truncate(cut);
        places.truncate(cut);
        Ok((places, added.unwrap_or(records.len())))
    }

    /// Merges an event into its entity.
    fn apply(
        &mut self,
        event: &Event<'_>,
        data: Option<&str>,
        Placed { at, first }: Placed,
        scratch: &mut Vec<u8>,
    ) -> Result<(), TooLarge> {
        let name = event
            .entity
            .as_ref()
            .and_then(|e| e.display_name.as_deref());
        let name = name.map(storable_text);
        let change = Change {
            event_id: &storable_text(&event.id),
            time: event.time,
            display_name: name.as_deref(),
            data: data.map(str::as_bytes),
            deletes: Change::deletes(&event.kind, event.tombstone),
        };
        let applied = self.cache.slot_mut(at).entity.apply(&change, scratch);
        let (before, after) = self.cache.weigh(at);
        self.dirty.bytes += if first {
            after
        } else {
            after.saturating_sub(before)
        };
        applied
    }

    /// Fills in what the table has of entities that the cache does not know; answers of how many of them, from the first on.
    fn learn(
        &mut self,
        unknown: &[At],
        look_up: &mut LookUp<'_>,
    ) -> Result<usize, ProjectionError> {
        if unknown.is_empty() {
            return Ok(0);
        }
        let keys: Vec<[&str; 3]> = unknown
            .iter()
            .map(|at| self.cache.slot(*at).key())
            .collect();
        let Found { stored, answered } = look_up(&keys)?;
        for (index, at) in unknown.iter().enumerate() {
            self.cache.slot_mut(*at).known = if index < answered {
                Known::Absent
            } else {
                Known::No
            };
        }
        let mut bytes = 0;
        let rows = stored.len();
        for stored in stored {
            let Some(at) = unknown.get(stored.index) else {
                continue;
            };
            bytes += stored.state.len();
            let slot = self.cache.slot_mut(*at);
            slot.known = Known::Present;
            slot.stored = stored.version;
            slot.entity = Entity {
                display_name: stored.display_name,
                state_size: stored.state.len(),
                state: stored.state,
                version: stored.version,
                // Only whether it is deleted counts; the events at hand set the rest.
                deleted_at: stored.deleted.then_some(0),
                ..Entity::default()
            };
        }
        if let Some(each) = bytes.checked_div(rows) {
            *self.chunk = (LOOKUP_BYTES / each.max(1)).clamp(16, CHUNK);
        }
        Ok(answered)
    }
}

/// The number of records that are looked up at once, at first.
pub(super) const FIRST_CHUNK: usize = CHUNK;

fn decode(record: &Fetched) -> Result<Decoded<'_>, crate::envelope::Invalid> {
    let value = record
        .record
        .value
        .as_deref()
        .ok_or_else(|| crate::envelope::Invalid {
            code: Cow::Borrowed("invalid_payload"),
            message: "a record of `events` must have a value".to_owned(),
        })?;
    let (event, received_at) = avro::decode_event(value)?;
    Ok(Decoded {
        record,
        received_at,
        event,
    })
}
