//! Decodes records of `commands` into inputs of the core.

use serde::{
    Deserialize,
    de::{DeserializeOwned, IgnoredAny},
};
use serde_json::{Map, Value};
use uuid::Uuid;

use super::goals::GivenPlan;
use crate::{
    base::clock::Millis,
    commands::{
        Command,
        control::{CANCEL, Cancel, DECISION, Decide, PAUSE, RESUME, SIGNAL, Signal},
        plan::{self, NoPlan, PlanAnswer},
        result::{
            CLAIMED, HELD, RESULT, ResultError, StepClaimed, StepHeld, StepOutcome, StepResult,
        },
        start,
    },
    controls::EmergencyState,
    envelope::json::without_mark,
    runs::{DEPTH_MAX, Json, StepError, Unreadable},
    saga::{CallResult, Hold, Input, Outcome, goal::NO_PLAN},
    stream::Rejected,
};

/// The kind of records about the emergency controls.
const CONTROLS: &str = "controls";

/// The maximum size of the code and the message of a worker's error, in bytes; longer ones are cut.
const CODE_MAX: usize = 128;
const MESSAGE_MAX: usize = 2048;
/// The minimum time for which a worker on Kafka can hold a call.
const HOLD_MIN_MS: i64 = 1_000;

/// A decoded record.
#[expect(
    clippy::large_enum_variant,
    reason = "there is one per record, and it is matched at once"
)]
pub(super) enum Message {
    /// The start of a run.
    Start(Box<Command>),
    /// An input of a run.
    Run(RunInput),
    /// The emergency controls have changed.
    Controls(Box<EmergencyState>),
    /// A record of a kind that only a later version knows.
    Unknown,
}

/// An input of a run, and where it is from.
pub(super) struct RunInput {
    pub(super) run: Uuid,
    /// The tenant that the run must belong to; `None`: a worker on Kafka did not name it.
    pub(super) tenant: Option<String>,
    /// The kind of the record.
    pub(super) kind: &'static str,
    pub(super) input: Input,
    /// The plan that comes with it; the input does not contain it yet, because it is not compiled.
    pub(super) plan: Option<GivenPlan>,
    /// The sender; `None` for workers.
    pub(super) by: Option<By>,
    /// Whether a producer on Kafka wrote it: nobody has checked it against the emergency controls yet.
    pub(super) foreign: bool,
}

impl RunInput {
    /// Bounds the hold of a worker on Kafka from below, so that the call is not sent again at once.
    pub(super) fn bound_hold(&mut self, now: Millis) {
        if let Input::Held { hold, .. } = &mut self.input
            && self.foreign
        {
            let soonest = Millis(now.0.saturating_add(HOLD_MIN_MS));
            hold.until = hold.until.map(|until| until.max(soonest));
        }
    }
}

/// The sender of a control.
#[derive(Clone)]
pub(super) struct By {
    pub(super) principal: String,
    pub(super) on_behalf_of: Option<String>,
}

/// The kinds of JSON records that producers on Kafka may send, in addition to results. Starts are excluded because they must be
/// checked: producers send them to `ingress`.
const FOREIGN_KINDS: [&str; 6] = [CANCEL, PAUSE, RESUME, SIGNAL, DECISION, HELD];
/// The default principal of such records.
const FOREIGN_PRINCIPAL: &str = "kafka";

/// The run that a JSON record of a producer on Kafka is about.
#[derive(Deserialize)]
struct OfRun {
    run_id: String,
    #[serde(default)]
    tenant: Option<String>,
}

fn invalid(what: impl std::fmt::Display) -> Rejected {
    Rejected::new("invalid_command", format!("not a valid command: {what}"))
}

