//! Why a projection cannot go on for now.

use crate::{
    log::LogError,
    store::{Class, StoreError},
};

/// An error of a projection.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProjectionError {
    /// Postgres.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The log.
    #[error("the log: {0}")]
    Log(#[from] LogError),
    /// Another owner has a partition, or a rebuild has changed the tables: what was not committed is dropped.
    #[error("the position in the log has another owner by now, or the tables were rebuilt")]
    Fenced,
    /// An entity's row is not as it was read: another lane has changed it meanwhile. What was not committed is dropped.
    #[error("another lane has changed an entity meanwhile")]
    Raced,
    /// A row is not acceptable to Postgres.
    #[error("{0}")]
    Row(StoreError),
    /// A row is there already: the tables are not as this projection left them.
    #[error(
        "rows after the position are there already ({0}): if nobody else writes to them, run `omnilink rebuild events entities`"
    )]
    Conflict(StoreError),
    /// The table's position lies behind the end of the log: another log, or one that lost its end.
    #[error(
        "projection `{projection}` has read `{topic}`/{partition} up to {position}, but the log ends at {end}: this is another log, or it \
         has lost its end; `omnilink rebuild events entities` makes the tables from the log as it is"
    )]
    AheadOfLog {
        /// The projection.
        projection: String,
        /// The topic.
        topic: String,
        /// The partition.
        partition: u32,
        /// The position in the table.
        position: u64,
        /// The end of the log.
        end: u64,
    },
    /// The topic was deleted and made again: the tables are of the one before.
    #[error(
        "projection `{projection}` has rows of an earlier topic `events` (id {was}, read up to {position}), which was deleted and made \
         again (id {is}): nothing is written until you decide; `omnilink rebuild events entities` makes the tables from the topic \
         as it is now, see docs/how-to/when-a-topic-has-changed.md"
    )]
    AnotherTopic {
        /// The projection.
        projection: String,
        /// The position in the topic before.
        position: u64,
        /// The id of the topic that the rows are of.
        was: String,
        /// The id of the topic that is there.
        is: String,
    },
    /// Another rebuild runs.
    #[error("another rebuild is running on this database")]
    RebuildRuns,
    /// The log did not give what it must have.
    #[error(
        "`{topic}`/{partition} gave no record after offset {offset} within {waited_s} s, though there are more"
    )]
    Silent {
        /// The topic.
        topic: String,
        /// The partition.
        partition: u32,
        /// Where it stopped.
        offset: u64,
        /// How long it was waited for.
        waited_s: u64,
    },
}

impl ProjectionError {
    /// Whether the connection is good still: the server has refused something. After anything else a new one tells more.
    pub(super) fn spares_connection(&self) -> bool {
        matches!(
            self,
            Self::Row(_) | Self::Conflict(_) | Self::Fenced | Self::Raced
        )
    }

    /// As [`ProjectionError::of_rows`], for new rows of `entities`: that one is there already means that another lane made it.
    pub(super) fn of_entities(error: sqlx::Error) -> Self {
        match Self::of_rows(error) {
            Self::Conflict(_) => Self::Raced,
            other => other,
        }
    }

    /// An error of a statement that carried rows.
    pub(super) fn of_rows(error: sqlx::Error) -> Self {
        let error = StoreError::from(error);
        match error.class() {
            // Never the row's own fault.
            Class::Rejected if error.sqlstate().as_deref() == Some("23505") => {
                Self::Conflict(error)
            }
            Class::Rejected => Self::Row(error),
            _ => Self::Store(error),
        }
    }
}

impl From<sqlx::Error> for ProjectionError {
    fn from(error: sqlx::Error) -> Self {
        Self::Store(error.into())
    }
}
