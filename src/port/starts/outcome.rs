//! The starts that passed all checks, before and after the append.

use uuid::Uuid;

use super::refusal::Refusal;
use crate::{envelope::BodyHash, log::Record};

/// A start that is ready to be appended.
pub(super) struct CheckedStart {
    pub(super) run: Uuid,
    pub(super) body: BodyHash,
    pub(super) record: Record,
    pub(super) audited: AuditedStart,
}

/// What the audit log records about a start.
pub(super) struct AuditedStart {
    pub(super) kind: String,
    pub(super) source: String,
    pub(super) on_behalf_of: Option<String>,
}

/// A start that is in the log.
pub(super) struct Started {
    pub(super) run: Uuid,
    /// Whether it was already there.
    pub(super) duplicate: bool,
}

/// The outcome of one start.
pub(super) type StartOutcome = Result<Started, Refusal>;
