//! Why a start is refused.

use std::borrow::Cow;

use crate::{
    api::{
        events::ItemStatus,
        problem::{
            Code, FEATURE_DISABLED, INVALID_PAYLOAD, INVALID_PLAN, LOG_UNAVAILABLE, MISSING_FIELD,
            PAYLOAD_TOO_LARGE, PERMISSION_DENIED, missing,
        },
    },
    envelope::Invalid,
    port::problem::{self, Problem},
};

/// How long to wait while something is switched off, in seconds.
const DISABLED_RETRY_AFTER_S: u32 = 60;

/// Why one start is refused.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) status: ItemStatus,
    code: &'static Code,
    /// The code as it is sent: with the field's name where the table has `{field}`.
    pub(super) name: Cow<'static, str>,
    pub(super) message: Cow<'static, str>,
    pub(super) retry_after: Option<u32>,
    /// What is switched off, and why.
    disabled: Option<(&'static str, &'static str)>,
}

impl Refusal {
    pub(super) fn new(
        status: ItemStatus,
        code: &'static Code,
        message: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self {
            status,
            code,
            name: code.code.into(),
            message: message.into(),
            retry_after: None,
            disabled: None,
        }
    }

    /// What the parser of envelopes refuses.
    pub(super) fn of_envelope(invalid: Invalid) -> Self {
        let code = Code::of(&invalid.code).unwrap_or(&INVALID_PAYLOAD);
        let mut refusal = Self::new(ItemStatus::Invalid, code, invalid.message);
        refusal.name = invalid.code;
        refusal
    }

    /// A field is required and not there.
    pub(super) fn missing(field: &str) -> Self {
        let message = format!("`{field}` is required and must not be empty");
        let mut refusal = Self::new(ItemStatus::Invalid, &MISSING_FIELD, message);
        refusal.name = missing(field);
        refusal
    }

    /// `Idempotency-Key` is required and not there.
    pub(super) fn no_idempotency_key() -> Self {
        let mut refusal = Self::missing("idempotency_key");
        refusal.message =
            "the header `Idempotency-Key` is required: it names the run, so that sending it again starts nothing twice"
                .into();
        refusal
    }

    /// A field is not valid.
    pub(super) fn invalid(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ItemStatus::Invalid, &INVALID_PAYLOAD, message)
    }

    pub(super) fn invalid_plan(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ItemStatus::Invalid, &INVALID_PLAN, message)
    }

    pub(super) fn too_large(what: &str, limit: usize) -> Self {
        let message = format!("{what} may have {limit} bytes");
        Self::new(ItemStatus::Invalid, &PAYLOAD_TOO_LARGE, message)
    }

    pub(super) fn denied(code: &'static Code, message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ItemStatus::Denied, code, message)
    }

    pub(super) fn lacks(permission: &str) -> Self {
        let message = format!("the key lacks the permission `{permission}`");
        Self::denied(&PERMISSION_DENIED, message)
    }

    pub(super) fn log_unavailable() -> Self {
        let message = problem::LOG_UNAVAILABLE_DETAIL;
        let mut refusal = Self::new(ItemStatus::Error, &LOG_UNAVAILABLE, message);
        refusal.retry_after = Some(problem::LOG_RETRY_AFTER_S);
        refusal
    }

    /// Something is switched off.
    pub(super) fn disabled(feature: &'static str, reason: &'static str) -> Self {
        let message = format!("`{feature}` is switched off: {reason}");
        let mut refusal = Self::new(ItemStatus::Error, &FEATURE_DISABLED, message);
        refusal.retry_after = Some(DISABLED_RETRY_AFTER_S);
        refusal.disabled = Some((feature, reason));
        refusal
    }

    /// As the problem of a whole request.
    pub(super) fn into_problem(self) -> Problem {
        let mut problem = Problem::named(self.code, self.name, self.message);
        if let Some(seconds) = self.retry_after {
            problem = problem.retry_after(seconds);
        }
        if let Some((feature, reason)) = self.disabled {
            problem = problem.disabled(feature, reason);
        }
        problem
    }
}