/// Decodes the value of a record.
pub(super) fn read(value: &[u8]) -> Result<Message, Rejected> {
    let Some(command) = Command::decode(value) else {
        return foreign(value);
    };
    if command.kind == CONTROLS {
        let state = body(&command)?;
        return Ok(Message::Controls(Box::new(state)));
    }
    if command.kind == start::KIND {
        return Ok(Message::Start(Box::new(command)));
    }
    let message = run_input(&command, true)?;
    Ok(message.map_or(Message::Unknown, Message::Run))
}

/// The input in a command; `None` if only a later version knows its kind. `ours`: OmniLink has written the record, so its tenant
/// is that of the API key.
fn run_input(command: &Command, ours: bool) -> Result<Option<RunInput>, Rejected> {
    let by = command.principal.clone();
    let mut plan = None;
    let (kind, input) = match command.kind.as_str() {
        RESULT => (RESULT, result(body(command)?)),
        HELD => {
            let held: StepHeld = body(command)?;
            let input = Input::Held {
                step: held.step_id.into(),
                kind: held.kind,
                attempt: held.attempt,
                hold: Hold {
                    reason: cut(held.reason, CODE_MAX),
                    until: held.until,
                },
                maybe_called: held.maybe_called,
            };
            (HELD, input)
        }
        CLAIMED => {
            let claimed: StepClaimed = body(command)?;
            let input = Input::Claimed {
                step: claimed.step_id.into(),
                kind: claimed.kind,
                attempt: claimed.attempt,
                deadline: claimed.deadline,
            };
            (CLAIMED, input)
        }
        plan::KIND => {
            let mut answer: PlanAnswer = body(command)?;
            let error = answer.error.take().map(|error| NoPlan {
                code: cut(error.code, CODE_MAX),
                message: cut(error.message, MESSAGE_MAX),
            });
            answer.error = error;
            let input = Input::Plan {
                request: answer.request,
                outcome: Err(Box::new(StepError::new(NO_PLAN, "").into())),
            };
            plan = Some(GivenPlan::Answer(Box::new(answer)));
            (plan::KIND, input)
        }
        CANCEL => {
            let Cancel { reason, compensate } = body(command)?;
            let input = Input::Cancel {
                by,
                reason,
                compensate,
            };
            (CANCEL, input)
        }
        PAUSE => (PAUSE, Input::Pause { by }),
        RESUME => (RESUME, Input::Resume { by }),
        SIGNAL => {
            let Signal { signal: name, data } = body(command)?;
            check_depth("data", &data)?;
            (SIGNAL, Input::Signal { by, name, data })
        }
        DECISION => {
            let decide: Decide = body(command)?;
            if let Some(value) = &decide.value {
                check_depth("value", value)?;
            }
            // Only the port checks plans and adds the definitions of their tools.
            if decide.plan.is_some() && !ours {
                return Err(invalid("a plan can only be given over HTTP"));
            }
            plan = decide.plan.map(GivenPlan::Decided);
            let input = Input::Decision {
                approval: decide.approval,
                decision: decide.decision,
                by,
                on_behalf_of: command.on_behalf_of.clone(),
                reason: decide.reason,
                input_hash: decide.input_hash,
                value: decide.value,
                plan: None,
            };
            (DECISION, input)
        }
        _ => return Ok(None),
    };
    let tenant = (ours || !command.tenant.is_empty()).then(|| command.tenant.clone());
    Ok(Some(RunInput {
        run: run_id(&command.run_id)?,
        tenant,
        kind,
        input,
        plan,
        by: (![RESULT, HELD, CLAIMED, plan::KIND].contains(&kind)).then(|| By {
            principal: command.principal.clone(),
            on_behalf_of: command.on_behalf_of.clone(),
        }),
        foreign: !ours,
    }))
}

/// The id of a run.
pub(super) fn run_id(text: &str) -> Result<Uuid, Rejected> {
    Uuid::try_parse(text).map_err(|_| invalid("`run_id` is not a UUID"))
}

