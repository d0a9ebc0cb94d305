//! The schemas of OmniLink's own topics, on the paths of Confluent's Schema Registry. It behaves like a registry in mode `READONLY`: no
//! authentication, the registry's media type and error codes, and no other members in answers, because some of its clients accept no
//! others.
//!
//! The table of routes lists the successful calls. Changes are refused with 42205, and paths that the registry does not have either get
//! its own 404 and 405.

mod lookup;

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use axum::{
    Router,
    body::Body,
    extract::{Query, State},
    http::{Method, StatusCode, Uri, header},
    response::{IntoResponse, Response},
    routing::any,
};
use bytes::Bytes;
use percent_encoding::percent_decode_str;
use serde::Serialize;

use self::lookup::Candidate;
use super::request::BODY_BYTES;
use crate::{
    api::{
        ROUTES, Route,
        registry::{
            Compatibility, CompatibilityLevel, Empty, RegistryMode, RegistryProblem, SchemaId,
            SchemaText, SchemaVersion, SubjectVersion,
        },
        route::Errors,
    },
    envelope::schemas::{self, Schema},
    port::{
        Shared,
        ingest::body::{self, BodyError},
    },
};

const MEDIA: &str = "application/vnd.schemaregistry.v1+json";
/// The suffix of a subject's name after the topic's name.
const VALUE: &str = "-value";
const COMPATIBILITY: &str = "BACKWARD_TRANSITIVE";
/// The contexts that may precede a subject's name: the default one, and all.
const CONTEXTS: [&str; 2] = [":.:", ":*:"];

/// Serves everything below the roots of the registry's paths.
pub(crate) fn router() -> Router<Arc<Shared>> {
    let of_registry = |route: &&Route| matches!(route.errors, Errors::Registry(_));
    let paths = ROUTES.iter().filter(of_registry).map(|route| route.path);
    let roots: BTreeSet<_> = paths.filter_map(|path| path.split('/').nth(1)).collect();
    roots.into_iter().fold(Router::new(), |router, root| {
        let router = router.route(&format!("/{root}"), any(serve));
        if root.is_empty() {
            return router;
        }
        router
            .route(&format!("/{root}/"), any(serve))
            .route(&format!("/{root}/{{*rest}}"), any(serve))
    })
}

/// A refusal in the registry's words.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("Subject '{0}' not found.")]
    Subject(String),
    #[error("Version {0} not found.")]
    Version(String),
    #[error("Schema {0} not found; OmniLink's ids are from 1073741824 up")]
    Id(String),
    #[error("Schema not found")]
    Schema,
    #[error("Subject '{0}' does not have subject-level compatibility configured")]
    Config(String),
    #[error("Subject '{0}' does not have subject-level mode configured")]
    Mode(String),
    #[error("The schema is invalid: {0}")]
    InvalidSchema(String),
    #[error(
        "The specified version '{0}' is not a valid version id. Allowed values are between [1, 2^31-1] and the string \"latest\""
    )]
    InvalidVersion(String),
    #[error(
        "{0} is in read-only mode: OmniLink's own schemas are compiled in, and nothing is registered, changed or deleted here"
    )]
    ReadOnly(String),
    #[error("The body is not a JSON object with `schema`: {0}")]
    Body(String),
    #[error("The body is not read: {0}")]
    Unread(BodyError),
    #[error("HTTP 404 Not Found")]
    Path,
    #[error("HTTP 405 Method Not Allowed")]
    Method,
}

