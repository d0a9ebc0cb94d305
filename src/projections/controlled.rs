//! Tables that follow the topic `controls`: reader grants, API keys, webhook sources, emergency controls.
//!
//! The whole set is written in one statement: at the start, on each change, and once a minute, because another node may have written an
//! older set in between. So there is no offset to store, and any number of nodes may write.

use std::{pin::Pin, sync::Arc, time::Duration};

use tokio::{runtime::Handle, sync::watch, task::JoinHandle};

use crate::{
    base::{backoff::Backoff, clock::Millis, id::Tenant},
    controls::{
        Controls, DeletedIntegration, EmergencyState, FEATURES, Integration, KILL_SWITCH, Key,
        KeyFacts, OPERATOR_TAKEOVER, ReaderGrant, RevokedKey, SAFE_MODE,
    },
    store::{
        Store, StoreError,
        emergency::{self, EmergencyRow},
        grants::{self, Grant},
        integrations::{self, DELETED, IntegrationRow},
        keys::{self, Ended, KeyRow},
    },
    stream::progress::{LaneProgress, Progress},
};

/// The pauses between failed writes.
const BACKOFF: Backoff = Backoff {
    first: Duration::from_millis(200),
    max: Duration::from_secs(10),
};
/// The pause before the set is written again though nothing has changed.
const REWRITE: Backoff = Backoff {
    first: Duration::from_mins(1),
    max: Duration::from_mins(1),
};
/// The time limit for one write.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Why the rows are not in Postgres.
#[derive(Debug, thiserror::Error)]
pub enum NotWritten {
    /// What this node knows of them may be old.
    #[error("`controls` has not been read to its end for 5 s")]
    ControlsUnread,
    /// Postgres did not take them.
    #[error(transparent)]
    Store(#[from] StoreError),
}

type Writing = Pin<Box<dyn Future<Output = Result<(), NotWritten>> + Send>>;

/// A table, and how its rows come from `controls`.
pub struct ControlledTable {
    name: &'static str,
    /// Notified of each change of its rows, and possibly of others.
    changed: watch::Receiver<u64>,
    write: Box<dyn Fn(Store) -> Writing + Send + Sync>,
}

impl ControlledTable {
    /// A table: `rows` are all rows that it should have now (`None`: `controls` has not been read to its end for 5 s), and `write`
    /// replaces the rows of the table by them.
    pub fn new<T, W>(
        name: &'static str,
        changed: watch::Receiver<u64>,
        rows: impl Fn() -> Option<Vec<T>> + Send + Sync + 'static,
        write: impl Fn(Store, Vec<T>) -> W + Send + Sync + 'static,
    ) -> Self
    where
        W: Future<Output = Result<(), StoreError>> + Send + 'static,
    {
        let write = move |store| -> Writing {
            let Some(rows) = rows() else {
                return Box::pin(std::future::ready(Err(NotWritten::ControlsUnread)));
            };
            let writing = write(store, rows);
            Box::pin(async move { Ok(writing.await?) })
        };
        Self {
            name,
            changed,
            write: Box::new(write),
        }
    }

    /// `omnilink.reader_grants`.
    pub fn reader_grants(controls: &Arc<Controls>) -> Self {
        let changed = controls.readers_changed();
        let controls = Arc::clone(controls);
        let rows = move || {
            let grants = controls.readers_now()?;
            let row = |grant: &Arc<ReaderGrant>| Grant {
                role: grant.login.to_string(),
                tenant: grant.tenant.to_string(),
            };
            Some(grants.iter().map(row).collect())
        };
        let write =
            |store: Store, rows: Vec<Grant>| async move { grants::replace(&store, &rows).await };
        Self::new("reader_grants", changed, rows, write)
    }

