//! `POST /v1/events`. Events are parsed by [`crate::envelope`]; this file has their documentation, and the answer.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// The outcome of a request's events.
#[derive(Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Accepted {
    /// The request's id: 32 hexadecimal digits.
    pub request_id: String,
    /// The outcome of each event, in the order of the request.
    pub results: Vec<ItemResult>,
}

/// The outcome of an event.
#[derive(Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ItemResult {
    /// The status of the event.
    pub status: ItemStatus,
    /// Its index in the request, from 0.
    pub index: usize,
    /// The id of the run that it starts; always the same for the same start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "uuid"))]
    pub run_id: Option<String>,
    /// The URL of the run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub poll_url: Option<String>,
    /// The id of its record; always the same for the same event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "uuid"))]
    pub record_id: Option<String>,
    /// Whether it was already accepted before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duplicate: Option<bool>,
    /// The reason of a refusal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ItemError>,
    /// The delay before sending it again, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_seconds: Option<u32>,
}

/// Why an event was refused.
#[derive(Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ItemError {
    /// A stable code; the codes are those of problems.
    pub code: String,
    /// A description of the error, for people.
    pub message: String,
}

/// The outcome of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ItemStatus {
    /// The event is in the log.
    Ingested,
    /// The start is in the log, and its run is queued.
    Queued,
    /// It was already in the log, with the same body.
    Duplicate,
    /// A rate limit is exceeded.
    #[serde(rename = "rate_limited")]
    RateLimited,
    /// The key is not allowed to send it.
    Denied,
    /// It is not a valid event.
    Invalid,
    /// It was not written; `error` says why, and whether to send it again.
    Error,
}

impl ItemStatus {
    /// The name in JSON.
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

/// An event as documented: CloudEvents 1.0 in JSON, or the same fields without `specversion`.
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
                "source": text("The source of the event, a URI reference."),
                "type": text("The type of the event, such as `order.paid`."),
                "subject": { "type": ["string", "null"], "description": "The subject of the event." },
                "time": {
                    "type": ["string", "null"], "format": "date-time",
                    "description": "When it happened; default: the time of receipt."
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
                    "description": "The entity that it changes; `data` is merged into the entity's state.",
                    "required": ["type", "external_id"],
                    "properties": {
                        "type": text("Its type, such as `order`."),
                        "external_id": text("Its id."),
                        "display_name": { "type": ["string", "null"], "description": "Its name, for people." }
                    }
                },
                "correlationid": { "type": ["string", "null"], "description": "The id that related events share." },
                "causationid": { "type": ["string", "null"], "description": "The id of the event that caused it." },
                "idempotencykey": { "type": ["string", "null"], "description": "Used if the header `Idempotency-Key` is absent." },
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
