//! What the commands that work on the log itself share: opening it, the secret key, the first key.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, bail};

use crate::{
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

/// The tenant that the first start makes.
const FIRST_TENANT: &str = "default";
/// The name of the first key.
const FIRST_NAME: &str = "admin";
/// `controls` must have been read to its end within this time.
const CONTROLS_DEADLINE: Duration = Duration::from_secs(30);

/// The log and the keyed state of this node.
pub struct Storage {
    /// The log.
    pub log: Arc<dyn Log>,
    /// Keyed state; on the embedded log the log's own, so that both are one commit.
    pub state: StateStore,
    /// The names of the topics.
    pub names: Names,
    /// How many appends the port has under way at once.
    pub appends: usize,
}

impl Storage {
    /// Opens the log that the configuration names, and makes or checks the topics.
    pub async fn open(config: &Config, provision: bool) -> anyhow::Result<Self> {
        let config = config.clone();
        // It waits for disks and brokers.
        tokio::task::spawn_blocking(move || Self::open_blocking(&config, provision)).await?
    }

    fn open_blocking(config: &Config, provision: bool) -> anyhow::Result<Self> {
        make_dir(&config.data_dir)?;
        let names = Names::new(&config.topics.prefix);
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
            .context("the topics are not as they should be")?;
        Ok(Self {
            log,
            state,
            names,
            appends,
        })
    }

    /// Starts to read `controls`, and returns when it has been read to its end.
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

/// The log for a command that only reads and appends: nothing is made, no topic is checked. The embedded log must not be in use.
pub(crate) fn open_log(config: &Config) -> anyhow::Result<Arc<dyn Log>> {
    if config.on_kafka() {
        return open_stateless(config);
    }
    let dir = config.data_dir.join("log");
    if !dir.is_dir() {
        bail!(
            "there is no log in {}; `omnilink up` makes one, `data_dir` (or --data-dir) says where",
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
    // Not the node's own name: that would be its producer's too.
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

/// The name of this node: made once, kept in the data directory.
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

fn make_dir(dir: &Path) -> anyhow::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .with_context(|| {
            format!(
                "the data directory {} cannot be made; `data_dir` (or --data-dir) chooses another",
                dir.display()
            )
        })
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

/// How many lanes a projector, or a stage of a topology, has: two keep two cores busy, and the broker's cores are others. The
/// embedded log works on the same cores as its lanes, where a second one gains nothing.
pub(crate) fn lanes(config: &Config) -> usize {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    if config.on_kafka() { cores.min(2) } else { 1 }
}

/// Where the index of the history lies.
pub(crate) fn index_dir(config: &Config) -> PathBuf {
    config.data_dir.join("index")
}

/// The name of the file of the first key, in the data directory.
pub(crate) const ADMIN_KEY: &str = "admin.key";

/// The file of the first key.
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
    /// What is not said is that of the first `up`: `admin`, of tenant `default`.
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

/// Makes the first key if there is none: kind person, everything, unlimited. Writes it to the data directory, readable by its
/// owner alone, and returns it.
pub async fn make_first_key(
    config: &Config,
    controls: &Controls,
    who: FirstKey,
) -> anyhow::Result<Option<(Key, String)>> {
    if controls.has_keys() {
        return Ok(None);
    }
    let new = NewKey {
        tenant: who.tenant,
        name: who.name,
        principal: who.principal,
        kind: KeyKind::Person,
        scopes: Scopes::all(),
        expires_at: None,
    };
    // The file first: a key that nobody has would be worse than a file that opens nothing yet.
    let token = Token::generate();
    let file = admin_key_file(config);
    write_private(&file, token.reveal())
        .with_context(|| format!("{} cannot be written", file.display()))?;
    let now = SystemClock.now();
    let key = controls.create_key(new, &token, "omnilink", now).await?;
    if !controls.is_oldest_key(&key) {
        // Someone else was making it at the same moment.
        controls.revoke_key(&key, "omnilink", now).await?;
        let _ = std::fs::remove_file(&file);
        return Ok(None);
    }
    Ok(Some((key, token.reveal().to_owned())))
}

/// `keys create --first`, beside a node that runs or before there is one.
pub(crate) async fn first_key(config: &Config, who: FirstKey) -> anyhow::Result<(Key, String)> {
    make_dir(&config.data_dir)?;
    let names = Names::new(&config.topics.prefix);
    let specs = names.specs(config.topics.partitions);
    let opened = config.clone();
    // It waits for brokers.
    let log = tokio::task::spawn_blocking(move || {
        let log = open_log(&opened)?;
        log.provision(&specs, true)
            .context("the topics are not as they should be")?;
        anyhow::Ok(log)
    })
    .await??;
    let (controls, _tail) = read_controls(config, &log, &names).await?;
    match make_first_key(config, &controls, who).await? {
        Some(made) => Ok(made),
        None => bail!("there are keys already; an admin key makes more: `omnilink keys create`"),
    }
}
