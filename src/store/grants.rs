//! Who may read: the table `reader_grants`, a projection of the topic `controls`.

use super::{Store, StoreError};

/// A login that may read a tenant.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Grant {
    /// The login's role.
    pub role: String,
    /// The tenant.
    pub tenant: String,
}

/// Makes the table say just this. For the reader of `controls`, which knows all grants.
///
/// One statement, so that a process that is stopped in its midst holds no lock. Several at once may meet in a deadlock, which
/// is retriable, and the last one counts.
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

/// All grants, by role and tenant.
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
