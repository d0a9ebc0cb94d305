//! API keys: `omni.{prefix}.{secret}`, of which only the SHA-256 is kept.

use std::{fmt, sync::Arc};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::{LastUse, NewKey};
use crate::base::{
    clock::Millis,
    id::Tenant,
    scopes::{EVENTS_WRITE, Scopes},
};

/// The first characters of a key's secret, by which it is looked up.
pub type Prefix = [u8; PREFIX];
/// The SHA-256 of a whole key.
pub type Hash = [u8; HASH];

const PREFIX: usize = 8;
const HASH: usize = 32;
/// Length of base64url of 32 bytes.
const SECRET: usize = 43;
const START: &str = "omni.";

/// Who holds a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum KeyKind {
    /// A person, who may approve.
    Person,
    /// A program.
    Service,
}

impl KeyKind {
    /// The name in records and JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Person => "person",
            Self::Service => "service",
        }
    }
}

/// A caller of the port: the holder of an API key, or of an issuer's token (`issuer`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// Its id: a UUIDv7, or for a token a UUIDv5 of issuer, tenant and principal.
    pub id: String,
    /// The tenant that it belongs to.
    pub tenant: Tenant,
    /// The first characters of its secret.
    pub prefix: Prefix,
    /// The SHA-256 of the whole key.
    pub hash: Hash,
    /// The secret before the last rotation.
    pub previous: Option<Previous>,
    /// Display name.
    pub name: String,
    /// The principal that it acts as.
    pub principal: String,
    /// Person or service.
    pub kind: KeyKind,
    /// Its permissions and constraints.
    pub scopes: Scopes,
    /// When it was created.
    pub created_at: Millis,
    /// When its secret was last rotated.
    pub rotated_at: Option<Millis>,
    /// When it expires; `None` for never.
    pub expires_at: Option<Millis>,
    /// Whether it may write events; computed once, because every request checks it.
    pub writes_events: bool,
    /// Whether its limits (`max_rpm`, `max_concurrency`) are enforced. Keys created before limits were enforced only cause warnings until
    /// they are rotated or changed.
    pub enforces_limits: bool,
    /// The issuer of the token; `None` for an API key.
    pub issuer: Option<Arc<str>>,
    /// When this node last saw it in use.
    pub last_used: LastUse,
    /// The version of its record.
    pub(super) version: u64,
    /// The latest `expires_at` of all its records; earlier records could be replayed until then.
    pub(super) latest_expiry: Option<Millis>,
}

/// A secret that a rotation replaced. It stays valid until the overlap ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Previous {
    /// The first characters of the secret.
    pub prefix: Prefix,
    /// The SHA-256 of the whole key.
    pub hash: Hash,
    /// When it stops being valid.
    pub until: Millis,
}

/// The JSON body of a key's record.
#[derive(Serialize, Deserialize)]
pub(super) struct Body {
    prefix: String,
    name: String,
    principal: String,
    kind: KeyKind,
    scopes: Scopes,
    created_at: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rotated_at: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    expires_at: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    previous: Option<PreviousBody>,
    /// Records written before limits were enforced have none.
    #[serde(default)]
    enforced: bool,
    /// The latest `expires_at` of earlier records, if it was later than the current one; [`i64::MAX`] stands for never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    latest_expiry: Option<i64>,
}

#[derive(Serialize, Deserialize)]
struct PreviousBody {
    prefix: String,
    until: i64,
}

/// The changes of a key; `None` leaves a value unchanged.
#[derive(Clone, Debug, Default)]
pub struct KeyChange {
    /// Display name.
    pub name: Option<String>,
    /// Its permissions and constraints.
    pub scopes: Option<Scopes>,
    /// When it expires; an inner `None` stands for never.
    pub expires_at: Option<Option<Millis>>,
}

impl Key {
    /// A key with this id and fingerprint.
    pub fn new(id: String, new: NewKey, (prefix, hash): (Prefix, Hash), now: Millis) -> Self {
        Self {
            id,
            tenant: new.tenant,
            prefix,
            hash,
            previous: None,
            name: new.name,
            principal: new.principal,
            kind: new.kind,
            writes_events: new.scopes.permits(EVENTS_WRITE),
            scopes: new.scopes,
            created_at: now,
            rotated_at: None,
            expires_at: new.expires_at,
            enforces_limits: true,
            issuer: None,
            last_used: LastUse::default(),
            version: 0,
            latest_expiry: new.expires_at,
        }
    }

