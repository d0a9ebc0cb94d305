//! What can go wrong in a log, and what to do about it.

use super::TopicId;
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
    #[error("topic `{topic}` has {found} partitions, but {expected} are configured; {}", way_out(topic, *expected, *found, *all))]
    PartitionCount {
        /// The topic.
        topic: String,
        /// What the configuration says.
        expected: u32,
        /// What the log has.
        found: u32,
        /// Whether all of OmniLink's topics have that many: then the configuration is wrong, not the topic.
        all: bool,
    },
    /// A topic has more partitions than the state of what reads it: records of a key may lie in another partition than their state.
    #[error(
        "topic `{topic}` has grown to {partitions} partitions, but the state of `{processor}` lies in {changelog_partitions} \
         (`{changelog}`): nothing is read until they agree. Give `{changelog}` {partitions} partitions too \
         (kafka-topics.sh --alter --topic {changelog} --partitions {partitions}), after which a record that is sent again may \
         pass `dedupe` once more, or take `key` out of the topology's `source`; see docs/how-to/when-a-topic-has-changed.md"
    )]
    Grown {
        /// The topic that has more partitions now.
        topic: String,
        /// How many it has.
        partitions: u32,
        /// What reads it.
        processor: String,
        /// The topic that its state is written to.
        changelog: String,
        /// How many partitions that has.
        changelog_partitions: u32,
    },
    /// A topic was deleted and made again while it was read: what reads it begins anew.
    #[error("topic `{topic}` was deleted and made again while it was read (id {was}, now {is})")]
    Recreated {
        /// The topic.
        topic: String,
        /// Its id before.
        was: TopicId,
        /// Its id now.
        is: TopicId,
    },
    /// The topic is the same, but ends before the position: it lost its end.
    #[error(
        "`{processor}` has read `{topic}`/{partition} up to {position}, but it ends at {end}: it has lost its end (an unclean \
         leader election, or a disk that was restored). Nothing is skipped: bring back the replica that has the rest, or stop all \
         nodes and set the position with kafka-consumer-groups.sh --reset-offsets; `omnilink doctor` lists all such \
         positions, docs/how-to/when-a-topic-has-changed.md says how"
    )]
    LostEnd {
        /// What reads it.
        processor: String,
        /// The topic.
        topic: String,
        /// The partition.
        partition: u32,
        /// How far it was read.
        position: u64,
        /// One past the last record there.
        end: u64,
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

/// What to do about a topic with another number of partitions than configured.
pub(super) fn way_out(topic: &str, expected: u32, found: u32, all: bool) -> String {
    if all {
        return format!("all of OmniLink's topics have as many: set topics.partitions to {found}");
    }
    if found < expected {
        return format!(
            "other topics of OmniLink have {expected}: give it as many (kafka-topics.sh --alter --topic {topic} --partitions {expected}); \
             do not set topics.partitions to {found}"
        );
    }
    format!(
        "somebody has added partitions. The first {expected} are used, and what others write to the rest of `ingress` is passed on to \
         them; do not set topics.partitions to {found}, for the other topics have {expected}. To take the rest away, make the topic \
         anew: docs/how-to/when-a-topic-has-changed.md"
    )
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
