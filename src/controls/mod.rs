//! Keys and reader grants (later sources, switches and policies): records of the compacted topic `controls`, which every node holds in memory, so
//! that the port works while Postgres is down.
//!
//! [`Controls`] answers from memory and writes to the topic; a thread ([`tail`]) reads the topic back. What this node
//! writes takes effect when it has read it, as on every other node.

mod key;
mod reader;
mod record;
mod scopes;
pub mod seal;
mod tail;

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

pub use key::{Key, KeyKind, Prefix, Token};
use parking_lot::RwLock;
pub use reader::ReaderGrant;
use reader::Readers;
use record::{Control, Name};
pub use record::{SCHEMA, SCHEMA_ID};
pub use scopes::{ADMIN, AllowedWorkflow, Constraints, EVENTS_WRITE, OPERATOR, Scopes};
pub use seal::{SealError, SecretKeys};
use serde::Serialize;
use subtle::ConstantTimeEq;
pub use tail::Tail;
use tokio::sync::watch;

use crate::{
    clock::Millis,
    id::Tenant,
    log::{Append, Fetched, Log, LogError, Record},
};

/// Without a completed read for this long, nothing is let through.
pub const UNREADABLE_AFTER: Duration = Duration::from_secs(5);

/// How long a change may take until it is in the log and read back.
const CHANGE_DEADLINE: Duration = Duration::from_secs(5);

const OTHER_VERSION: &str = "its body is not of this version";

/// What can go wrong with a change.
#[derive(Debug, thiserror::Error)]
pub enum ControlsError {
    /// The log did not take the record, or did not give it back in time; the outcome may be unknown.
    #[error("the change could not be written: {0}")]
    Log(#[from] LogError),
    /// The record cannot be written as Avro.
    #[error("the change could not be encoded: {0}")]
    Encode(String),
}

/// A key to be made.
#[derive(Clone, Debug)]
pub struct NewKey {
    /// Whose.
    pub tenant: Tenant,
    /// For people.
    pub name: String,
    /// Who it says is acting.
    pub principal: String,
    /// Person or service.
    pub kind: KeyKind,
    /// What it may do.
    pub scopes: Scopes,
    /// When it ends by itself.
    pub expires_at: Option<Millis>,
}

/// Keys and reader grants in memory, and the way to change them.
pub struct Controls {
    log: Arc<dyn Log>,
    topic: Arc<str>,
    secrets: SecretKeys,
    keys: RwLock<Keys>,
    readers: RwLock<Readers>,
    /// Goes up with each change of the reader grants.
    readers_version: watch::Sender<u64>,
    /// The offset of `controls` up to which this node has read.
    read: watch::Sender<u64>,
    /// When the last completed read began: milliseconds after `start`, 0 before the first.
    heartbeat: AtomicU64,
    start: Instant,
}

#[derive(Default)]
struct Keys {
    by_prefix: HashMap<Prefix, Vec<Arc<Key>>>,
    by_id: HashMap<Box<str>, Arc<Key>>,
}

impl Keys {
    fn put(&mut self, key: Arc<Key>) {
        self.remove(&key.id);
        self.by_prefix
            .entry(key.prefix)
            .or_default()
            .push(Arc::clone(&key));
        self.by_id.insert(key.id.as_str().into(), key);
    }

    fn remove(&mut self, id: &str) {
        let Some(old) = self.by_id.remove(id) else {
            return;
        };
        if let Some(list) = self.by_prefix.get_mut(&old.prefix) {
            list.retain(|k| k.id != id);
            if list.is_empty() {
                self.by_prefix.remove(&old.prefix);
            }
        }
    }
}

impl Controls {
    /// Starts to read the topic. Nothing is readable before [`Controls::wait_readable`] returns.
    pub fn start(
        log: Arc<dyn Log>,
        topic: Arc<str>,
        secrets: SecretKeys,
    ) -> Result<(Arc<Self>, Tail), LogError> {
        let controls = Arc::new(Self {
            log,
            topic,
            secrets,
            keys: RwLock::default(),
            readers: RwLock::default(),
            readers_version: watch::Sender::new(0),
            read: watch::Sender::new(0),
            heartbeat: AtomicU64::new(0),
            start: Instant::now(),
        });
        let tail = Tail::start(Arc::clone(&controls))?;
        Ok((controls, tail))
    }

