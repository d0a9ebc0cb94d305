//! `/v1/keys`.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::time::rfc3339;
use crate::controls::{self, KeyKind, Scopes};

/// A key.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Key<'a> {
    /// Its id.
    pub id: &'a str,
    /// The whole key: only in the answer that makes it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<&'a str>,
    /// The first characters of its secret.
    pub prefix: &'a str,
    /// Its name, for people.
    pub name: &'a str,
    /// Who acts with it.
    pub principal: &'a str,
    /// The tenant that it belongs to.
    pub tenant: &'a str,
    /// Whether a person or a program holds it.
    pub kind: KeyKind,
    /// What it may do.
    pub scopes: &'a Scopes,
    /// When it was made.
    #[schemars(extend("format" = "date-time"))]
    pub created_at: String,
    /// When it expires.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "date-time"))]
    pub expires_at: Option<String>,
}

impl<'a> Key<'a> {
    /// A key as it is shown; `token` is the whole key.
    pub fn new(key: &'a controls::Key, token: Option<&'a str>) -> Self {
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
            expires_at: key.expires_at.map(rfc3339),
        }
    }
}

// Required fields are optional for serde, so that the error names the one that is missing.
/// A key to be made.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("required" = ["name", "kind", "scopes"]))]
pub struct CreateKey {
    /// Its name, for people: at most 256 bytes without control characters.
    #[schemars(with = "String")]
    pub name: Option<String>,
    /// Who acts with it; its name unless given.
    pub principal: Option<String>,
    /// The tenant that it belongs to: the own one unless given. Another one needs the permission `operator`.
    pub tenant: Option<String>,
    /// Whether a person or a program holds it.
    #[schemars(with = "KeyKind")]
    pub kind: Option<KeyKind>,
    /// What it may do: no more than the key that asks may.
    #[schemars(with = "Scopes")]
    pub scopes: Option<Scopes>,
    /// When it expires; never unless given.
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub expires_at: Option<Timestamp>,
}
