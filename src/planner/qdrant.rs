//! Qdrant as the index of cached plans, over its HTTP API. It holds what follows from the topic `plans`: each node writes the entries that
//! it reads there, and nothing that a search returns is used without a look at the node's own entry.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use hyper::{
    Method, Request, StatusCode,
    header::{CONTENT_TYPE, HeaderName, HeaderValue},
};
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    base::clock::{Clock, Millis},
    config::{Secret, SecretUrl},
    http::{Client, Endpoint, EndpointError, Options, Reach, RequestError},
};

/// The number of floats of a vector.
const DIMENSIONS: usize = 384;
/// The time limit of a search. Without an answer the node searches in memory.
const SEARCH_TIMEOUT: Duration = Duration::from_millis(500);
/// The time limit of other requests.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The time limit for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);
/// The maximum size of an answer, in bytes.
const ANSWER_MAX: usize = 4 * 1024 * 1024;
/// The number of points that are listed at a time.
const SCROLLED: usize = 1_000;
/// After a failure nothing is sent for this long, in milliseconds.
const PAUSE_MS: i64 = 5_000;
const API_KEY: HeaderName = HeaderName::from_static("api-key");
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// A client of Qdrant, and the state of its collection.
pub struct Qdrant {
    http: Client,
    server: Endpoint,
    api_key: Option<HeaderValue>,
    collection: String,
    clock: Arc<dyn Clock>,
    /// The collection is there, and has what this node has read.
    complete: AtomicBool,
    failed: Mutex<Option<Failed>>,
}

/// A failure, and until when nothing is sent.
struct Failed {
    why: String,
    until: Millis,
}

/// Qdrant did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum QdrantError {
    /// There is no usable answer.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// The URL cannot be requested.
    #[error("its URL cannot be requested: {0}")]
    Url(#[from] hyper::http::Error),
    /// It refuses the request.
    #[error("it answered {}", .0.as_u16())]
    Status(StatusCode),
    /// The answer is not Qdrant's.
    #[error("its answer is not Qdrant's: {0}")]
    Answer(#[from] serde_json::Error),
    /// The collection holds something else.
    #[error(
        "the collection `{0}` has vectors of another size or distance: delete it, and it is made again"
    )]
    Collection(String),
    /// It failed a moment ago.
    #[error("{0}")]
    Paused(String),
}

/// An entry as it is indexed.
pub(super) struct Point<'a> {
    pub(super) tenant: &'a str,
    /// The entry's id, 32 hexadecimal digits.
    pub(super) entry: &'a str,
    pub(super) vector: &'a [f32],
}

/// An entry that a search found.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Near {
    /// The entry's id.
    pub(super) entry: String,
    /// The cosine similarity.
    pub(super) score: f32,
}

#[derive(Deserialize)]
struct Found {
    result: FoundPoints,
}

#[derive(Deserialize)]
struct FoundPoints {
    points: Vec<FoundPoint>,
}

#[derive(Deserialize)]
struct Scrolled {
    result: ScrolledPoints,
}

#[derive(Deserialize)]
struct ScrolledPoints {
    points: Vec<StoredPoint>,
    next_page_offset: Option<Value>,
}

#[derive(Deserialize)]
struct StoredPoint {
    id: Value,
    payload: Option<Value>,
}

#[derive(Deserialize)]
struct FoundPoint {
    score: f32,
    payload: Option<Payload>,
}

#[derive(Deserialize)]
struct Payload {
    tenant: String,
    entry: String,
}

impl Qdrant {
    /// Does not connect. `prefix` (`topics.prefix`) begins the collection's name.
    pub fn new(
        url: &SecretUrl,
        api_key: Option<&Secret>,
        prefix: &str,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, EndpointError> {
        let api_key = api_key.map(|key| {
            let mut value = HeaderValue::try_from(key.expose())
                .map_err(|_| EndpointError::Authorization(url.to_string()))?;
            value.set_sensitive(true);
            Ok::<_, EndpointError>(value)
        });
        let prefix: String = prefix
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() { c } else { '_' })
            .collect();
        Ok(Self {
            http: Client::new(Options {
                connect_timeout: CONNECT_TIMEOUT,
                timeout: TIMEOUT,
                max_body_bytes: ANSWER_MAX,
                reach: Reach::Configured,
            }),
            server: Endpoint::new(url)?,
            api_key: api_key.transpose()?,
            collection: format!("{prefix}plans"),
            clock,
            complete: AtomicBool::new(false),
            failed: Mutex::default(),
        })
    }

