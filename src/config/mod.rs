//! The configuration: `omnilink.yaml`, then the environment (`OMNILINK__SECTION__KEY`), then flags; later ones win.
//!
//! Every key is one entry of [`keys::KEYS`]: its name, what it does, how it is parsed and shown. Unknown keys are errors, and
//! all errors are reported at once.

mod aliases;
mod database_tools;
mod error;
mod given;
mod guardian;
mod jwt;
pub mod keys;
mod notify;
mod origin;
mod planner;
mod policy;
mod secret;

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

pub use aliases::Alias;
pub use database_tools::{DatabaseTools, QueryLogin, RecordCreate, RecordTable, SqlQuery};
pub use error::{ConfigError, Problem};
pub use guardian::GuardianSettings;
pub use jwt::{Claim, FromToken, Jwks, JwtIssuer, Texts};
pub use notify::{Notify, NotifyOn, NotifyTarget};
pub use origin::AllowedOrigin;
pub use planner::{LanguageModel, Price};
pub use policy::{AUTHENTICATION, Kind, MAX_CONCURRENCY, MAX_RPM, OnBackendDown, Per, Policy};
pub use secret::{Secret, SecretUrl};

use given::Given;

/// The file that is read without `--config`, if it exists.
pub const DEFAULT_FILE: &str = "omnilink.yaml";

/// Prefix of environment variables.
const ENV_PREFIX: &str = "OMNILINK__";

/// librdkafka's default for `message.max.bytes`.
const KAFKA_MESSAGE_BYTES: usize = 1_000_000;
/// The largest record of the embedded log.
const EMBEDDED_RECORD_BYTES: usize = 16 << 20;
/// Bytes of a record beyond its event: key, headers, framing.
const KAFKA_OVERHEAD: usize = 16 * 1024;

/// The effective configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// The file that was read, if any.
    pub file: Option<PathBuf>,
    /// `listen`: where the port listens.
    pub listen: SocketAddr,
    /// `insecure_listen`: whether it may listen beyond loopback without TLS.
    pub insecure_listen: bool,
    /// `tls.*`.
    pub tls: Tls,
    /// `trusted_proxies`: peers whose `X-Forwarded-For` is trusted.
    pub trusted_proxies: Vec<Network>,
    /// `cors`: origins whose pages may call the port and whose webhooks it accepts.
    pub cors: Vec<AllowedOrigin>,
    /// `auth.jwt`: issuers whose tokens the port accepts.
    pub jwt: Vec<JwtIssuer>,
    /// `data_dir`: everything that OmniLink keeps on disk.
    pub data_dir: PathBuf,
    /// `secret_key`: base64 of 32 bytes each; the first encrypts, all decrypt.
    pub secret_key: Vec<Secret>,
    /// `topics.*`.
    pub topics: Topics,
    /// `kafka.*`.
    pub kafka: Kafka,
    /// `postgres.url`; without it Postgres is embedded.
    pub postgres_url: Option<SecretUrl>,
    /// `redis.url`: state that nodes share; without it each node keeps its own.
    pub redis_url: Option<SecretUrl>,
    /// `schema_registry.url`: the registry with the schemas of foreign Avro.
    pub schema_registry_url: Option<SecretUrl>,
    /// `qdrant.url`: the index of cached plans; without it each node searches in memory.
    pub qdrant_url: Option<SecretUrl>,
    /// `qdrant.api_key`.
    pub qdrant_api_key: Option<Secret>,
    /// `limits.*`.
    pub limits: Limits,
    /// `webhooks.aliases`: paths of webhook sources beside their own.
    pub aliases: Vec<Alias>,
    /// `webhooks_dir`: files with shapes of webhook sources, for `check` and `test`.
    pub webhooks_dir: PathBuf,
    /// `audit.retention_days`: how long the audit log is kept.
    pub audit_retention_days: u32,
    /// `topologies_dir`: the topology files.
    pub topologies_dir: PathBuf,
    /// `event_schemas_dir`: JSON Schemas that the data of events must fit.
    pub event_schemas_dir: PathBuf,
    /// `runs.*`, and what of `limits.*` and `risk.*` concerns runs.
    pub runs: Runs,
    /// `guardian.*`: how goals are checked.
    pub guardian: GuardianSettings,
    /// `workflows_dir`: the workflow files.
    pub workflows_dir: PathBuf,
    /// `tools_dir`: the tool files.
    pub tools_dir: PathBuf,
    /// `embed.model_dir`; see [`Config::model_dir`].
    pub embed_model_dir: Option<PathBuf>,
    /// `breaker.*`: when the circuit breakers of tools open, and for how long.
    pub breaker: BreakerSettings,
    /// `allow.http_hosts`: the hosts that the builtin tool `http` reaches, in lower case.
    pub allow_http_hosts: Vec<String>,
    /// `planner`: the language models that plan goals, in the order in which they are tried.
    pub planner: Vec<LanguageModel>,
    /// `plans.*`.
    pub plans: Plans,
    /// `allow.planner_hosts`: the hosts that a plan of a language model may reach without approval, in lower case.
    pub allow_planner_hosts: Vec<String>,
    /// `allow.planner_events`: the types of events that a plan of a language model may emit without approval.
    pub allow_planner_events: Vec<String>,
    /// `guardian.llm`: the language model that looks at goals for prompt injection.
    pub guardian_llm: Option<LanguageModel>,
    /// `tools.*`: the builtin tools that use a Postgres.
    pub database_tools: DatabaseTools,
    /// `notify`: who is told what happens.
    pub notify: Vec<Notify>,
    /// `public_url`: where people reach the port; without a trailing `/`.
    pub public_url: Option<String>,
    /// `log.format`.
    pub log_format: LogFormat,
}

