//! Fixtures shared by the tests.

pub mod admitting;
pub mod canned;
pub mod command;
pub mod controls;
pub mod database_tools;
pub mod frames;
pub mod hostile;
pub mod issuer;
mod kafka_admin;
pub mod language_model;
mod log_proxy;
pub mod mutations;
pub mod pages;
pub mod planner;
pub mod port;
pub mod projections;
pub mod redis;
pub mod runs;
pub mod sagas;
pub mod schema_registry;
pub mod tasks;
pub mod tls;
pub mod topology;
pub mod values;
pub mod worker;

use std::{
    collections::BTreeMap,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

pub use kafka_admin::KafkaAdmin;
pub use log_proxy::{Away, Intercept, LogProxy};
use omnilink::{
    base::clock::{Clock, SystemClock},
    log::{
        Append, Fetched, Lane, Log, LogError, Output, Polled, Position, Record, TopicSpec,
        kafka::{KafkaLog, KafkaOptions},
        local::{LocalLog, LocalOptions},
        memory::MemoryLog,
    },
    state::StateStore,
    stream::{Processor, lane, progress::Progress},
    topology::Setup,
};
use tempfile::TempDir;

/// The processor time of a process, by its id or `self`.
pub fn cpu_time(pid: &str) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (_, fields) = stat.rsplit_once(')').unwrap();
    let ticks = fields.split_whitespace().skip(11).take(2);
    let ticks = ticks.map(|ticks| ticks.parse::<u64>().unwrap());
    Duration::from_millis(10 * ticks.sum::<u64>())
}

