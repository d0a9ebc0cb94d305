//! An event with the hash of its body.

use super::{BodyHash, Event};

/// An event as it came, and what tells two bodies apart.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Parsed<'a> {
    /// The event.
    pub event: Event<'a>,
    /// The hash of the whole envelope.
    pub body_hash: BodyHash,
}
