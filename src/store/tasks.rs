//! The table `tasks`: claiming, extending and completing tasks. Leases are stored as hashes.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use sqlx::{Postgres, Row, Transaction, postgres::PgRow};

use super::{Store, StoreError};
use crate::base::clock::Millis;

/// The number of rows that one statement of [`expire`] deletes.
const STEP: i64 = 5_000;
/// The pause between these statements, to limit the load on Postgres.
const PAUSE: Duration = Duration::from_millis(50);
/// The maximum total size of inputs in one claim, in bytes. A single task may exceed it.
const BYTES_MAX: i64 = 4 << 20;

/// The SHA-256 of a lease.
pub type LeaseHash = [u8; 32];

/// A tool whose tasks are to be claimed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Wanted {
    /// Its name.
    pub tool: String,
    /// Its limits, if it has any.
    pub limit: Option<Allowed>,
}

/// The limits of a tool, over all tenants.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Allowed {
    /// Maximum number of tasks with a valid lease.
    pub concurrency: Option<u64>,
    /// Maximum number of first claims, and the window in seconds.
    pub rate: Option<(u64, u64)>,
    /// Whether each key of the limit is counted separately.
    pub keyed: bool,
}

/// The claiming worker, and the duration of its leases.
#[derive(Clone, Copy, Debug)]
pub struct Claimer<'a> {
    /// The tenant of the tasks.
    pub tenant: &'a str,
    /// The principal.
    pub principal: &'a str,
    /// The duration of a lease.
    pub lease: Duration,
}

/// A task that was claimed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ClaimedRow {
    /// `run_id:step_id:kind:attempt`.
    pub task_id: String,
    /// The run.
    pub run_id: String,
    /// The name of its workflow.
    pub workflow: Option<String>,
    /// The step.
    pub step_id: String,
    /// `execute` or `compensate`.
    pub kind: String,
    /// From 1.
    pub attempt: i64,
    /// The tool.
    pub tool: String,
    /// JSON text.
    pub input: String,
    /// For a compensation, JSON text: the call that it undoes.
    pub execute: Option<String>,
    /// For a compensation, JSON text: the error that caused it.
    pub error: Option<String>,
    /// The values of the placeholders in `input` and `execute`, sealed.
    pub sealed: Option<String>,
    /// The idempotency key of the call; `None`: it is `run_id:step_id:kind`.
    pub idempotency_key: Option<String>,
    /// W3C trace context.
    pub traceparent: Option<String>,
    /// W3C trace context.
    pub tracestate: Option<String>,
    /// The time limit of the attempt from its first claim, in milliseconds.
    pub timeout_ms: i64,
    /// The deadline of the attempt; known once the run has processed the first claim.
    pub deadline: Option<Millis>,
    /// When the lease lapses.
    pub lease_expires_at: Millis,
}

/// An extended lease.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Extended {
    /// When the lease lapses.
    pub lease_expires_at: Millis,
    /// The deadline of the attempt.
    pub deadline: Millis,
}

/// The state of a claimed task.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Standing {
    /// The run has not confirmed its first claim yet.
    Unconfirmed,
    /// The run has confirmed the claim.
    Started {
        /// When the attempt times out.
        deadline: Millis,
    },
    /// It is over, or does not exist.
    Over,
}

/// A claimable task, whose row is locked.
struct Candidate {
    task_id: String,
    tool: String,
    limit_key: String,
    bytes: i64,
    /// Microseconds since 1970.
    since: i64,
}

/// The remaining capacity of a tool's limits, by key.
struct Capacity {
    most: Allowed,
    under_way: HashMap<String, u64>,
    begun: HashMap<String, u64>,
}

impl Capacity {
    fn left(&self, key: &str) -> u64 {
        let key = if self.most.keyed { key } else { "" };
        let count = |of: &HashMap<String, u64>| of.get(key).copied().unwrap_or(0);
        let seats = self
            .most
            .concurrency
            .map_or(u64::MAX, |most| most.saturating_sub(count(&self.under_way)));
        let starts = self.most.rate.map_or(u64::MAX, |(most, _)| {
            most.saturating_sub(count(&self.begun))
        });
        seats.min(starts)
    }

    fn take(&mut self, key: &str) {
        let key = if self.most.keyed { key } else { "" };
        for counts in [&mut self.under_way, &mut self.begun] {
            *counts.entry(key.to_owned()).or_default() += 1;
        }
    }

