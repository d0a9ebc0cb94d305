//! The audit log: who did what, as records of the topic `audit`.
//!
//! [`Audit`] accepts entries without blocking and appends them in the background, in order. The queue is bounded: if it is full because
//! the log cannot be written, further entries are counted and dropped, so that an attack with bad requests exhausts neither memory nor
//! the log. A change waits for its entry ([`Audit::record_durably`]). Commands that work without a node append their entries
//! directly ([`append`]).

mod actions;
mod entry;

use std::{collections::VecDeque, sync::Arc, time::Duration};

pub use actions::{
    ACTIONS, EVENT_COPIED, EVENT_REPLAYED, KEY_CREATED, KEY_USED, LETTER_READ, LETTER_REDRIVEN,
    REQUEST_DENIED, SOURCE_RECEIVED, START, TOPIC_CREATED, WEBHOOK_REJECTED,
};
pub use entry::{Entry, NO_TENANT, Outcome};
use tokio::sync::{mpsc, oneshot};

use crate::{
    base::backoff::Backoff,
    log::{Append, Log, LogError, Unavailable},
    telemetry,
};

/// The number of entries waiting to be appended.
const QUEUE: usize = 8192;
/// The maximum number of entries of one append.
const BATCH: usize = 256;
/// How long a change waits for its entry, which is appended later in any case.
const DURABLE_DEADLINE: Duration = Duration::from_secs(2);
/// The pauses between attempts while appends fail.
const BACKOFF: Backoff = Backoff {
    first: Duration::from_millis(100),
    max: Duration::from_secs(5),
};

/// Why entries are not in the log.
#[derive(Debug, thiserror::Error)]
pub enum NotRecorded {
    /// An entry is not as its schema says.
    #[error("an entry cannot be encoded: {0}")]
    Encode(#[from] apache_avro::Error),
    /// The log did not take them, or not in time: then they may be there later.
    #[error(transparent)]
    Log(#[from] LogError),
}

/// Appends entries; returns when they are durable, after 2 s at most.
pub async fn append(log: &dyn Log, topic: &Arc<str>, entries: &[Entry]) -> Result<(), NotRecorded> {
    let mut records = Vec::with_capacity(entries.len());
    for entry in entries {
        records.push(Append {
            topic: Arc::clone(topic),
            record: entry.encode()?,
        });
    }
    if records.is_empty() {
        return Ok(());
    }
    let appended = tokio::time::timeout(DURABLE_DEADLINE, log.append(records, None)).await;
    let late = Unavailable::NotConfirmed {
        what: "the entry of the audit log",
        within: DURABLE_DEADLINE,
        advice: None,
    };
    let closing = |_| LogError::Unavailable(Unavailable::Closing);
    appended
        .map_err(|_| LogError::Unavailable(late))?
        .map_err(closing)??;
    Ok(())
}

struct Waiting {
    entry: Entry,
    durable: Option<oneshot::Sender<()>>,
}

/// A handle to the audit log. Cheap to clone. When the last one is dropped, queued entries are still appended.
#[derive(Clone)]
pub struct Audit {
    queue: mpsc::Sender<Waiting>,
    recorded: metrics::Counter,
    dropped: metrics::Counter,
}

/// The task that appends entries. [`Writer::finish`] waits for it.
pub struct Writer(tokio::task::JoinHandle<()>);

impl Audit {
    /// Starts the task that appends, on the current runtime.
    pub fn start(log: Arc<dyn Log>, topic: Arc<str>) -> (Self, Writer) {
        let (queue, waiting) = mpsc::channel(QUEUE);
        let audit = Self {
            queue,
            recorded: telemetry::metrics::AUDIT_ENTRIES.counter(&["recorded"]),
            dropped: telemetry::metrics::AUDIT_ENTRIES.counter(&["dropped"]),
        };
        let writer = Writer(tokio::spawn(write(log, topic, waiting)));
        (audit, writer)
    }

    /// Records an entry; never blocks.
    pub fn record(&self, entry: Entry) {
        self.send(Waiting {
            entry,
            durable: None,
        });
    }

    /// Records an entry, and waits until it is durable, for at most 2 s; after that it is appended later.
    pub async fn record_durably(&self, entry: Entry) {
        let (done, durable) = oneshot::channel();
        self.send(Waiting {
            entry,
            durable: Some(done),
        });
        if tokio::time::timeout(DURABLE_DEADLINE, durable)
            .await
            .is_err()
        {
            tracing::warn!("an audit entry is not durable yet: the log does not answer");
        }
    }

    fn send(&self, waiting: Waiting) {
        if let Err(error) = self.queue.try_send(waiting) {
            self.dropped.increment(1);
            let entry = match error {
                mpsc::error::TrySendError::Full(waiting)
                | mpsc::error::TrySendError::Closed(waiting) => waiting.entry,
            };
            tracing::error!(
                action = entry.action,
                tenant = entry.tenant,
                "an audit entry is dropped: too many wait for the log"
            );
        } else {
            self.recorded.increment(1);
        }
    }
}

impl Writer {
    /// Waits until all entries are appended, once every handle is dropped; gives up after `deadline`.
    pub async fn finish(self, deadline: Duration) {
        let mut task = self.0;
        if tokio::time::timeout(deadline, &mut task).await.is_err() {
            task.abort();
            tracing::warn!("audit entries were not appended before the node stopped");
        }
    }
}

async fn write(log: Arc<dyn Log>, topic: Arc<str>, mut waiting: mpsc::Receiver<Waiting>) {
    let mut batch = Vec::with_capacity(BATCH);
    let mut unsent: VecDeque<Append> = VecDeque::new();
    while waiting.recv_many(&mut batch, BATCH).await > 0 {
        let mut durable = Vec::new();
        for Waiting {
            entry,
            durable: done,
        } in batch.drain(..)
        {
            match entry.encode() {
                Ok(record) => unsent.push_back(Append {
                    topic: Arc::clone(&topic),
                    record,
                }),
                Err(error) => tracing::error!(%error, "an audit entry cannot be encoded"),
            }
            durable.extend(done);
        }
        let mut attempt = 0;
        while !unsent.is_empty() {
            let records = unsent.iter().cloned().collect();
            match log.append(records, None).await {
                Ok(Ok(_)) => unsent.clear(),
                Ok(Err(error)) => {
                    tracing::warn!(%error, "the audit log cannot be written; trying again");
                    tokio::time::sleep(BACKOFF.pause(attempt)).await;
                    attempt += 1;
                }
                // The log is closing.
                Err(_) => return,
            }
        }
        for done in durable {
            // The waiting side may have given up.
            let _ = done.send(());
        }
    }
}
