//! How an effect of this node is: calls of tools, plans of goals, notifications.

use crate::{
    stream::{
        effect,
        progress::{ProcessorStatus, Progress},
    },
    telemetry::PartStatus,
};

/// The status of an effect as a part of readiness. A call may take long, which is no trouble.
pub(super) fn status(progress: &Progress) -> PartStatus {
    match progress.status() {
        ProcessorStatus::Waiting(what) if what.starts_with(effect::CALL) => PartStatus::ok(what),
        status => status
            .detail()
            .map_or(PartStatus::ok(""), PartStatus::degraded),
    }
}
