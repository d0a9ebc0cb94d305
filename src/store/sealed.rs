//! The sealed values of the placeholders of runs, in the first records of their histories.

use std::collections::HashMap;

use super::{Store, StoreError};

/// The sealed values of a run. `None`: the run is not known (yet). `Some(None)`: it has none.
pub async fn of_run(
    store: &Store,
    tenant: &str,
    run: &str,
) -> Result<Option<Option<String>>, StoreError> {
    let sealed = sqlx::query_scalar::<_, Option<String>>(
        "SELECT record ->> 'sealed' FROM omnilink.run_events WHERE tenant = $1 AND run_id = $2 AND seq = 1",
    )
    .bind(tenant)
    .bind(run)
    .fetch_optional(store.pool())
    .await?;
    Ok(sealed)
}

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
