//! Errors of projections.

use super::{
    target::{ODOO, ODOO_DLQ, ODOO_INGRESS, PROJECTION},
    topics,
};
use crate::{
    log::{LogError, topics::Names},
    store::{Class, StoreError},
};

/// An error of a projection.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProjectionError {
    /// An error of Postgres.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// An error of the log.
    #[error("the log: {0}")]
    Log(#[from] LogError),
    /// A partition has another owner, or a rebuild has replaced the tables. Uncommitted rows are discarded.
    #[error("the partition has another owner, or the tables were rebuilt")]
    Fenced,
    /// Another lane has changed an entity's row since it was read. Uncommitted rows are discarded.
    #[error("another lane has changed the row of an entity")]
    Raced,
    /// Postgres refuses a row.
    #[error("{0}")]
    Row(StoreError),
    /// A row exists already: something else has written to the tables.
    #[error(
        "the tables already contain rows after the projected offset ({0}): if nothing else writes to them, run \
         `omnilink rebuild events entities`"
    )]
    Conflict(StoreError),
    /// The projected offset is beyond the end of the log: this is a different log, or its end was lost.
    #[error(
        "projection `{projection}` has read `{topic}`/{partition} up to offset {position}, but the log ends at {end}: this is a different \
         log, or its last records were lost; `omnilink rebuild {}` builds the tables from the log as it is now",
        rebuild_names(projection)
    )]
    AheadOfLog {
        /// The projection.
        projection: String,
        /// The topic.
        topic: String,
        /// The partition.
        partition: u32,
        /// The next offset according to the table.
        position: u64,
        /// The end offset of the log.
        end: u64,
    },
    /// The topic was deleted and recreated: the tables hold rows of the deleted topic.
    #[error(
        "projection `{projection}` has rows of an earlier topic `{}` (id {was}, read up to {position}), which was deleted and \
         recreated (id {is}): nothing is written until you decide; `omnilink rebuild {}` builds the tables from the \
         topic as it is now, see docs/how-to/when-a-topic-has-changed.md",
        topic_name(projection),
        rebuild_names(projection)
    )]
    AnotherTopic {
        /// The projection.
        projection: String,
        /// The next offset in the deleted topic.
        position: u64,
        /// The id of the deleted topic.
        was: String,
        /// The id of the current topic.
        is: String,
    },
    /// Another rebuild is running.
    #[error("another rebuild is running on this database")]
    RebuildRunning,
    /// The log returned no records, though its end is further on.
    #[error(
        "`{topic}`/{partition} returned no record from offset {offset} within {waited_s} s, though the log has more"
    )]
    NoRecords {
        /// The topic.
        topic: String,
        /// The partition.
        partition: u32,
        /// The offset that was to be read next.
        offset: u64,
        /// How long the reader waited, in seconds.
        waited_s: u64,
    },
}

impl ProjectionError {
    /// Whether the connection can still be used: the server refused a statement. After any other error a new connection is opened.
    pub(super) fn keeps_connection(&self) -> bool {
        matches!(
            self,
            Self::Row(_) | Self::Conflict(_) | Self::Fenced | Self::Raced
        )
    }

    /// Like [`ProjectionError::of_rows`], for new rows of `entities`: if a row exists already, another lane has created it.
    pub(super) fn of_entities(error: sqlx::Error) -> Self {
        match Self::of_rows(error) {
            Self::Conflict(_) => Self::Raced,
            other => other,
        }
    }

    /// The error of a statement that wrote rows.
    pub(super) fn of_rows(error: sqlx::Error) -> Self {
        let error = StoreError::from(error);
        match error.class() {
            // A unique violation is never caused by the row's own contents.
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

/// What `omnilink rebuild` is called with to build all tables of a projection anew.
fn rebuild_names(projection: &str) -> &str {
    match projection {
        PROJECTION => "events entities",
        ODOO_DLQ | ODOO_INGRESS => ODOO,
        other => other,
    }
}

/// The topic that a projection reads, without its prefix.
fn topic_name(projection: &str) -> String {
    let topics = topics(&Names::new(""));
    let topic = topics.into_iter().find(|(name, _)| *name == projection);
    topic.map_or_else(|| projection.to_owned(), |(_, topic)| topic.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_topic_of_each_projection_is_named() {
        for (projection, topic) in topics(&Names::new("")) {
            let error = ProjectionError::AnotherTopic {
                projection: projection.to_owned(),
                position: 7,
                was: "a".into(),
                is: "b".into(),
            };
            let error = error.to_string();
            let named = format!("`{projection}` has rows of an earlier topic `{topic}` (");
            assert!(error.contains(&named), "{error}");
        }
        assert_eq!(topic_name("tasks"), "steps");
    }
}
