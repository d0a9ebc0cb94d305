//! API keys: `omni.{prefix}.{secret}`, of which only the SHA-256 is kept.

use std::fmt;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::scopes::{EVENTS_WRITE, Scopes};
use crate::base::{clock::Millis, id::Tenant};

/// The first characters of a key's secret, by which it is looked up.
pub type Prefix = [u8; PREFIX];

const PREFIX: usize = 8;
/// Length of base64url of 32 bytes.
const SECRET: usize = 43;
const START: &str = "omni.";

/// Size limit of a key's name and principal, in bytes.
pub const TEXT_MAX: usize = 256;

/// Whether a text may be a key's name or principal.
pub fn text_is_good(text: &str) -> bool {
    !text.is_empty() && text.len() <= TEXT_MAX && !text.chars().any(char::is_control)
}

/// Who holds a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum KeyKind {
    /// A person, who may approve.
    Person,
    /// A program.
    Service,
}

impl KeyKind {
    /// As it is written.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Person => "person",
            Self::Service => "service",
        }
    }
}

/// An API key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// Its id, a UUIDv7.
    pub id: String,
    /// The tenant that it belongs to.
    pub tenant: Tenant,
    /// The first characters of its secret.
    pub prefix: Prefix,
    /// The SHA-256 of the whole key.
    pub hash: [u8; 32],
    /// Display name.
    pub name: String,
    /// The principal that it acts as.
    pub principal: String,
    /// Person or service.
    pub kind: KeyKind,
    /// What it may do.
    pub scopes: Scopes,
    /// When it was created.
    pub created_at: Millis,
    /// When it expires; `None` is never.
    pub expires_at: Option<Millis>,
    /// Whether it may write events: checked for every request, so it is computed once.
    pub writes_events: bool,
}

/// The JSON body of a key's record.
#[derive(Serialize, Deserialize)]
pub(super) struct Body {
    pub(super) prefix: String,
    pub(super) name: String,
    pub(super) principal: String,
    pub(super) kind: KeyKind,
    pub(super) scopes: Scopes,
    pub(super) created_at: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) expires_at: Option<i64>,
}

impl Key {
    pub(super) fn from_body(id: &str, tenant: Tenant, body: Body, hash: [u8; 32]) -> Option<Self> {
        Some(Self {
            id: id.to_owned(),
            tenant,
            prefix: body.prefix.as_bytes().try_into().ok()?,
            hash,
            name: body.name,
            principal: body.principal,
            kind: body.kind,
            writes_events: body.scopes.permits(EVENTS_WRITE),
            scopes: body.scopes,
            created_at: Millis(body.created_at),
            expires_at: body.expires_at.map(Millis),
        })
    }

    pub(super) fn body(&self) -> Body {
        Body {
            prefix: self.prefix().to_owned(),
            name: self.name.clone(),
            principal: self.principal.clone(),
            kind: self.kind,
            scopes: self.scopes.clone(),
            created_at: self.created_at.0,
            expires_at: self.expires_at.map(|at| at.0),
        }
    }

    /// The prefix as text.
    pub fn prefix(&self) -> &str {
        // A prefix is base64url, or comes from a JSON string.
        std::str::from_utf8(&self.prefix).unwrap_or_default()
    }

    /// Whether it has expired.
    pub fn expired(&self, now: Millis) -> bool {
        self.expires_at.is_some_and(|at| at <= now)
    }
}

/// The text of a key, which is shown once.
pub struct Token(String);

impl Token {
    /// Generates a token from 32 random bytes.
    pub fn generate() -> Self {
        let secret = URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>());
        Self(format!("{START}{}.{secret}", &secret[..PREFIX]))
    }

    /// The text, for the holder of the key.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// Its prefix and hash.
    pub fn fingerprint(&self) -> (Prefix, [u8; 32]) {
        let mut prefix = [0; PREFIX];
        prefix.copy_from_slice(&self.0.as_bytes()[START.len()..START.len() + PREFIX]);
        (prefix, hash(&self.0))
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(***)")
    }
}

/// The prefix of a text with the format of a key.
pub(super) fn prefix_of(token: &str) -> Option<Prefix> {
    let rest = token.as_bytes().strip_prefix(START.as_bytes())?;
    let (prefix, rest) = rest.split_first_chunk::<PREFIX>()?;
    let secret = rest.strip_prefix(b".")?;
    (secret.len() == SECRET && secret.starts_with(prefix)).then_some(*prefix)
}

/// The SHA-256 of a whole key.
pub(super) fn hash(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_has_the_documented_format() {
        let token = Token::generate();
        assert_eq!(token.reveal().len(), 5 + 8 + 1 + 43);
        let (prefix, hashed) = token.fingerprint();
        assert_eq!(prefix_of(token.reveal()), Some(prefix));
        assert_eq!(hash(token.reveal()), hashed);
        assert_eq!(format!("{token:?}"), "Token(***)");
        for bad in [
            "",
            "omni.",
            "omni.short.x",
            &token.reveal()[1..],
            &format!("{}x", token.reveal()),
        ] {
            assert_eq!(prefix_of(bad), None, "{bad}");
        }
    }
}