fn body<T: DeserializeOwned>(command: &Command) -> Result<T, Rejected> {
    serde_json::from_str(&command.body)
        .map_err(|e| invalid(format_args!("the body of kind `{}`: {e}", command.kind)))
}

/// Checks that a run can store a value.
fn check_depth(name: &str, value: &Json) -> Result<(), Rejected> {
    if value.depth() > DEPTH_MAX {
        return Err(invalid(format_args!("`{name}`: {}", Unreadable::TooDeep)));
    }
    Ok(())
}

/// Whether a JSON record is a result. The other members are skipped, so that an unreadable output fails the step and not the record.
#[derive(Deserialize)]
struct OfResult {
    #[serde(default)]
    outcome: Option<IgnoredAny>,
}

impl OfResult {
    fn is_one(value: &[u8]) -> bool {
        // Serde would accept an array of the fields, too.
        let object = value.trim_ascii_start().first() == Some(&b'{');
        object && serde_json::from_slice(value).is_ok_and(|of: Self| of.outcome.is_some())
    }
}

/// Decodes JSON of a producer on Kafka: a result if it has an `outcome`, else a record of the kind in `kind`, with the fields of
/// that kind next to it.
fn foreign(value: &[u8]) -> Result<Message, Rejected> {
    let value = without_mark(value);
    if OfResult::is_one(value) {
        // Parsed again into each type.
        let of: OfRun = serde_json::from_slice(value).map_err(invalid)?;
        let outcome: StepResult = serde_json::from_slice(value).map_err(invalid)?;
        return Ok(Message::Run(RunInput {
            run: run_id(&of.run_id)?,
            tenant: of.tenant,
            kind: RESULT,
            input: result(outcome),
            plan: None,
            by: None,
            foreign: true,
        }));
    }
    let mut json: Map<String, Value> = serde_json::from_slice(value).map_err(invalid)?;
    let mut text = |name: &str| match json.remove(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(invalid(format_args!("`{name}` is not text"))),
    };
    let kind = text("kind")?.ok_or_else(|| invalid("it has neither `outcome` nor `kind`"))?;
    if !FOREIGN_KINDS.contains(&&*kind) {
        let known = FOREIGN_KINDS.join(", ");
        return Err(invalid(format_args!(
            "in JSON `kind` is one of {known}; a result has an `outcome`"
        )));
    }
    let command = Command {
        tenant: text("tenant")?.unwrap_or_default(),
        run_id: text("run_id")?.ok_or_else(|| invalid("`run_id` is missing"))?,
        principal: text("principal")?.unwrap_or_else(|| FOREIGN_PRINCIPAL.into()),
        on_behalf_of: text("on_behalf_of")?,
        at: 0,
        traceparent: None,
        tracestate: None,
        body: Value::Object(json).to_string(),
        kind,
    };
    let message = run_input(&command, false)?;
    Ok(message.map_or(Message::Unknown, Message::Run))
}

fn result(result: StepResult) -> Input {
    let outcome = match result.outcome {
        StepOutcome::Succeeded => Outcome::Succeeded(result.output.unwrap_or_else(Json::null)),
        StepOutcome::Failed => {
            let error = result.error.unwrap_or_else(|| ResultError {
                code: "failed".into(),
                message: String::new(),
                retryable: false,
            });
            Outcome::Failed {
                error: StepError::new(cut(error.code, CODE_MAX), cut(error.message, MESSAGE_MAX)),
                retryable: error.retryable,
                retry_after_ms: result.retry_after_ms,
                answered: result.answered,
            }
        }
    };
    Input::Result(CallResult {
        step: result.step_id.into(),
        kind: result.kind,
        attempt: result.attempt,
        outcome,
    })
}

