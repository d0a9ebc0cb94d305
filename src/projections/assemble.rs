//! Turns records into a batch of rows: decodes them, encodes their rows, and merges them into their entities.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet, HashSet},
    ops::Range,
    vec::IntoIter,
};

use super::{
    cache::{Cache, Presence, SlotId},
    error::ProjectionError,
    offsets::{Advance, Owned},
    reject::{Reject, Rejection},
    rows::{entity_row, event_row, storable_data},
    target::Target,
    write::{Lookup, Rows},
};
use crate::{
    base::clock::Millis,
    entity::{Change, Entity, TooLarge},
    envelope::{Event, avro},
    log::Fetched,
    store::{months::Month, storable_text},
    stream::dlq::redriven,
};

/// A batch is full at this many records…
const MAX_RECORDS: usize = 10_000;
/// … or at this many bytes of rows…
const MAX_BYTES: usize = 8 << 20;
/// … or when this many bytes of changed entities wait for the commit.
const MAX_DIRTY_BYTES: usize = 16 << 20;
/// Entities are looked up for at most this many records at a time…
const MAX_LOOKUP_RECORDS: usize = 1_024;
/// … or for fewer, so that one lookup reads about this many bytes. It is enforced as a limit, not estimated from what was written:
/// Postgres writes out all digits of a number, so a small state may be read back as a large one.
pub(super) const MAX_LOOKUP_BYTES: usize = 4 << 20;

/// The rows that are written at once.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) records: usize,
    pub(super) rows: Rows,
    /// The months of its events.
    pub(super) months: BTreeSet<Month>,
    /// The month of the last event, in milliseconds since the epoch.
    last_month: Range<i64>,
    pub(super) counts: Counts,
}

/// The numbers of rows written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Counts {
    pub(super) events: u64,
    pub(super) entities: u64,
    /// When the oldest of the records was appended.
    pub(super) oldest: Option<Millis>,
}

impl Counts {
    pub(super) fn add(&mut self, more: Self) {
        self.events += more.events;
        self.entities += more.entities;
        self.oldest = [self.oldest, more.oldest].into_iter().flatten().min();
    }
}

/// Entities changed since the last commit. Each is written once, with the last batch of the transaction.
#[derive(Debug, Default)]
pub(super) struct DirtyEntities {
    slots: Vec<SlotId>,
    bytes: usize,
}

impl DirtyEntities {
    pub(super) fn is_full(&self) -> bool {
        self.bytes >= MAX_DIRTY_BYTES
    }

    pub(super) fn clear(&mut self) {
        self.slots.clear();
        self.bytes = 0;
    }
}

impl Batch {
    pub(super) fn is_empty(&self) -> bool {
        self.records == 0
    }

    pub(super) fn is_full(&self) -> bool {
        self.records >= MAX_RECORDS || self.rows.events.len() >= MAX_BYTES
    }

    /// Removes all rows and keeps the allocations.
    pub(super) fn clear(&mut self) {
        self.records = 0;
        self.rows.clear();
        self.months.clear();
        self.last_month = 0..0;
        self.counts = Counts::default();
    }

    /// Adds the month of a row. Costs one comparison if it is the month of the previous row.
    fn add_month(&mut self, at: Millis) {
        if !self.last_month.contains(&at.0) {
            let month = Month::of(at);
            self.last_month = month.start().0..month.next().start().0;
            self.months.insert(month);
        }
    }

    /// Adds the offset advances of the batch. No record may be added afterwards.
    pub(super) fn seal_offsets(&mut self, owned: &mut BTreeMap<u32, Owned>) {
        for (&partition, at) in owned.iter_mut().filter(|(_, at)| at.read > at.next) {
            self.rows.advances.push(Advance {
                partition,
                from: at.next,
                to: at.read,
                epoch: at.epoch,
                generation: at.generation,
            });
            at.next = at.read;
        }
    }

