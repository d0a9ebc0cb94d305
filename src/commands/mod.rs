//! Records of the topic `commands`: all inputs of runs, from any sender. The topic is keyed by run, so that one partition holds
//! all inputs of a run, in order.
//!
//! The body is JSON whose shape depends on the kind:
//!
//! | kind | body |
//! |---|---|
//! | `start` | [`start::Start`] |
//! | `result`, `held`, `claimed` | [`result`] |
//! | `cancel`, `pause`, `resume`, `signal`, `decision` | [`control`] |
//! | `plan` | [`plan::PlanAnswer`] |
//! | `controls` | [`crate::controls::EmergencyState`], one record for each partition |

pub mod control;
pub mod depth;
pub mod plan;
pub mod result;
pub mod start;

use serde::{Deserialize, Serialize};

use crate::{
    envelope::{OwnRecord, schemas},
    log::Record,
};

/// The tenant of a record that concerns all runs of its partition; its `run_id` is empty.
pub const ALL_TENANTS: &str = "-";

static RECORD: OwnRecord = OwnRecord::new(schemas::COMMANDS);

/// One record of `commands` (`schemas/commands.avsc`).
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Command {
    /// Whose run it is, or [`ALL_TENANTS`].
    pub tenant: String,
    /// The run's id, a lower-case UUID; empty for all runs of the partition.
    pub run_id: String,
    /// The kind of the body.
    pub kind: String,
    /// When it was written: microseconds since the Unix epoch.
    pub at: i64,
    /// The sender.
    pub principal: String,
    /// The user on whose behalf the principal acts.
    pub on_behalf_of: Option<String>,
    /// W3C trace context.
    pub traceparent: Option<String>,
    /// W3C trace context.
    pub tracestate: Option<String>,
    /// JSON text, whose shape depends on the kind.
    pub body: String,
}

impl Command {
    /// The bytes of the record's value.
    pub fn to_bytes(&self) -> Result<Vec<u8>, apache_avro::Error> {
        RECORD.encode(self)
    }

    /// The record. Its key is the run's id; a record for all runs has none, so its partition must be given when it is appended.
    pub fn encode(&self) -> Result<Record, apache_avro::Error> {
        Ok(Record {
            key: (!self.run_id.is_empty()).then(|| self.run_id.clone().into()),
            value: Some(self.to_bytes()?.into()),
            headers: Vec::new(),
        })
    }

    /// `None` for anything but a record of this schema.
    pub fn decode(value: &[u8]) -> Option<Self> {
        RECORD.decode(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_round_trips() {
        let mut command = Command {
            tenant: "acme".into(),
            run_id: "0198".into(),
            kind: "start".into(),
            at: 5,
            principal: "me".into(),
            on_behalf_of: None,
            traceparent: Some("00-1".into()),
            tracestate: None,
            body: "{}".into(),
        };
        let record = command.encode().unwrap();
        assert_eq!(record.key.as_deref(), Some(&b"0198"[..]));
        let value = record.value.unwrap();
        assert_eq!(Command::decode(&value), Some(command.clone()));
        command.run_id.clear();
        assert_eq!(command.encode().unwrap().key, None);
        assert_eq!(Command::decode(b""), None);
    }
}
