//! What tells two bodies under one identity apart.

use super::json::hash;

/// Members that a sender's retry may set anew: they are not compared.
const NOT_COMPARED: [&str; 3] = ["time", "traceparent", "tracestate"];

/// What the hash of version 2 is mixed with, so that it is none of version 1.
const VERSION_2: u128 = 0x7c15_9e37_79b9_7f4a_4cf5_ad43_2745_937f;

/// The hash of an envelope as a JSON value; nothing that was defaulted is in it. It has a version, for it is kept with the
/// event's identity as long as the window lasts: what an earlier version kept is compared as that version did.
///
/// | version | compares |
/// |---|---|
/// | 1 | all members |
/// | 2 | all but `time`, `traceparent` and `tracestate`, which a retry may set anew |
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BodyHash {
    v1: [u8; 16],
    v2: [u8; 16],
}

/// A hash as it is kept, of whichever version.
pub type StoredHash = [u8; 16];

impl BodyHash {
    /// Of a hash of all members and one of those that are compared.
    fn new(all: u128, compared: u128) -> Self {
        Self {
            v1: all.to_le_bytes(),
            v2: (compared ^ VERSION_2).to_le_bytes(),
        }
    }

    /// As it is kept: the newest version.
    pub fn stored(&self) -> StoredHash {
        self.v2
    }

    /// Whether a hash that was kept is one of this body.
    pub fn matches(&self, stored: &StoredHash) -> bool {
        *stored == self.v2 || *stored == self.v1
    }

    /// Whether it is the same body by the newest version.
    pub fn is_same(&self, other: &Self) -> bool {
        self.v2 == other.v2
    }

    /// The hash of all members, version 1: the canonical hash of the envelope.
    pub fn of_all(&self) -> StoredHash {
        self.v1
    }
}

/// Gathers an envelope's members.
#[derive(Default)]
pub(super) struct Gathered {
    all: hash::Object,
    left_out: hash::Object,
}

impl Gathered {
    /// Adds a member by the hashes of its name and value; `is`: the attribute that it is.
    pub(super) fn insert(&mut self, is: &str, name: u128, value: u128) {
        self.all.insert(name, value);
        if NOT_COMPARED.contains(&is) {
            self.left_out.insert(name, value);
        }
    }

    pub(super) fn finish(&self) -> BodyHash {
        let compared = self.all.without(&self.left_out);
        BodyHash::new(self.all.finish(), compared.finish())
    }
}
