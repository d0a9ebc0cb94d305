//! `/v1/dlq`: dead letters are listed, shown, and redriven to their topics.

use std::{io::Write, sync::Arc};

use axum::{Json, extract::Path, response::Response};
use serde_json::Map;

use super::{
    caller::{Permitted, Sent},
    request::QueryString,
    stream,
};
use crate::{
    api::{
        letters::{ListLetters, RedriveLetters, RedriveProgress},
        problem::{REDRIVE_RUNNING, UNKNOWN_LETTER},
    },
    audit::{LETTER_READ, LETTER_REDRIVEN},
    port::problem::{Problem, Refused},
    stream::dlq::{
        letters::{self, Letters, Shown},
        name::Name,
        redrive::Redrive,
    },
};

/// `GET /v1/dlq`.
pub(crate) async fn list(
    caller: Permitted,
    query: QueryString<ListLetters>,
) -> Result<Json<Letters>, Refused> {
    let listing = caller
        .query(query)?
        .listing()
        .map_err(|e| caller.invalid(e))?;
    let tools = &caller.shared.tools;
    let (log, names) = (Arc::clone(&tools.log), tools.names.clone());
    let page = caller.blocking(move || letters::list(&*log, &names, &listing));
    Ok(Json(page.await?))
}

/// `GET /v1/dlq/{name}`.
pub(crate) async fn show(
    caller: Permitted,
    Path(name): Path<String>,
) -> Result<Json<Shown>, Refused> {
    let name = name.parse::<Name>().map_err(|e| caller.invalid(e))?;
    let tools = &caller.shared.tools;
    let (log, names) = (Arc::clone(&tools.log), tools.names.clone());
    let found = caller.blocking(move || letters::show(&*log, &names, name));
    let Some(letter) = found.await? else {
        let detail = format!("there is no dead letter {name}, or retention has deleted it");
        return Err(caller.refuse(Problem::new(&UNKNOWN_LETTER, detail)));
    };
    let of = ("letter", &*name.to_string());
    caller.audit_read(None, LETTER_READ, of, Map::new());
    Ok(Json(Shown::of(&letter)))
}

/// `POST /v1/dlq/redrive`.
pub(crate) async fn redrive(Sent(caller, body): Sent<Permitted>) -> Result<Response, Refused> {
    let request: RedriveLetters = caller.body(body)?;
    let mut detail = Map::new();
    if !request.names.is_empty() {
        detail.insert("names".into(), request.names.clone().into());
    }
    if let Some(code) = &request.code {
        detail.insert("code".into(), code.as_str().into());
    }
    let pick = request.pick().map_err(|e| caller.invalid(e))?;
    let Ok(turn) = Arc::clone(&caller.shared.tools.redriving).try_lock_owned() else {
        let detail = "a redrive is already running; wait for its end";
        return Err(caller.refuse(Problem::new(&REDRIVE_RUNNING, detail)));
    };
    let of = ("topic", &*caller.shared.tools.names.dlq);
    caller.audit_operation(LETTER_REDRIVEN, of, detail).await;
    let shared = Arc::clone(&caller.shared);
    Ok(stream::respond("application/x-ndjson", move |out| {
        let _turn = turn;
        let tools = &shared.tools;
        let redrive = Redrive {
            log: &*tools.log,
            names: &tools.names,
            secrets: &tools.secrets,
        };
        let mut lost = None;
        let done = redrive.run(&pick, &mut |so_far| {
            let line = RedriveProgress::Running { redrive: so_far };
            lost = stream::line(out, &line).and_then(|()| out.flush()).err();
            lost.is_none()
        });
        if let Some(lost) = lost {
            return Err(lost.into());
        }
        let line = match &done {
            Ok(redrive) => RedriveProgress::Done { redrive },
            Err(error) => RedriveProgress::Failed {
                error: error.to_string(),
            },
        };
        Ok(stream::line(out, &line)?)
    }))
}
