//! What a line of the table of routes consists of.

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::DeserializeOwned;

use super::problem::{
    Code, FEATURE_DISABLED, INVALID_KEY, INVALID_PAYLOAD, LOG_UNAVAILABLE, OMNILINK_DISABLED,
    OPERATOR_TAKEOVER, PAYLOAD_TOO_LARGE, PERMISSION_DENIED, RATE_LIMIT_EXCEEDED, REQUEST_TIMEOUT,
    UNAUTHORIZED, UNSUPPORTED_CONTENT_ENCODING, UNSUPPORTED_MEDIA_TYPE,
};

/// `application/json`.
pub const JSON: &str = "application/json";
/// Lines of JSON.
pub const NDJSON: &str = "application/x-ndjson";

/// Adds a type to a document; the result is its schema, or a reference to it.
pub type SchemaOf = fn(&mut SchemaGenerator) -> Schema;

fn schema_of<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    generator.subschema_for::<T>()
}

/// The method of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Method {
    /// `GET`, and so `HEAD`.
    Get,
    /// `POST`.
    Post,
    /// `PATCH`.
    Patch,
    /// `DELETE`.
    Delete,
}

impl Method {
    /// As it is sent.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Post => "POST",
            Self::Patch => "PATCH",
            Self::Delete => "DELETE",
        }
    }
}

/// Who may use a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Everyone, without a key.
    Open,
    /// Who has a key with this permission. A key with `operator` may use every route but those through which events and starts come in.
    Permission(&'static str),
}

/// Which emergency controls close a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gate {
    /// None: it reads, ends or finishes something, or is for operators.
    None,
    /// The kill switch.
    Intake,
    /// Operator take-over, for all but persons: what ends a run.
    Takeover,
    /// Both: starts, decisions and the other controls of runs.
    Starts,
}

/// What routes are for; the groups of the documentation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tag {
    /// Events come in.
    Events,
    /// Commands, workflows, goals and tasks come in.
    Starts,
    /// Runs: how they are, what controls them, and what people decide.
    Runs,
    /// Keys.
    Keys,
    /// Sources of webhooks, and what they send.
    Webhooks,
    /// Logins of Postgres.
    Readers,
    /// The emergency controls.
    Controls,
    /// Who did what.
    Audit,
    /// The history.
    Replay,
    /// Dead letters.
    DeadLetters,
    /// The log and the projections.
    Operations,
    /// The schemas of the topics.
    SchemaRegistry,
    /// The node.
    Node,
}

impl Tag {
    /// All, in the order of the documentation.
    pub const ALL: [Self; 13] = [
        Self::Events,
        Self::Starts,
        Self::Runs,
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

    /// Its heading.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Events => "Events",
            Self::Starts => "Starts",
            Self::Runs => "Runs",
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

    /// What its routes are for; Markdown.
    pub const fn description(self) -> &'static str {
        match self {
            Self::Events => "Events come in.",
            Self::Starts => {
                "Commands, workflows, goals and tasks: what starts runs. This version checks them and does not carry out runs yet, \
                 so each that passes all checks is answered with 503 `feature_disabled`."
            }
            Self::Runs => "Runs: how they are, what controls them, and what people decide.",
            Self::Keys => "API keys of a tenant.",
            Self::Webhooks => "Sources of webhooks, and the routes that their senders call.",
            Self::Readers => "Which login of Postgres sees which tenant.",
            Self::Controls => {
                "Emergency controls, over all tenants: they hold on every node within a second."
            }
            Self::Audit => "Who did what, and which webhook requests were turned away.",
            Self::Replay => "The history, read back in the order in which it was appended.",
            Self::DeadLetters => "Records that were rejected, with why, and their way back.",
            Self::Operations => "Topics, lag and projections, over all tenants.",
            Self::SchemaRegistry => {
                "The Avro schemas of OmniLink's own topics, read-only, on the paths of Confluent's Schema Registry."
            }
            Self::Node => "How the node is, and this documentation.",
        }
    }
}

/// A part of the path in braces, or a header.
#[derive(Debug, Clone, Copy)]
pub struct Parameter {
    /// Its name.
    pub name: &'static str,
    /// What it says.
    pub description: &'static str,
    /// A value.
    pub example: &'static str,
}

/// The header that all routes with a key take.
pub(super) const ON_BEHALF_OF: Parameter = Parameter {
    name: "Omnilink-On-Behalf-Of",
    description: "The user for whom the request is made: at most 256 bytes of UTF-8, as they are. Needs the permission `act_as`; \
        it is recorded beside the key's principal.",
    example: "ann@example.com",
};

/// A body in one media type.
#[derive(Debug, Clone, Copy)]
pub struct Content {
    /// The media type.
    pub media: &'static str,
    /// The schema of the body, or of a line of it; `None`: it is no JSON.
    pub schema: Option<SchemaOf>,
    /// An example: JSON where there is a schema.
    pub example: Option<&'static str>,
}

