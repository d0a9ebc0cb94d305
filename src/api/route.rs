//! The parts of a line in the table of routes.

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::DeserializeOwned;

use super::problem::{
    Code, FEATURE_DISABLED, INVALID_KEY, INVALID_PAYLOAD, LOG_UNAVAILABLE, OMNILINK_DISABLED,
    OPERATOR_TAKEOVER, OVERLOADED, PAYLOAD_TOO_LARGE, PERMISSION_DENIED, RATE_LIMIT_EXCEEDED,
    REQUEST_TIMEOUT, UNAUTHORIZED, UNSUPPORTED_CONTENT_ENCODING, UNSUPPORTED_MEDIA_TYPE,
};

/// `application/json`.
pub const JSON: &str = "application/json";
/// Lines of JSON.
pub const NDJSON: &str = "application/x-ndjson";

/// Adds a type to a document and returns its schema, or a reference to it.
pub type SchemaOf = fn(&mut SchemaGenerator) -> Schema;

fn schema_of<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    generator.subschema_for::<T>()
}

/// The method of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Method {
    /// `GET`, which includes `HEAD`.
    Get,
    /// `POST`.
    Post,
    /// `PATCH`.
    Patch,
    /// `DELETE`.
    Delete,
}

impl Method {
    /// The name as sent.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Post => "POST",
            Self::Patch => "PATCH",
            Self::Delete => "DELETE",
        }
    }
}

/// The access to a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Open to everyone, without a key.
    Open,
    /// Needs a key with this permission. `operator` includes `admin` and every permission to read, for any tenant.
    Permission(&'static str),
}

/// The emergency controls that close a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gate {
    /// None: the route reads, ends or finishes something, or is for operators.
    None,
    /// The kill switch.
    Intake,
    /// Operator take-over, except for persons: routes that end a run.
    Takeover,
    /// Both: starts, decisions and the other run controls.
    Starts,
}

/// The groups of routes in the documentation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tag {
    /// Intake of events.
    Events,
    /// Intake of commands, workflows, goals and tasks.
    Starts,
    /// Runs: their state, controls, and decisions by people.
    Runs,
    /// Cached plans of goals.
    Plans,
    /// Keys.
    Keys,
    /// Webhook sources, and webhooks.
    Webhooks,
    /// Postgres logins.
    Readers,
    /// The emergency controls.
    Controls,
    /// The audit log.
    Audit,
    /// The history.
    Replay,
    /// Dead letters.
    DeadLetters,
    /// The log and the projections.
    Operations,
    /// The schemas of the topics.
    SchemaRegistry,
    /// The node itself.
    Node,
}

impl Tag {
    /// All groups, in the order of the documentation.
    pub const ALL: [Self; 14] = [
        Self::Events,
        Self::Starts,
        Self::Runs,
        Self::Plans,
        Self::Keys,
        Self::Webhooks,
        Self::Readers,
        Self::Controls,
        Self::Audit,
        Self::Replay,
        Self::DeadLetters,
        Self::Operations,
        Self::SchemaRegistry,
        Self::Node,
    ];

    /// The heading.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Events => "Events",
            Self::Starts => "Starts",
            Self::Runs => "Runs",
            Self::Plans => "Plans",
            Self::Keys => "Keys",
            Self::Webhooks => "Webhooks",
            Self::Readers => "Readers",
            Self::Controls => "Controls",
            Self::Audit => "Audit",
            Self::Replay => "Replay",
            Self::DeadLetters => "Dead letters",
            Self::Operations => "Operations",
            Self::SchemaRegistry => "Schema registry",
            Self::Node => "Node",
        }
    }

    /// The purpose of its routes; Markdown.
    pub const fn description(self) -> &'static str {
        match self {
            Self::Events => "Intake of events.",
            Self::Starts => "Starts of runs: commands, workflows, goals and tasks.",
            Self::Runs => "Runs: their state, controls, and decisions by people.",
            Self::Plans => {
                "Cached plans of goals, and how a goal gets its plan ([plans.md](plans.md))."
            }
            Self::Keys => "API keys of a tenant.",
            Self::Webhooks => "Webhook sources, and the routes that their senders call.",
            Self::Readers => "Which Postgres login can read which tenant.",
            Self::Controls => {
                "Emergency controls, for all tenants; they take effect on every node within a second."
            }
            Self::Audit => "The audit log, and rejected webhook requests.",
            Self::Replay => "The history, in the order in which it was appended.",
            Self::DeadLetters => "Rejected records with their reasons, and their redrive.",
            Self::Operations => "Topics, lag and projections, for all tenants.",
            Self::SchemaRegistry => {
                "The Avro schemas of OmniLink's own topics, read-only, on the paths of Confluent's Schema Registry."
            }
            Self::Node => "The state of the node, and this documentation.",
        }
    }
}

