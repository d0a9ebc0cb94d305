//! The values of placeholders: put into a call just before it is made, and replaced again in how it ended.

use std::borrow::Cow;

use serde_json::Value;

use super::answer::{Ended, Failed, OUTPUT_MAX, output_too_large};
use crate::{
    controls::SecretKeys,
    guardian::{placeholders, whole_placeholder},
    runs::{CallKind, Json, StepCommand},
    slots::{BindError, TooLarge, UNREADABLE, Values},
};

/// How an input is used, and so how values may get into it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Use {
    /// As a document.
    Document,
    /// As an HTTP request: its `url` is not only a text, and neither is a text as `body`.
    Request,
    /// As a query: its `sql` is not only a text.
    Query,
}

/// A step command as its worker gets it: with the values of its placeholders.
pub(super) struct Bound<'c> {
    pub(super) command: Cow<'c, StepCommand>,
    /// Whether the input had placeholders: the run has checked it but for these.
    pub(super) unchecked: bool,
    values: Option<Values>,
}

impl<'c> Bound<'c> {
    pub(super) fn of(
        command: &'c StepCommand,
        usage: Use,
        secrets: &SecretKeys,
    ) -> Result<Self, Failed> {
        let unchecked = placeholders(&command.input).next().is_some();
        let Some(sealed) = &command.sealed else {
            return Ok(Self {
                command: Cow::Borrowed(command),
                unchecked,
                values: None,
            });
        };
        let values = Values::open(secrets, &command.run_id, sealed)
            .map_err(|e| Failed::permanent(UNREADABLE, e.to_string()))?;
        let invalid = |e: BindError| Failed::permanent("invalid_input", e.to_string());
        let too_large = |e: TooLarge| invalid(e.into());
        let input = input(&values, usage, &command.input)?;
        let execute = command.execute.as_deref();
        let execute = execute.map(|execute| values.bind(execute).map_err(invalid));
        let limit_key = command.limit_key.as_deref();
        let limit_key = limit_key.map(|key| values.bind_text(key).map_err(too_large));
        let bound = StepCommand {
            input,
            execute: execute.transpose()?,
            limit_key: limit_key.transpose()?,
            ..command.clone()
        };
        Ok(Self {
            command: Cow::Owned(bound),
            unchecked,
            values: Some(values),
        })
    }

    /// How the call ended, with the placeholders again.
    pub(super) fn conceal(&self, ended: Ended) -> Ended {
        let Some(values) = &self.values else {
            return ended;
        };
        match ended {
            Ended::Succeeded(output) => {
                let output = values.conceal_json(&output);
                match self.command.kind() {
                    _ if output.text().len() <= OUTPUT_MAX => Ended::Succeeded(output),
                    // The output of a compensation is not used.
                    CallKind::Compensate => Ended::Succeeded(Json::null()),
                    CallKind::Execute => Ended::Failed(output_too_large()),
                }
            }
            Ended::Failed(mut failed) => {
                failed.error.code = values.conceal(&failed.error.code);
                failed.error.message = values.conceal_cut(&failed.error.message);
                Ended::Failed(failed)
            }
        }
    }
}

/// The input with the values.
fn input(values: &Values, usage: Use, input: &str) -> Result<String, Failed> {
    let invalid = |e: BindError| Failed::permanent("invalid_input", e.to_string());
    let too_large = |e: TooLarge| invalid(e.into());
    if usage == Use::Document {
        return values.bind(input).map_err(invalid);
    }
    let mut input: Value = serde_json::from_str(input).map_err(|e| invalid(e.into()))?;
    if usage == Use::Query && input["sql"].as_str().is_some_and(|sql| values.are_in(sql)) {
        let message = "`sql` has placeholders: write $1, $2 and so on, and put the placeholders into `params`";
        return Err(Failed::permanent("invalid_input", message));
    }
    if usage == Use::Request
        && let Some(body) = input["body"].as_str()
        && values.are_in(body)
        && whole_placeholder(body).is_none()
    {
        let message = "a `body` that is a text must not have placeholders within it: a value could change its meaning. Send JSON, as an object";
        return Err(Failed::permanent("invalid_input", message));
    }
    let url = match usage {
        Use::Request => input.get_mut("url").map(Value::take),
        Use::Document | Use::Query => None,
    };
    values.bind_value(&mut input).map_err(too_large)?;
    if let Some(url) = url {
        input["url"] = match url {
            Value::String(url) => values.bind_url(&url).map_err(too_large)?.into(),
            other => other,
        };
    }
    Ok(input.to_string())
}

#[cfg(test)]
mod tests {
    use base64::{Engine, engine::general_purpose::STANDARD};
    use serde_json::json;

    use super::*;
    use crate::{
        guardian::{Kind, Slot},
        runs::{CallKindName, TaskStateName},
        slots::seal,
    };

    const RUN: &str = "7dbd6d41-6f85-5f7b-98af-6637f5372c2e";

    fn keys(n: u8) -> SecretKeys {
        SecretKeys::new([&*STANDARD.encode([n; 32])]).unwrap()
    }

