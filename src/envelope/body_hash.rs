//! The hash of an envelope: it tells a retry from a different body with the same identity.

use super::json::{JsonError, hash, scan};

/// Members that a sender may set to new values in a retry, and which are therefore not compared.
const NOT_COMPARED: [&str; 3] = ["time", "traceparent", "tracestate"];

/// Mixed into hashes of version 2, so that they differ from those of version 1.
const VERSION_2: u128 = 0x7c15_9e37_79b9_7f4a_4cf5_ad43_2745_937f;

/// The hash of an envelope as a JSON value, without default values. It is stored with the event's identity for the length of the dedupe
/// window, so it is versioned: a hash that an earlier version of OmniLink stored is compared in the way of that version.
///
/// | version | compares |
/// |---|---|
/// | 1 | all members |
/// | 2 | all but `time`, `traceparent` and `tracestate`, which a retry may change |
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BodyHash {
    v1: [u8; 16],
    v2: [u8; 16],
}

/// A hash as it is stored, of any version.
pub type StoredHash = [u8; 16];

impl BodyHash {
    /// Combines the hash of all members and the hash of the compared ones.
    fn new(all: u128, compared: u128) -> Self {
        Self {
            v1: all.to_le_bytes(),
            v2: (compared ^ VERSION_2).to_le_bytes(),
        }
    }

    /// The hash of a JSON text that is compared whole.
    pub fn of_text(text: &[u8]) -> Result<Self, JsonError> {
        let hash = scan(text, 0)?;
        Ok(Self::new(hash, hash))
    }

    /// The hash to store, of the newest version.
    pub fn stored(&self) -> StoredHash {
        self.v2
    }

    /// Whether a stored hash, of any version, is the hash of this body.
    pub fn matches(&self, stored: &StoredHash) -> bool {
        *stored == self.v2 || *stored == self.v1
    }

    /// Whether two bodies are the same, by the newest version.
    pub fn is_same(&self, other: &Self) -> bool {
        self.v2 == other.v2
    }

    /// The hash of version 1: the canonical hash of all members.
    pub fn of_all(&self) -> StoredHash {
        self.v1
    }
}

/// Computes the hash of an envelope from its members, in any order.
#[derive(Default)]
pub(super) struct BodyHasher {
    all: hash::Object,
    left_out: hash::Object,
}

impl BodyHasher {
    /// Adds a member that holds an attribute, by the hashes of its name and value.
    pub(super) fn insert(&mut self, attribute: &str, name: u128, value: u128) {
        self.all.insert(name, value);
        if NOT_COMPARED.contains(&attribute) {
            self.left_out.insert(name, value);
        }
    }

    /// Does not compare a member that was added, by the hashes of its name and value.
    pub(super) fn leave_out(&mut self, name: u128, value: u128) {
        self.left_out.insert(name, value);
    }

    pub(super) fn finish(&self) -> BodyHash {
        let compared = self.all.without(&self.left_out);
        BodyHash::new(self.all.finish(), compared.finish())
    }
}
