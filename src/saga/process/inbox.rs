//! A record of `commands` as what the core is told.

use serde::{Deserialize, de::DeserializeOwned};
use uuid::Uuid;

use crate::{
    commands::{
        Command,
        control::{CANCEL, Cancel, DECISION, Decide, PAUSE, RESUME, SIGNAL, Signal},
        result::{
            CLAIMED, HELD, RESULT, ResultError, StepClaimed, StepHeld, StepOutcome, StepResult,
        },
        start,
    },
    controls::EmergencyState,
    runs::{Json, StepError},
    saga::{CallResult, Hold, Input, Outcome},
    stream::Rejected,
};

/// The kind of records about the emergency controls.
const CONTROLS: &str = "controls";

/// What a record says.
pub(super) enum Told {
    /// A run starts.
    Start(Box<Command>),
    /// A run is told something.
    Run(ForRun),
    /// The emergency controls have changed.
    Controls(Box<EmergencyState>),
    /// A kind of a later version.
    Unknown,
}

/// What a run is told.
pub(super) struct ForRun {
    pub(super) run: Uuid,
    /// Whose run it has to be; `None`: a worker on Kafka does not say.
    pub(super) tenant: Option<String>,
    /// The kind of the record.
    pub(super) kind: &'static str,
    pub(super) input: Input,
}

/// A result as workers on Kafka write it.
#[derive(Deserialize)]
struct Foreign {
    run_id: String,
    #[serde(flatten)]
    result: StepResult,
}

fn invalid(what: impl std::fmt::Display) -> Rejected {
    Rejected::new("invalid_command", format!("it is no command: {what}"))
}

/// Reads the value of a record.
pub(super) fn read(value: &[u8]) -> Result<Told, Rejected> {
    let Some(command) = Command::decode(value) else {
        return foreign(value);
    };
    if command.kind == CONTROLS {
        let state = body(&command)?;
        return Ok(Told::Controls(Box::new(state)));
    }
    if command.kind == start::KIND {
        return Ok(Told::Start(Box::new(command)));
    }
    let by = command.principal.clone();
    let (kind, input) = match command.kind.as_str() {
        RESULT => (RESULT, result(body(&command)?)),
        HELD => {
            let held: StepHeld = body(&command)?;
            let input = Input::Held {
                step: held.step_id.into(),
                kind: held.kind,
                attempt: held.attempt,
                hold: Hold {
                    reason: held.reason,
                    until: held.until,
                },
            };
            (HELD, input)
        }
        CLAIMED => {
            let claimed: StepClaimed = body(&command)?;
            let input = Input::Claimed {
                step: claimed.step_id.into(),
                attempt: claimed.attempt,
                deadline: claimed.deadline,
            };
            (CLAIMED, input)
        }
        CANCEL => {
            let Cancel { reason, compensate } = body(&command)?;
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
            let Signal { signal: name, data } = body(&command)?;
            (SIGNAL, Input::Signal { by, name, data })
        }
        DECISION => {
            let decide: Decide = body(&command)?;
            let input = Input::Decision {
                approval: decide.approval,
                decision: decide.decision,
                by,
                on_behalf_of: command.on_behalf_of.clone(),
                reason: decide.reason,
                input_hash: decide.input_hash,
                value: decide.value,
            };
            (DECISION, input)
        }
        _ => return Ok(Told::Unknown),
    };
    Ok(Told::Run(ForRun {
        run: run_id(&command.run_id)?,
        tenant: Some(command.tenant),
        kind,
        input,
    }))
}

/// The id of a run.
pub(super) fn run_id(text: &str) -> Result<Uuid, Rejected> {
    Uuid::try_parse(text).map_err(|_| invalid("`run_id` is no UUID"))
}

fn body<T: DeserializeOwned>(command: &Command) -> Result<T, Rejected> {
    serde_json::from_str(&command.body)
        .map_err(|e| invalid(format_args!("the body of kind `{}`: {e}", command.kind)))
}

/// JSON of a worker on Kafka.
fn foreign(value: &[u8]) -> Result<Told, Rejected> {
    let foreign: Foreign = serde_json::from_slice(value).map_err(invalid)?;
    Ok(Told::Run(ForRun {
        run: run_id(&foreign.run_id)?,
        tenant: None,
        kind: RESULT,
        input: result(foreign.result),
    }))
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
                error: StepError::new(error.code, error.message),
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::runs::CallKind;

    #[test]
    fn json_with_an_outcome_is_a_result() {
        let id = "0198c1d2-0000-7000-8000-000000000001";
        let value = json!({ "run_id": id, "step_id": "pay", "attempt": 2, "outcome": "succeeded", "output": { "n": 1 } });
        let Ok(Told::Run(told)) = read(value.to_string().as_bytes()) else {
            panic!("a result");
        };
        assert_eq!(told.run.to_string(), id);
        let Input::Result(result) = told.input else {
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
            r#"{"run_id":"x","step_id":"a","attempt":1,"outcome":"succeeded"}"#,
        ] {
            assert!(read(broken.as_bytes()).is_err(), "{broken}");
        }
    }
}
