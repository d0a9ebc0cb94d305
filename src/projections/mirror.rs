//! Keeps a small table equal to what the node holds in memory of the topic `controls`.
//!
//! The whole table is written in one statement: at the start, on each change, and once a minute, because another node may have written an
//! older state in between. So there is no offset to store, and any number of nodes may write.

use std::time::Duration;

use tokio::sync::watch;

use crate::{base::backoff::Backoff, store::StoreError, stream::progress::LaneProgress};

/// The pauses between failed writes.
const BACKOFF: Backoff = Backoff {
    first: Duration::from_millis(200),
    max: Duration::from_secs(10),
};
/// The pause before the table is written again though nothing has changed.
const REWRITE: Backoff = Backoff {
    first: Duration::from_mins(1),
    max: Duration::from_mins(1),
};

/// Why the table is not up to date.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotWritten {
    /// What this node knows may be old, or wrong.
    #[error("`controls` has not been read to its end for 5 s, or cannot be verified")]
    ControlsUnread,
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A table that mirrors what is in memory.
pub(super) trait Mirror: Send + Sync + 'static {
    /// The name of the table.
    const TABLE: &'static str;

    /// Notified of each change.
    fn changed(&self) -> watch::Receiver<u64>;

    /// Writes the whole table.
    fn write(&self) -> impl Future<Output = Result<(), NotWritten>> + Send;
}

/// Writes the table at each change, for ever.
pub(super) async fn follow<M: Mirror>(mirror: M, progress: LaneProgress) {
    let mut changed = mirror.changed();
    let mut attempt = 0;
    loop {
        changed.mark_unchanged();
        match mirror.write().await {
            Ok(()) => {
                progress.running();
                attempt = 0;
                // `controls` holds the sender, so the channel is never closed.
                let _ = tokio::time::timeout(REWRITE.pause(0), changed.changed()).await;
            }
            Err(why) => {
                tracing::warn!(table = M::TABLE, %why, "the table cannot be written; retrying");
                progress.waiting(format!("Postgres: {why}"));
                tokio::time::sleep(BACKOFF.pause(attempt)).await;
                attempt += 1;
            }
        }
    }
}