/// `tls.*`. Both files or neither.
#[derive(Clone, Debug, Default)]
pub struct Tls {
    /// The PEM file with the certificate and its intermediates.
    pub cert: Option<PathBuf>,
    /// The PEM file with the private key.
    pub key: Option<PathBuf>,
}

impl Tls {
    /// The certificate's file and the key's; `None`: the port has no TLS.
    pub fn files(&self) -> Option<(&Path, &Path)> {
        Some((self.cert.as_deref()?, self.key.as_deref()?))
    }
}

/// `topics.*`.
#[derive(Clone, Debug)]
pub struct Topics {
    /// Prefix of every topic, consumer group and transactional id.
    pub prefix: String,
    /// Partitions of a topic; cannot be changed once it exists.
    pub partitions: u32,
    /// Replication factor of topics on Kafka; `None` is the broker's default.
    pub replication_factor: Option<u16>,
}

/// `kafka.*`.
#[derive(Clone, Debug, Default)]
pub struct Kafka {
    /// `host:port` of some brokers; empty means the embedded log.
    pub brokers: Vec<String>,
    /// librdkafka properties, passed on unchanged.
    pub properties: BTreeMap<String, Secret>,
}

/// `limits.*`.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Size limit of a single event, in bytes.
    pub single_bytes: usize,
    /// Size limit of a batch, in bytes.
    pub batch_bytes: usize,
    /// Item limit of a batch.
    pub batch_items: usize,
    /// How long an event's identity is remembered.
    pub dedupe_window: Duration,
    /// Limits of requests, by name.
    pub policies: Vec<Arc<Policy>>,
}

/// How runs are carried out.
#[derive(Clone, Debug)]
pub struct Runs {
    /// `runs.identity_d`: how long the idempotency key of a run that has ended names it.
    pub identity_d: u32,
    /// `runs.events`: whether each end of a run is also an event.
    pub events: bool,
    /// `limits.approval_expiry_s`: how long an approval can be decided.
    pub approval_expiry: Duration,
    /// `risk.approve_above`: from this risk score on a step waits for a person, whatever its lane.
    pub approve_above: f64,
}

impl Default for Runs {
    fn default() -> Self {
        Self {
            identity_d: 90,
            events: false,
            approval_expiry: Duration::from_hours(24),
            approve_above: 0.7,
        }
    }
}

/// `plans.*`: the cache of plans.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Plans {
    /// `plans.ttl_s`: how long a plan is cached after its last success.
    pub ttl: Duration,
    /// `plans.threshold`: the least similarity of a goal to that of a cached plan, or to an example.
    pub threshold: f64,
}

impl Default for Plans {
    fn default() -> Self {
        Self {
            ttl: Duration::from_hours(24),
            threshold: 0.85,
        }
    }
}

/// How many of the last calls of a tool a circuit breaker looks at.
pub const BREAKER_CALLS: u32 = 20;

/// `breaker.*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BreakerSettings {
    /// How many of the last [`BREAKER_CALLS`] calls have failed when it opens, at least; at least half of them in any case.
    pub failures: u32,
    /// How long it stays open until a call tries whether the worker is well again.
    pub open: Duration,
}

impl Default for BreakerSettings {
    fn default() -> Self {
        Self {
            failures: 5,
            open: Duration::from_secs(30),
        }
    }
}

/// `log.format`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Readable text.
    Text,
    /// One JSON object a line.
    Json,
}

/// A range of addresses, such as `10.0.0.0/8`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    bits: u8,
}

