//! Where records go that cannot become rows.

use std::{borrow::Cow, sync::Arc, time::Duration};

use tokio::runtime::Handle;

use crate::{
    base::clock::Clock,
    log::{Append, Fetched, Log, LogError, Unavailable},
    stream::dlq,
};

/// How long the log may take to confirm a dead letter.
const DEADLINE: Duration = Duration::from_secs(30);

/// A record that cannot become a row, and why.
#[derive(Clone, Debug)]
pub struct Rejection<'a> {
    /// The record.
    pub record: &'a Fetched,
    /// A stable code: `invalid_…`, or `postgres_` and the SQLSTATE.
    pub code: Cow<'a, str>,
    /// For people.
    pub message: String,
}

/// Takes records that cannot become rows. Returns once they are kept for good, for the position then moves past them.
/// A crash between the two leaves them there twice.
pub trait Reject: Send + Sync {
    /// Keeps the records, with why. Blocks.
    fn reject(&self, rejections: &[Rejection<'_>]) -> Result<(), LogError>;
}

/// The dead-letter queue.
pub struct DeadLetters {
    /// The log.
    pub log: Arc<dyn Log>,
    /// The whole name of the dead-letter topic.
    pub dlq: Arc<str>,
    /// The whole name of the topic that is read.
    pub topic: Arc<str>,
    /// The processor that rejects.
    pub stage: &'static str,
    /// For `failed_at`.
    pub clock: Arc<dyn Clock>,
    /// To wait on.
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
        let kept = self.log.append(letters?, None);
        match self
            .runtime
            .block_on(async { tokio::time::timeout(DEADLINE, kept).await })
        {
            Ok(Ok(result)) => {
                if matches!(result, Err(LogError::TooLarge(_))) {
                    // The topic takes less than it did: the next attempt cuts to that.
                    self.log.forget_record_limits();
                }
                result.map(|_| ())
            }
            Ok(Err(_)) => Err(LogError::Unavailable(Unavailable::Closing)),
            Err(_) => Err(LogError::Unavailable(Unavailable::NotConfirmed {
                what: "a dead letter",
                within: DEADLINE,
                advice: None,
            })),
        }
    }
}

/// Leaves rejected records out: for a rebuild, which meets those that the projection has rejected before.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct LeaveOut;

impl Reject for LeaveOut {
    fn reject(&self, rejections: &[Rejection<'_>]) -> Result<(), LogError> {
        for Rejection {
            record,
            code,
            message,
        } in rejections
        {
            let (partition, offset) = (record.partition, record.offset);
            tracing::warn!(partition, offset, %code, message, "left out of the rebuild");
        }
        Ok(())
    }
}