    /// The holder of a token of `issuer`: a person. Its id is the same for all tokens of this principal.
    pub fn of_token(issuer: &Arc<str>, tenant: Tenant, principal: String, scopes: Scopes) -> Self {
        let parts = [issuer, tenant.as_str(), &principal];
        // No part contains a line feed: neither tenants nor principals have control characters.
        let id = uuid::Uuid::new_v5(&uuid::Uuid::NAMESPACE_URL, parts.join("\n").as_bytes());
        let new = NewKey {
            tenant,
            name: principal.clone(),
            principal,
            kind: KeyKind::Person,
            scopes,
            expires_at: None,
        };
        let mut key = Self::new(id.to_string(), new, Default::default(), Millis(0));
        key.issuer = Some(Arc::clone(issuer));
        key
    }

    pub(super) fn from_body(
        id: &str,
        tenant: Tenant,
        body: Body,
        version: u64,
        secret: &[u8],
    ) -> Result<Self, &'static str> {
        const PREFIX_LENGTH: &str = "its prefix does not have 8 bytes";
        const HASH_LENGTH: &str = "its hash does not have 32 bytes";
        let prefix = |text: &str| text.as_bytes().try_into().map_err(|_| PREFIX_LENGTH);
        let (hash, rest) = secret.split_first_chunk::<HASH>().ok_or(HASH_LENGTH)?;
        let previous = match body.previous {
            None if rest.is_empty() => None,
            None => return Err(HASH_LENGTH),
            Some(previous) => Some(Previous {
                prefix: prefix(&previous.prefix)?,
                hash: rest.try_into().map_err(|_| HASH_LENGTH)?,
                until: Millis(previous.until),
            }),
        };
        let new = NewKey {
            tenant,
            name: body.name,
            principal: body.principal,
            kind: body.kind,
            scopes: body.scopes,
            expires_at: body.expires_at.map(Millis),
        };
        let fingerprint = (prefix(&body.prefix)?, *hash);
        let mut key = Self::new(id.to_owned(), new, fingerprint, Millis(body.created_at));
        key.previous = previous;
        key.rotated_at = body.rotated_at.map(Millis);
        key.version = version;
        key.enforces_limits = body.enforced || !key.scopes.constraints.limits_rate();
        key.latest_expiry = match body.latest_expiry {
            None => key.expires_at,
            Some(i64::MAX) => None,
            Some(at) => Some(Millis(at)),
        };
        Ok(key)
    }

    pub(super) fn body(&self) -> Body {
        let earlier = self.latest_expiry != self.expires_at;
        Body {
            prefix: text(&self.prefix).to_owned(),
            name: self.name.clone(),
            principal: self.principal.clone(),
            kind: self.kind,
            scopes: self.scopes.clone(),
            created_at: self.created_at.0,
            rotated_at: self.rotated_at.map(|at| at.0),
            expires_at: self.expires_at.map(|at| at.0),
            previous: self.previous.as_ref().map(|previous| PreviousBody {
                prefix: text(&previous.prefix).to_owned(),
                until: previous.until.0,
            }),
            enforced: self.enforces_limits,
            latest_expiry: earlier.then(|| self.latest_expiry.map_or(i64::MAX, |at| at.0)),
        }
    }

    /// The sealed bytes of its record: its hash, and that of the previous secret.
    pub(super) fn secret(&self) -> Vec<u8> {
        let previous = self.previous.as_ref().map(|previous| previous.hash);
        [&self.hash[..], previous.as_ref().map_or(&[], |h| &h[..])].concat()
    }

    /// Sets another secret; the previous one stays valid for `overlap_ms`. If a key is rotated twice within an overlap, the first secret
    /// ends with the second rotation.
    pub(super) fn rotated(
        &self,
        (prefix, hash): (Prefix, Hash),
        overlap_ms: i64,
        now: Millis,
    ) -> Self {
        let previous = Previous {
            prefix: self.prefix,
            hash: self.hash,
            until: Millis(now.0.saturating_add(overlap_ms)),
        };
        Self {
            prefix,
            hash,
            previous: (overlap_ms > 0).then_some(previous),
            rotated_at: Some(now),
            enforces_limits: true,
            ..self.clone()
        }
    }

    /// Applies changes, and drops expired overlaps.
    pub(super) fn changed(&self, change: &KeyChange, now: Millis) -> Self {
        let mut key = self.clone();
        key.enforces_limits = true;
        key.previous = key.previous.filter(|previous| previous.until > now);
        if let Some(name) = &change.name {
            key.name.clone_from(name);
        }
        if let Some(scopes) = &change.scopes {
            key.scopes = scopes.clone();
            key.writes_events = scopes.permits(EVENTS_WRITE);
        }
        if let Some(expires_at) = change.expires_at {
            key.expires_at = expires_at;
            key.latest_expiry = match (key.latest_expiry, expires_at) {
                (Some(latest), Some(at)) => Some(latest.max(at)),
                _ => None,
            };
        }
        key
    }

    /// The prefix as text.
    pub fn prefix(&self) -> &str {
        text(&self.prefix)
    }

    /// Whether it has expired.
    pub fn expired(&self, now: Millis) -> bool {
        self.expires_at.is_some_and(|at| at <= now)
    }

    /// Whether this is the hash of one of its secrets that is valid now.
    pub(super) fn accepts(&self, hash: &Hash, now: Millis) -> bool {
        let current = bool::from(self.hash.ct_eq(hash));
        let previous = self.previous.as_ref();
        let previous = previous.is_some_and(|p| bool::from(p.hash.ct_eq(hash)) && p.until > now);
        (current || previous) && !self.expired(now)
    }

    /// Whether this is the hash of one of its secrets, valid or not.
    pub(super) fn has(&self, hash: &Hash) -> bool {
        let previous = self.previous.as_ref().map(|previous| &previous.hash);
        let mut hashes = std::iter::once(&self.hash).chain(previous);
        hashes.any(|own| bool::from(own.ct_eq(hash)))
    }

    /// The prefixes of its secrets.
    pub(super) fn prefixes(&self) -> impl Iterator<Item = Prefix> {
        let previous = self.previous.as_ref().map(|previous| previous.prefix);
        let previous = previous.filter(|previous| *previous != self.prefix);
        std::iter::once(self.prefix).chain(previous)
    }
}

