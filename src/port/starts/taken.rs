//! Starts after the checks, before and after the last step.

use uuid::Uuid;

use super::refusal::Refusal;
use crate::{envelope::BodyHash, log::Record};

/// A start that may be appended.
pub(super) struct Ready {
    pub(super) run: Uuid,
    pub(super) body: BodyHash,
    pub(super) record: Record,
    pub(super) noted: Noted,
}

/// What the audit log says of a start.
pub(super) struct Noted {
    pub(super) kind: String,
    pub(super) source: String,
    pub(super) on_behalf_of: Option<String>,
}

/// A start that is in the log.
pub(super) struct Started {
    pub(super) run: Uuid,
    /// Whether it was there before.
    pub(super) duplicate: bool,
}

/// What became of one start.
pub(super) type Taken = Result<Started, Refusal>;
