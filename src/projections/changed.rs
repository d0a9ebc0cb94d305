//! Changed entities, encoded as arrays for one `UPDATE … FROM unnest(…)`.

use super::{
    cache::Slot,
    column::{Column, Element},
};

/// Changed entities that have a row already.
#[derive(Debug)]
pub(super) struct Changed {
    columns: [Column; 10],
    rows: u64,
}

impl Default for Changed {
    fn default() -> Self {
        use Element::{Bigint, Text, Timestamp};
        let columns = [
            Text, Text, Text, Text, Text, Bigint, Text, Timestamp, Timestamp, Bigint,
        ];
        Self {
            columns: columns.map(Column::of),
            rows: 0,
        }
    }
}

impl Changed {
    pub(super) fn push(&mut self, slot: &Slot) {
        let entity = &slot.entity;
        let [
            tenant,
            kind,
            id,
            name,
            state,
            version,
            last_id,
            last_at,
            deleted,
            stored,
        ] = &mut self.columns;
        for (column, part) in [tenant, kind, id].into_iter().zip(slot.key()) {
            column.next().text(part);
        }
        name.next().optional_text(entity.display_name.as_deref());
        state.next().bytes(entity.json());
        version.next().bigint(entity.version);
        last_id.next().text(&entity.last_event_id);
        last_at.next().timestamp(entity.last_event_at);
        match entity.deleted_at {
            Some(at) => deleted.next().timestamp(at),
            None => deleted.next().null(),
        }
        stored.next().bigint(slot.stored_version);
        self.rows += 1;
    }

    pub(super) fn rows(&self) -> u64 {
        self.rows
    }

    pub(super) fn columns(&self) -> &[Column; 10] {
        &self.columns
    }

    /// The allocated size in bytes.
    pub(super) fn capacity(&self) -> usize {
        self.columns.iter().map(Column::capacity).sum()
    }

    pub(super) fn clear(&mut self) {
        for column in &mut self.columns {
            column.clear();
        }
        self.rows = 0;
    }
}
