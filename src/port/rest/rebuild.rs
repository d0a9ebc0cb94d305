//! `/v1/rebuild`: projections made anew, and how far that is.

use axum::{
    Json,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde_json::Map;

use super::caller::{Permitted, Sent};
use crate::{
    api::{
        problem::{POSTGRES_UNAVAILABLE, REBUILD_RUNNING, UNKNOWN_PROJECTION},
        rebuild::{Rebuild, StartRebuild},
    },
    port::problem::{Problem, Refused},
};

/// Makes projections anew, one request at a time, in the background.
pub trait Rebuilds: Send + Sync {
    /// Begins. The error says why not: an unknown name, one that runs already, no Postgres.
    fn begin(&self, projections: &[String]) -> Result<(), NotBegun>;
    /// How far the last one is.
    fn status(&self) -> Rebuild;
}

/// Why a rebuild did not begin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotBegun {
    /// There is no projection of that name; the text lists those there are.
    Unknown(String),
    /// One runs already.
    Running,
    /// It cannot be done now.
    Unavailable(String),
}

/// `POST /v1/rebuild`.
pub(crate) async fn begin(Sent(caller, body): Sent<Permitted>) -> Result<Response, Refused> {
    let asked: StartRebuild = caller.body(body)?;
    let rebuilds = &caller.shared.rebuilds;
    let problem = match rebuilds.begin(&asked.projections) {
        Ok(()) => {
            let of = ("projection", &*asked.projections.join(" "));
            caller
                .audit_operation("rebuild.started", of, Map::new())
                .await;
            return Ok((StatusCode::ACCEPTED, Json(rebuilds.status())).into_response());
        }
        Err(NotBegun::Unknown(why)) => Problem::new(&UNKNOWN_PROJECTION, why),
        Err(NotBegun::Running) => {
            Problem::new(&REBUILD_RUNNING, "a rebuild runs already; wait for its end")
        }
        Err(NotBegun::Unavailable(why)) => Problem::new(&POSTGRES_UNAVAILABLE, why).retry_after(5),
    };
    Err(caller.refuse(problem))
}

/// `GET /v1/rebuild`.
pub(crate) async fn status(caller: Permitted) -> Json<Rebuild> {
    Json(caller.shared.rebuilds.status())
}
