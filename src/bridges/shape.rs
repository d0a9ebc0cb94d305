//! A shape in a file: dialect and mapping of a source, without its secrets, and tests that say what becomes of which request.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    call::Call,
    event::{Outcome, event},
    headers::Headers,
    members::Fault,
    refusal::Refusal,
    secrets::Secrets,
    signature::sha256_hex,
    source::Source,
};
use crate::{
    base::{clock::Millis, id::Tenant},
    envelope::{Data, Event, Rfc3339},
};

/// When the requests of tests come: 2025-01-01T00:00:00Z, as in the tests of topologies.
const NOW: Millis = Millis(1_735_689_600_000);
/// Base64 of `secret`: a definition needs one, and no request of a test is signed.
const PLACEHOLDER: &str = "c2VjcmV0";

/// A file that was read.
#[derive(Clone, Debug)]
pub struct Shape {
    /// A source without secrets: nothing is good under it until it has some.
    pub source: Source,
    trials: Vec<Trial>,
}

/// A test of a file, and what is not as it says; nothing when it passed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Tried {
    /// The test's name.
    pub name: String,
    /// Each difference, for people.
    pub differences: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    name: String,
    dialect: String,
    mapping: Option<String>,
    hmac: Option<Value>,
    odoo: Option<Value>,
    #[serde(default)]
    tests: Vec<Trial>,
}

#[derive(Clone, Deserialize, Debug)]
#[serde(deny_unknown_fields)]
struct Trial {
    name: String,
    given: Given,
    then: Value,
}

#[derive(Clone, Deserialize, Debug)]
#[serde(deny_unknown_fields)]
struct Given {
    #[serde(default)]
    headers: BTreeMap<String, String>,
    /// A text is the body as it is, anything else its JSON.
    body: Value,
}

impl Shape {
    /// Reads a file in YAML: `{name, dialect, mapping?, hmac?, odoo?, tests: [{name, given: {headers?, body}, then}]}`.
    pub fn parse(yaml: &str) -> Result<Self, Vec<Fault>> {
        let file: File = serde_saphyr::from_str(yaml).map_err(|e| {
            vec![Fault {
                pointer: String::new(),
                code: "invalid_payload".into(),
                message: e.to_string(),
            }]
        })?;
        let mut definition = json!({ "name": file.name, "dialect": file.dialect, "mapping": file.mapping,
            "hmac": file.hmac, "odoo": file.odoo });
        if file.dialect != "odoo-native" {
            definition["secrets"] = json!([PLACEHOLDER]);
        }
        let mut source = Source::parse(definition.to_string().as_bytes())?;
        source.secrets = Secrets::default();
        Ok(Self {
            source,
            trials: file.tests,
        })
    }

    /// Runs all tests of the file.
    pub fn run(&self, tenant: &Tenant) -> Vec<Tried> {
        let trials = self.trials.iter();
        let tried = trials.map(|trial| {
            let mut differences = Vec::new();
            compare(
                "",
                &trial.then,
                &self.becomes(&trial.given, tenant),
                &mut differences,
            );
            Tried {
                name: trial.name.clone(),
                differences,
            }
        });
        tried.collect()
    }

    fn becomes(&self, given: &Given, tenant: &Tenant) -> Value {
        let body = match &given.body {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        let headers = given.headers.iter();
        let headers: Vec<_> = headers
            .map(|(name, value)| (&**name, value.as_bytes()))
            .collect();
        let call = Call {
            headers: Headers(&headers),
            body: body.as_bytes(),
            now: NOW,
            source: &self.source.name,
            secrets: &self.source.secrets,
        };
        match self.made(&call, tenant) {
            Ok(Outcome::Event(received)) => shown(&received.parsed.event),
            Ok(Outcome::Challenge(challenge)) => json!({ "challenge": challenge }),
            Err(refusal) => {
                json!({ "status": refusal.status(), "code": refusal.code, "message": refusal.message })
            }
        }
    }

    fn made(&self, call: &Call<'_>, tenant: &Tenant) -> Result<Outcome, Refusal> {
        let delivery = match self.source.dialect.delivery_header() {
            Some(header) => call.headers.one(header)?,
            None => None,
        };
        let delivery = delivery.map_or_else(|| sha256_hex(&[call.body]), str::to_owned);
        event(&self.source, tenant, call, &delivery)
    }
}

/// An event as a mapping writes it.
fn shown(event: &Event<'_>) -> Value {
    let mut shown = json!({ "id": event.id, "source": event.source, "type": event.kind, "time": Rfc3339(event.time).to_string(),
        "subject": event.subject, "correlationid": event.correlation_id, "causationid": event.causation_id });
    if let Some(entity) = &event.entity {
        shown["entity"] = json!({ "type": entity.kind, "external_id": entity.external_id, "display_name": entity.display_name });
    }
    if let Data::Json(text) = &event.data {
        // Its JSON was checked.
        shown["data"] = serde_json::from_str(text).unwrap_or_default();
    }
    shown
}

/// What is said must be so; what else there is may be anything.
fn compare(at: &str, expected: &Value, got: &Value, differences: &mut Vec<String>) {
    match (expected, got) {
        (Value::Object(expected), Value::Object(got)) => {
            for (name, expected) in expected {
                let got = got.get(name).unwrap_or(&Value::Null);
                compare(&format!("{at}/{name}"), expected, got, differences);
            }
        }
        (Value::Number(a), Value::Number(b)) if a.as_f64() == b.as_f64() => {}
        (a, b) if a == b => {}
        _ => differences.push(format!("{at}: {expected} was expected, and there is {got}")),
    }
}
