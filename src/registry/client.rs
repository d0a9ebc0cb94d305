//! The HTTP client of a schema registry.

use std::{collections::HashSet, time::Duration};

use bytes::Bytes;
use hyper::{
    Request, StatusCode,
    header::{ACCEPT, AUTHORIZATION},
};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;

use crate::{
    config::SecretUrl,
    envelope::{
        Invalid,
        foreign::{Schema, UNKNOWN},
    },
    http::{self, Endpoint, EndpointError, NoRoots, Options, Reach, RequestError},
};

/// The time limit for fetching a schema with all its references.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The maximum size of a response body.
const MAX_RESPONSE_BYTES: usize = 1 << 20;
/// The most schemas that one may reference, directly or indirectly.
const MAX_REFERENCES: usize = 64;
const ACCEPTED: &str = "application/vnd.schemaregistry.v1+json, application/json";
/// The registry's error codes for an unknown subject, version or schema.
const NOT_FOUND_CODES: [u64; 3] = [40_401, 40_402, 40_403];

/// Why a schema could not be fetched.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The registry has no schema with this id.
    #[error(transparent)]
    Unknown(Invalid),
    /// The schema is not Avro, too large, or malformed.
    #[error(transparent)]
    Unusable(Invalid),
    /// The registry did not answer properly. Retriable.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

/// The registry could not be reached, or what answered does not behave like a schema registry.
#[derive(Debug, thiserror::Error)]
#[error("{base}: {reason}")]
pub struct Unavailable {
    /// The registry's base URL, without user and password.
    base: String,
    #[source]
    reason: UnavailableReason,
}

