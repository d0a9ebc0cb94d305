//! What can go wrong in a log, and what to do about it.

use std::{any::Any, borrow::Cow, io, path::PathBuf, sync::Arc, time::Duration};

#[cfg(feature = "kafka")]
use super::kafka::KafkaError;
use super::{TopicId, local::LocalError};
use crate::{base::panics::panic_message, state::StateError};

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
    Unavailable(#[source] Unavailable),
    /// Too little is free on the disk of the embedded log. Nothing was written.
    #[error(
        "the disk is full: less than {min_free_mib} MiB are free under {}; appends are refused until there is room",
        dir.display()
    )]
    DiskFull {
        /// The log's directory.
        dir: PathBuf,
        /// How many MiB must be free.
        min_free_mib: u64,
    },
    /// Another owner has taken this lane's place.
    #[error("fenced: {0}")]
    Fenced(#[source] Fenced),
    /// The transaction was aborted, for this reason.
    #[error("transaction aborted: {0}")]
    Aborted(#[source] Arc<Self>),
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
    /// A topic was deleted and recreated while it was read: what reads it begins anew.
    #[error("topic `{topic}` was deleted and recreated while it was read (id {was}, now {is})")]
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
    /// A record of so many bytes is larger than the log takes; 0: librdkafka does not say how many.
    #[error("{} larger than the log takes", too_large(*.0))]
    TooLarge(usize),
    /// The keyed state on this node cannot be read or written.
    #[error(transparent)]
    State(#[from] StateError),
    /// The embedded log failed.
    #[error(transparent)]
    Local(#[from] LocalError),
    /// Kafka refused for good: the client is over, or asked for what it cannot have.
    #[cfg(feature = "kafka")]
    #[error(transparent)]
    Kafka(Arc<KafkaError>),
    /// A transaction failed, and so did what was to end it: how it ended is read back from the log.
    #[error("{failed}; {}", not_ended(abort.as_deref(), replacement.as_deref()))]
    NotEnded {
        /// Why it failed.
        #[source]
        failed: Arc<Self>,
        /// Why it was not aborted; `None`: that was not tried.
        abort: Option<Arc<Self>>,
        /// Why no new producer, which would end it, could be made; `None`: that was not tried.
        replacement: Option<Arc<Self>>,
    },
    /// A lane keeps state, and this log was opened without.
    #[error("a lane needs keyed state, and this log was opened without")]
    Stateless,
    /// A topic of the system's own, into which nothing is replayed.
    #[error(
        "`{topic}` is one of OmniLink's own topics (`{prefix}…`); events cannot be replayed into these"
    )]
    OwnTopic {
        /// The topic.
        topic: String,
        /// What the names of the system's own topics begin with.
        prefix: String,
    },
    /// The operating system gave no thread.
    #[error(transparent)]
    Thread(#[from] ThreadError),
    /// A thread, or what it ran, panicked.
    #[error("{what} panicked: {message}")]
    Panicked {
        /// What panicked.
        what: &'static str,
        /// What the panic said.
        message: String,
    },
    /// A file beside the log cannot be read.
    #[error("{what} {}: {source}", path.display())]
    File {
        /// What it is for, as "the index".
        what: &'static str,
        /// Where it lies.
        path: PathBuf,
        /// What the operating system said.
        source: Arc<io::Error>,
    },
    /// Something cannot be written as JSON.
    #[error("{what} cannot be written as JSON: {source}")]
    Json {
        /// What it is.
        what: &'static str,
        /// Why.
        source: Arc<serde_json::Error>,
    },
}

/// Why a log does not answer, or what it did not confirm.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Unavailable {
    /// The log is being closed, as when the node stops.
    #[error("the log is closing")]
    Closing,
    /// More waits to be written than fits.
    #[error("{of} does not keep up; the queue is full")]
    QueueFull {
        /// What does not keep up.
        of: &'static str,
    },
    /// Records were handed over, and may be in the log or not.
    #[error("{what} was not confirmed within {} s{}", within.as_secs(), after(*advice))]
    NotConfirmed {
        /// What was handed over, as "a dead letter".
        what: &'static str,
        /// How long it was waited for.
        within: Duration,
        /// What to do about it, unless it is tried again by itself.
        advice: Option<&'static str>,
    },
    /// Records that must be there do not come.
    #[error("no record of {of} came within {} s", within.as_secs())]
    NoRecord {
        /// What is read.
        of: String,
        /// How long it was waited for.
        within: Duration,
    },
    /// The brokers do not say which topic that is now, which a position in it depends on.
    #[error("the brokers do not say which topic `{topic}` is now")]
    TopicUnidentified {
        /// The topic.
        topic: String,
    },
    /// The brokers have not said of late which topics they have, and nothing is committed without that.
    #[error("the brokers do not say which topics they have")]
    TopicsUnidentified,
    /// Nobody says where a partition ends, as while its leader is chosen.
    #[error("the end of `{topic}`/{partition} is not known: it has no leader now")]
    EndUnknown {
        /// The topic.
        topic: String,
        /// The partition.
        partition: u32,
    },
    /// The changelog cannot be read to its end.
    #[error(
        "`{changelog}`/{partition} has an open transaction at offset {offset}, and what its last owner committed may be in it; \
         it ends when that producer ends it, or after the producer's transaction.timeout.ms"
    )]
    OpenTransaction {
        /// The changelog.
        changelog: String,
        /// The partition.
        partition: u32,
        /// The last stable offset: where the transaction begins.
        offset: u64,
    },
    /// The dead-letter topic takes nothing: whoever has a dead letter waits.
    #[error(
        "topic `{dlq}` takes {limit} bytes a record: not even the reason of a dead letter fits; raise its max.message.bytes"
    )]
    TooNarrow {
        /// The dead-letter topic.
        dlq: String,
        /// The bytes that it takes.
        limit: usize,
    },
    /// A transform waits for something, and had changed its state before: only an abort takes that back.
    #[error("{waits_for}")]
    TransformWaits {
        /// What it waits for, as it says itself.
        waits_for: String,
    },
    /// A transform cannot close its transaction, whatever records are in it.
    #[error("the transform fails when its transaction is closed: {message}")]
    TransformNotClosed {
        /// The stable code of the failure.
        code: Cow<'static, str>,
        /// The failure, for people.
        message: String,
    },
    /// The operating system gave no thread.
    #[error(transparent)]
    Thread(#[from] ThreadError),
    /// Kafka does not answer, or answered with an error that passes.
    #[cfg(feature = "kafka")]
    #[error(transparent)]
    Kafka(Arc<KafkaError>),
}