    /// Adds the rows of the changed entities, because the transaction ends with this batch.
    pub(super) fn seal_entities(&mut self, cache: &mut Cache, dirty: &mut DirtyEntities) {
        // In the order of the primary key, so that neighbours share index pages.
        let order =
            |a: &SlotId, b: &SlotId| cache.slot(*a).sort_key().cmp(cache.slot(*b).sort_key());
        dirty.slots.sort_by(order);
        for at in &dirty.slots {
            let slot = cache.slot_mut(*at);
            if slot.entity.version == slot.stored_version {
                // All events of this entity were rejected.
                continue;
            }
            match slot.presence {
                Presence::Present => self.rows.changed.push(slot),
                Presence::Absent | Presence::Requested | Presence::Unknown => {
                    slot.presence = Presence::Present;
                    entity_row(&mut self.rows.new, slot);
                }
            }
            slot.stored_version = slot.entity.version;
            self.counts.entities += 1;
        }
        dirty.clear();
    }
}

/// Reads the rows of the entities with the given keys.
pub(super) type LookUp<'a> = dyn FnMut(&[[&str; 3]]) -> Result<Lookup, ProjectionError> + 'a;

/// Fills batches with records.
pub(super) struct Assembler<'a> {
    pub(super) target: &'a Target,
    pub(super) cache: &'a mut Cache,
    /// The number of the open transaction.
    pub(super) transaction: u64,
    pub(super) dirty: &'a mut DirtyEntities,
    pub(super) owned: &'a mut BTreeMap<u32, Owned>,
    pub(super) reject: &'a dyn Reject,
    /// Records that were already rejected, by partition and offset.
    pub(super) rejected: &'a mut HashSet<(u32, u64)>,
    /// For how many records entities are looked up at a time. Adapts to the size of the entities.
    pub(super) lookup_records: &'a mut usize,
}

struct Decoded<'a> {
    record: &'a Fetched,
    received_at: Millis,
    event: Event<'a>,
}

/// The entity of a decoded record.
#[derive(Clone, Copy)]
struct EntityRef {
    slot: SlotId,
    /// Whether this is the first record of the transaction with this entity.
    is_first: bool,
}