#[derive(Debug, thiserror::Error)]
enum UnavailableReason {
    #[error("it did not answer within {} s", TIMEOUT.as_secs())]
    Timeout,
    #[error("the request is invalid: {0}")]
    Request(#[source] hyper::http::Error),
    #[error(transparent)]
    Http(#[from] RequestError),
    #[error("the response is not a schema registry's: {0}")]
    Body(#[source] serde_json::Error),
    #[error("it answered {0} (error code {1})")]
    Status(StatusCode, u64),
    #[error(
        "it answered {0}, which is not a schema registry's response; check `schema_registry.url`"
    )]
    NotARegistry(StatusCode),
}

/// Why a registry cannot be used at all. Messages show the URL without user and password.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// The URL cannot be used.
    #[error(transparent)]
    Url(#[from] EndpointError),
    /// The URL is `https://`, and there are no root certificates.
    #[error(transparent)]
    Roots(#[from] NoRoots),
    /// The runtime or the thread could not be created.
    #[error("cannot start the schema registry's thread: {0}")]
    Start(#[source] std::io::Error),
}

/// A client of one registry.
pub struct Client {
    http: http::Client,
    endpoint: Endpoint,
}

#[derive(Deserialize)]
struct RegisteredSchema {
    schema: String,
    #[serde(rename = "schemaType")]
    kind: Option<String>,
    #[serde(default)]
    references: Vec<Reference>,
}

#[derive(Deserialize)]
struct Reference {
    subject: String,
    version: i64,
}

#[derive(Deserialize)]
struct ErrorBody {
    error_code: u64,
}

impl Client {
    /// Creates a client for a base URL, which may contain user and password. Does not connect.
    pub fn new(url: &SecretUrl) -> Result<Self, RegistryError> {
        let endpoint = Endpoint::new(url)?;
        let http = http::Client::new(Options {
            connect_timeout: TIMEOUT / 2,
            timeout: TIMEOUT,
            max_body_bytes: MAX_RESPONSE_BYTES,
            reach: Reach::Configured,
        });
        if endpoint.base().starts_with("https:") {
            http.check_tls()?;
        }
        Ok(Self { http, endpoint })
    }

    /// Fetches a schema with all its references.
    pub async fn schema(&self, id: u32) -> Result<Schema, FetchError> {
        let fetched = tokio::time::timeout(TIMEOUT, self.fetch(id)).await;
        fetched.unwrap_or_else(|_| Err(self.unavailable(UnavailableReason::Timeout).into()))
    }

    /// Checks that the registry answers. Queries an arbitrary id: that the registry does not know it is a proper answer.
    pub async fn probe(&self) -> Result<(), Unavailable> {
        let query = self.get("/schemas/ids/1", 1);
        match tokio::time::timeout(TIMEOUT, query).await {
            Ok(Err(FetchError::Unavailable(error))) => Err(error),
            Ok(_) => Ok(()),
            Err(_) => Err(self.unavailable(UnavailableReason::Timeout)),
        }
    }

    fn unavailable(&self, reason: UnavailableReason) -> Unavailable {
        Unavailable {
            base: self.endpoint.base().to_owned(),
            reason,
        }
    }

    async fn fetch(&self, id: u32) -> Result<Schema, FetchError> {
        let mut root = self.get(&format!("/schemas/ids/{id}"), id).await?;
        if let Some(kind) = root.kind.filter(|kind| kind != "AVRO") {
            return Err(unsupported(format!(
                "schema {id} is {kind}, and only Avro is supported"
            )));
        }
        let mut open = std::mem::take(&mut root.references);
        let mut seen = HashSet::new();
        let mut texts = Vec::new();
        while let Some(Reference { subject, version }) = open.pop() {
            if !seen.insert((subject.clone(), version)) {
                continue;
            }
            if seen.len() > MAX_REFERENCES {
                return Err(unsupported(format!(
                    "schema {id} references more than {MAX_REFERENCES} others"
                )));
            }
            let subject = utf8_percent_encode(&subject, NON_ALPHANUMERIC);
            // A deleted version is still the one that records were written with.
            let path = format!("/subjects/{subject}/versions/{version}?deleted=true");
            let referenced = self.get(&path, id).await?;
            open.extend(referenced.references);
            texts.push(referenced.schema);
        }
        Schema::parse(&root.schema, &texts).map_err(|mut invalid| {
            invalid.message = format!("schema {id}: {}", invalid.message);
            FetchError::Unusable(invalid)
        })
    }

    async fn get(&self, path: &str, id: u32) -> Result<RegisteredSchema, FetchError> {
        let unavailable = |why| FetchError::Unavailable(self.unavailable(why));
        let mut request =
            Request::get(format!("{}{path}", self.endpoint.base())).header(ACCEPT, ACCEPTED);
        if let Some(authorization) = self.endpoint.authorization() {
            request = request.header(AUTHORIZATION, authorization);
        }
        let request = request
            .body(Bytes::new())
            .map_err(|e| unavailable(UnavailableReason::Request(e)))?;
        let (status, body) = match self.http.send(request).await {
            Ok(response) => (response.status(), response.into_body()),
            // A retry would get the same response.
            Err(RequestError::TooLarge { status, .. }) if status.is_success() => {
                return Err(unsupported(format!(
                    "schema {id} has more than {MAX_RESPONSE_BYTES} bytes"
                )));
            }
            Err(error) => return Err(unavailable(error.into())),
        };
        if status.is_success() {
            // A malformed body does not make the record invalid: the address may be another server's.
            return serde_json::from_slice(&body)
                .map_err(|e| unavailable(UnavailableReason::Body(e)));
        }
        let code = serde_json::from_slice(&body).map(|body: ErrorBody| body.error_code);
        match code {
            Ok(code) if status == StatusCode::NOT_FOUND && NOT_FOUND_CODES.contains(&code) => {
                Err(FetchError::Unknown(Invalid {
                    code: UNKNOWN.into(),
                    message: format!(
                        "the schema registry at {} has no schema {id} ({code})",
                        self.endpoint.base()
                    ),
                }))
            }
            Ok(code) => Err(unavailable(UnavailableReason::Status(status, code))),
            Err(_) => Err(unavailable(UnavailableReason::NotARegistry(status))),
        }
    }
}

fn unsupported(message: String) -> FetchError {
    FetchError::Unusable(Invalid {
        code: "unsupported_schema".into(),
        message,
    })
}

#[cfg(test)]
impl Unavailable {
    pub(super) fn timed_out() -> Self {
        Self {
            base: "http://h".into(),
            reason: UnavailableReason::Timeout,
        }
    }
}