    /// The keys without remaining capacity.
    fn full(&self) -> Vec<String> {
        let keys = self.under_way.keys().chain(self.begun.keys());
        let mut full: Vec<String> = keys.filter(|key| self.left(key) == 0).cloned().collect();
        full.sort_unstable();
        full.dedup();
        full
    }
}

/// Claims tasks, the longest waiting first, at most one for each hash of a lease. Returns each task with the index of its hash.
pub async fn claim(
    store: &Store,
    wanted: &[Wanted],
    claimer: Claimer<'_>,
    hashes: &[LeaseHash],
) -> Result<Vec<(usize, ClaimedRow)>, StoreError> {
    let most = hashes.len();
    let mut transaction = store.pool().begin().await?;
    let free: Vec<&str> = wanted
        .iter()
        .filter(|wanted| wanted.limit.is_none())
        .map(|wanted| wanted.tool.as_str())
        .collect();
    let mut candidates = Vec::new();
    if !free.is_empty() {
        candidates.extend(unlimited(&mut transaction, claimer.tenant, &free, most).await?);
    }
    // A fixed order, because each tool is locked.
    let limited: BTreeMap<&str, Allowed> = wanted
        .iter()
        .filter_map(|wanted| Some((wanted.tool.as_str(), wanted.limit?)))
        .collect();
    let mut capacities = HashMap::new();
    for (tool, allowed) in limited {
        let capacity = capacity(&mut transaction, tool, allowed).await?;
        if allowed.keyed || capacity.left("") > 0 {
            let full = if allowed.keyed {
                capacity.full()
            } else {
                Vec::new()
            };
            let found = of_tool(&mut transaction, (claimer.tenant, tool), &full, most).await?;
            candidates.extend(found);
        }
        capacities.insert(tool.to_owned(), capacity);
    }
    let chosen = choose(candidates, &mut capacities, most);
    let rows = lease(&mut transaction, claimer, &chosen, hashes).await?;
    transaction.commit().await?;
    let place = |row: ClaimedRow| {
        let place = chosen.iter().position(|id| *id == row.task_id)?;
        Some((place, row))
    };
    let mut claimed: Vec<_> = rows.into_iter().filter_map(place).collect();
    claimed.sort_unstable_by_key(|(place, _)| *place);
    Ok(claimed)
}

/// The condition of a task that may be claimed.
pub(super) const CLAIMABLE: &str = "t.status IN ('open', 'claimed') AND (t.lease_expires_at IS NULL OR t.lease_expires_at <= now()) \
     AND t.deadline > now()";
/// Since when a task has been claimable.
const SINCE: &str = "COALESCE(t.lease_expires_at, t.created_at)";
const COLUMNS: &str = "t.task_id, t.tool, t.limit_key, (length(t.input) + COALESCE(length(t.execute), 0))::bigint AS bytes";

async fn unlimited(
    transaction: &mut Transaction<'_, Postgres>,
    tenant: &str,
    tools: &[&str],
    most: usize,
) -> Result<Vec<Candidate>, StoreError> {
    let sql = format!(
        "SELECT f.task_id, f.tool, f.limit_key, f.bytes, (EXTRACT(EPOCH FROM f.since) * 1000000)::bigint \
         FROM unnest($2::text[]) k(tool) CROSS JOIN LATERAL ( \
           SELECT {COLUMNS}, {SINCE} AS since FROM omnilink.tasks t WHERE t.tenant = $1 AND t.tool = k.tool AND {CLAIMABLE} \
           ORDER BY {SINCE} LIMIT $3 FOR UPDATE SKIP LOCKED) f"
    );
    let rows = sqlx::query(sqlx::AssertSqlSafe(sql))
        .bind(tenant)
        .bind(tools)
        .bind(most as i64)
        .fetch_all(&mut **transaction)
        .await?;
    rows.iter().map(candidate).collect()
}

async fn of_tool(
    transaction: &mut Transaction<'_, Postgres>,
    (tenant, tool): (&str, &str),
    full: &[String],
    most: usize,
) -> Result<Vec<Candidate>, StoreError> {
    let sql = format!(
        "SELECT {COLUMNS}, (EXTRACT(EPOCH FROM {SINCE}) * 1000000)::bigint FROM omnilink.tasks t \
         WHERE t.tenant = $1 AND t.tool = $2 AND {CLAIMABLE} AND NOT (t.limit_key = ANY($4)) \
         ORDER BY {SINCE} LIMIT $3 FOR UPDATE SKIP LOCKED"
    );
    let rows = sqlx::query(sqlx::AssertSqlSafe(sql))
        .bind(tenant)
        .bind(tool)
        .bind(most as i64)
        .bind(full)
        .fetch_all(&mut **transaction)
        .await?;
    rows.iter().map(candidate).collect()
}

