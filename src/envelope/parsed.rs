//! The result of parsing an envelope.

use super::{BodyHash, Event};

/// A parsed event, and the hash of the body that it came in.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Parsed<'a> {
    /// The event.
    pub event: Event<'a>,
    /// The hash of the whole envelope, which tells a retry from a different body with the same identity.
    pub body_hash: BodyHash,
}
