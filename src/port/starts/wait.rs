//! `Prefer: wait`: the request is answered when the run has ended.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use axum::http::{HeaderMap, HeaderName};
use uuid::Uuid;

use super::outcome::Started;
use crate::{
    api::{run_reads::BadRow, runs::RunView},
    base::id::Tenant,
    port::{
        Shared,
        rest::wait::{END_EVERY, end_of, has_ended},
    },
    saga::Follower,
    store::{Store, StoreError, runs},
};

/// The longest wait, in seconds; clients rely on it.
pub(super) const WAIT_MAX_S: u64 = 60;

const PREFER: HeaderName = HeaderName::from_static("prefer");

/// How long the client wants to wait for the end of its run (RFC 7240), at most [`WAIT_MAX_S`].
pub(crate) fn preferred(headers: &HeaderMap) -> Option<Duration> {
    let values = headers.get_all(PREFER).into_iter();
    let texts = values.filter_map(|value| value.to_str().ok());
    let mut preferences = texts.flat_map(|text| text.split([',', ';']));
    // The first preference counts.
    let seconds = preferences.find_map(|preference| {
        let (name, value) = preference.split_once('=')?;
        let is_wait = name.trim().eq_ignore_ascii_case("wait");
        is_wait.then(|| value.trim().trim_matches('"').parse::<u64>().ok())
    })??;
    Some(Duration::from_secs(seconds.min(WAIT_MAX_S)))
}

/// Waits for the end of one run: as long as the follower of this node's processor says nothing, its row is looked at, for another node
/// may carry it out, and the run of a duplicate may have ended before.
pub(super) struct Waiting {
    shared: Arc<Shared>,
    tenant: Tenant,
    run: Uuid,
    follower: Follower,
    timeout: Duration,
}

impl Waiting {
    /// Starts to follow the run, before its start is appended.
    pub(super) fn new(shared: &Arc<Shared>, tenant: &Tenant, run: Uuid, timeout: Duration) -> Self {
        Self {
            follower: shared.followers.follow(run),
            shared: Arc::clone(shared),
            tenant: tenant.clone(),
            run,
            timeout,
        }
    }

    /// The run, if it ends in time and before the node stops.
    pub(super) async fn end(mut self, started: &Started) -> Option<Arc<RunView>> {
        let begun = Instant::now();
        // Most new runs end on this node, and soon: until then nothing else is looked at.
        if !started.duplicate {
            let first = END_EVERY.min(self.timeout);
            let followed = end_of(&mut self.follower);
            if let Ok(run) = tokio::time::timeout(first, followed).await {
                return Some(run);
            }
        }
        let left = self.timeout.saturating_sub(begun.elapsed());
        if left.is_zero() {
            return None;
        }
        let Self {
            shared,
            tenant,
            run,
            mut follower,
            ..
        } = self;
        let run_id = run.to_string();
        tokio::select! {
            run = end_of(&mut follower) => Some(run),
            run = row_at_end(&shared, tenant.as_str(), &run_id) => Some(Arc::new(run)),
            () = tokio::time::sleep(left) => None,
            () = shared.stopping.cancelled() => None,
        }
    }
}

/// The run's row once it has ended, looked for again and again; never without Postgres.
async fn row_at_end(shared: &Shared, tenant: &str, run_id: &str) -> RunView {
    let mut slot = None;
    loop {
        // While too many requests wait, this one only follows.
        slot = slot.or_else(|| shared.waits.enter().ok());
        if slot.is_some()
            && let Ok(store) = shared.tables.store()
        {
            match ended_row(&store, tenant, run_id).await {
                Ok(Some(run)) => return run,
                Ok(None) => {}
                Err(error) => {
                    tracing::debug!(%error, run_id, "the row of an awaited run cannot be read");
                }
            }
        }
        tokio::time::sleep(END_EVERY).await;
    }
}

/// Why the row of a run is not known.
#[derive(Debug, thiserror::Error)]
enum Unread {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Row(#[from] BadRow),
}

async fn ended_row(store: &Store, tenant: &str, run_id: &str) -> Result<Option<RunView>, Unread> {
    let head = runs::run_head(store, tenant, run_id).await?;
    if !head.as_ref().is_some_and(has_ended) {
        return Ok(None);
    }
    match runs::whole(store, tenant, run_id).await? {
        Some((row, steps, approvals)) => Ok(Some(RunView::of(row, steps, approvals)?)),
        None => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(values: &[&str]) -> Option<u64> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(PREFER, value.parse().unwrap());
        }
        preferred(&headers).map(|wait| wait.as_secs())
    }

    #[test]
    fn the_first_wait_counts() {
        assert_eq!(of(&[]), None);
        assert_eq!(of(&["respond-async"]), None);
        assert_eq!(of(&["respond-async, wait=10"]), Some(10));
        assert_eq!(
            of(&["return=minimal", "Wait = \"5\"; x=y", "wait=7"]),
            Some(5)
        );
        assert_eq!(of(&["wait=100"]), Some(60));
        assert_eq!(of(&["wait=soon"]), None);
    }
}
