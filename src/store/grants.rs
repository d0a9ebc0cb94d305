//! Read access of logins to tenants: the table `reader_grants`, a projection of the topic `controls`.

use super::{Store, StoreError};

/// A login that may read a tenant.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Grant {
    /// The role of the login.
    pub role: String,
    /// The tenant whose rows it may read.
    pub tenant: String,
}

/// Replaces the contents of the table by the given grants, which must be all of them.
///
/// It is one statement, so a process that is stopped in the middle holds no lock. Concurrent calls may deadlock, which is retriable;
/// the last one to commit wins.
pub async fn replace(store: &Store, grants: &[Grant]) -> Result<(), StoreError> {
    let roles: Vec<&str> = grants.iter().map(|g| g.role.as_str()).collect();
    let tenants: Vec<&str> = grants.iter().map(|g| g.tenant.as_str()).collect();
    sqlx::query(
        "WITH wanted AS (SELECT * FROM unnest($1::text[], $2::text[]) w(role, tenant)), \
         gone AS (DELETE FROM omnilink.reader_grants g \
                  WHERE NOT EXISTS (SELECT FROM wanted w WHERE w.role = g.role AND w.tenant = g.tenant)) \
         INSERT INTO omnilink.reader_grants (role, tenant) SELECT role, tenant FROM wanted ON CONFLICT DO NOTHING",
    )
    .bind(roles)
    .bind(tenants)
    .execute(store.pool())
    .await?;
    Ok(())
}

/// All grants, ordered by role and tenant.
pub async fn list(store: &Store) -> Result<Vec<Grant>, StoreError> {
    let rows = sqlx::query_as::<_, (String, String)>(
        "SELECT role, tenant FROM omnilink.reader_grants ORDER BY role, tenant",
    )
    .fetch_all(store.pool())
    .await?;
    Ok(rows
        .into_iter()
        .map(|(role, tenant)| Grant { role, tenant })
        .collect())
}