fn candidate(row: &PgRow) -> Result<Candidate, StoreError> {
    Ok(Candidate {
        task_id: row.try_get(0)?,
        tool: row.try_get(1)?,
        limit_key: row.try_get(2)?,
        bytes: row.try_get(3)?,
        since: row.try_get(4)?,
    })
}

/// Reads the current counts of a tool's limits. Locks the tool until the end of the transaction.
async fn capacity(
    transaction: &mut Transaction<'_, Postgres>,
    tool: &str,
    most: Allowed,
) -> Result<Capacity, StoreError> {
    sqlx::query("SELECT pg_advisory_xact_lock(hashtextextended('omnilink.tasks ' || $1, 0))")
        .bind(tool)
        .execute(&mut **transaction)
        .await?;
    let key = if most.keyed { "limit_key" } else { "''::text" };
    let mut capacity = Capacity {
        most,
        under_way: HashMap::new(),
        begun: HashMap::new(),
    };
    if most.concurrency.is_some() {
        let sql = format!(
            "SELECT {key}, count(*) FROM omnilink.tasks \
             WHERE tool = $1 AND status <> 'done' AND lease_expires_at > now() GROUP BY 1"
        );
        let rows = sqlx::query_as::<_, (String, i64)>(sqlx::AssertSqlSafe(sql));
        let rows = rows.bind(tool).fetch_all(&mut **transaction).await?;
        capacity.under_way = counts(rows);
    }
    if let Some((_, window_s)) = most.rate {
        let sql = format!(
            "SELECT {key}, count(*) FROM omnilink.tasks \
             WHERE tool = $1 AND claimed_at > now() - make_interval(secs => $2) GROUP BY 1"
        );
        let rows = sqlx::query_as::<_, (String, i64)>(sqlx::AssertSqlSafe(sql));
        let rows = rows.bind(tool).bind(window_s as f64);
        capacity.begun = counts(rows.fetch_all(&mut **transaction).await?);
    }
    Ok(capacity)
}

fn counts(rows: Vec<(String, i64)>) -> HashMap<String, u64> {
    let count = |(key, n): (String, i64)| (key, n.unsigned_abs());
    rows.into_iter().map(count).collect()
}

/// Chooses the longest waiting candidates within capacity.
fn choose(
    mut candidates: Vec<Candidate>,
    capacities: &mut HashMap<String, Capacity>,
    most: usize,
) -> Vec<String> {
    candidates.sort_by(|a, b| (a.since, &a.task_id).cmp(&(b.since, &b.task_id)));
    let (mut chosen, mut bytes) = (Vec::new(), 0);
    for candidate in candidates {
        if chosen.len() == most || (bytes + candidate.bytes > BYTES_MAX && !chosen.is_empty()) {
            break;
        }
        if let Some(capacity) = capacities.get_mut(&candidate.tool) {
            if capacity.left(&candidate.limit_key) == 0 {
                continue;
            }
            capacity.take(&candidate.limit_key);
        }
        bytes += candidate.bytes;
        chosen.push(candidate.task_id);
    }
    chosen
}

/// Writes the leases of the chosen tasks.
async fn lease(
    transaction: &mut Transaction<'_, Postgres>,
    claimer: Claimer<'_>,
    tasks: &[String],
    hashes: &[LeaseHash],
) -> Result<Vec<ClaimedRow>, StoreError> {
    if tasks.is_empty() {
        return Ok(Vec::new());
    }
    let hashes: Vec<&[u8]> = hashes.iter().map(<[u8; 32]>::as_slice).collect();
    let rows = sqlx::query(
        "UPDATE omnilink.tasks t SET status = 'claimed', claimed_by = $4, claimed_at = COALESCE(t.claimed_at, now()), \
           lease_hash = k.hash, lease_ms = $5, outcome = NULL, \
           lease_expires_at = LEAST(now() + $5 * interval '1 millisecond', CASE WHEN t.started_at IS NULL \
             THEN now() + t.timeout_ms * interval '1 millisecond' ELSE t.deadline END) \
         FROM unnest($2::text[], $3::bytea[]) k(task_id, hash) WHERE t.tenant = $1 AND t.task_id = k.task_id \
         RETURNING t.task_id, t.run_id, t.workflow, t.step_id, t.kind, t.attempt, t.tool, t.input, t.execute, t.error, \
           t.traceparent, t.tracestate, t.timeout_ms, \
           CASE WHEN t.started_at IS NOT NULL THEN (EXTRACT(EPOCH FROM t.deadline) * 1000)::bigint END, \
           (EXTRACT(EPOCH FROM t.lease_expires_at) * 1000)::bigint, t.sealed, t.idempotency_key",
    )
    .bind(claimer.tenant)
    .bind(tasks)
    .bind(&hashes[..tasks.len()])
    .bind(claimer.principal)
    .bind(millis(claimer.lease))
    .fetch_all(&mut **transaction)
    .await?;
    rows.iter().map(claimed).collect()
}

