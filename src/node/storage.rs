//! Storage shared by a node and by commands that open the log: the log, keyed state, the secret key, the first key.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, bail};

use crate::{
    audit::{self, Entry, Outcome},
    base::{
        clock::{Clock, SystemClock},
        id::Tenant,
    },
    config::Config,
    controls::{
        Controls, Key, KeyKind, NewKey, Scopes, SecretKeys, TEXT_MAX, Tail, Token,
        seal::{self, write_private},
        text_is_good,
    },
    log::{
        Log,
        local::{LocalLog, LocalOptions},
        topics::Names,
    },
    state::StateStore,
};

/// The tenant of the first key.
const FIRST_TENANT: &str = "default";
/// The name of the first key.
const FIRST_NAME: &str = "admin";
/// Time limit for the first read of `controls`.
const CONTROLS_DEADLINE: Duration = Duration::from_secs(30);

/// The log and the keyed state of this node.
pub struct Storage {
    /// The log.
    pub log: Arc<dyn Log>,
    /// Keyed state. With the embedded log it is the log's own store, so that one commit covers both.
    pub state: StateStore,
    /// The names of the topics.
    pub names: Names,
    /// How many concurrent appends the port has in flight.
    pub appends: usize,
}

impl Storage {
    /// Opens the configured log, and creates (with `provision`) or checks the topics.
    pub async fn open(config: &Config, provision: bool) -> anyhow::Result<Self> {
        let config = config.clone();
        // It blocks on disks and brokers.
        tokio::task::spawn_blocking(move || Self::open_blocking(&config, provision)).await?
    }

    fn open_blocking(config: &Config, provision: bool) -> anyhow::Result<Self> {
        create_dir(&config.data_dir)?;
        let names = names(config);
        let (log, state, appends): (Arc<dyn Log>, _, _) = if config.on_kafka() {
            open_kafka(config)?
        } else {
            let dir = config.data_dir.join("log");
            let log = LocalLog::open(&dir, LocalOptions::new(Arc::new(SystemClock)))
                .with_context(|| format!("the log in {} cannot be opened; does another omnilink use this data directory?", dir.display()))?;
            let state = log.state().clone();
            (Arc::new(log), state, 2)
        };
        log.provision(&names.specs(config.topics.partitions), provision)
            .context("the topics do not match the configuration")?;
        if provision {
            log.keep_for(&names.audit, names.audit_retention_ms());
        }
        Ok(Self {
            log,
            state,
            names,
            appends,
        })
    }

    /// Starts reading `controls`; returns when it has been read to its end.
    pub async fn controls(&self, config: &Config) -> anyhow::Result<(Arc<Controls>, Tail)> {
        read_controls(config, &self.log, &self.names).await
    }
}

async fn read_controls(
    config: &Config,
    log: &Arc<dyn Log>,
    names: &Names,
) -> anyhow::Result<(Arc<Controls>, Tail)> {
    let secrets = secret_keys(config)?;
    let topic = Arc::clone(&names.controls);
    let (controls, tail) = Controls::start(Arc::clone(log), topic, secrets)?;
    if !controls.wait_readable(CONTROLS_DEADLINE).await {
        bail!(
            "topic {} could not be read within {} s; is the log reachable?",
            names.controls,
            CONTROLS_DEADLINE.as_secs()
        );
    }
    Ok((controls, tail))
}

/// Opens the log for a command that only reads and appends, without creating or checking topics. Fails if another process has
/// the embedded log open.
pub(crate) fn open_log(config: &Config) -> anyhow::Result<Arc<dyn Log>> {
    if config.on_kafka() {
        return open_stateless(config);
    }
    let dir = config.data_dir.join("log");
    if !dir.is_dir() {
        bail!(
            "there is no log in {}; `omnilink up` creates one, `data_dir` (or --data-dir) sets the directory",
            config.data_dir.display()
        );
    }
    let log = LocalLog::open(&dir, LocalOptions::new(Arc::new(SystemClock)))
        .with_context(|| format!("the log in {} cannot be opened", dir.display()))?;
    Ok(Arc::new(log))
}

/// Whether a running process has the embedded log open.
pub(crate) fn log_in_use(config: &Config) -> bool {
    !config.on_kafka() && crate::state::in_use(&config.data_dir.join("log"))
}

#[cfg(not(feature = "kafka"))]
fn open_stateless(_: &Config) -> anyhow::Result<Arc<dyn Log>> {
    bail!("`kafka.brokers` is set, but this binary was built without Kafka")
}

#[cfg(feature = "kafka")]
fn open_stateless(config: &Config) -> anyhow::Result<Arc<dyn Log>> {
    use crate::log::kafka::KafkaLog;
    // Not the node's id, which would be that of its producer too.
    let node = format!("cli-{}", uuid::Uuid::now_v7().simple());
    let log = KafkaLog::connect_stateless(kafka_options(config, node))
        .with_context(|| format!("Kafka at {} cannot be used", config.kafka.brokers.join(",")))?;
    Ok(Arc::new(log))
}

