//! Appends outside transactions: one idempotent producer per node, `acks=all`.
//!
//! librdkafka sends a produce request for each partition (its issue 1700), so concurrent appends to many partitions are many requests,
//! and the cost for a broker is mostly by request. [`direct`] therefore implements the protocol itself, and sends the records of all
//! partitions that a broker leads in one request. It is used for plaintext connections; with any property that concerns connections
//! (TLS, SASL) or producing, librdkafka appends.

mod direct;
mod librdkafka;
mod queues;

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

pub(super) use librdkafka::headers;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::{KafkaOptions, topics::Topics, wire};
use crate::{
    chaos::{Bug, planted},
    log::{LogError, Output, Position, Unavailable},
    state::{Changes, StateStore},
};

/// Where the result of one call of `append` is sent.
pub(super) type Answer = oneshot::Sender<Result<Vec<Position>, LogError>>;

const NOWHERE: Position = Position {
    partition: 0,
    offset: 0,
};

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

impl Call {
    /// A call with this number of records. The counter includes the call itself ([`Call::handed_over`]), so that it cannot finish before all
    /// records are queued.
    fn of(records: usize, state: Option<(StateStore, Changes)>, answer: Answer) -> Self {
        Self {
            remaining: AtomicUsize::new(records + 1),
            outcome: Mutex::new(Outcome {
                positions: vec![NOWHERE; records],
                error: None,
                answer: Some(answer),
                state,
            }),
        }
    }

    /// All records are queued.
    fn handed_over(&self) {
        if planted(Bug::AnswerBeforeDurable) {
            let mut outcome = self.outcome.lock();
            let nowhere = vec![NOWHERE; outcome.positions.len()];
            let early = outcome.answer.take();
            let _ = early.map(|answer| answer.send(Ok(nowhere)));
        }
        self.ended(&mut self.outcome.lock());
    }

    fn done(&self, index: usize, result: Result<Position, LogError>) {
        let mut outcome = self.outcome.lock();
        match result {
            Ok(position) => outcome.positions[index] = position,
            Err(error) => outcome.error = Some(error),
        }
        self.ended(&mut outcome);
    }

    fn ended(&self, outcome: &mut Outcome) {
        if self.remaining.fetch_sub(1, Ordering::AcqRel) != 1 {
            return;
        }
        let Some(answer) = outcome.answer.take() else {
            return;
        };
        let result = match outcome.error.take() {
            Some(error) => Err(error),
            None => Ok(std::mem::take(&mut outcome.positions)),
        };
        if result.is_ok()
            && let Some((store, changes)) = outcome.state.take()
            && let Err(error) = store.apply(&changes, &[])
        {
            // The records are in the log. Only this node's note of having seen them is lost, which admission compensates.
            tracing::error!(%error, "the state beside an append was not kept");
        }
        // The caller may have stopped waiting.
        let _ = answer.send(result);
    }
}

/// The idempotent producer of a node.
pub(super) enum Appender {
    Direct(direct::Direct),
    Librdkafka(librdkafka::Librdkafka),
}

impl Appender {
    pub(super) fn new(options: &KafkaOptions, topics: &Arc<Topics>) -> Result<Self, LogError> {
        Ok(if wire::is_usable(options) {
            Self::Direct(direct::Direct::new(options, topics)?)
        } else {
            Self::Librdkafka(librdkafka::Librdkafka::new(options, topics)?)
        })
    }

    pub(super) fn append<T: Into<Output>>(
        &self,
        records: Vec<T>,
        state: Option<(StateStore, Changes)>,
        answer: Answer,
    ) {
        match self {
            Self::Direct(direct) => direct.append(records, state, answer),
            Self::Librdkafka(librdkafka) => librdkafka.append(records, state, answer),
        }
    }
}

/// The error of an append while the queue is full.
fn queue_full() -> LogError {
    Unavailable::QueueFull { of: "Kafka" }.into()
}
