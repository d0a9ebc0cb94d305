//! Looking for a run, and waiting: for its row right after its start, and for its end.
//!
//! A run of this node's processor is followed ([`crate::saga::Followers`]); those of other nodes are seen when their rows change.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use uuid::Uuid;

use super::{
    audit::{read, store},
    caller::Permitted,
};
use crate::{
    api::{problem::OVERLOADED, run_reads::RUNS_READ, runs::RunView},
    base::id::Tenant,
    port::problem::{Problem, Refused},
    runs::RunStatus,
    saga::{Follower, Notice},
    store::{
        Store,
        runs::{self, RunHead},
    },
};

/// How long a run may take to have a row.
const ROW_TIMEOUT: Duration = Duration::from_secs(2);
/// How often a row is looked for.
const ROW_EVERY: Duration = Duration::from_millis(50);
/// How often a row is looked at while its run is waited for.
const END_EVERY: Duration = Duration::from_millis(250);
/// How long the row of a run that has ended is waited for: it has the decided approvals too.
const LAST_ROW: Duration = Duration::from_millis(250);
/// How often it is looked for.
const LAST_ROW_EVERY: Duration = Duration::from_millis(10);
/// Requests that wait, and streams, on a node: each asks Postgres again and again.
const WAITS: usize = 512;
/// Seconds until it is worth asking again.
const RETRY_AFTER_S: u32 = 5;

/// The requests that wait, and streams, of a node.
pub(crate) struct Waits(Arc<Semaphore>);

impl Default for Waits {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(WAITS)))
    }
}

impl Waits {
    /// The right to wait, until it is dropped.
    pub(crate) fn enter(&self) -> Result<OwnedSemaphorePermit, Problem> {
        let slot = Arc::clone(&self.0).try_acquire_owned();
        slot.map_err(|_| {
            let detail = format!("{WAITS} requests wait for runs on this node already");
            Problem::new(&OVERLOADED, detail).retry_after(RETRY_AFTER_S)
        })
    }
}

/// A run that a caller looks for.
pub(crate) struct Sought<'a> {
    pub(crate) caller: &'a Permitted,
    pub(crate) store: Store,
    pub(crate) tenant: Tenant,
    pub(crate) run: Uuid,
    /// The lower-case text of the id.
    pub(crate) run_id: String,
    /// The caller sees the runs of this principal alone.
    own: Option<String>,
}

/// How a run is, at the end of a wait.
pub(crate) enum Found {
    /// It ended meanwhile.
    Ended(Arc<RunView>),
    /// It has a row.
    Row(Box<RunHead>),
}

/// The principal whose runs the caller sees; `None`: it sees all of the tenant.
pub(crate) fn own(caller: &Permitted) -> Option<String> {
    let all = caller.key.scopes.permits(RUNS_READ) || caller.is_operator();
    (!all).then(|| caller.key.principal.clone())
}

/// Whether a run with this status has ended.
pub(crate) fn has_ended(row: &RunHead) -> bool {
    let mut ends = RunStatus::ALL
        .into_iter()
        .filter(|status| status.is_final());
    ends.any(|status| status.name() == row.status)
}

impl<'a> Sought<'a> {
    /// Looks for a run of a tenant, the caller's own unless named.
    pub(crate) fn new(
        caller: &'a Permitted,
        tenant: Option<&str>,
        id: &str,
    ) -> Result<Self, Refused> {
        let tenant = caller.tenant(tenant)?;
        let Ok(run) = Uuid::parse_str(id) else {
            return Err(caller.not_found("there is no such run: its id would be a UUID"));
        };
        Ok(Self {
            caller,
            store: store(caller)?,
            tenant,
            run,
            run_id: run.hyphenated().to_string(),
            own: own(caller),
        })
    }

    async fn row(&self) -> Result<Option<RunHead>, Refused> {
        let found = runs::run_head(&self.store, self.tenant.as_str(), &self.run_id);
        let found = read(self.caller, found).await?;
        let own = |row: &RunHead| self.own.is_none() || row.principal == self.own;
        Ok(found.filter(own))
    }

    /// Its row, which may come a moment after the answer to its start.
    pub(crate) async fn found(&self) -> Result<RunHead, Refused> {
        match self.until(Duration::ZERO).await? {
            Found::Row(row) => Ok(*row),
            // Nobody follows it.
            Found::Ended(_) => Err(self.unknown()),
        }
    }

    /// Its row, and the JSON text of its output.
    pub(crate) async fn with_output(&self) -> Result<(RunHead, Option<String>), Refused> {
        let row = self.found().await?;
        let output = runs::output(&self.store, self.tenant.as_str(), &self.run_id);
        Ok((row, read(self.caller, output).await?))
    }

    /// Waits so long for its end.
    pub(crate) async fn until(&self, wait: Duration) -> Result<Found, Refused> {
        let shared = &self.caller.shared;
        let begun = Instant::now();
        // Before its row is read, so that no end is missed.
        let mut follower = (!wait.is_zero()).then(|| shared.followers.follow(self.run));
        let mut slot = None;
        loop {
            let row = self.row().await?;
            let (limit, every) = match &row {
                Some(row) if has_ended(row) => (Duration::ZERO, END_EVERY),
                Some(_) => (wait, END_EVERY),
                None => (wait.max(ROW_TIMEOUT), ROW_EVERY),
            };
            let left = limit.saturating_sub(begun.elapsed());
            if left.is_zero() || shared.stopping.is_cancelled() {
                let found = row.map(|row| Found::Row(Box::new(row)));
                return found.ok_or_else(|| self.unknown());
            }
            if slot.is_none() {
                let entered = shared.waits.enter();
                slot = Some(entered.map_err(|problem| self.caller.refuse(problem))?);
            }
            tokio::select! {
                view = end(follower.as_mut()) => {
                    if view.tenant == self.tenant.as_str()
                        && self.own.as_ref().is_none_or(|own| *own == view.principal)
                    {
                        return self.last_row(view).await;
                    }
                    follower = None;
                }
                () = tokio::time::sleep(left.min(every)) => {}
                () = shared.stopping.cancelled() => {}
            }
        }
    }

    /// The row of a run that has ended, which comes a moment later, or else what its processor says.
    async fn last_row(&self, view: Arc<RunView>) -> Result<Found, Refused> {
        let begun = Instant::now();
        while begun.elapsed() < LAST_ROW {
            if let Some(row) = self.row().await?.filter(has_ended) {
                return Ok(Found::Row(Box::new(row)));
            }
            tokio::time::sleep(LAST_ROW_EVERY).await;
        }
        Ok(Found::Ended(view))
    }

    fn unknown(&self) -> Refused {
        self.caller.not_found("there is no such run")
    }
}

/// The end of a run that is followed; never for one that is not.
async fn end(follower: Option<&mut Follower>) -> Arc<RunView> {
    if let Some(follower) = follower {
        while let Some(notice) = follower.next().await {
            if let Notice::Ended(view) = notice {
                return view;
            }
        }
    }
    std::future::pending().await
}
