//! The emergency controls: kill switch, take-over, safe mode, and disabled features.
//!
//! One record on `controls` holds the whole state. A change is computed from the state with version N and written as version
//! N + 1; of two records with one version the first counts, and the node that wrote the other merges its change again. So
//! concurrent changes are merged, and no node overwrites what it has not read.
//!
//! A record that cannot be verified never opens anything: a tombstone is refused, and a record that cannot be opened closes intake like
//! the kill switch, until a record with a higher version can be read ([`Emergency::unverified`]).

mod in_force;
mod state;

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
};

pub use in_force::{Emergency, InForce};
use parking_lot::{Mutex, RwLock};
pub use state::{
    DISABLED_MAX, EVENTS, EmergencyChange, EmergencyState, FEATURES, OPERATIONS_MAX, REASON_MAX,
    Since, TooManyDisabled, is_feature, reason_is_good,
};
use tokio::sync::watch;

use super::{
    Controls, ControlsError,
    apply::Opened,
    hold::Held,
    record::{self, Control},
};
use crate::base::clock::Millis;

/// How often a change is merged again if other nodes change the controls at the same time; each time one of them succeeds.
const ATTEMPTS: u32 = 32;
/// The number of offsets of accepted records that are remembered.
const ACCEPTED: usize = 256;

const FLAG_KILL_SWITCH: u8 = 1;
const FLAG_TAKEOVER: u8 = 2;
const FLAG_DISABLED: u8 = 4;
const FLAG_NO_EVENTS: u8 = 8;

/// A completed change.
#[derive(Clone, Debug)]
pub struct EmergencyChanged {
    /// The state that the change was merged into.
    pub before: EmergencyState,
    /// The state with the change.
    pub after: EmergencyState,
}