impl Refusal {
    /// The HTTP status and the registry's error code.
    fn codes(&self) -> (StatusCode, u32) {
        match self {
            Self::Subject(_) => (StatusCode::NOT_FOUND, 40401),
            Self::Version(_) => (StatusCode::NOT_FOUND, 40402),
            Self::Id(_) | Self::Schema => (StatusCode::NOT_FOUND, 40403),
            Self::Config(_) => (StatusCode::NOT_FOUND, 40408),
            Self::Mode(_) => (StatusCode::NOT_FOUND, 40409),
            Self::InvalidSchema(_) => (StatusCode::UNPROCESSABLE_ENTITY, 42201),
            Self::InvalidVersion(_) => (StatusCode::UNPROCESSABLE_ENTITY, 42202),
            Self::ReadOnly(_) => (StatusCode::UNPROCESSABLE_ENTITY, 42205),
            Self::Body(_) | Self::Unread(BodyError::Broken) => (StatusCode::BAD_REQUEST, 400),
            Self::Unread(BodyError::TooLarge) => (StatusCode::PAYLOAD_TOO_LARGE, 413),
            Self::Unread(BodyError::Slow) => (StatusCode::REQUEST_TIMEOUT, 408),
            Self::Unread(BodyError::Busy) => (StatusCode::SERVICE_UNAVAILABLE, 503),
            Self::Path => (StatusCode::NOT_FOUND, 404),
            Self::Method => (StatusCode::METHOD_NOT_ALLOWED, 405),
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let (status, error_code) = self.codes();
        let problem = RegistryProblem {
            error_code,
            message: self.to_string(),
        };
        (status, answer(&problem)).into_response()
    }
}

type Answered = Result<Response, Refusal>;

fn answer(body: &impl Serialize) -> Response {
    // These types always have a JSON form, and writing to a `Vec` cannot fail.
    text(serde_json::to_vec(body).unwrap_or_default())
}

fn text(body: impl Into<Body>) -> Response {
    ([(header::CONTENT_TYPE, MEDIA)], body.into()).into_response()
}

/// The query string. Unknown parameters are ignored, as the registry does.
struct Parameters(HashMap<String, String>);

impl Parameters {
    fn of(uri: &Uri) -> Self {
        Self(Query::try_from_uri(uri).map_or_else(|_| HashMap::new(), |Query(pairs)| pairs))
    }

    fn is(&self, name: &str) -> bool {
        self.0.get(name).is_some_and(|value| value == "true")
    }

    /// Whether a subject starts with `subjectPrefix`.
    fn takes(&self, subject: &str) -> bool {
        let prefix = self.0.get("subjectPrefix").map_or("", String::as_str);
        subject.starts_with(in_context(prefix))
    }