impl Network {
    /// Parses `10.0.0.0/8`, or a single address.
    pub fn parse(text: &str) -> Option<Self> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address.parse().ok()?, Some(bits.parse().ok()?)),
            None => (text.parse().ok()?, None),
        };
        let max_bits = if matches!(address, IpAddr::V4(_)) {
            32
        } else {
            128
        };
        let bits = bits.unwrap_or(max_bits);
        (bits <= max_bits).then_some(Self { address, bits })
    }

    /// Whether it contains the address.
    pub fn contains(&self, other: IpAddr) -> bool {
        match (self.address, other.to_canonical()) {
            (IpAddr::V4(a), IpAddr::V4(b)) => {
                let shift = 32 - u32::from(self.bits);
                a.to_bits().checked_shr(shift) == b.to_bits().checked_shr(shift)
            }
            (IpAddr::V6(a), IpAddr::V6(b)) => {
                let shift = 128 - u32::from(self.bits);
                a.to_bits().checked_shr(shift) == b.to_bits().checked_shr(shift)
            }
            _ => false,
        }
    }
}

impl std::fmt::Display for Network {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.address, self.bits)
    }
}

/// Where the configuration comes from, handed in so that tests need no process environment.
#[derive(Default)]
pub struct Sources {
    /// `--config`; an error if it is not there.
    pub file: Option<PathBuf>,
    /// The environment's variables, all of them.
    pub env: Vec<(String, String)>,
    /// Flags: the flag as typed, the key that it sets, and its value.
    pub flags: Vec<(&'static str, &'static str, String)>,
}

impl Sources {
    /// The process's environment, and a file if one was named. Variables that are not Unicode cannot be ours.
    pub fn of_process(file: Option<PathBuf>) -> Self {
        let env = std::env::vars_os()
            .filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)))
            .collect();
        Self {
            file,
            env,
            flags: Vec::new(),
        }
    }

    /// Adds a flag, if it was given.
    #[must_use]
    pub fn flag(mut self, flag: &'static str, key: &'static str, value: Option<String>) -> Self {
        self.flags.extend(value.map(|v| (flag, key, v)));
        self
    }
}

impl Config {
    /// The defaults, with relative paths under `base`.
    pub fn defaults(base: &Path) -> Self {
        Self {
            file: None,
            listen: SocketAddr::from(([127, 0, 0, 1], 7700)),
            insecure_listen: false,
            tls: Tls::default(),
            trusted_proxies: Vec::new(),
            cors: Vec::new(),
            jwt: Vec::new(),
            data_dir: base.join("data"),
            secret_key: Vec::new(),
            topics: Topics {
                prefix: "omnilink.".into(),
                partitions: 8,
                replication_factor: None,
            },
            kafka: Kafka::default(),
            postgres_url: None,
            redis_url: None,
            schema_registry_url: None,
            qdrant_url: None,
            qdrant_api_key: None,
            limits: Limits {
                single_bytes: 256 * 1024,
                batch_bytes: 1024 * 1024,
                batch_items: 50,
                dedupe_window: Duration::from_hours(24),
                policies: Vec::new(),
            },
            aliases: Vec::new(),
            webhooks_dir: base.join("webhooks"),
            audit_retention_days: 90,
            runs: Runs::default(),
            guardian: GuardianSettings::default(),
            topologies_dir: base.join("topologies"),
            event_schemas_dir: base.join("event-schemas"),
            workflows_dir: base.join("workflows"),
            tools_dir: base.join("tools"),
            embed_model_dir: None,
            breaker: BreakerSettings::default(),
            allow_http_hosts: Vec::new(),
            planner: Vec::new(),
            plans: Plans::default(),
            allow_planner_hosts: Vec::new(),
            allow_planner_events: Vec::new(),
            guardian_llm: None,
            database_tools: DatabaseTools::default(),
            notify: Vec::new(),
            public_url: None,
            log_format: LogFormat::Text,
        }
    }

    /// The folder of the model of the embeddings: `embed.model_dir`, by default in `data_dir`.
    pub fn model_dir(&self) -> PathBuf {
        let of_data = || self.data_dir.join("models/all-MiniLM-L6-v2");
        self.embed_model_dir.clone().unwrap_or_else(of_data)
    }

    /// Whether the log is Kafka.
    pub fn on_kafka(&self) -> bool {
        !self.kafka.brokers.is_empty()
    }

