//! Bounds tables: rows of the audit log older than `audit.retention_days`, and tasks that have been over for a week, are deleted in
//! small steps.

use std::time::Duration;

use tokio::{runtime::Handle, task::JoinHandle};

use crate::{
    base::backoff::Backoff,
    store::{Store, StoreError, audit, tasks},
};

/// The pause between two runs. With jitter, so that nodes do not run at the same moment.
const EVERY: Backoff = Backoff {
    first: Duration::from_hours(1),
    max: Duration::from_hours(1),
};
/// The pause after a failure.
const RETRY: Backoff = Backoff {
    first: Duration::from_mins(1),
    max: Duration::from_mins(1),
};

/// The running task. Dropping it stops it.
pub struct Retention(JoinHandle<()>);

impl Retention {
    /// Starts to delete rows that are older than so many days: now, and then about every hour.
    pub fn start(runtime: &Handle, store: &Store, days: u32) -> Self {
        let store = store.clone();
        Self(runtime.spawn(async move {
            loop {
                let expired = async {
                    let entries = audit::expire(&store, days).await?;
                    tasks::expire(&store).await?;
                    Ok::<_, StoreError>(entries)
                };
                let pause = match expired.await {
                    Ok(0) => EVERY,
                    Ok(deleted) => {
                        tracing::info!(deleted, days, "old rows of the audit log were deleted");
                        EVERY
                    }
                    Err(error) => {
                        tracing::warn!(%error, "old rows cannot be deleted; retrying");
                        RETRY
                    }
                };
                tokio::time::sleep(pause.pause(0)).await;
            }
        }))
    }
}

impl Drop for Retention {
    fn drop(&mut self) {
        self.0.abort();
    }
}
