//! Bounded execution of a call: panics are caught, hanging calls are cancelled at their deadline, both are retried, and a record whose
//! calls all fail becomes a dead letter.

use std::{
    panic::AssertUnwindSafe,
    sync::{Arc, Weak},
    time::Duration,
};

use futures_util::FutureExt;

use super::{Effect, Setup};
use crate::{
    base::{backoff::Backoff, clock::Clock, panics::panic_message},
    log::{Append, Fetched, Log, LogError, Unavailable},
    stream::dlq,
};

/// The number of attempts before a record becomes a dead letter.
const TRIES: u32 = 5;
const BACKOFF: Backoff = Backoff {
    first: Duration::from_millis(100),
    max: Duration::from_secs(10),
};
/// Bytes of a panic message that a dead letter quotes.
const MESSAGE: usize = 512;

/// The shared dependencies of an effect's calls.
pub(super) struct Attempts {
    effect: Arc<dyn Effect>,
    /// Weak, so that a call that outlives its effect does not keep the log open.
    log: Weak<dyn Log>,
    clock: Arc<dyn Clock>,
    name: String,
    topic: String,
    dlq: Arc<str>,
    deadline: Duration,
}

/// Why a call failed.
struct Failed {
    code: &'static str,
    message: String,
}

impl Attempts {
    pub(super) fn new(effect: Arc<dyn Effect>, setup: &Setup) -> Self {
        Self {
            effect,
            log: Arc::downgrade(&setup.log),
            clock: Arc::clone(&setup.clock),
            name: setup.name.clone(),
            topic: setup.topic.clone(),
            dlq: Arc::clone(&setup.dlq),
            deadline: setup.deadline,
        }
    }

    /// Calls until success, or until the record is a dead letter; then returns the code.
    pub(super) async fn run(&self, input: &Fetched, repeated: bool) -> Option<&'static str> {
        let mut attempt = 0;
        let failed = loop {
            let repeated = repeated || attempt > 0;
            let Err(failed) = self.call(input.clone(), repeated).await else {
                return None;
            };
            attempt += 1;
            tracing::warn!(
                effect = self.name,
                partition = input.partition,
                offset = input.offset,
                code = failed.code,
                why = failed.message,
                attempt,
                "a call of an effect failed"
            );
            if attempt == TRIES {
                break failed;
            }
            tokio::time::sleep(BACKOFF.pause(attempt - 1)).await;
        };
        self.reject(input, &failed).await;
        Some(failed.code)
    }

    async fn call(&self, input: Fetched, repeated: bool) -> Result<(), Failed> {
        // The call may panic before it returns its future.
        let calling =
            AssertUnwindSafe(async { self.effect.call(input, repeated).await }).catch_unwind();
        match tokio::time::timeout(self.deadline, calling).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(panic)) => Err(Failed {
                code: "panic",
                message: panic_message(&*panic).chars().take(MESSAGE).collect(),
            }),
            Err(_) => Err(Failed {
                code: "timeout",
                message: format!("no end within {} ms", self.deadline.as_millis()),
            }),
        }
    }

    /// Writes a dead letter; returns when it is durable.
    async fn reject(&self, input: &Fetched, failed: &Failed) {
        let message = format!("{} (tried {TRIES} times)", failed.message);
        let reason = dlq::Reason {
            topic: &self.topic,
            stage: &self.name,
            code: failed.code,
            message: &message,
            failed_at: self.clock.now(),
        };
        let mut attempt = 0;
        loop {
            // The process is stopping: the next owner will call again.
            let Some(log) = self.log.upgrade() else {
                return;
            };
            let error = match self.append(log, input, &reason).await {
                Ok(()) => return,
                Err(error) => error,
            };
            tracing::warn!(
                effect = self.name,
                partition = input.partition,
                offset = input.offset,
                %error,
                "a dead letter cannot be written; retrying"
            );
            tokio::time::sleep(BACKOFF.pause(attempt)).await;
            attempt += 1;
        }
    }

    /// Appends a dead letter, truncated to its topic's size limit.
    async fn append(
        &self,
        log: Arc<dyn Log>,
        input: &Fetched,
        reason: &dlq::Reason<'_>,
    ) -> Result<(), LogError> {
        let closing = || LogError::Unavailable(Unavailable::Closing);
        let (asked, topic) = (Arc::clone(&log), Arc::clone(&self.dlq));
        // Blocking, because it may send a request to the brokers.
        let limit = tokio::task::spawn_blocking(move || asked.record_limit(&topic));
        let limit = limit.await.map_err(|_| closing())?;
        let letter = dlq::fitted(input, None, reason, false, limit);
        let record = letter.ok_or_else(|| dlq::too_narrow(&self.dlq, limit))?;
        let appended = log.append(
            vec![Append {
                topic: Arc::clone(&self.dlq),
                record,
            }],
            None,
        );
        drop(log);
        appended.await.map_err(|_| closing())?.map(drop)
    }
}