    /// Reads all sources. The error holds all problems, not only the first.
    pub fn load(sources: &Sources) -> Result<Self, ConfigError> {
        let mut problems = Vec::new();
        let (file, text) = read_file(sources.file.as_deref(), &mut problems);
        // The parent of a bare `omnilink.yaml` is the empty path, which means the current folder.
        let base = file
            .as_deref()
            .and_then(Path::parent)
            .unwrap_or(Path::new(""));
        let mut config = Self::defaults(base);
        config.file.clone_from(&file);

        let mut given = Vec::new();
        if let (Some(file), Some(text)) = (&file, &text) {
            match given::from_yaml(text, &file.display().to_string(), keys::is_section) {
                Ok(mut from_file) => given.append(&mut from_file),
                Err(problem) => problems.push(problem),
            }
        }
        for (name, value) in &sources.env {
            if let Some(path) = name.strip_prefix(ENV_PREFIX) {
                given.push((given::env_path(path), Given::raw(value, name)));
            }
        }
        for (flag, key, value) in &sources.flags {
            given.push(((*key).to_owned(), Given::raw(value, flag)));
        }
        let env = |name: &str| {
            sources
                .env
                .iter()
                .find(|(n, _)| n == name)
                .map(|(_, v)| v.clone())
        };
        let context = keys::Context { base, env: &env };
        let mut drafts = keys::Drafts::default();
        for (path, value) in &given {
            keys::set(
                &mut config,
                path,
                value,
                &context,
                &mut drafts,
                &mut problems,
            );
        }
        config.limits.policies = drafts.finish(&mut problems);
        // Conflicts between values are checked only if all of them could be parsed.
        if problems.is_empty() {
            config.check(&mut problems);
        }
        if problems.is_empty() {
            Ok(config)
        } else {
            Err(ConfigError { problems })
        }
    }

    /// Checks that the values of different keys fit together.
    fn check(&self, problems: &mut Vec<Problem>) {
        let mut wrong = |key: &str, message: String| {
            problems.push(Problem {
                place: "configuration".into(),
                key: key.into(),
                message,
            });
        };
        if self.on_kafka() && self.secret_key.is_empty() {
            wrong(
                "secret_key",
                "required with Kafka, the same on every node: `openssl rand -base64 32` makes one; give it as `env:NAME` or `file:PATH`".into(),
            );
        }
        if self.guardian.flag_at > self.guardian.deny_at {
            wrong(
                "guardian.flag_at",
                "must not be above `guardian.deny_at`".into(),
            );
        }
        let records = &self.database_tools.record_create;
        if records.url.is_none() && !records.tables.is_empty() {
            wrong(
                "tools.record_create.tables",
                "set, but `tools.record_create.url` is not".into(),
            );
        }
        if !self.on_kafka() && !self.kafka.properties.is_empty() {
            wrong("kafka.properties", "set, but `kafka.brokers` is not".into());
        }
        for (set, key, other) in [
            (&self.tls.cert, "tls.cert", &self.tls.key),
            (&self.tls.key, "tls.key", &self.tls.cert),
        ] {
            if set.is_some() && other.is_none() {
                let message = "TLS needs both `tls.cert` and `tls.key`";
                wrong(key, message.into());
            }
        }
        let exposed = !self.listen.ip().is_loopback() && self.tls.files().is_none();
        if exposed && !self.insecure_listen {
            wrong(
                "listen",
                format!(
                    "{} can be reached from other machines, and keys would be sent unencrypted; set `tls.cert` and `tls.key`, listen on 127.0.0.1 behind a TLS proxy, or set `insecure_listen: true`",
                    self.listen
                ),
            );
        }
        let kafka_limit = self.kafka.properties.get("message.max.bytes");
        let kafka_limit = kafka_limit.and_then(|n| n.expose().parse().ok());
        let kafka_limit: usize = kafka_limit.unwrap_or(KAFKA_MESSAGE_BYTES);
        if self.on_kafka() && self.limits.single_bytes + KAFKA_OVERHEAD > kafka_limit {
            wrong(
                "limits.single_bytes",
                format!(
                    "{} does not fit into a Kafka message; `message.max.bytes` of `kafka.properties` is {kafka_limit}",
                    self.limits.single_bytes
                ),
            );
        }
        if !self.on_kafka() && self.limits.single_bytes + KAFKA_OVERHEAD > EMBEDDED_RECORD_BYTES {
            wrong(
                "limits.single_bytes",
                format!(
                    "{} does not fit into a record of the embedded log, which is limited to {EMBEDDED_RECORD_BYTES} bytes",
                    self.limits.single_bytes
                ),
            );
        }
        if self.limits.single_bytes > self.limits.batch_bytes {
            wrong(
                "limits.single_bytes",
                format!(
                    "{} is more than `limits.batch_bytes` ({})",
                    self.limits.single_bytes, self.limits.batch_bytes
                ),
            );
        }
    }
}

fn read_file(
    named: Option<&Path>,
    problems: &mut Vec<Problem>,
) -> (Option<PathBuf>, Option<String>) {
    let path = named.unwrap_or(Path::new(DEFAULT_FILE));
    match std::fs::read_to_string(path) {
        Ok(text) => (Some(path.to_owned()), Some(text)),
        Err(e) if named.is_none() && e.kind() == std::io::ErrorKind::NotFound => (None, None),
        Err(e) => {
            problems.push(Problem {
                place: path.display().to_string(),
                key: String::new(),
                message: format!("cannot be read: {e}"),
            });
            (None, None)
        }
    }
}
