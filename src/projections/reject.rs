//! What happens to records that cannot become rows.

use std::{borrow::Cow, sync::Arc, time::Duration};

use tokio::runtime::Handle;

use crate::{
    base::clock::Clock,
    log::{Append, Fetched, Log, LogError, Unavailable},
    stream::dlq,
};

/// The time limit for the log to confirm dead letters.
const TIMEOUT: Duration = Duration::from_secs(30);

/// A record that cannot become a row, and why.
#[derive(Clone, Debug)]
pub struct Rejection<'a> {
    /// The rejected record.
    pub record: &'a Fetched,
    /// A stable code: `invalid_…`, or `postgres_` followed by the SQLSTATE.
    pub code: Cow<'a, str>,
    /// A message for people.
    pub message: String,
}

/// Stores records that cannot become rows, at least once: the projection advances past a record only after it was stored, and a crash in
/// between stores it twice.
pub trait Reject: Send + Sync {
    /// Stores the records durably, each with the reason. Blocks.
    fn reject(&self, rejections: &[Rejection<'_>]) -> Result<(), LogError>;
}

/// The dead-letter queue.
pub struct DeadLetters {
    /// The log with the dead-letter topic.
    pub log: Arc<dyn Log>,
    /// The full name of the dead-letter topic.
    pub dlq: Arc<str>,
    /// The full name of the topic that the records come from.
    pub topic: Arc<str>,
    /// The name of the processor that rejects them.
    pub stage: &'static str,
    /// The source of `failed_at`.
    pub clock: Arc<dyn Clock>,
    /// The runtime on which to wait for the log.
    pub runtime: Handle,
}

impl Reject for DeadLetters {
    fn reject(&self, rejections: &[Rejection<'_>]) -> Result<(), LogError> {
        let limit = self.log.record_limit(&self.dlq);
        let append = |rejection: &Rejection<'_>| {
            let reason = dlq::Reason {
                topic: &self.topic,
                stage: self.stage,
                code: &rejection.code,
                message: &rejection.message,
                failed_at: self.clock.now(),
            };
            let letter = dlq::fitted(rejection.record, None, &reason, false, limit);
            Ok(Append {
                topic: Arc::clone(&self.dlq),
                record: letter.ok_or_else(|| dlq::too_narrow(&self.dlq, limit))?,
            })
        };
        let letters: Result<_, LogError> = rejections.iter().map(append).collect();
        let appended = self.log.append(letters?, None);
        match self
            .runtime
            .block_on(async { tokio::time::timeout(TIMEOUT, appended).await })
        {
            Ok(Ok(result)) => {
                if matches!(result, Err(LogError::TooLarge(_))) {
                    // The topic's size limit has been lowered: the next attempt truncates to the new limit.
                    self.log.forget_record_limits();
                }
                result.map(|_| ())
            }
            Ok(Err(_)) => Err(LogError::Unavailable(Unavailable::Closing)),
            Err(_) => Err(LogError::Unavailable(Unavailable::NotConfirmed {
                what: "a dead letter",
                within: TIMEOUT,
                advice: None,
            })),
        }
    }
}

/// Skips rejected records, for a rebuild: the running projection has already written them to the dead-letter queue.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct SkipRejected;

impl Reject for SkipRejected {
    fn reject(&self, rejections: &[Rejection<'_>]) -> Result<(), LogError> {
        for Rejection {
            record,
            code,
            message,
        } in rejections
        {
            let (partition, offset) = (record.partition, record.offset);
            tracing::warn!(partition, offset, %code, message, "a record was skipped by the rebuild");
        }
        Ok(())
    }
}