/// Who took a lane's place.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Fenced {
    /// A newer lane of the same process.
    #[error("a newer lane of `{processor}` has taken over")]
    NewerLane {
        /// The processor.
        processor: Arc<str>,
    },
    /// Another member owns the partition.
    #[error("another member of `{processor}` owns the partition")]
    OtherOwner {
        /// The processor.
        processor: Arc<str>,
    },
    /// A newer member or producer: so the brokers say.
    #[cfg(feature = "kafka")]
    #[error(transparent)]
    Kafka(Arc<KafkaError>),
}

/// The operating system gave no thread.
#[derive(Debug, Clone, thiserror::Error)]
#[error("cannot start a thread (`{name}`): {source}")]
pub struct ThreadError {
    /// The thread's name.
    pub name: &'static str,
    /// What the operating system said.
    pub source: Arc<io::Error>,
}

impl ThreadError {
    /// The thread of this name did not start.
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

fn too_large(bytes: usize) -> String {
    match bytes {
        0 => "a record is".to_owned(),
        bytes => format!("a record of {bytes} bytes is"),
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
    /// A thread, or what it ran, panicked; `panic` is what joining or catching it gave.
    pub(crate) fn panicked(what: &'static str, panic: &(dyn Any + Send)) -> Self {
        let message = panic_message(panic);
        Self::Panicked { what, message }
    }

    /// What to do about it.
    pub fn class(&self) -> Class {
        match self {
            Self::Unavailable(_) | Self::DiskFull { .. } => Class::Retriable,
            Self::Aborted(_) => Class::Abortable,
            _ => Class::Fatal,
        }
    }
}