/// The entries of an action on the audit log, once there are so many.
pub async fn audit_entries(
    node: &port::Node,
    action: &str,
    at_least: usize,
) -> Vec<omnilink::audit::Entry> {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let (log, topic) = (node.log.clone(), node.names.audit.to_string());
        let records = tokio::task::spawn_blocking(move || read_all(log.as_ref(), &topic, 1));
        let values = records.await.unwrap().into_iter();
        let entries =
            values.map(|r| omnilink::audit::Entry::decode(&r.record.value.unwrap()).unwrap());
        let entries: Vec<_> = entries.filter(|e| e.action == action).collect();
        if entries.len() >= at_least {
            return entries;
        }
        assert!(Instant::now() < deadline, "{entries:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The address of a service from the environment; without it, prints that the test is skipped.
pub fn env_or_skip(variable: &str) -> Option<String> {
    let value = std::env::var(variable).ok().filter(|v| !v.is_empty());
    if value.is_none() {
        eprintln!(
            "SKIPPED: {variable} is not set (scripts/stack start; eval \"$(scripts/stack env)\")"
        );
    }
    value
}

/// Runs each of these functions as a test on both logs: `local::NAME` and `kafka::NAME`.
macro_rules! on_both_logs {
    ($($name:ident),* $(,)?) => {
        mod local {
            use crate::support::{TestLog, LogKind};
            $(#[test] fn $name() { super::$name(TestLog::new(LogKind::Local).unwrap()); })*
        }
        mod kafka {
            use crate::support::{TestLog, LogKind};
            $(#[test] fn $name() { if let Some(test_log) = TestLog::new(LogKind::Kafka) { super::$name(test_log); } })*
        }
    };
}
pub(crate) use on_both_logs;

/// The kind of log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LogKind {
    Local,
    Memory,
    Kafka,
}

/// A log for one test: a directory, and on Kafka a topic prefix.
pub struct TestLog {
    pub kind: LogKind,
    pub prefix: String,
    pub dir: TempDir,
    pub clock: Arc<dyn Clock>,
    /// Every `open` of a log in memory returns this one.
    memory: Arc<MemoryLog>,
    brokers: String,
    properties: BTreeMap<String, String>,
}

impl TestLog {
    /// `None` without a broker.
    pub fn new(kind: LogKind) -> Option<Self> {
        let (brokers, properties) = match kind {
            LogKind::Local | LogKind::Memory => (String::new(), BTreeMap::default()),
            LogKind::Kafka => (env_or_skip("OMNILINK_TEST_KAFKA")?, BTreeMap::default()),
        };
        Some(Self::with(kind, brokers, properties))
    }

    /// The lanes of a processor, as many as `omnilink up` has on two cores.
    pub fn lanes(&self) -> usize {
        match self.kind {
            LogKind::Local | LogKind::Memory => 1,
            LogKind::Kafka => 2,
        }
    }

    /// On the broker that requires SASL_SSL; `None` without it.
    pub fn sasl() -> Option<Self> {
        let brokers = env_or_skip("OMNILINK_TEST_KAFKA_SASL")?;
        let properties = env_or_skip("OMNILINK_TEST_KAFKA_SASL_PROPERTIES")?;
        let properties = serde_json::from_str(&properties).unwrap();
        Some(Self::with(LogKind::Kafka, brokers, properties))
    }

    fn with(kind: LogKind, brokers: String, properties: BTreeMap<String, String>) -> Self {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        Self {
            memory: Arc::new(MemoryLog::new(Arc::clone(&clock))),
            kind,
            prefix: format!("t{}.", uuid::Uuid::now_v7().simple()),
            dir: TempDir::new().unwrap(),
            clock,
            brokers,
            properties,
        }
    }

    pub fn topic(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// The configuration of a Kafka client of another program.
    pub fn client(&self) -> rdkafka::ClientConfig {
        let mut config = rdkafka::ClientConfig::new();
        config.set("bootstrap.servers", &self.brokers);
        for (name, value) in &self.properties {
            config.set(name, value);
        }
        config
    }

    /// Opens the log as `node`, with a directory of that name.
    pub fn open(&self, node: &str) -> Arc<dyn Log> {
        self.open_in(node, &self.dir.path().join(node))
    }

    /// Opens the log as `node` in `dir`. On the embedded log all nodes share one directory, in memory one log.
    pub fn open_in(&self, node: &str, dir: &Path) -> Arc<dyn Log> {
        match self.kind {
            LogKind::Local => {
                let mut options = LocalOptions::new(Arc::clone(&self.clock));
                options.min_free_bytes = 1 << 20;
                Arc::new(LocalLog::open(&self.dir.path().join("log"), options).unwrap())
            }
            LogKind::Memory => Arc::<MemoryLog>::clone(&self.memory),
            LogKind::Kafka => {
                let options = KafkaOptions {
                    brokers: self.brokers.clone(),
                    properties: self.properties.clone(),
                    prefix: self.prefix.clone(),
                    node: node.to_owned(),
                    replication_factor: None,
                };
                std::fs::create_dir_all(dir).unwrap();
                let state = StateStore::open(dir).unwrap();
                Arc::new(KafkaLog::connect(options, state).unwrap())
            }
        }
    }

    /// Sends records with a producer that has these settings and allows large records.
    pub fn produce(&self, topic: &str, records: &[Record], settings: &[(&str, &str)]) {
        use rdkafka::{
            message::{Header, OwnedHeaders},
            producer::{BaseProducer, BaseRecord, Producer},
        };
        let mut config = self.client();
        config.set("message.max.bytes", "20000000");
        for (name, value) in settings {
            config.set(*name, *value);
        }
        let producer: BaseProducer = config.create().unwrap();
        for record in records {
            let mut one = BaseRecord::<[u8], [u8]>::to(topic);
            if let Some(key) = &record.key {
                one = one.key(key);
            }
            if let Some(value) = &record.value {
                one = one.payload(value);
            }
            let headers = record.headers.iter();
            let headers = headers.fold(OwnedHeaders::new(), |all, (key, value)| {
                all.insert(Header {
                    key,
                    value: value.as_deref(),
                })
            });
            producer.send(one.headers(headers)).unwrap();
            producer.flush(Duration::from_secs(30)).unwrap();
        }
    }

    /// Changes a topic's settings on Kafka.
    pub fn alter_topic(&self, topic: &str, settings: &[(&str, &str)]) {
        use rdkafka::{
            admin::{AdminClient, AdminOptions, AlterConfig, ResourceSpecifier},
            client::DefaultClientContext,
        };
        let admin: AdminClient<DefaultClientContext> = self.client().create().unwrap();
        let change = settings.iter().fold(
            AlterConfig::new(ResourceSpecifier::Topic(topic)),
            |c, (name, value)| c.set(name, value),
        );
        tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap()
            .block_on(admin.alter_configs([&change], &AdminOptions::new()))
            .unwrap()
            .into_iter()
            .for_each(|result| drop(result.unwrap()));
    }

    /// A Kafka admin client, for changes behind OmniLink's back.
    pub fn kafka_admin(&self) -> KafkaAdmin {
        KafkaAdmin(self.client())
    }

    /// Starts a processor on the log.
    pub fn start_lane(
        &self,
        log: &Arc<dyn Log>,
        processor: impl Processor + 'static,
        progress: &Arc<Progress>,
    ) -> lane::Running {
        let setup = lane::Setup {
            log: Arc::clone(log),
            dlq: self.topic("dlq").into(),
            clock: Arc::clone(&self.clock),
            progress: Arc::clone(progress),
        };
        lane::start(Arc::new(processor), setup).unwrap()
    }

    /// The setup of a deployment whose foreign topics exist already.
    pub fn topology_setup(&self, log: &Arc<dyn Log>, partitions: u32) -> Setup {
        Setup {
            clock: Arc::clone(&self.clock),
            make_foreign: false,
            lanes: self.lanes(),
            ..topology::setup(log, &self.prefix, partitions)
        }
    }

    pub fn spec(&self, name: &str, partitions: u32, cleanup: omnilink::log::Cleanup) -> TopicSpec {
        TopicSpec {
            name: self.topic(name).into(),
            partitions,
            cleanup,
        }
    }
}

pub fn record(key: &str, value: &str) -> Record {
    Record {
        key: Some(key.to_owned().into()),
        value: Some(value.to_owned().into()),
        headers: Vec::new(),
    }
}

pub fn append(log: &dyn Log, topic: &str, records: Vec<Record>) -> Result<Vec<Position>, LogError> {
    let appends = records
        .into_iter()
        .map(|record| Append {
            topic: topic.into(),
            record,
        })
        .collect();
    log.append(appends, None).blocking_recv().unwrap()
}

pub fn output(topic: &str, record: Record) -> Output {
    Output {
        topic: topic.into(),
        partition: None,
        record,
    }
}

/// All records of a topic, by partition and offset. Waits up to 20 s for `at_least` records, then another 300 ms for more.
pub fn read_all(log: &dyn Log, topic: &str, at_least: usize) -> Vec<Fetched> {
    let mut reader = log.reader(topic).unwrap();
    for partition in 0..log.partitions(topic).unwrap() {
        reader.assign(partition, 0).unwrap();
    }
    let deadline = Instant::now() + Duration::from_secs(20);
    let mut all = Vec::new();
    while all.len() < at_least && Instant::now() < deadline {
        reader.poll(Duration::from_millis(200), &mut all).unwrap();
    }
    reader.poll(Duration::from_millis(300), &mut all).unwrap();
    all.sort_by_key(|f| (f.partition, f.offset));
    all
}

pub fn value(fetched: &Fetched) -> String {
    String::from_utf8(fetched.record.value.clone().unwrap_or_default().to_vec()).unwrap()
}

/// Polls until the lane has partitions, and opens them.
pub fn wait_for_assignment(lane: &mut dyn Lane) -> Vec<(usize, u32, u64)> {
    let deadline = Instant::now() + Duration::from_secs(30);
    let mut out = Vec::new();
    while Instant::now() < deadline {
        match lane.poll(Duration::from_millis(100), &mut out).unwrap() {
            Polled::Assigned(partitions) if !partitions.is_empty() => {
                lane.prepare(&partitions).unwrap();
                return partitions
                    .into_iter()
                    .map(|(t, p)| (t, p, lane.open(t, p).unwrap()))
                    .collect();
            }
            Polled::Revoked(partitions) | Polled::Lost(partitions) => {
                lane.release(&partitions).unwrap();
            }
            _ => {}
        }
    }
    panic!("no partitions within 30 s");
}

/// Polls until `count` records have been read.
pub fn poll_records(lane: &mut dyn Lane, count: usize) -> Vec<Fetched> {
    let deadline = Instant::now() + Duration::from_secs(20);
    let mut out = Vec::new();
    while out.len() < count {
        assert!(
            Instant::now() < deadline,
            "{} of {count} records within 20 s",
            out.len()
        );
        lane.poll(Duration::from_millis(100), &mut out).unwrap();
    }
    out
}

/// Waits until the condition holds, for up to 60 s.
pub fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_mins(1);
    while !holds() {
        assert!(Instant::now() < deadline, "not within 60 s: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Asserts that there is a notice with these texts.
pub fn assert_notice(topic: &str, parts: &[&str]) {
    let notices = omnilink::telemetry::notices();
    let matches =
        |notice: &&String| notice.contains(topic) && parts.iter().all(|part| notice.contains(part));
    assert!(
        notices.iter().any(|n| matches(&n)),
        "{parts:?} in {notices:?}"
    );
}
