//! Counts of the table `tasks`.

use super::{Store, StoreError, tasks::CLAIMABLE};

/// The maximum number of tasks of a tool that [`waiting`] counts.
const COUNTED: i64 = 64;
/// The maximum number of waiting tasks of a tool that [`claims`] counts.
const SHOWN: i64 = 10_000;

/// The number of claimable tasks of each (tenant, tool), at most 64. Ignores limits.
pub async fn waiting(store: &Store, of: &[(String, String)]) -> Result<Vec<u64>, StoreError> {
    let (tenants, tools): (Vec<&str>, Vec<&str>) =
        of.iter().map(|(tenant, tool)| (&**tenant, &**tool)).unzip();
    let sql = format!(
        "SELECT (SELECT count(*) FROM (SELECT FROM omnilink.tasks t WHERE t.tenant = k.tenant AND t.tool = k.tool AND {CLAIMABLE} \
           LIMIT $3) f) FROM unnest($1::text[], $2::text[]) WITH ORDINALITY k(tenant, tool, n) ORDER BY k.n"
    );
    let counts = sqlx::query_scalar::<_, i64>(sqlx::AssertSqlSafe(sql))
        .bind(tenants)
        .bind(tools)
        .bind(COUNTED)
        .fetch_all(store.pool())
        .await?;
    Ok(counts.into_iter().map(i64::unsigned_abs).collect())
}

/// The numbers of tasks of a tool with `worker: {claim: {}}`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Claims {
    /// Claimable tasks of the tenant, at most 10,000; limits are ignored.
    pub waiting: u64,
    /// Claimed tasks of the tenant.
    pub claimed: u64,
    /// Claimed tasks of all tenants, as limits count them.
    pub used: u64,
}

/// Counts the tasks of tools, in the order of `tools`.
pub async fn claims(
    store: &Store,
    tenant: &str,
    tools: &[&str],
) -> Result<Vec<Claims>, StoreError> {
    let claimed = "SELECT count(*) FROM omnilink.tasks t WHERE t.tool = k.tool AND t.status <> 'done' AND t.lease_expires_at > now()";
    let sql = format!(
        "SELECT (SELECT count(*) FROM (SELECT FROM omnilink.tasks t WHERE t.tenant = $1 AND t.tool = k.tool AND {CLAIMABLE} \
           LIMIT $3) f), ({claimed} AND t.tenant = $1), ({claimed}) \
         FROM unnest($2::text[]) WITH ORDINALITY k(tool, n) ORDER BY k.n"
    );
    let rows = sqlx::query_as::<_, (i64, i64, i64)>(sqlx::AssertSqlSafe(sql))
        .bind(tenant)
        .bind(tools)
        .bind(SHOWN)
        .fetch_all(store.pool())
        .await?;
    let claims = |(waiting, claimed, used): (i64, i64, i64)| Claims {
        waiting: waiting.unsigned_abs(),
        claimed: claimed.unsigned_abs(),
        used: used.unsigned_abs(),
    };
    Ok(rows.into_iter().map(claims).collect())
}
