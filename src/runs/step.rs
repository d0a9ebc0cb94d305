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
    /// The step's own call, or its compensation.
    pub kind: CallKindName,
    /// The tool.
    pub tool: String,
    /// JSON text: the `worker` of the tool's definition, without its secret.
    pub worker: String,
    /// JSON text: the rendered input.
    pub input: String,
    /// `run_id:step_id:kind`, the same for all attempts.
    pub idempotency_key: String,
    /// The deadline of the attempt: milliseconds since the Unix epoch.
    pub deadline: i64,
    /// When it was scheduled: milliseconds since the Unix epoch.
    pub at: i64,
    /// `run_id:step_id:kind:attempt`.
    pub task_id: String,
    /// The lease that completes the call over HTTP after a 202.
    pub lease: Option<String>,
    /// For a compensation, JSON text: the call that it undoes.
    pub execute: Option<String>,
    /// For a compensation, JSON text: the error that caused it.
    pub error: Option<String>,
    /// For tools with `worker: claim`: the time limit of the attempt from its first claim, in milliseconds.
    pub timeout_ms: Option<i64>,
    /// For tools with `worker: claim`, and if the key needs the params of the run: the key by which the tool's limit counts the call. `None`:
    /// all calls count together, or the node that makes the call renders the key from its input.
    pub limit_key: Option<String>,
    /// The state of the task; always [`TaskState::Scheduled`] for tools without `worker: claim`.
    pub state: TaskStateName,
    /// W3C trace context.
    pub traceparent: Option<String>,
    /// W3C trace context.
    pub tracestate: Option<String>,
    /// The values of the placeholders in `input` and `execute`, sealed ([`crate::slots`]); `None` if they have none.
    pub sealed: Option<String>,
}

/// The state of a task that workers claim, in a record.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum TaskState {
    /// The call is ready for a worker: a new task.
    #[default]
    Scheduled,
    /// The run knows of the first claim, from which the deadline counts.
    Started,
    /// The run is paused: the task is not handed out.
    Paused,
    /// The run is resumed, with a later deadline.
    Resumed,
    /// The attempt is over.
    Over,
}

impl TaskState {
    const ALL: [(Self, &'static str); 5] = [
        (Self::Scheduled, "scheduled"),
        (Self::Started, "started"),
        (Self::Paused, "paused"),
        (Self::Resumed, "resumed"),
        (Self::Over, "over"),
    ];
}

/// A [`TaskState`] as text, which is its type in the Avro schema.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TaskStateName(pub TaskState);

impl From<TaskStateName> for String {
    fn from(name: TaskStateName) -> Self {
        let mut all = TaskState::ALL.into_iter();
        let known = all.find(|(state, _)| *state == name.0);
        known.map_or_else(Self::new, |(_, text)| text.to_owned())
    }
}

impl TryFrom<String> for TaskStateName {
    type Error = String;

    fn try_from(name: String) -> Result<Self, Self::Error> {
        let mut all = TaskState::ALL.into_iter();
        let known = all.find(|(_, text)| *text == name);
        known.map(|(state, _)| Self(state)).ok_or(name)
    }
}

/// A [`CallKind`] as text, which is its type in the Avro schema.
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

/// The idempotency key of a call, the same for all attempts: `run_id:step_id:kind`.
pub fn idempotency_key(run_id: &str, step_id: &str, kind: CallKind) -> String {
    format!("{run_id}:{step_id}:{}", kind.name())
}

/// The id of an attempt: `run_id:step_id:kind:attempt`.
pub fn task_id(run_id: &str, step_id: &str, kind: CallKind, attempt: u32) -> String {
    format!("{run_id}:{step_id}:{}:{attempt}", kind.name())
}

impl StepCommand {
    /// The record on `steps`; its key is the run.
    pub fn encode(&self) -> Result<Record, apache_avro::Error> {
        RECORD.record(self.run_id.clone(), self)
    }

    /// `None` for anything but a record of this schema.
    pub fn decode(value: &[u8]) -> Option<Self> {
        RECORD.decode(value)
    }

    /// The step's own call, or its compensation.
    pub fn kind(&self) -> CallKind {
        self.kind.0
    }

    /// The deadline of the attempt.
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
            timeout_ms: Some(60_000),
            limit_key: Some("DE02".into()),
            state: TaskStateName(TaskState::Over),
            traceparent: None,
            tracestate: None,
            sealed: Some("c2VhbGVk".into()),
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

    #[test]
    fn a_record_of_the_first_version_is_read() {
        #[derive(Serialize)]
        struct First {
            tenant: &'static str,
            run_id: &'static str,
            workflow: Option<&'static str>,
            step_id: &'static str,
            attempt: i32,
            kind: &'static str,
            tool: &'static str,
            worker: &'static str,
            input: &'static str,
            idempotency_key: &'static str,
            deadline: i64,
            at: i64,
            task_id: &'static str,
            lease: Option<&'static str>,
            execute: Option<&'static str>,
            error: Option<&'static str>,
            timeout_ms: Option<i64>,
            limit_key: Option<&'static str>,
            state: &'static str,
            traceparent: Option<&'static str>,
            tracestate: Option<&'static str>,
        }
        static FIRST: OwnRecord = OwnRecord::new(schemas::STEPS_1);
        let first = First {
            tenant: "acme",
            run_id: "0198",
            workflow: Some("expense"),
            step_id: "pay",
            attempt: 2,
            kind: "execute",
            tool: "pay",
            worker: r#"{"claim":{}}"#,
            input: r#"{"a":1}"#,
            idempotency_key: "0198:pay:execute",
            deadline: 5,
            at: 4,
            task_id: "0198:pay:execute:2",
            lease: None,
            execute: None,
            error: None,
            timeout_ms: Some(7),
            limit_key: None,
            state: "paused",
            traceparent: Some("00-1"),
            tracestate: None,
        };
        let read = StepCommand::decode(&FIRST.encode(&first).unwrap()).unwrap();
        assert_eq!((&*read.input, read.attempt), (r#"{"a":1}"#, 2));
        assert_eq!((read.deadline, read.timeout_ms), (5, Some(7)));
        assert_eq!(read.state.0, TaskState::Paused);
        assert_eq!(read.traceparent.as_deref(), Some("00-1"));
        assert_eq!(read.sealed, None);
    }
}
