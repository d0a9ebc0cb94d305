//! Asks a schema registry over HTTP.

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

/// A schema, with all that it names, must be there within this time.
const DEADLINE: Duration = Duration::from_secs(5);
/// The most bytes of an answer.
const ANSWER_BYTES: usize = 1 << 20;
/// The most schemas that one may name, by way of others too.
const REFERENCES: usize = 64;
const ACCEPTED: &str = "application/vnd.schemaregistry.v1+json, application/json";
/// The registry's own codes for what is not there.
const NOT_THERE: [u64; 3] = [40_401, 40_402, 40_403];

/// Why a schema was not fetched.
#[derive(Debug, thiserror::Error)]
pub enum Unfetched {
    /// The registry has none with that id.
    #[error(transparent)]
    Unknown(Invalid),
    /// It cannot be used.
    #[error(transparent)]
    Unusable(Invalid),
    /// The registry did not answer as it should: to be tried again.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

/// A registry that did not answer as one does.
#[derive(Debug, thiserror::Error)]
#[error("{base}: {why}")]
pub struct Unavailable {
    /// Its address, without user and password.
    base: String,
    #[source]
    why: UnavailableReason,
}

/// What it did instead.
#[derive(Debug, thiserror::Error)]
enum UnavailableReason {
    #[error("it did not answer within {} s", DEADLINE.as_secs())]
    Late,
    #[error("it cannot be asked: {0}")]
    Request(#[source] hyper::http::Error),
    #[error(transparent)]
    Http(#[from] RequestError),
    #[error("the answer is not a registry's: {0}")]
    NotARegistrys(#[source] serde_json::Error),
    #[error("it answered {0} ({1})")]
    Refused(StatusCode, u64),
    #[error("it answered {0}, as no registry does; is `schema_registry.url` right?")]
    Strange(StatusCode),
}

/// Why a registry cannot be asked at all. The URL is shown without user and password.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// It is no URL of a registry.
    #[error(transparent)]
    Url(#[from] EndpointError),
    /// There is nothing to judge its certificate by.
    #[error(transparent)]
    Roots(#[from] NoRoots),
    /// Its runtime or its thread.
    #[error("what asks the registry cannot be started: {0}")]
    Start(#[source] std::io::Error),
}

/// A registry's address and how to ask it.
pub struct Client {
    http: http::Client,
    endpoint: Endpoint,
}

#[derive(Deserialize)]
struct Registered {
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
struct Refusal {
    error_code: u64,
}

impl Client {
    /// Takes user and password out of the URL. What is wrong with it is said without them.
    pub fn new(url: &SecretUrl) -> Result<Self, RegistryError> {
        let endpoint = Endpoint::new(url)?;
        let http = http::Client::new(Options {
            connect_timeout: DEADLINE / 2,
            timeout: DEADLINE,
            body_bytes: ANSWER_BYTES,
            reach: Reach::Configured,
        });
        if endpoint.base().starts_with("https:") {
            http.tls()?;
        }
        Ok(Self { http, endpoint })
    }

    /// Fetches a schema and all that it names.
    pub async fn schema(&self, id: u32) -> Result<Schema, Unfetched> {
        let fetched = tokio::time::timeout(DEADLINE, self.fetch(id)).await;
        fetched.unwrap_or_else(|_| Err(self.unavailable(UnavailableReason::Late).into()))
    }

    /// Whether it answers as a registry does; else what is wrong. Any id will do: one that it does not know is an answer.
    pub async fn probe(&self) -> Result<(), Unavailable> {
        let asking = self.get("/schemas/ids/1", 1);
        match tokio::time::timeout(DEADLINE, asking).await {
            Ok(Err(Unfetched::Unavailable(why))) => Err(why),
            Ok(_) => Ok(()),
            Err(_) => Err(self.unavailable(UnavailableReason::Late)),
        }
    }

    fn unavailable(&self, why: UnavailableReason) -> Unavailable {
        Unavailable {
            base: self.endpoint.base().to_owned(),
            why,
        }
    }

    async fn fetch(&self, id: u32) -> Result<Schema, Unfetched> {
        let mut root = self.get(&format!("/schemas/ids/{id}"), id).await?;
        if let Some(kind) = root.kind.filter(|kind| kind != "AVRO") {
            return Err(unsupported(format!(
                "schema {id} is {kind}, and only Avro is read"
            )));
        }
        let mut open = std::mem::take(&mut root.references);
        let mut seen = HashSet::new();
        let mut texts = Vec::new();
        while let Some(Reference { subject, version }) = open.pop() {
            if !seen.insert((subject.clone(), version)) {
                continue;
            }
            if seen.len() > REFERENCES {
                return Err(unsupported(format!(
                    "schema {id} names more than {REFERENCES} others"
                )));
            }
            let subject = utf8_percent_encode(&subject, NON_ALPHANUMERIC);
            // One that was deleted is still what records were written with.
            let path = format!("/subjects/{subject}/versions/{version}?deleted=true");
            let named = self.get(&path, id).await?;
            open.extend(named.references);
            texts.push(named.schema);
        }
        Schema::parse(&root.schema, &texts).map_err(|mut why| {
            why.message = format!("schema {id}: {}", why.message);
            Unfetched::Unusable(why)
        })
    }

    async fn get(&self, path: &str, id: u32) -> Result<Registered, Unfetched> {
        let unavailable = |why| Unfetched::Unavailable(self.unavailable(why));
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
            // It will not be shorter the next time.
            Err(RequestError::TooLarge { status, .. }) if status.is_success() => {
                return Err(unsupported(format!(
                    "schema {id} has more than {ANSWER_BYTES} bytes"
                )));
            }
            Err(error) => return Err(unavailable(error.into())),
        };
        if status.is_success() {
            // Something else than a registry may answer at that address: that is not the record's fault.
            return serde_json::from_slice(&body)
                .map_err(|e| unavailable(UnavailableReason::NotARegistrys(e)));
        }
        let code = serde_json::from_slice(&body).map(|refusal: Refusal| refusal.error_code);
        match code {
            Ok(code) if status == StatusCode::NOT_FOUND && NOT_THERE.contains(&code) => {
                Err(Unfetched::Unknown(Invalid {
                    code: UNKNOWN.into(),
                    message: format!(
                        "the schema registry at {} has no schema {id} ({code})",
                        self.endpoint.base()
                    ),
                }))
            }
            Ok(code) => Err(unavailable(UnavailableReason::Refused(status, code))),
            Err(_) => Err(unavailable(UnavailableReason::Strange(status))),
        }
    }
}

fn unsupported(message: String) -> Unfetched {
    Unfetched::Unusable(Invalid {
        code: "unsupported_schema".into(),
        message,
    })
}

#[cfg(test)]
impl Unavailable {
    pub(super) fn late() -> Self {
        Self {
            base: "http://h".into(),
            why: UnavailableReason::Late,
        }
    }
}
