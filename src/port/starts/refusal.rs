//! Why a start is refused.

use std::{borrow::Cow, sync::Arc};

use crate::{
    api::{
        events::ItemStatus,
        problem::{
            Code, FEATURE_DISABLED, IDEMPOTENCY_IN_FLIGHT, IDEMPOTENCY_MISMATCH, INVALID_PAYLOAD,
            INVALID_PLAN, LIMITER_UNAVAILABLE, LOG_UNAVAILABLE, MISSING_FIELD, PAYLOAD_TOO_LARGE,
            PERMISSION_DENIED, RATE_LIMIT_EXCEEDED, missing,
        },
    },
    envelope::Invalid,
    limits::{self, Standing},
    port::{
        ingest::answer::LIMITER_RETRY_AFTER_S,
        problem::{LOG_RETRY_AFTER_S, Problem},
    },
};

/// `Retry-After` while something is disabled, in seconds.
const DISABLED_RETRY_AFTER_S: u32 = 60;

/// Why one start is refused.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) status: ItemStatus,
    code: &'static Code,
    /// The code as it is sent; the field's name replaces `{field}` of the table.
    pub(super) name: Cow<'static, str>,
    pub(super) message: Cow<'static, str>,
    pub(super) retry_after: Option<u32>,
    /// The disabled feature and the reason.
    disabled: Option<Box<(String, String)>>,
    /// The limit that is exceeded.
    limit: Option<Arc<Standing>>,
}

/// Converts an error of the envelope parser, or of the checks of [`crate::starts`].
impl From<Invalid> for Refusal {
    fn from(invalid: Invalid) -> Self {
        let code = Code::of(&invalid.code).unwrap_or(&INVALID_PAYLOAD);
        let mut refusal = Self::new(ItemStatus::Invalid, code, invalid.message);
        refusal.name = invalid.code;
        refusal
    }
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
            limit: None,
        }
    }

    /// A required field is missing.
    pub(super) fn missing(field: &str) -> Self {
        let message = format!("`{field}` is required and must not be empty");
        let mut refusal = Self::new(ItemStatus::Invalid, &MISSING_FIELD, message);
        refusal.name = missing(field);
        refusal
    }

    /// The required header `Idempotency-Key` is missing.
    pub(super) fn no_idempotency_key() -> Self {
        let mut refusal = Self::missing("idempotency_key");
        refusal.message =
            "the header `Idempotency-Key` is required: it names the run, so that sending it again starts nothing twice"
                .into();
        refusal
    }

    /// A field is invalid.
    pub(super) fn invalid(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ItemStatus::Invalid, &INVALID_PAYLOAD, message)
    }

    pub(super) fn invalid_plan(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ItemStatus::Invalid, &INVALID_PLAN, message)
    }

    pub(super) fn too_large(what: &str, limit: usize) -> Self {
        let message = format!("{what} may have at most {limit} bytes");
        Self::new(ItemStatus::Invalid, &PAYLOAD_TOO_LARGE, message)
    }

    pub(super) fn denied(code: &'static Code, message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ItemStatus::Denied, code, message)
    }

    pub(super) fn lacks(permission: &str) -> Self {
        let message = format!("the key lacks the permission `{permission}`");
        Self::denied(&PERMISSION_DENIED, message)
    }

    /// A feature is disabled.
    pub(super) fn disabled(feature: &str, reason: &str) -> Self {
        let message = format!("`{feature}` is disabled: {reason}");
        let mut refusal = Self::new(ItemStatus::Error, &FEATURE_DISABLED, message);
        refusal.retry_after = Some(DISABLED_RETRY_AFTER_S);
        refusal.disabled = Some(Box::new((feature.to_owned(), reason.to_owned())));
        refusal
    }

    /// The same identity was sent before with another body.
    pub(super) fn mismatch() -> Self {
        let message = "the same idempotency key was sent before with another body";
        Self::new(ItemStatus::Error, &IDEMPOTENCY_MISMATCH, message)
    }

    /// The same start is being appended.
    pub(super) fn in_flight() -> Self {
        let message = "the same start is being appended; send it again to learn the outcome";
        let mut refusal = Self::new(ItemStatus::Error, &IDEMPOTENCY_IN_FLIGHT, message);
        refusal.retry_after = Some(1);
        refusal
    }

    /// The start was not appended in time, or the log does not accept appends.
    pub(super) fn unavailable() -> Self {
        let message =
            "not durable within 5 s; the outcome may be unknown: send the same start again";
        let mut refusal = Self::new(ItemStatus::Error, &LOG_UNAVAILABLE, message);
        refusal.retry_after = Some(LOG_RETRY_AFTER_S);
        refusal
    }

    /// A rate limit is exceeded.
    pub(super) fn limited(standing: Arc<Standing>) -> Self {
        let message = format!(
            "the limit `{}` of {} items in {} s is exceeded",
            standing.policy,
            standing.limit,
            standing.window_s.unwrap_or(0)
        );
        let mut refusal = Self::new(ItemStatus::RateLimited, &RATE_LIMIT_EXCEEDED, message);
        refusal.retry_after = u32::try_from(limits::retry_after(&standing)).ok();
        refusal.limit = Some(standing);
        refusal
    }

    /// Redis is unavailable, and a policy admits nothing without it.
    pub(super) fn limiter_unavailable(policy: &str) -> Self {
        let message = format!("the limit `{policy}` admits nothing while Redis is down");
        let mut refusal = Self::new(ItemStatus::Error, &LIMITER_UNAVAILABLE, message);
        refusal.retry_after = Some(LIMITER_RETRY_AFTER_S);
        refusal
    }

    /// Converts the refusal into the problem of a whole request.
    pub(super) fn into_problem(self) -> Problem {
        let mut problem = Problem::named(self.code, self.name, self.message);
        if let Some((feature, reason)) = self.disabled.as_deref() {
            problem = problem.field("feature", feature).field("reason", reason);
        }
        match (self.limit, self.retry_after) {
            (Some(standing), _) => problem.limit(&standing),
            (None, Some(seconds)) => problem.retry_after(seconds),
            (None, None) => problem,
        }
    }
}