    /// Why it is not used; `None` if it is.
    pub fn trouble(&self) -> Option<String> {
        let failed = self.failed.lock();
        let why = failed.as_ref().map(|failed| failed.why.clone());
        let complete = self.complete.load(Ordering::Relaxed);
        why.or_else(|| (!complete).then(|| "the entries are being written to it".to_owned()))
    }

    /// Whether the server answers and takes the key.
    pub async fn probe(&self) -> Result<(), QdrantError> {
        self.send(Method::GET, "/collections", None, TIMEOUT)
            .await
            .map(drop)
    }

    /// Whether it holds all entries that this node has read.
    pub(super) fn is_complete(&self) -> bool {
        self.complete.load(Ordering::Relaxed)
    }

    /// All entries that this node has read were written.
    pub(super) fn set_complete(&self) {
        self.complete.store(true, Ordering::Relaxed);
    }

    /// Makes the collection, if it is not there.
    pub(super) async fn ensure(&self) -> Result<(), QdrantError> {
        let path = format!("/collections/{}", self.collection);
        match self.guarded(Method::GET, &path, None, TIMEOUT).await {
            Ok(answer) => {
                let vectors = &answer["result"]["config"]["params"]["vectors"];
                let fits = vectors["size"] == DIMENSIONS && vectors["distance"] == "Cosine";
                if fits {
                    return Ok(());
                }
                let error = QdrantError::Collection(self.collection.clone());
                self.fail(&error);
                return Err(error);
            }
            Err(QdrantError::Status(StatusCode::NOT_FOUND)) => {}
            Err(error) => return Err(error),
        }
        let made = json!({ "vectors": { "size": DIMENSIONS, "distance": "Cosine" } });
        match self.guarded(Method::PUT, &path, Some(made), TIMEOUT).await {
            // Another node has made it meanwhile.
            Ok(_) | Err(QdrantError::Status(StatusCode::CONFLICT)) => {}
            Err(error) => return Err(error),
        }
        let index = json!({
            "field_name": "tenant",
            "field_schema": { "type": "keyword", "is_tenant": true }
        });
        let path = format!("{path}/index?wait=true");
        self.guarded(Method::PUT, &path, Some(index), TIMEOUT)
            .await
            .map(drop)
    }

