//! The table `emergency_controls` follows the emergency controls on the topic `controls`. What a node holds by its environment is its own,
//! and not in the table.

use std::{sync::Arc, time::Duration};

use tokio::{runtime::Handle, sync::watch, task::JoinHandle};

use super::mirror::{self, Mirror, NotWritten};
use crate::{
    controls::{Controls, EmergencyState, FEATURES, KILL_SWITCH, OPERATOR_TAKEOVER, SAFE_MODE},
    store::{
        Store, StoreError,
        emergency::{self, Row},
    },
    stream::progress::Progress,
};

/// The name of this projection, which is also the name of its table.
pub const EMERGENCY_CONTROLS: &str = "emergency_controls";

/// The time limit for one write.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The running projection. Dropping it stops it.
pub struct EmergencyTable {
    task: JoinHandle<()>,
}

impl EmergencyTable {
    /// Starts to write the emergency controls to the table, which must exist.
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

impl Drop for EmergencyTable {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Written {
    controls: Arc<Controls>,
    store: Store,
}

impl Mirror for Written {
    const TABLE: &'static str = EMERGENCY_CONTROLS;

    fn changed(&self) -> watch::Receiver<u64> {
        self.controls.emergency_changed()
    }

    async fn write(&self) -> Result<(), NotWritten> {
        write(&self.controls, &self.store).await
    }
}

async fn write(controls: &Controls, store: &Store) -> Result<(), NotWritten> {
    let emergency = controls.emergency();
    // Checked after the copy: a reader that starts over clears the heartbeat first.
    if !controls.readable() || emergency.unverified {
        return Err(NotWritten::ControlsUnread);
    }
    let state = &emergency.state;
    let rows = rows(state);
    let by = (&*state.changed_by, state.changed_at);
    let written = tokio::time::timeout(TIMEOUT, emergency::replace(store, &rows, by)).await;
    Ok(written.unwrap_or(Err(StoreError::Timeout("writing the emergency controls")))?)
}

/// A row for each switch, each feature without a name, and each named feature that is disabled.
fn rows(state: &EmergencyState) -> Vec<Row> {
    let allowed = serde_json::json!({ "allowed_operations": state.allowed_operations });
    let row = |name: &str, enabled: bool, reason: Option<&String>, value: Option<String>| {
        let since = state.since.get(name);
        Row {
            feature_name: name.to_owned(),
            enabled,
            value,
            disabled_reason: reason.or(since.map(|since| &since.reason)).cloned(),
            updated_by: since.map(|since| since.by.clone()),
            updated_at: since.map(|since| since.at),
        }
    };
    let mut rows = vec![
        row(KILL_SWITCH, state.kill_switch, None, None),
        row(OPERATOR_TAKEOVER, state.operator_takeover, None, None),
        row(SAFE_MODE, state.safe_mode, None, Some(allowed.to_string())),
    ];
    let usable = FEATURES
        .iter()
        .filter(|name| !state.disabled.contains_key(**name));
    rows.extend(usable.map(|name| row(name, true, None, None)));
    let disabled = state.disabled.iter();
    rows.extend(disabled.map(|(name, reason)| row(name, false, Some(reason), None)));
    rows
}