    /// `omnilink.api_keys`.
    pub fn api_keys(controls: &Arc<Controls>) -> Self {
        let changed = controls.changed();
        let controls = Arc::clone(controls);
        let rows = move || {
            let (valid, revoked) = (controls.keys(None), controls.revoked_keys());
            // Checked after the copy: a reader that starts over clears the heartbeat before the keys.
            controls.readable().then_some(())?;
            let valid = valid.iter().map(|key| Shown::Row(key_row(key)));
            let revoked = revoked.iter().map(|key| revoked_row(key));
            Some(valid.chain(revoked).collect())
        };
        let write = |store: Store, shown: Vec<Shown<KeyRow>>| async move {
            let (rows, ended) = apart(shown);
            keys::replace(&store, &rows, &ended).await
        };
        Self::new("api_keys", changed, rows, write)
    }

    /// `omnilink.integrations`.
    pub fn integrations(controls: &Arc<Controls>) -> Self {
        let changed = controls.changed();
        let controls = Arc::clone(controls);
        let rows = move || {
            let all = controls.all_integrations();
            let deleted = controls.deleted_integrations();
            controls.readable().then_some(())?;
            let all = all.iter().map(|one| Shown::Row(integration_row(one)));
            let deleted = deleted.iter().map(|one| deleted_row(one));
            Some(all.chain(deleted).collect())
        };
        let write = |store: Store, shown: Vec<Shown<IntegrationRow>>| async move {
            let (rows, ended) = apart(shown);
            integrations::replace(&store, &rows, &ended).await
        };
        Self::new("integrations", changed, rows, write)
    }

    /// `omnilink.emergency_controls`. Controls that a node holds by its environment are not in the table.
    pub fn emergency_controls(controls: &Arc<Controls>) -> Self {
        let changed = controls.emergency_changed();
        let controls = Arc::clone(controls);
        let state = move || {
            let emergency = controls.emergency();
            let known = controls.readable() && !emergency.unverified;
            known.then(|| vec![emergency.state.clone()])
        };
        let write = |store: Store, states: Vec<EmergencyState>| async move {
            for state in &states {
                let by = (&*state.changed_by, Millis(state.changed_at));
                emergency::replace(&store, &emergency_rows(state), by).await?;
            }
            Ok(())
        };
        Self::new("emergency_controls", changed, state, write)
    }

    /// Its name, which is also the name of this projection.
    pub fn name(&self) -> &'static str {
        self.name
    }
}

/// What is known of something that the table shows.
enum Shown<R> {
    /// All of it.
    Row(R),
    /// When it ended.
    Ended(Ended),
}

fn apart<R>(shown: Vec<Shown<R>>) -> (Vec<R>, Vec<Ended>) {
    let (mut rows, mut ended) = (Vec::new(), Vec::new());
    for one in shown {
        match one {
            Shown::Row(row) => rows.push(row),
            Shown::Ended(one) => ended.push(one),
        }
    }
    (rows, ended)
}

fn deleted_row(one: &DeletedIntegration) -> Shown<IntegrationRow> {
    let (tenant, id) = (one.tenant.to_string(), one.id.clone());
    let Some(was) = &one.was else {
        let at = one.deleted_at;
        return Shown::Ended(Ended { tenant, id, at });
    };
    Shown::Row(IntegrationRow {
        tenant,
        id,
        name: was.name.clone(),
        dialect: was.dialect.clone(),
        status: DELETED.to_owned(),
        created_at: Millis(was.created_at),
        updated_at: one.deleted_at,
    })
}

fn integration_row(one: &Integration) -> IntegrationRow {
    IntegrationRow {
        tenant: one.tenant.to_string(),
        id: one.id.clone(),
        name: one.definition.name.clone(),
        dialect: one.definition.dialect.clone(),
        status: "active".to_owned(),
        created_at: one.created_at,
        updated_at: one.updated_at,
    }
}

