//! The actions of entries. `docs/audit.md` says of each when it is recorded.

/// A start of a run, accepted or not: the view `orchestration_requests` has a row of it.
pub const START: &str = "start";
/// A webhook request that was turned away: the projection makes a row of `rejections` of it.
pub const WEBHOOK_REJECTED: &str = "webhook.rejected";
/// A key was used: once an hour for each key and address.
pub const KEY_USED: &str = "key.used";
/// A webhook source delivered: once an hour.
pub const SOURCE_RECEIVED: &str = "source.received";
/// A request was refused because its key may not do that.
pub const REQUEST_DENIED: &str = "request.denied";
/// A key was made.
pub const KEY_CREATED: &str = "key.created";
/// A person read dead letters.
pub const LETTER_READ: &str = "letter.read";
/// Dead letters were put back.
pub const LETTER_REDRIVEN: &str = "letter.redriven";
/// A topic was made.
pub const TOPIC_CREATED: &str = "topic.created";
/// A person read the history.
pub const EVENT_REPLAYED: &str = "event.replayed";
/// Events were written to a topic.
pub const EVENT_COPIED: &str = "event.copied";

/// All actions. An entry with another one is a bug, which debug builds report.
pub const ACTIONS: &[&str] = &[
    START,
    KEY_CREATED,
    "key.changed",
    "key.rotated",
    "key.revoked",
    KEY_USED,
    "token.used",
    "authentication.failed",
    REQUEST_DENIED,
    "reader.granted",
    "reader.revoked",
    "integration.created",
    "integration.rotated",
    "integration.deleted",
    SOURCE_RECEIVED,
    WEBHOOK_REJECTED,
    "rejection.listed",
    "control.changed",
    "limit.degraded",
    EVENT_REPLAYED,
    EVENT_COPIED,
    LETTER_READ,
    LETTER_REDRIVEN,
    TOPIC_CREATED,
    "rebuild.started",
    "processor.stalled",
    "run.read",
    "run.history_read",
    "run.cancelled",
    "run.paused",
    "run.resumed",
    "run.signalled",
    "run.retried",
    "runs.controlled",
    "feedback.given",
    "plan.forgotten",
    "step.risky",
    "approval.listed",
    "approval.decided",
    "approval.expired",
    // What a run has refused: the kinds of its records.
    "cancel",
    "pause",
    "resume",
    "signal",
    "decision",
];
