//! Ids used in records and in the API. Each is its own type, so that one cannot be passed for another.

use std::{
    collections::HashMap,
    fmt,
    hash::{BuildHasherDefault, Hasher},
    sync::Arc,
};

/// The maximum length of a tenant's name, in bytes.
pub const TENANT_MAX: usize = 128;

/// Size limit of a name and of a principal, in bytes.
pub const TEXT_MAX: usize = 256;

/// Whether a text may be a name for people, or a principal.
pub fn text_is_good(text: &str) -> bool {
    !text.is_empty() && text.len() <= TEXT_MAX && !text.chars().any(char::is_control)
}

/// A tenant: the owner of a record. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Tenant(Arc<str>);

/// Why a tenant's name is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a tenant's name must have 1 to {TENANT_MAX} characters of [A-Za-z0-9._-]")]
pub struct BadTenant;

impl Tenant {
    /// Checks the name: 1 to [`TENANT_MAX`] bytes of `[A-Za-z0-9._-]`.
    pub fn new(name: &str) -> Result<Self, BadTenant> {
        let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        if name.is_empty() || name.len() > TENANT_MAX || !name.bytes().all(good) {
            return Err(BadTenant);
        }
        Ok(Self(name.into()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Tenant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The maximum length of a login's name, in bytes: Postgres truncates longer identifiers.
pub const LOGIN_MAX: usize = 63;

/// The name of a Postgres login, which need not exist yet. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Login(Arc<str>);

/// Why a login's name is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a login's name must have 1 to {LOGIN_MAX} bytes and no control characters")]
pub struct BadLogin;

impl Login {
    /// Checks the name: 1 to [`LOGIN_MAX`] bytes, no control characters. Names are case-sensitive, like quoted identifiers in SQL.
    pub fn new(name: &str) -> Result<Self, BadLogin> {
        if name.is_empty() || name.len() > LOGIN_MAX || name.chars().any(char::is_control) {
            return Err(BadLogin);
        }
        Ok(Self(name.into()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What makes an event unique: the first 16 bytes of the SHA-256 of a compact JSON array such as
/// `["event", tenant, source, id]`. It is the dedupe hash and, written as a UUID, the `record_id` of the response, so that a
/// duplicate gets the same id.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Identity(pub [u8; 16]);

impl Identity {
    /// Hashes the parts as the compact JSON array `[kind, part, …]`.
    pub fn of(kind: &str, parts: &[&str]) -> Self {
        let mut text = Vec::with_capacity(128);
        text.extend_from_slice(b"[\"");
        text.extend_from_slice(kind.as_bytes());
        text.push(b'"');
        for part in parts {
            text.push(b',');
            // Serializing a `&str` into a `Vec` cannot fail.
            let _ = serde_json::to_writer(&mut text, part);
        }
        text.push(b']');
        Self::of_json(&text)
    }

    /// Hashes a compact JSON array.
    pub fn of_json(array: &[u8]) -> Self {
        use sha2::{Digest, Sha256};
        let digest = Sha256::digest(array);
        let mut id = [0; 16];
        id.copy_from_slice(&digest[..16]);
        Self(id)
    }
}

/// A map keyed by identity. Identities are hashes already, so they are not hashed again.
pub type IdentityMap<V> = HashMap<Identity, V, BuildHasherDefault<IdentityHasher>>;

/// A hasher that uses an identity's first 8 bytes as the hash.
#[derive(Default)]
pub struct IdentityHasher(u64);

impl Hasher for IdentityHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        if let Some(first) = bytes.first_chunk() {
            self.0 = u64::from_le_bytes(*first);
        }
    }

    fn write_usize(&mut self, _: usize) {}
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        uuid::Builder::from_custom_bytes(self.0)
            .into_uuid()
            .as_hyphenated()
            .fmt(f)
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tenant_names_are_restricted_to_plain_ascii() {
        assert!(Tenant::new("acme-1.eu").is_ok());
        for bad in ["", "a b", "ä", &"x".repeat(TENANT_MAX + 1)] {
            assert_eq!(Tenant::new(bad), Err(BadTenant));
        }
    }

    #[test]
    fn login_names_fit_a_postgres_identifier() {
        assert!(Login::new("Zoë / \"BI\"").is_ok());
        assert!(Login::new(&"x".repeat(LOGIN_MAX)).is_ok());
        for bad in ["", "a\0", "a\nb", &"x".repeat(LOGIN_MAX + 1)] {
            assert_eq!(Login::new(bad), Err(BadLogin));
        }
    }

    #[test]
    fn parts_that_concatenate_alike_have_different_identities() {
        let a = Identity::of("event", &["t", "a\",\"b", "c"]);
        let b = Identity::of("event", &["t", "a", "b\",\"c"]);
        assert_ne!(a, b);
        assert_eq!(a.to_string().len(), 36);
    }
}
