//! A prefix of one's own on the Kafka of `OMNILINK_TEST_KAFKA`, and plain librdkafka, beside which ours is measured.
#![allow(dead_code, reason = "not every bench uses all of it")]

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use omnilink::{
    log::{
        Log,
        kafka::{KafkaLog, KafkaOptions},
    },
    state::StateStore,
};
use rdkafka::{
    ClientConfig, Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
    consumer::{BaseConsumer, Consumer},
    error::{KafkaError, RDKafkaErrorCode},
    producer::{BaseProducer, BaseRecord, Producer},
};

/// What records weigh that plain producers write.
pub const BYTES: usize = 500;
const REQUEST: Duration = Duration::from_secs(30);

/// Deletes its topics at the end.
pub struct Scratch {
    pub brokers: String,
    pub prefix: String,
}

impl Scratch {
    /// `None`: there is no Kafka, and it has said so.
    pub fn new() -> Option<Self> {
        let Ok(brokers) = std::env::var("OMNILINK_TEST_KAFKA") else {
            println!("SKIPPED: OMNILINK_TEST_KAFKA is not set (eval \"$(scripts/stack env)\")");
            return None;
        };
        Some(Self {
            brokers,
            prefix: format!("bench{}.", uuid::Uuid::now_v7().simple()),
        })
    }

    pub fn name(&self, topic: &str) -> String {
        format!("{}{topic}", self.prefix)
    }

    /// The log as node `node`, with its state in `dir`.
    pub fn log(&self, node: &str, dir: &Path) -> Arc<dyn Log> {
        std::fs::create_dir_all(dir).unwrap();
        let options = KafkaOptions {
            brokers: self.brokers.clone(),
            prefix: self.prefix.clone(),
            node: node.to_owned(),
            ..KafkaOptions::default()
        };
        Arc::new(KafkaLog::connect(options, StateStore::open(dir).unwrap()).unwrap())
    }

