//! What the routes of the scope `admin` share: who asks, for which tenant, and how lists are paged.

use std::sync::Arc;

use axum::{
    Extension,
    body::Bytes,
    extract::rejection::BytesRejection,
    http::{HeaderMap, StatusCode, header},
};
use jiff::Timestamp;
use serde::{Deserialize, de::DeserializeOwned};

use crate::port::peer::FromPeer;
use crate::port::{
    RequestId, Shared, auth,
    ingest::media,
    problem::{Problem, Refused},
};
use crate::{
    base::{clock::Millis, id::Tenant},
    controls::{ADMIN, ControlsError, Key, OPERATOR},
    envelope::json::without_mark,
};

const PAGE: usize = 100;
const PAGE_MAX: usize = 1000;

/// Page by page, newest first.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Page {
    pub(crate) cursor: Option<String>,
    limit: Option<usize>,
    pub(crate) tenant: Option<String>,
}

/// A request of someone who may manage what a tenant has.
pub(crate) struct Admin {
    pub(crate) shared: Arc<Shared>,
    pub(crate) key: Arc<Key>,
    id: RequestId,
}

impl Admin {
    pub(crate) fn new(
        shared: Arc<Shared>,
        headers: &HeaderMap,
        Extension(peer): FromPeer,
    ) -> Result<Self, Refused> {
        let id = shared.ids.next();
        let key = auth::authenticate(&shared, headers, peer.0).map_err(|p| Refused::new(p, id))?;
        Ok(Self { shared, key, id })
    }

    pub(crate) fn refuse(&self, problem: Problem) -> Refused {
        Refused::new(problem, self.id)
    }

    pub(crate) fn check_scope(&self) -> Result<(), Refused> {
        if self.key.scopes.permits(ADMIN) || self.is_operator() {
            return Ok(());
        }
        Err(self.refuse(Problem::denied("the key lacks the permission `admin`")))
    }

    pub(crate) fn is_operator(&self) -> bool {
        self.key.scopes.permits(OPERATOR)
    }

    /// The tenant asked for: the own one, or for operators any.
    pub(crate) fn tenant(&self, named: Option<&str>) -> Result<Tenant, Refused> {
        let Some(named) = named.filter(|n| *n != self.key.tenant.as_str()) else {
            return Ok(self.key.tenant.clone());
        };
        if !self.is_operator() {
            return Err(self.refuse(Problem::denied(
                "only a key with the permission `operator` names another tenant",
            )));
        }
        Tenant::new(named).map_err(|e| self.refuse(Problem::invalid(format!("`tenant`: {e}"))))
    }

    /// How many items a page has.
    pub(crate) fn limit(&self, page: &Page) -> Result<usize, Refused> {
        let limit = page.limit.unwrap_or(PAGE);
        if (1..=PAGE_MAX).contains(&limit) {
            return Ok(limit);
        }
        let detail = format!("`limit` must be from 1 to {PAGE_MAX}");
        Err(self.refuse(Problem::invalid(detail)))
    }

    /// The JSON body.
    pub(crate) fn read<T: DeserializeOwned>(
        &self,
        headers: &HeaderMap,
        body: Result<Bytes, BytesRejection>,
    ) -> Result<T, Refused> {
        read(headers, body).map_err(|problem| self.refuse(problem))
    }

    pub(crate) fn missing(&self, field: &str) -> Refused {
        let code = format!("missing_{field}");
        let detail = format!("`{field}` is required and must not be empty");
        self.refuse(Problem::new(StatusCode::BAD_REQUEST, code, detail))
    }

    pub(crate) fn not_found(&self, detail: &'static str) -> Refused {
        self.refuse(Problem::new(StatusCode::NOT_FOUND, "not_found", detail))
    }

    pub(crate) fn failed(&self, error: &ControlsError) -> Refused {
        tracing::warn!(%error, "`controls` could not be changed");
        self.refuse(Problem::log_unavailable())
    }
}

pub(crate) fn rfc3339(at: Millis) -> String {
    Timestamp::from_millisecond(at.0)
        .map(|t| t.to_string())
        .unwrap_or_default()
}

fn read<T: DeserializeOwned>(
    headers: &HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<T, Problem> {
    media::plain(headers)?;
    let content_type = headers
        .get(header::CONTENT_TYPE)
        .and_then(|v| v.to_str().ok());
    let media = content_type
        .and_then(|c| c.split(';').next())
        .unwrap_or_default();
    if !media.trim().eq_ignore_ascii_case("application/json") {
        return Err(Problem::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "unsupported_media_type",
            "send application/json",
        ));
    }
    let body = body.map_err(|e| match e.status() {
        StatusCode::PAYLOAD_TOO_LARGE => {
            Problem::too_large("payload_too_large", "the body may have 65536 bytes")
        }
        _ => Problem::invalid(e.body_text()),
    })?;
    serde_json::from_slice(without_mark(&body)).map_err(|e| Problem::invalid(e.to_string()))
}
