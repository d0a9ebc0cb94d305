//! Records of the topic `controls`: Avro (`schemas/controls.avsc`), keyed `tenant/kind/name`.

use std::sync::LazyLock;

use apache_avro::{Schema, reader::datum::GenericDatumReader, writer::datum::GenericDatumWriter};
use bytes::Bytes;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::versions::Stamp;
use crate::{base::clock::Millis, envelope::schemas, log::Record};

/// The kind of a key's record.
pub(super) const KEY: &str = "key";
/// The kind of a reader grant's record.
pub(super) const READER: &str = "reader";
/// The kind of an integration's record.
pub(super) const INTEGRATION: &str = "integration";
/// The name of the record of the emergency controls.
pub(super) const EMERGENCY: Name<'static> = ("-", "emergency", "controls");
/// The name of the record that marks the upgrade of the topic to versions.
pub(super) const UPGRADE: Name<'static> = ("-", "upgrade", "versions");

/// The schema id before the value, as in Confluent's wire format.
pub const SCHEMA_ID: u32 = schemas::CONTROLS.id;

/// The Avro schema, as JSON.
pub const SCHEMA: &str = schemas::CONTROLS.text;

static PARSED: LazyLock<Schema> = LazyLock::new(|| match Schema::parse_str(SCHEMA) {
    Ok(schema) => schema,
    Err(e) => unreachable!("the schema is compiled in, and a test parses it: {e}"),
});

/// Tenant, kind and name: the parts of a record's key.
pub(super) type Name<'a> = (&'a str, &'a str, &'a str);

/// A body with its version, a field that earlier releases ignore.
#[derive(Serialize)]
pub(super) struct Versioned<T> {
    pub(super) version: u64,
    #[serde(flatten)]
    pub(super) body: T,
}

/// The body of a revocation. It lacks required fields of a key's and a grant's body, so nodes of earlier releases also treat it
/// as the end of the key or grant.
#[derive(Serialize)]
pub(super) struct Revocation {
    pub(super) revoked_at: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) expires_at: Option<i64>,
    /// What it was, without secrets. Within one field, so that the body still lacks those of a key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) was: Option<serde_json::Value>,
}

/// When something was revoked, and what it was, if its revocation says that in a form that this version knows.
pub(super) fn revoked<T: DeserializeOwned>(body: &str) -> Option<(Millis, Option<T>)> {
    #[derive(Deserialize)]
    struct Revoked {
        revoked_at: i64,
        was: Option<serde_json::Value>,
    }
    let revoked: Revoked = serde_json::from_str(body).ok()?;
    let was = revoked.was.and_then(|was| serde_json::from_value(was).ok());
    Some((Millis(revoked.revoked_at), was))
}

/// The body of [`UPGRADE`].
#[derive(Serialize, Deserialize)]
pub(super) struct Upgrade {
    /// Records from this offset on are accepted only with a version.
    pub(super) before: u64,
}

/// The version, revocation and expiry in a body of any kind.
pub(super) fn stamp(body: &str) -> Option<Stamp> {
    #[derive(Deserialize)]
    struct Dates {
        #[serde(default)]
        version: u64,
        revoked_at: Option<i64>,
        expires_at: Option<i64>,
        latest_expiry: Option<i64>,
    }
    let dates: Dates = serde_json::from_str(body).ok()?;
    let latest = dates.latest_expiry.or(dates.expires_at);
    Some(Stamp {
        version: dates.version,
        revoked: dates.revoked_at.is_some(),
        expires_at: latest.filter(|at| *at != i64::MAX).map(Millis),
    })
}

/// The value of a record: the state of one key or grant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Control {
    pub(super) tenant: String,
    pub(super) kind: String,
    pub(super) name: String,
    pub(super) at: i64,
    pub(super) principal: String,
    pub(super) body: String,
    #[serde(with = "apache_avro::serde::bytes_opt")]
    pub(super) sealed: Option<Vec<u8>>,
}

impl Control {
    /// The time format of the record: microseconds since the Unix epoch.
    pub(super) fn at(now: Millis) -> i64 {
        now.0.saturating_mul(1000)
    }

    /// The record's key.
    pub(super) fn key(tenant: &str, kind: &str, name: &str) -> String {
        format!("{tenant}/{kind}/{name}")
    }

    /// The associated data of the seal: the record's key and the readable body, so that someone who can write to the topic but
    /// has no `secret_key` can change neither.
    pub(super) fn place(key: &str, body: &str) -> Vec<u8> {
        let mut place = Vec::with_capacity(key.len() + body.len() + 1);
        place.extend_from_slice(key.as_bytes());
        place.push(0);
        place.extend_from_slice(body.as_bytes());
        place
    }

    pub(super) fn encode(&self) -> Result<Record, apache_avro::Error> {
        let mut value = vec![0];
        value.extend_from_slice(&SCHEMA_ID.to_be_bytes());
        GenericDatumWriter::builder(&PARSED)
            .build()?
            .write_ser(&mut value, self)?;
        Ok(Record {
            key: Some(Self::key(&self.tenant, &self.kind, &self.name).into()),
            value: Some(value.into()),
            headers: Vec::new(),
        })
    }

    /// `None` for anything but a record of this schema.
    pub(super) fn decode(value: &Bytes) -> Option<Self> {
        let rest = value.strip_prefix(&[0])?;
        let (id, mut datum) = rest.split_first_chunk::<4>()?;
        if u32::from_be_bytes(*id) != SCHEMA_ID {
            return None;
        }
        GenericDatumReader::builder(&PARSED)
            .build()
            .ok()?
            .read_deser(&mut datum)
            .ok()
    }
}

/// Tenant, kind and name of a record's key.
pub(super) fn parse_key(key: &str) -> Option<Name<'_>> {
    let mut parts = key.splitn(3, '/');
    Some((parts.next()?, parts.next()?, parts.next()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_record_of_the_emergency_controls_has_the_key_that_has_rules_of_its_own() {
        let (tenant, kind, name) = EMERGENCY;
        let key = Control::key(tenant, kind, name);
        assert_eq!(key, super::super::versions::EMERGENCY_KEY);
    }

    #[test]
    fn a_record_round_trips() {
        let control = Control {
            tenant: "acme".into(),
            kind: KEY.into(),
            name: "1".into(),
            at: 5,
            principal: "me".into(),
            body: "{}".into(),
            sealed: Some(vec![1, 2]),
        };
        let record = control.encode().unwrap();
        assert_eq!(
            parse_key(std::str::from_utf8(record.key.as_deref().unwrap()).unwrap()),
            Some(("acme", "key", "1"))
        );
        assert_eq!(Control::decode(&record.value.unwrap()), Some(control));
        assert_eq!(Control::decode(&Bytes::from_static(b"{}")), None);
        assert_eq!(
            Control::decode(&Bytes::from_static(b"\0\x40\0\0\x40\xff")),
            None
        );
    }
}
