//! A shape file: dialect and mapping of a source, without its secrets, and tests with requests and the expected events.

use std::{collections::BTreeMap, ops::Range, sync::Arc, time::Instant};

use serde::{Deserialize, de::IgnoredAny};
use serde_json::{Value, json};
use serde_saphyr::Spanned;

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
    topology::{Problem, Severity, SourceFile},
};

/// The time of receipt of the tests' requests: 2025-01-01T00:00:00Z, as in the tests of topologies.
const NOW: Millis = Millis(1_735_689_600_000);
/// Base64 of `secret`: a definition requires a secret, but the requests of tests are not signed.
const PLACEHOLDER: &str = "c2VjcmV0";

/// A parsed file.
#[derive(Clone, Debug)]
pub struct Shape {
    /// A source without secrets; no signature is valid until it has some.
    pub source: Source,
    cases: Vec<TestCase>,
}

/// A test and its differences from what the file expects; none if it passed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TestResult {
    /// The test's name.
    pub name: String,
    /// The line of its name, from 1.
    pub line: usize,
    /// The duration in milliseconds.
    pub ms: u64,
    /// The differences, described for people.
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
    tests: Vec<TestCase>,
}

#[derive(Clone, Deserialize, Debug)]
#[serde(deny_unknown_fields)]
struct TestCase {
    name: Spanned<String>,
    given: GivenRequest,
    then: Value,
}

#[derive(Clone, Deserialize, Debug)]
#[serde(deny_unknown_fields)]
struct GivenRequest {
    #[serde(default)]
    headers: BTreeMap<String, String>,
    /// A string is the body itself; any other value is sent as JSON.
    body: Value,
}

/// Detects whether a file is a shape rather than a topology.
#[derive(Deserialize)]
struct Probe {
    dialect: Option<IgnoredAny>,
}

impl Shape {
    /// Whether a file is a shape: it has a `dialect`, unlike a topology.
    pub fn is_one(yaml: &str) -> bool {
        match serde_saphyr::from_str::<Probe>(yaml) {
            Ok(probe) => probe.dialect.is_some(),
            // The file has errors, so only its text can be checked.
            Err(_) => yaml.lines().any(|line| line.starts_with("dialect:")),
        }
    }

    /// Like [`Shape::parse`], but errors have their place in the file.
    pub fn read(file: SourceFile) -> Result<Self, Vec<Problem>> {
        let read = serde_saphyr::from_str::<File>(&file.text);
        let problem = |file: &Arc<SourceFile>, span: Range<usize>, message: String| Problem {
            file: Arc::clone(file),
            span,
            severity: Severity::Error,
            message,
            notes: Vec::new(),
        };
        if let Err(error) = &read {
            let at = error.location().map_or(0, |at| {
                let line = (at.line() as usize).saturating_sub(1);
                let before = file.text.split_inclusive('\n').take(line);
                let start: usize = before.map(str::len).sum();
                start + (at.column() as usize).saturating_sub(1)
            });
            let message = error.without_snippet().to_string();
            return Err(vec![problem(&Arc::new(file), at..at, message)]);
        }
        Self::parse(&file.text).map_err(|faults| {
            let file = Arc::new(file);
            let faults = faults.into_iter();
            let problems = faults.map(|fault| {
                let span = span_of(&file.text, &fault.pointer);
                problem(
                    &file,
                    span,
                    format!("`{}`: {}", fault.pointer, fault.message),
                )
            });
            problems.collect()
        })
    }

    /// Parses a YAML file: `{name, dialect, mapping?, hmac?, odoo?, tests: [{name, given: {headers?, body}, then}]}`.
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
            cases: file.tests,
        })
    }

    /// Runs all tests of the file.
    pub fn run(&self, tenant: &Tenant) -> Vec<TestResult> {
        let cases = self.cases.iter();
        let results = cases.map(|case| {
            let began = Instant::now();
            let mut differences = Vec::new();
            compare(
                "",
                &case.then,
                &self.becomes(&case.given, tenant),
                &mut differences,
            );
            TestResult {
                name: case.name.value.clone(),
                line: case.name.referenced.line() as usize,
                ms: began.elapsed().as_millis() as u64,
                differences,
            }
        });
        results.collect()
    }

    fn becomes(&self, given: &GivenRequest, tenant: &Tenant) -> Value {
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

/// The place in the file of what a pointer refers to, as far as its names can be found in the text.
fn span_of(text: &str, pointer: &str) -> Range<usize> {
    let mut span = 0..0;
    for name in pointer.split('/').skip(1) {
        let from = span.end;
        let found = text[from..]
            .match_indices(name)
            .find(|(at, _)| text[from + at + name.len()..].starts_with(':'));
        let Some((at, _)) = found else { break };
        span = from + at..from + at + name.len();
    }
    span
}

/// An event in the format of a mapping's output.
fn shown(event: &Event<'_>) -> Value {
    let mut shown = json!({ "id": event.id, "source": event.source, "type": event.kind, "time": Rfc3339(event.time).to_string(),
        "subject": event.subject, "correlationid": event.correlation_id, "causationid": event.causation_id });
    if let Some(entity) = &event.entity {
        shown["entity"] = json!({ "type": entity.kind, "external_id": entity.external_id, "display_name": entity.display_name });
    }
    if let Data::Json(text) = &event.data {
        // The text was already validated as JSON.
        shown["data"] = serde_json::from_str(text).unwrap_or_default();
    }
    shown
}

/// Expected members must match; further members may have any value.
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
        _ => differences.push(format!("{at}: expected {expected}, got {got}")),
    }
}
