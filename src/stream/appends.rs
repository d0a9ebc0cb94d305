//! Appends records of effects. Records that are ready at the same time share an append.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use metrics::Counter;
use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::{
    base::backoff::Backoff,
    log::{Append, Log, Record},
};

/// The maximum number of records in an append.
const RECORDS: usize = 512;
/// An append of this size, in bytes, takes no further record.
const BYTES: usize = 512 * 1024;
/// The maximum number of concurrent appends. Records that arrive meanwhile share the next one.
const APPENDS: usize = 4;
/// The maximum number of queued records.
const QUEUE: usize = 1024;
const BACKOFF: Backoff = Backoff {
    first: Duration::from_millis(50),
    max: Duration::from_secs(5),
};

/// The writer of records to the log. Cheap to clone.
#[derive(Clone)]
pub struct Appends {
    queue: mpsc::Sender<Entry>,
}

struct Entry {
    append: Append,
    done: oneshot::Sender<()>,
}

/// The log is closing, because the node stops.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the log is closing")]
pub struct Closing;

impl Appends {
    /// Starts the task that appends, on the current runtime. It ends when the log is closed or all clones are dropped. `appended` counts
    /// the appends.
    pub fn start(log: &Arc<dyn Log>, appended: Counter) -> Self {
        let (queue, entries) = mpsc::channel(QUEUE);
        tokio::spawn(group(Arc::downgrade(log), entries, appended));
        Self { queue }
    }

    /// Appends a record, with retries. Returns when it is durable.
    pub async fn append(&self, append: Append) -> Result<(), Closing> {
        let (done, appended) = oneshot::channel();
        let sent = self.queue.send(Entry { append, done }).await;
        sent.map_err(|_| Closing)?;
        appended.await.map_err(|_| Closing)
    }
}

/// Groups entries into appends.
async fn group(log: Weak<dyn Log>, mut entries: mpsc::Receiver<Entry>, appended: Counter) {
    let appends = Arc::new(Semaphore::new(APPENDS));
    while let Some(first) = entries.recv().await {
        // Lets other calls that end now queue their records first.
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
        let (log, appended) = (Weak::clone(&log), appended.clone());
        tokio::spawn(async move {
            append(&log, batch, &appended).await;
            drop(permit);
        });
    }
}

fn size(record: &Record) -> usize {
    record.value.as_ref().map_or(0, bytes::Bytes::len)
}

/// Appends a batch, with retries. If the log is closed, the calls are repeated by the next owner of their partitions.
async fn append(log: &Weak<dyn Log>, batch: Vec<Entry>, appended: &Counter) {
    let (appends, done): (Vec<_>, Vec<_>) = batch
        .into_iter()
        .map(|entry| (entry.append, entry.done))
        .unzip();
    let mut attempt = 0;
    while let Some(open) = log.upgrade() {
        let acknowledged = open.append(appends.clone(), None);
        drop(open);
        match acknowledged.await {
            Ok(Ok(_)) => {
                appended.increment(1);
                for done in done {
                    // The waiting call may have been cancelled.
                    let _ = done.send(());
                }
                return;
            }
            Err(_) => return,
            Ok(Err(error)) => {
                tracing::warn!(%error, records = appends.len(), "records of effects cannot be appended; retrying");
                tokio::time::sleep(BACKOFF.pause(attempt)).await;
                attempt += 1;
            }
        }
    }
}
