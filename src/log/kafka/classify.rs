//! Classifies the errors of librdkafka for the users of the log: transient, fenced, abortable, or final.

use std::sync::Arc;

use rdkafka::error::{KafkaError as ClientError, RDKafkaErrorCode};
use tokio::runtime::Runtime;

use super::error::KafkaError;
use crate::log::{Fenced, LogError, Unavailable};

/// Adds to an error of librdkafka the purpose of the call that failed.
pub(super) trait Doing<T> {
    /// `doing`: a phrase such as "asking for the brokers".
    fn doing(self, doing: &'static str) -> Result<T, LogError>;

    /// As [`Doing::doing`], for a call that concerns a topic.
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

/// Converts an error of librdkafka to an error of the log.
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

/// The error of a failed call, without a classification.
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

/// Makes a runtime for one request to the brokers.
pub(super) fn runtime(doing: &'static str) -> Result<Runtime, LogError> {
    let built = tokio::runtime::Builder::new_current_thread().build();
    built.map_err(|error| {
        let source = Arc::new(error);
        LogError::Kafka(Arc::new(KafkaError::Runtime { doing, source }))
    })
}

/// Whether the producer of a transaction cannot be used after this error.
pub(super) fn is_fatal(error: &ClientError) -> bool {
    matches!(error, ClientError::Transaction(e) if e.is_fatal())
}

/// Whether another producer or member has replaced this one.
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
