//! Writing a batch, and reading entities.

use futures_util::TryStreamExt;
use sqlx::{AssertSqlSafe, PgConnection, Row};

use super::{
    changed::Changed,
    error::ProjectionError,
    link::execute,
    offsets::{self, Advance},
    target::Target,
};
use crate::{
    chaos::{self, Bug, planted},
    store::{CopyRows, jsonb_text},
};

/// The rows of a batch, and the offset advances that belong to them.
#[derive(Debug, Default)]
pub(super) struct Rows {
    pub(super) advances: Vec<Advance>,
    pub(super) events: CopyRows,
    /// Entities that have no row yet.
    pub(super) new: CopyRows,
    /// Entities that have a row.
    pub(super) changed: Changed,
}

impl Rows {
    /// Removes all rows and keeps the allocations.
    pub(super) fn clear(&mut self) {
        self.advances.clear();
        self.events.clear();
        self.new.clear();
        self.changed.clear();
    }

    /// The allocated size in bytes.
    pub(super) fn capacity(&self) -> usize {
        self.events.capacity() + self.new.capacity() + self.changed.capacity()
    }
}

/// Which part of its transaction a batch is: the first, the last, both, or neither.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct TransactionPart {
    pub(super) first: bool,
    pub(super) last: bool,
}

/// Writes a batch. The offsets come first, so that a stale owner is fenced before it writes a row. After an error the transaction has
/// ended, or the connection must be closed ([`ProjectionError::keeps_connection`]).
pub(super) async fn write(
    connection: &mut PgConnection,
    target: &Target,
    rows: &Rows,
    part: TransactionPart,
) -> Result<(), ProjectionError> {
    if part.first {
        execute(connection, "BEGIN").await?;
    }
    let mut result = write_rows(connection, target, rows).await;
    if result.is_ok() && part.last {
        result = execute(connection, "COMMIT").await.map_err(Into::into);
    }
    if result
        .as_ref()
        .is_err_and(ProjectionError::keeps_connection)
    {
        execute(connection, "ROLLBACK").await?;
    }
    result
}

async fn write_rows(
    connection: &mut PgConnection,
    target: &Target,
    rows: &Rows,
) -> Result<(), ProjectionError> {
    offsets::advance(connection, target.projection, &rows.advances).await?;
    if planted(Bug::OffsetBeforeRows) {
        execute(connection, "COMMIT").await?;
        tokio::time::sleep(chaos::PAUSE).await;
        execute(connection, "BEGIN").await?;
    }
    if target.events.is_some() && !rows.events.is_empty() {
        let copy = rows.events.send(connection, &target.copy_events);
        copy.await.map_err(ProjectionError::of_rows)?;
    }
    if !rows.new.is_empty() {
        let copy = rows.new.send(connection, &target.copy_entities);
        copy.await.map_err(ProjectionError::of_entities)?;
    }
    if rows.changed.rows() > 0 {
        update(connection, target, &rows.changed).await?;
    }
    Ok(())
}

async fn update(
    connection: &mut PgConnection,
    target: &Target,
    changed: &Changed,
) -> Result<(), ProjectionError> {
    let mut query = sqlx::query(AssertSqlSafe(target.update_entities.as_str()));
    for column in changed.columns() {
        query = query.bind(column);
    }
    let updated = query
        .execute(connection)
        .await
        .map_err(ProjectionError::of_rows)?
        .rows_affected();
    // The statement only changes rows that still have the version that was read. Another lane may write the same row: keys of old events
    // that differ only in U+0000 and U+FFFD are on different partitions of the topic, but the same key in this table.
    if updated == changed.rows() {
        Ok(())
    } else {
        Err(ProjectionError::Raced)
    }
}

/// The row of an entity.
#[derive(Debug)]
pub(super) struct StoredEntity {
    /// The index of its key among the requested keys.
    pub(super) index: usize,
    pub(super) display_name: Option<String>,
    pub(super) state: Vec<u8>,
    pub(super) version: i64,
    pub(super) is_deleted: bool,
}

/// The result of a lookup of entities.
#[derive(Debug)]
pub(super) struct Lookup {
    /// The entities that have a row, in the order of the keys.
    pub(super) rows: Vec<StoredEntity>,
    /// How many of the keys, from the first on, were looked up.
    pub(super) answered: usize,
}

/// Reads the rows of entities until about `max_bytes` bytes of state are read, and at least one row. If not all keys were looked up, the
/// connection is still in the middle of the result set, and must be closed.
pub(super) async fn read_entities(
    connection: &mut PgConnection,
    target: &Target,
    keys: &[[&str; 3]],
    max_bytes: usize,
) -> Result<Lookup, ProjectionError> {
    let column = |part: usize| keys.iter().map(|key| key[part]).collect::<Vec<_>>();
    let mut rows = sqlx::query(AssertSqlSafe(target.read_entities.as_str()))
        .bind(column(0))
        .bind(column(1))
        .bind(column(2))
        .fetch(connection);
    let mut lookup = Lookup {
        rows: Vec::new(),
        answered: keys.len(),
    };
    let mut bytes = 0;
    // Postgres may store a state that it cannot write out (54000): that is an error of the row, not of the server.
    while let Some(row) = rows.try_next().await.map_err(ProjectionError::of_rows)? {
        let state = row.try_get_raw(2)?;
        let state = state.as_bytes().map_err(sqlx::Error::Decode)?;
        bytes += state.len();
        let stored = StoredEntity {
            index: row.try_get::<i64, _>(0)? as usize - 1,
            display_name: row.try_get(1)?,
            state: jsonb_text(state).unwrap_or(b"{}").to_vec(),
            version: row.try_get(3)?,
            is_deleted: row.try_get(4)?,
        };
        let last = stored.index;
        lookup.rows.push(stored);
        if bytes >= max_bytes && last + 1 < keys.len() {
            lookup.answered = last + 1;
            break;
        }
    }
    Ok(lookup)
}
