//! One entry of the audit log, and its Avro record (`schemas/audit.avsc`).

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::actions::ACTIONS;
use crate::{
    base::{clock::Millis, id::Tenant},
    envelope::{OwnRecord, schemas},
    log::Record,
};

/// The tenant of entries that concern the whole installation, or requests without a valid key.
pub const NO_TENANT: &str = "-";
/// The size limit of texts that clients choose, in bytes; longer ones are truncated.
const TEXT_MAX: usize = 512;
/// The size limit of `detail`, in bytes; a larger one is replaced by a note.
const DETAIL_MAX: usize = 32 * 1024;

static RECORD: OwnRecord = OwnRecord::new(schemas::AUDIT);

/// The outcome of an action.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// The action succeeded.
    Ok,
    /// It was accepted, and its result is not known yet.
    Accepted,
    /// It was not allowed.
    Denied,
    /// It was allowed, but failed.
    Failed,
}

impl Outcome {
    /// The name in records and JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Accepted => "accepted",
            Self::Denied => "denied",
            Self::Failed => "failed",
        }
    }
}

/// One entry of the audit log. Texts chosen by clients are truncated to 512 bytes. It must not contain secrets.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename = "Audit")]
pub struct Entry {
    /// Whose data or rights it concerns, or [`NO_TENANT`].
    pub tenant: String,
    /// A UUIDv7.
    pub id: String,
    /// Microseconds since the Unix epoch.
    pub at: i64,
    /// The principal, if known.
    pub principal: Option<String>,
    /// The user on whose behalf the principal acted.
    pub on_behalf_of: Option<String>,
    /// The action: a noun and what happened to it, such as `key.created`.
    pub action: String,
    /// The type of the resource, such as `key`.
    pub resource_type: Option<String>,
    /// The id of the resource.
    pub resource_id: Option<String>,
    /// `ok`, `accepted`, `denied` or `failed`.
    pub outcome: String,
    /// The client's IP address.
    pub address: Option<String>,
    /// The client's `User-Agent`.
    pub user_agent: Option<String>,
    /// The JSON text of an object.
    pub detail: String,
}

impl Entry {
    /// Creates an entry of a tenant, or of the whole installation. `action`: one of [`ACTIONS`].
    pub fn new(tenant: Option<&Tenant>, action: &str, outcome: Outcome, now: Millis) -> Self {
        debug_assert!(ACTIONS.contains(&action), "`{action}` is not listed");
        Self {
            tenant: tenant.map_or(NO_TENANT, Tenant::as_str).to_owned(),
            id: uuid::Uuid::now_v7().to_string(),
            at: now.0.saturating_mul(1000),
            principal: None,
            on_behalf_of: None,
            action: action.to_owned(),
            resource_type: None,
            resource_id: None,
            outcome: outcome.name().to_owned(),
            address: None,
            user_agent: None,
            detail: "{}".to_owned(),
        }
    }

    /// Sets the principal.
    #[must_use]
    pub fn by(mut self, principal: &str, on_behalf_of: Option<&str>) -> Self {
        self.principal = Some(cut(principal));
        self.on_behalf_of = on_behalf_of.map(cut);
        self
    }

    /// Sets the resource.
    #[must_use]
    pub fn resource(mut self, kind: &str, id: &str) -> Self {
        self.resource_type = Some(kind.to_owned());
        self.resource_id = Some(cut(id));
        self
    }

    /// Sets the client.
    #[must_use]
    pub fn client(mut self, address: IpAddr, user_agent: Option<&[u8]>) -> Self {
        self.address = Some(address.to_string());
        self.user_agent = user_agent.map(|agent| cut(&String::from_utf8_lossy(agent)));
        self
    }

    /// Adds fields to `detail`.
    #[must_use]
    pub fn detail(mut self, detail: Map<String, Value>) -> Self {
        let mut all: Map<String, Value> = serde_json::from_str(&self.detail).unwrap_or_default();
        all.extend(detail);
        let text = Value::Object(all).to_string();
        self.detail = if text.len() > DETAIL_MAX {
            format!(r#"{{"omitted_bytes":{}}}"#, text.len())
        } else {
            text
        };
        self
    }

    /// Encodes the record for `audit`.
    pub fn encode(&self) -> Result<Record, apache_avro::Error> {
        RECORD.record(self.tenant.clone(), self)
    }

    /// Decodes a record; `None` for anything but a record of this schema.
    pub fn decode(value: &[u8]) -> Option<Self> {
        RECORD.decode(value)
    }
}

fn cut(text: &str) -> String {
    text[..text.floor_char_boundary(TEXT_MAX)].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_round_trips_and_is_bounded() {
        let tenant = Tenant::new("acme").unwrap();
        let long = "ä".repeat(1000);
        let mut detail = Map::new();
        detail.insert("name".into(), "x".into());
        let entry = Entry::new(Some(&tenant), "key.created", Outcome::Ok, Millis(5))
            .by(&long, Some("ann"))
            .resource("key", "1")
            .client([127, 0, 0, 1].into(), Some(b"curl\xff"))
            .detail(Map::from_iter([("issuer".to_owned(), "i".into())]))
            .detail(detail.clone());
        assert_eq!(entry.detail, r#"{"issuer":"i","name":"x"}"#);
        assert_eq!(entry.principal.as_ref().unwrap().len(), 512);
        assert_eq!(entry.user_agent.as_deref(), Some("curl\u{fffd}"));
        let record = entry.encode().unwrap();
        assert_eq!(record.key.as_deref(), Some(&b"acme"[..]));
        assert_eq!(Entry::decode(&record.value.unwrap()), Some(entry.clone()));
        assert_eq!(Entry::decode(b"{}"), None);
        detail.insert("big".into(), "x".repeat(40_000).into());
        let cut = entry.detail(detail).detail;
        assert!(cut.starts_with(r#"{"omitted_bytes":"#), "{cut}");
    }
}
