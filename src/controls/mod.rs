//! API keys and reader grants: records of the compacted topic `controls`, which every node holds in memory, so that the port
//! works while Postgres is down.
//!
//! [`Controls`] answers from memory and writes to the topic; a thread ([`tail`]) reads the topic. What this node writes takes
//! effect once it has been read back, as on every other node.
//!
//! | file | holds |
//! |---|---|
//! | `change` | writes changes, each with the next version of its name |
//! | `apply`, `versions` | decide whether a record is accepted, and apply it |
//! | `upkeep` | writes of the reading thread: adds missing versions, and rewrites the current record after a refused one |

mod apply;
mod change;
mod key;
mod reader;
mod record;
mod scopes;
pub mod seal;
mod tail;
mod upkeep;
mod versions;

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

pub use key::{Key, KeyKind, Prefix, TEXT_MAX, Token, text_is_good};
use parking_lot::{Mutex, RwLock};
pub use reader::ReaderGrant;
use reader::Readers;
pub use record::{SCHEMA, SCHEMA_ID};
pub use scopes::{ADMIN, AllowedWorkflow, Constraints, EVENTS_WRITE, OPERATOR, Scopes};
pub use seal::{SealError, SecretKeys};
use subtle::ConstantTimeEq;
pub use tail::Tail;
use tokio::sync::watch;
use versions::Versions;

use crate::{
    base::{clock::Millis, id::Tenant},
    log::{Log, LogError},
    telemetry,
};

/// Without a completed read of the topic for this long, all requests are refused.
pub const UNREADABLE_AFTER: Duration = Duration::from_secs(5);

/// Time limit for appending a change and reading it back.
const CHANGE_DEADLINE: Duration = Duration::from_secs(5);

/// Why a change failed.
#[derive(Debug, thiserror::Error)]
pub enum ControlsError {
    /// The append failed, or the record was not read back in time; the outcome may be unknown.
    #[error("the change could not be written: {0}")]
    Log(#[from] LogError),
    /// The record cannot be written as Avro.
    #[error("the change could not be encoded: {0}")]
    Encode(String),
    /// Concurrent changes of the same name by other nodes won every retry; nothing was changed.
    #[error("other nodes are changing the same key or grant at the same time; try again")]
    Contended,
}

/// The properties of a key to create.
#[derive(Clone, Debug)]
pub struct NewKey {
    /// The tenant that the key belongs to.
    pub tenant: Tenant,
    /// Display name.
    pub name: String,
    /// The principal that it acts as.
    pub principal: String,
    /// Person or service.
    pub kind: KeyKind,
    /// What it may do.
    pub scopes: Scopes,
    /// When it expires; `None` is never.
    pub expires_at: Option<Millis>,
}

/// Keys and reader grants in memory, with methods that change them.
pub struct Controls {
    log: Arc<dyn Log>,
    topic: Arc<str>,
    secrets: SecretKeys,
    keys: RwLock<Keys>,
    readers: RwLock<Readers>,
    /// The current version of each name on the topic.
    versions: Mutex<Versions>,
    /// Counts records that were refused or could not be used.
    refused: metrics::Counter,
    /// Incremented with each change of the reader grants.
    readers_version: watch::Sender<u64>,
    /// The next offset of `controls` to read.
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
    /// Starts reading the topic. Keys and grants are incomplete until [`Controls::wait_readable`] returns.
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
            versions: Mutex::default(),
            refused: telemetry::metrics::CONTROLS_REFUSED.counter(&[]),
            readers_version: watch::Sender::new(0),
            read: watch::Sender::new(0),
            heartbeat: AtomicU64::new(0),
            start: Instant::now(),
        });
        let tail = Tail::start(Arc::clone(&controls))?;
        Ok((controls, tail))
    }

    /// Whether a read of the topic to its end completed within [`UNREADABLE_AFTER`]. Cheap: called for every request.
    pub fn readable(&self) -> bool {
        let beat = self.heartbeat.load(Ordering::Relaxed);
        beat > 0 && self.elapsed().saturating_sub(beat) < UNREADABLE_AFTER.as_millis() as u64
    }

    /// Waits until the topic has been read to its end; returns false after `deadline`.
    pub async fn wait_readable(&self, deadline: Duration) -> bool {
        let mut read = self.read.subscribe();
        let ready = async {
            while !self.readable() {
                // Cannot fail: the sender lives in `self`.
                let _ = tokio::time::timeout(Duration::from_millis(50), read.changed()).await;
            }
        };
        tokio::time::timeout(deadline, ready).await.is_ok()
    }

    /// The key of a token, if it is known, has the right secret and has not expired.
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

    /// Notified of each record that is read from the topic, of any kind.
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.read.subscribe()
    }

    fn elapsed(&self) -> u64 {
        self.start.elapsed().as_millis() as u64
    }

    /// Clears everything, so that the topic can be read from its start again.
    fn reset(&self) {
        self.heartbeat.store(0, Ordering::Relaxed);
        *self.versions.lock() = Versions::default();
        *self.keys.write() = Keys::default();
        *self.readers.write() = Readers::default();
        self.read.send_replace(0);
    }
}
