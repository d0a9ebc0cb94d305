//! Finding a run, and waiting for its row right after its start or for its end.
//!
//! Runs of this node's processor are followed ([`crate::saga::Followers`]); those of other nodes are noticed when their rows change.

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

/// How long to wait for the row of a new run.
const ROW_TIMEOUT: Duration = Duration::from_secs(2);
/// The poll interval for a missing row.
const ROW_EVERY: Duration = Duration::from_millis(50);
/// The poll interval of a row while its run is awaited.
pub(crate) const END_EVERY: Duration = Duration::from_millis(250);
/// How long to wait for the final row of a run that has ended; it also has the decided approvals.
const LAST_ROW: Duration = Duration::from_millis(500);
/// The poll interval for it.
const LAST_ROW_EVERY: Duration = Duration::from_millis(10);
/// The number of waiting requests and streams on a node; each polls Postgres.
const WAITS: usize = 512;
/// `Retry-After`, in seconds.
const RETRY_AFTER_S: u32 = 5;

/// The waiting requests and streams of a node.
pub(crate) struct Waits(Arc<Semaphore>);

impl Default for Waits {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(WAITS)))
    }
}

impl Waits {
    /// Counts a waiting request or stream until the permit is dropped.
    pub(crate) fn enter(&self) -> Result<OwnedSemaphorePermit, Problem> {
        let slot = Arc::clone(&self.0).try_acquire_owned();
        slot.map_err(|_| {
            let detail = format!("{WAITS} requests are already waiting for runs on this node");
            Problem::new(&OVERLOADED, detail).retry_after(RETRY_AFTER_S)
        })
    }
}

/// A run that a caller requests.
pub(crate) struct RunLookup<'a> {
    pub(crate) caller: &'a Permitted,
    pub(crate) store: Store,
    pub(crate) tenant: Tenant,
    pub(crate) run: Uuid,
    /// The id in lower case.
    pub(crate) run_id: String,
    /// If set, the caller only sees the runs of this principal.
    own: Option<String>,
}

/// The state of a run at the end of a wait.
pub(crate) enum Found {
    /// The run ended meanwhile.
    Ended(Arc<RunView>),
    /// The row of the run.
    Row(Box<RunHead>),
}

/// The principal whose runs the caller sees; `None` if it sees all runs of the tenant.
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

impl<'a> RunLookup<'a> {
    /// Parses the id of a run; the tenant is the caller's own unless one is named.
    pub(crate) fn new(
        caller: &'a Permitted,
        tenant: Option<&str>,
        id: &str,
    ) -> Result<Self, Refused> {
        let tenant = caller.tenant(tenant)?;
        let Ok(run) = Uuid::parse_str(id) else {
            return Err(caller.not_found("there is no such run: a run id is a UUID"));
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

    /// Reads the row, which may be written shortly after the start was answered.
    pub(crate) async fn found(&self) -> Result<RunHead, Refused> {
        match self.until(Duration::ZERO).await? {
            Found::Row(row) => Ok(*row),
            // The run is not followed, so this cannot happen.
            Found::Ended(_) => Err(self.unknown()),
        }
    }

    /// The row, and its output as JSON text.
    pub(crate) async fn with_output(&self) -> Result<(RunHead, Option<String>), Refused> {
        let row = self.found().await?;
        let output = runs::output(&self.store, self.tenant.as_str(), &self.run_id);
        Ok((row, read(self.caller, output).await?))
    }

    /// Waits up to `wait` for the end of the run.
    pub(crate) async fn until(&self, wait: Duration) -> Result<Found, Refused> {
        let shared = &self.caller.shared;
        let begun = Instant::now();
        // The follower is created before the row is read, so that the end is not missed.
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

    /// The row of a run that has ended, which is written shortly after, or else the view of the run's processor.
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

/// The end of a followed run; pending forever if the run is not followed.
async fn end(follower: Option<&mut Follower>) -> Arc<RunView> {
    match follower {
        Some(follower) => end_of(follower).await,
        None => std::future::pending().await,
    }
}

/// The end of a run.
pub(crate) async fn end_of(follower: &mut Follower) -> Arc<RunView> {
    while let Some(notice) = follower.next().await {
        if let Notice::Ended(view) = notice {
            return view;
        }
    }
    std::future::pending().await
}
