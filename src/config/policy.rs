//! Named limits of requests: how much, in which window, counted by what.

use std::sync::Arc;

use serde_json::{Value as Json, json};

/// What the headers call the limit of a key's `max_rpm`.
pub const MAX_RPM: &str = "max_rpm";
/// What the headers call the limit of a key's `max_concurrency`.
pub const MAX_CONCURRENCY: &str = "max_concurrency";
/// What the headers call the limit of wrong keys from one address.
pub const AUTHENTICATION: &str = "authentication";
/// Names of limits that are not policies of the configuration.
pub(super) const RESERVED: [&str; 3] = [MAX_RPM, MAX_CONCURRENCY, AUTHENTICATION];

/// A limit that applies to all requests, or to some kinds of them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Policy {
    /// Its name in the configuration, the headers, and Redis: `a-z`, `0-9`, `_`, `-`.
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

impl Per {
    /// All of them, with their names in the configuration.
    pub const ALL: [(&'static str, Self); 4] = [
        ("key", Self::Key),
        ("tenant", Self::Tenant),
        ("ip", Self::Ip),
        ("type", Self::Type),
    ];
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

impl OnBackendDown {
    /// All of them, with their names in the configuration.
    pub const ALL: [(&'static str, Self); 3] = [
        ("open", Self::Open),
        ("closed", Self::Closed),
        ("local", Self::Local),
    ];

    /// Its name in the configuration.
    pub fn name(self) -> &'static str {
        name_of(&Self::ALL, self)
    }
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
    /// What controls runs: `POST /v1/runs/…`, and decisions.
    Runs,
}

impl Kind {
    /// All of them, with their names in `on`.
    pub const ALL: [(&'static str, Self); 7] = [
        ("events", Self::Events),
        ("commands", Self::Commands),
        ("workflows", Self::Workflows),
        ("goals", Self::Goals),
        ("tasks", Self::Tasks),
        ("webhooks", Self::Webhooks),
        ("runs", Self::Runs),
    ];
}

fn name_of<T: Copy + PartialEq>(all: &[(&'static str, T)], value: T) -> &'static str {
    let named = all.iter().find(|(_, one)| *one == value);
    named.map_or("", |(name, _)| name)
}

impl Policy {
    /// As in the configuration.
    pub(super) fn show(&self) -> Json {
        let mut shown = json!({
            "limit": self.limit,
            "window_s": self.window_s,
            "per": name_of(&Per::ALL, self.per),
            "on_backend_down": self.on_backend_down.name(),
        });
        if let Some(on) = &self.on {
            let names: Vec<_> = on.iter().map(|kind| name_of(&Kind::ALL, *kind)).collect();
            shown["on"] = json!(names);
        }
        shown
    }
}
