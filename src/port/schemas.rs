//! The schemas of OmniLink's own topics, on the paths of Confluent's Schema Registry: read-only, for everyone. Query strings are
//! taken and change nothing. Refusals are problem details that have the registry's `error_code` and `message` too, for its clients
//! read those.

use std::sync::Arc;

use axum::{
    Router,
    extract::{Path, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::{MethodRouter, get},
};
use serde_json::{Value, json};

use super::{
    Shared,
    problem::{Problem, Refused},
    routes::not_allowed,
};
use crate::envelope::schemas::{self, Schema};

const MEDIA: &str = "application/vnd.schemaregistry.v1+json";
/// Behind the topic's name, in that of a subject.
const VALUE: &str = "-value";

pub(super) fn router() -> Router<Arc<Shared>> {
    let only_get = |handler: MethodRouter<Arc<Shared>>| handler.fallback(not_allowed);
    Router::new()
        .route("/schemas", only_get(get(list)))
        .route("/schemas/types", only_get(get(types)))
        .route("/schemas/ids/{id}", only_get(get(schema)))
        .route("/schemas/ids/{id}/schema", only_get(get(schema_text)))
        .route("/schemas/ids/{id}/subjects", only_get(get(schema_subjects)))
        .route("/schemas/ids/{id}/versions", only_get(get(schema_versions)))
        .route("/subjects", only_get(get(subjects)))
        .route("/subjects/{subject}/versions", only_get(get(versions)))
        .route(
            "/subjects/{subject}/versions/{version}",
            only_get(get(version)),
        )
        .route(
            "/subjects/{subject}/versions/{version}/schema",
            only_get(get(version_text)),
        )
}

/// What is not there, as the registry says it.
#[derive(Debug)]
enum Missing {
    Subject(String),
    Version(String),
    Schema(String),
    /// No number, and not `latest`.
    InvalidVersion(String),
}

impl Missing {
    fn problem(self) -> Problem {
        let (status, error_code, code, detail) = match self {
            Self::Subject(subject) => (
                StatusCode::NOT_FOUND,
                40401,
                "unknown_subject",
                format!("there is no subject `{subject}`"),
            ),
            Self::Version(version) => (
                StatusCode::NOT_FOUND,
                40402,
                "unknown_version",
                format!("the subject has no version {version}"),
            ),
            Self::Schema(id) => (
                StatusCode::NOT_FOUND,
                40403,
                "unknown_schema",
                format!("there is no schema {id}; OmniLink's ids are from 2^30 up"),
            ),
            Self::InvalidVersion(version) => (
                StatusCode::UNPROCESSABLE_ENTITY,
                42202,
                "invalid_version",
                format!("`{version}` is no version: a number from 1 on, or `latest`"),
            ),
        };
        Problem {
            error_code: Some(error_code),
            ..Problem::new(status, code, detail)
        }
    }
}

fn answer(body: &Value) -> Response {
    text(body.to_string())
}

fn text(body: impl Into<axum::body::Body>) -> Response {
    ([(header::CONTENT_TYPE, MEDIA)], body.into()).into_response()
}

impl Shared {
    /// `{topic}-value`. The topics `rekey.{topology}` have one schema, listed as `rekey`.
    fn subject(&self, schema: &Schema) -> String {
        format!("{}{}{VALUE}", self.tools.names.prefix, schema.topic)
    }

    /// The versions of a subject, oldest first.
    fn of_subject(&self, subject: &str) -> Result<Vec<&'static Schema>, Missing> {
        let topic = subject
            .strip_prefix(&*self.tools.names.prefix)
            .and_then(|rest| rest.strip_suffix(VALUE));
        let topic = match topic {
            Some(topic) if topic.starts_with("rekey.") => Some(schemas::REKEY.topic),
            other => other,
        };
        let found: Vec<_> = schemas::of_topic(topic.unwrap_or_default()).collect();
        if found.is_empty() {
            return Err(Missing::Subject(subject.to_owned()));
        }
        Ok(found)
    }

    fn version(&self, subject: &str, version: &str) -> Result<&'static Schema, Missing> {
        let found = self.of_subject(subject)?;
        let missing = || Missing::Version(version.to_owned());
        if matches!(version, "latest" | "-1") {
            return found.last().copied().ok_or_else(missing);
        }
        match version.parse::<u32>() {
            Ok(number) if number > 0 => {
                let mut found = found.into_iter();
                found
                    .find(|schema| schema.version == number)
                    .ok_or_else(missing)
            }
            _ => Err(Missing::InvalidVersion(version.to_owned())),
        }
    }

    fn described(&self, schema: &Schema) -> Value {
        json!({
            "subject": self.subject(schema),
            "version": schema.version,
            "id": schema.id,
            "schema": schema.text,
        })
    }
}

fn by_id(id: &str) -> Result<&'static Schema, Missing> {
    let found = id.parse().ok().and_then(schemas::by_id);
    found.ok_or_else(|| Missing::Schema(id.to_owned()))
}

/// The answer, or the refusal with its request's id.
fn answered(shared: &Shared, found: Result<Response, Missing>) -> Result<Response, Refused> {
    found.map_err(|missing| Refused::new(missing.problem(), shared.ids.next()))
}

async fn list(State(shared): State<Arc<Shared>>) -> Response {
    let all = schemas::ALL.iter().map(|schema| shared.described(schema));
    answer(&all.collect())
}

async fn types() -> Response {
    answer(&json!(["AVRO"]))
}

async fn subjects(State(shared): State<Arc<Shared>>) -> Response {
    let mut subjects: Vec<_> = schemas::ALL.iter().map(|s| shared.subject(s)).collect();
    subjects.dedup();
    answer(&json!(subjects))
}

type Answered = Result<Response, Refused>;

async fn schema(State(shared): State<Arc<Shared>>, Path(id): Path<String>) -> Answered {
    let found = by_id(&id).map(|schema| answer(&json!({ "schema": schema.text })));
    answered(&shared, found)
}

async fn schema_text(State(shared): State<Arc<Shared>>, Path(id): Path<String>) -> Answered {
    answered(&shared, by_id(&id).map(|schema| text(schema.text)))
}

async fn schema_subjects(State(shared): State<Arc<Shared>>, Path(id): Path<String>) -> Answered {
    let found = by_id(&id).map(|schema| answer(&json!([shared.subject(schema)])));
    answered(&shared, found)
}

async fn schema_versions(State(shared): State<Arc<Shared>>, Path(id): Path<String>) -> Answered {
    let place =
        |schema: &Schema| json!([{ "subject": shared.subject(schema), "version": schema.version }]);
    answered(&shared, by_id(&id).map(|schema| answer(&place(schema))))
}

async fn versions(State(shared): State<Arc<Shared>>, Path(subject): Path<String>) -> Answered {
    let found = shared.of_subject(&subject);
    let found = found.map(|all| answer(&all.iter().map(|schema| schema.version).collect()));
    answered(&shared, found)
}

async fn version(
    State(shared): State<Arc<Shared>>,
    Path((subject, version)): Path<(String, String)>,
) -> Answered {
    let found = shared.version(&subject, &version);
    answered(
        &shared,
        found.map(|schema| answer(&shared.described(schema))),
    )
}

async fn version_text(
    State(shared): State<Arc<Shared>>,
    Path((subject, version)): Path<(String, String)>,
) -> Answered {
    let found = shared.version(&subject, &version);
    answered(&shared, found.map(|schema| text(schema.text)))
}
