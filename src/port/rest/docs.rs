//! The description of the API: `/openapi.json`, and `/docs`, a page that shows it. Everything is embedded in the binary, and the page
//! must not load anything from other origins.

use std::sync::LazyLock;

use axum::{
    body::Bytes,
    http::header::{
        CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
    },
    response::{IntoResponse, Response},
};

use crate::api;

/// Allows only the page's own script and style and requests to this node, so that markup in a description cannot run anything.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
    base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

static OPENAPI: LazyLock<Bytes> = LazyLock::new(|| api::document().to_string().into());

/// `GET /openapi.json`.
pub(crate) async fn openapi() -> Response {
    let media = "application/json";
    ([(CONTENT_TYPE, media)], OPENAPI.clone()).into_response()
}

/// `GET /docs`.
pub(crate) async fn page() -> Response {
    asset("text/html; charset=utf-8", include_str!("docs/page.html"))
}

/// `GET /docs/page.js`.
pub(crate) async fn script() -> Response {
    asset(
        "text/javascript; charset=utf-8",
        include_str!("docs/page.js"),
    )
}

/// `GET /docs/page.css`.
pub(crate) async fn style() -> Response {
    asset("text/css; charset=utf-8", include_str!("docs/page.css"))
}

fn asset(media: &'static str, text: &'static str) -> Response {
    let headers = [
        (CONTENT_TYPE, media),
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "no-referrer"),
    ];
    (headers, text).into_response()
}