fn claimed(row: &PgRow) -> Result<ClaimedRow, StoreError> {
    Ok(ClaimedRow {
        task_id: row.try_get(0)?,
        run_id: row.try_get(1)?,
        workflow: row.try_get(2)?,
        step_id: row.try_get(3)?,
        kind: row.try_get(4)?,
        attempt: row.try_get(5)?,
        tool: row.try_get(6)?,
        input: row.try_get(7)?,
        execute: row.try_get(8)?,
        error: row.try_get(9)?,
        sealed: row.try_get(15)?,
        idempotency_key: row.try_get(16)?,
        traceparent: row.try_get(10)?,
        tracestate: row.try_get(11)?,
        timeout_ms: row.try_get(12)?,
        deadline: row.try_get::<Option<i64>, _>(13)?.map(Millis),
        lease_expires_at: Millis(row.try_get(14)?),
    })
}

fn millis(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}

/// The states of tasks, in the order of `tasks`.
pub async fn standings(
    store: &Store,
    tenant: &str,
    tasks: &[&str],
) -> Result<Vec<Standing>, StoreError> {
    let rows = sqlx::query_as::<_, (Option<bool>, Option<i64>)>(
        "SELECT t.status = 'done', CASE WHEN t.started_at IS NOT NULL THEN (EXTRACT(EPOCH FROM t.deadline) * 1000)::bigint END \
         FROM unnest($2::text[]) WITH ORDINALITY k(task_id, n) LEFT JOIN omnilink.tasks t ON t.tenant = $1 AND t.task_id = k.task_id ORDER BY k.n",
    )
    .bind(tenant)
    .bind(tasks)
    .fetch_all(store.pool())
    .await?;
    let standing = |(done, deadline): (Option<bool>, Option<i64>)| match (done, deadline) {
        (Some(false), Some(deadline)) => Standing::Started {
            deadline: Millis(deadline),
        },
        (Some(false), None) => Standing::Unconfirmed,
        _ => Standing::Over,
    };
    Ok(rows.into_iter().map(standing).collect())
}

/// Removes a task from the queue that its run does not know.
pub async fn forget(
    store: &Store,
    tenant: &str,
    task_id: &str,
    lease: &LeaseHash,
) -> Result<(), StoreError> {
    sqlx::query(
        "UPDATE omnilink.tasks SET status = 'done', finished_at = now() WHERE tenant = $1 AND task_id = $2 AND lease_hash = $3",
    )
    .bind(tenant)
    .bind(task_id)
    .bind(lease.as_slice())
    .execute(store.pool())
    .await?;
    Ok(())
}

/// Extends a lease: it lasts for `lease` from now on, by default for the duration requested at the claim. `None`: it is stale.
pub async fn extend(
    store: &Store,
    (tenant, task_id): (&str, &str),
    hash: &LeaseHash,
    lease: Option<Duration>,
) -> Result<Option<Extended>, StoreError> {
    let row = sqlx::query_as::<_, (i64, i64)>(
        "UPDATE omnilink.tasks SET lease_ms = COALESCE($4, lease_ms), \
           lease_expires_at = LEAST(now() + COALESCE($4, lease_ms) * interval '1 millisecond', \
             CASE WHEN status = 'claimed' THEN deadline END) \
         WHERE tenant = $1 AND task_id = $2 AND lease_hash = $3 AND outcome IS NULL \
           AND (status = 'paused' OR (status = 'claimed' AND deadline > now())) \
         RETURNING (EXTRACT(EPOCH FROM lease_expires_at) * 1000)::bigint, (EXTRACT(EPOCH FROM deadline) * 1000)::bigint",
    )
    .bind(tenant)
    .bind(task_id)
    .bind(hash.as_slice())
    .bind(lease.map(millis))
    .fetch_optional(store.pool())
    .await?;
    Ok(row.map(|(lease, deadline)| Extended {
        lease_expires_at: Millis(lease),
        deadline: Millis(deadline),
    }))
}

