//! The builtin tools, which exist without a file.

use std::{collections::BTreeMap, sync::LazyLock};

use serde_json::{Value, json};

use super::tool::{Builtin, Kind, Lane, Risk, Tool, Worker};
use crate::base::id::TEXT_MAX;

/// The format, in schemas of inputs, of the name of a signal: a text that [`text_is_good`](crate::base::id::text_is_good) accepts, as for
/// signals that are sent. JSON Schema itself counts characters, not bytes.
pub const SIGNAL_FORMAT: &str = "omnilink-signal";

/// The builtin tools, by name.
pub static BUILTINS: LazyLock<BTreeMap<&'static str, Tool>> = LazyLock::new(|| {
    let all = Builtin::ALL.into_iter();
    all.map(|builtin| (builtin.name(), tool(builtin))).collect()
});

fn tool(builtin: Builtin) -> Tool {
    let kind = match builtin {
        // What a request does is not known.
        Builtin::Http => None,
        Builtin::RecordCreate => Some(Kind::Write),
        _ => Some(Kind::Read),
    };
    Tool {
        name: builtin.name().to_owned(),
        description: description(builtin).to_owned(),
        input_schema: input_schema(builtin),
        worker: Worker::Builtin(builtin),
        kind,
        risk: Risk {
            lane: kind.map(|_| Lane::Safe),
            params: BTreeMap::new(),
        },
        compensate: None,
        irreversible: false,
        timeout_ms: None,
        retry: super::step::Retry::default(),
        limit: None,
        on_exhausted: None,
        queue_timeout_ms: None,
        pii_plain: false,
    }
}

const fn description(builtin: Builtin) -> &'static str {
    match builtin {
        Builtin::Noop => "Returns its input.",
        Builtin::Emit => "Appends an event to `ingress`.",
        Builtin::Wait => "Waits for a time, a signal or the first of several signals.",
        Builtin::Approve => "Waits until a person approves.",
        Builtin::Http => "Sends a request to an allowed host; returns status, headers and body.",
        Builtin::SqlQuery => {
            "Reads rows from Postgres with one SELECT; returns them as a list of objects."
        }
        Builtin::RecordCreate => {
            "Adds a row to a configured table, once per step however often it is retried; returns the row."
        }
    }
}

fn input_schema(builtin: Builtin) -> Value {
    let identifier = json!({ "type": "string", "minLength": 1, "maxLength": 512 });
    let signal =
        json!({ "type": "string", "minLength": 1, "maxLength": TEXT_MAX, "format": SIGNAL_FORMAT });
    let seconds = json!({ "type": "number", "exclusiveMinimum": 0, "maximum": 34_560_000 });
    match builtin {
        Builtin::Noop => Value::Bool(true),
        Builtin::Emit => json!({
            "type": "object",
            "required": ["type", "data"],
            "additionalProperties": false,
            "properties": {
                "type": identifier, "source": identifier, "subject": { "type": "string", "minLength": 1 },
                "entity": {
                    "type": "object", "required": ["type", "external_id"], "additionalProperties": false,
                    "properties": { "type": identifier, "external_id": identifier, "display_name": { "type": "string" } }
                },
                "data": true
            }
        }),
        Builtin::Wait => json!({
            "type": "object",
            "oneOf": [
                { "required": ["for_s"], "additionalProperties": false, "properties": { "for_s": seconds } },
                {
                    "required": ["signal"], "additionalProperties": false,
                    "properties": { "signal": signal, "timeout_s": seconds }
                },
                {
                    "required": ["any"], "additionalProperties": false,
                    "properties": { "any": { "type": "array", "items": signal, "minItems": 1, "maxItems": 100 }, "timeout_s": seconds }
                }
            ]
        }),
        Builtin::Approve => json!({
            "type": "object", "required": ["message"], "additionalProperties": false,
            "properties": { "message": { "type": "string", "minLength": 1, "maxLength": 10_000 } }
        }),
        Builtin::Http => json!({
            "type": "object",
            "required": ["method", "url"],
            "additionalProperties": false,
            "properties": {
                "method": { "enum": ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"] },
                "url": { "type": "string", "pattern": "^https?://" },
                "headers": { "type": "object", "additionalProperties": { "type": "string" } },
                "body": true
            }
        }),
        Builtin::SqlQuery => json!({
            "type": "object",
            "required": ["sql"],
            "additionalProperties": false,
            "properties": {
                "sql": { "type": "string", "minLength": 1, "maxLength": 65536 },
                "params": { "type": "array", "maxItems": 100 }
            }
        }),
        Builtin::RecordCreate => json!({
            "type": "object",
            "required": ["table", "values"],
            "additionalProperties": false,
            "properties": {
                "table": { "type": "string", "minLength": 1, "maxLength": 128 },
                "values": { "type": "object" }
            }
        }),
    }
}
