//! Entries of the audit log about starts that admission refuses. Those that it does not refuse are recorded by the saga, which alone
//! knows whether the run is new.

use serde_json::{Map, Value};

use crate::{
    audit::{Entry, Outcome, START},
    base::clock::Millis,
    envelope::Event,
    log::{Fetched, Record},
    stream::Rejected,
};

/// What is refused.
pub(super) struct Refused<'a> {
    /// The event that triggers it, or its envelope.
    pub(super) event: &'a Event<'a>,
    /// As in `omnilinkkind`.
    pub(super) kind: &'static str,
    pub(super) principal: &'a str,
    /// The run that it would have started, if that is known.
    pub(super) run_id: Option<&'a str>,
}

impl Refused<'_> {
    /// The record on `audit`.
    pub(super) fn record(
        &self,
        position: &str,
        why: &Rejected,
        now: Millis,
    ) -> Result<Record, Rejected> {
        let event = self.event;
        let fields = [
            ("request_id", Some(position)),
            ("run_id", self.run_id),
            ("kind", Some(self.kind)),
            ("type", Some(&*event.kind)),
            ("source", Some(&*event.source)),
            ("status", Some("refused")),
            ("code", Some(&*why.code)),
        ];
        let fields = fields.into_iter();
        let detail: Map<String, Value> = fields
            .filter_map(|(name, text)| Some((name.to_owned(), text?.into())))
            .collect();
        let mut entry = Entry::new(Some(&event.tenant), START, Outcome::Failed, now)
            .by(self.principal, None)
            .detail(detail);
        if let Some(run_id) = self.run_id {
            entry = entry.resource("run", run_id);
        }
        entry
            .encode()
            .map_err(|e| Rejected::new("invalid_payload", e.to_string()))
    }
}

/// Names a record of `ingress` in the audit log.
pub(super) fn position(input: &Fetched) -> String {
    format!("ingress:{}:{}", input.partition, input.offset)
}