#[cfg(feature = "kafka")]
fn kafka_options(config: &Config, node: String) -> crate::log::kafka::KafkaOptions {
    let properties = config.kafka.properties.iter();
    crate::log::kafka::KafkaOptions {
        brokers: config.kafka.brokers.join(","),
        properties: properties
            .map(|(k, v)| (k.clone(), v.expose().to_owned()))
            .collect(),
        prefix: config.topics.prefix.clone(),
        node,
        replication_factor: config.topics.replication_factor.map(i32::from),
    }
}

#[cfg(not(feature = "kafka"))]
fn open_kafka(_: &Config) -> anyhow::Result<(Arc<dyn Log>, StateStore, usize)> {
    bail!("`kafka.brokers` is set, but this binary was built without Kafka")
}

#[cfg(feature = "kafka")]
fn open_kafka(config: &Config) -> anyhow::Result<(Arc<dyn Log>, StateStore, usize)> {
    use crate::log::kafka::KafkaLog;
    let dir = config.data_dir.join("state");
    let state = StateStore::open(&dir).with_context(|| {
        format!(
            "the state in {} cannot be opened; does another omnilink use this data directory?",
            dir.display()
        )
    })?;
    let options = kafka_options(config, node_id(&config.data_dir)?);
    let brokers = options.brokers.clone();
    let log = KafkaLog::connect(options, state.clone())
        .with_context(|| format!("Kafka at {brokers} cannot be used"))?;
    Ok((Arc::new(log), state, 16))
}

/// The id of this node: generated once and kept in the data directory.
#[cfg(feature = "kafka")]
fn node_id(data_dir: &Path) -> anyhow::Result<String> {
    let path = data_dir.join("node.id");
    match std::fs::read_to_string(&path) {
        Ok(id) if !id.trim().is_empty() => Ok(id.trim().to_owned()),
        _ => {
            let id = uuid::Uuid::now_v7().simple().to_string();
            write_private(&path, &id)
                .with_context(|| format!("{} cannot be written", path.display()))?;
            Ok(id)
        }
    }
}

fn create_dir(dir: &Path) -> anyhow::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .with_context(|| {
            format!(
                "the data directory {} cannot be created; `data_dir` (or --data-dir) sets another",
                dir.display()
            )
        })
}

/// The names of the topics, with the configured retention of `audit`.
pub(crate) fn names(config: &Config) -> Names {
    Names::new(&config.topics.prefix).with_audit_days(config.audit_retention_days)
}

/// The configured keys, or the one in the data directory.
pub(crate) fn secret_keys(config: &Config) -> anyhow::Result<SecretKeys> {
    let keys = if config.secret_key.is_empty() {
        SecretKeys::open_or_create(&config.data_dir)
    } else {
        SecretKeys::new(config.secret_key.iter().map(crate::config::Secret::expose))
    };
    keys.with_context(|| {
        format!(
            "no secret key ({} in the data directory, or `secret_key`)",
            seal::FILE
        )
    })
}

/// The number of lanes of a projector or of a stage of a topology. On Kafka two lanes use two cores. The embedded log runs on
/// the same cores as its lanes, so a second lane gains nothing.
pub(crate) fn lanes(config: &Config) -> usize {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    if config.on_kafka() { cores.min(2) } else { 1 }
}

/// The folder of the index of the history.
pub(crate) fn index_dir(config: &Config) -> PathBuf {
    config.data_dir.join("index")
}

/// The name of the first key's file in the data directory.
pub(crate) const ADMIN_KEY: &str = "admin.key";

/// The name of the file that holds the first key's token until the key is known to be the only one.
const PENDING_KEY: &str = "admin.key.pending";

/// The path of the first key's file.
pub fn admin_key_file(config: &Config) -> PathBuf {
    config.data_dir.join(ADMIN_KEY)
}

/// Who holds the first key.
pub struct FirstKey {
    tenant: Tenant,
    name: String,
    principal: String,
}

impl FirstKey {
    /// Defaults to the holder that `omnilink up` uses: `admin` of tenant `default`.
    pub fn new(
        tenant: Option<&str>,
        name: Option<String>,
        principal: Option<String>,
    ) -> anyhow::Result<Self> {
        let tenant = tenant.unwrap_or(FIRST_TENANT);
        let tenant = Tenant::new(tenant).with_context(|| format!("--tenant {tenant}"))?;
        let text = |option: &str, value: String| {
            if !text_is_good(&value) {
                bail!("{option} must have 1 to {TEXT_MAX} bytes, and no control characters");
            }
            Ok(value)
        };
        let name = text("--name", name.unwrap_or_else(|| FIRST_NAME.into()))?;
        let principal = text("--principal", principal.unwrap_or_else(|| name.clone()))?;
        Ok(Self {
            tenant,
            name,
            principal,
        })
    }
}

