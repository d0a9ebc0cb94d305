//! All routes but `POST /v1/events`.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, State},
    http::{Method, StatusCode, Uri, header},
    response::{IntoResponse, Response},
    routing::{any, delete, get, post},
};

use super::{keys, letters, readers, rebuild, replay, schemas, tools};
use crate::port::{
    Shared,
    problem::{Problem, Refused},
};
use crate::telemetry::{self, Status};

/// The most bytes of a body on these routes.
const BODY_BYTES: usize = 64 * 1024;

pub(crate) fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/v1/events", any(only_post))
        .route(
            "/v1/keys",
            post(keys::create).get(keys::list).fallback(not_allowed),
        )
        .route("/v1/keys/{id}", delete(keys::revoke).fallback(not_allowed))
        .route(
            "/v1/readers",
            post(readers::grant)
                .get(readers::list)
                .fallback(not_allowed),
        )
        .route(
            "/v1/readers/{login}",
            delete(readers::revoke).fallback(not_allowed),
        )
        .route(
            "/v1/rebuild",
            post(rebuild::begin)
                .get(rebuild::status)
                .fallback(not_allowed),
        )
        .route("/v1/replay", get(replay::events).fallback(not_allowed))
        .route("/v1/replay/state", get(replay::state).fallback(not_allowed))
        .route(
            "/v1/replay/topic",
            post(replay::into_topic).fallback(not_allowed),
        )
        .route("/v1/dlq", get(letters::list).fallback(not_allowed))
        .route("/v1/dlq/{name}", get(letters::show).fallback(not_allowed))
        .route(
            "/v1/dlq/redrive",
            post(letters::redrive).fallback(not_allowed),
        )
        .route("/v1/lag", get(tools::lag).fallback(not_allowed))
        .route(
            "/v1/topics",
            get(tools::topics)
                .post(tools::create_topics)
                .fallback(not_allowed),
        )
        .merge(schemas::router())
        .route("/healthz", get(healthz).fallback(not_allowed))
        .route("/readyz", get(readyz).fallback(not_allowed))
        .route("/metrics", get(metrics).fallback(not_allowed))
        .fallback(not_found)
        .layer(DefaultBodyLimit::max(BODY_BYTES))
        .with_state(shared)
}

/// Alive: it answers.
async fn healthz() -> Json<serde_json::Value> {
    Json(serde_json::json!({ "status": "ok" }))
}

/// 503 only when a required part is down: the log, or the controls.
async fn readyz(State(shared): State<Arc<Shared>>) -> Response {
    let report = shared.readiness.report().await;
    let status = match report.status {
        Status::Down => StatusCode::SERVICE_UNAVAILABLE,
        Status::Ok | Status::Degraded => StatusCode::OK,
    };
    (status, Json(report)).into_response()
}

async fn metrics() -> Response {
    let text = telemetry::render_metrics();
    (
        [(
            header::CONTENT_TYPE,
            "text/plain; version=0.0.4; charset=utf-8",
        )],
        text,
    )
        .into_response()
}

async fn not_found(State(shared): State<Arc<Shared>>, uri: Uri) -> Refused {
    let detail = format!("there is nothing at {}", uri.path());
    Refused::new(
        Problem::new(StatusCode::NOT_FOUND, "not_found", detail),
        shared.ids.next(),
    )
}

pub(crate) async fn not_allowed(
    State(shared): State<Arc<Shared>>,
    method: Method,
    uri: Uri,
) -> Refused {
    let detail = format!("{} does not take {method}", uri.path());
    Refused::new(
        Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", detail),
        shared.ids.next(),
    )
}

async fn only_post(State(shared): State<Arc<Shared>>, method: Method, uri: Uri) -> Response {
    let mut response = not_allowed(State(shared), method, uri)
        .await
        .into_response();
    let allow = header::HeaderValue::from_static("POST");
    response.headers_mut().insert(header::ALLOW, allow);
    response
}