/// A path parameter, or a header.
#[derive(Debug, Clone, Copy)]
pub struct Parameter {
    /// Its name.
    pub name: &'static str,
    /// Its meaning.
    pub description: &'static str,
    /// An example value.
    pub example: &'static str,
}

/// The header that all routes with a key accept.
pub(super) const ON_BEHALF_OF: Parameter = Parameter {
    name: "Omnilink-On-Behalf-Of",
    description: "The user on whose behalf the request is made: at most 256 bytes of UTF-8, without encoding. Needs the permission \
        `act_as`; it is recorded together with the key's principal.",
    example: "ann@example.com",
};

/// A body in one media type.
#[derive(Debug, Clone, Copy)]
pub struct Content {
    /// The media type.
    pub media: &'static str,
    /// The schema of the body, or of each line; `None` if it is not JSON.
    pub schema: Option<SchemaOf>,
    /// An example: JSON where there is a schema.
    pub example: Option<&'static str>,
}

impl Content {
    /// A JSON body in this media type.
    pub const fn json<T: JsonSchema>(media: &'static str, example: &'static str) -> Self {
        Self {
            media,
            schema: Some(schema_of::<T>),
            example: Some(example),
        }
    }

    /// A body without a schema.
    pub const fn other(media: &'static str) -> Self {
        Self {
            media,
            schema: None,
            example: None,
        }
    }
}

/// A successful answer.
#[derive(Debug, Clone, Copy)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// Its meaning.
    pub description: &'static str,
    /// The body, for each possible media type; empty if there is none.
    pub content: &'static [Content],
}

impl Answer {
    /// An answer with a body.
    pub const fn new(status: u16, description: &'static str, content: &'static [Content]) -> Self {
        Self {
            status,
            description,
            content,
        }
    }
}

/// The errors of a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Errors {
    /// Problem details.
    Problem,
    /// Errors in the format of Confluent's Schema Registry, with these statuses.
    Registry(&'static [u16]),
}

/// A route, built from [`Route::new`] and the methods below.
#[derive(Debug, Clone, Copy)]
pub struct Route {
    /// The method.
    pub method: Method,
    /// The path, with parameters in braces.
    pub path: &'static str,
    /// The access to the route.
    pub access: Access,
    /// The emergency controls that close it.
    pub gate: Gate,
    /// Its group.
    pub tag: Tag,
    /// A short summary.
    pub summary: &'static str,
    /// Further documentation; Markdown.
    pub description: &'static str,
    /// The path parameters.
    pub path_parameters: &'static [Parameter],
    /// The query parameters: the properties of this schema.
    pub query: Option<SchemaOf>,
    /// The headers that the route uses.
    pub headers: &'static [Parameter],
    /// The body, for each possible media type; empty if there is none.
    pub body: &'static [Content],
    /// Whether the body may be absent.
    pub optional_body: bool,
    /// Checks whether the route's type accepts an example body.
    pub takes: Option<Takes>,
    /// The successful answers.
    pub answers: &'static [Answer],
    /// The format of its errors.
    pub errors: Errors,
    /// Error codes besides those that follow from the access, the parameters and the body.
    pub own_codes: &'static [&'static Code],
}

/// Parses a body, to check whether a type accepts it.
pub type Takes = fn(&str) -> Result<(), serde_json::Error>;

fn takes<T: DeserializeOwned>(text: &str) -> Result<(), serde_json::Error> {
    serde_json::from_str::<T>(text).map(drop)
}

impl Route {
    /// An open route without parameters, body and answers.
    pub const fn new(method: Method, path: &'static str, tag: Tag, summary: &'static str) -> Self {
        Self {
            method,
            path,
            access: Access::Open,
            gate: Gate::None,
            tag,
            summary,
            description: "",
            path_parameters: &[],
            query: None,
            headers: &[],
            body: &[],
            optional_body: false,
            takes: None,
            answers: &[],
            errors: Errors::Problem,
            own_codes: &[],
        }
    }