/// Creates the first key if there is no key: of kind person, with all permissions and no limits. Writes it to a file in the data
/// directory that only its owner can read, and returns the key and its token. `None` if there is a key already.
///
/// Of several processes that do this at the same time, on one machine or on several, one succeeds. The token is written to
/// [`PENDING_KEY`] before the key's record, because a key whose token is lost would be worse than a token without a key: a process
/// that is killed between leaves it there, and the next one completes its work.
///
/// `by`: who does this, for the audit log.
pub async fn create_first_key(
    config: &Config,
    (log, names): (&dyn Log, &Names),
    controls: &Controls,
    holder: FirstKey,
    by: &str,
) -> anyhow::Result<Option<(Key, String)>> {
    let pending = config.data_dir.join(PENDING_KEY);
    if controls.has_keys() && !pending.exists() {
        return Ok(None);
    }
    // Held until the end: two processes would overwrite each other's files.
    let _lock = lock(&config.data_dir.join("admin.key.lock"))?;
    let (key, token) = match pending_key(&pending, controls) {
        Some(left) => left,
        None if controls.has_keys() => {
            let _ = std::fs::remove_file(&pending);
            return Ok(None);
        }
        None => {
            let token = Token::generate();
            write_private(&pending, token.reveal())
                .with_context(|| format!("{} cannot be written", pending.display()))?;
            let new = NewKey {
                tenant: holder.tenant,
                name: holder.name,
                principal: holder.principal,
                kind: KeyKind::Person,
                scopes: Scopes::all(),
                expires_at: None,
            };
            let now = SystemClock.now();
            let key = controls.create_key(new, &token, "omnilink", now).await?;
            (key, token)
        }
    };
    if !controls.is_oldest_key(&key) {
        // Another process created one at the same time.
        let now = SystemClock.now();
        controls.revoke_key(&key, "omnilink", now).await?;
        let _ = std::fs::remove_file(&pending);
        return Ok(None);
    }
    let file = admin_key_file(config);
    write_private(&file, token.reveal())
        .with_context(|| format!("{} cannot be written", file.display()))?;
    audit_created(log, names, &key, by).await;
    let _ = std::fs::remove_file(&pending);
    Ok(Some((key, token.reveal().to_owned())))
}

/// Records that the first key was created.
async fn audit_created(log: &dyn Log, names: &Names, key: &Key, by: &str) {
    let fields = [("name", &key.name), ("principal", &key.principal)];
    let fields = fields.map(|(name, text)| (name.to_owned(), text.as_str().into()));
    let now = SystemClock.now();
    let entry = Entry::new(Some(&key.tenant), audit::KEY_CREATED, Outcome::Ok, now)
        .by(by, None)
        .resource("key", &key.id)
        .detail(fields.into_iter().collect());
    if let Err(error) = audit::append(log, &names.audit, &[entry]).await {
        tracing::warn!(%error, "the audit log has no entry of the first key");
    }
}

/// The key of a process that was killed before it could complete.
fn pending_key(file: &Path, controls: &Controls) -> Option<(Key, Token)> {
    let text = std::fs::read_to_string(file).ok()?;
    let token = Token::parse(text.trim())?;
    let key = controls.authenticate(token.reveal(), SystemClock.now())?;
    Some((Key::clone(&key), token))
}

/// A file that this process alone holds.
fn lock(path: &Path) -> anyhow::Result<std::fs::File> {
    let file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .with_context(|| format!("{} cannot be written", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(error) => bail!(
            "another process is creating the first key in this data directory ({}: {error})",
            path.display()
        ),
    }
}

/// Creates the first key for `keys create --first`, with or without a running node.
pub(crate) async fn first_key(
    config: &Config,
    holder: FirstKey,
    by: &str,
) -> anyhow::Result<(Key, String)> {
    create_dir(&config.data_dir)?;
    let names = names(config);
    let specs = names.specs(config.topics.partitions);
    let opened = config.clone();
    // It blocks on brokers.
    let log = tokio::task::spawn_blocking(move || {
        let log = open_log(&opened)?;
        log.provision(&specs, true)
            .context("the topics do not match the configuration")?;
        anyhow::Ok(log)
    })
    .await??;
    let (controls, _tail) = read_controls(config, &log, &names).await?;
    match create_first_key(config, (&*log, &names), &controls, holder, by).await? {
        Some(created) => Ok(created),
        None => {
            bail!("there are keys already; create more with an admin key: `omnilink keys create`")
        }
    }
}