    fn config(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.brokers);
        config
    }

    fn admin(&self) -> AdminClient<DefaultClientContext> {
        self.config().create().unwrap()
    }

    /// Makes a topic and says its whole name.
    pub fn topic(&self, name: &str, partitions: i32) -> String {
        let name = self.name(name);
        let new = NewTopic::new(&name, partitions, TopicReplication::Fixed(-1));
        let options = AdminOptions::new().operation_timeout(Some(REQUEST));
        let admin = self.admin();
        let made = wait(admin.create_topics([&new], &options)).unwrap();
        for one in made {
            one.unwrap();
        }
        name
    }

    /// Plain idempotent production with `acks=all` of records of [`BYTES`], as fast as it goes: records a second.
    pub fn produce(&self, topic: &str, partitions: i32, time: Duration) -> f64 {
        let mut config = self.config();
        config.set("enable.idempotence", "true");
        let producer = throughput(&mut config);
        let start = Instant::now();
        let mut sent = 0;
        while start.elapsed() < time {
            send(&producer, topic, partitions, &mut sent, 1_000);
        }
        drain(&producer);
        sent as f64 / start.elapsed().as_secs_f64()
    }

    /// The same in transactions of so many records.
    pub fn transactions(&self, topic: &str, partitions: i32, time: Duration, batch: u64) -> f64 {
        let mut config = self.config();
        config.set("transactional.id", self.name("plain"));
        let producer = throughput(&mut config);
        producer.init_transactions(REQUEST).unwrap();
        let start = Instant::now();
        let mut sent = 0;
        while start.elapsed() < time {
            producer.begin_transaction().unwrap();
            send(&producer, topic, partitions, &mut sent, batch);
            drain(&producer);
            producer.commit_transaction(REQUEST).unwrap();
        }
        sent as f64 / start.elapsed().as_secs_f64()
    }

    /// Plain consumption of what was committed in all partitions: seconds, records, bytes.
    pub fn consume(&self, topic: &str, partitions: i32) -> (f64, u64, u64) {
        let mut config = self.config();
        config
            .set("group.id", self.name("plain"))
            .set("isolation.level", "read_committed")
            .set("enable.auto.commit", "false")
            .set("enable.partition.eof", "true");
        let consumer: BaseConsumer = config.create().unwrap();
        let mut list = TopicPartitionList::new();
        for partition in 0..partitions {
            list.add_partition_offset(topic, partition, Offset::Beginning)
                .unwrap();
        }
        let start = Instant::now();
        consumer.assign(&list).unwrap();
        let (mut records, mut bytes, mut ended) = (0, 0, 0);
        while ended < partitions {
            match consumer.poll(REQUEST).expect("a record or the end") {
                Ok(message) => {
                    records += 1;
                    bytes += (message.key_len() + message.payload_len()) as u64;
                }
                Err(KafkaError::PartitionEOF(_)) => ended += 1,
                Err(error) => panic!("{error}"),
            }
        }
        (start.elapsed().as_secs_f64(), records, bytes)
    }

    /// How long a plain transaction of one record takes from its beginning to its commit, in milliseconds, at a pace.
    pub fn small_transactions(&self, topic: &str, a_second: f64, time: Duration) -> Vec<f64> {
        let mut config = self.config();
        config
            .set("transactional.id", self.name("small"))
            .set("linger.ms", "0")
            // Without it librdkafka waits for 100 ms when the last transaction's markers are still being written.
            .set("retry.backoff.ms", "1")
            .set("socket.nagle.disable", "true");
        let producer: BaseProducer = config.create().unwrap();
        producer.init_transactions(REQUEST).unwrap();
        let (start, mut due) = (Instant::now(), Instant::now());
        let (mut sent, mut taken) = (0, Vec::new());
        while start.elapsed() < time {
            due += Duration::from_secs_f64(1.0 / a_second);
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            let began = Instant::now();
            producer.begin_transaction().unwrap();
            send(&producer, topic, 1, &mut sent, 1);
            drain(&producer);
            producer.commit_transaction(REQUEST).unwrap();
            taken.push(began.elapsed().as_secs_f64() * 1000.0);
        }
        taken
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let admin = self.admin();
        let Ok(found) = admin.inner().fetch_metadata(None, REQUEST) else {
            return;
        };
        let ours: Vec<&str> = found
            .topics()
            .iter()
            .map(rdkafka::metadata::MetadataTopic::name)
            .filter(|name| name.starts_with(&self.prefix))
            .collect();
        if !ours.is_empty() {
            let options = AdminOptions::new().operation_timeout(Some(REQUEST));
            let _ = wait(admin.delete_topics(&ours, &options));
        }
    }
}

/// Settings for as much as goes.
fn throughput(config: &mut ClientConfig) -> BaseProducer {
    config
        .set("acks", "all")
        .set("linger.ms", "5")
        .set("batch.size", "1000000")
        .set("queue.buffering.max.messages", "200000")
        .set("queue.buffering.max.kbytes", "131072");
    config.create().unwrap()
}

fn send(producer: &BaseProducer, topic: &str, partitions: i32, sent: &mut u64, count: u64) {
    let value = [b'x'; BYTES];
    for _ in 0..count {
        let key = sent.to_string();
        let mut record = BaseRecord::to(topic)
            .partition((*sent % partitions as u64) as i32)
            .key(&key)
            .payload(&value[..]);
        loop {
            match producer.send(record) {
                Ok(()) => break,
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                    record = back;
                    producer.poll(Duration::from_millis(5));
                }
                Err((error, _)) => panic!("{error}"),
            }
        }
        *sent += 1;
    }
    producer.poll(Duration::ZERO);
}

/// Waits for all deliveries. rdkafka's own `flush` polls for 100 ms at a time, whatever comes.
fn drain(producer: &BaseProducer) {
    let start = Instant::now();
    while producer.in_flight_count() > 0 {
        assert!(start.elapsed() < REQUEST, "not delivered");
        producer.poll(Duration::from_millis(1));
    }
}

fn wait<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap()
        .block_on(future)
}
