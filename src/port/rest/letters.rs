//! `/v1/dlq`: dead letters listed, shown and put back on their topics, by whoever has the scope `operator`.

use std::{io::Write, sync::Arc};

use axum::{
    Json,
    body::Bytes,
    extract::{Path, Query, State, rejection::BytesRejection},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use serde_json::json;

use super::{stream, tools::blocking};
use crate::port::peer::FromPeer;
use crate::port::{
    Shared, auth,
    problem::{Problem, Refused},
};
use crate::stream::dlq::{
    letters::{self, Listing, Shown, parse_cursor},
    name::Name,
    redrive::{Pick, Redrive},
};

const PAGE: usize = 100;
const PAGE_MAX: usize = 1000;

/// Page by page, newest first.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Asked {
    code: Option<String>,
    cursor: Option<String>,
    limit: Option<usize>,
}

/// `GET /v1/dlq`.
pub(crate) async fn list(
    State(shared): State<Arc<Shared>>,
    peer: FromPeer,
    headers: HeaderMap,
    asked: Result<Query<Asked>, axum::extract::rejection::QueryRejection>,
) -> Result<Response, Refused> {
    let id = auth::operator(&shared, &headers, peer)?;
    let refuse = |why: String| Refused::new(Problem::invalid(why), id);
    let Query(asked) = asked.map_err(|e| refuse(e.body_text()))?;
    let cursor = asked.cursor.as_deref().map(parse_cursor).transpose();
    let listing = Listing {
        code: asked.code,
        limit: asked.limit.unwrap_or(PAGE).clamp(1, PAGE_MAX),
        cursor: cursor.map_err(|e| refuse(e.to_string()))?,
    };
    let (log, names) = (Arc::clone(&shared.tools.log), shared.tools.names.clone());
    let page = blocking(id, move || letters::list(&*log, &names, &listing)).await?;
    Ok(Json(page).into_response())
}

/// `GET /v1/dlq/{name}`.
pub(crate) async fn show(
    State(shared): State<Arc<Shared>>,
    peer: FromPeer,
    headers: HeaderMap,
    Path(name): Path<String>,
) -> Result<Response, Refused> {
    let id = auth::operator(&shared, &headers, peer)?;
    let name = name
        .parse::<Name>()
        .map_err(|why| Refused::new(Problem::invalid(why.to_string()), id))?;
    let (log, names) = (Arc::clone(&shared.tools.log), shared.tools.names.clone());
    let found = blocking(id, move || letters::show(&*log, &names, name)).await?;
    let Some(letter) = found else {
        let detail = format!("there is no dead letter {name}, or not any more");
        let problem = Problem::new(StatusCode::NOT_FOUND, "unknown_letter", detail);
        return Err(Refused::new(problem, id));
    };
    Ok(Json(Shown::of(&letter)).into_response())
}

/// Which letters go back: one of the three.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Which {
    #[serde(default)]
    names: Vec<String>,
    #[serde(default)]
    all: bool,
    code: Option<String>,
}

impl Which {
    fn pick(self) -> Result<Pick, String> {
        match (self.names.is_empty(), self.all, self.code) {
            (false, false, None) => {
                let names: Result<_, _> = self.names.iter().map(|n| n.parse::<Name>()).collect();
                Ok(Pick::Names(names.map_err(|e| e.to_string())?))
            }
            (true, true, None) => Ok(Pick::All),
            (true, false, Some(code)) => Ok(Pick::Code(code)),
            _ => Err("one of `names`, `all: true` and `code` says which letters".into()),
        }
    }
}

/// `POST /v1/dlq/redrive`: a line of JSON each time that some are back, and a last one with `"status": "done"` or
/// `"failed"`.
pub(crate) async fn redrive(
    State(shared): State<Arc<Shared>>,
    peer: FromPeer,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Refused> {
    let id = auth::operator(&shared, &headers, peer)?;
    let refuse = |why: String| Refused::new(Problem::invalid(why), id);
    let body = body.map_err(|e| refuse(e.body_text()))?;
    let which: Which = serde_json::from_slice(&body).map_err(|e| refuse(e.to_string()))?;
    let pick = which.pick().map_err(refuse)?;
    let Ok(turn) = Arc::clone(&shared.tools.redriving).try_lock_owned() else {
        let detail = "a redrive runs already; wait for its end";
        let problem = Problem::new(StatusCode::CONFLICT, "redrive_running", detail);
        return Err(Refused::new(problem, id));
    };
    let shared = Arc::clone(&shared);
    Ok(stream::respond("application/x-ndjson", move |out| {
        let _turn = turn;
        let tools = &shared.tools;
        let redrive = Redrive {
            log: &*tools.log,
            names: &tools.names,
            secrets: &tools.secrets,
        };
        let mut gone = None;
        let done = redrive.run(&pick, &mut |so_far| {
            let line = json!({ "status": "running", "redrive": so_far });
            gone = writeln!(out, "{line}").and_then(|()| out.flush()).err();
            gone.is_none()
        });
        if let Some(gone) = gone {
            return Err(gone.into());
        }
        let line = match done {
            Ok(outcome) => json!({ "status": "done", "redrive": outcome }),
            Err(error) => json!({ "status": "failed", "error": error.to_string() }),
        };
        writeln!(out, "{line}")?;
        Ok(())
    }))
}
