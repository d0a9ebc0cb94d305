//! Changed entities, encoded as arrays for one `UPDATE … FROM unnest(…)`: one buffer for each column, in Postgres's binary array
//! format, so that a row needs no allocation.

use sqlx::{
    Postgres, Type,
    encode::{Encode, IsNull},
    error::BoxDynError,
    postgres::{PgArgumentBuffer, PgTypeInfo},
};

use super::cache::Slot;
use crate::store::CopyRows;

/// The type of a column's elements: the OID from Postgres's `pg_type.dat`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Element {
    Text = 25,
    Bigint = 20,
    Timestamp = 1184,
}

/// One column: a one-dimensional array.
#[derive(Debug)]
pub(super) struct Column {
    element: Element,
    count: i32,
    /// Arrays and `COPY` encode a field in the same way: its length, then its bytes.
    elements: CopyRows,
}

impl Column {
    fn of(element: Element) -> Self {
        Self {
            element,
            count: 0,
            elements: CopyRows::default(),
        }
    }

    fn next(&mut self) -> &mut CopyRows {
        self.count += 1;
        &mut self.elements
    }
}

impl Type<Postgres> for Column {
    fn type_info() -> PgTypeInfo {
        <Vec<String> as Type<Postgres>>::type_info()
    }
}

impl Encode<'_, Postgres> for Column {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        // The array header: number of dimensions, whether there may be nulls, element type, element count, lower bound.
        for number in [1, 1, self.element as i32, self.count, 1] {
            buffer.extend_from_slice(&number.to_be_bytes());
        }
        buffer.extend_from_slice(self.elements.fields());
        Ok(IsNull::No)
    }

    fn produces(&self) -> Option<PgTypeInfo> {
        Some(match self.element {
            Element::Text => <Vec<String> as Type<Postgres>>::type_info(),
            Element::Bigint => <Vec<i64> as Type<Postgres>>::type_info(),
            Element::Timestamp => PgTypeInfo::array_of("timestamptz"),
        })
    }
}

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
        self.columns.iter().map(|c| c.elements.capacity()).sum()
    }

    pub(super) fn clear(&mut self) {
        for column in &mut self.columns {
            column.count = 0;
            column.elements.clear();
        }
        self.rows = 0;
    }
}
