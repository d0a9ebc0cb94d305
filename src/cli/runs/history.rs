//! `omnilink runs history`: prints the records of a run.

use hyper::Method;
use serde_json::Value;

use super::{Named, error};
use crate::cli::{Global, client::Client, output};

/// The path of a run's history, below the path of the run.
pub(super) const PART: &str = "/events";
/// Fields that have a separate column, or are the same for all records.
const NOT_IN_DETAIL: [&str; 8] = [
    "tenant",
    "run_id",
    "seq",
    "type",
    "at",
    "causation",
    "step_id",
    "kind",
];
/// The maximum length of a field's value, in characters; longer ones are cut.
const VALUE_MAX: usize = 120;

/// Prints all records.
pub(super) async fn print(global: &Global, client: &Client, run: &Named) -> anyhow::Result<()> {
    let heading = ["SEQ", "AT", "TYPE", "STEP", "DETAIL"];
    let mut all = Vec::new();
    let mut cursor: Option<String> = None;
    loop {
        let mut path = run.path(PART);
        if let Some(cursor) = &cursor {
            let begins = if path.contains('?') { '&' } else { '?' };
            path.push(begins);
            path.push_str("cursor=");
            path.push_str(&super::encoded(cursor).to_string());
        }
        let page = client.call(Method::GET, &path, None).await?.success()?;
        all.extend(page["items"].as_array().cloned().unwrap_or_default());
        cursor = page["next_cursor"].as_str().map(str::to_owned);
        if cursor.is_none() {
            break;
        }
    }
    if global.json {
        for record in &all {
            output::json(record)?;
        }
        return Ok(());
    }
    let rows: Vec<_> = all.iter().map(row).collect();
    output::table(&heading, &rows);
    Ok(())
}

/// A record as a row.
pub(super) fn row(record: &Value) -> Vec<String> {
    let text = |name: &str| match &record[name] {
        Value::String(text) => text.clone(),
        Value::Null => "-".to_owned(),
        other => other.to_string(),
    };
    vec![
        text("seq"),
        text("at"),
        text("type"),
        text("step_id"),
        detail(record),
    ]
}

/// The fields that are specific to the type of the record.
fn detail(record: &Value) -> String {
    let fields = record.as_object().into_iter().flatten();
    let fields = fields.filter(|(name, value)| {
        !NOT_IN_DETAIL.contains(&name.as_str()) && **value != Value::Bool(false)
    });
    let fields = fields.map(|(name, value)| {
        let shown = match value {
            Value::Object(_) if name == "error" => error(value),
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        let mut characters = shown.chars();
        let mut shown: String = characters.by_ref().take(VALUE_MAX).collect();
        if characters.next().is_some() {
            shown.push('…');
        }
        format!("{name}={shown}")
    });
    fields.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_record_is_a_row() {
        let record = json!({
            "tenant": "acme", "run_id": "r", "seq": 5, "type": "step_failed", "at": "2026-01-31T12:00:00Z", "causation": "result:0:7",
            "step_id": "pay", "attempt": 3, "error": { "code": "http_503", "message": "busy" }, "compensate": false
        });
        assert_eq!(
            row(&record),
            [
                "5",
                "2026-01-31T12:00:00Z",
                "step_failed",
                "pay",
                "attempt=3 error=http_503: busy"
            ]
        );
        let long = json!({ "seq": 1, "type": "step_succeeded", "output": "x".repeat(500) });
        assert_eq!(
            row(&long)[4].chars().count(),
            "output=".len() + VALUE_MAX + 1
        );
    }
}
