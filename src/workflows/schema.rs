//! JSON Schema 2020-12, without network and files: a reference can only point into the same schema or to a standard meta-schema.

use std::fmt;

use jsonschema::{Draft, PatternOptions, ValidationError, Validator};
use serde_json::Value;

use crate::{base::id::text_is_good, guardian::placeholders, plans::SIGNAL_FORMAT};

/// A compiled schema.
pub struct Schema(Validator);

impl fmt::Debug for Schema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Schema")
    }
}

/// A mismatch between a value and a schema.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{at}: {message}")]
pub struct Mismatch {
    /// The JSON pointer of the mismatch.
    pub at: String,
    /// The reason, as text for people. It may quote the start of the value.
    pub message: String,
}

/// The maximum length of a message in bytes, because it may quote the value.
const MESSAGE_MAX: usize = 300;

impl Schema {
    /// Compiles a schema. `Err`: where and why it is invalid.
    pub fn compile(schema: &Value) -> Result<Self, Mismatch> {
        let options = jsonschema::options()
            .with_draft(Draft::Draft202012)
            .should_validate_formats(true)
            .with_format(SIGNAL_FORMAT, text_is_good)
            // No backtracking: matching takes linear time.
            .with_pattern_options(PatternOptions::regex())
            .offline();
        options.build(schema).map(Self).map_err(|error| Mismatch {
            at: error.instance_path().to_string(),
            message: short(&error.to_string()),
        })
    }

    /// The first mismatch of a value, if any.
    pub fn check(&self, value: &Value) -> Result<(), Mismatch> {
        mismatch(self.0.iter_errors(value).next())
    }

    /// As [`Schema::check`], for a value in which placeholders (`{EMAIL_1}`) may stand for others: a text that has one matches anything.
    pub fn check_open(&self, value: &Value) -> Result<(), Mismatch> {
        let is_open = |error: &ValidationError<'_>| {
            let text = error.instance().as_str();
            text.is_some_and(|text| placeholders(text).next().is_some())
        };
        mismatch(self.0.iter_errors(value).find(|error| !is_open(error)))
    }
}

fn mismatch(error: Option<ValidationError<'_>>) -> Result<(), Mismatch> {
    let Some(error) = error else {
        return Ok(());
    };
    Err(Mismatch {
        at: error.instance_path().to_string(),
        message: short(&error.to_string()),
    })
}

fn short(message: &str) -> String {
    if message.len() <= MESSAGE_MAX {
        return message.to_owned();
    }
    format!("{}…", &message[..message.floor_char_boundary(MESSAGE_MAX)])
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn placeholders_match_where_values_are_not_known_yet() {
        let schema = json!({
            "type": "object", "required": ["to"],
            "properties": { "to": { "type": "string", "format": "email" }, "phone": { "type": "integer" }, "n": { "type": "integer" } }
        });
        let schema = Schema::compile(&schema).unwrap();
        for (value, open, closed) in [
            (
                json!({ "to": "{EMAIL_1}", "phone": "{PHONE_1}" }),
                true,
                false,
            ),
            (json!({ "to": "ann@example.com", "phone": 1 }), true, true),
            (json!({ "to": "ann" }), false, false),
            (json!({ "to": "{NAME_1}" }), false, false),
            (json!({ "phone": "{PHONE_1}" }), false, false),
            (json!({ "to": "{EMAIL_1}", "n": "1" }), false, false),
        ] {
            assert_eq!(schema.check_open(&value).is_ok(), open, "{value}");
            assert_eq!(schema.check(&value).is_ok(), closed, "{value}");
        }
        let wrong = schema.check_open(&json!({ "to": "{EMAIL_1}", "n": "1" }));
        assert_eq!(wrong.unwrap_err().at, "/n");
    }
}
