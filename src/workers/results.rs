//! Appends results of calls to `commands`. Results that are ready at the same time share an append.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use serde::Serialize;
use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::{
    base::{backoff::Backoff, clock::Millis},
    commands::Command,
    log::{Append, Log, Record},
    runs::StepCommand,
    telemetry::metrics::WORKER_RESULT_APPENDS,
};

/// The maximum number of records in an append.
const RECORDS: usize = 512;
/// An append of this size, in bytes, takes no further record.
const BYTES: usize = 512 * 1024;
/// The maximum number of concurrent appends. Results that arrive meanwhile share the next one.
const APPENDS: usize = 4;
/// The maximum number of queued results.
const QUEUE: usize = 1024;
const BACKOFF: Backoff = Backoff {
    first: Duration::from_millis(50),
    max: Duration::from_secs(5),
};

/// The writer of results to `commands`. Cheap to clone.
#[derive(Clone)]
pub struct Results {
    queue: mpsc::Sender<Entry>,
    topic: Arc<str>,
}

struct Entry {
    append: Append,
    done: oneshot::Sender<()>,
}

/// A result was not appended.
#[derive(Debug, thiserror::Error)]
pub enum NotAppended {
    /// The log is closing, because the node stops.
    #[error("the log is closing")]
    Closing,
    /// The record cannot be encoded.
    #[error("the record cannot be encoded: {0}")]
    Encode(String),
}

impl Results {
    /// Starts the task that appends to `topic`, on the current runtime. It ends when the log is closed or all clones are dropped.
    pub fn start(log: &Arc<dyn Log>, topic: Arc<str>) -> Self {
        let (queue, entries) = mpsc::channel(QUEUE);
        tokio::spawn(group(Arc::downgrade(log), entries));
        Self { queue, topic }
    }

    /// Sends a report about a call to its run. Returns when the record is durable.
    pub async fn send(
        &self,
        step: &StepCommand,
        kind: &str,
        body: &impl Serialize,
        now: Millis,
    ) -> Result<(), NotAppended> {
        let encode = |e: &dyn std::fmt::Display| NotAppended::Encode(e.to_string());
        let command = Command {
            tenant: step.tenant.clone(),
            run_id: step.run_id.clone(),
            kind: kind.to_owned(),
            at: now.0.saturating_mul(1000),
            principal: format!("tool:{}", step.tool),
            on_behalf_of: None,
            traceparent: step.traceparent.clone(),
            tracestate: step.tracestate.clone(),
            body: serde_json::to_string(body).map_err(|e| encode(&e))?,
        };
        let append = Append {
            topic: Arc::clone(&self.topic),
            record: command.encode().map_err(|e| encode(&e))?,
        };
        let (done, appended) = oneshot::channel();
        let sent = self.queue.send(Entry { append, done }).await;
        sent.map_err(|_| NotAppended::Closing)?;
        appended.await.map_err(|_| NotAppended::Closing)
    }
}

/// Groups entries into appends.
async fn group(log: Weak<dyn Log>, mut entries: mpsc::Receiver<Entry>) {
    let appends = Arc::new(Semaphore::new(APPENDS));
    while let Some(first) = entries.recv().await {
        // Lets other calls that end now queue their results first.
        tokio::task::yield_now().await;
        let Ok(permit) = Arc::clone(&appends).acquire_owned().await else {
            return;
        };
        let mut bytes = size(&first.append.record);
        let mut batch = vec![first];
        while batch.len() < RECORDS
            && bytes < BYTES
            && let Ok(next) = entries.try_recv()
        {
            bytes += size(&next.append.record);
            batch.push(next);
        }
        let log = Weak::clone(&log);
        tokio::spawn(async move {
            append(&log, batch).await;
            drop(permit);
        });
    }
}

fn size(record: &Record) -> usize {
    record.value.as_ref().map_or(0, bytes::Bytes::len)
}

/// Appends a batch, with retries. If the log is closed, the calls are repeated by the next owner of their partitions.
async fn append(log: &Weak<dyn Log>, batch: Vec<Entry>) {
    let (appends, done): (Vec<_>, Vec<_>) = batch
        .into_iter()
        .map(|entry| (entry.append, entry.done))
        .unzip();
    let mut attempt = 0;
    while let Some(open) = log.upgrade() {
        let appended = open.append(appends.clone(), None);
        drop(open);
        match appended.await {
            Ok(Ok(_)) => {
                WORKER_RESULT_APPENDS.counter(&[]).increment(1);
                for done in done {
                    // The waiting call may have been cancelled.
                    let _ = done.send(());
                }
                return;
            }
            Err(_) => return,
            Ok(Err(error)) => {
                tracing::warn!(%error, results = appends.len(), "results of calls cannot be appended; retrying");
                tokio::time::sleep(BACKOFF.pause(attempt)).await;
                attempt += 1;
            }
        }
    }
}
