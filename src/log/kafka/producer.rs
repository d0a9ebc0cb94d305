//! Appends outside transactions: one idempotent producer a node, `acks=all`.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use parking_lot::Mutex;
use rdkafka::{
    ClientContext, Message,
    error::{KafkaError, RDKafkaErrorCode},
    message::{DeliveryResult, Header, OwnedHeaders},
    producer::{BaseRecord, ProducerContext, ThreadedProducer},
};
use tokio::sync::oneshot;

use super::KafkaOptions;
use crate::{
    chaos::{Bug, PAUSE, planted},
    log::{Append, Headers, LogError, Position},
    state::{Changes, StateStore},
};

type Answer = oneshot::Sender<Result<Vec<Position>, LogError>>;

/// One call of `append`, shared by its records.
struct Call {
    remaining: AtomicUsize,
    outcome: Mutex<Outcome>,
}

struct Outcome {
    positions: Vec<Position>,
    error: Option<LogError>,
    answer: Option<Answer>,
    state: Option<(StateStore, Changes)>,
}

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
            Err((error, _)) => Err(LogError::from(error.clone())),
        };
        call.done(index, outcome);
    }
}

impl Call {
    fn done(&self, index: usize, result: Result<Position, LogError>) {
        let mut outcome = self.outcome.lock();
        match result {
            Ok(position) => outcome.positions[index] = position,
            Err(error) => outcome.error = Some(error),
        }
        if self.remaining.fetch_sub(1, Ordering::AcqRel) != 1 {
            return;
        }
        let Some(answer) = outcome.answer.take() else {
            return;
        };
        let result = if let Some(error) = outcome.error.take() {
            Err(error)
        } else {
            let mut positions = std::mem::take(&mut outcome.positions);
            // The place of the call itself.
            positions.pop();
            Ok(positions)
        };
        if result.is_ok()
            && let Some((store, changes)) = outcome.state.take()
            && let Err(error) = store.apply(&changes, &[])
        {
            // The records are in the log; what is lost is this node's memory of having seen them, and admission sees to that.
            tracing::error!(%error, "the state beside an append was not kept");
        }
        // Whoever does not wait any more needs no answer.
        let _ = answer.send(result);
    }
}

/// The producer.
pub(super) struct Appender(ThreadedProducer<Context>);

impl Appender {
    pub(super) fn new(options: &KafkaOptions) -> Result<Self, LogError> {
        let mut config = options.config();
        config
            .set("enable.idempotence", "true")
            .set("acks", "all")
            .set("linger.ms", "0")
            .set("batch.size", "1000000")
            .set("queue.buffering.max.messages", "200000")
            .set("queue.buffering.max.kbytes", "131072")
            .set("message.timeout.ms", "30000")
            .set("partitioner", "murmur2_random");
        if planted(Bug::AnswerBeforeDurable) {
            config.set("linger.ms", PAUSE.as_millis().to_string());
        }
        Ok(Self(config.create_with_context(Context)?))
    }

    pub(super) fn append(
        &self,
        records: &[Append],
        state: Option<(StateStore, Changes)>,
        answer: Answer,
    ) {
        let nowhere = Position {
            partition: 0,
            offset: 0,
        };
        let call = Arc::new(Call {
            // One more than the records: the call itself, so that it cannot end before all are handed over.
            remaining: AtomicUsize::new(records.len() + 1),
            outcome: Mutex::new(Outcome {
                positions: vec![nowhere; records.len() + 1],
                error: None,
                answer: Some(answer),
                state,
            }),
        });
        for (index, append) in records.iter().enumerate() {
            let record = &append.record;
            let mut message =
                BaseRecord::with_opaque_to(&append.topic, Box::new((Arc::clone(&call), index)));
            if let Some(key) = &record.key {
                message = message.key(key.as_ref());
            }
            if let Some(value) = &record.value {
                message = message.payload(value.as_ref());
            }
            if !record.headers.is_empty() {
                message = message.headers(headers(&record.headers));
            }
            if let Err((error, unsent)) = self.0.send::<[u8], [u8]>(message) {
                drop(unsent);
                call.done(index, Err(queue_error(&error)));
            }
        }
        if planted(Bug::AnswerBeforeDurable) {
            let early = call.outcome.lock().answer.take();
            let _ = early.map(|answer| answer.send(Ok(vec![nowhere; records.len()])));
        }
        call.done(records.len(), Ok(nowhere));
    }
}

/// librdkafka's headers of ours.
pub(super) fn headers(headers: &Headers) -> OwnedHeaders {
    let empty = OwnedHeaders::new_with_capacity(headers.len());
    headers.iter().fold(empty, |all, (key, value)| {
        all.insert(Header {
            key,
            value: value.as_deref(),
        })
    })
}

fn queue_error(error: &KafkaError) -> LogError {
    match error.rdkafka_error_code() {
        Some(RDKafkaErrorCode::QueueFull) => {
            LogError::Unavailable("Kafka does not keep up; the queue is full".into())
        }
        _ => error.clone().into(),
    }
}
