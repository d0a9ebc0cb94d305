//! Metrics of webhooks. The handles are created once, so that a request does no lookup.

use metrics::{Counter, Histogram};

use crate::{
    bridges::Dialect,
    telemetry::metrics::{PORT_WEBHOOK_DURATION, PORT_WEBHOOKS},
};

/// The result of a request.
#[derive(Clone, Copy)]
pub(super) enum RequestOutcome {
    Accepted,
    Duplicate,
    Challenge,
    Refused,
    Failed,
}

const RESULTS: [&str; 5] = ["accepted", "duplicate", "challenge", "refused", "failed"];

pub(super) struct Meters {
    /// By dialect; the last entry is for unknown sources.
    requests: Vec<[Counter; RESULTS.len()]>,
    pub(super) seconds: Histogram,
}

impl Meters {
    pub(super) fn new() -> Self {
        let dialects = Dialect::NAMES.into_iter().chain(["unknown"]);
        let of = |dialect| RESULTS.map(|result| PORT_WEBHOOKS.counter(&[dialect, result]));
        Self {
            requests: dialects.map(of).collect(),
            seconds: PORT_WEBHOOK_DURATION.histogram(&[]),
        }
    }

    pub(super) fn count(&self, dialect: Option<&Dialect>, result: RequestOutcome) {
        let name = dialect.map(Dialect::name);
        let known = Dialect::NAMES.iter().position(|known| Some(*known) == name);
        let of = self.requests.get(known.unwrap_or(Dialect::NAMES.len()));
        if let Some(counters) = of {
            counters[result as usize].increment(1);
        }
    }
}
