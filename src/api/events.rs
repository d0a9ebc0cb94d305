//! `POST /v1/events`. Events themselves are parsed by [`crate::envelope`]; here is what the documentation says of them, and the
//! answer.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// What became of a request's events.
#[derive(Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Accepted {
    /// The request's id: 32 hexadecimal digits.
    pub request_id: String,
    /// What became of each event, in the order of the request.
    pub results: Vec<ItemResult>,
}

/// What became of an event.
#[derive(Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ItemResult {
    /// What became of it.
    pub status: ItemStatus,
    /// Its place in the request, from 0.
    pub index: usize,
    /// The id of the run that it starts: the same for each time that it is sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "uuid"))]
    pub run_id: Option<String>,
    /// Where the run is to be found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub poll_url: Option<String>,
    /// The id of its record: the same for each time that it is sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "uuid"))]
    pub record_id: Option<String>,
    /// Whether it was taken in before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duplicate: Option<bool>,
    /// Why it was refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ItemError>,
    /// When to send it again, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_seconds: Option<u32>,
}

/// Why an event was refused.
#[derive(Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ItemError {
    /// A stable code, one of those of problems.
    pub code: String,
    /// What is wrong, for people.
    pub message: String,
}

/// What became of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ItemStatus {
    /// It is in the log.
    Ingested,
    /// It is in the log, and its run is queued.
    Queued,
    /// It was in the log already, with the same body.
    Duplicate,
    /// A rate limit is used up.
    #[serde(rename = "rate_limited")]
    RateLimited,
    /// The key may not send it.
    Denied,
    /// It is no valid event.
    Invalid,
    /// It was not written now; `error` says why, and whether to send it again.
    Error,
}

impl ItemStatus {
    /// As it is written.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ingested => "ingested",
            Self::Queued => "queued",
            Self::Duplicate => "duplicate",
            Self::RateLimited => "rate_limited",
            Self::Denied => "denied",
            Self::Invalid => "invalid",
            Self::Error => "error",
        }
    }
}

/// An event as the documentation shows it: CloudEvents 1.0 in JSON, or the same fields without `specversion`.
pub enum Event {}

impl JsonSchema for Event {
    fn schema_name() -> Cow<'static, str> {
        "Event".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let text = |description: &str| {
            json_schema!({
                "type": "string", "minLength": 1, "maxLength": 512, "description": description
            })
        };
        json_schema!({
            "description": "An event: CloudEvents 1.0 in JSON, or the same fields without `specversion`. Other members are \
                extension attributes, with names of `a-z` and `0-9`. The tenant is the key's.",
            "type": "object",
            "required": ["id", "source", "type"],
            "properties": {
                "specversion": { "const": "1.0", "description": "The version of CloudEvents. Without it `data` is required." },
                "id": text("Unique for its source: the same id and source again is a duplicate."),
                "source": text("Where it comes from, a URI reference."),
                "type": text("What happened, such as `order.paid`."),
                "subject": { "type": ["string", "null"], "description": "What it is about." },
                "time": {
                    "type": ["string", "null"], "format": "date-time",
                    "description": "When it happened; the time of receipt unless given."
                },
                "datacontenttype": { "type": ["string", "null"], "description": "The media type of `data`." },
                "dataschema": { "type": ["string", "null"], "description": "The schema of `data`, a URI." },
                "data": { "description": "Any JSON value." },
                "data_base64": {
                    "type": ["string", "null"], "contentEncoding": "base64",
                    "description": "Binary data, instead of `data`."
                },
                "entity": {
                    "type": ["object", "null"],
                    "description": "The thing that it changes, whose `data` are merged into its state.",
                    "required": ["type", "external_id"],
                    "properties": {
                        "type": text("Its type, such as `order`."),
                        "external_id": text("Its id."),
                        "display_name": { "type": ["string", "null"], "description": "Its name, for people." }
                    }
                },
                "correlationid": { "type": ["string", "null"], "description": "What it belongs to." },
                "causationid": { "type": ["string", "null"], "description": "The id of the event that caused it." },
                "idempotencykey": { "type": ["string", "null"], "description": "Stands for an absent `Idempotency-Key`." },
                "traceparent": { "type": ["string", "null"], "description": "W3C trace context." },
                "tracestate": { "type": ["string", "null"], "description": "W3C trace context." }
            }
        })
    }
}

/// A body in `application/json`.
#[derive(JsonSchema)]
#[schemars(untagged)]
pub enum Events {
    /// One event.
    One(Event),
    /// A batch.
    Batch(Vec<Event>),
    /// A batch in an object.
    Object {
        /// The events.
        events: Vec<Event>,
    },
}
