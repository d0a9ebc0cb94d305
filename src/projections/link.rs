//! Calls to Postgres from a blocking thread. Every call has a timeout, and ends early when the projector stops.

use std::time::Duration;

use sqlx::PgConnection;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use super::error::ProjectionError;
use crate::{
    store::{Session, Store, StoreError},
    stream::progress::{Call, Calls},
};

/// The time limit for one transaction, or for any other call.
pub(super) const TIMEOUT: Duration = Duration::from_secs(90);
/// How long a stop waits for the open batches to be committed. Records that are not committed by then are read again later.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// The request to stop: first to finish the open batches, then to give up on them. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct Stop {
    requested: CancellationToken,
    expired: CancellationToken,
}

impl Stop {
    /// Requests the stop. Open batches have [`DRAIN_TIMEOUT`] from the first request to be committed.
    pub(super) fn ask(&self, runtime: &Handle) {
        if !self.requested.is_cancelled() {
            self.requested.cancel();
            let expired = self.expired.clone();
            runtime.spawn(async move {
                tokio::time::sleep(DRAIN_TIMEOUT).await;
                expired.cancel();
            });
        }
    }

    pub(super) fn is_asked(&self) -> bool {
        self.requested.is_cancelled()
    }
}

/// What a call to Postgres needs. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Link {
    pub(super) runtime: Handle,
    pub(super) store: Store,
    pub(super) stop: Stop,
    /// Where long calls are reported; `None`: nowhere.
    pub(super) calls: Option<Calls>,
}

impl Link {
    /// Reports a call as in flight until the returned guard is dropped.
    pub(super) fn call(&self) -> Option<Call> {
        let calls = self.calls.as_ref();
        calls.map(|calls| calls.begin("Postgres does not answer"))
    }

    /// Runs a call to completion, or fails with a timeout error that names the `action`. Must be called outside the runtime.
    pub(super) fn wait<T>(
        &self,
        action: &'static str,
        work: impl Future<Output = Result<T, ProjectionError>>,
    ) -> Result<T, ProjectionError> {
        let _call = self.call();
        let expired = Err(ProjectionError::Store(StoreError::Timeout(action)));
        self.runtime.block_on(async {
            tokio::select! {
                done = work => done,
                () = tokio::time::sleep(TIMEOUT) => expired,
                () = self.stop.expired.cancelled() => expired,
            }
        })
    }

    /// Takes the idle connection, or opens a new one.
    pub(super) async fn connection(
        &self,
        idle: &mut Option<PgConnection>,
    ) -> Result<PgConnection, ProjectionError> {
        match idle.take() {
            Some(connection) => Ok(connection),
            None => Ok(self.store.connect(Session::Projection).await?),
        }
    }
}

/// Executes a statement without parameters, such as `BEGIN`.
pub(super) async fn execute(
    connection: &mut PgConnection,
    statement: &'static str,
) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(statement).execute(connection).await?;
    Ok(())
}
