//! The port's metrics. Handles are made once: a request looks nothing up.

use metrics::{
    Counter, Gauge, Histogram, counter, describe_counter, describe_gauge, describe_histogram,
    gauge, histogram,
};

use super::answer::Outcome;

pub(super) struct Meters {
    ingested: Counter,
    duplicate: Counter,
    refused: Counter,
    /// Answers of `/v1/events` by the first digit of their status.
    by_class: [Counter; 3],
    /// Wrong keys, from anyone.
    pub(super) wrong_keys: Counter,
    /// Open connections.
    pub(super) connections: Gauge,
    /// From the request to its answer.
    pub(super) seconds: Histogram,
}

impl Meters {
    pub(super) fn new() -> Self {
        crate::telemetry::metrics();
        describe_counter!(
            "omnilink_port_events_total",
            "Events taken at the port, by what became of them"
        );
        describe_counter!(
            "omnilink_port_requests_total",
            "Requests to /v1/events, by class of their status"
        );
        describe_counter!(
            "omnilink_port_wrong_keys_total",
            "Requests with a key that is not valid"
        );
        describe_gauge!("omnilink_port_connections", "Open connections");
        describe_histogram!(
            "omnilink_port_request_seconds",
            "From a request to /v1/events to its answer, in seconds"
        );
        let events =
            |result: &'static str| counter!("omnilink_port_events_total", "result" => result);
        let requests =
            |class: &'static str| counter!("omnilink_port_requests_total", "class" => class);
        Self {
            ingested: events("ingested"),
            duplicate: events("duplicate"),
            refused: events("refused"),
            by_class: [requests("2xx"), requests("4xx"), requests("5xx")],
            wrong_keys: counter!("omnilink_port_wrong_keys_total"),
            connections: gauge!("omnilink_port_connections"),
            seconds: histogram!("omnilink_port_request_seconds"),
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
