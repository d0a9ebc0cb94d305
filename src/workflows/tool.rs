//! A tool file.

use std::{fmt, sync::Arc};

use hyper::Uri;
use serde_json::{
    Value,
    value::{RawValue, to_raw_value},
};

use super::{schema::Schema, source::Source};
use crate::plans::{BUILTINS, Fault, Pointer, Tool, Worker};

/// A tool with its compiled schema.
#[derive(Clone)]
pub struct Definition {
    /// The tool.
    pub tool: Tool,
    /// `input_schema`, compiled.
    pub schema: Arc<Schema>,
    /// The definition that start records contain, as compact JSON: as in the file, without the secret. `None` for builtin tools, which every node has.
    pub kept: Option<Box<RawValue>>,
}

impl fmt::Debug for Definition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Definition").field(&self.tool.name).finish()
    }
}

impl Definition {
    /// The builtin tools.
    pub(super) fn builtins() -> impl Iterator<Item = Self> {
        BUILTINS.values().filter_map(|tool| {
            // All of them compile: a test checks it.
            let schema = Schema::compile(&tool.input_schema).ok()?;
            Some(Self {
                tool: tool.clone(),
                schema: Arc::new(schema),
                kept: None,
            })
        })
    }

    /// Reads a file and reports all its faults.
    pub(super) fn read(source: &mut Source) -> Option<Self> {
        let root = Pointer::root();
        let tool = match Tool::read(&source.json) {
            Ok(tool) => tool,
            Err(faults) => {
                source.report_all(&root, &faults);
                return None;
            }
        };
        let mut faults = Vec::new();
        if BUILTINS.contains_key(tool.name.as_str()) {
            let message = format!("`{}` is the name of a builtin tool", tool.name);
            faults.push(Fault::new(&root.at("name"), message));
        }
        if let Worker::Http { url, secret } = &tool.worker {
            let at = root.at("worker").at("http");
            if let Some(message) = url_fault(url) {
                faults.push(Fault::new(&at.at("url"), message));
            }
            if secret.as_ref().is_some_and(|secret| !is_secret(secret)) {
                let mut fault = Fault::new(
                    &at.at("secret"),
                    "`secret` must be `whsec_` and base64, or a reference",
                );
                fault.note = Some("a reference is `env:NAME` or `file:PATH`".into());
                faults.push(fault);
            }
        }
        if tool.worker == Worker::Kafka && tool.limit.is_some() {
            let mut fault = Fault::new(
                &root.at("limit"),
                "a tool with `worker: {kafka: {}}` has no `limit`: its workers take calls from the topic by themselves",
            );
            fault.note = Some("with `worker: {claim: {}}` limits hold over all workers".into());
            faults.push(fault);
        }
        let schema = match Schema::compile(&tool.input_schema) {
            Ok(schema) => Some(schema),
            Err(wrong) => {
                faults.push(invalid_schema("input_schema", &wrong));
                None
            }
        };
        let good = faults.is_empty();
        source.report_all(&root, &faults);
        let kept = to_raw_value(&without_secret(&source.json)).ok()?;
        let definition = Self {
            tool,
            schema: Arc::new(schema?),
            kept: Some(kept),
        };
        good.then_some(definition)
    }

    /// Its size in a start record, in bytes.
    pub(super) fn size(&self) -> usize {
        let kept = self.kept.as_ref().map_or(0, |kept| kept.get().len());
        kept + self.tool.name.len() + 4
    }
}

/// The fault of an invalid schema, at the position within it.
pub(super) fn invalid_schema(name: &str, wrong: &super::schema::Mismatch) -> Fault {
    let mut at = Pointer::root().at(name);
    for part in wrong.at.split('/').skip(1) {
        at = at.at(part.replace("~1", "/").replace("~0", "~"));
    }
    Fault::new(&at, format!("not a JSON Schema: {}", wrong.message))
}

fn url_fault(url: &str) -> Option<&'static str> {
    let Ok(parsed) = url.parse::<Uri>() else {
        return Some("not a URL");
    };
    let scheme = parsed.scheme_str().unwrap_or_default();
    let authority = parsed
        .authority()
        .map_or("", |authority| authority.as_str());
    if !matches!(scheme, "http" | "https") || authority.is_empty() {
        Some("`url` must be a URL such as https://tools.example.com/pay")
    } else if authority.contains('@') {
        // It would be stored with every run.
        Some("`url` must not hold a user or a password")
    } else {
        None
    }
}

/// `whsec_` and base64 of 24 to 64 bytes (Standard Webhooks), or a reference.
fn is_secret(text: &str) -> bool {
    use base64::{Engine, engine::general_purpose::STANDARD};
    if let Some(encoded) = text.strip_prefix("whsec_") {
        let bytes = STANDARD.decode(encoded);
        return bytes.is_ok_and(|bytes| (24..=64).contains(&bytes.len()));
    }
    let name = text
        .strip_prefix("env:")
        .or_else(|| text.strip_prefix("file:"));
    name.is_some_and(|name| !name.is_empty())
}

fn without_secret(json: &Value) -> Value {
    let mut json = json.clone();
    if let Some(Value::Object(http)) = json.pointer_mut("/worker/http") {
        http.remove("secret");
    }
    json
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_builtins_have_a_schema() {
        assert_eq!(Definition::builtins().count(), BUILTINS.len());
    }
}
