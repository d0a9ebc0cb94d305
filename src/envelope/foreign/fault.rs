//! What is wrong with a datum, and in which of its fields.

use std::fmt;

use super::super::{MAX_DEPTH, json::truncated};

/// The most bytes of a path in a message; the innermost steps are kept.
const PATH: usize = 120;

/// Why a datum cannot be read. It is rare, and each value's result makes room for it: so it is one pointer wide.
#[derive(Debug)]
pub(super) struct Fault(Box<Inner>);

#[derive(Debug)]
struct Inner {
    what: What,
    /// Bytes behind the schema's id.
    at: usize,
    /// From the innermost step outwards.
    path: Vec<Step>,
}

/// From a value to one of those that it holds.
#[derive(Debug)]
pub(super) enum Step {
    Field(String),
    Key(String),
    Item(u64),
}

/// What was met. Numbers are as they were written.
#[derive(Debug, thiserror::Error)]
pub(super) enum What {
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
    #[error("a text is no UTF-8")]
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

impl What {
    /// Whether the bytes do not fit the schema, as those that were written under another one do not.
    fn is_of_another_schema(&self) -> bool {
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
    pub(super) fn at(at: usize, what: What) -> Self {
        Self(Box::new(Inner {
            what,
            at,
            path: Vec::new(),
        }))
    }

    /// It was met within this.
    #[cold]
    pub(super) fn within(mut self, step: Step) -> Self {
        self.0.path.push(step);
        self
    }

    /// Such as `lines[3].tags["a"]`.
    fn path(&self) -> String {
        let mut path = String::new();
        // The innermost steps say most.
        for step in &self.0.path {
            let step = match step {
                Step::Field(name) => format!(".{}", truncated(name)),
                Step::Key(key) => format!("[{:?}]", truncated(key)),
                Step::Item(number) => format!("[{number}]"),
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
        if self.0.what.is_of_another_schema() {
            let at = self.0.at;
            write!(
                f,
                ", at byte {at} behind the schema's id; is it written under another schema?"
            )?;
        }
        Ok(())
    }
}
