//! `POST /v1/runs/{id}/cancel`, `pause`, `resume` and `signal`.

use std::sync::Arc;

use axum::{
    extract::{Path, Request, State},
    response::Response,
};
use serde_json::{Map, json};

use super::{send::Message, sent::Sent};
use crate::{
    api::run_controls::{CancelRun, PauseRun, RUNS_ABANDON, SignalRun},
    commands::control::{self, Cancel, Signal},
    port::{
        Shared,
        problem::{Problem, Refused},
        rest::personal::Personal,
    },
    runs::Json,
};

/// `POST /v1/runs/{id}/cancel`.
pub(crate) async fn cancel(
    State(shared): State<Arc<Shared>>,
    Path(id): Path<String>,
    request: Request,
) -> Result<Response, Refused> {
    let sent = Sent::read(&shared, request).await?;
    let CancelRun { reason, compensate } = sent.fields_or_default()?;
    sent.check_reason(reason.as_ref())?;
    let controller = sent.permit(control::CANCEL).await?;
    let caller = &controller.caller;
    if !compensate && !caller.key.scopes.permits(RUNS_ABANDON) {
        return Err(caller.refuse(Problem::lacks(RUNS_ABANDON)));
    }
    let run = controller.run(&id)?;
    let personal = controller.personal(run, reason.is_some()).await;
    let message = end(reason, compensate, &personal);
    controller.send(run, message).await
}

/// The end of a run.
pub(super) fn end(
    reason: Option<String>,
    compensate: bool,
    personal: &Personal,
) -> Message<'static, Cancel> {
    let mut detail = Map::new();
    detail.insert("compensate".into(), compensate.into());
    if let Some(reason) = &reason {
        detail.insert("reason".into(), personal.audited(reason).into());
    }
    let reason = reason.map(|reason| personal.text(reason));
    Message {
        kind: control::CANCEL,
        body: Cancel { reason, compensate },
        action: "run.cancelled",
        detail,
        decision: None,
    }
}

/// `POST /v1/runs/{id}/pause`.
pub(crate) async fn pause(
    State(shared): State<Arc<Shared>>,
    Path(id): Path<String>,
    request: Request,
) -> Result<Response, Refused> {
    plain(PAUSE, &shared, &id, request).await
}

/// `POST /v1/runs/{id}/resume`.
pub(crate) async fn resume(
    State(shared): State<Arc<Shared>>,
    Path(id): Path<String>,
    request: Request,
) -> Result<Response, Refused> {
    plain(RESUME, &shared, &id, request).await
}

/// The kind of the record and the action of the audit log.
pub(super) type Plain = (&'static str, &'static str);
pub(super) const PAUSE: Plain = (control::PAUSE, "run.paused");
pub(super) const RESUME: Plain = (control::RESUME, "run.resumed");

/// A message with an empty body.
pub(super) fn empty((kind, action): Plain) -> Message<'static, PauseRun> {
    Message {
        kind,
        body: PauseRun {},
        action,
        detail: Map::new(),
        decision: None,
    }
}

/// Sends a message with an empty body.
async fn plain(
    which: Plain,
    shared: &Arc<Shared>,
    id: &str,
    request: Request,
) -> Result<Response, Refused> {
    let sent = Sent::read(shared, request).await?;
    let PauseRun {} = sent.fields_or_default()?;
    let controller = sent.permit(which.0).await?;
    let run = controller.run(id)?;
    controller.send(run, empty(which)).await
}

/// `POST /v1/runs/{id}/signal`.
pub(crate) async fn signal(
    State(shared): State<Arc<Shared>>,
    Path(id): Path<String>,
    request: Request,
) -> Result<Response, Refused> {
    let sent = Sent::read(&shared, request).await?;
    let SignalRun { signal, data } = sent.fields()?;
    let signal = sent.check_name("signal", signal)?;
    let data = sent.check_value("data", data)?.unwrap_or_else(Json::null);
    let controller = sent.permit(control::SIGNAL).await?;
    let run = controller.run(&id)?;
    let personal = controller.personal(run, data != Json::null()).await;
    let data = personal.json(data);
    // The data may be personal, so the audit log only has its size.
    let mut detail = Map::new();
    detail.insert("signal".into(), signal.clone().into());
    detail.insert("data_bytes".into(), json!(data.text().len()));
    let message = Message {
        kind: control::SIGNAL,
        body: Signal { signal, data },
        action: "run.signalled",
        detail,
        decision: None,
    };
    controller.send(run, message).await
}
