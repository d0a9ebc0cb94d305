//! A record of the topic `runs`.

use serde::{Deserialize, Serialize};

use super::event::Event;
use crate::{
    base::clock::Millis,
    envelope::{OwnRecord, schemas},
    log::Record,
};

static RECORD: OwnRecord = OwnRecord::new(schemas::RUNS);

/// One record of a run's history (`schemas/runs.avsc`).
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RunRecord {
    /// Whose run it is.
    pub tenant: String,
    /// The run's id, a lower-case UUID.
    pub run_id: String,
    /// From 1, without gaps.
    pub seq: i64,
    /// The type of the event, as in the body.
    #[serde(rename = "type")]
    pub kind: String,
    /// When it was decided: milliseconds since the Unix epoch.
    pub at: i64,
    /// What caused it, such as `start:0:17` or `result:0:18` (partition and offset in `commands`), or `timer`.
    pub causation: Option<String>,
    /// JSON text: an [`Event`], with its `type`.
    pub body: String,
}

impl RunRecord {
    /// The record of an event.
    pub fn new(
        (tenant, run_id): (&str, &str),
        seq: u64,
        event: &Event,
        at: Millis,
        causation: Option<&str>,
    ) -> Self {
        Self {
            tenant: tenant.to_owned(),
            run_id: run_id.to_owned(),
            seq: seq as i64,
            kind: event.name().to_owned(),
            at: at.0,
            causation: causation.map(str::to_owned),
            // All of it is text, numbers and JSON that was checked.
            body: serde_json::to_string(event).unwrap_or_default(),
        }
    }

    /// The record on `runs`; its key is the run.
    pub fn encode(&self) -> Result<Record, apache_avro::Error> {
        RECORD.record(self.run_id.clone(), self)
    }

    /// `None` for anything but a record of this schema.
    pub fn decode(value: &[u8]) -> Option<Self> {
        RECORD.decode(value)
    }

    /// The event; `None` for a type that this version does not know.
    pub fn event(&self) -> Option<Event> {
        serde_json::from_str(&self.body).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runs::{CallKind, Json, StepError};

    #[test]
    fn a_record_round_trips() {
        let event = Event::StepRetryScheduled {
            step_id: "pay".into(),
            kind: CallKind::Execute,
            attempt: 2,
            due: Millis(5_000),
            error: StepError::new("http_503", "busy"),
            answered: true,
        };
        let record = RunRecord::new(("acme", "0198"), 7, &event, Millis(4), Some("result:0:9"));
        let written = record.encode().unwrap();
        assert_eq!(written.key.as_deref(), Some(&b"0198"[..]));
        let read = RunRecord::decode(&written.value.unwrap()).unwrap();
        assert_eq!(read, record);
        assert_eq!(read.kind, "step_retry_scheduled");
        assert_eq!(read.event(), Some(event));
        assert_eq!(RunRecord::decode(b"\0"), None);
    }

    /// The name in the record is the tag in its body.
    #[test]
    fn the_type_is_that_of_the_body() {
        let id = || "a".into();
        let events = [
            Event::StepCancelled { step_id: id() },
            Event::CompensationStarted,
            Event::Paused { by: "ann".into() },
            Event::RunSucceeded {
                output: Json::null(),
            },
            Event::StepReleased {
                step_id: id(),
                kind: CallKind::Compensate,
            },
        ];
        for event in events {
            let body = serde_json::to_value(&event).unwrap();
            assert_eq!(body["type"], event.name());
        }
    }
}
