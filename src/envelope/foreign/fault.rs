//! Errors of reading a datum: what is wrong, and in which field.

use std::fmt;

use super::super::{MAX_DEPTH, json::truncated};

/// The longest path in a message, in bytes. Longer ones keep the innermost steps.
const PATH: usize = 120;

/// Why a datum cannot be read. Boxed to keep results small on the success path.
#[derive(Debug)]
pub(super) struct Fault(Box<Inner>);

#[derive(Debug)]
struct Inner {
    what: FaultKind,
    /// The offset in bytes after the schema id.
    at: usize,
    /// From the innermost step outwards.
    path: Vec<PathStep>,
}

/// One step of the path from a value to a nested value.
#[derive(Debug)]
pub(super) enum PathStep {
    Field(String),
    Key(String),
    Item(u64),
}

/// What is wrong. Numbers are those of the datum.
#[derive(Debug, thiserror::Error)]
pub(super) enum FaultKind {
    #[error("{0} bytes are needed, and {1} are left")]
    CutShort(usize, usize),
    #[error("a boolean is 0 or 1, and not {0}")]
    Boolean(u8),
    #[error("an int has 32 bits, and {0} has more")]
    Int(i64),
    #[error("a number has more than 64 bits")]
    Long,
    #[error("a length is {0}")]
    Length(i64),
    #[error("a text is not UTF-8")]
    Text,
    #[error("an enum of {1} symbols has none of number {0}")]
    Symbol(i64, usize),
    #[error("a union of {1} types has none of number {0}")]
    Variant(i64, usize),
    #[error("{0} bytes follow the last field")]
    Rest(usize),
    #[error("the date {0} (days since 1970-01-01) lies outside the years 0 to 9999")]
    Date(i64),
    #[error("the time of day {0} ({unit} since midnight) is not within 00:00 to 23:59:59.999…", unit = unit(*.1))]
    Time(i64, i64),
    #[error("the timestamp {0} ({unit} since 1970) lies outside the years 0 to 9999", unit = unit(*.1))]
    Timestamp(i64, i64),
    #[error("a decimal has {0} bytes, and at most {1} are read")]
    Decimal(usize, usize),
    #[error("a big-decimal has the scale {0}, or bytes behind it")]
    BigDecimal(i64),
    #[error("a uuid has 16 bytes, and not {0}")]
    Uuid(usize),
    #[error("a duration has 12 bytes, and not {0}")]
    Duration(usize),
    #[error("it is nested deeper than {MAX_DEPTH}")]
    TooDeep,
    #[error("as JSON it would have more than {0} bytes")]
    TooLong(usize),
}

impl FaultKind {
    /// Whether the bytes do not fit the schema, which suggests that they were written with another one.
    fn suggests_another_schema(&self) -> bool {
        match self {
            Self::CutShort(..)
            | Self::Boolean(_)
            | Self::Int(_)
            | Self::Long
            | Self::Length(_)
            | Self::Text
            | Self::Symbol(..)
            | Self::Variant(..)
            | Self::Rest(_) => true,
            Self::Date(_)
            | Self::Time(..)
            | Self::Timestamp(..)
            | Self::Decimal(..)
            | Self::BigDecimal(_)
            | Self::Uuid(_)
            | Self::Duration(_)
            | Self::TooDeep
            | Self::TooLong(_) => false,
        }
    }
}

fn unit(per_second: i64) -> &'static str {
    match per_second {
        1_000 => "milliseconds",
        1_000_000 => "microseconds",
        _ => "nanoseconds",
    }
}

impl Fault {
    #[cold]
    pub(super) fn at(at: usize, what: FaultKind) -> Self {
        Self(Box::new(Inner {
            what,
            at,
            path: Vec::new(),
        }))
    }

    /// Adds the enclosing step to the path.
    #[cold]
    pub(super) fn within(mut self, step: PathStep) -> Self {
        self.0.path.push(step);
        self
    }

    /// Such as `lines[3].tags["a"]`.
    fn path(&self) -> String {
        let mut path = String::new();
        // The innermost steps are the most informative.
        for step in &self.0.path {
            let step = match step {
                PathStep::Field(name) => format!(".{}", truncated(name)),
                PathStep::Key(key) => format!("[{:?}]", truncated(key)),
                PathStep::Item(number) => format!("[{number}]"),
            };
            if path.len() + step.len() > PATH {
                path.insert(0, '…');
                break;
            }
            path.insert_str(0, &step);
        }
        path.trim_start_matches('.').to_owned()
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Avro: ")?;
        if !self.0.path.is_empty() {
            write!(f, "field `{}`: ", self.path())?;
        }
        write!(f, "{}", self.0.what)?;
        if self.0.what.suggests_another_schema() {
            let at = self.0.at;
            write!(
                f,
                ", at byte {at} behind the schema's id; is it written under another schema?"
            )?;
        }
        Ok(())
    }
}
