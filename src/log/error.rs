//! Errors of the log, and their classes.

use std::{any::Any, borrow::Cow, io, path::PathBuf, sync::Arc, time::Duration};

#[cfg(feature = "kafka")]
use super::kafka::KafkaError;
use super::{TopicId, local::LocalError};
use crate::{base::panics::panic_message, state::StateError};

/// How the caller must handle an error.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Class {
    /// Repeat the call after a pause.
    Retriable,
    /// Nothing was committed: drop uncommitted work, seek to the committed position, and continue.
    Abortable,
    /// This lane or reader cannot be used any more: build a new one. If that fails too, stop.
    Fatal,
}

/// An error of the log.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// The log is unavailable, or did not confirm in time; the outcome may be unknown.
    #[error("the log is unavailable: {0}")]
    Unavailable(#[source] Unavailable),
    /// The disk of the embedded log has too little free space. Nothing was written.
    #[error(
        "the disk is full: less than {min_free_mib} MiB are free under {}; appends are refused until there is room",
        dir.display()
    )]
    DiskFull {
        /// The log's directory.
        dir: PathBuf,
        /// The required free space, in MiB.
        min_free_mib: u64,
    },
    /// Another owner has fenced this lane.
    #[error("fenced: {0}")]
    Fenced(#[source] Fenced),
    /// The transaction was aborted because of this error.
    #[error("transaction aborted: {0}")]
    Aborted(#[source] Arc<Self>),
    /// The topic, or with `/` and a number the partition, does not exist.
    #[error("there is no topic `{0}`; `omnilink topics create` makes it")]
    UnknownTopic(String),
    /// The partition count of a topic differs from the configuration. It never changes once the topic exists.
    #[error("topic `{topic}` has {found} partitions, but {expected} are configured; {}", way_out(topic, *expected, *found, *all))]
    PartitionCount {
        /// The full topic name.
        topic: String,
        /// The configured partition count.
        expected: u32,
        /// The partition count in the log.
        found: u32,
        /// Whether all of OmniLink's topics have that count: then the configuration is wrong, not the topic.
        all: bool,
    },
    /// A topic has more partitions than the changelog of its processor: the state of a key may be in another partition than its records.
    #[error(
        "topic `{topic}` has grown to {partitions} partitions, but the state of `{processor}` lies in {changelog_partitions} \
         (`{changelog}`): nothing is read until they agree. Give `{changelog}` {partitions} partitions too \
         (kafka-topics.sh --alter --topic {changelog} --partitions {partitions}), after which a record that is sent again may \
         pass `dedupe` once more, or take `key` out of the topology's `source`; see docs/how-to/when-a-topic-has-changed.md"
    )]
    Grown {
        /// The topic that has more partitions now.
        topic: String,
        /// Its partition count.
        partitions: u32,
        /// The processor that reads it.
        processor: String,
        /// The changelog topic of the processor's state.
        changelog: String,
        /// The partition count of the changelog.
        changelog_partitions: u32,
    },
    /// A topic was deleted and recreated while it was read: its reader starts anew.
    #[error("topic `{topic}` was deleted and recreated while it was read (id {was}, now {is})")]
    Recreated {
        /// The full topic name.
        topic: String,
        /// The id of the deleted topic.
        was: TopicId,
        /// The id of the new topic.
        is: TopicId,
    },
    /// The topic has the same id, but ends before the position: its log was truncated.
    #[error(
        "`{processor}` has read `{topic}`/{partition} up to {position}, but it ends at {end}: it has lost its end (an unclean \
         leader election, or a disk that was restored). Nothing is skipped: bring back the replica that has the rest, or stop all \
         nodes and set the position with kafka-consumer-groups.sh --reset-offsets; `omnilink doctor` lists all such \
         positions, docs/how-to/when-a-topic-has-changed.md says how"
    )]
    LostEnd {
        /// The processor that reads it.
        processor: String,
        /// The full topic name.
        topic: String,
        /// The partition, from 0.
        partition: u32,
        /// The position of the processor: the next offset to read.
        position: u64,
        /// One past the last record of the partition.
        end: u64,
    },
    /// The offset is outside the log.
    #[error("offset {offset} of `{topic}`/{partition} is outside the log ({start} to {end})")]
    OutOfRange {
        /// The full topic name.
        topic: String,
        /// The partition, from 0.
        partition: u32,
        /// The requested offset.
        offset: u64,
        /// The first offset of the partition.
        start: u64,
        /// One past the last offset.
        end: u64,
    },
    /// A record of this many bytes exceeds the limit of the topic; 0: its size is unknown.
    #[error("{} exceeds the record limit of the topic", sized_record(*.0))]
    TooLarge(usize),
    /// Keyed state on this node cannot be read or written.
    #[error(transparent)]
    State(#[from] StateError),
    /// The embedded log failed.
    #[error(transparent)]
    Local(#[from] LocalError),
    /// A permanent error of Kafka: the client failed, or the request is not allowed.
    #[cfg(feature = "kafka")]
    #[error(transparent)]
    Kafka(Arc<KafkaError>),
    /// A transaction failed, and so did its abort: its outcome is read back from the log.
    #[error("{failed}; {}", not_ended(abort.as_deref(), replacement.as_deref()))]
    NotEnded {
        /// The error of the transaction.
        #[source]
        failed: Arc<Self>,
        /// The error of the abort; `None`: not attempted.
        abort: Option<Arc<Self>>,
        /// The error of making a new producer, which would abort it; `None`: not attempted.
        replacement: Option<Arc<Self>>,
    },
    /// A lane needs keyed state, and this log was opened without.
    #[error("a lane needs keyed state, and this log was opened without")]
    Stateless,
    /// Events cannot be replayed into OmniLink's own topics.
    #[error(
        "`{topic}` is one of OmniLink's own topics (`{prefix}…`); events cannot be replayed into these"
    )]
    OwnTopic {
        /// The full topic name.
        topic: String,
        /// The prefix of the names of OmniLink's own topics.
        prefix: String,
    },
    /// The operating system could not start a thread.
    #[error(transparent)]
    Thread(#[from] ThreadError),
    /// A thread panicked, or a function in it.
    #[error("{what} panicked: {message}")]
    Panicked {
        /// The thread or function, as in "making topics".
        what: &'static str,
        /// The panic message.
        message: String,
    },
    /// A file beside the log cannot be read.
    #[error("{what} {}: {source}", path.display())]
    File {
        /// The purpose of the file, such as "the index".
        what: &'static str,
        /// The path of the file.
        path: PathBuf,
        /// The error of the operating system.
        source: Arc<io::Error>,
    },
    /// A value cannot be serialized as JSON.
    #[error("{what} cannot be written as JSON: {source}")]
    Json {
        /// The value, such as "the list of topics".
        what: &'static str,
        /// The error of the serializer.
        source: Arc<serde_json::Error>,
    },
}