/// Why the controls were not changed.
#[derive(Debug, thiserror::Error)]
pub enum EmergencyError {
    /// Too many features would be disabled.
    #[error(transparent)]
    TooManyDisabled(#[from] TooManyDisabled),
    /// The change could not be written.
    #[error(transparent)]
    Controls(#[from] ControlsError),
}

/// The controls in force, as bits.
fn flags(emergency: &Emergency) -> u8 {
    let flag = |flag, on| if on { flag } else { 0 };
    flag(FLAG_KILL_SWITCH, emergency.kill_switch())
        | flag(FLAG_TAKEOVER, emergency.operator_takeover())
        | flag(FLAG_DISABLED, !emergency.state.disabled.is_empty())
        | flag(FLAG_NO_EVENTS, emergency.disabled(EVENTS).is_some())
}

/// The state in memory.
pub(super) struct Shared {
    current: RwLock<Arc<Emergency>>,
    /// The flags that requests check, with one atomic load each.
    flags: AtomicU8,
    /// Incremented with each change of the controls in force on this node.
    changed: watch::Sender<u64>,
    /// Offsets of the last records that became the state, oldest first.
    accepted: Mutex<VecDeque<u64>>,
    /// Held while this node writes a change, so that its own changes do not contend.
    changing: tokio::sync::Mutex<()>,
}

impl Default for Shared {
    fn default() -> Self {
        Self {
            current: RwLock::default(),
            flags: AtomicU8::new(0),
            changed: watch::Sender::new(0),
            accepted: Mutex::default(),
            changing: tokio::sync::Mutex::default(),
        }
    }
}

impl Shared {
    fn update(&self, update: impl FnOnce(&mut Emergency)) {
        let mut current = self.current.write();
        let mut next = Emergency::clone(&current);
        update(&mut next);
        self.flags.store(flags(&next), Ordering::Relaxed);
        *current = Arc::new(next);
        drop(current);
        self.changed.send_modify(|version| *version += 1);
    }

    fn has(&self, flag: u8) -> bool {
        self.flags.load(Ordering::Relaxed) & flag != 0
    }
}

impl Controls {
    /// The emergency controls in force on this node.
    pub fn emergency(&self) -> Arc<Emergency> {
        Arc::clone(&self.emergency.current.read())
    }

    /// Notified of each change of the controls in force on this node.
    pub fn emergency_changed(&self) -> watch::Receiver<u64> {
        self.emergency.changed.subscribe()
    }

    /// Sets the controls that this node holds, whatever the topic says.
    pub fn hold(&self, held: Held) {
        self.emergency.update(|emergency| emergency.held = held);
    }

    /// The controls that this node holds by itself. A record that cannot be verified has the effect of the kill switch. Cheap: called
    /// for every record of `commands`.
    pub fn own_holds(&self) -> Held {
        self.emergency.current.read().own_holds()
    }

    /// Whether the kill switch is on. Cheap: called for every request.
    pub fn kill_switch(&self) -> bool {
        self.emergency.has(FLAG_KILL_SWITCH)
    }

    /// Whether an operator has taken over. Cheap: called for every request.
    pub fn operator_takeover(&self) -> bool {
        self.emergency.has(FLAG_TAKEOVER)
    }

    /// Why a feature is disabled; `None` if it is not. Cheap while nothing is disabled.
    pub fn disabled(&self, feature: &str) -> Option<String> {
        if !self.emergency.has(FLAG_DISABLED) {
            return None;
        }
        self.emergency().disabled(feature).map(str::to_owned)
    }

    /// Why no topology processes its input; `None` if the kill switch is off. Cheap while it is off.
    pub fn processing_held(&self) -> Option<String> {
        if !self.emergency.has(FLAG_KILL_SWITCH) {
            return None;
        }
        self.emergency().processing_held()
    }

    /// Why admission admits nothing; `None` if the kill switch is off and `events` is not disabled, which is cheap.
    pub fn admission_held(&self) -> Option<String> {
        if !self.emergency.has(FLAG_KILL_SWITCH | FLAG_NO_EVENTS) {
            return None;
        }
        self.emergency().admission_held()
    }

    /// Merges a change into the state, and again if another node was faster. When this returns, the change has taken effect on this node.
    pub async fn change_emergency(
        &self,
        change: &EmergencyChange,
        by: &str,
        now: Millis,
    ) -> Result<EmergencyChanged, EmergencyError> {
        let _changing = self.emergency.changing.lock().await;
        for _ in 0..ATTEMPTS {
            let before = self.emergency().state.clone();
            let after = before.merge(change, by, now)?;
            let record = self.sealed(record::EMERGENCY, (by, now), &after, &[])?;
            let offset = self.write(record).await?;
            if self.emergency.accepted.lock().contains(&offset) {
                return Ok(EmergencyChanged { before, after });
            }
        }
        Err(ControlsError::Contended.into())
    }

    /// Applies an accepted record of the controls; if it cannot be read, closes what it may have closed.
    pub(super) fn apply_emergency(
        &self,
        offset: u64,
        opened: Option<Result<Opened, &'static str>>,
    ) {
        let read = match opened {
            Some(Ok(Opened { control, stamp, .. })) => {
                let state: Option<EmergencyState> = serde_json::from_str(&control.body).ok();
                state.ok_or((stamp.version, "its body does not have the expected fields"))
            }
            Some(Err(why)) => Err((0, why)),
            None => Err((0, "it has no value")),
        };
        match read {
            Ok(state) if state.version < self.emergency().state.version => {
                // The topic was recreated or restored from a copy; the known state is newer.
                tracing::warn!(
                    offset,
                    "older emergency controls on `controls` are not used"
                );
            }
            Ok(state) => {
                tracing::info!(
                    version = state.version,
                    kill_switch = state.kill_switch,
                    operator_takeover = state.operator_takeover,
                    safe_mode = state.safe_mode,
                    disabled = state.disabled.len(),
                    by = state.changed_by,
                    "the emergency controls have changed"
                );
                self.emergency.update(|emergency| {
                    emergency.state = state;
                    emergency.unverified = false;
                });
                let mut accepted = self.emergency.accepted.lock();
                accepted.push_back(offset);
                if accepted.len() > ACCEPTED {
                    accepted.pop_front();
                }
            }
            Err((version, why)) => {
                self.refused.increment(1);
                tracing::error!(
                    offset,
                    name = Control::key("-", record::EMERGENCY.1, record::EMERGENCY.2),
                    why,
                    "the emergency controls cannot be verified: the intake is closed until they are changed"
                );
                self.emergency.update(|emergency| {
                    emergency.unverified = true;
                    // The next change needs a higher version.
                    let known = &mut emergency.state.version;
                    *known = version.max(*known);
                });
            }
        }
    }

    /// Called before the topic is read again from its start, because offsets start anew. The state is kept, so that nothing opens
    /// meanwhile.
    pub(super) fn forget_accepted(&self) {
        self.emergency.accepted.lock().clear();
    }
}
