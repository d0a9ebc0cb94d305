//! A record of the topic `steps`: one call of a step.

use serde::{Deserialize, Serialize};

use super::event::CallKind;
use crate::{
    base::clock::Millis,
    envelope::{OwnRecord, schemas},
    log::Record,
};

static RECORD: OwnRecord = OwnRecord::new(schemas::STEPS);

/// One call of a step (`schemas/steps.avsc`).
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct StepCommand {
    /// Whose run it is.
    pub tenant: String,
    /// The run's id.
    pub run_id: String,
    /// The name of its workflow.
    pub workflow: Option<String>,
    /// The step.
    pub step_id: String,
    /// From 1.
    pub attempt: i32,
    /// Which of the step's two calls.
    pub kind: CallKindName,
    /// The tool.
    pub tool: String,
    /// JSON text: who does the work, as in the tool's definition, without its secret.
    pub worker: String,
    /// JSON text: the rendered input.
    pub input: String,
    /// `run_id:step_id:kind`, the same for all attempts.
    pub idempotency_key: String,
    /// When the attempt is given up: milliseconds since the Unix epoch.
    pub deadline: i64,
    /// When it was scheduled: milliseconds since the Unix epoch.
    pub at: i64,
    /// `run_id:step_id:kind:attempt`.
    pub task_id: String,
    /// What completes the call over HTTP after a 202.
    pub lease: Option<String>,
    /// JSON text, of a compensation: what it undoes.
    pub execute: Option<String>,
    /// JSON text, of a compensation: why.
    pub error: Option<String>,
    /// W3C trace context.
    pub traceparent: Option<String>,
    /// W3C trace context.
    pub tracestate: Option<String>,
}

/// A [`CallKind`] as a text, which is what the schema has.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CallKindName(pub CallKind);

impl From<CallKindName> for String {
    fn from(name: CallKindName) -> Self {
        name.0.name().to_owned()
    }
}

impl TryFrom<String> for CallKindName {
    type Error = String;

    fn try_from(name: String) -> Result<Self, Self::Error> {
        let all = [CallKind::Execute, CallKind::Compensate];
        let kind = all.into_iter().find(|kind| kind.name() == name);
        kind.map(Self).ok_or(name)
    }
}

/// The key that is the same for all attempts of a call: `run_id:step_id:kind`.
pub fn idempotency_key(run_id: &str, step_id: &str, kind: CallKind) -> String {
    format!("{run_id}:{step_id}:{}", kind.name())
}

impl StepCommand {
    /// The record on `steps`; its key is the run.
    pub fn encode(&self) -> Result<Record, apache_avro::Error> {
        Ok(Record {
            key: Some(self.run_id.clone().into()),
            value: Some(RECORD.encode(self)?.into()),
            headers: Vec::new(),
        })
    }

    /// `None` for anything but a record of this schema.
    pub fn decode(value: &[u8]) -> Option<Self> {
        RECORD.decode(value)
    }

    /// Which of the step's two calls.
    pub fn kind(&self) -> CallKind {
        self.kind.0
    }

    /// When the attempt is given up.
    pub fn deadline(&self) -> Millis {
        Millis(self.deadline)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_round_trips() {
        let command = StepCommand {
            tenant: "acme".into(),
            run_id: "0198".into(),
            workflow: None,
            step_id: "pay".into(),
            attempt: 2,
            kind: CallKindName(CallKind::Compensate),
            tool: "refund".into(),
            worker: r#"{"claim":{}}"#.into(),
            input: "{}".into(),
            idempotency_key: idempotency_key("0198", "pay", CallKind::Compensate),
            deadline: 5,
            at: 4,
            task_id: "0198:pay:compensate:2".into(),
            lease: None,
            execute: Some("{}".into()),
            error: None,
            traceparent: None,
            tracestate: None,
        };
        assert_eq!(command.idempotency_key, "0198:pay:compensate");
        let written = command.encode().unwrap();
        assert_eq!(written.key.as_deref(), Some(&b"0198"[..]));
        assert_eq!(
            StepCommand::decode(&written.value.unwrap()),
            Some(command.clone())
        );
        assert_eq!(command.kind(), CallKind::Compensate);
    }
}