/// Why a log is unavailable, or did not confirm in time.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Unavailable {
    /// The log is being closed, as when the node stops.
    #[error("the log is closing")]
    Closing,
    /// The write queue is full.
    #[error("{of} does not keep up; the queue is full")]
    QueueFull {
        /// What does not keep up: "Kafka" or "the disk".
        of: &'static str,
    },
    /// Appended records were not confirmed in time; they may be in the log or not.
    #[error("{what} was not confirmed within {} s{}", within.as_secs(), after(*advice))]
    NotConfirmed {
        /// What was appended, such as "a dead letter".
        what: &'static str,
        /// The time limit that has passed.
        within: Duration,
        /// What the user can do, unless the append is retried automatically.
        advice: Option<&'static str>,
    },
    /// Records that must exist were not returned in time.
    #[error("no record of {of} came within {} s", within.as_secs())]
    NoRecord {
        /// What is read, such as "partition 3".
        of: String,
        /// The time limit that has passed.
        within: Duration,
    },
    /// The brokers do not return the id of a topic, which is needed to use a position in it.
    #[error("the brokers do not return the id of topic `{topic}`")]
    TopicUnidentified {
        /// The full topic name.
        topic: String,
    },
    /// The brokers have not confirmed the ids of topics recently, without which nothing is committed.
    #[error("the brokers do not confirm the ids of topics")]
    TopicsUnidentified,
    /// The end offset of a partition is unknown, as during a leader election.
    #[error("the end of `{topic}`/{partition} is not known: it has no leader now")]
    EndUnknown {
        /// The full topic name.
        topic: String,
        /// The partition, from 0.
        partition: u32,
    },
    /// The changelog cannot be read to its end.
    #[error(
        "`{changelog}`/{partition} has an open transaction at offset {offset}, and what its last owner committed may be in it; \
         it ends when that producer ends it, or after the producer's transaction.timeout.ms"
    )]
    OpenTransaction {
        /// The full name of the changelog topic.
        changelog: String,
        /// The partition, from 0.
        partition: u32,
        /// The last stable offset, at which the transaction begins.
        offset: u64,
    },
    /// The record limit of the dead-letter topic is too small for any dead letter, so processors that have one wait.
    #[error(
        "topic `{dlq}` takes {limit} bytes a record: not even the reason of a dead letter fits; raise its max.message.bytes"
    )]
    TooNarrow {
        /// The full name of the dead-letter topic.
        dlq: String,
        /// Its record limit, in bytes.
        limit: usize,
    },
    /// A transform waits for a resource after it has changed its state, which only an abort can roll back.
    #[error("{waits_for}")]
    TransformWaits {
        /// What it waits for, as described by the transform.
        waits_for: String,
    },
    /// A transform cannot close its transaction, whatever records are in it.
    #[error("the transform fails when its transaction is closed: {message}")]
    TransformNotClosed {
        /// The stable code of the failure.
        code: Cow<'static, str>,
        /// The error message.
        message: String,
    },
    /// The operating system could not start a thread.
    #[error(transparent)]
    Thread(#[from] ThreadError),
    /// Kafka does not answer, or answered with a transient error.
    #[cfg(feature = "kafka")]
    #[error(transparent)]
    Kafka(Arc<KafkaError>),
}