    /// Writes entries.
    pub(super) async fn write(&self, points: &[Point<'_>]) -> Result<(), QdrantError> {
        let points = points.iter().map(|point| {
            json!({
                "id": uuid(point.entry),
                "vector": point.vector,
                "payload": { "tenant": point.tenant, "entry": point.entry }
            })
        });
        let points: Vec<_> = points.collect();
        if points.is_empty() {
            return Ok(());
        }
        let path = format!("/collections/{}/points?wait=true", self.collection);
        let body = json!({ "points": points });
        self.guarded(Method::PUT, &path, Some(body), TIMEOUT)
            .await
            .map(drop)
    }

    /// Removes entries.
    pub(super) async fn remove(&self, entries: &[String]) -> Result<(), QdrantError> {
        if entries.is_empty() {
            return Ok(());
        }
        let ids: Vec<_> = entries.iter().map(|entry| uuid(entry)).collect();
        let path = format!("/collections/{}/points/delete", self.collection);
        let body = json!({ "points": ids });
        self.guarded(Method::POST, &path, Some(body), TIMEOUT)
            .await
            .map(drop)
    }

    /// Removes the entries that are not known: they were forgotten while nobody could remove them. `known` gets their tenant and their id.
    pub(super) async fn sweep(
        &self,
        known: impl Fn(&str, &str) -> bool + Send,
    ) -> Result<(), QdrantError> {
        let path = format!("/collections/{}/points", self.collection);
        let mut offset = Value::Null;
        loop {
            let body = json!({
                "limit": SCROLLED,
                "offset": offset,
                "with_payload": true,
                "with_vector": false
            });
            let scroll = format!("{path}/scroll");
            let answer = self.guarded(Method::POST, &scroll, Some(body), TIMEOUT);
            let page: Scrolled = serde_json::from_value(answer.await?).inspect_err(|error| {
                self.set_failed(format!("its answer is not Qdrant's: {error}"));
            })?;
            let unknown = page.result.points.into_iter().filter_map(|point| {
                // Points of others are left alone.
                let payload = Payload::deserialize(point.payload?).ok()?;
                (!known(&payload.tenant, &payload.entry)).then_some(point.id)
            });
            let unknown: Vec<Value> = unknown.collect();
            if !unknown.is_empty() {
                let body = json!({ "points": unknown });
                let delete = format!("{path}/delete?wait=true");
                self.guarded(Method::POST, &delete, Some(body), TIMEOUT)
                    .await?;
            }
            match page.result.next_page_offset {
                None | Some(Value::Null) => return Ok(()),
                Some(next) => offset = next,
            }
        }
    }

    /// The entries of a tenant that are nearest to a vector, at most `most`, the nearest first.
    pub(super) async fn search(
        &self,
        tenant: &str,
        vector: &[f32],
        most: usize,
    ) -> Result<Vec<Near>, QdrantError> {
        let path = format!("/collections/{}/points/query", self.collection);
        let body = json!({
            "query": vector,
            "filter": { "must": [{ "key": "tenant", "match": { "value": tenant } }] },
            "limit": most,
            "with_payload": true
        });
        let answer = self
            .guarded(Method::POST, &path, Some(body), SEARCH_TIMEOUT)
            .await?;
        let found: Found = serde_json::from_value(answer).inspect_err(|error| {
            self.set_failed(format!("its answer is not Qdrant's: {error}"));
        })?;
        let near = found.result.points.into_iter().filter_map(|point| {
            // The filter is the server's; whose entry it is, is checked here.
            let payload = point.payload.filter(|payload| payload.tenant == tenant)?;
            Some(Near {
                entry: payload.entry,
                score: point.score,
            })
        });
        Ok(near.collect())
    }

    /// Sends a request, unless one failed a moment ago.
    async fn guarded(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
        limit: Duration,
    ) -> Result<Value, QdrantError> {
        let now = self.clock.now();
        if let Some(failed) = &*self.failed.lock()
            && now < failed.until
        {
            return Err(QdrantError::Paused(failed.why.clone()));
        }
        let answer = self.send(method, path, body, limit).await;
        match &answer {
            Ok(_) => *self.failed.lock() = None,
            // Part of making the collection.
            Err(QdrantError::Status(StatusCode::NOT_FOUND | StatusCode::CONFLICT)) => {
                self.complete.store(false, Ordering::Relaxed);
            }
            Err(error) => self.fail(error),
        }
        answer
    }

    fn fail(&self, error: &QdrantError) {
        self.set_failed(error.to_string());
    }

    /// Everything is written again once it answers: it may have lost what it had.
    fn set_failed(&self, why: String) {
        tracing::debug!(why, "Qdrant is not used");
        self.complete.store(false, Ordering::Relaxed);
        let until = Millis(self.clock.now().0 + PAUSE_MS);
        *self.failed.lock() = Some(Failed { why, until });
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
        limit: Duration,
    ) -> Result<Value, QdrantError> {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.server.base()))
            .header(CONTENT_TYPE, JSON);
        if let Some(authorization) = self.server.authorization() {
            request = request.header(hyper::header::AUTHORIZATION, authorization);
        }
        if let Some(key) = &self.api_key {
            request = request.header(API_KEY, key);
        }
        let body = body.map_or_else(Bytes::new, |body| body.to_string().into());
        let response = self.http.send_within(limit, request.body(body)?).await?;
        if !response.status().is_success() {
            return Err(QdrantError::Status(response.status()));
        }
        Ok(serde_json::from_slice(response.body())?)
    }
}

/// The id of a point: that of its entry, as a UUID.
fn uuid(entry: &str) -> String {
    let digits = entry.chars().filter(char::is_ascii_hexdigit);
    let digits: String = digits
        .chain(std::iter::repeat_n('0', 32))
        .take(32)
        .collect();
    let parts = [
        &digits[..8],
        &digits[8..12],
        &digits[12..16],
        &digits[16..20],
        &digits[20..],
    ];
    parts.join("-")
}
