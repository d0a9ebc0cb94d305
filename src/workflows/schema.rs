//! JSON Schema 2020-12, without network and files: a reference leads to another part of the same schema, or to a standard one.

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

/// What does not match a schema.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mismatch {
    /// Where, as a JSON pointer.
    pub at: String,
    /// Why, for people. It shows the start of the value.
    pub message: String,
}

/// The most bytes of a message: it may quote the value.
const MESSAGE_MAX: usize = 300;

impl Schema {
    /// Compiles a schema; says where and why it is none.
    pub fn compile(schema: &Value) -> Result<Self, Mismatch> {
        let options = jsonschema::options()
            .with_draft(Draft::Draft202012)
            .should_validate_formats(true)
            // Without backtracking: the time is linear in the text.
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
