//! Errors of Kafka and librdkafka, with the operation that failed.

use std::{io, sync::Arc};

use kafka_protocol::error::ResponseError;
use rdkafka::error::{KafkaError as ClientError, RDKafkaErrorCode};

/// An error of Kafka's.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum KafkaError {
    /// A call of librdkafka failed.
    #[error("{doing}{}: {source}", about(topic.as_deref()))]
    Call {
        /// The purpose of the call, such as "asking for committed offsets".
        doing: &'static str,
        /// The topic that the call concerned, if any.
        topic: Option<Arc<str>>,
        /// librdkafka's own error.
        source: ClientError,
    },
    /// A broker refused records.
    #[error("`{topic}`/{partition} refuses records: {source}")]
    Refused {
        /// The full topic name.
        topic: Arc<str>,
        /// The partition, from 0.
        partition: u32,
        /// The broker's answer.
        source: ResponseError,
    },
    /// A broker refused a request.
    #[error("{doing}: {source}")]
    Request {
        /// The purpose of the request.
        doing: &'static str,
        /// The broker's answer.
        source: ResponseError,
    },
    /// A connection to a broker failed.
    #[error("{doing}: {source}")]
    Connection {
        /// The purpose of the request.
        doing: &'static str,
        /// The error of the operating system.
        source: Arc<io::Error>,
    },
    /// A producer failed, and cannot be used any more.
    #[error("{reason} ({source})")]
    Producer {
        /// The message of librdkafka.
        reason: String,
        /// The error code of librdkafka.
        source: RDKafkaErrorCode,
    },
    /// The consumer has no group metadata, without which offsets cannot be committed for the group.
    #[error("the consumer has no group metadata")]
    NoMember,
    /// A call of librdkafka did not return.
    #[error("{doing}: the call of librdkafka does not return")]
    Stuck {
        /// The purpose of the call.
        doing: &'static str,
    },
    /// The runtime for a request to the brokers could not be started.
    #[error("{doing}: cannot start a runtime: {source}")]
    Runtime {
        /// The purpose of the request.
        doing: &'static str,
        /// The error of the operating system.
        source: Arc<io::Error>,
    },
}

fn about(topic: Option<&str>) -> String {
    topic.map_or_else(String::new, |topic| format!(" (`{topic}`)"))
}
