//! What an error of librdkafka's means for whoever uses the log: passing, fenced, to be aborted, or final.

use std::sync::Arc;

use rdkafka::error::{KafkaError as ClientError, RDKafkaErrorCode};
use tokio::runtime::Runtime;

use super::error::KafkaError;
use crate::log::{Fenced, LogError, Unavailable};

/// Names what a call of librdkafka was for, when it fails.
pub(super) trait Doing<T> {
    /// `doing` as in "asking for the brokers".
    fn doing(self, doing: &'static str) -> Result<T, LogError>;

    /// The same for a call that concerns a topic.
    fn doing_of(self, doing: &'static str, topic: &str) -> Result<T, LogError>;
}

impl<T> Doing<T> for Result<T, ClientError> {
    fn doing(self, doing: &'static str) -> Result<T, LogError> {
        self.map_err(|source| classified(doing, None, source))
    }

    fn doing_of(self, doing: &'static str, topic: &str) -> Result<T, LogError> {
        self.map_err(|source| classified(doing, Some(topic), source))
    }
}

/// The log's error for one of librdkafka's.
pub(super) fn classified(
    doing: &'static str,
    topic: Option<&str>,
    source: ClientError,
) -> LogError {
    let code = source.rdkafka_error_code();
    if let Some(topic) = topic
        && is_unknown(code)
    {
        return LogError::UnknownTopic(topic.to_owned());
    }
    if code == Some(RDKafkaErrorCode::MessageSizeTooLarge) {
        return LogError::TooLarge(0);
    }
    let fatal = is_fatal(&source)
        || is_unknown(code)
        || matches!(
            source,
            ClientError::ClientConfig(..) | ClientError::MessageConsumptionFatal(_)
        );
    let aborts = matches!(&source, ClientError::Transaction(e) if e.txn_requires_abort());
    let error = call(doing, topic, source);
    if code.is_some_and(is_fenced) {
        LogError::Fenced(Fenced::Kafka(error))
    } else if fatal {
        LogError::Kafka(error)
    } else if aborts {
        LogError::Aborted(Arc::new(LogError::Kafka(error)))
    } else {
        Unavailable::Kafka(error).into()
    }
}

/// A failed call, whatever it means.
pub(super) fn call(
    doing: &'static str,
    topic: Option<&str>,
    source: ClientError,
) -> Arc<KafkaError> {
    Arc::new(KafkaError::Call {
        doing,
        topic: topic.map(Arc::from),
        source,
    })
}

/// A runtime for one question to the brokers.
pub(super) fn runtime(doing: &'static str) -> Result<Runtime, LogError> {
    let built = tokio::runtime::Builder::new_current_thread().build();
    built.map_err(|error| {
        let source = Arc::new(error);
        LogError::Kafka(Arc::new(KafkaError::Runtime { doing, source }))
    })
}

/// Whether a transaction's error ends its producer.
pub(super) fn is_fatal(error: &ClientError) -> bool {
    matches!(error, ClientError::Transaction(e) if e.is_fatal())
}

/// Whether another one has taken the place of this producer or member.
pub(super) fn is_fenced(code: RDKafkaErrorCode) -> bool {
    matches!(
        code,
        RDKafkaErrorCode::ProducerFenced
            | RDKafkaErrorCode::Fenced
            | RDKafkaErrorCode::InvalidProducerEpoch
            | RDKafkaErrorCode::FencedInstanceId
    )
}

/// Whether there is no such topic.
fn is_unknown(code: Option<RDKafkaErrorCode>) -> bool {
    matches!(
        code,
        Some(
            RDKafkaErrorCode::UnknownTopicOrPartition
                | RDKafkaErrorCode::UnknownTopic
                | RDKafkaErrorCode::UnknownPartition
        )
    )
}