impl Content {
    /// JSON in this media type.
    pub const fn json<T: JsonSchema>(media: &'static str, example: &'static str) -> Self {
        Self {
            media,
            schema: Some(schema_of::<T>),
            example: Some(example),
        }
    }

    /// What has no schema.
    pub const fn other(media: &'static str) -> Self {
        Self {
            media,
            schema: None,
            example: None,
        }
    }
}

/// A good answer.
#[derive(Debug, Clone, Copy)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// What it says.
    pub description: &'static str,
    /// Its body, in each media type that it may have; empty: none.
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
    /// As Confluent's Schema Registry words them, with these statuses.
    Registry(&'static [u16]),
}

/// A route. It begins with [`Route::new`]; the rest is added to it.
#[derive(Debug, Clone, Copy)]
pub struct Route {
    /// The method.
    pub method: Method,
    /// The path, with parameters in braces.
    pub path: &'static str,
    /// Who may use it.
    pub access: Access,
    /// Which emergency controls close it.
    pub gate: Gate,
    /// Its group.
    pub tag: Tag,
    /// What it does, in a few words.
    pub summary: &'static str,
    /// What else there is to know; Markdown.
    pub description: &'static str,
    /// The parts of the path in braces.
    pub path_parameters: &'static [Parameter],
    /// The parameters of the query string: the properties of this schema.
    pub query: Option<SchemaOf>,
    /// Headers that mean something here.
    pub headers: &'static [Parameter],
    /// The body, in each media type that it may have; empty: none.
    pub body: &'static [Content],
    /// Whether an example of a body is one that the route's own type takes.
    pub takes: Option<Takes>,
    /// The good answers.
    pub answers: &'static [Answer],
    /// The form of its errors.
    pub errors: Errors,
    /// Codes beside those that come with the access, the parameters and the body.
    pub own_codes: &'static [&'static Code],
}

/// Reads a body, to see whether a type takes it.
pub type Takes = fn(&str) -> Result<(), serde_json::Error>;

fn takes<T: DeserializeOwned>(text: &str) -> Result<(), serde_json::Error> {
    serde_json::from_str::<T>(text).map(drop)
}

impl Route {
    /// A route that is open and has no parameters, no body and no answers yet.
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
            takes: None,
            answers: &[],
            errors: Errors::Problem,
            own_codes: &[],
        }
    }

    /// It needs a key with this permission.
    pub(super) const fn needs(mut self, permission: &'static str) -> Self {
        self.access = Access::Permission(permission);
        self
    }

    /// These emergency controls close it.
    pub(super) const fn closed_by(mut self, gate: Gate) -> Self {
        self.gate = gate;
        self
    }

    /// More about it.
    pub(super) const fn describe(mut self, description: &'static str) -> Self {
        self.description = description;
        self
    }

    /// The parts of the path in braces.
    pub(super) const fn path_parameters(mut self, parameters: &'static [Parameter]) -> Self {
        self.path_parameters = parameters;
        self
    }

    /// The parameters of the query string are the fields of this type.
    pub(super) const fn query<T: JsonSchema>(mut self) -> Self {
        self.query = Some(schema_of::<T>);
        self
    }

    /// Headers that mean something here.
    pub(super) const fn headers(mut self, headers: &'static [Parameter]) -> Self {
        self.headers = headers;
        self
    }

    /// The body is one of this type.
    pub(super) const fn body<T: JsonSchema + DeserializeOwned>(
        mut self,
        content: &'static [Content],
    ) -> Self {
        self.takes = Some(takes::<T>);
        self.body = content;
        self
    }

    /// The body is read by a parser of its own.
    pub(super) const fn body_in(mut self, content: &'static [Content]) -> Self {
        self.body = content;
        self
    }

    /// The good answers.
    pub(super) const fn answers(mut self, answers: &'static [Answer]) -> Self {
        self.answers = answers;
        self
    }

    /// Codes beside those that come with the access, the parameters and the body.
    pub(super) const fn codes(mut self, codes: &'static [&'static Code]) -> Self {
        self.own_codes = codes;
        self
    }

    /// Its errors are the registry's, with these statuses.
    pub(super) const fn registry_errors(mut self, statuses: &'static [u16]) -> Self {
        self.errors = Errors::Registry(statuses);
        self
    }

    /// All error codes that it answers with, by status; none where the errors are not problem details.
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
                    // Of `Omnilink-On-Behalf-Of`.
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
                ]);
            }
        }
        codes.sort_by_key(|code| (code.status, code.code));
        codes.dedup();
        codes
    }

    /// The path with the examples of its parameters.
    pub fn example_path(&self) -> String {
        let mut path = self.path.to_owned();
        for parameter in self.path_parameters {
            path = path.replace(&format!("{{{}}}", parameter.name), parameter.example);
        }
        path
    }
}
