//! Errors of the embedded log itself.

use std::sync::Arc;

/// An error of the embedded log. Always fatal; errors of its store are [`crate::state::StateError`].
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum LocalError {
    /// A batch of records cannot be read back: the data directory was changed, or a newer version wrote it.
    #[error(
        "a batch of the log is damaged, or was written by a newer version: `{topic}`/{partition} from offset {base} on"
    )]
    DamagedBatch {
        /// The full topic name.
        topic: Arc<str>,
        /// The partition, from 0.
        partition: u32,
        /// The batch's first offset.
        base: u64,
    },
    /// The row that lists the topics cannot be read back.
    #[error("the list of topics is damaged: {0}")]
    DamagedTopics(#[source] Arc<serde_json::Error>),
    /// The committer thread has ended because of a panic, which it has reported.
    #[error("the log has stopped")]
    Stopped,
}
