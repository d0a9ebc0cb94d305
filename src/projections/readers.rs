//! The table `reader_grants` follows the reader grants on the topic `controls`.
//!
//! The whole set is written in one statement: at the start, on each change, and once a minute, because another node may have written an
//! older set in between. So there is no offset to store, and any number of nodes may write.

use std::{sync::Arc, time::Duration};

use tokio::{runtime::Handle, task::JoinHandle};

use crate::{
    base::backoff::Backoff,
    controls::Controls,
    store::{
        Store, StoreError,
        grants::{self, Grant},
    },
    stream::progress::{LaneProgress, Progress},
};

/// The name of this projection, which is also the name of its table.
pub const READER_GRANTS: &str = "reader_grants";

/// The pauses between failed writes.
const BACKOFF: Backoff = Backoff {
    first: Duration::from_millis(200),
    max: Duration::from_secs(10),
};
/// The pause before the set is written again though nothing has changed.
const REWRITE: Backoff = Backoff {
    first: Duration::from_mins(1),
    max: Duration::from_mins(1),
};
/// The time limit for one write.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The running projection. Dropping it stops it.
pub struct ReaderGrants {
    task: JoinHandle<()>,
}

impl ReaderGrants {
    /// Starts to write the grants in `controls` to the table, which must exist.
    pub fn start(
        runtime: &Handle,
        controls: Arc<Controls>,
        store: Store,
        progress: &Arc<Progress>,
    ) -> Self {
        let progress = progress.lane();
        let task = runtime.spawn(async move { follow(&controls, &store, &progress).await });
        Self { task }
    }
}

impl Drop for ReaderGrants {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn follow(controls: &Controls, store: &Store, progress: &LaneProgress) {
    let mut changed = controls.readers_changed();
    let mut attempt = 0;
    loop {
        changed.mark_unchanged();
        match write(controls, store).await {
            Ok(()) => {
                progress.running();
                attempt = 0;
                // `controls` holds the sender, so the channel is never closed.
                let _ = tokio::time::timeout(REWRITE.pause(0), changed.changed()).await;
            }
            Err(why) => {
                tracing::warn!(%why, "the reader grants cannot be written; retrying");
                progress.waiting(format!("Postgres: {why}"));
                tokio::time::sleep(BACKOFF.pause(attempt)).await;
                attempt += 1;
            }
        }
    }
}

/// Why the grants are not in Postgres.
#[derive(Debug, thiserror::Error)]
enum NotWritten {
    /// What this node knows of them may be old.
    #[error("`controls` has not been read to its end for 5 s")]
    ControlsUnread,
    #[error(transparent)]
    Store(#[from] StoreError),
}

async fn write(controls: &Controls, store: &Store) -> Result<(), NotWritten> {
    let grants = controls.readers_now().ok_or(NotWritten::ControlsUnread)?;
    let set: Vec<Grant> = grants
        .iter()
        .map(|grant| Grant {
            role: grant.login.to_string(),
            tenant: grant.tenant.to_string(),
        })
        .collect();
    let written = tokio::time::timeout(TIMEOUT, grants::replace(store, &set)).await;
    Ok(written.unwrap_or(Err(StoreError::Timeout("writing the reader grants")))?)
}