    fn command(input: &Value, kind: CallKind) -> StepCommand {
        let slots = [("EMAIL_1", "ann@example.com"), ("ADDRESS_1", "Main 1 & 2")];
        let slots = slots.map(|(name, value)| Slot {
            kind: Kind::of_slot(name).unwrap(),
            name: name.into(),
            value: value.into(),
        });
        StepCommand {
            tenant: "acme".into(),
            run_id: RUN.into(),
            workflow: None,
            step_id: "s".into(),
            attempt: 1,
            kind: CallKindName(kind),
            tool: "t".into(),
            worker: "{}".into(),
            input: input.to_string(),
            idempotency_key: "k".into(),
            deadline: 0,
            at: 0,
            task_id: "t".into(),
            lease: None,
            execute: Some(r#"{"input":{"to":"{EMAIL_1}"},"output":"to {EMAIL_1}"}"#.into()),
            error: None,
            timeout_ms: None,
            limit_key: None,
            state: TaskStateName::default(),
            traceparent: None,
            tracestate: None,
            sealed: Some(seal(&keys(1), RUN, &slots)),
        }
    }

    fn bound(input: &Value, usage: Use) -> Result<Value, Failed> {
        let command = command(input, CallKind::Execute);
        let bound = Bound::of(&command, usage, &keys(1))?;
        Ok(serde_json::from_str(&bound.command.input).unwrap())
    }

    #[test]
    fn the_key_of_a_limit_has_the_values() {
        let command = StepCommand {
            limit_key: Some("to {EMAIL_1}".into()),
            ..command(&json!({}), CallKind::Execute)
        };
        let bound = Bound::of(&command, Use::Document, &keys(1)).unwrap();
        let key = bound.command.limit_key.as_deref();
        assert_eq!(key, Some("to ann@example.com"));
    }

    #[test]
    fn each_use_of_an_input_has_its_own_binding() {
        let document = json!({ "to": "{EMAIL_1}", "url": "{ADDRESS_1}", "sql": "{EMAIL_1}" });
        let expected =
            json!({ "to": "ann@example.com", "url": "Main 1 & 2", "sql": "ann@example.com" });
        assert_eq!(bound(&document, Use::Document).unwrap(), expected);
        let request = json!({ "url": "https://h/?a={ADDRESS_1}&b=1", "body": "{ADDRESS_1}" });
        let expected =
            json!({ "url": "https://h/?a=Main%201%20%26%202&b=1", "body": "Main 1 & 2" });
        assert_eq!(bound(&request, Use::Request).unwrap(), expected);
        assert_eq!(bound(&json!([1]), Use::Request).unwrap(), json!([1]));
        // A text that is a value is sent as it is; a value within another text could change what that means.
        let object = json!({ "url": "https://h", "body": { "to": "{ADDRESS_1}", "text": "at {ADDRESS_1}" } });
        let expected =
            json!({ "url": "https://h", "body": { "to": "Main 1 & 2", "text": "at Main 1 & 2" } });
        assert_eq!(bound(&object, Use::Request).unwrap(), expected);
        for body in [
            r#"{"to":"{ADDRESS_1}"}"#,
            "a={ADDRESS_1}",
            "{EMAIL_1}{ADDRESS_1}",
        ] {
            let request = json!({ "url": "https://h", "body": body });
            let failed = bound(&request, Use::Request).unwrap_err();
            assert_eq!(failed.error.code, "invalid_input", "{body}");
        }
        let other = json!({ "url": "https://h", "body": "for {EMAIL_2}" });
        assert_eq!(bound(&other, Use::Request).unwrap(), other);
        let query = json!({ "sql": "SELECT $1, '{EMAIL_2}'", "params": ["{EMAIL_1}"] });
        let expected = json!({ "sql": "SELECT $1, '{EMAIL_2}'", "params": ["ann@example.com"] });
        assert_eq!(bound(&query, Use::Query).unwrap(), expected);
        let query = json!({ "sql": "SELECT '{EMAIL_1}'" });
        assert_eq!(
            bound(&query, Use::Query).unwrap_err().error.code,
            "invalid_input"
        );
    }

    #[test]
    fn what_is_undone_is_bound_too_and_nothing_without_the_key() {
        let command = command(&json!({}), CallKind::Compensate);
        let bound = Bound::of(&command, Use::Document, &keys(1)).unwrap();
        let execute = r#"{"input":{"to":"ann@example.com"},"output":"to ann@example.com"}"#;
        assert_eq!(bound.command.execute.as_deref(), Some(execute));
        let failed = Bound::of(&command, Use::Document, &keys(2)).err().unwrap();
        assert_eq!(failed.error.code, "sealed_slots_unreadable");
        assert!(!failed.error.retryable);
    }

    #[test]
    fn what_comes_back_has_placeholders() {
        let ended = |kind, ended| {
            let command = command(&json!({}), kind);
            let bound = Bound::of(&command, Use::Document, &keys(1)).unwrap();
            bound.conceal(ended)
        };
        let output = |value: Value| Ended::Succeeded(Json::of(&value));
        assert_eq!(
            ended(CallKind::Execute, output(json!(["ann@example.com"]))),
            output(json!(["{EMAIL_1}"]))
        );
        // A message that was cut within a value.
        let failed = Failed::permanent("x", "Main 1 & 2 is not known to ann@exam");
        let Ended::Failed(failed) = ended(CallKind::Execute, Ended::Failed(failed)) else {
            panic!("it failed");
        };
        assert_eq!(failed.error.message, "{ADDRESS_1} is not known to ");
        // With placeholders it may be larger than the values were.
        let many = || output(json!("Main 1 & 2,".repeat(OUTPUT_MAX / 11)));
        assert_eq!(
            ended(CallKind::Execute, many()),
            Ended::Failed(output_too_large())
        );
        assert_eq!(ended(CallKind::Compensate, many()), output(Value::Null));
    }
}
