//! Errors of transforms: why a record or timer was not processed.

use std::borrow::Cow;

use bytes::Bytes;

use crate::state::StateError;

/// Why a record goes to the dead-letter queue.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rejected {
    /// A stable code.
    pub code: Cow<'static, str>,
    /// Human-readable text.
    pub message: String,
    /// For one item of a batch: its bytes, which replace the record's value in the dead letter.
    pub value: Option<Bytes>,
    /// For one part of the processing: its name, which the dead letter has instead of the processor's.
    pub stage: Option<Box<str>>,
}

impl Rejected {
    /// A rejection with a stable code and a human-readable text.
    pub fn new(code: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        Self {
            code: code.into(),
            message: message.into(),
            value: None,
            stage: None,
        }
    }
}

/// Why a record was not processed.
#[derive(Clone, Debug)]
pub enum Failure {
    /// The record is invalid, and goes to the dead-letter queue.
    Rejected(Rejected),
    /// The keyed state cannot be read; processing is retried until it can.
    State(StateError),
    /// Something that the record needs is unavailable, for this reason: its partition is paused, and the record is read again.
    Waiting(String),
}

impl From<Rejected> for Failure {
    fn from(rejected: Rejected) -> Self {
        Self::Rejected(rejected)
    }
}

impl From<StateError> for Failure {
    fn from(error: StateError) -> Self {
        Self::State(error)
    }
}

impl From<crate::envelope::Invalid> for Failure {
    fn from(invalid: crate::envelope::Invalid) -> Self {
        Self::Rejected(invalid.into())
    }
}

impl From<crate::envelope::kafka::Unread> for Failure {
    fn from(unread: crate::envelope::kafka::Unread) -> Self {
        use crate::envelope::kafka::Unread;
        match unread {
            Unread::Invalid(invalid) => invalid.into(),
            Unread::Waiting(why) => Self::Waiting(why),
        }
    }
}

impl From<crate::envelope::Invalid> for Rejected {
    fn from(invalid: crate::envelope::Invalid) -> Self {
        Self {
            code: invalid.code,
            message: invalid.message,
            value: None,
            stage: None,
        }
    }
}
