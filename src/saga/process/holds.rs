//! Which calls the emergency controls hold (docs/controls.md).

use super::run_cache::About;
use crate::{
    controls::Emergency,
    plans::Tool,
    saga::{
        Hold,
        bugs::{Bug, planted},
    },
};

/// Why a call of a tool may not be sent now; `None`: it may.
pub(super) fn hold(controls: &Emergency, tool: &Tool) -> Option<Hold> {
    let changes = tool.changes_something() && !planted(Bug::IgnoresSafeMode);
    let reason = controls.holds(&tool.name, tool.works_outside(), changes)?;
    Some(Hold {
        reason: reason.into_owned(),
        until: None,
    })
}

/// Whether a run that an event, a time or a Kafka producer has started must stay queued. Such starts are never refused because of
/// controls; requests for runs are refused at the port instead.
pub(super) fn start(controls: &Emergency, about: &About) -> bool {
    let Some(feature) = about.feature else {
        return false;
    };
    let disabled = |feature: &str| controls.disabled(feature).is_some();
    let workflow = about.workflow.as_ref();
    controls.kill_switch()
        || controls.operator_takeover()
        || disabled(feature)
        || workflow.is_some_and(|workflow| disabled(&format!("workflow:{}", workflow.name)))
}

/// Whether these controls hold no calls at all, which saves checking each tool.
pub(super) fn hold_nothing(controls: &Emergency) -> bool {
    !controls.kill_switch() && !controls.safe_mode() && controls.state.disabled.is_empty()
}
