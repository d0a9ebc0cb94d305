//! The state of the node: `/healthz`, `/readyz`, `/metrics`.

use std::sync::Arc;

use axum::{
    Json,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};

use crate::{
    api::health::{Health, HealthStatus},
    port::Shared,
    telemetry::{self, Status},
};

/// `GET /healthz`.
pub(crate) async fn health() -> Json<Health> {
    Json(Health {
        status: HealthStatus::Ok,
    })
}

/// `GET /readyz`: 503 only if the log or the controls, which are required, are down.
pub(crate) async fn ready(State(shared): State<Arc<Shared>>) -> Response {
    let report = shared.readiness.report().await;
    let status = match report.status {
        Status::Down => StatusCode::SERVICE_UNAVAILABLE,
        Status::Ok | Status::Degraded => StatusCode::OK,
    };
    (status, Json(report)).into_response()
}

/// `GET /metrics`.
pub(crate) async fn metrics() -> Response {
    let media = "text/plain; version=0.0.4; charset=utf-8";
    ([(header::CONTENT_TYPE, media)], telemetry::render_metrics()).into_response()
}
