//! The port's metrics. The handles are created once, so that a request does no lookup.

use metrics::{Counter, Gauge, Histogram};

use super::ingest::answer::Outcome;
use crate::telemetry::metrics::{
    PORT_CONNECTIONS, PORT_CONNECTIONS_REFUSED, PORT_EVENTS, PORT_INVALID_KEYS,
    PORT_REQUEST_DURATION, PORT_REQUESTS,
};

pub(super) struct Meters {
    ingested: Counter,
    duplicate: Counter,
    refused: Counter,
    /// Answers of `/v1/events` by the first digit of their status.
    by_class: [Counter; 3],
    /// Wrong keys from any address.
    pub(super) wrong_keys: Counter,
    /// The number of open connections.
    pub(super) connections: Gauge,
    /// Connections refused because their address has too many.
    pub(super) refused_by_address: Counter,
    /// TLS handshakes that failed.
    pub(super) failed_handshakes: Counter,
    /// The time from the request to its answer.
    pub(super) seconds: Histogram,
}

impl Meters {
    pub(super) fn new() -> Self {
        let events = |result| PORT_EVENTS.counter(&[result]);
        let requests = |class| PORT_REQUESTS.counter(&[class]);
        Self {
            ingested: events("ingested"),
            duplicate: events("duplicate"),
            refused: events("refused"),
            by_class: [requests("2xx"), requests("4xx"), requests("5xx")],
            wrong_keys: PORT_INVALID_KEYS.counter(&[]),
            connections: PORT_CONNECTIONS.gauge(&[]),
            refused_by_address: PORT_CONNECTIONS_REFUSED.counter(&["address"]),
            failed_handshakes: PORT_CONNECTIONS_REFUSED.counter(&["handshake"]),
            seconds: PORT_REQUEST_DURATION.histogram(&[]),
        }
    }

    pub(super) fn count(&self, outcomes: &[Outcome]) {
        let [mut ingested, mut duplicate, mut refused] = [0; 3];
        for outcome in outcomes {
            match outcome {
                Outcome::Ingested(_) => ingested += 1,
                Outcome::Duplicate(_) => duplicate += 1,
                Outcome::Refused(_) => refused += 1,
            }
        }
        for (counter, n) in [
            (&self.ingested, ingested),
            (&self.duplicate, duplicate),
            (&self.refused, refused),
        ] {
            if n > 0 {
                counter.increment(n);
            }
        }
    }

    pub(super) fn answered(&self, status: u16) {
        let class = match status {
            200..400 => 0,
            400..500 => 1,
            _ => 2,
        };
        self.by_class[class].increment(1);
    }
}
