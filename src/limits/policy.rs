//! The limiter's view of a configured policy.

use std::sync::Arc;

pub use crate::config::{Kind, MAX_CONCURRENCY, MAX_RPM, OnBackendDown, Per, Policy};

use super::sliding::Limit;

impl Policy {
    /// The policy of a key's own `max_rpm`; `None` for 0, which means no limit.
    pub fn of_key(max_rpm: u32) -> Option<Self> {
        (max_rpm > 0).then(|| Self {
            name: MAX_RPM.into(),
            limit: max_rpm,
            window_s: 60,
            per: Per::Key,
            on_backend_down: OnBackendDown::Local,
            on: None,
        })
    }

    /// Whether it applies to requests of this kind.
    pub fn applies(&self, kind: Kind) -> bool {
        self.on.as_ref().is_none_or(|on| on.contains(&kind))
    }

    pub(super) fn window(&self, limit: u32) -> Limit {
        Limit {
            limit,
            window_ms: i64::from(self.window_s) * 1000,
        }
    }
}

/// The names of the policies that apply while Redis is down, each with its fallback.
pub(super) type Degraded = smallvec::SmallVec<[(Arc<str>, OnBackendDown); 2]>;

/// A node's share of a limit while each decides alone; at least 1, because otherwise a small limit would admit nothing.
pub(super) fn share(limit: u32, nodes: u32) -> u32 {
    (limit / nodes.max(1)).max(1)
}
