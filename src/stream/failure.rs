//! Why a record was not taken.

use std::borrow::Cow;

use bytes::Bytes;

use crate::state::StateError;

/// Why a record goes to the dead-letter queue.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rejected {
    /// A stable code.
    pub code: Cow<'static, str>,
    /// For people.
    pub message: String,
    /// For one item of a batch: its bytes, in place of the record's value.
    pub value: Option<Bytes>,
}

impl Rejected {
    /// With a stable code, and words for people.
    pub fn new(code: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        Self {
            code: code.into(),
            message: message.into(),
            value: None,
        }
    }
}

/// Why a record was not taken.
#[derive(Clone, Debug)]
pub enum Failure {
    /// The record is bad: to the dead-letter queue with it.
    Rejected(Rejected),
    /// The state cannot be read: nothing goes on before it can.
    State(StateError),
    /// Something that the record needs is not at hand, for this reason: its partition stands still, and it comes again.
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
        }
    }
}
