//! The table `reader_grants` follows the reader grants on the topic `controls`.

use std::{sync::Arc, time::Duration};

use tokio::{runtime::Handle, sync::watch, task::JoinHandle};

use super::mirror::{self, Mirror, NotWritten};
use crate::{
    controls::Controls,
    store::{
        Store, StoreError,
        grants::{self, Grant},
    },
    stream::progress::Progress,
};

/// The name of this projection, which is also the name of its table.
pub const READER_GRANTS: &str = "reader_grants";

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
        let written = Written { controls, store };
        let task = runtime.spawn(mirror::follow(written, progress.lane()));
        Self { task }
    }
}

impl Drop for ReaderGrants {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Written {
    controls: Arc<Controls>,
    store: Store,
}

impl Mirror for Written {
    const TABLE: &'static str = READER_GRANTS;

    fn changed(&self) -> watch::Receiver<u64> {
        self.controls.readers_changed()
    }

    async fn write(&self) -> Result<(), NotWritten> {
        write(&self.controls, &self.store).await
    }
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
