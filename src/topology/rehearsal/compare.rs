//! Compares the expected records of a topology test with the actual ones.

use serde_json::{Map, Value, json};

use crate::topology::{run::message::envelope, syntax::trial::Expected};
use crate::{
    envelope::avro,
    log::{Fetched, header},
    stream::dlq,
};

/// An actual record, in the form in which it is compared.
pub(crate) struct ActualRecord {
    partition: u32,
    /// The value; for dead letters and throttled records an object with the reason and the value.
    pub(crate) value: Value,
    /// An object with key, headers and value.
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

/// Converts a record of a topic, which is named as in topology files.
pub(crate) fn actual_record(topic: &str, fetched: &Fetched) -> ActualRecord {
    let record = &fetched.record;
    let headers: Map<String, Value> = record
        .headers
        .iter()
        .map(|(name, value)| (name.clone(), utf8(value.as_deref())))
        .collect();
    let header_text = |name: String| utf8(header(&record.headers, &name));
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
            let why = |name: &str| header_text(format!("{}{name}", dlq::PREFIX));
            json!({
                "code": why("code"),
                "message": why("message"),
                "stage": why("stage"),
                "topic": why("topic"),
                "value": plain,
            })
        }
        "throttled" => {
            let why = |name: &str| header_text(format!("omnilink.throttled.{name}"));
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
    ActualRecord {
        partition: fetched.partition,
        value,
        whole,
    }
}

/// Whether a value matches the expected one; objects may have more fields.
fn matches(expected: &Value, actual: &Value) -> bool {
    match (expected, actual) {
        (Value::Object(expected), Value::Object(actual)) => expected
            .iter()
            .all(|(name, value)| matches(value, actual.get(name).unwrap_or(&Value::Null))),
        (Value::Array(expected), Value::Array(actual)) => {
            expected.len() == actual.len()
                && expected.iter().zip(actual).all(|(e, a)| matches(e, a))
        }
        (Value::Number(expected), Value::Number(actual)) => {
            expected == actual || expected.as_f64() == actual.as_f64()
        }
        (expected, actual) => expected == actual,
    }
}

/// Adds the differences between the expected and the actual records of a topic.
pub(crate) fn compare(
    topic: &str,
    partitions: usize,
    expected: &[Expected],
    actual: &[ActualRecord],
    diff: &mut Vec<String>,
) {
    let part = |expected: &Expected, actual: &ActualRecord| -> Value {
        if expected.whole {
            actual.whole.clone()
        } else {
            actual.value.clone()
        }
    };
    let mut used: Vec<Option<usize>> = vec![None; actual.len()];
    let mut missing = Vec::new();
    for (number, record) in expected.iter().enumerate() {
        let found = actual
            .iter()
            .enumerate()
            .position(|(at, c)| used[at].is_none() && matches(&record.value, &part(record, c)));
        match found {
            Some(at) => used[at] = Some(number),
            None => missing.push(number),
        }
    }
    let mut lines = Vec::new();
    let left: Vec<usize> = (0..actual.len()).filter(|at| used[*at].is_none()).collect();
    for (at, number) in missing.iter().enumerate() {
        let record = &expected[*number];
        if let Some(other) = left.get(at) {
            lines.push(format!("  record {} differs:", number + 1));
            differences(
                &record.value,
                &part(record, &actual[*other]),
                "",
                &mut lines,
            );
        } else {
            lines.push(format!("  - {}", record.value));
        }
    }
    for other in left.iter().skip(missing.len()) {
        lines.push(format!("  + {}", actual[*other].value));
    }
    // Records of a partition must be in the expected order.
    let mut latest = vec![0; partitions];
    for (at, number) in used.iter().enumerate() {
        let Some(number) = number else { continue };
        let latest = &mut latest[actual[at].partition as usize];
        if number + 1 < *latest {
            lines.push(format!(
                "  record {} is out of order: it follows record {latest}",
                number + 1
            ));
        }
        *latest = (*latest).max(number + 1);
    }
    if !lines.is_empty() {
        diff.push(format!(
            "{topic}: {} expected (-), {} found (+)",
            counted(expected.len()),
            actual.len()
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

fn differences(expected: &Value, actual: &Value, path: &str, lines: &mut Vec<String>) {
    if let (Value::Object(expected), Value::Object(actual)) = (expected, actual) {
        for (name, value) in expected {
            let inner = actual.get(name).unwrap_or(&Value::Null);
            if !matches(value, inner) {
                differences(value, inner, &format!("{path}.{name}"), lines);
            }
        }
        return;
    }
    let path = if path.is_empty() { "." } else { path };
    lines.push(format!("    {path}"));
    lines.push(format!("    - {expected}"));
    lines.push(format!("    + {actual}"));
}
