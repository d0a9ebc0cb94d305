//! The rules for the fields of an event, whatever form it was sent in.

use super::{Data, Event, Invalid, json, time::TIMES, uri::is_uri_reference};

/// The maximum length of `id`, `source`, `type`, `entity.type` and `entity.external_id`, in bytes.
pub const IDENTIFIER_MAX: usize = 512;

/// The maximum length of an extension attribute's name. CloudEvents 1.0.2 recommends 20, but extensions of other systems exceed that.
const EXTENSION_NAME_MAX: usize = 64;

/// Attributes with a field of their own in the Avro record, which must not appear among its extensions.
const FIELDS: [&str; 13] = [
    "causationid",
    "correlationid",
    "data",
    "entityid",
    "entityname",
    "entitytype",
    "id",
    "idempotencykey",
    "source",
    "specversion",
    "subject",
    "time",
    "type",
];

/// The nearest valid time.
pub(super) fn clamp_time(micros: i64) -> i64 {
    micros.clamp(*TIMES.start(), *TIMES.end())
}

/// Checks that a text is not empty, not too long, and without U+0000.
pub(super) fn identifier(field: &str, text: &str) -> Result<(), Invalid> {
    if text.is_empty() {
        return Err(Invalid::missing(field));
    }
    without_nul(field, text)?;
    if text.len() > IDENTIFIER_MAX {
        return Err(Invalid::payload(format!(
            "`{field}` has {} bytes; at most {IDENTIFIER_MAX} are allowed",
            text.len()
        )));
    }
    Ok(())
}

/// Checks that a text is without U+0000. Postgres cannot store it, and replacing it by U+FFFD would make two keys equal.
pub(super) fn without_nul(field: &str, text: &str) -> Result<(), Invalid> {
    if memchr::memchr(0, text.as_bytes()).is_some() {
        return Err(Invalid::payload(format!(
            "`{field}` must not contain U+0000"
        )));
    }
    Ok(())
}

/// Checks that a text is a URI reference.
pub(super) fn uri_reference(field: &str, text: &str) -> Result<(), Invalid> {
    if is_uri_reference(text) {
        return Ok(());
    }
    Err(Invalid::payload(format!(
        "`{field}` must be a URI reference (RFC 3986)"
    )))
}

/// Checks that an optional text is not empty.
pub(super) fn not_empty(field: &str, text: &str) -> Result<(), Invalid> {
    if text.is_empty() {
        return Err(Invalid::payload(format!(
            "`{field}` must not be empty; leave it out instead"
        )));
    }
    Ok(())
}

/// Checks a name that a producer gives to an extension attribute.
pub(super) fn extension_name(name: &str) -> Result<(), Invalid> {
    let good = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    if name.is_empty() || name.len() > EXTENSION_NAME_MAX || !name.bytes().all(good) {
        return Err(Invalid::payload(format!(
            "`{}` is no known field, nor the name of an extension attribute (1 to {EXTENSION_NAME_MAX} of [a-z0-9])",
            json::truncated(name)
        )));
    }
    if name.starts_with("omnilink") {
        return Err(Invalid::payload(format!(
            "`{name}`: names that begin with `omnilink` are reserved"
        )));
    }
    Ok(())
}

impl Event<'_> {
    /// Checks everything that decoding Avro ([`super::avro`]) does not: an event that someone else encoded must satisfy the same rules as
    /// one in JSON.
    pub fn check(&self) -> Result<(), Invalid> {
        identifier("id", &self.id)?;
        identifier("source", &self.source)?;
        uri_reference("source", &self.source)?;
        identifier("type", &self.kind)?;
        if let Some(entity) = &self.entity {
            identifier("entity_type", &entity.kind)?;
            identifier("entity_id", &entity.external_id)?;
            if let Some(name) = &entity.display_name {
                without_nul("display_name", name)?;
            }
        }
        if let Some(subject) = &self.subject {
            not_empty("subject", subject)?;
        }
        if !TIMES.contains(&self.time) {
            return Err(Invalid::payload("`time` lies outside the years 1 to 9999"));
        }
        if self.tombstone && self.entity.is_none() {
            return Err(no_entity());
        }
        if self.tombstone && self.data != Data::Absent {
            return Err(Invalid::payload("a tombstone has no data"));
        }
        if let Data::Json(text) = &self.data {
            // The same depth limit as for data inside a JSON envelope.
            json::scan(text.as_bytes(), 1)?;
        }
        if self.extensions != "{}" {
            check_extensions(&self.extensions)?;
        }
        Ok(())
    }
}

fn check_extensions(text: &str) -> Result<(), Invalid> {
    let mut scanner = json::Scanner::new(text);
    let members = scanner.enter_object()?;
    while scanner.next_member(&members)? {
        let (name, _) = scanner.name(&members)?;
        extension_name(&name)?;
        if FIELDS.contains(&&*name) {
            return Err(Invalid::payload(format!(
                "`{name}` is a field of its own, not an extension attribute"
            )));
        }
        let start = scanner.position();
        match scanner.scalar()?.0 {
            json::Value::Null | json::Value::Bool => {}
            json::Value::Text(text) => attribute(&name, &text)?,
            json::Value::Number { integer: true }
                if scanner.since(start).parse::<i32>().is_ok() => {}
            json::Value::Number { .. } | json::Value::Compound => return Err(not_scalar(&name)),
        }
    }
    scanner.leave_object(&members)?;
    Ok(scanner.end()?)
}

/// Checks the standard attributes that are stored among the extensions.
fn attribute(name: &str, text: &str) -> Result<(), Invalid> {
    match name {
        "dataschema" => not_empty(name, text).and_then(|()| uri_reference(name, text)),
        "datacontenttype" => not_empty(name, text),
        _ => Ok(()),
    }
}

fn no_entity() -> Invalid {
    Invalid {
        code: "missing_entity".into(),
        message: "a record with `tombstone` set must name an entity".into(),
    }
}

/// The error for an extension attribute whose value is not of a CloudEvents type.
pub(super) fn not_scalar(name: &str) -> Invalid {
    Invalid::payload(format!(
        "`{}`: an extension attribute is a string, a boolean or a 32-bit integer",
        json::truncated(name)
    ))
}
