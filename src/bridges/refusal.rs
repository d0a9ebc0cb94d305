//! Why a sender's request is refused.

use std::borrow::Cow;

use crate::envelope::{Invalid, JsonError};

/// The kind of refusal. The sender caused all of them, and gets the same answer if it repeats the request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reason {
    /// 400: the body, or a header that is not for authentication.
    Invalid,
    /// 401: a signature or a timestamp.
    Unauthenticated,
    /// 404: there is no such source, or it cannot be reached this way.
    Unknown,
}

/// A refused request: the answer to the sender, and what is recorded.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{code}: {message}")]
pub struct Refusal {
    /// Decides the HTTP status.
    pub reason: Reason,
    /// A stable code, such as `invalid_signature`.
    pub code: Cow<'static, str>,
    /// A description for people.
    pub message: String,
}

impl Refusal {
    /// The HTTP status: 400, 401 or 404.
    pub fn status(&self) -> u16 {
        match self.reason {
            Reason::Invalid => 400,
            Reason::Unauthenticated => 401,
            Reason::Unknown => 404,
        }
    }

    pub(super) fn invalid(code: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        Self {
            reason: Reason::Invalid,
            code: code.into(),
            message: message.into(),
        }
    }

    pub(super) fn unauthenticated(code: &'static str, message: impl Into<String>) -> Self {
        Self {
            reason: Reason::Unauthenticated,
            code: code.into(),
            message: message.into(),
        }
    }

    /// 401 `missing_signature`.
    pub(super) fn missing_signature(header: &str) -> Self {
        Self::unauthenticated(
            "missing_signature",
            format!("the header `{header}` with the signature is missing"),
        )
    }

    /// 401 `invalid_signature`. The message does not reveal which secret was tried.
    pub(super) fn invalid_signature() -> Self {
        Self::unauthenticated(
            "invalid_signature",
            "the signature does not match this body under any secret of this source",
        )
    }

    /// 400 `missing_header`.
    pub(super) fn missing_header(header: &str) -> Self {
        Self::invalid(
            "missing_header",
            format!("the header `{header}` is missing or empty"),
        )
    }

    /// 404 `unknown_source`.
    pub(super) fn unknown_source() -> Self {
        Self {
            reason: Reason::Unknown,
            code: "unknown_source".into(),
            message: "there is no such source, or it is only reached by its token".into(),
        }
    }
}

impl From<Invalid> for Refusal {
    fn from(invalid: Invalid) -> Self {
        Self::invalid(invalid.code, invalid.message)
    }
}

impl From<JsonError> for Refusal {
    fn from(error: JsonError) -> Self {
        Invalid::from(error).into()
    }
}
