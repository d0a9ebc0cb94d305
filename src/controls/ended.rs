//! What was ended, as its revocation on the topic describes it: for those that have not seen the records before.

use serde::{Deserialize, Serialize};

use super::{Key, KeyKind, record};
use crate::base::{clock::Millis, id::Tenant, scopes::Scopes};

/// What of a key is no secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyFacts {
    /// The first characters of its secret.
    pub prefix: String,
    /// Display name.
    pub name: String,
    /// The principal that it acts as.
    pub principal: String,
    /// Person or service.
    pub kind: KeyKind,
    /// What it may do.
    pub scopes: Scopes,
    /// When it was created: milliseconds since the Unix epoch.
    pub created_at: i64,
    /// When it expires.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<i64>,
}

/// A key that was revoked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RevokedKey {
    /// Its id.
    pub id: String,
    /// The tenant that it belonged to.
    pub tenant: Tenant,
    /// When it was revoked.
    pub revoked_at: Millis,
    /// What it was; `None`: its revocation does not say.
    pub was: Option<KeyFacts>,
}

/// What the row of a deleted integration shows.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct IntegrationFacts {
    /// Its name.
    pub name: String,
    /// The dialect of its senders.
    pub dialect: String,
    /// When it was created: milliseconds since the Unix epoch.
    pub created_at: i64,
}

/// An integration that was deleted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DeletedIntegration {
    /// Its id.
    pub id: String,
    /// The tenant that it belonged to.
    pub tenant: Tenant,
    /// When it was deleted.
    pub deleted_at: Millis,
    /// What it was; `None`: the record does not say.
    pub was: Option<IntegrationFacts>,
}

impl Key {
    /// Its properties, without secrets.
    pub fn facts(&self) -> KeyFacts {
        KeyFacts {
            prefix: self.prefix().to_owned(),
            name: self.name.clone(),
            principal: self.principal.clone(),
            kind: self.kind,
            scopes: self.scopes.clone(),
            created_at: self.created_at.0,
            expires_at: self.expires_at.map(|at| at.0),
        }
    }
}

impl RevokedKey {
    /// `body`: of the revocation.
    pub(super) fn read(tenant: &str, id: &str, body: &str) -> Option<Self> {
        let (revoked_at, was) = record::revoked(body)?;
        Some(Self {
            id: id.to_owned(),
            tenant: Tenant::new(tenant).ok()?,
            revoked_at,
            was,
        })
    }
}

impl DeletedIntegration {
    /// `body`: of the deletion.
    pub(super) fn read(tenant: &str, id: &str, body: &str) -> Option<Self> {
        let (deleted_at, was) = record::revoked(body)?;
        Some(Self {
            id: id.to_owned(),
            tenant: Tenant::new(tenant).ok()?,
            deleted_at,
            was,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_revocation_does_not_say_is_not_known() {
        let read = |body: &str| RevokedKey::read("acme", "1", body);
        let old = read(r#"{"version":2,"revoked_at":5}"#).unwrap();
        assert_eq!((old.revoked_at, old.was), (Millis(5), None));
        let later = read(r#"{"version":2,"revoked_at":5,"was":{"name":"shop"}}"#).unwrap();
        assert_eq!(later.was, None);
        assert_eq!(read("{}"), None);
    }
}
