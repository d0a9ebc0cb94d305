//! Asks a schema registry over HTTP.

use std::{collections::HashSet, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::{
    Request, StatusCode,
    header::{ACCEPT, AUTHORIZATION, HeaderValue},
};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client as Http, connect::HttpConnector},
    rt::TokioExecutor,
};
use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use serde::Deserialize;

use crate::{
    config::SecretUrl,
    envelope::{
        Invalid,
        foreign::{Schema, UNKNOWN},
    },
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
    #[error("{}", innermost(.0))]
    Http(#[source] hyper_util::client::legacy::Error),
    #[error("the answer broke off: {}", innermost(&**.0))]
    Body(#[source] Box<dyn std::error::Error + Send + Sync>),
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
    #[error("{0} must be a URL such as http://host:8081")]
    Url(String),
    /// User or password hold what cannot stand in a header.
    #[error("{0}: user and password cannot be sent")]
    Authorization(String),
    /// There is nothing to judge its certificate by.
    #[error(
        "https needs the machine's root certificates (the package ca-certificates, or SSL_CERT_FILE): {0}"
    )]
    Roots(#[source] std::io::Error),
    /// Its runtime or its thread.
    #[error("what asks the registry cannot be started: {0}")]
    Start(#[source] std::io::Error),
}

/// A registry's address and how to ask it.
pub struct Client {
    http: Transport,
    base: String,
    authorization: Option<HeaderValue>,
}

enum Transport {
    Plain(Http<HttpConnector, Full<Bytes>>),
    Tls(Http<HttpsConnector<HttpConnector>, Full<Bytes>>),
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
        let (scheme, rest) = url.expose().split_once("://").unwrap_or_default();
        let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        let (user, host) = match authority.rsplit_once('@') {
            Some((user, host)) => (Some(user), host),
            None => (None, authority),
        };
        let base = format!("{scheme}://{host}{}", path.trim_end_matches('/'));
        let parsed: Result<hyper::Uri, _> = base.parse();
        let has_host = parsed.is_ok_and(|uri| uri.host().is_some_and(|host| !host.is_empty()));
        if path.contains(['?', '#']) || !has_host {
            return Err(RegistryError::Url(url.to_string()));
        }
        let authorization = user.map(|user| {
            let plain = percent_decode_str(user).collect::<Vec<u8>>();
            let text = format!("Basic {}", STANDARD.encode(plain));
            HeaderValue::try_from(text).map(|mut value| {
                value.set_sensitive(true);
                value
            })
        });
        let authorization = authorization
            .transpose()
            .map_err(|_| RegistryError::Authorization(url.to_string()))?;
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(DEADLINE / 2));
        let http = if scheme == "https" {
            let builder = HttpsConnectorBuilder::new().with_native_roots();
            let builder = builder.map_err(RegistryError::Roots)?;
            connector.enforce_http(false);
            let connector = builder
                .https_only()
                .enable_http1()
                .wrap_connector(connector);
            Transport::Tls(Http::builder(TokioExecutor::new()).build(connector))
        } else {
            Transport::Plain(Http::builder(TokioExecutor::new()).build(connector))
        };
        Ok(Self {
            http,
            base,
            authorization,
        })
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
            base: self.base.clone(),
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
        let mut request = Request::get(format!("{}{path}", self.base)).header(ACCEPT, ACCEPTED);
        if let Some(authorization) = &self.authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        let request = request
            .body(Full::default())
            .map_err(|e| unavailable(UnavailableReason::Request(e)))?;
        let response = match &self.http {
            Transport::Plain(http) => http.request(request).await,
            Transport::Tls(http) => http.request(request).await,
        };
        let response = response.map_err(|error| unavailable(UnavailableReason::Http(error)))?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_BYTES).collect();
        let body = match body.await {
            Ok(body) => body.to_bytes(),
            // It will not be shorter the next time.
            Err(error) if status.is_success() && error.is::<LengthLimitError>() => {
                return Err(unsupported(format!(
                    "schema {id} has more than {ANSWER_BYTES} bytes"
                )));
            }
            Err(error) => return Err(unavailable(UnavailableReason::Body(error))),
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
                        self.base
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

/// The innermost cause: the layers around it say nothing more.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Secret;

    fn client(url: &str) -> Result<Client, RegistryError> {
        Client::new(&SecretUrl::new(Secret::new(url), &["http", "https"]).unwrap())
    }

    #[test]
    fn the_url_is_taken_apart() {
        let cases = [
            ("http://h:8081", "http://h:8081", None),
            (
                "http://h/apis/ccompat/v7/",
                "http://h/apis/ccompat/v7",
                None,
            ),
            // A password with an `@` in it, as it is and as it should be.
            ("http://me:p@ss@h", "http://h", Some("Basic bWU6cEBzcw==")),
            (
                "https://me:p%40ss@[::1]:1/",
                "https://[::1]:1",
                Some("Basic bWU6cEBzcw=="),
            ),
        ];
        for (url, base, authorization) in cases {
            let client = client(url).unwrap();
            assert_eq!(client.base, base);
            let sent = client.authorization.as_ref().map(|v| v.to_str().unwrap());
            assert_eq!(sent, authorization, "{url}");
        }
        for wrong in [
            "http://",
            "http:///x",
            "http://u:secret@/",
            "http://h?a=b",
            "http://h/#x",
            "http://h h",
        ] {
            let error = client(wrong).err().expect(wrong).to_string();
            assert!(
                error.contains("http://host:8081") && !error.contains("secret"),
                "{error}"
            );
        }
    }
}
