//! Appends through librdkafka, with any of its properties.

use std::sync::Arc;

use rdkafka::{
    ClientContext, Message,
    error::{KafkaError, RDKafkaErrorCode},
    message::{DeliveryResult, Header, OwnedHeaders},
    producer::{BaseRecord, ProducerContext, ThreadedProducer},
};

use super::{
    super::{
        CLIENT,
        classify::{Doing, classified},
        topics::{Topics, partition_among},
    },
    Answer, Call, KafkaOptions, queue_full,
};
use crate::{
    chaos::{Bug, PAUSE, planted},
    log::{Headers, LogError, Output, Position},
    state::{Changes, StateStore},
};

const APPEND: &str = "appending to a partition";

struct Context;

impl ClientContext for Context {}

impl ProducerContext for Context {
    type DeliveryOpaque = Box<(Arc<Call>, usize)>;

    fn delivery(&self, result: &DeliveryResult<'_>, opaque: Self::DeliveryOpaque) {
        let (call, index) = *opaque;
        let outcome = match result {
            Ok(message) => Ok(Position {
                partition: message.partition() as u32,
                offset: message.offset() as u64,
            }),
            Err((error, message)) => Err(classified(APPEND, Some(message.topic()), error.clone())),
        };
        call.done(index, outcome);
    }
}

pub(in super::super) struct Librdkafka {
    producer: ThreadedProducer<Context>,
    topics: Arc<Topics>,
}

impl Librdkafka {
    pub(super) fn new(options: &KafkaOptions, topics: &Arc<Topics>) -> Result<Self, LogError> {
        let mut config = options.config();
        config
            .set("linger.ms", "0")
            .set("batch.size", "1000000")
            .set("queue.buffering.max.messages", "200000")
            .set("queue.buffering.max.kbytes", "131072")
            .set("message.timeout.ms", "30000");
        let mut config = options.tuned(config);
        config
            .set("enable.idempotence", "true")
            .set("acks", "all")
            .set("partitioner", "murmur2_random")
            // The broker enforces the limit of the topic.
            .set("message.max.bytes", options.message_bytes().to_string());
        if planted(Bug::AnswerBeforeDurable) {
            config.set("linger.ms", PAUSE.as_millis().to_string());
        }
        Ok(Self {
            producer: config.create_with_context(Context).doing(CLIENT)?,
            topics: Arc::clone(topics),
        })
    }

    pub(super) fn append<T: Into<Output>>(
        &self,
        records: Vec<T>,
        state: Option<(StateStore, Changes)>,
        answer: Answer,
    ) {
        let call = Arc::new(Call::of(records.len(), state, answer));
        let counts = self.topics.counts();
        for (index, append) in records.into_iter().enumerate() {
            let append: Output = append.into();
            let record = &append.record;
            let mut message =
                BaseRecord::with_opaque_to(&append.topic, Box::new((Arc::clone(&call), index)));
            if let Some(partition) = append.partition {
                message = message.partition(partition as i32);
            } else if let Some(count) = counts.get(&append.topic) {
                // Of OmniLink's own topics only the configured partitions are used, even if more were added.
                let partition = partition_among(record.key.as_deref(), *count);
                message = message.partition(partition as i32);
            }
            if let Some(key) = &record.key {
                message = message.key(key.as_ref());
            }
            if let Some(value) = &record.value {
                message = message.payload(value.as_ref());
            }
            if !record.headers.is_empty() {
                message = message.headers(headers(&record.headers));
            }
            if let Err((error, unsent)) = self.producer.send::<[u8], [u8]>(message) {
                drop(unsent);
                call.done(index, Err(queue_error(&append.topic, error)));
            }
        }
        call.handed_over();
    }
}

/// Converts headers to those of librdkafka.
pub(in super::super) fn headers(headers: &Headers) -> OwnedHeaders {
    let empty = OwnedHeaders::new_with_capacity(headers.len());
    headers.iter().fold(empty, |all, (key, value)| {
        all.insert(Header {
            key,
            value: value.as_deref(),
        })
    })
}

fn queue_error(topic: &str, error: KafkaError) -> LogError {
    match error.rdkafka_error_code() {
        Some(RDKafkaErrorCode::QueueFull) => queue_full(),
        _ => classified(APPEND, Some(topic), error),
    }
}
