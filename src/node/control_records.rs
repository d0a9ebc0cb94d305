//! Tells runs of the emergency controls: appends each change as one record to each partition of `commands`.
//!
//! Every node does so, after comparing what it has read with what it appended last, which it remembers with the id of the topic.
//! So each change comes at least once, whichever node made it and whichever is down; readers take the highest version.

use std::{sync::Arc, time::Duration};

use tokio::task::JoinHandle;

use crate::{
    base::{
        backoff::Backoff,
        clock::{Clock, SystemClock},
    },
    commands::{ALL_TENANTS, Command},
    controls::{Controls, EmergencyState},
    log::{Log, LogError, Output, topics::Names},
    state::{Changes, Space, StateError, StateStore},
};

/// The kind of these records; their body is an [`EmergencyState`].
const KIND: &str = "controls";
/// Where the node remembers what it appended last.
const PROCESSOR: &str = "control_records";
const APPENDED: &[u8] = b"appended";

const BACKOFF: Backoff = Backoff {
    first: Duration::from_millis(200),
    max: Duration::from_secs(10),
};

/// The running task. Dropping it stops it.
pub(crate) struct ControlRecords(JoinHandle<()>);

impl ControlRecords {
    /// Starts it on the runtime that this is called in.
    pub(crate) fn start(
        log: Arc<dyn Log>,
        names: &Names,
        state: StateStore,
        controls: Arc<Controls>,
    ) -> Self {
        let writer = Arc::new(Writer {
            log,
            topic: Arc::clone(&names.commands),
            state,
        });
        Self(tokio::spawn(follow(writer, controls)))
    }
}

impl Drop for ControlRecords {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Why a change is not on `commands` yet.
#[derive(Debug, thiserror::Error)]
enum NotAppended {
    #[error(transparent)]
    Log(#[from] LogError),
    #[error(transparent)]
    State(#[from] StateError),
    #[error("the record cannot be encoded: {0}")]
    Json(#[from] serde_json::Error),
    #[error("the record cannot be encoded: {0}")]
    Avro(#[from] apache_avro::Error),
    #[error("the log is closing")]
    Closing,
}

struct Writer {
    log: Arc<dyn Log>,
    topic: Arc<str>,
    state: StateStore,
}

async fn follow(writer: Arc<Writer>, controls: Arc<Controls>) {
    let mut changed = controls.emergency_changed();
    let mut attempt = 0;
    loop {
        changed.mark_unchanged();
        let emergency = controls.emergency();
        // What is not known cannot be told: the next change comes with a higher version.
        let known = !emergency.unverified && emergency.state.version > 0;
        let written = if known {
            Arc::clone(&writer).write(emergency.state.clone()).await
        } else {
            Ok(())
        };
        match written {
            Ok(()) => {
                attempt = 0;
                // `controls` holds the sender, so the channel is never closed.
                let _ = changed.changed().await;
            }
            Err(NotAppended::Closing) => return,
            Err(error) => {
                tracing::warn!(%error, "a change of the emergency controls is not on `commands` yet; retrying");
                tokio::time::sleep(BACKOFF.pause(attempt)).await;
                attempt += 1;
            }
        }
    }
}

impl Writer {
    /// Appends a state, unless this node appended it last.
    async fn write(self: Arc<Self>, state: EmergencyState) -> Result<(), NotAppended> {
        // It may ask the brokers.
        let prepared = tokio::task::spawn_blocking(move || self.append(&state)).await;
        match prepared.map_err(|_| NotAppended::Closing)?? {
            None => Ok(()),
            Some(appended) => {
                appended.await.map_err(|_| NotAppended::Closing)??;
                Ok(())
            }
        }
    }

    /// `None`: there is nothing to append.
    fn append(
        &self,
        state: &EmergencyState,
    ) -> Result<Option<crate::log::Acknowledged>, NotAppended> {
        let space = Space::new(PROCESSOR, 0);
        let id = self.log.describe(&self.topic)?.and_then(|topic| topic.id);
        let id = id.map_or_else(String::new, |id| id.to_string());
        let mark = format!("{id}/{}", state.version);
        if self.state.get(&space, APPENDED)?.as_deref() == Some(mark.as_bytes()) {
            return Ok(None);
        }
        let command = Command {
            tenant: ALL_TENANTS.to_owned(),
            run_id: String::new(),
            kind: KIND.to_owned(),
            at: SystemClock.now().0.saturating_mul(1000),
            principal: state.changed_by.clone(),
            on_behalf_of: None,
            traceparent: None,
            tracestate: None,
            body: serde_json::to_string(state)?,
        };
        let record = command.encode()?;
        let partitions = self.log.partitions(&self.topic)?;
        let outputs = (0..partitions).map(|partition| Output {
            topic: Arc::clone(&self.topic),
            partition: Some(partition),
            record: record.clone(),
        });
        let mut changes = Changes::default();
        changes.upkeep(&space, APPENDED, Some(mark.into()));
        Ok(Some(self.log.append_to(outputs.collect(), Some(changes))))
    }
}