    /// Whether a read of the topic was completed lately. Cheap: asked on every request.
    pub fn readable(&self) -> bool {
        let beat = self.heartbeat.load(Ordering::Relaxed);
        beat > 0 && self.elapsed().saturating_sub(beat) < UNREADABLE_AFTER.as_millis() as u64
    }

    /// Returns once the topic has been read to its end, or false after `deadline`.
    pub async fn wait_readable(&self, deadline: Duration) -> bool {
        let mut read = self.read.subscribe();
        let ready = async {
            while !self.readable() {
                // The sender lives in `self`.
                let _ = tokio::time::timeout(Duration::from_millis(50), read.changed()).await;
            }
        };
        tokio::time::timeout(deadline, ready).await.is_ok()
    }

    /// Whose key this is, if it is good: known, the right secret, not expired.
    pub fn authenticate(&self, token: &str, now: Millis) -> Option<Arc<Key>> {
        let prefix = key::prefix_of(token)?;
        let hash = key::hash(token);
        let keys = self.keys.read();
        keys.by_prefix
            .get(&prefix)?
            .iter()
            .find(|k| bool::from(k.hash.ct_eq(&hash)) && !k.expired(now))
            .cloned()
    }

    /// Whether there is any key, of any tenant.
    pub fn has_keys(&self) -> bool {
        !self.keys.read().by_id.is_empty()
    }

    /// The key of that id.
    pub fn key(&self, id: &str) -> Option<Arc<Key>> {
        self.keys.read().by_id.get(id).cloned()
    }

    /// All keys of a tenant, or of all of them; newest first.
    pub fn keys(&self, tenant: Option<&Tenant>) -> Vec<Arc<Key>> {
        let mut keys: Vec<_> = self
            .keys
            .read()
            .by_id
            .values()
            .filter(|k| tenant.is_none_or(|t| k.tenant == *t))
            .cloned()
            .collect();
        keys.sort_unstable_by(|a, b| (b.created_at, &b.id).cmp(&(a.created_at, &a.id)));
        keys
    }

    /// Makes a key that opens with `token`, which is shown once and kept nowhere.
    pub async fn create_key(
        &self,
        new: NewKey,
        token: &Token,
        by: &str,
        now: Millis,
    ) -> Result<Key, ControlsError> {
        let (prefix, hash) = token.fingerprint();
        let key = Key {
            id: uuid::Uuid::now_v7().to_string(),
            tenant: new.tenant,
            prefix,
            hash,
            name: new.name,
            principal: new.principal,
            kind: new.kind,
            writes_events: new.scopes.permits(EVENTS_WRITE),
            scopes: new.scopes,
            created_at: now,
            expires_at: new.expires_at,
        };
        let name = (key.tenant.as_str(), record::KEY, key.id.as_str());
        self.put(name, by, now, &key.body(), &key.hash).await?;
        Ok(key)
    }

    /// Ends a key at once, on every node that reads the log.
    pub async fn revoke_key(&self, key: &Key) -> Result<(), ControlsError> {
        self.remove((key.tenant.as_str(), record::KEY, &key.id))
            .await
    }

    /// Writes the state of one thing; returns the offset of its record.
    async fn put(
        &self,
        (tenant, kind, name): Name<'_>,
        by: &str,
        now: Millis,
        body: &impl Serialize,
        secret: &[u8],
    ) -> Result<u64, ControlsError> {
        let encoded = |e: &dyn std::fmt::Display| ControlsError::Encode(e.to_string());
        let body = serde_json::to_string(body).map_err(|e| encoded(&e))?;
        let place = Control::place(&Control::key(tenant, kind, name), &body);
        let control = Control {
            tenant: tenant.to_owned(),
            kind: kind.to_owned(),
            name: name.to_owned(),
            at: Control::at(now),
            principal: by.to_owned(),
            body,
            sealed: Some(self.secrets.seal(secret, &place)),
        };
        self.write(control.encode().map_err(|e| encoded(&e))?).await
    }

