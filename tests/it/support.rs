//! What tests need to meet the real parts.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use omnilink::{
    base::clock::{Clock, SystemClock},
    log::{
        Append, Fetched, Lane, Log, LogError, Output, Polled, Position, Record, TopicSpec,
        kafka::{KafkaLog, KafkaOptions},
        local::{LocalLog, LocalOptions},
        memory::MemoryLog,
    },
    state::StateStore,
};
use tempfile::TempDir;

/// A part's address from the environment; prints why a test is skipped without it.
pub fn part(variable: &str) -> Option<String> {
    let value = std::env::var(variable).ok().filter(|v| !v.is_empty());
    if value.is_none() {
        eprintln!(
            "SKIPPED: {variable} is not set (scripts/stack start; eval \"$(scripts/stack env)\")"
        );
    }
    value
}

/// Makes each of these functions a test on a bed of either log: `local::NAME` and `kafka::NAME`.
macro_rules! on_both {
    ($($name:ident),* $(,)?) => {
        mod local {
            use crate::support::{Bed, Kind};
            $(#[test] fn $name() { super::$name(Bed::new(Kind::Local).unwrap()); })*
        }
        mod kafka {
            use crate::support::{Bed, Kind};
            $(#[test] fn $name() { if let Some(bed) = Bed::new(Kind::Kafka) { super::$name(bed); } })*
        }
    };
}
pub(crate) use on_both;

/// Which log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Local,
    Memory,
    Kafka,
}

/// A log of its own for one test: a directory, and on Kafka a prefix.
pub struct Bed {
    pub kind: Kind,
    pub prefix: String,
    pub dir: TempDir,
    pub clock: Arc<dyn Clock>,
    /// All that a log in memory has.
    memory: Arc<MemoryLog>,
    brokers: String,
    properties: BTreeMap<String, String>,
}

impl Bed {
    /// `None`: the part is not there.
    pub fn new(kind: Kind) -> Option<Self> {
        let (brokers, properties) = match kind {
            Kind::Local | Kind::Memory => (String::new(), BTreeMap::default()),
            Kind::Kafka => (part("OMNILINK_TEST_KAFKA")?, BTreeMap::default()),
        };
        Some(Self::with(kind, brokers, properties))
    }

    /// Lanes of a processor: as many as `up` has on two cores.
    pub fn lanes(&self) -> usize {
        match self.kind {
            Kind::Local | Kind::Memory => 1,
            Kind::Kafka => 2,
        }
    }

    /// On the broker that demands SASL_SSL. `None`: it is not there.
    pub fn sasl() -> Option<Self> {
        let brokers = part("OMNILINK_TEST_KAFKA_SASL")?;
        let properties = part("OMNILINK_TEST_KAFKA_SASL_PROPERTIES")?;
        let properties = serde_json::from_str(&properties).unwrap();
        Some(Self::with(Kind::Kafka, brokers, properties))
    }

    fn with(kind: Kind, brokers: String, properties: BTreeMap<String, String>) -> Self {
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

    /// A client of its own, as another program's.
    pub fn client(&self) -> rdkafka::ClientConfig {
        let mut config = rdkafka::ClientConfig::new();
        config.set("bootstrap.servers", &self.brokers);
        for (name, value) in &self.properties {
            config.set(name, value);
        }
        config
    }

    /// Opens the log as node `node`, with its own directory.
    pub fn open(&self, node: &str) -> Arc<dyn Log> {
        self.open_in(node, &self.dir.path().join(node))
    }

    /// Opens the log as node `node` in `dir`. On the local log and in memory all nodes are one.
    pub fn open_in(&self, node: &str, dir: &Path) -> Arc<dyn Log> {
        match self.kind {
            Kind::Local => {
                let mut options = LocalOptions::new(Arc::clone(&self.clock));
                options.min_free_bytes = 1 << 20;
                Arc::new(LocalLog::open(&self.dir.path().join("log"), options).unwrap())
            }
            Kind::Memory => Arc::<MemoryLog>::clone(&self.memory),
            Kind::Kafka => {
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

    /// Sends records as any producer does that has this setting, and takes large ones.
    pub fn produce(&self, topic: &str, records: &[Record], settings: &[(&str, &str)]) {
        use rdkafka::{
            message::{Header, OwnedHeaders},
            producer::{BaseProducer, BaseRecord, Producer},
        };
        let mut config = rdkafka::ClientConfig::new();
        config
            .set("bootstrap.servers", &self.brokers)
            .set("message.max.bytes", "20000000");
        let properties = self
            .properties
            .iter()
            .map(|(k, v)| (k.as_str(), v.as_str()));
        for (name, value) in properties.chain(settings.iter().copied()) {
            config.set(name, value);
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

    /// Kafka as others see it: to delete, make and grow topics behind OmniLink's back.
    pub fn foreign(&self) -> Foreign {
        let mut config = rdkafka::ClientConfig::new();
        config.set("bootstrap.servers", &self.brokers);
        for (name, value) in &self.properties {
            config.set(name, value);
        }
        Foreign(config)
    }

    pub fn spec(&self, name: &str, partitions: u32, cleanup: omnilink::log::Cleanup) -> TopicSpec {
        TopicSpec {
            name: self.topic(name).into(),
            partitions,
            cleanup,
        }
    }
}

/// Somebody else at the brokers.
pub struct Foreign(rdkafka::ClientConfig);

type Admin = rdkafka::admin::AdminClient<rdkafka::client::DefaultClientContext>;

impl Foreign {
    fn admin<T>(&self, ask: impl AsyncFnOnce(&Admin) -> T) -> T {
        let admin: Admin = self.0.create().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        runtime.unwrap().block_on(ask(&admin))
    }

    /// Makes a topic, as soon as one of that name is gone.
    pub fn make(&self, topic: &str, partitions: i32) {
        use rdkafka::admin::{AdminOptions, NewTopic, TopicReplication};
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let new = NewTopic::new(topic, partitions, TopicReplication::Fixed(-1));
            let made = self.admin(async |admin| {
                admin
                    .create_topics([&new], &AdminOptions::new())
                    .await
                    .unwrap()
                    .remove(0)
            });
            if made.is_ok() {
                return;
            }
            assert!(Instant::now() < deadline, "{made:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn delete(&self, topic: &str) {
        let options = rdkafka::admin::AdminOptions::new();
        self.admin(async |admin| {
            let deleted = admin.delete_topics(&[topic], &options).await;
            deleted.unwrap().remove(0).unwrap();
        });
    }

    /// Deletes a topic and makes it anew. Returns when the broker has: until then it takes records for the one before.
    pub fn make_anew(&self, log: &dyn Log, topic: &str, partitions: i32) {
        let id = || log.describe(topic).unwrap().and_then(|d| d.id);
        let before = id();
        self.delete(topic);
        self.make(topic, partitions);
        let deadline = Instant::now() + Duration::from_secs(30);
        while id().is_none_or(|id| Some(id) == before) {
            assert!(Instant::now() < deadline, "{topic} is not made anew");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Adds partitions. Returns when the broker shows them.
    pub fn grow(&self, topic: &str, partitions: usize) {
        use rdkafka::{
            admin::{AdminOptions, NewPartitions},
            consumer::{BaseConsumer, Consumer},
        };
        let new = NewPartitions::new(topic, partitions);
        self.admin(async |admin| {
            let grown = admin.create_partitions([&new], &AdminOptions::new()).await;
            grown.unwrap().remove(0).unwrap();
        });
        let asker: BaseConsumer = self.0.create().unwrap();
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let found = asker.fetch_metadata(Some(topic), Duration::from_secs(5));
            if found.is_ok_and(|found| found.topics()[0].partitions().len() == partitions) {
                return;
            }
            assert!(Instant::now() < deadline, "{topic} does not grow");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Drops all records before an offset, as retention does.
    pub fn drop_before(&self, topic: &str, partition: i32, offset: i64) {
        let mut list = rdkafka::TopicPartitionList::new();
        list.add_partition_offset(topic, partition, rdkafka::Offset::Offset(offset))
            .unwrap();
        let options = rdkafka::admin::AdminOptions::new();
        self.admin(async |admin| drop(admin.delete_records(&list, &options).await.unwrap()));
    }

    /// Sets a group's position, as `kafka-consumer-groups --reset-offsets` does.
    pub fn set_position(&self, group: &str, topic: &str, partition: i32, offset: i64) {
        use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
        let mut config = self.0.clone();
        let consumer: BaseConsumer = config.set("group.id", group).create().unwrap();
        let mut list = rdkafka::TopicPartitionList::new();
        list.add_partition_offset(topic, partition, rdkafka::Offset::Offset(offset))
            .unwrap();
        consumer.commit(&list, CommitMode::Sync).unwrap();
    }

    /// Appends to partitions of its own choice.
    pub fn send(&self, topic: &str, records: &[(i32, Record)]) {
        use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
        let producer: BaseProducer = self.0.create().unwrap();
        for (partition, record) in records {
            let mut headers = rdkafka::message::OwnedHeaders::new();
            for (key, value) in &record.headers {
                headers = headers.insert(rdkafka::message::Header {
                    key,
                    value: value.as_deref(),
                });
            }
            let mut to = BaseRecord::<[u8], [u8]>::to(topic)
                .partition(*partition)
                .headers(headers);
            to.key = record.key.as_deref();
            to.payload = record.value.as_deref();
            producer.send(to).map_err(|(error, _)| error).unwrap();
        }
        producer.flush(Duration::from_secs(10)).unwrap();
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

/// Everything in a topic, by partition and offset. Waits until `at_least` records are there, at most 20 s, then a moment more.
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

/// Polls until the lane has its partitions, and opens them.
pub fn settle(lane: &mut dyn Lane) -> Vec<(usize, u32, u64)> {
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

/// Polls until `count` records came.
pub fn take(lane: &mut dyn Lane, count: usize) -> Vec<Fetched> {
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
