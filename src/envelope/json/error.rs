//! Errors of the JSON scanner.

use std::fmt;

use super::{MAX_DEPTH, MAX_WRITTEN};
use crate::envelope::Invalid;

/// What is wrong with a text, and where. Boxed to keep results small on the success path.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct JsonError(Box<(usize, Problem)>);

/// What can be wrong with a text.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Problem {
    /// Not UTF-8.
    Utf8,
    /// Not JSON. The text says what was expected.
    Syntax(&'static str),
    /// The wrong kind of value. The text says which was expected.
    Kind(&'static str),
    /// Something follows the value.
    Trailing,
    /// An object has two members with this name.
    Duplicate(String),
    /// Nesting deeper than [`MAX_DEPTH`].
    Depth,
    /// An escaped UTF-16 surrogate without its other half.
    Surrogate,
    /// A number that Postgres `numeric` cannot store.
    Number,
    /// The numbers take more than [`MAX_WRITTEN`] bytes together, written out.
    Numbers,
}

impl JsonError {
    #[cold]
    pub(super) fn new(at: usize, problem: Problem) -> Self {
        Self(Box::new((at, problem)))
    }

    #[cold]
    pub(super) fn syntax(at: usize, expected: &'static str) -> Self {
        Self::new(at, Problem::Syntax(expected))
    }

    /// The position in the text, in bytes.
    pub fn at(&self) -> usize {
        self.0.0
    }

    /// What is wrong.
    pub fn problem(&self) -> &Problem {
        &self.0.1
    }

    /// Whether the text is not JSON, as opposed to JSON that is not accepted.
    pub fn is_syntax(&self) -> bool {
        matches!(
            self.problem(),
            Problem::Utf8 | Problem::Syntax(_) | Problem::Trailing
        )
    }
}

impl fmt::Display for JsonError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.problem() {
            Problem::Utf8 => f.write_str("not UTF-8")?,
            Problem::Syntax(expected) => write!(f, "not JSON: {expected} was expected")?,
            Problem::Kind(expected) => write!(f, "{expected} was expected")?,
            Problem::Trailing => f.write_str("not JSON: something follows the value")?,
            Problem::Duplicate(name) => write!(f, "duplicate name {name:?}")?,
            Problem::Depth => write!(f, "nested deeper than {MAX_DEPTH}")?,
            Problem::Surrogate => f.write_str("a lone UTF-16 surrogate")?,
            Problem::Number => {
                f.write_str(
                    "a number with more than 131072 digits before or 16383 after the decimal point",
                )?;
            }
            Problem::Numbers => write!(
                f,
                "the numbers up to there take more than {MAX_WRITTEN} bytes when written out, as Postgres writes them"
            )?,
        }
        write!(f, ", at byte {}", self.at())
    }
}

impl std::error::Error for JsonError {}

impl From<JsonError> for Invalid {
    fn from(error: JsonError) -> Self {
        Self::payload(error.to_string())
    }
}

/// The most bytes of a producer's text that a message quotes.
const TRUNCATED_MAX: usize = 64;

/// The start of a name, for messages.
pub(in crate::envelope) fn truncated(name: &str) -> &str {
    &name[..name.floor_char_boundary(TRUNCATED_MAX)]
}