/// Cuts a text to at most `most` bytes.
fn cut(mut text: String, most: usize) -> String {
    text.truncate(text.floor_char_boundary(most));
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::runs::CallKind;

    #[test]
    fn json_without_an_outcome_needs_a_kind() {
        let id = "0198c1d2-0000-7000-8000-000000000001";
        let message = |mut value: Value| {
            value["run_id"] = id.into();
            match read(value.to_string().as_bytes()) {
                Ok(Message::Run(message)) => message,
                _ => panic!("{value}"),
            }
        };
        let signal = message(json!({ "kind": "signal", "signal": "paid", "data": [1] }));
        assert_eq!(
            signal.input,
            Input::Signal {
                by: "kafka".into(),
                name: "paid".into(),
                data: Json::of(&json!([1])),
            }
        );
        assert_eq!(signal.tenant, None);
        let marked = format!("\u{feff}{}", json!({ "run_id": id, "kind": "pause" }));
        assert!(matches!(read(marked.as_bytes()), Ok(Message::Run(_))));
        let pause = message(json!({ "kind": "pause", "tenant": "acme", "principal": "ann" }));
        assert_eq!(pause.input, Input::Pause { by: "ann".into() });
        assert_eq!(pause.tenant.as_deref(), Some("acme"));
        assert_eq!(pause.by.unwrap().principal, "ann");
    }

    #[test]
    fn values_that_a_run_cannot_store_are_refused_but_outputs_are_checked_by_the_run() {
        let id = "0198c1d2-0000-7000-8000-000000000001";
        let nested = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
        for (levels, good) in [(64, true), (65, false), (120, false), (1000, false)] {
            let deep = nested(levels);
            for record in [
                format!(r#"{{"run_id":"{id}","kind":"signal","signal":"go","data":{deep}}}"#),
                format!(
                    r#"{{"run_id":"{id}","kind":"decision","approval":3,"decision":"skip","value":{deep}}}"#
                ),
            ] {
                let rejected = match read(record.as_bytes()) {
                    Ok(_) => None,
                    Err(rejected) => Some(rejected.code),
                };
                let expected = (!good).then_some("invalid_command");
                assert_eq!(rejected.as_deref(), expected, "{levels}: {record}");
            }
        }
        for output in [&*nested(1000), r#""\ud800""#, "1e400"] {
            let record = format!(
                r#"{{"run_id":"{id}","step_id":"pay","attempt":1,"outcome":"succeeded","output":{output}}}"#
            );
            let Ok(Message::Run(message)) = read(record.as_bytes()) else {
                panic!("{record}");
            };
            let Input::Result(result) = message.input else {
                panic!("{record}");
            };
            let Outcome::Succeeded(kept) = result.outcome else {
                panic!("{record}");
            };
            assert_eq!(kept.text(), output);
        }
    }

    #[test]
    fn json_with_an_outcome_is_a_result() {
        let id = "0198c1d2-0000-7000-8000-000000000001";
        let value = json!({ "run_id": id, "step_id": "pay", "attempt": 2, "outcome": "succeeded", "output": { "n": 1 } });
        let Ok(Message::Run(message)) = read(value.to_string().as_bytes()) else {
            panic!("a result");
        };
        assert_eq!(message.run.to_string(), id);
        let Input::Result(result) = message.input else {
            panic!("a result");
        };
        assert_eq!((result.kind, result.attempt), (CallKind::Execute, 2));
        assert_eq!(
            result.outcome,
            Outcome::Succeeded(Json::of(&json!({ "n": 1 })))
        );
        for broken in [
            "",
            "{}",
            "[]",
            r#"{"kind":"start","run_id":"0198c1d2-0000-7000-8000-000000000001"}"#,
            r#"{"kind":5,"run_id":"0198c1d2-0000-7000-8000-000000000001"}"#,
            r#"{"kind":"signal","run_id":"0198c1d2-0000-7000-8000-000000000001"}"#,
            r#"{"kind":"pause"}"#,
            r#"{"run_id":"x","step_id":"a","attempt":1,"outcome":"succeeded"}"#,
        ] {
            assert!(read(broken.as_bytes()).is_err(), "{broken}");
        }
    }
}