    /// The page selected by `offset` and `limit`; a negative limit means no limit.
    fn page<T>(&self, items: Vec<T>) -> Vec<T> {
        let number = |name: &str| self.0.get(name).and_then(|n| n.parse::<usize>().ok());
        let items = items.into_iter().skip(number("offset").unwrap_or(0));
        items.take(number("limit").unwrap_or(usize::MAX)).collect()
    }
}

/// Strips the context of a name; there is only one.
fn in_context(name: &str) -> &str {
    let mut contexts = CONTEXTS.iter();
    contexts
        .find_map(|context| name.strip_prefix(context))
        .unwrap_or(name)
}

async fn serve(
    State(shared): State<Arc<Shared>>,
    method: Method,
    uri: Uri,
    mut body: Body,
) -> Answered {
    let read = if method == Method::POST {
        body::read(&mut body, BODY_BYTES, &shared.bodies).await
    } else {
        Ok(Bytes::new())
    };
    body::discard(body);
    let path = uri.path().trim_start_matches('/').trim_end_matches('/');
    let parts: Result<Vec<_>, _> = path
        .split('/')
        .map(|part| percent_decode_str(part).decode_utf8())
        .collect();
    let parts = parts.map_err(|_| Refusal::Path)?;
    let parts: Vec<&str> = parts.iter().map(|part| &**part).collect();
    let parameters = Parameters::of(&uri);
    match method.as_str() {
        "GET" | "HEAD" => shared.read_schemas(&parts, &parameters),
        "POST" => shared.compare_schemas(&parts, &parameters, read),
        "PUT" | "DELETE" => Err(shared.read_only(&method, &parts)),
        _ => Err(Refusal::Method),
    }
}

impl Shared {
    fn read_schemas(&self, parts: &[&str], parameters: &Parameters) -> Answered {
        let mode = RegistryMode { mode: "READONLY" };
        let config = CompatibilityLevel {
            level: COMPATIBILITY,
        };
        // Whether subjects that do not exist get the global answer.
        let global = parameters.is("defaultToGlobal");
        Ok(match *parts {
            [""] => answer(&Empty {}),
            ["schemas"] => {
                let all = schemas::ALL.iter().filter(|schema| {
                    parameters.takes(&self.subject(schema))
                        && (is_latest(schema) || !parameters.is("latestOnly"))
                });
                answer(&parameters.page(all.map(|schema| self.described(schema)).collect()))
            }
            ["schemas", "types"] => answer(&["AVRO"]),
            ["schemas", "ids", id] => {
                let largest = || schemas::ALL.iter().map(|schema| schema.id).max();
                answer(&SchemaText {
                    schema: by_id(id)?.text,
                    max_id: parameters.is("fetchMaxId").then(largest).flatten(),
                })
            }
            ["schemas", "ids", id, "schema"] => text(by_id(id)?.text),
            ["schemas", "ids", id, "subjects"] => answer(&[self.subject(by_id(id)?)]),
            ["schemas", "ids", id, "versions"] => {
                let schema = by_id(id)?;
                answer(&[SubjectVersion {
                    subject: self.subject(schema),
                    version: schema.version,
                }])
            }
            ["subjects"] => {
                let mut subjects: Vec<_> = schemas::ALL.iter().map(|s| self.subject(s)).collect();
                subjects.dedup();
                // No subject was ever deleted.
                subjects.retain(|s| parameters.takes(s) && !parameters.is("deletedOnly"));
                answer(&parameters.page(subjects))
            }
            ["subjects", subject, "versions"] => {
                let versions = self.of_subject(subject)?;
                let versions: Vec<_> = versions.iter().map(|schema| schema.version).collect();
                answer(&versions)
            }
            ["subjects", subject, "versions", version] => {
                answer(&self.described(self.version(subject, version)?))
            }
            ["subjects", subject, "versions", version, "schema"] => {
                text(self.version(subject, version)?.text)
            }
            ["subjects", subject, "versions", version, "referencedby"] => {
                self.version(subject, version)?;
                answer(&[(); 0])
            }
            ["contexts"] => answer(&["."]),
            ["config"] => answer(&config),
            ["mode"] => answer(&mode),
            ["config", subject] if global || self.is_known(subject) => answer(&config),
            ["mode", subject] if global || self.is_known(subject) => answer(&mode),
            ["config", subject] => return Err(Refusal::Config(subject.to_owned())),
            ["mode", subject] => return Err(Refusal::Mode(subject.to_owned())),
            ["subjects", _] | ["compatibility", "subjects", _, "versions", ..] => {
                return Err(Refusal::Method);
            }
            _ => return Err(Refusal::Path),
        })
    }

    fn compare_schemas(
        &self,
        parts: &[&str],
        parameters: &Parameters,
        body: Result<Bytes, BodyError>,
    ) -> Answered {
        let (subject, version) = match *parts {
            ["subjects", subject]
            | ["subjects", subject, "versions"]
            | ["compatibility", "subjects", subject, "versions"] => (subject, None),
            ["compatibility", "subjects", subject, "versions", version] => (subject, Some(version)),
            _ => {
                // A path exists if it can be read.
                let there = self.read_schemas(parts, parameters);
                let missing = there.is_err_and(|why| matches!(why, Refusal::Path));
                return Err(if missing {
                    Refusal::Path
                } else {
                    Refusal::Method
                });
            }
        };
        let body = body.map_err(Refusal::Unread)?;
        let candidate = Candidate::read(&body)?;
        if parts[0] == "compatibility" {
            let earlier = match version {
                Some(version) => vec![self.version(subject, version)?],
                None => self.of_subject(subject)?,
            };
            let incompatible = candidate.reads_all(&earlier).err();
            let messages = || incompatible.iter().map(ToString::to_string).collect();
            return Ok(answer(&Compatibility {
                is_compatible: incompatible.is_none(),
                messages: parameters.is("verbose").then(messages),
            }));
        }
        let registers = parts.len() == 3;
        let known = match self.of_subject(subject) {
            Err(_) if registers => return Err(read_only_subject(subject)),
            known => known?,
        };
        let mut known = known.into_iter().rev();
        match known.find(|schema| candidate.is(schema)) {
            // As in the registry, registering an existing schema changes nothing.
            Some(schema) if registers => Ok(answer(&SchemaId { id: schema.id })),
            Some(schema) => {
                let mut described = self.described(schema);
                // The answer has the requested name, because topics of one kind share a schema.
                in_context(subject).clone_into(&mut described.subject);
                Ok(answer(&described))
            }
            None if registers => Err(read_only_subject(subject)),
            None => Err(Refusal::Schema),
        }
    }