/// Which owner has fenced a lane.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Fenced {
    /// A newer lane of the same process.
    #[error("a newer lane of `{processor}` has taken over")]
    NewerLane {
        /// The name of the processor.
        processor: Arc<str>,
    },
    /// Another member owns the partition.
    #[error("another member of `{processor}` owns the partition")]
    OtherOwner {
        /// The name of the processor.
        processor: Arc<str>,
    },
    /// A newer member or producer, as reported by the brokers.
    #[cfg(feature = "kafka")]
    #[error(transparent)]
    Kafka(Arc<KafkaError>),
}

/// The operating system could not start a thread.
#[derive(Debug, Clone, thiserror::Error)]
#[error("cannot start a thread (`{name}`): {source}")]
pub struct ThreadError {
    /// The thread's name.
    pub name: &'static str,
    /// The error of the operating system.
    pub source: Arc<io::Error>,
}

impl ThreadError {
    /// The thread with this name could not be started.
    pub(crate) fn new(name: &'static str, source: io::Error) -> Self {
        let source = Arc::new(source);
        Self { name, source }
    }
}

impl From<Unavailable> for LogError {
    fn from(why: Unavailable) -> Self {
        Self::Unavailable(why)
    }
}

fn sized_record(bytes: usize) -> String {
    match bytes {
        0 => "a record".to_owned(),
        bytes => format!("a record of {bytes} bytes"),
    }
}

fn after(advice: Option<&str>) -> String {
    advice.map_or_else(String::new, |advice| format!("; {advice}"))
}

fn not_ended(abort: Option<&LogError>, replacement: Option<&LogError>) -> String {
    match (abort, replacement) {
        (Some(abort), None) => format!("and the abort failed: {abort}"),
        (None, None) => "and it was not aborted".to_owned(),
        (abort, Some(replacement)) => {
            let abort = abort.map_or_else(|| "not tried".to_owned(), ToString::to_string);
            format!("the abort: {abort}; and there is no new producer: {replacement}")
        }
    }
}

/// What to do about a topic whose partition count differs from the configuration.
pub(super) fn way_out(topic: &str, expected: u32, found: u32, all: bool) -> String {
    if all {
        return format!("all of OmniLink's topics have {found}: set topics.partitions to {found}");
    }
    if found < expected {
        return format!(
            "OmniLink's other topics have {expected}: add partitions (kafka-topics.sh --alter --topic {topic} --partitions {expected}); \
             do not set topics.partitions to {found}"
        );
    }
    format!(
        "partitions have been added. The first {expected} are used, and records that other producers write to the rest of `ingress` are \
         moved to them; do not set topics.partitions to {found}, because the other topics have {expected}. To remove the rest, recreate \
         the topic: docs/how-to/when-a-topic-has-changed.md"
    )
}

impl LogError {
    /// A thread or function panicked; `panic` is the payload from joining or catching it.
    pub(crate) fn panicked(what: &'static str, panic: &(dyn Any + Send)) -> Self {
        let message = panic_message(panic);
        Self::Panicked { what, message }
    }

    /// How the caller must handle it.
    pub fn class(&self) -> Class {
        match self {
            Self::Unavailable(_) | Self::DiskFull { .. } => Class::Retriable,
            Self::Aborted(_) => Class::Abortable,
            _ => Class::Fatal,
        }
    }
}
