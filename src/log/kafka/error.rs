//! What Kafka, or librdkafka, refused, and what was being done.

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
        /// What the call was for, as "asking for committed offsets".
        doing: &'static str,
        /// The topic that it concerned, if it was one.
        topic: Option<Arc<str>>,
        /// librdkafka's own error.
        source: ClientError,
    },
    /// A broker refused records.
    #[error("`{topic}`/{partition} refuses records: {source}")]
    Refused {
        /// The topic.
        topic: Arc<str>,
        /// The partition.
        partition: u32,
        /// The broker's answer.
        source: ResponseError,
    },
    /// A broker refused a request.
    #[error("{doing}: {source}")]
    Request {
        /// What the request was for.
        doing: &'static str,
        /// The broker's answer.
        source: ResponseError,
    },
    /// A connection to a broker failed.
    #[error("{doing}: {source}")]
    Connection {
        /// What the request was for.
        doing: &'static str,
        /// What the operating system said.
        source: Arc<io::Error>,
    },
    /// A producer is over.
    #[error("{reason} ({source})")]
    Producer {
        /// librdkafka's words.
        reason: String,
        /// Its code.
        source: RDKafkaErrorCode,
    },
    /// A member without a generation cannot commit in its group's name.
    #[error("the consumer does not say which member of its group it is")]
    NoMember,
    /// librdkafka does not come back from a call.
    #[error("{doing}: librdkafka does not come back from it")]
    Stuck {
        /// What the call was for.
        doing: &'static str,
    },
    /// The operating system gave no runtime to ask the brokers in.
    #[error("{doing}: no runtime can be made: {source}")]
    Runtime {
        /// What was to be asked.
        doing: &'static str,
        /// What the operating system said.
        source: Arc<io::Error>,
    },
}

fn about(topic: Option<&str>) -> String {
    topic.map_or_else(String::new, |topic| format!(" (`{topic}`)"))
}
