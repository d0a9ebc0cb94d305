//! Which calls the emergency controls hold (contract, section 4; docs/controls.md).

use super::live::About;
use crate::{
    controls::{Emergency, EmergencyState},
    plans::{Builtin, Kind, Tool, Worker},
    saga::Hold,
};

/// Why a call of a tool may not go now; `None`: it may.
pub(super) fn hold(controls: &Emergency, tool: &Tool) -> Option<Hold> {
    let reason = controls.holds(&tool.name, works_outside(tool), changes_something(tool))?;
    Some(Hold {
        reason: reason.into_owned(),
        until: None,
    })
}

/// Whether a run stays queued that an event or a time has started: nobody refuses such a start while it is not allowed. Runs that were
/// requested are refused at the port instead.
pub(super) fn start(controls: Option<&Emergency>, about: &About) -> bool {
    let Some(controls) = controls.filter(|_| about.triggered) else {
        return false;
    };
    let disabled = |feature: &str| controls.disabled(feature).is_some();
    let workflow = about.workflow.as_ref();
    controls.kill_switch()
        || controls.operator_takeover()
        || disabled("workflows")
        || workflow.is_some_and(|workflow| disabled(&format!("workflow:{}", workflow.name)))
}

/// Whether a worker does it: builtin tools but `http` are part of the run.
fn works_outside(tool: &Tool) -> bool {
    match tool.worker {
        Worker::Builtin(builtin) => builtin == Builtin::Http,
        _ => true,
    }
}

/// Whether a call may change something outside: every tool of a worker that does not say that it only reads, and events.
fn changes_something(tool: &Tool) -> bool {
    match tool.worker {
        Worker::Builtin(Builtin::Noop | Builtin::Wait | Builtin::Approve) => false,
        Worker::Builtin(Builtin::Emit) => true,
        _ => tool.kind != Some(Kind::Read),
    }
}

/// The controls of a record.
pub(super) fn controls(state: EmergencyState) -> Emergency {
    Emergency {
        state,
        ..Emergency::default()
    }
}

/// Whether these controls hold no call at all, so that tools need not be asked about.
pub(super) fn hold_nothing(controls: &Emergency) -> bool {
    !controls.kill_switch() && !controls.safe_mode() && controls.state.disabled.is_empty()
}
