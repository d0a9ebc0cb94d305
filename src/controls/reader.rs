//! Reader grants: which Postgres login may read which tenant. The table `reader_grants` is a projection of them.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::{Controls, ControlsError, record};
use crate::base::{
    clock::Millis,
    id::{Login, Tenant},
};

/// A login's permission to read a tenant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReaderGrant {
    /// The login.
    pub login: Login,
    /// The tenant.
    pub tenant: Tenant,
    /// The principal who granted it last.
    pub granted_by: String,
    /// When it was last granted.
    pub granted_at: Millis,
    /// The offset of its record on `controls`, by which grants are listed.
    pub offset: u64,
}

/// The JSON body of a grant's record.
#[derive(Serialize, Deserialize)]
pub(super) struct Body {
    granted_by: String,
    granted_at: i64,
}

impl ReaderGrant {
    pub(super) fn from_body(
        tenant: &str,
        login: &str,
        body: Body,
        offset: u64,
    ) -> Result<Self, &'static str> {
        Ok(Self {
            login: Login::new(login).map_err(|_| "its login name is not valid")?,
            tenant: Tenant::new(tenant).map_err(|_| "its tenant name is not valid")?,
            granted_by: body.granted_by,
            granted_at: Millis(body.granted_at),
            offset,
        })
    }
}

/// All grants, by tenant and login.
#[derive(Default)]
pub(super) struct Readers(BTreeMap<(Tenant, Login), Arc<ReaderGrant>>);

impl Readers {
    /// Adds or replaces a grant; returns whether that changes who may read what.
    pub(super) fn put(&mut self, grant: ReaderGrant) -> bool {
        let name = (grant.tenant.clone(), grant.login.clone());
        self.0.insert(name, Arc::new(grant)).is_none()
    }

    /// Removes a grant; returns whether that changes who may read what.
    pub(super) fn remove(&mut self, tenant: &str, login: &str) -> bool {
        // A name that is not valid cannot be in the map.
        let (Ok(tenant), Ok(login)) = (Tenant::new(tenant), Login::new(login)) else {
            return false;
        };
        self.0.remove(&(tenant, login)).is_some()
    }
}

impl Controls {
    /// The grant of a tenant to a login.
    pub fn reader(&self, tenant: &Tenant, login: &Login) -> Option<Arc<ReaderGrant>> {
        let name = (tenant.clone(), login.clone());
        self.readers.read().0.get(&name).cloned()
    }

    /// All grants of a tenant, or of all tenants; newest first.
    pub fn readers(&self, tenant: Option<&Tenant>) -> Vec<Arc<ReaderGrant>> {
        let mut grants: Vec<_> = self
            .readers
            .read()
            .0
            .values()
            .filter(|g| tenant.is_none_or(|t| g.tenant == *t))
            .cloned()
            .collect();
        grants.sort_unstable_by_key(|g| std::cmp::Reverse(g.offset));
        grants
    }

    /// Notified of each change of who may read what.
    pub fn readers_changed(&self) -> watch::Receiver<u64> {
        self.readers_version.subscribe()
    }

    /// Lets a login read a tenant. Always writes a record: this node may not have read another node's revocation yet.
    pub async fn grant_reader(
        &self,
        tenant: Tenant,
        login: Login,
        by: &str,
        now: Millis,
    ) -> Result<ReaderGrant, ControlsError> {
        let body = Body {
            granted_by: by.to_owned(),
            granted_at: now.0,
        };
        let name = (tenant.as_str(), record::READER, login.as_str());
        // There is no secret to encrypt: the seal proves that the writer has `secret_key`, so nobody else can grant access.
        let offset = self.put(name, (by, now), &body, &[]).await?;
        Ok(ReaderGrant {
            login,
            tenant,
            granted_by: body.granted_by,
            granted_at: now,
            offset,
        })
    }

    /// All grants, if `controls` has been read to its end recently; `None` otherwise, because an older state may contain revoked
    /// grants or lack new ones.
    pub fn readers_now(&self) -> Option<Vec<Arc<ReaderGrant>>> {
        let grants = self.readers(None);
        // Checked after the copy: a reader that starts over clears the heartbeat before the grants.
        self.readable().then_some(grants)
    }

    /// Revokes a login's access to a tenant.
    pub async fn revoke_reader(
        &self,
        tenant: &Tenant,
        login: &Login,
        by: &str,
        now: Millis,
    ) -> Result<(), ControlsError> {
        let name = (tenant.as_str(), record::READER, login.as_str());
        self.revoke(name, (by, now), None, None::<&()>).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_new_and_removed_grants_are_changes() {
        let grant = |login: &str, offset| {
            let body = Body {
                granted_by: "me".into(),
                granted_at: 1,
            };
            ReaderGrant::from_body("acme", login, body, offset)
        };
        let mut readers = Readers::default();
        assert!(readers.put(grant("a/b", 1).unwrap()));
        assert!(!readers.put(grant("a/b", 2).unwrap()));
        assert_eq!(readers.0.values().next().unwrap().offset, 2);
        assert!(readers.put(grant("A/b", 3).unwrap()));
        assert!(!readers.remove("beta", "a/b"));
        assert!(readers.remove("acme", "a/b"));
        assert!(!readers.remove("acme", "a/b"));
        assert!(!readers.remove("no tenant", ""));
        assert!(grant("", 4).is_err());
    }
}
