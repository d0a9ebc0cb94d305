//! A batch, written in one transaction, alone or with others.

use futures_util::TryStreamExt;
use sqlx::{AssertSqlSafe, PgConnection, Row};

use super::{
    changed::Changed,
    error::ProjectionError,
    offsets::{self, Step},
    target::Target,
};
use crate::{
    chaos::{self, Bug, planted},
    store::{CopyRows, jsonb_text},
};

/// Rows, and the positions behind them.
#[derive(Debug, Default)]
pub(super) struct Rows {
    pub(super) steps: Vec<Step>,
    pub(super) events: CopyRows,
    /// Entities that have no row yet.
    pub(super) new: CopyRows,
    pub(super) changed: Changed,
}

impl Rows {
    /// Forgets all but the memory.
    pub(super) fn clear(&mut self) {
        self.steps.clear();
        self.events.clear();
        self.new.clear();
        self.changed.clear();
    }

    /// Bytes of memory, about.
    pub(super) fn capacity(&self) -> usize {
        self.events.capacity() + self.new.capacity() + self.changed.capacity()
    }
}

/// Whether a batch is the first of its transaction, the last, both, or neither.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Place {
    pub(super) first: bool,
    pub(super) last: bool,
}

/// Writes a batch: the fence first, so that a stale owner is turned away before it writes a row. After an error the
/// transaction is over.
pub(super) async fn write(
    connection: &mut PgConnection,
    target: &Target,
    rows: &Rows,
    place: Place,
) -> Result<(), ProjectionError> {
    if place.first {
        run(connection, "BEGIN").await?;
    }
    let mut result = write_rows(connection, target, rows).await;
    if result.is_ok() && place.last {
        result = run(connection, "COMMIT").await;
    }
    if result
        .as_ref()
        .is_err_and(ProjectionError::spares_connection)
    {
        run(connection, "ROLLBACK").await?;
    }
    result
}

async fn run(
    connection: &mut PgConnection,
    statement: &'static str,
) -> Result<(), ProjectionError> {
    sqlx::raw_sql(statement).execute(connection).await?;
    Ok(())
}

async fn write_rows(
    connection: &mut PgConnection,
    target: &Target,
    rows: &Rows,
) -> Result<(), ProjectionError> {
    offsets::advance(connection, target.projection, &rows.steps).await?;
    if planted(Bug::OffsetBeforeRows) {
        run(connection, "COMMIT").await?;
        tokio::time::sleep(chaos::PAUSE).await;
        run(connection, "BEGIN").await?;
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
    // The statement changes only rows of the version that they were read with: another lane may write the same row, for keys of
    // older events that differ in U+0000 and U+FFFD alone are one key here, and lie on different partitions.
    if updated == changed.rows() {
        Ok(())
    } else {
        Err(ProjectionError::Raced)
    }
}

/// An entity as the table has it.
#[derive(Debug)]
pub(super) struct Stored {
    /// The index among the keys asked for.
    pub(super) index: usize,
    pub(super) display_name: Option<String>,
    pub(super) state: Vec<u8>,
    pub(super) version: i64,
    pub(super) deleted: bool,
}

/// What was found of entities that were asked for.
#[derive(Debug)]
pub(super) struct Found {
    /// Those that have a row, in the order of the keys.
    pub(super) stored: Vec<Stored>,
    /// For how many of the keys, from the first on, this is the answer.
    pub(super) answered: usize,
}

/// Reads the entities that have a row, as many of them as go into `most` bytes, and at least one. When not all were read,
/// the connection is still in the middle of the answer, and of no use any more.
pub(super) async fn read_entities(
    connection: &mut PgConnection,
    target: &Target,
    keys: &[[&str; 3]],
    most: usize,
) -> Result<Found, ProjectionError> {
    let column = |part: usize| keys.iter().map(|key| key[part]).collect::<Vec<_>>();
    let mut rows = sqlx::query(AssertSqlSafe(target.read_entities.as_str()))
        .bind(column(0))
        .bind(column(1))
        .bind(column(2))
        .fetch(connection);
    let mut found = Found {
        stored: Vec::new(),
        answered: keys.len(),
    };
    let mut bytes = 0;
    // A state may be one that Postgres holds and cannot write out (54000): then it is the entity's fault, not the server's.
    while let Some(row) = rows.try_next().await.map_err(ProjectionError::of_rows)? {
        let state = row.try_get_raw(2)?;
        let state = state.as_bytes().map_err(sqlx::Error::Decode)?;
        bytes += state.len();
        let stored = Stored {
            index: row.try_get::<i64, _>(0)? as usize - 1,
            display_name: row.try_get(1)?,
            state: jsonb_text(state).unwrap_or(b"{}").to_vec(),
            version: row.try_get(3)?,
            deleted: row.try_get(4)?,
        };
        let last = stored.index;
        found.stored.push(stored);
        if bytes >= most && last + 1 < keys.len() {
            found.answered = last + 1;
            break;
        }
    }
    Ok(found)
}
