//! Reader grants: which login of Postgres sees which tenant. The table `reader_grants` is a projection of them.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::{Controls, ControlsError, record};
use crate::base::{
    clock::Millis,
    id::{Login, Tenant},
};

/// A login's right to read a tenant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReaderGrant {
    /// Who may read.
    pub login: Login,
    /// What it may read.
    pub tenant: Tenant,
    /// The principal who granted it, the last time.
    pub granted_by: String,
    /// When that was.
    pub granted_at: Millis,
    /// Where its record lies on `controls`: grants are listed in this order.
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
            login: Login::new(login).map_err(|_| "its login has no valid name")?,
            tenant: Tenant::new(tenant).map_err(|_| "its tenant has no valid name")?,
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
    /// Whether that changes who may read what.
    pub(super) fn put(&mut self, grant: ReaderGrant) -> bool {
        let name = (grant.tenant.clone(), grant.login.clone());
        self.0.insert(name, Arc::new(grant)).is_none()
    }

    /// Whether that changes who may read what.
    pub(super) fn remove(&mut self, tenant: &str, login: &str) -> bool {
        // What has no valid name is not there.
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

    /// All grants of a tenant, or of all of them; newest first.
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

    /// Told of each change of who may read what.
    pub fn readers_changed(&self) -> watch::Receiver<u64> {
        self.readers_version.subscribe()
    }

    /// Lets a login read a tenant. Written even if it may already: this node may not have read yet that another one ended it.
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
        // Nothing is secret: what is sealed is that who wrote it has `secret_key`, and so no one else lets a login read.
        let offset = self.put(name, (by, now), &body, &[]).await?;
        Ok(ReaderGrant {
            login,
            tenant,
            granted_by: body.granted_by,
            granted_at: now,
            offset,
        })
    }

    /// All grants, if `controls` has been read to its end and lately: what was read before may let someone in whose grant has
    /// ended, or miss all of them.
    pub fn readers_now(&self) -> Option<Vec<Arc<ReaderGrant>>> {
        let grants = self.readers(None);
        // After the look: a read that begins anew says so before it forgets.
        self.readable().then_some(grants)
    }

    /// Ends a login's right to read a tenant.
    pub async fn revoke_reader(
        &self,
        tenant: &Tenant,
        login: &Login,
        by: &str,
        now: Millis,
    ) -> Result<(), ControlsError> {
        let name = (tenant.as_str(), record::READER, login.as_str());
        self.revoke(name, (by, now), None).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_lets_someone_in_or_out_is_a_change() {
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