    /// Ends one thing.
    async fn remove(&self, (tenant, kind, name): Name<'_>) -> Result<(), ControlsError> {
        let tombstone = Record {
            key: Some(Control::key(tenant, kind, name).into()),
            value: None,
            headers: Vec::new(),
        };
        self.write(tombstone).await.map(drop)
    }

    /// Appends, and waits until this node has read it back; returns the record's offset.
    async fn write(&self, record: Record) -> Result<u64, ControlsError> {
        let append = Append {
            topic: Arc::clone(&self.topic),
            record,
        };
        let mut read = self.read.subscribe();
        let appended = self.log.append(vec![append], None);
        let done = async {
            let positions = appended
                .await
                .map_err(|_| LogError::Unavailable("the log is closing".into()))??;
            let offset = positions.first().map_or(0, |p| p.offset);
            // The sender lives in `self`.
            let _ = read.wait_for(|read| *read > offset).await;
            Ok(offset)
        };
        match tokio::time::timeout(CHANGE_DEADLINE, done).await {
            Ok(result) => result.map_err(ControlsError::Log),
            Err(_) => Err(LogError::Unavailable(format!(
                "no answer within {} s",
                CHANGE_DEADLINE.as_secs()
            ))
            .into()),
        }
    }

    fn elapsed(&self) -> u64 {
        self.start.elapsed().as_millis() as u64
    }

    /// Takes records in, in order.
    fn apply(&self, records: &[Fetched]) {
        let Some(last) = records.last() else {
            return;
        };
        for fetched in records {
            self.apply_one(fetched);
        }
        self.read.send_replace(last.offset + 1);
    }

    fn apply_one(&self, fetched: &Fetched) {
        let Some(name) = fetched.record.key.as_deref() else {
            return;
        };
        match record::parse_key(name) {
            Some((tenant, record::KEY, id)) => {
                let key = self.opened(name, fetched, |body, hash| {
                    let tenant = Tenant::new(tenant).map_err(|_| "its tenant has no valid name")?;
                    let hash = hash.try_into().map_err(|_| "its hash has another length")?;
                    let body = serde_json::from_str(body).map_err(|_| OTHER_VERSION)?;
                    Key::from_body(id, tenant, body, hash).ok_or("its prefix has another length")
                });
                let mut keys = self.keys.write();
                match key {
                    Some(key) => keys.put(Arc::new(key)),
                    None => keys.remove(id),
                }
            }
            Some((tenant, record::READER, login)) => {
                let grant = self.opened(name, fetched, |body, _| {
                    let body = serde_json::from_str(body).map_err(|_| OTHER_VERSION)?;
                    ReaderGrant::from_body(tenant, login, body, fetched.offset)
                });
                let changed = match grant {
                    Some(grant) => self.readers.write().put(grant),
                    None => self.readers.write().remove(tenant, login),
                };
                if changed {
                    self.readers_version.send_modify(|version| *version += 1);
                }
            }
            _ => {}
        }
    }

    /// What a record says, from its body and the secret that was sealed. `None` ends the thing: a tombstone, and a record that
    /// cannot be read, for the last good one may have been replaced for a reason.
    fn opened<T>(
        &self,
        name: &[u8],
        fetched: &Fetched,
        read: impl FnOnce(&str, Vec<u8>) -> Result<T, &'static str>,
    ) -> Option<T> {
        let value = fetched.record.value.as_ref()?;
        let open = || {
            let control = Control::decode(value).ok_or("not a record of this schema")?;
            let name = std::str::from_utf8(name).map_err(|_| "its name is not text")?;
            let place = Control::place(name, &control.body);
            let sealed = control.sealed.ok_or("nothing sealed in it")?;
            let secret = self.secrets.open(&sealed, &place).map_err(
                |_| "sealed under a key that is not in `secret_key`, or changed by someone else",
            )?;
            read(&control.body, secret)
        };
        open()
            .inspect_err(|why| {
                tracing::warn!(
                    offset = fetched.offset,
                    name = ?String::from_utf8_lossy(name),
                    why,
                    "a record on `controls` cannot be used: what it names has ended"
                );
            })
            .ok()
    }
}
