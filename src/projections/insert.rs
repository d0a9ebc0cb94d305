//! Inserts rows that most likely are new: `COPY`, and if one of them exists already a statement that leaves it as it is.

use sqlx::{PgConnection, error::DatabaseError};

use super::{
    column::{Columns, Element},
    link::execute,
};
use crate::store::CopyRows;

/// The statements that insert rows into a table with a primary key.
pub(super) struct Insert<const N: usize> {
    elements: [Element; N],
    copy: String,
    where_absent: String,
}

impl<const N: usize> Insert<N> {
    /// Into these columns of a table.
    pub(super) fn into(table: &str, columns: [(&str, Element); N]) -> Self {
        let names = columns.map(|(name, _)| name).join(", ");
        let elements = columns.map(|(_, element)| element);
        let number = |(n, element): (usize, Element)| format!("${}::{}[]", n + 1, element.sql());
        let arrays: Vec<_> = elements.into_iter().enumerate().map(number).collect();
        let arrays = arrays.join(", ");
        Self {
            elements,
            copy: format!("COPY {table} ({names}) FROM STDIN (FORMAT binary)"),
            where_absent: format!(
                "INSERT INTO {table} ({names}) SELECT * FROM unnest({arrays}) ON CONFLICT DO NOTHING"
            ),
        }
    }

    /// Inserts rows, in the caller's transaction; returns how many did not exist.
    pub(super) async fn write(
        &self,
        transaction: &mut PgConnection,
        rows: &CopyRows,
    ) -> Result<u64, sqlx::Error> {
        if rows.is_empty() {
            return Ok(0);
        }
        execute(transaction, "SAVEPOINT new_rows").await?;
        match rows.send(transaction, &self.copy).await {
            Ok(inserted) => {
                execute(transaction, "RELEASE new_rows").await?;
                return Ok(inserted);
            }
            Err(error) => {
                let database = error.as_database_error();
                if !database.is_some_and(DatabaseError::is_unique_violation) {
                    return Err(error);
                }
            }
        }
        execute(transaction, "ROLLBACK TO new_rows").await?;
        let mut columns = Columns::of(self.elements);
        let mut fields = rows.each_field(N);
        for _ in 0..rows.rows() {
            for (column, field) in columns.row().iter_mut().zip(&mut fields) {
                column.next().encoded(field);
            }
        }
        columns.write(transaction, &self.where_absent).await
    }
}
