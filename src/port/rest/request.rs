//! Bodies and query strings. Errors in them are only reported after the key was checked.

use std::convert::Infallible;

use axum::{
    body::{Body, Bytes},
    extract::{FromRequestParts, Query},
    http::{HeaderMap, header, request::Parts},
};
use serde::de::DeserializeOwned;

use crate::{
    api::problem::UNSUPPORTED_MEDIA_TYPE,
    envelope::json::without_mark,
    port::{
        Shared,
        ingest::{
            body,
            events::refuse_body,
            media::{self, Form},
        },
        problem::Problem,
    },
};

/// The default size limit of a body on axum's routes, in bytes.
pub(crate) const BODY_BYTES: usize = 64 * 1024;

/// A JSON body that is not parsed yet, or the problem with it.
pub(crate) struct JsonBody {
    read: Result<Bytes, Problem>,
    empty: bool,
}

impl JsonBody {
    /// Reads the body, up to `most` bytes.
    pub(crate) async fn read(
        shared: &Shared,
        most: usize,
        headers: &HeaderMap,
        mut body: Body,
    ) -> Self {
        let bytes = body::read(&mut body, most, &shared.bodies).await;
        if bytes.is_err() {
            body::discard(body);
        }
        let empty = bytes.as_ref().is_ok_and(Bytes::is_empty);
        let read = check_media(headers)
            .and_then(|()| bytes.map_err(|error| refuse_body(error, Form::Json, most)));
        Self { read, empty }
    }

    /// Parses the body, or returns the default if it is empty, whatever the media type.
    pub(crate) fn parse_or_default<T: DeserializeOwned + Default>(self) -> Result<T, Problem> {
        if self.empty {
            return Ok(T::default());
        }
        self.parse()
    }

    /// The bytes of the body, without a byte order mark.
    pub(crate) fn bytes(self) -> Result<Bytes, Problem> {
        let bytes = self.read?;
        Ok(bytes.slice_ref(without_mark(&bytes)))
    }

    /// Parses the body; a byte order mark is skipped.
    pub(crate) fn parse<T: DeserializeOwned>(self) -> Result<T, Problem> {
        let bytes = self.read?;
        serde_json::from_slice(without_mark(&bytes)).map_err(|e| Problem::invalid(e.to_string()))
    }
}

/// Checks that the body is JSON and not compressed.
pub(crate) fn check_media(headers: &HeaderMap) -> Result<(), Problem> {
    media::plain(headers)?;
    let content_type = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok());
    let media = content_type
        .and_then(|content_type| content_type.split(';').next())
        .unwrap_or_default();
    if media.trim().eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    let detail = "send application/json";
    Err(Problem::new(&UNSUPPORTED_MEDIA_TYPE, detail))
}

/// The query string parsed as this type, or the problem with it.
pub(crate) struct QueryString<T>(pub(crate) Result<T, Problem>);

impl<T: DeserializeOwned, S: Sync> FromRequestParts<S> for QueryString<T> {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        let read = Query::try_from_uri(&parts.uri);
        let read = read.map(|Query(value)| value);
        Ok(Self(read.map_err(|e| Problem::invalid(e.body_text()))))
    }
}
