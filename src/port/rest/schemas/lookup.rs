//! Compares a schema sent by a client with ours: is it one of them, and would it be compatible with them?

use apache_avro::schema_compatibility::SchemaCompatibility;
use serde_json::{Map, Value};

use super::Refusal;
use crate::{
    api::registry::SentSchema,
    envelope::{foreign, schemas::Schema},
};

/// A schema that a client asks about.
pub(crate) struct Candidate {
    text: String,
    /// `None` if it is not Avro, or refers to other schemas, as none of ours does.
    form: Option<Value>,
}

impl Candidate {
    pub(crate) fn read(body: &[u8]) -> Result<Self, Refusal> {
        let sent: SentSchema =
            serde_json::from_slice(body).map_err(|e| Refusal::Body(e.to_string()))?;
        let text = sent.schema.unwrap_or_default();
        let avro = match sent.kind.as_deref() {
            None | Some("AVRO") => true,
            Some("JSON" | "PROTOBUF") => false,
            Some(other) => {
                let why = format!("there is no schema type `{other}`");
                return Err(Refusal::InvalidSchema(why));
            }
        };
        if text.is_empty() {
            return Err(Refusal::InvalidSchema("it is empty".into()));
        }
        if !avro || sent.references.is_some_and(|others| !others.is_empty()) {
            return Ok(Self { text, form: None });
        }
        foreign::Schema::parse(&text, &[]).map_err(|e| Refusal::InvalidSchema(e.message))?;
        let parsed: Value =
            serde_json::from_str(&text).map_err(|e| Refusal::InvalidSchema(e.to_string()))?;
        Ok(Self {
            text,
            form: Some(form(&parsed, "")),
        })
    }

    /// Whether it is this schema, regardless of how it is written.
    pub(crate) fn is(&self, schema: &Schema) -> bool {
        let ours = serde_json::from_str(schema.text);
        ours.is_ok_and(|ours: Value| self.form.as_ref() == Some(&form(&ours, "")))
    }

    /// Whether it can read data that was written with these schemas.
    pub(crate) fn reads_all(&self, earlier: &[&Schema]) -> Result<(), Incompatible> {
        if self.form.is_none() {
            return Err(Incompatible::NotAvro);
        }
        let reader = apache_avro::Schema::parse_str(&self.text)?;
        for writer in earlier {
            let parsed = apache_avro::Schema::parse_str(writer.text)?;
            SchemaCompatibility::can_read(&parsed, &reader)
                .map_err(|why| Incompatible::Version(writer.version, why))?;
        }
        Ok(())
    }
}

/// Why a schema is incompatible with earlier ones.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Incompatible {
    #[error("the subject's schemas are Avro without references")]
    NotAvro,
    #[error(transparent)]
    Schema(#[from] apache_avro::Error),
    #[error("it cannot read data of version {0}: {1}")]
    Version(u32, #[source] apache_avro::error::CompatibilityError),
}

/// Normalizes a schema: full names, no wrappers, no documentation.
fn form(schema: &Value, namespace: &str) -> Value {
    match schema {
        Value::String(name) => full(name, namespace).into(),
        Value::Array(variants) => variants.iter().map(|v| form(v, namespace)).collect(),
        Value::Object(shape) => object(shape, namespace),
        other => other.clone(),
    }
}

fn object(shape: &Map<String, Value>, namespace: &str) -> Value {
    let text = |name: &str| shape.get(name).and_then(Value::as_str);
    let kind = text("type").unwrap_or_default();
    let is_named = matches!(kind, "record" | "error" | "enum" | "fixed");
    let namespace = text("namespace").unwrap_or(namespace);
    let name = text("name").filter(|_| is_named);
    let name = name.map(|name| full(name, namespace));
    let within = match name.as_deref().and_then(|name| name.rsplit_once('.')) {
        Some((space, _)) => space,
        None if is_named => "",
        None => namespace,
    };
    let mut out = Map::new();
    for attribute in ["symbols", "size", "logicalType", "precision", "scale"] {
        if let Some(value) = shape.get(attribute) {
            out.insert(attribute.into(), value.clone());
        }
    }
    for part in ["items", "values"] {
        if let Some(value) = shape.get(part) {
            out.insert(part.into(), form(value, within));
        }
    }
    if let Some(fields) = shape.get("fields").and_then(Value::as_array) {
        let fields = fields.iter().map(|field| {
            let mut kept = Map::new();
            for attribute in ["name", "default", "aliases"] {
                if let Some(value) = field.get(attribute) {
                    kept.insert(attribute.into(), value.clone());
                }
            }
            kept.insert("type".into(), form(&field["type"], within));
            Value::Object(kept)
        });
        out.insert("fields".into(), fields.collect());
    }
    let kind = match shape.get("type") {
        Some(Value::String(kind)) if is_named || matches!(&**kind, "array" | "map") => {
            Value::from(kind.as_str())
        }
        Some(inner) => form(inner, within),
        None => Value::Null,
    };
    if out.is_empty() && name.is_none() {
        return kind;
    }
    if let Some(name) = name {
        out.insert("name".into(), name.into());
    }
    out.insert("type".into(), kind);
    Value::Object(out)
}

/// A type's full name; Avro's built-in types have no namespace.
fn full(name: &str, namespace: &str) -> String {
    const OWN: [&str; 8] = [
        "null", "boolean", "int", "long", "float", "double", "bytes", "string",
    ];
    if OWN.contains(&name) || name.contains('.') || namespace.is_empty() {
        return name.trim_start_matches('.').to_owned();
    }
    format!("{namespace}.{name}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::envelope::schemas;

    fn candidate(schema: &str) -> Candidate {
        let body = serde_json::json!({ "schema": schema, "schemaType": "AVRO", "references": [] });
        Candidate::read(body.to_string().as_bytes()).unwrap()
    }

    #[test]
    fn a_schema_is_known_however_it_is_written() {
        for schema in schemas::ALL {
            // The form that Avro's Rust library writes, and with the additions of the Java library.
            let parsed = apache_avro::Schema::parse_str(schema.text).unwrap();
            let written = serde_json::to_string(&parsed).unwrap();
            assert!(candidate(&written).is(schema), "{written}");
            let javas = schema.text.replace(
                r#""string""#,
                r#"{"type":"string","avro.java.string":"String"}"#,
            );
            assert!(candidate(&javas).is(schema), "{javas}");
            let others = schemas::ALL.iter().filter(|other| other.id != schema.id);
            for other in others {
                assert!(!candidate(schema.text).is(other));
            }
            let renamed = schema.text.replacen("\"name\": \"", "\"name\": \"x", 1);
            assert!(!candidate(&renamed).is(schema), "{renamed}");
        }
    }

    #[test]
    fn names_are_full_in_one_form() {
        let long = r#"{"type":"record","name":"a.b.R","doc":"d","fields":[{"name":"x","type":{"type":"a.b.R"},"doc":"d"},
            {"name":"e","type":{"type":"enum","name":"E","namespace":"a.b","symbols":["S"]}}]}"#;
        let short = r#"{"name":"R","namespace":"a.b","fields":[{"type":"R","name":"x"},
            {"name":"e","type":{"type":"enum","name":"E","symbols":["S"]}}],"type":"record"}"#;
        let form_of = |text: &str| form(&serde_json::from_str(text).unwrap(), "");
        assert_eq!(form_of(long), form_of(short));
        assert_ne!(form_of(long), form_of(&long.replace("\"x\"", "\"y\"")));
    }
}
