//! A column of many rows, encoded as an array for `unnest` in Postgres's binary format, so that a row needs no allocation.

use sqlx::{
    AssertSqlSafe, PgConnection, Postgres, Type,
    encode::{Encode, IsNull},
    error::BoxDynError,
    postgres::{PgArgumentBuffer, PgTypeInfo},
};

use crate::store::CopyRows;

/// The type of a column's elements: the OID from Postgres's `pg_type.dat`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Element {
    Text = 25,
    Bigint = 20,
    Timestamp = 1184,
    Bytea = 17,
    Double = 701,
    Jsonb = 3802,
    Inet = 869,
}

impl Element {
    /// The name of the type.
    pub(super) fn sql(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Bigint => "bigint",
            Self::Timestamp => "timestamptz",
            Self::Bytea => "bytea",
            Self::Double => "double precision",
            Self::Jsonb => "jsonb",
            Self::Inet => "inet",
        }
    }
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
    pub(super) fn of(element: Element) -> Self {
        Self {
            element,
            count: 0,
            elements: CopyRows::default(),
        }
    }

    /// Begins the next element, which exactly one field call must write.
    pub(super) fn next(&mut self) -> &mut CopyRows {
        self.count += 1;
        &mut self.elements
    }

    /// The array's header: number of dimensions, whether there may be nulls, element type, element count, lower bound.
    fn header(&self) -> [u8; 20] {
        let mut header = [0; 20];
        let numbers = [1, 1, self.element as i32, self.count, 1];
        for (place, number) in header.chunks_exact_mut(4).zip(numbers) {
            place.copy_from_slice(&number.to_be_bytes());
        }
        header
    }

    /// Writes the array as one field of a row.
    pub(super) fn write_to(&self, row: &mut CopyRows) {
        row.parts(&[&self.header(), self.elements.fields()]);
    }

    /// The allocated size in bytes.
    pub(super) fn capacity(&self) -> usize {
        self.elements.capacity()
    }

    /// Removes all elements and keeps the allocation.
    pub(super) fn clear(&mut self) {
        self.count = 0;
        self.elements.clear();
    }
}

impl Type<Postgres> for Column {
    fn type_info() -> PgTypeInfo {
        <Vec<String> as Type<Postgres>>::type_info()
    }
}

impl Encode<'_, Postgres> for Column {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        buffer.extend_from_slice(&self.header());
        buffer.extend_from_slice(self.elements.fields());
        Ok(IsNull::No)
    }

    fn produces(&self) -> Option<PgTypeInfo> {
        Some(match self.element {
            Element::Text => <Vec<String> as Type<Postgres>>::type_info(),
            Element::Bigint => <Vec<i64> as Type<Postgres>>::type_info(),
            Element::Timestamp => PgTypeInfo::array_of("timestamptz"),
            Element::Bytea => <Vec<Vec<u8>> as Type<Postgres>>::type_info(),
            Element::Double => <Vec<f64> as Type<Postgres>>::type_info(),
            Element::Jsonb => PgTypeInfo::array_of("jsonb"),
            Element::Inet => PgTypeInfo::array_of("inet"),
        })
    }
}

/// The columns of one table, row by row.
pub(super) struct Columns<const N: usize> {
    columns: [Column; N],
    rows: u64,
}

impl<const N: usize> Columns<N> {
    pub(super) fn of(elements: [Element; N]) -> Self {
        Self {
            columns: elements.map(Column::of),
            rows: 0,
        }
    }

    /// The columns of one more row, each of which takes one field.
    pub(super) fn row(&mut self) -> &mut [Column; N] {
        self.rows += 1;
        &mut self.columns
    }

    /// Executes a statement whose parameters are the columns; nothing if there are no rows. Returns how many rows it changed.
    pub(super) async fn write(
        &self,
        transaction: &mut PgConnection,
        statement: &str,
    ) -> Result<u64, sqlx::Error> {
        if self.rows == 0 {
            return Ok(0);
        }
        let mut query = sqlx::query(AssertSqlSafe(statement));
        for column in &self.columns {
            query = query.bind(column);
        }
        Ok(query.execute(transaction).await?.rows_affected())
    }
}
