//! `/v1/rebuild`: whoever has the scope `operator` has projections made anew, and sees how far that is.

use std::sync::Arc;

use axum::{
    Json,
    body::Bytes,
    extract::{State, rejection::BytesRejection},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};

use crate::port::peer::FromPeer;
use crate::port::{
    Shared, auth,
    problem::{Problem, Refused},
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

/// How far a rebuild is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Rebuild {
    /// `idle`, `running`, `done` or `failed`.
    pub status: &'static str,
    /// Records written.
    pub done: u64,
    /// Records that there were when it was last looked.
    pub total: u64,
    /// How long the projector stood still for the swap, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub paused_ms: Option<u64>,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    projections: Vec<String>,
}

pub(crate) async fn begin(
    State(shared): State<Arc<Shared>>,
    peer: FromPeer,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Refused> {
    let id = auth::operator(&shared, &headers, peer)?;
    let refuse = |problem| Refused::new(problem, id);
    let body = body.map_err(|e| refuse(Problem::invalid(e.body_text())))?;
    let asked: Asked = serde_json::from_slice(&body).map_err(|e| {
        refuse(Problem::invalid(format!(
            "the body is not as it should be: {e}"
        )))
    })?;
    match shared.rebuilds.begin(&asked.projections) {
        Ok(()) => Ok((StatusCode::ACCEPTED, Json(shared.rebuilds.status())).into_response()),
        Err(NotBegun::Unknown(why)) => Err(refuse(Problem::new(
            StatusCode::NOT_FOUND,
            "unknown_projection",
            why,
        ))),
        Err(NotBegun::Running) => Err(refuse(Problem::new(
            StatusCode::CONFLICT,
            "rebuild_running",
            "a rebuild runs already; wait for its end",
        ))),
        Err(NotBegun::Unavailable(why)) => Err(refuse(
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, "postgres_unavailable", why)
                .retry_after(5),
        )),
    }
}

pub(crate) async fn status(
    State(shared): State<Arc<Shared>>,
    peer: FromPeer,
    headers: HeaderMap,
) -> Result<Response, Refused> {
    auth::operator(&shared, &headers, peer)?;
    Ok(Json(shared.rebuilds.status()).into_response())
}
