//! API keys, reader grants, integrations and the emergency controls: records of the compacted topic `controls`, which every node keeps in
//! memory, so that the port works while Postgres is down.
//!
//! [`Controls`] answers from memory and writes to the topic; a thread ([`tail`]) reads the topic. What this node writes takes
//! effect once it has been read back, as on every other node.
//!
//! | file | holds |
//! |---|---|
//! | `emergency`, `hold` | the emergency controls; those that a node holds by environment variables |
//! | `change` | writes changes, each with the next version of its name |
//! | `ended` | revoked keys and deleted integrations |
//! | `apply`, `versions` | deciding whether a record is accepted, and applying it |
//! | `upkeep` | writes of the reading thread: adds missing versions, and rewrites the current record after a refused one |

mod apply;
mod change;
mod emergency;
mod ended;
mod hold;
mod integration;
mod key;
mod last_use;
mod reader;
mod record;
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

pub use crate::base::{
    id::{TEXT_MAX, text_is_good},
    scopes::{ACT_AS, ADMIN, AllowedWorkflow, Constraints, EVENTS_WRITE, OPERATOR, Scopes},
};
pub use emergency::{
    DISABLED_MAX, EVENTS, Emergency, EmergencyChange, EmergencyChanged, EmergencyError,
    EmergencyState, FEATURES, InForce, OPERATIONS_MAX, REASON_MAX, Since, TooManyDisabled,
    is_feature, reason_is_good,
};
pub use ended::{DeletedIntegration, IntegrationFacts, KeyFacts, RevokedKey};
pub use hold::{BadHold, Held, KILL_SWITCH, OPERATOR_TAKEOVER, SAFE_MODE};
use integration::Integrations;
pub use integration::{
    Credential, HookSecret, HookToken, HookTokenHash, Integration, IntegrationDefinition,
    SECRETS_MAX,
};
pub use key::{Hash, Key, KeyChange, KeyKind, Prefix, Previous, Token};
pub use last_use::LastUse;
use parking_lot::{Mutex, RwLock};
pub use reader::ReaderGrant;
use reader::Readers;
pub use record::{SCHEMA, SCHEMA_ID};
pub use seal::{SealError, SecretKeys};
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
    /// The state cannot be serialized as JSON.
    #[error("the change could not be encoded: {0}")]
    Json(#[from] serde_json::Error),
    /// The record cannot be written as Avro.
    #[error("the change could not be encoded: {0}")]
    Avro(#[from] apache_avro::Error),
    /// Concurrent changes of the same name by other nodes won every retry; nothing was changed.
    #[error("other nodes are changing the same thing at the same time; try again")]
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
    /// Its permissions and constraints.
    pub scopes: Scopes,
    /// When it expires; `None` for never.
    pub expires_at: Option<Millis>,
}

/// Keys and reader grants in memory, with methods that change them.
pub struct Controls {
    log: Arc<dyn Log>,
    topic: Arc<str>,
    secrets: SecretKeys,
    keys: RwLock<Keys>,
    readers: RwLock<Readers>,
    integrations: RwLock<Integrations>,
    /// Held while an integration is changed, because a change starts from the state in memory.
    integration_changes: tokio::sync::Mutex<()>,
    emergency: emergency::Shared,
    /// The current version of each name on the topic.
    versions: Mutex<Versions>,
    /// Held while a key is changed, so that this node makes one change after another.
    editing: tokio::sync::Mutex<()>,
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
    /// Keys whose record was replaced by another one of the same version: if two nodes change a key at once, the second repeats the
    /// change of the first.
    overwritten: HashMap<Box<str>, Arc<Key>>,
    revoked: HashMap<Box<str>, Arc<RevokedKey>>,
}

/// The maximum number of remembered keys with an overwritten record; only the nodes that write them use and remove them.
const OVERWRITTEN: usize = 256;

impl Keys {
    fn put(&mut self, mut key: Key) {
        self.revoked.remove(key.id.as_str());
        if let Some(old) = self.remove(&key.id) {
            key.last_used = old.last_used.clone();
            if old.version == key.version && *old != key && self.overwritten.len() < OVERWRITTEN {
                self.overwritten.insert(key.id.as_str().into(), old);
            }
        }
        let key = Arc::new(key);
        for prefix in key.prefixes() {
            let list = self.by_prefix.entry(prefix).or_default();
            list.push(Arc::clone(&key));
        }
        self.by_id.insert(key.id.as_str().into(), key);
    }

    /// Remembers a revocation.
    fn revoke(&mut self, revoked: RevokedKey) {
        let id = revoked.id.as_str().into();
        self.revoked.insert(id, Arc::new(revoked));
    }

    fn remove(&mut self, id: &str) -> Option<Arc<Key>> {
        let old = self.by_id.remove(id)?;
        for prefix in old.prefixes() {
            if let Some(list) = self.by_prefix.get_mut(&prefix) {
                list.retain(|k| k.id != id);
                if list.is_empty() {
                    self.by_prefix.remove(&prefix);
                }
            }
        }
        Some(old)
    }
}

impl Controls {
    /// Starts reading the topic. Keys and grants are incomplete until [`Controls::wait_readable`] returns.
    pub fn start(
        log: Arc<dyn Log>,
        topic: Arc<str>,
        secrets: SecretKeys,
    ) -> Result<(Arc<Self>, Tail), LogError> {
        let controls = Arc::new(Self::new(log, topic, secrets));
        let tail = Tail::start(Arc::clone(&controls))?;
        Ok((controls, tail))
    }

    /// Reads the emergency controls from the topic once, without writing anything.
    pub fn read_emergency(
        log: Arc<dyn Log>,
        topic: Arc<str>,
        secrets: SecretKeys,
    ) -> Result<Emergency, LogError> {
        let controls = Self::new(log, topic, secrets);
        tail::read_once(&controls)?;
        Ok(Emergency::clone(&controls.emergency()))
    }

    /// Creates controls without any state.
    fn new(log: Arc<dyn Log>, topic: Arc<str>, secrets: SecretKeys) -> Self {
        Self {
            log,
            topic,
            secrets,
            keys: RwLock::default(),
            readers: RwLock::default(),
            integrations: RwLock::default(),
            integration_changes: tokio::sync::Mutex::default(),
            emergency: emergency::Shared::default(),
            versions: Mutex::default(),
            editing: tokio::sync::Mutex::default(),
            refused: telemetry::metrics::CONTROLS_REFUSED.counter(&[]),
            readers_version: watch::Sender::new(0),
            read: watch::Sender::new(0),
            heartbeat: AtomicU64::new(0),
            start: Instant::now(),
        }
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

    /// Finds the key of a token, if it is known, its secret is valid, and it has not expired. Sets its last use.
    pub fn authenticate(&self, token: &str, now: Millis) -> Option<Arc<Key>> {
        let prefix = key::prefix_of(token)?;
        let hash = key::hash(token);
        let keys = self.keys.read();
        let mut candidates = keys.by_prefix.get(&prefix)?.iter();
        let key = candidates.find(|k| k.accepts(&hash, now))?;
        key.last_used.mark(now);
        Some(Arc::clone(key))
    }

    /// Why [`Controls::authenticate`] does not accept a token: `malformed`, `unknown`, or `expired` (or replaced by a rotation).
    pub fn refusal(&self, token: &str) -> &'static str {
        let Some(prefix) = key::prefix_of(token) else {
            return "malformed";
        };
        let hash = key::hash(token);
        let keys = self.keys.read();
        let mut candidates = keys.by_prefix.get(&prefix).into_iter().flatten();
        if candidates.any(|key| key.has(&hash)) {
            "expired"
        } else {
            "unknown"
        }
    }

    /// Whether any tenant has a key.
    pub fn has_keys(&self) -> bool {
        !self.keys.read().by_id.is_empty()
    }

    /// The key with this id.
    pub fn key(&self, id: &str) -> Option<Arc<Key>> {
        self.keys.read().by_id.get(id).cloned()
    }

    /// All keys of a tenant, or of all tenants; newest first.
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

    /// All keys that were revoked, of all tenants, as far as their revocations are on the topic.
    pub fn revoked_keys(&self) -> Vec<Arc<RevokedKey>> {
        self.keys.read().revoked.values().cloned().collect()
    }

    /// Notified of each record that is read from the topic, of any kind.
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.read.subscribe()
    }

    fn elapsed(&self) -> u64 {
        self.start.elapsed().as_millis() as u64
    }

    /// Clears everything but the emergency controls, so that the topic can be read from its start again.
    fn reset(&self) {
        self.heartbeat.store(0, Ordering::Relaxed);
        *self.versions.lock() = Versions::default();
        self.forget_accepted();
        *self.keys.write() = Keys::default();
        *self.readers.write() = Readers::default();
        *self.integrations.write() = Integrations::default();
        self.read.send_replace(0);
    }
}
