//! The table `reader_grants`, kept up with the reader grants on `controls`.
//!
//! The whole set is written in one statement: at the start, on each change, and once a minute, for another node may have
//! written an older set meanwhile. So there is no position to keep, and any number of nodes may write.

use std::{sync::Arc, time::Duration};

use tokio::{runtime::Handle, task::JoinHandle};

use crate::{
    controls::Controls,
    store::{
        Store, StoreError,
        grants::{self, Grant},
    },
    stream::{
        lane::Backoff,
        progress::{LaneProgress, Progress},
    },
};

/// The name of this projection: that of its table.
pub const READER_GRANTS: &str = "reader_grants";

/// Between tries.
const BACKOFF: Backoff = Backoff {
    first: Duration::from_millis(200),
    max: Duration::from_secs(10),
};
/// Between two times that the set is written though nothing changed.
const AGAIN: Backoff = Backoff {
    first: Duration::from_mins(1),
    max: Duration::from_mins(1),
};
/// How long Postgres may take.
const DEADLINE: Duration = Duration::from_secs(10);

/// The running projection. Dropping it stops it.
pub struct ReaderGrants {
    task: JoinHandle<()>,
}

impl ReaderGrants {
    /// Starts to write what `controls` holds to the table, which must be there.
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
                // The sender lives in `controls`.
                let _ = tokio::time::timeout(AGAIN.pause(0), changed.changed()).await;
            }
            Err(why) => {
                tracing::warn!(why, "the reader grants cannot be written yet");
                progress.waiting(format!("Postgres: {why}"));
                tokio::time::sleep(BACKOFF.pause(attempt)).await;
                attempt += 1;
            }
        }
    }
}

async fn write(controls: &Controls, store: &Store) -> Result<(), String> {
    let Some(grants) = controls.readers_now() else {
        return Err("`controls` has not been read to its end for 5 s".to_owned());
    };
    let set: Vec<Grant> = grants
        .iter()
        .map(|grant| Grant {
            role: grant.login.to_string(),
            tenant: grant.tenant.to_string(),
        })
        .collect();
    let written = tokio::time::timeout(DEADLINE, grants::replace(store, &set)).await;
    written
        .unwrap_or(Err(StoreError::Timeout("writing the reader grants")))
        .map_err(|error| error.to_string())
}
