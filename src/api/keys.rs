//! `/v1/keys`.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

use super::time::rfc3339;
use crate::{
    base::clock::Millis,
    controls::{self, KeyKind, Scopes},
};

/// A key.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Key<'a> {
    /// Its id.
    pub id: &'a str,
    /// The whole key; it is only in the answer that creates it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<&'a str>,
    /// The first characters of its secret.
    pub prefix: &'a str,
    /// Its name, for people.
    pub name: &'a str,
    /// The principal that acts with it.
    pub principal: &'a str,
    /// The tenant that it belongs to.
    pub tenant: &'a str,
    /// Whether a person or a program holds it.
    pub kind: KeyKind,
    /// Its permissions and constraints.
    pub scopes: &'a Scopes,
    /// When it was made.
    #[schemars(extend("format" = "date-time"))]
    pub created_at: String,
    /// When its secret was last rotated.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "date-time"))]
    pub rotated_at: Option<String>,
    /// When it expires.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "date-time"))]
    pub expires_at: Option<String>,
    /// When this node last saw it in use, to the second; absent if it was not used since the node started.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "date-time"))]
    pub last_used_at: Option<String>,
    /// Until when the previous secret is valid, during an overlap.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "date-time"))]
    pub overlap_until: Option<String>,
    /// Whether `max_rpm` and `max_concurrency` are enforced. A key created before they were enforced only causes warnings until it is
    /// rotated or changed.
    pub limits_enforced: bool,
}

impl<'a> Key<'a> {
    /// The key as shown at `now`; `token` is the whole key.
    pub fn new(key: &'a controls::Key, token: Option<&'a str>, now: Millis) -> Self {
        let previous = key.previous.as_ref().map(|previous| previous.until);
        Self {
            id: &key.id,
            key: token,
            prefix: key.prefix(),
            name: &key.name,
            principal: &key.principal,
            tenant: key.tenant.as_str(),
            kind: key.kind,
            scopes: &key.scopes,
            created_at: rfc3339(key.created_at),
            rotated_at: key.rotated_at.map(rfc3339),
            expires_at: key.expires_at.map(rfc3339),
            last_used_at: key.last_used.get().map(rfc3339),
            overlap_until: previous.filter(|until| *until > now).map(rfc3339),
            limits_enforced: key.enforces_limits,
        }
    }
}

// Serde treats required fields as optional, so that the error can name the missing one.
/// A key to create.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("required" = ["name", "kind", "scopes"]))]
pub struct CreateKey {
    /// Its name, for people: at most 256 bytes without control characters.
    #[schemars(with = "String")]
    pub name: Option<String>,
    /// The principal that acts with it; default: its name.
    pub principal: Option<String>,
    /// The tenant that it belongs to; default: that of the caller's key. Another tenant needs the permission `operator`.
    pub tenant: Option<String>,
    /// Whether a person or a program holds it.
    #[schemars(with = "KeyKind")]
    pub kind: Option<KeyKind>,
    /// Its scopes, which must not exceed those of the caller's key.
    #[schemars(with = "Scopes")]
    pub scopes: Option<Scopes>,
    /// When it expires; default: never.
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub expires_at: Option<Timestamp>,
}

/// The default overlap of a rotation, in seconds: a day.
pub const OVERLAP_S: u64 = 86_400;
/// The longest overlap, in seconds: 30 days.
pub const OVERLAP_MAX_S: u64 = 30 * 86_400;

/// A rotation of a key.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RotateKey {
    /// For how many seconds the previous secret stays valid; default a day, at most 30 days; 0 ends it at once.
    #[serde(default = "overlap")]
    #[schemars(range(max = 2_592_000))]
    pub overlap_s: u64,
}

fn overlap() -> u64 {
    OVERLAP_S
}

impl Default for RotateKey {
    fn default() -> Self {
        Self {
            overlap_s: OVERLAP_S,
        }
    }
}

/// A key with its new secret.
#[derive(Debug, Serialize, JsonSchema)]
pub struct RotatedKey<'a> {
    /// Its id, which stays the same.
    pub id: &'a str,
    /// The whole key; it is only in this answer.
    pub key: &'a str,
    /// The first characters of its secret.
    pub prefix: &'a str,
}

/// A change of a key; absent members stay unchanged.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ChangeKey {
    /// Its name, for people: at most 256 bytes without control characters.
    #[serde(default, deserialize_with = "present")]
    #[schemars(with = "String")]
    pub name: Option<String>,
    /// The new scopes as a whole, which must not exceed those of the caller's key.
    #[serde(default, deserialize_with = "present")]
    #[schemars(with = "Scopes")]
    pub scopes: Option<Scopes>,
    /// When it expires; `null` for never.
    #[serde(default, deserialize_with = "present")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub expires_at: Option<Option<Timestamp>>,
}

/// A member that is present: `null` is a separate value, which only members that can be cleared accept.
fn present<'de, T: Deserialize<'de>, D: Deserializer<'de>>(from: D) -> Result<Option<T>, D::Error> {
    T::deserialize(from).map(Some)
}
