//! Why a start is refused, with the codes of the API.

use crate::{
    api::problem::{Code, INVALID_PLAN, PAYLOAD_TOO_LARGE},
    envelope::Invalid,
};

pub(super) fn coded(code: &'static Code, message: impl Into<String>) -> Invalid {
    Invalid {
        code: code.code.into(),
        message: message.into(),
    }
}

/// `invalid_plan` with a message.
pub(super) fn invalid_plan(message: impl Into<String>) -> Invalid {
    coded(&INVALID_PLAN, message)
}

/// `payload_too_large`: `what` has more than `limit` bytes.
pub fn too_large(what: &str, limit: usize) -> Invalid {
    coded(&PAYLOAD_TOO_LARGE, format!("{what} may have {limit} bytes"))
}

/// A value has no JSON form.
#[expect(clippy::needless_pass_by_value, reason = "it maps errors")]
pub fn unwritable(error: serde_json::Error) -> Invalid {
    Invalid::payload(error.to_string())
}
