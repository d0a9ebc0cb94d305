//! Errors: problem details (RFC 9457) with a stable code.

use std::borrow::Cow;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::events::ItemResult;

/// An error code. Code and status are part of the contract.
#[derive(Debug, PartialEq, Eq)]
pub struct Code {
    /// For example `invalid_key`. In `missing_{field}`, the field's name replaces `{field}`.
    pub code: &'static str,
    /// The HTTP status, always the same for a code.
    pub status: u16,
    /// The meaning, and how to resolve it; Markdown.
    pub meaning: &'static str,
}

macro_rules! codes {
    ($($ident:ident = $status:literal $code:literal, $meaning:literal;)*) => {
        $(
            #[doc = $meaning]
            pub static $ident: Code = Code { code: $code, status: $status, meaning: $meaning };
        )*

        /// All codes, by status.
        pub static ALL: &[&Code] = &[$(&$ident),*];
    };
}

codes! {
    INVALID_PAYLOAD = 400 "invalid_payload",
        "The body, a field or a parameter is not valid; `detail` says which and why.";
    MISSING_FIELD = 400 "missing_{field}",
        "A required field is missing or empty; the code names it, as in `missing_source`.";
    UNSUPPORTED_KIND = 400 "unsupported_kind",
        "The route does not accept this kind of envelope.";
    MISSING_HEADER = 400 "missing_header",
        "A header that the webhook's dialect needs is missing or empty.";
    INVALID_HEADER = 400 "invalid_header",
        "A header of the webhook occurs more than once, or is not UTF-8.";
    REFERENCE_NOT_ALLOWED = 400 "reference_not_allowed",
        "A secret is written as a reference (`env:`, `file:`), which only configuration files may contain.";
    VRL_ERROR = 400 "vrl_error",
        "The source's mapping failed on this webhook.";
    VRL_ABORT = 400 "vrl_abort",
        "The source's mapping does not accept this webhook.";
    VRL_OUT_OF_FUEL = 400 "vrl_out_of_fuel",
        "The source's mapping took too long on this webhook.";
    VRL_OUT_OF_MEMORY = 400 "vrl_out_of_memory",
        "The source's mapping took too much memory on this webhook.";
    INVALID_UTF8 = 400 "invalid_utf8",
        "The result of the source's mapping is not UTF-8.";
    INVALID_IDEMPOTENCY_KEY = 400 "invalid_idempotency_key",
        "`Idempotency-Key` is not UTF-8, or has more than 512 bytes.";
    INVALID_PLAN = 400 "invalid_plan",
        "The plan is not valid; `detail` says what is wrong, with the step.";
    INVALID_INPUT = 400 "invalid_input",
        "The input of a decision is not what the tool's `input_schema` allows, or it is too large.";
    PLAN_REQUIRED = 400 "plan_required",
        "An approval of kind `plan` is approved with a plan.";
    UNAUTHORIZED = 401 "unauthorized",
        "There is no `Authorization: Bearer` header.";
    INVALID_KEY = 401 "invalid_key",
        "The key is unknown, expired or revoked; the answer does not tell which.";
    MISSING_SIGNATURE = 401 "missing_signature",
        "The webhook has no signature.";
    INVALID_SIGNATURE = 401 "invalid_signature",
        "The signature of the webhook does not match this body under any valid secret of the source.";
    MISSING_TIMESTAMP = 401 "missing_timestamp",
        "The webhook has no timestamp.";
    INVALID_TIMESTAMP = 401 "invalid_timestamp",
        "The timestamp of the webhook is not a whole number.";
    STALE_TIMESTAMP = 401 "stale_timestamp",
        "The timestamp of the webhook is too far from the time of this node.";
    PERMISSION_DENIED = 403 "permission_denied",
        "The key lacks the permission that the route needs, or names a tenant or grants scopes that are not its own.";
    SELF_APPROVAL = 403 "self_approval",
        "Neither the principal that requested the run nor the user it acted for may decide its approvals.";
    ENV_NOT_ALLOWED = 403 "env_not_allowed",
        "The key's `env_allowlist` does not contain the last segment of `source`.";
    ADAPTER_NOT_ALLOWED = 403 "adapter_not_allowed",
        "The key's `allowed_adapters` do not contain `target.system`.";
    WORKFLOW_NOT_ALLOWED = 403 "workflow_not_allowed",
        "The key's `allowed_workflows` do not contain the workflow, in this version.";
    ORIGIN_NOT_ALLOWED = 403 "origin_not_allowed",
        "The setting `cors` does not list the origin of this webhook sender.";
    NOT_FOUND = 404 "not_found",
        "There is no such path, or no such key, grant, run or cached plan in the tenants that the key sees.";
    UNKNOWN_ENTITY = 404 "unknown_entity",
        "The entity had no events up to the requested time.";
    UNKNOWN_LETTER = 404 "unknown_letter",
        "There is no dead letter of that name, or retention has deleted it.";
    UNKNOWN_PROJECTION = 404 "unknown_projection",
        "There is no projection of that name.";
    UNKNOWN_TOOL = 404 "unknown_tool",
        "There is no tool of that name.";
    UNKNOWN_WORKFLOW = 404 "unknown_workflow",
        "There is no workflow of that name and version, or none with that command.";
    UNKNOWN_TOPIC = 404 "unknown_topic",
        "There is no topic of that name.";
    UNKNOWN_SOURCE = 404 "unknown_source",
        "There is no webhook source of that tenant and name, or of that token; or it accepts only its token.";
    METHOD_NOT_ALLOWED = 405 "method_not_allowed",
        "The path does not support this method.";
    REQUEST_TIMEOUT = 408 "request_timeout",
        "The body did not arrive within 10 seconds.";
    IDEMPOTENCY_IN_FLIGHT = 409 "idempotency_in_flight",
        "The same event is being appended; send it again after `Retry-After` to learn the outcome.";
    NAME_TAKEN = 409 "name_taken",
        "The tenant already has an integration of that name.";
    PARTITION_COUNT = 409 "partition_count",
        "A topic does not have the expected number of partitions.";
    RUN_ENDED = 409 "run_ended",
        "The run has ended.";
    RUN_COMPENSATING = 409 "run_compensating",
        "The run is being compensated, and will end without success in any case.";
    RUN_ENDING = 409 "run_ending",
        "The run has failed or was denied, and will end without success in any case.";
    ALREADY_CANCELLED = 409 "already_cancelled",
        "The run is being cancelled.";
    ALREADY_PAUSED = 409 "already_paused",
        "The run is paused.";
    NOT_ENDED = 409 "not_ended",
        "The run has not ended: only a run that has ended can be repeated, or judged by feedback.";
    INVALID_RETRY = 409 "invalid_retry",
        "The run cannot be repeated in this way: none of its compensations failed, it only repeats compensations of another run, a \
         later run has taken over its steps, and is the one to repeat, or it is that of a goal that had no plan.";
    NOT_PAUSED = 409 "not_paused",
        "The run is not paused.";
    APPROVAL_NOT_OPEN = 409 "approval_not_open",
        "The run has no such approval, or it was decided differently, by somebody else, or it expired.";
    INVALID_DECISION = 409 "invalid_decision",
        "An approval is `approved` or `denied`; an incident is decided with `retry`, `skip` or `fail`.";
    INPUT_CHANGED = 409 "input_changed",
        "The input of the approval does not match `input_hash`: read the approval again.";
    TOO_MANY_SIGNALS = 409 "too_many_signals",
        "The run has reached the maximum number of signals that its steps have not consumed.";
    REBUILD_RUNNING = 409 "rebuild_running",
        "A rebuild is running already.";
    STALE_LEASE = 409 "stale_lease",
        "The lease is not the latest one of the task, the task is over or was completed with another outcome, or it belongs to another \
         tenant.";
    REDRIVE_RUNNING = 409 "redrive_running",
        "A redrive is running already.";
    PAYLOAD_TOO_LARGE = 413 "payload_too_large",
        "The body or an item is larger than the limit in `detail`.";
    BATCH_TOO_LARGE = 413 "batch_too_large",
        "The batch has more bytes or items than the limit in `detail`.";
    OUTPUT_TOO_LARGE = 413 "output_too_large",
        "The output of a skipped step is larger than a run can store.";
    UNSUPPORTED_MEDIA_TYPE = 415 "unsupported_media_type",
        "The route does not accept this `Content-Type`.";
    UNSUPPORTED_CONTENT_ENCODING = 415 "unsupported_content_encoding",
        "Bodies are not decompressed: send them without `Content-Encoding`.";
    IDEMPOTENCY_MISMATCH = 422 "idempotency_mismatch",
        "The same identity was already used with another body; a new event needs a new `id`.";
    RATE_LIMIT_EXCEEDED = 429 "rate_limit_exceeded",
        "A rate limit is exceeded: the key's `max_rpm`, a policy of `limits.policies`, or the limit on wrong keys or signatures from \
         one address, which does not apply to valid ones. Send it again after `Retry-After`.";
    CONCURRENCY_LIMIT_EXCEEDED = 429 "concurrency_limit_exceeded",
        "The key or tenant has reached its maximum number of concurrent requests.";
    FEATURE_DISABLED = 503 "feature_disabled",
        "A feature is disabled: `feature` names it, `reason` says why.";
    OMNILINK_DISABLED = 503 "omnilink_disabled",
        "The kill switch is on (`control`): all intake is refused. Send it again later, with the same id.";
    OPERATOR_TAKEOVER = 503 "operator_takeover",
        "An operator has taken over (`control`): only keys of kind `person` may start and control runs, and decide.";
    LOG_UNAVAILABLE = 503 "log_unavailable",
        "The log did not answer. The outcome may be unknown: send the same again, with the same id.";
    LIMITER_UNAVAILABLE = 503 "limiter_unavailable",
        "Redis is down, and a policy of `limits.policies` admits nothing without it. Send it again after `Retry-After`.";
    OVERLOADED = 503 "overloaded",
        "The node has reached its maximum load.";
    POSTGRES_UNAVAILABLE = 503 "postgres_unavailable",
        "Postgres cannot be reached, or this node does not use it.";
}