/// A task whose outcome was stored.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Completed {
    /// The values of the placeholders in its input, sealed.
    pub sealed: Option<String>,
}

/// Stores the outcome of a task before it is sent to the run, so that the task is not handed out meanwhile. `None`: the lease is
/// stale, or was used with another outcome before.
pub async fn complete(
    store: &Store,
    (tenant, task_id): (&str, &str),
    lease: &LeaseHash,
    outcome: &str,
) -> Result<Option<Completed>, StoreError> {
    let sealed = sqlx::query_scalar::<_, Option<String>>(
        "UPDATE omnilink.tasks SET outcome = $4, lease_expires_at = GREATEST(lease_expires_at, now() + interval '30 seconds') \
         WHERE tenant = $1 AND task_id = $2 AND lease_hash = $3 AND (outcome IS NULL OR outcome = $4) \
         RETURNING sealed",
    )
    .bind(tenant)
    .bind(task_id)
    .bind(lease.as_slice())
    .bind(outcome)
    .fetch_optional(store.pool())
    .await?;
    Ok(sealed.map(|sealed| Completed { sealed }))
}

/// Deletes tasks that ended more than a week ago (the retention of the topic `steps`), in small steps.
pub async fn expire(store: &Store) -> Result<u64, StoreError> {
    let mut deleted = 0;
    loop {
        let done = sqlx::query(
            "DELETE FROM omnilink.tasks t USING (SELECT tenant, task_id FROM omnilink.tasks \
               WHERE status = 'done' AND finished_at < now() - interval '7 days' ORDER BY finished_at LIMIT $1) old \
             WHERE t.tenant = old.tenant AND t.task_id = old.task_id",
        )
        .bind(STEP)
        .execute(store.pool())
        .await?
        .rows_affected();
        deleted += done;
        if done == 0 {
            return Ok(deleted);
        }
        tokio::time::sleep(PAUSE).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(n: i64, key: &str, bytes: i64) -> Candidate {
        Candidate {
            task_id: n.to_string(),
            tool: "pay".into(),
            limit_key: key.into(),
            bytes,
            since: n,
        }
    }

    fn capacity(concurrency: u64, rate: u64, keyed: bool) -> HashMap<String, Capacity> {
        let most = Allowed {
            concurrency: Some(concurrency),
            rate: Some((rate, 60)),
            keyed,
        };
        let under_way = [("a".to_owned(), 1), (String::new(), 1)].into();
        let begun = HashMap::new();
        let capacity = Capacity {
            most,
            under_way,
            begun,
        };
        [("pay".to_owned(), capacity)].into()
    }

    #[test]
    fn limits_are_counted_by_key_or_together() {
        let all = || -> Vec<Candidate> {
            let keys = ["a", "b", "b", "c", "b"].iter().zip(0..);
            keys.map(|(key, n)| candidate(n, key, 1)).collect()
        };
        let mut capacities = capacity(2, 9, true);
        assert_eq!(choose(all(), &mut capacities, 9), ["0", "1", "2", "3"]);
        assert_eq!(capacities["pay"].full(), ["a", "b"]);
        assert_eq!(choose(all(), &mut capacity(3, 9, false), 9), ["0", "1"]);
        assert_eq!(choose(all(), &mut capacity(9, 1, false), 9), ["0"]);
        assert_eq!(choose(all(), &mut capacity(9, 1, true), 9), ["0", "1", "3"]);
    }

    #[test]
    fn a_claim_is_bounded_and_takes_the_longest_waiting() {
        let mut none = HashMap::new();
        let some = vec![
            candidate(3, "", 1),
            candidate(1, "", BYTES_MAX + 1),
            candidate(2, "", 1),
        ];
        assert_eq!(choose(some, &mut none, 9), ["1"]);
        let some = (0..5).rev().map(|n| candidate(n, "", 1)).collect();
        assert_eq!(choose(some, &mut none, 2), ["0", "1"]);
    }
}
