//! Named limits: how much, in which window, counted by what.

use std::sync::Arc;

use super::sliding::Limit;

/// What the headers call the limit of a key's `max_rpm`; no configured policy may have this name.
pub const MAX_RPM: &str = "max_rpm";
/// The same for `max_concurrency`.
pub const MAX_CONCURRENCY: &str = "max_concurrency";

/// A limit that applies to all requests, or to some kinds of them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Policy {
    /// Its name in the configuration, the headers, and Redis: printable ASCII.
    pub name: Arc<str>,
    /// The most items in any window; at least 1.
    pub limit: u32,
    /// The length of the window in seconds; at least 1.
    pub window_s: u32,
    /// What has a window of its own.
    pub per: Per,
    /// What holds while Redis is down.
    pub on_backend_down: OnBackendDown,
    /// The requests that it is for; `None`: all.
    pub on: Option<Vec<Kind>>,
}

/// What has a window of its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Per {
    /// Each key.
    Key,
    /// Each tenant.
    Tenant,
    /// Each client address, whatever its tenant; of IPv6 each /64.
    Ip,
    /// Each type of a tenant's items.
    Type,
}

/// What holds while the limiter's backend is down.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OnBackendDown {
    /// No limit.
    Open,
    /// Nothing is let in: 503 `limiter_unavailable`.
    Closed,
    /// The limit divided by the live nodes, on each node.
    Local,
}

/// What a request is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// `POST /v1/events`.
    Events,
    /// `POST /v1/commands`.
    Commands,
    /// `POST /v1/workflows`.
    Workflows,
    /// `POST /v1/goals`.
    Goals,
    /// `POST /v1/tasks`.
    Tasks,
    /// `POST /v1/webhooks/…`.
    Webhooks,
}

impl Kind {
    /// All of them, with their names in `on`.
    pub const ALL: [(&'static str, Self); 6] = [
        ("events", Self::Events),
        ("commands", Self::Commands),
        ("workflows", Self::Workflows),
        ("goals", Self::Goals),
        ("tasks", Self::Tasks),
        ("webhooks", Self::Webhooks),
    ];
}

impl Policy {
    /// A key's own `max_rpm`; `None` for 0, which is no limit.
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

    /// Whether it is for such requests.
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

/// A node's share of a limit while each decides alone: at least 1, for else a small limit would keep everybody out.
pub(super) fn share(limit: u32, nodes: u32) -> u32 {
    (limit / nodes.max(1)).max(1)
}