/// The prefix of a code with a field's name.
const MISSING: &str = "missing_";

impl Code {
    /// Finds a code by its text, such as one from the envelope parser.
    pub fn of(text: &str) -> Option<&'static Self> {
        let known = ALL.iter().copied().find(|code| code.code == text);
        known.or_else(|| text.starts_with(MISSING).then_some(&MISSING_FIELD))
    }
}

/// The code of a missing required field.
pub fn missing(field: &str) -> Cow<'static, str> {
    format!("{MISSING}{field}").into()
}

/// Why a request was refused (RFC 9457).
#[derive(Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Problem {
    /// `urn:omnilink:problem:{code}`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The code in words.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// A stable code, for programs.
    pub code: String,
    /// A description of the error, for people.
    pub detail: String,
    /// The request's id: 32 hexadecimal digits.
    pub request_id: String,
    /// The emergency control in force: `kill_switch` or `operator_takeover`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub control: Option<String>,
    /// The disabled feature.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub feature: Option<String>,
    /// Why it is disabled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The outcome of each event, if none was accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub results: Option<Vec<ItemResult>>,
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::envelope::Invalid;

    #[test]
    fn codes_are_distinct_and_ordered_by_status() {
        let names: BTreeSet<_> = ALL.iter().map(|code| code.code).collect();
        assert_eq!(names.len(), ALL.len());
        assert!(ALL.is_sorted_by_key(|code| code.status));
        for code in ALL {
            assert!((400..600).contains(&code.status), "{}", code.code);
            assert!(
                code.meaning.ends_with('.') && !code.meaning.contains('|'),
                "{}",
                code.code
            );
        }
    }

    #[test]
    fn codes_of_envelopes_are_in_the_table() {
        assert_eq!(Code::of(&Invalid::payload("").code), Some(&INVALID_PAYLOAD));
        assert_eq!(
            Code::of(&Invalid::missing("entity.type").code),
            Some(&MISSING_FIELD)
        );
        assert_eq!(Code::of(&missing("name")), Some(&MISSING_FIELD));
        assert_eq!(Code::of("no_such_code"), None);
    }
}
