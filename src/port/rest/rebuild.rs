//! `/v1/rebuild`: rebuilds projections and reports their progress.

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

/// Rebuilds projections in the background, one request at a time.
pub trait Rebuilds: Send + Sync {
    /// Begins a rebuild. The error says why not: an unknown name, another rebuild is running, no Postgres.
    fn begin(&self, projections: &[String]) -> Result<(), NotBegun>;
    /// The progress of the last rebuild.
    fn status(&self) -> Rebuild;
}

/// Why a rebuild did not begin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotBegun {
    /// There is no projection of that name; the text lists the existing ones.
    Unknown(String),
    /// A rebuild is already running.
    Running,
    /// It is impossible at the moment.
    Unavailable(String),
}

/// `POST /v1/rebuild`.
pub(crate) async fn begin(Sent(caller, body): Sent<Permitted>) -> Result<Response, Refused> {
    let request: StartRebuild = caller.body(body)?;
    let rebuilds = &caller.shared.rebuilds;
    let problem = match rebuilds.begin(&request.projections) {
        Ok(()) => {
            let of = ("projection", &*request.projections.join(" "));
            caller
                .audit_operation("rebuild.started", of, Map::new())
                .await;
            return Ok((StatusCode::ACCEPTED, Json(rebuilds.status())).into_response());
        }
        Err(NotBegun::Unknown(why)) => Problem::new(&UNKNOWN_PROJECTION, why),
        Err(NotBegun::Running) => Problem::new(
            &REBUILD_RUNNING,
            "a rebuild is already running; wait for its end",
        ),
        Err(NotBegun::Unavailable(why)) => Problem::new(&POSTGRES_UNAVAILABLE, why).retry_after(5),
    };
    Err(caller.refuse(problem))
}

/// `GET /v1/rebuild`.
pub(crate) async fn status(caller: Permitted) -> Json<Rebuild> {
    Json(caller.shared.rebuilds.status())
}