/// A prefix is base64url, or came from a JSON string.
fn text(prefix: &Prefix) -> &str {
    std::str::from_utf8(prefix).unwrap_or_default()
}

/// The text of a key, which is shown once.
pub struct Token(String);

impl Token {
    /// Generates a token from 32 random bytes.
    pub fn generate() -> Self {
        let secret = URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>());
        Self(format!("{START}{}.{secret}", &secret[..PREFIX]))
    }

    /// The text, for the holder of the key.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// A text with the format of a key.
    pub fn parse(text: &str) -> Option<Self> {
        prefix_of(text).map(|_| Self(text.to_owned()))
    }

    /// Its prefix and hash.
    pub fn fingerprint(&self) -> (Prefix, Hash) {
        let mut prefix = [0; PREFIX];
        prefix.copy_from_slice(&self.0.as_bytes()[START.len()..START.len() + PREFIX]);
        (prefix, hash(&self.0))
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(***)")
    }
}

/// The prefix of a text with the format of a key.
pub(super) fn prefix_of(token: &str) -> Option<Prefix> {
    let rest = token.as_bytes().strip_prefix(START.as_bytes())?;
    let (prefix, rest) = rest.split_first_chunk::<PREFIX>()?;
    let secret = rest.strip_prefix(b".")?;
    (secret.len() == SECRET && secret.starts_with(prefix)).then_some(*prefix)
}

