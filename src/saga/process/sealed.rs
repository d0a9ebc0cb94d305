//! The values of a goal's placeholders: which calls get them, and what the history must not repeat.

use serde_json::{Value, value::to_raw_value};

use super::{goals::GivenPlan, run_cache::About};
use crate::{
    base::clock::Millis,
    commands::{
        Command,
        result::{RESULT, ResultError, StepResult},
    },
    controls::SecretKeys,
    guardian::placeholders,
    plans::{Tool, Worker, jcs},
    runs::{CallKind, StepCommand, StepError},
    saga::{CompiledStep, Input, Outcome},
    slots::{REFUSED, UNREADABLE, Unreadable, Values, mismatch},
    workflows::Mismatch,
};

/// The principal of the result of a call that is not sent.
const OMNILINK: &str = "omnilink";

/// Gives a call of a tool the sealed values of its placeholders; the node that makes the call opens them. Consumers of `steps` cannot do
/// that, so their calls have the values as they are, if the tool allows it. `Err`: why the call must not be sent.
pub(super) fn add(
    secrets: Option<&SecretKeys>,
    about: &About,
    (step, tool): (&CompiledStep, &Tool),
    command: &mut StepCommand,
) -> Result<(), StepError> {
    let is_open = |text: &str| placeholders(text).next().is_some();
    let unchecked = is_open(&command.input);
    let other_is_open = |text: Option<&str>| text.is_some_and(is_open);
    // The queue counts work that is claimed by the key as it is.
    let key_is_open = tool.worker != Worker::Claim && other_is_open(command.limit_key.as_deref());
    if !unchecked && !key_is_open && !other_is_open(command.execute.as_deref()) {
        return Ok(());
    }
    if tool.worker != Worker::Kafka {
        command.sealed = about.sealed.as_deref().map(str::to_owned);
        return Ok(());
    }
    if let Some(sealed) = &about.sealed {
        let values = open(secrets, about, sealed)
            .map_err(|error| StepError::new(UNREADABLE, error.to_string()))?;
        put_in(&values, tool, command)?;
    }
    // The run has checked the input but for its placeholders.
    if let Some(schema) = step.schema.as_ref().filter(|_| unchecked)
        && command.kind() == CallKind::Execute
    {
        let input: Value = serde_json::from_str(&command.input).unwrap_or_default();
        let invalid = |wrong: Mismatch| StepError::new("invalid_input", mismatch(&wrong.at));
        schema.check(&input).map_err(invalid)?;
    }
    Ok(())
}

/// Puts the values into a call for a consumer of `steps`.
fn put_in(values: &Values, tool: &Tool, command: &mut StepCommand) -> Result<(), StepError> {
    let execute = command.execute.as_deref();
    if !values.are_in(&command.input) && !execute.is_some_and(|text| values.are_in(text)) {
        return Ok(());
    }
    if !tool.pii_plain {
        let message = format!(
            "the input has placeholders of personal data, which the topic `steps` must not hold: `pii: plain` in the file of `{}` allows it",
            tool.name
        );
        return Err(StepError::new(REFUSED, message));
    }
    let bind = |text: &str| {
        let bound = values.bind(text);
        bound.map_err(|error| StepError::new("invalid_input", error.to_string()))
    };
    command.input = bind(&command.input)?;
    command.execute = command.execute.as_deref().map(bind).transpose()?;
    Ok(())
}

fn open(secrets: Option<&SecretKeys>, about: &About, sealed: &str) -> Result<Values, Unreadable> {
    Values::open(secrets.ok_or(Unreadable)?, &about.run_id, sealed)
}

/// The result of a call that was not sent, for the run itself.
pub(super) fn refused(
    command: &StepCommand,
    error: StepError,
    now: Millis,
) -> Result<Command, serde_json::Error> {
    let attempt = u32::try_from(command.attempt).unwrap_or(0);
    let error = ResultError {
        code: error.code,
        message: error.message,
        retryable: false,
    };
    let result = StepResult::failed(&command.step_id, attempt, command.kind(), error);
    Ok(Command {
        tenant: command.tenant.clone(),
        run_id: command.run_id.clone(),
        kind: RESULT.to_owned(),
        at: now.0.saturating_mul(1000),
        principal: OMNILINK.to_owned(),
        on_behalf_of: None,
        traceparent: command.traceparent.clone(),
        tracestate: command.tracestate.clone(),
        body: serde_json::to_string(&result)?,
    })
}

/// Puts the placeholders back where an input of the run, or the plan that comes with it, repeats the values: what workers, people and other
/// systems send, and this node has not called. The port has done so before, if it could read the values.
pub(super) fn conceal(
    secrets: Option<&SecretKeys>,
    about: &About,
    input: &mut Input,
    plan: &mut Option<GivenPlan>,
) {
    let Some(sealed) = &about.sealed else {
        return;
    };
    // Without a key for them nobody on this node has had the values.
    let Ok(values) = open(secrets, about, sealed) else {
        return;
    };
    if let Some(GivenPlan::Decided(decided)) = plan
        && let Some(concealed) = values.conceal_plan(&decided.planned.steps)
        && let Ok(steps) = to_raw_value(&concealed)
    {
        decided.planned.hash = jcs::hash(&concealed);
        decided.planned.steps = steps;
    }
    match input {
        Input::Result(result) => match &mut result.outcome {
            Outcome::Succeeded(output) => *output = values.conceal_json(output),
            Outcome::Failed { error, .. } => {
                error.code = values.conceal(&error.code);
                error.message = values.conceal_cut(&error.message);
            }
        },
        Input::Signal { data, .. } => *data = values.conceal_json(data),
        Input::Decision { reason, value, .. } => {
            if let Some(reason) = reason {
                *reason = values.conceal(reason);
            }
            if let Some(value) = value {
                *value = values.conceal_json(value);
            }
        }
        Input::Cancel {
            reason: Some(reason),
            ..
        } => *reason = values.conceal(reason),
        _ => {}
    }
}
