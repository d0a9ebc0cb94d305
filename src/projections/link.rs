//! Postgres, asked from a thread that blocks: every wait has a deadline, and ends soon when the projector is to stop.

use std::time::Duration;

use sqlx::PgConnection;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use super::error::ProjectionError;
use crate::{
    store::{Session, Store, StoreError},
    stream::progress::{Call, Calls},
};

/// How long one transaction may take, and anything else that is asked.
pub(super) const DEADLINE: Duration = Duration::from_secs(90);
/// How long a stop waits for what is in hand, all in all; what is not committed by then is read again.
const DRAIN: Duration = Duration::from_secs(5);

/// Says that it is time to stop, and when nothing is waited for any more. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct Stop {
    asked: CancellationToken,
    late: CancellationToken,
}

impl Stop {
    /// Asks to stop; what is in hand has [`DRAIN`] from the first time on.
    pub(super) fn ask(&self, runtime: &Handle) {
        if !self.asked.is_cancelled() {
            self.asked.cancel();
            let late = self.late.clone();
            runtime.spawn(async move {
                tokio::time::sleep(DRAIN).await;
                late.cancel();
            });
        }
    }

    pub(super) fn is_asked(&self) -> bool {
        self.asked.is_cancelled()
    }
}

/// The way to Postgres. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Link {
    pub(super) runtime: Handle,
    pub(super) store: Store,
    pub(super) stop: Stop,
    /// Where calls that last are shown; `None`: nowhere.
    pub(super) calls: Option<Calls>,
}

impl Link {
    /// To be held while Postgres is waited for.
    pub(super) fn call(&self) -> Option<Call> {
        let calls = self.calls.as_ref();
        calls.map(|calls| calls.begin("Postgres does not answer"))
    }

    /// Waits for an answer. To be called outside the runtime.
    pub(super) fn wait<T>(
        &self,
        what: &'static str,
        work: impl Future<Output = Result<T, ProjectionError>>,
    ) -> Result<T, ProjectionError> {
        let _call = self.call();
        let late = Err(ProjectionError::Store(StoreError::Timeout(what)));
        self.runtime.block_on(async {
            tokio::select! {
                done = work => done,
                () = tokio::time::sleep(DEADLINE) => late,
                () = self.stop.late.cancelled() => late,
            }
        })
    }

    /// The connection that is kept, or a new one.
    pub(super) async fn connection(
        &self,
        kept: &mut Option<PgConnection>,
    ) -> Result<PgConnection, ProjectionError> {
        match kept.take() {
            Some(connection) => Ok(connection),
            None => Ok(self.store.connect(Session::Projection).await?),
        }
    }
}
