//! The secrets of a source; there are several during a rotation.

use std::{fmt, sync::Arc};

use crate::base::clock::Millis;

/// A secret and its expiry.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret {
    /// The secret as the sender has it.
    pub text: Arc<str>,
    /// From when on it is no longer valid; `None` if it does not expire.
    pub until: Option<Millis>,
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret {{ until: {:?} }}", self.until)
    }
}

/// The secrets of a source, oldest first.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Secrets(Vec<Secret>);

impl Secrets {
    /// The stored secrets.
    pub fn new(secrets: Vec<Secret>) -> Self {
        Self(secrets)
    }

    /// All secrets, to be stored.
    pub fn all(&self) -> &[Secret] {
        &self.0
    }

    /// The secrets that are valid at this time.
    pub(super) fn at(&self, now: Millis) -> impl Iterator<Item = &str> {
        self.0
            .iter()
            .filter(move |secret| secret.until.is_none_or(|until| now < until))
            .map(|secret| &*secret.text)
    }

    /// Adds a secret that is valid from now on; the previous ones stay valid for `overlap_s` seconds, unless they expire earlier. Expired
    /// ones are dropped.
    #[must_use]
    pub fn rotated(&self, text: &str, now: Millis, overlap_s: u32) -> Self {
        let end = Millis(now.0.saturating_add(i64::from(overlap_s) * 1000));
        let ends = |secret: &Secret| Secret {
            text: Arc::clone(&secret.text),
            until: Some(secret.until.map_or(end, |until| until.min(end))),
        };
        let mut secrets: Vec<_> = self.0.iter().map(ends).collect();
        secrets.retain(|secret| secret.until.is_none_or(|until| now < until));
        secrets.push(Secret {
            text: text.into(),
            until: None,
        });
        Self(secrets)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_old_one_counts_up_to_the_end_of_the_overlap() {
        let one = Secrets::default().rotated("a", Millis(0), 0);
        let two = one.rotated("b", Millis(1_000), 60);
        let at = |secrets: &Secrets, now| secrets.at(Millis(now)).collect::<Vec<_>>().join(" ");
        assert_eq!(at(&one, 0), "a");
        assert_eq!(at(&two, 1_000), "a b");
        assert_eq!(at(&two, 60_999), "a b");
        assert_eq!(at(&two, 61_000), "b");
        // A second rotation does not prolong the first.
        let three = two.rotated("c", Millis(2_000), 600);
        assert_eq!(at(&three, 60_999), "a b c");
        assert_eq!(at(&three, 61_000), "b c");
        assert_eq!(at(&three, 602_000), "c");
        assert_eq!(three.rotated("d", Millis(700_000), 0).all().len(), 1);
        assert!(!format!("{three:?}").contains("\"a\""));
    }
}
