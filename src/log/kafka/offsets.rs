//! Adds offsets to a transaction, with a reliable timeout.
//!
//! librdkafka's `rd_kafka_send_offsets_to_transaction` waits without a timeout for its own main thread, which never answers if a
//! request to a coordinator ends as "outdated" or "destroyed" (seen with 2.12.1 when a broker is killed), so the call may block for
//! ever. Therefore a separate thread makes it. If the call does not return, that thread and its producer are abandoned, and a new
//! producer with the same transactional id ends the transaction.

use std::{
    sync::{Arc, mpsc},
    time::Duration,
};

use rdkafka::{
    TopicPartitionList,
    consumer::ConsumerGroupMetadata,
    error::{KafkaError, RDKafkaErrorCode},
    producer::{BaseProducer, Producer, ProducerContext},
};

use crate::log::{LogError, ThreadError, Unavailable};

/// How much longer than its timeout a call may take.
const SPARE: Duration = Duration::from_secs(2);

type Call = (TopicPartitionList, ConsumerGroupMetadata);

/// The thread of a producer. It ends when this is dropped, unless a call of librdkafka blocks it.
pub(super) struct Offsets {
    calls: mpsc::SyncSender<Call>,
    answers: mpsc::Receiver<Result<(), KafkaError>>,
    timeout: Duration,
}

impl Offsets {
    pub(super) fn new<C>(
        producer: &Arc<BaseProducer<C>>,
        timeout: Duration,
    ) -> Result<Self, LogError>
    where
        C: ProducerContext + 'static,
    {
        let (calls, called) = mpsc::sync_channel::<Call>(1);
        let (answer, answers) = mpsc::sync_channel(1);
        let producer = Arc::clone(producer);
        std::thread::Builder::new()
            .name("offsets".into())
            .spawn(move || {
                while let Ok((list, member)) = called.recv() {
                    let result = producer.send_offsets_to_transaction(&list, &member, timeout);
                    if answer.send(result).is_err() {
                        return;
                    }
                }
            })
            .map_err(|error| Unavailable::from(ThreadError::new("offsets", error)))?;
        Ok(Self {
            calls,
            answers,
            timeout,
        })
    }

    /// `None`: the call did not return. The producer must not be used any more.
    pub(super) fn send(
        &self,
        list: TopicPartitionList,
        member: ConsumerGroupMetadata,
    ) -> Option<Result<(), KafkaError>> {
        let gone = Err(KafkaError::Flush(RDKafkaErrorCode::OperationTimedOut));
        if self.calls.send((list, member)).is_err() {
            return Some(gone);
        }
        match self.answers.recv_timeout(self.timeout + SPARE) {
            Ok(result) => Some(result),
            Err(mpsc::RecvTimeoutError::Timeout) => None,
            Err(mpsc::RecvTimeoutError::Disconnected) => Some(gone),
        }
    }
}