/// A row for each switch, each feature without a name, and each named feature that is disabled.
fn emergency_rows(state: &EmergencyState) -> Vec<EmergencyRow> {
    let allowed = serde_json::json!({ "allowed_operations": state.allowed_operations });
    let row = |name: &str, enabled: bool, reason: Option<&String>, value: Option<String>| {
        let since = state.since.get(name);
        EmergencyRow {
            feature_name: name.to_owned(),
            enabled,
            value,
            disabled_reason: reason.or(since.map(|since| &since.reason)).cloned(),
            updated_by: since.map(|since| since.by.clone()),
            updated_at: since.map(|since| Millis(since.at)),
        }
    };
    let mut rows = vec![
        row(KILL_SWITCH, state.kill_switch, None, None),
        row(OPERATOR_TAKEOVER, state.operator_takeover, None, None),
        row(SAFE_MODE, state.safe_mode, None, Some(allowed.to_string())),
    ];
    let usable = FEATURES
        .iter()
        .filter(|name| !state.disabled.contains_key(**name));
    rows.extend(usable.map(|name| row(name, true, None, None)));
    let disabled = state.disabled.iter();
    rows.extend(disabled.map(|(name, reason)| row(name, false, Some(reason), None)));
    rows
}

fn key_row(key: &Key) -> KeyRow {
    row_of((&key.tenant, &key.id), &key.facts(), None)
}

fn revoked_row(key: &RevokedKey) -> Shown<KeyRow> {
    match &key.was {
        Some(was) => Shown::Row(row_of((&key.tenant, &key.id), was, Some(key.revoked_at))),
        None => Shown::Ended(Ended {
            tenant: key.tenant.to_string(),
            id: key.id.clone(),
            at: key.revoked_at,
        }),
    }
}

fn row_of((tenant, id): (&Tenant, &str), key: &KeyFacts, revoked_at: Option<Millis>) -> KeyRow {
    let constraints = &key.scopes.constraints;
    let scopes = serde_json::to_string(&key.scopes);
    KeyRow {
        tenant: tenant.to_string(),
        id: id.to_owned(),
        name: key.name.clone(),
        principal: key.principal.clone(),
        kind: key.kind.name().to_owned(),
        prefix: key.prefix.clone(),
        // Scopes hold texts and numbers, which always become JSON.
        scopes: scopes.unwrap_or_else(|_| "{}".to_owned()),
        max_rpm: constraints.max_rpm.into(),
        max_concurrency: constraints.max_concurrency.into(),
        created_at: Millis(key.created_at),
        expires_at: key.expires_at.map(Millis),
        revoked_at,
    }
}

/// A running projection of a table. Dropping it stops it.
pub struct ControlledTables {
    tasks: Vec<JoinHandle<()>>,
}

impl ControlledTables {
    /// Starts to write tables, which must exist; each reports to its own `progress`.
    pub fn start(
        runtime: &Handle,
        store: &Store,
        tables: impl IntoIterator<Item = (ControlledTable, Arc<Progress>)>,
    ) -> Self {
        let start = |(table, progress): (ControlledTable, Arc<Progress>)| {
            let (store, progress) = (store.clone(), progress.lane());
            runtime.spawn(async move { follow(table, &store, &progress).await })
        };
        Self {
            tasks: tables.into_iter().map(start).collect(),
        }
    }
}

impl Drop for ControlledTables {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

async fn follow(mut table: ControlledTable, store: &Store, progress: &LaneProgress) {
    let mut attempt = 0;
    loop {
        table.changed.mark_unchanged();
        let written = tokio::time::timeout(TIMEOUT, (table.write)(store.clone())).await;
        let expired = || Err(StoreError::Timeout("writing a table that follows `controls`").into());
        match written.unwrap_or_else(|_| expired()) {
            Ok(()) => {
                progress.running();
                attempt = 0;
                let changed = tokio::time::timeout(REWRITE.pause(0), table.changed.changed()).await;
                if matches!(changed, Ok(Err(_))) {
                    // The sender is gone: nothing changes any more.
                    return;
                }
            }
            Err(why) => {
                tracing::warn!(table = table.name, %why, "the table cannot be written; retrying");
                progress.waiting(format!("Postgres: {why}"));
                tokio::time::sleep(BACKOFF.pause(attempt)).await;
                attempt += 1;
            }
        }
    }
}