    /// The reason why something is not changed: it does not exist, or the registry is read-only.
    fn read_only(&self, method: &Method, parts: &[&str]) -> Refusal {
        let deletes = *method == Method::DELETE;
        let there = match *parts {
            ["subjects", subject] if deletes => self.of_subject(subject).map(drop),
            ["subjects", subject, "versions", version] if deletes => {
                self.version(subject, version).map(drop)
            }
            ["config" | "mode"] => {
                return Refusal::ReadOnly("The registry".into());
            }
            ["config" | "mode", subject] => return read_only_subject(subject),
            ["contexts", _] if deletes => return Refusal::ReadOnly("The registry".into()),
            _ => {
                let none = Parameters(HashMap::new());
                return match self.read_schemas(parts, &none) {
                    Err(Refusal::Path) => Refusal::Path,
                    _ => Refusal::Method,
                };
            }
        };
        let subject = parts.get(1).copied().unwrap_or_default();
        there.err().unwrap_or_else(|| read_only_subject(subject))
    }

    /// The subject is `{topic}-value`. The topics `rekey.{topology}` share one schema, listed as `rekey`.
    fn subject(&self, schema: &Schema) -> String {
        format!("{}{}{VALUE}", self.tools.names.prefix, schema.topic)
    }

    /// The versions of a subject, oldest first.
    fn of_subject(&self, subject: &str) -> Result<Vec<&'static Schema>, Refusal> {
        let topic = in_context(subject)
            .strip_prefix(&*self.tools.names.prefix)
            .and_then(|rest| rest.strip_suffix(VALUE));
        let topic = match topic {
            Some(topic) if topic.starts_with("rekey.") => Some(schemas::REKEY.topic),
            other => other,
        };
        let found: Vec<_> = schemas::of_topic(topic.unwrap_or_default()).collect();
        if found.is_empty() {
            return Err(Refusal::Subject(subject.to_owned()));
        }
        Ok(found)
    }

    /// Whether the subject exists; a context alone stands for all subjects.
    fn is_known(&self, subject: &str) -> bool {
        in_context(subject).is_empty() || self.of_subject(subject).is_ok()
    }

    fn version(&self, subject: &str, version: &str) -> Result<&'static Schema, Refusal> {
        let found = self.of_subject(subject)?;
        let missing = || Refusal::Version(version.to_owned());
        if matches!(version, "latest" | "-1") {
            return found.last().copied().ok_or_else(missing);
        }
        match version.parse::<i32>() {
            Ok(number) if number > 0 => {
                let mut found = found.into_iter();
                found
                    .find(|schema| i64::from(schema.version) == i64::from(number))
                    .ok_or_else(missing)
            }
            _ => Err(Refusal::InvalidVersion(version.to_owned())),
        }
    }

    fn described(&self, schema: &Schema) -> SchemaVersion {
        SchemaVersion {
            subject: self.subject(schema),
            version: schema.version,
            id: schema.id,
            schema: schema.text,
        }
    }
}

fn read_only_subject(subject: &str) -> Refusal {
    Refusal::ReadOnly(format!("Subject {subject}"))
}

fn is_latest(schema: &Schema) -> bool {
    schemas::of_topic(schema.topic).last() == Some(schema)
}

fn by_id(id: &str) -> Result<&'static Schema, Refusal> {
    let found = id.parse().ok().and_then(schemas::by_id);
    found.ok_or_else(|| Refusal::Id(id.to_owned()))
}
