//! JSON Schema 2020-12, without network and files: a reference can only point into the same schema or to a standard meta-schema.

use std::fmt;

use jsonschema::{Draft, PatternOptions, Validator};
use serde_json::Value;

/// A compiled schema.
pub struct Schema(Validator);

impl fmt::Debug for Schema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Schema")
    }
}

/// A mismatch between a value and a schema.
#[derive(Clone, PartialEq, Eq, Debug)]
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
        let Some(error) = self.0.iter_errors(value).next() else {
            return Ok(());
        };
        Err(Mismatch {
            at: error.instance_path().to_string(),
            message: short(&error.to_string()),
        })
    }
}

fn short(message: &str) -> String {
    if message.len() <= MESSAGE_MAX {
        return message.to_owned();
    }
    format!("{}…", &message[..message.floor_char_boundary(MESSAGE_MAX)])
}
