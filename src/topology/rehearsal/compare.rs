//! What a test of a topology expected and what came, side by side.

use serde_json::{Map, Value, json};

use crate::topology::{run::message::envelope, syntax::trial::Expected};
use crate::{
    envelope::avro,
    log::{Fetched, header},
    stream::dlq,
};

/// A record as it is compared.
pub(crate) struct Came {
    partition: u32,
    /// Its value; of a dead letter and of what was throttled, why.
    pub(crate) value: Value,
    /// With key and headers.
    whole: Value,
}

fn utf8(bytes: Option<&[u8]>) -> Value {
    bytes.map_or(Value::Null, |b| {
        String::from_utf8_lossy(b).into_owned().into()
    })
}

fn parsed(bytes: Option<&[u8]>) -> Value {
    bytes
        .and_then(|b| serde_json::from_slice(b).ok())
        .unwrap_or_else(|| utf8(bytes))
}

/// A record of a topic, as its name in files says what it is.
pub(crate) fn came(topic: &str, fetched: &Fetched) -> Came {
    let record = &fetched.record;
    let headers: Map<String, Value> = record
        .headers
        .iter()
        .map(|(name, value)| (name.clone(), utf8(value.as_deref())))
        .collect();
    let said = |name: String| utf8(header(&record.headers, &name));
    let plain = parsed(record.value.as_deref());
    let value = match topic {
        "ingress" => {
            let bytes = record.value.clone().unwrap_or_default();
            match avro::decode_ingress(&bytes) {
                Ok(event) => {
                    let json = envelope(&event, &bytes).to_json().unwrap_or_default();
                    let mut value = parsed(Some(&json));
                    value["tenant"] = event.tenant.as_str().into();
                    value
                }
                _ => plain.clone(),
            }
        }
        "dlq" => {
            let why = |name: &str| said(format!("{}{name}", dlq::PREFIX));
            json!({
                "code": why("code"),
                "message": why("message"),
                "stage": why("stage"),
                "topic": why("topic"),
                "value": plain,
            })
        }
        "throttled" => {
            let why = |name: &str| said(format!("omnilink.throttled.{name}"));
            let number = |name: &str| {
                let text = why(name);
                text.as_str()
                    .and_then(|t| serde_json::from_str(t).ok())
                    .unwrap_or(text)
            };
            json!({
                "policy": why("policy"),
                "limit": number("limit"),
                "window_s": number("window_s"),
                "retry_at": why("retry_at"),
                "value": plain,
            })
        }
        _ => plain.clone(),
    };
    let whole = json!({ "key": utf8(record.key.as_deref()), "headers": headers, "value": value });
    Came {
        partition: fetched.partition,
        value,
        whole,
    }
}

/// Whether all that is expected is so; objects may have more fields.
fn holds(expected: &Value, is: &Value) -> bool {
    match (expected, is) {
        (Value::Object(expected), Value::Object(is)) => expected
            .iter()
            .all(|(name, value)| holds(value, is.get(name).unwrap_or(&Value::Null))),
        (Value::Array(expected), Value::Array(is)) => {
            expected.len() == is.len() && expected.iter().zip(is).all(|(e, i)| holds(e, i))
        }
        (Value::Number(expected), Value::Number(is)) => {
            expected == is || expected.as_f64() == is.as_f64()
        }
        (expected, is) => expected == is,
    }
}

/// Adds what differs between what was expected in a topic and what came.
pub(crate) fn compare(
    topic: &str,
    partitions: usize,
    expected: &[Expected],
    came: &[Came],
    diff: &mut Vec<String>,
) {
    let seen = |expected: &Expected, came: &Came| -> Value {
        if expected.whole {
            came.whole.clone()
        } else {
            came.value.clone()
        }
    };
    let mut used: Vec<Option<usize>> = vec![None; came.len()];
    let mut missing = Vec::new();
    for (number, record) in expected.iter().enumerate() {
        let found = came
            .iter()
            .enumerate()
            .position(|(at, c)| used[at].is_none() && holds(&record.value, &seen(record, c)));
        match found {
            Some(at) => used[at] = Some(number),
            None => missing.push(number),
        }
    }
    let mut lines = Vec::new();
    let left: Vec<usize> = (0..came.len()).filter(|at| used[*at].is_none()).collect();
    for (at, number) in missing.iter().enumerate() {
        let record = &expected[*number];
        if let Some(other) = left.get(at) {
            lines.push(format!("  record {} is otherwise:", number + 1));
            differences(&record.value, &seen(record, &came[*other]), "", &mut lines);
        } else {
            lines.push(format!("  - {}", record.value));
        }
    }
    for other in left.iter().skip(missing.len()) {
        lines.push(format!("  + {}", came[*other].value));
    }
    // Records of one partition have an order.
    let mut latest = vec![0; partitions];
    for (at, number) in used.iter().enumerate() {
        let Some(number) = number else { continue };
        let latest = &mut latest[came[at].partition as usize];
        if number + 1 < *latest {
            lines.push(format!(
                "  record {} came after record {latest}",
                number + 1
            ));
        }
        *latest = (*latest).max(number + 1);
    }
    if !lines.is_empty() {
        diff.push(format!(
            "{topic}: {} expected (-), {} came (+)",
            counted(expected.len()),
            came.len()
        ));
        diff.append(&mut lines);
    }
}

fn counted(records: usize) -> String {
    if records == 1 {
        "1 record".into()
    } else {
        format!("{records} records")
    }
}

fn differences(expected: &Value, is: &Value, path: &str, lines: &mut Vec<String>) {
    if let (Value::Object(expected), Value::Object(is)) = (expected, is) {
        for (name, value) in expected {
            let inner = is.get(name).unwrap_or(&Value::Null);
            if !holds(value, inner) {
                differences(value, inner, &format!("{path}.{name}"), lines);
            }
        }
        return;
    }
    let path = if path.is_empty() { "." } else { path };
    lines.push(format!("    {path}"));
    lines.push(format!("    - {expected}"));
    lines.push(format!("    + {is}"));
}
