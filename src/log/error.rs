//! What can go wrong in a log, and what to do about it.

use crate::state::StateError;

/// What the caller does about an error.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Class {
    /// Do the same again after a pause.
    Retriable,
    /// Nothing was committed: drop uncommitted work, go back to the committed position, go on.
    Abortable,
    /// This lane or reader is over: build a new one. If that fails too, stop.
    Fatal,
}

/// An error of the log.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// The log does not answer, or did not confirm in time; the outcome may be unknown.
    #[error("the log is unavailable: {0}")]
    Unavailable(String),
    /// The disk is full. Nothing was written.
    #[error("the disk is full: {0}")]
    DiskFull(String),
    /// Another owner has taken this lane's place.
    #[error("fenced: {0}")]
    Fenced(String),
    /// The transaction was aborted.
    #[error("transaction aborted: {0}")]
    Aborted(String),
    /// No such topic.
    #[error("there is no topic `{0}`; `omnilink topics create` makes it")]
    UnknownTopic(String),
    /// A topic has another number of partitions than configured. They never change once made.
    #[error(
        "topic `{topic}` has {found} partitions, but {expected} are configured; set topics.partitions to {found}"
    )]
    PartitionCount {
        /// The topic.
        topic: String,
        /// What the configuration says.
        expected: u32,
        /// What the log has.
        found: u32,
    },
    /// A position outside the log.
    #[error("offset {offset} of `{topic}`/{partition} is outside the log ({start} to {end})")]
    OutOfRange {
        /// The topic.
        topic: String,
        /// The partition.
        partition: u32,
        /// The offset asked for.
        offset: u64,
        /// The first offset there.
        start: u64,
        /// One past the last.
        end: u64,
    },
    /// A record is larger than the log takes.
    #[error("a record of {0} bytes is larger than the log takes")]
    TooLarge(usize),
    /// The keyed state on this node cannot be read or written.
    #[error(transparent)]
    State(#[from] StateError),
    /// Anything else: the log's own words.
    #[error("{0}")]
    Fatal(String),
}

impl LogError {
    /// What to do about it.
    pub fn class(&self) -> Class {
        match self {
            Self::Unavailable(_) | Self::DiskFull(_) => Class::Retriable,
            Self::Aborted(_) => Class::Abortable,
            _ => Class::Fatal,
        }
    }
}