    /// Requires a key with this permission.
    pub(super) const fn needs(mut self, permission: &'static str) -> Self {
        self.access = Access::Permission(permission);
        self
    }

    /// Sets the emergency controls that close the route.
    pub(super) const fn closed_by(mut self, gate: Gate) -> Self {
        self.gate = gate;
        self
    }

    /// Sets the further documentation.
    pub(super) const fn describe(mut self, description: &'static str) -> Self {
        self.description = description;
        self
    }

    /// Sets the path parameters.
    pub(super) const fn path_parameters(mut self, parameters: &'static [Parameter]) -> Self {
        self.path_parameters = parameters;
        self
    }

    /// Sets the query parameters, which are the fields of this type.
    pub(super) const fn query<T: JsonSchema>(mut self) -> Self {
        self.query = Some(schema_of::<T>);
        self
    }

    /// Sets the headers that the route uses.
    pub(super) const fn headers(mut self, headers: &'static [Parameter]) -> Self {
        self.headers = headers;
        self
    }

    /// Sets the body to this type.
    pub(super) const fn body<T: JsonSchema + DeserializeOwned>(
        mut self,
        content: &'static [Content],
    ) -> Self {
        self.takes = Some(takes::<T>);
        self.body = content;
        self
    }

    /// Sets a body that a separate parser reads.
    pub(super) const fn body_in(mut self, content: &'static [Content]) -> Self {
        self.body = content;
        self
    }

    /// Lets the body be absent.
    pub(super) const fn or_without_body(mut self) -> Self {
        self.optional_body = true;
        self
    }

    /// Sets the successful answers.
    pub(super) const fn answers(mut self, answers: &'static [Answer]) -> Self {
        self.answers = answers;
        self
    }

    /// Adds error codes besides those that follow from the access, the parameters and the body.
    pub(super) const fn codes(mut self, codes: &'static [&'static Code]) -> Self {
        self.own_codes = codes;
        self
    }

    /// Sets the registry's error format, with these statuses.
    pub(super) const fn registry_errors(mut self, statuses: &'static [u16]) -> Self {
        self.errors = Errors::Registry(statuses);
        self
    }

    /// All error codes of the route, by status; empty if its errors are not problem details.
    pub fn codes_of_errors(&self) -> Vec<&'static Code> {
        let mut codes = self.own_codes.to_vec();
        if self.errors == Errors::Problem {
            if let Access::Permission(_) = self.access {
                codes.extend([
                    &UNAUTHORIZED,
                    &INVALID_KEY,
                    &PERMISSION_DENIED,
                    &RATE_LIMIT_EXCEEDED,
                    &LOG_UNAVAILABLE,
                    // For `Omnilink-On-Behalf-Of`.
                    &INVALID_PAYLOAD,
                ]);
            }
            match self.gate {
                Gate::None => {}
                Gate::Intake => codes.extend([&OMNILINK_DISABLED, &FEATURE_DISABLED]),
                Gate::Takeover => codes.push(&OPERATOR_TAKEOVER),
                Gate::Starts => {
                    codes.extend([&OMNILINK_DISABLED, &OPERATOR_TAKEOVER, &FEATURE_DISABLED]);
                }
            }
            if self.query.is_some() || !self.body.is_empty() {
                codes.push(&INVALID_PAYLOAD);
            }
            if !self.body.is_empty() {
                codes.extend([
                    &REQUEST_TIMEOUT,
                    &PAYLOAD_TOO_LARGE,
                    &UNSUPPORTED_MEDIA_TYPE,
                    &UNSUPPORTED_CONTENT_ENCODING,
                    &OVERLOADED,
                ]);
            }
        }
        codes.sort_by_key(|code| (code.status, code.code));
        codes.dedup();
        codes
    }

    /// The path with the example values of its parameters.
    pub fn example_path(&self) -> String {
        let mut path = self.path.to_owned();
        for parameter in self.path_parameters {
            path = path.replace(&format!("{{{}}}", parameter.name), parameter.example);
        }
        path
    }
}
