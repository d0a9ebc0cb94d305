//! The sealed values of the placeholders of runs, in the first records of their histories.

use std::collections::HashMap;

use super::{Store, StoreError};

/// Those of some runs, by run; runs without any are left out.
pub async fn of_runs(
    store: &Store,
    tenant: &str,
    runs: &[&str],
) -> Result<HashMap<String, String>, StoreError> {
    let sealed = sqlx::query_as::<_, (String, String)>(
        "SELECT run_id, record ->> 'sealed' FROM omnilink.run_events \
         WHERE tenant = $1 AND run_id = ANY($2) AND seq = 1 AND record ->> 'sealed' IS NOT NULL",
    )
    .bind(tenant)
    .bind(runs)
    .fetch_all(store.pool())
    .await?;
    Ok(sealed.into_iter().collect())
}
