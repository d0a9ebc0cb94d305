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
pub async fn replace(store: &Store, grants: &[Grant]) -> Result<(), StoreError> {
    let roles: Vec<&str> = grants.iter().map(|g| g.role.as_str()).collect();
    let tenants: Vec<&str> = grants.iter().map(|g| g.tenant.as_str()).collect();
    let mut transaction = store.pool().begin().await?;
    sqlx::query(
        "DELETE FROM omnilink.reader_grants g \
         WHERE NOT EXISTS (SELECT FROM unnest($1::text[], $2::text[]) k(role, tenant) WHERE k.role = g.role AND k.tenant = g.tenant)",
    )
    .bind(&roles)
    .bind(&tenants)
    .execute(&mut *transaction)
    .await?;
    sqlx::query(
        "INSERT INTO omnilink.reader_grants (role, tenant) SELECT * FROM unnest($1::text[], $2::text[]) ON CONFLICT DO NOTHING",
    )
    .bind(&roles)
    .bind(&tenants)
    .execute(&mut *transaction)
    .await?;
    transaction.commit().await?;
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