impl Assembler<'_> {
    /// Adds records in order until the batch or the set of changed entities is full, or no records are left. `look_up` reads the
    /// entities that are not cached.
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
                // Records of partitions that are not owned must not become rows, because nothing would fence them; nor must records
                // that are rows already.
                let at = owned.get_mut(&record.partition);
                at.filter(|at| record.offset >= at.read)
                    .map(|at| at.read = record.offset + 1)
                    .is_some()
            });
            let room = MAX_RECORDS - batch.records;
            chunk.extend(due.take(room.min(*self.lookup_records)));
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

    /// Returns records to the front of the iterator.
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

    /// Adds the first records of a chunk, and returns how many: if their entities are large, not all are looked up at once.
    fn add_chunk(
        &mut self,
        batch: &mut Batch,
        records: &[Fetched],
        look_up: &mut LookUp<'_>,
    ) -> Result<usize, ProjectionError> {
        let mut decoded = Vec::with_capacity(records.len());
        let mut rejections = Vec::new();
        for record in records {
            // A record that was redriven for another processor is a row already. A rebuild reads the first copy of each.
            if self.rejected.contains(&(record.partition, record.offset))
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
        let (entities, added) = self.resolve_entities(&mut decoded, records, look_up)?;
        let mut rejections = Vec::new();
        let mut scratch = Vec::new();
        for (item, entity) in decoded.iter().zip(entities) {
            let event = &item.event;
            let data = storable_data(event);
            if let Some(entity) = entity
                && let Err(too_large) = self.apply(event, data.as_deref(), entity, &mut scratch)
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
                batch.add_month(item.received_at);
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
        // If the batch is assembled again, these records must not be rejected a second time.
        let at = |r: &Rejection<'_>| (r.record.partition, r.record.offset);
        self.rejected.extend(rejections.iter().map(at));
        Ok(())
    }

    /// Finds or creates the cache slots of the decoded records' entities, and loads those that are not cached. If that is too much
    /// at once, truncates `decoded`. Also returns how many of `records` remain.
    fn resolve_entities(
        &mut self,
        decoded: &mut Vec<Decoded<'_>>,
        records: &[Fetched],
        look_up: &mut LookUp<'_>,
    ) -> Result<(Vec<Option<EntityRef>>, usize), ProjectionError> {
        let mut entities: Vec<Option<EntityRef>> = Vec::with_capacity(decoded.len());
        let mut unknown: Vec<SlotId> = Vec::new();
        for Decoded { event, .. } in &*decoded {
            let Some(entity) = event.entity.as_ref().filter(|_| self.target.entities) else {
                entities.push(None);
                continue;
            };
            let (kind, id) = (
                storable_text(&entity.kind),
                storable_text(&entity.external_id),
            );
            let key = [event.tenant.as_str(), &kind, &id];
            let (id, is_first) = self.cache.get_or_insert(key, self.transaction);
            if is_first {
                self.dirty.slots.push(id);
            }
            let slot = self.cache.slot_mut(id);
            if slot.presence == Presence::Unknown {
                slot.presence = Presence::Requested;
                unknown.push(id);
            }
            entities.push(Some(EntityRef { slot: id, is_first }));
        }
        let answered = self.load(&unknown, look_up)?;
        let Some(next) = unknown.get(answered) else {
            return Ok((entities, records.len()));
        };
        // The first record whose entity was not loaded, and all after it, must wait for the next lookup.
        let is_next =
            |entity: &Option<EntityRef>| entity.is_some_and(|entity| entity.slot == *next);
        let cut = entities.iter().position(is_next).unwrap_or(entities.len());
        let added = decoded.get(cut).and_then(|item| {
            records
                .iter()
                .position(|record| std::ptr::eq(record, item.record))
        });
        decoded.truncate(cut);
        entities.truncate(cut);
        Ok((entities, added.unwrap_or(records.len())))
    }

    /// Merges an event into its entity.
    fn apply(
        &mut self,
        event: &Event<'_>,
        data: Option<&str>,
        EntityRef { slot, is_first }: EntityRef,
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
        let applied = self.cache.slot_mut(slot).entity.apply(&change, scratch);
        let (before, after) = self.cache.update_weight(slot);
        self.dirty.bytes += if is_first {
            after
        } else {
            after.saturating_sub(before)
        };
        applied
    }

    /// Loads the rows of the given slots from the table. Returns for how many of them, from the first on, the table has answered.
    fn load(
        &mut self,
        unknown: &[SlotId],
        look_up: &mut LookUp<'_>,
    ) -> Result<usize, ProjectionError> {
        if unknown.is_empty() {
            return Ok(0);
        }
        let keys: Vec<[&str; 3]> = unknown
            .iter()
            .map(|at| self.cache.slot(*at).key())
            .collect();
        let Lookup { rows, answered } = look_up(&keys)?;
        for (index, at) in unknown.iter().enumerate() {
            self.cache.slot_mut(*at).presence = if index < answered {
                Presence::Absent
            } else {
                Presence::Unknown
            };
        }
        let mut bytes = 0;
        let count = rows.len();
        for stored in rows {
            let Some(at) = unknown.get(stored.index) else {
                continue;
            };
            bytes += stored.state.len();
            let slot = self.cache.slot_mut(*at);
            slot.presence = Presence::Present;
            slot.stored_version = stored.version;
            slot.entity = Entity {
                display_name: stored.display_name,
                state_size: stored.state.len(),
                state: stored.state,
                version: stored.version,
                // Only whether it is deleted matters here: the event that is applied next sets the time.
                deleted_at: stored.is_deleted.then_some(0),
                ..Entity::default()
            };
        }
        if let Some(average) = bytes.checked_div(count) {
            *self.lookup_records =
                (MAX_LOOKUP_BYTES / average.max(1)).clamp(16, MAX_LOOKUP_RECORDS);
        }
        Ok(answered)
    }
}

/// The initial value of [`Assembler::lookup_records`].
pub(super) const INITIAL_LOOKUP_RECORDS: usize = MAX_LOOKUP_RECORDS;

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