/// The SHA-256 of a whole key.
pub(super) fn hash(token: &str) -> Hash {
    Sha256::digest(token.as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_has_the_documented_format() {
        let token = Token::generate();
        assert_eq!(token.reveal().len(), 5 + 8 + 1 + 43);
        let (prefix, hashed) = token.fingerprint();
        assert_eq!(prefix_of(token.reveal()), Some(prefix));
        assert_eq!(hash(token.reveal()), hashed);
        assert_eq!(format!("{token:?}"), "Token(***)");
        for bad in [
            "",
            "omni.",
            "omni.short.x",
            &token.reveal()[1..],
            &format!("{}x", token.reveal()),
        ] {
            assert_eq!(prefix_of(bad), None, "{bad}");
        }
    }

    fn key(expires_at: Option<i64>) -> Key {
        let new = NewKey {
            tenant: Tenant::new("acme").unwrap(),
            name: "shop".into(),
            principal: "shop".into(),
            kind: KeyKind::Service,
            scopes: Scopes {
                permissions: vec!["events:write".into()],
                ..Scopes::default()
            },
            expires_at: expires_at.map(Millis),
        };
        Key::new("1".into(), new, (*b"12345678", [1; 32]), Millis(5))
    }

    fn read_back(key: &Key) -> Key {
        let body = serde_json::to_string(&key.body()).unwrap();
        let body = serde_json::from_str(&body).unwrap();
        Key::from_body("1", key.tenant.clone(), body, 0, &key.secret()).unwrap()
    }

    #[test]
    fn a_record_holds_both_secrets_of_an_overlap() {
        let key = key(None).rotated((*b"abcdefgh", [2; 32]), 100, Millis(10));
        assert_eq!(read_back(&key), key);
        assert_eq!(key.secret().len(), 64);
        assert!(key.accepts(&[1; 32], Millis(109)) && !key.accepts(&[1; 32], Millis(110)));
        assert!(key.accepts(&[2; 32], Millis(110)) && !key.accepts(&[3; 32], Millis(10)));
        assert_eq!(key.prefixes().count(), 2);
        let again = key.rotated((*b"ABCDEFGH", [3; 32]), 0, Millis(11));
        assert_eq!(read_back(&again), again);
        assert!(!again.accepts(&[2; 32], Millis(11)) && !again.accepts(&[1; 32], Millis(11)));
        let short = Key::from_body("1", key.tenant.clone(), key.body(), 0, &[1; 63]);
        assert!(short.is_err());
    }

    #[test]
    fn records_of_earlier_releases_are_read_and_do_not_enforce_limits() {
        let read = |rpm: u32, concurrency: u32| {
            let body = format!(
                r#"{{"prefix":"12345678","name":"shop","principal":"shop","kind":"service","created_at":5,"version":1,
                "scopes":{{"permissions":["*"],"constraints":{{"max_rpm":{rpm},"max_concurrency":{concurrency}}}}}}}"#
            );
            let body = serde_json::from_str(&body).unwrap();
            Key::from_body("1", Tenant::new("acme").unwrap(), body, 1, &[1; 32]).unwrap()
        };
        assert!(!read(60, 0).enforces_limits);
        assert!(!read(0, 5).enforces_limits);
        // There is nothing to enforce, as for the first key.
        assert!(read(0, 0).enforces_limits);
        let changed = read(60, 5).changed(&KeyChange::default(), Millis(6));
        assert!(changed.enforces_limits && read_back(&changed).enforces_limits);
    }

    #[test]
    fn the_latest_expiry_of_all_records_is_kept() {
        let until = |at: Option<i64>| KeyChange {
            expires_at: Some(at.map(Millis)),
            ..KeyChange::default()
        };
        let latest = |key: &Key, change: Option<i64>| {
            let key = read_back(&key.changed(&until(change), Millis(6)));
            (
                key.expires_at.map(|at| at.0),
                key.latest_expiry.map(|at| at.0),
            )
        };
        assert_eq!(latest(&key(Some(50)), Some(40)), (Some(40), Some(50)));
        assert_eq!(latest(&key(Some(50)), Some(60)), (Some(60), Some(60)));
        assert_eq!(latest(&key(None), Some(60)), (Some(60), None));
        assert_eq!(latest(&key(Some(50)), None), (None, None));
    }
}
