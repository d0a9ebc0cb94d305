//! A topic prefix on the Kafka of `OMNILINK_TEST_KAFKA`, and plain librdkafka clients, with which OmniLink is compared.
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
    message::{BorrowedMessage, Message},
    metadata::MetadataTopic,
    producer::{BaseProducer, BaseRecord, Producer},
};

/// The size of records of plain producers, in bytes.
pub const BYTES: usize = 500;
const REQUEST: Duration = Duration::from_secs(30);

/// A topic prefix whose topics and groups are deleted on drop.
pub struct Scratch {
    pub brokers: String,
    pub prefix: String,
}

impl Scratch {
    /// `None` without Kafka, which is printed.
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

    /// A longer prefix, for OmniLink's own topics beside foreign ones.
    pub fn within(&self, part: &str) -> Self {
        Self {
            brokers: self.brokers.clone(),
            prefix: self.name(part),
        }
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

    /// Creates a topic and returns its full name.
    pub fn topic(&self, name: &str, partitions: i32) -> String {
        let name = self.name(name);
        let new = NewTopic::new(&name, partitions, TopicReplication::Fixed(-1));
        let options = AdminOptions::new().operation_timeout(Some(REQUEST));
        let admin = self.admin();
        let created = wait(admin.create_topics([&new], &options)).unwrap();
        for one in created {
            one.unwrap();
        }
        // Wait until the broker shows it.
        let start = Instant::now();
        let known = || {
            let found = admin.inner().fetch_metadata(Some(&name), REQUEST).unwrap();
            let parts = found.topics().iter().flat_map(MetadataTopic::partitions);
            parts
                .filter(|p| p.leader() >= 0 && p.error().is_none())
                .count()
        };
        while known() < partitions as usize {
            assert!(start.elapsed() < REQUEST, "{name} does not appear");
            std::thread::sleep(Duration::from_millis(20));
        }
        name
    }

    /// Produces records of [`BYTES`] with a plain idempotent producer and `acks=all`; returns records per second.
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

    /// The same in transactions of `batch` records.
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

    /// Consumes all committed records: seconds, records, bytes.
    pub fn consume(&self, topic: &str, partitions: i32) -> (f64, u64, u64) {
        let start = Instant::now();
        let (mut records, mut bytes) = (0, 0);
        self.read(topic, partitions, |message| {
            records += 1;
            bytes += (message.key_len() + message.payload_len()) as u64;
        });
        (start.elapsed().as_secs_f64(), records, bytes)
    }

    /// Reads the committed records of all partitions.
    pub fn read(&self, topic: &str, partitions: i32, mut record: impl FnMut(&BorrowedMessage<'_>)) {
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
        consumer.assign(&list).unwrap();
        let mut ended = 0;
        while ended < partitions {
            match consumer.poll(REQUEST).expect("a record or the end") {
                Ok(message) => record(&message),
                Err(KafkaError::PartitionEOF(_)) => ended += 1,
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// Copies a whole topic exactly once, in transactions of `batch` records with the offsets of a group. Reports the number of
    /// committed records; returns seconds from the first record.
    pub fn copy(
        &self,
        (from, to): (&str, &str),
        partitions: i32,
        batch: u64,
        mut committed: impl FnMut(u64),
    ) -> f64 {
        let mut config = self.config();
        config.set("transactional.id", self.name("plain.copy"));
        let producer = throughput(&mut config);
        producer.init_transactions(REQUEST).unwrap();
        let mut config = self.config();
        config
            .set("group.id", self.name("plain.copy"))
            .set("isolation.level", "read_committed")
            .set("enable.auto.commit", "false")
            .set("enable.partition.eof", "true")
            .set("fetch.message.max.bytes", "2097152")
            .set("queued.max.messages.kbytes", "65536");
        let consumer: BaseConsumer = config.create().unwrap();
        let mut list = TopicPartitionList::new();
        list.add_partition_range(from, 0, partitions - 1);
        list.set_all_offsets(Offset::Beginning).unwrap();
        consumer.assign(&list).unwrap();
        let member = consumer.group_metadata().expect("it has a group");
        let (mut ended, mut copied) = (0, 0);
        let mut first = None;
        while ended < partitions {
            producer.begin_transaction().unwrap();
            let mut positions = TopicPartitionList::new();
            let mut next = vec![None; partitions as usize];
            let end = copied + batch;
            while copied < end && ended < partitions {
                match consumer.poll(REQUEST).expect("a record or the end") {
                    Ok(message) => {
                        first.get_or_insert_with(Instant::now);
                        let (key, value) = (message.key(), message.payload());
                        deliver(&producer, to, message.partition(), key, value);
                        next[message.partition() as usize] = Some(message.offset() + 1);
                        copied += 1;
                    }
                    Err(KafkaError::PartitionEOF(_)) => ended += 1,
                    Err(error) => panic!("{error}"),
                }
            }
            for (partition, next) in (0..).zip(next) {
                if let Some(next) = next {
                    positions
                        .add_partition_offset(from, partition, Offset::Offset(next))
                        .unwrap();
                }
            }
            drain(&producer);
            producer
                .send_offsets_to_transaction(&positions, &member, REQUEST)
                .unwrap();
            producer.commit_transaction(REQUEST).unwrap();
            committed(copied);
        }
        first.map_or(0.0, |first| first.elapsed().as_secs_f64())
    }

    /// Reads the committed offsets of a group without joining it.
    pub fn watch(&self, group: &str, topic: &str, partitions: i32) -> Watch {
        let mut config = self.config();
        // So that it does not wait for an open transaction.
        config
            .set("group.id", self.name(group))
            .set("isolation.level", "read_uncommitted");
        let mut list = TopicPartitionList::new();
        list.add_partition_range(&self.name(topic), 0, partitions - 1);
        Watch {
            consumer: config.create().unwrap(),
            list,
        }
    }

    /// Durations of plain transactions of one record at a constant rate, in milliseconds.
    pub fn small_transactions(&self, topic: &str, a_second: f64, time: Duration) -> Vec<f64> {
        let mut config = self.config();
        config
            .set("transactional.id", self.name("small"))
            .set("linger.ms", "0")
            // Otherwise librdkafka waits 100 ms while the last transaction's markers are being written.
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

pub struct Watch {
    consumer: BaseConsumer,
    list: TopicPartitionList,
}

impl Watch {
    /// The sum of all offsets.
    pub fn done(&self) -> u64 {
        // The coordinator may not be known yet.
        let Ok(found) = self.consumer.committed_offsets(self.list.clone(), REQUEST) else {
            return 0;
        };
        let positions = found.elements().into_iter().map(|e| match e.offset() {
            Offset::Offset(next) => next as u64,
            _ => 0,
        });
        positions.sum()
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
            .map(MetadataTopic::name)
            .filter(|name| name.starts_with(&self.prefix))
            .collect();
        if !ours.is_empty() {
            let options = AdminOptions::new().operation_timeout(Some(REQUEST));
            let _ = wait(admin.delete_topics(&ours, &options));
        }
        // Groups whose members were killed stay until their sessions expire.
        let Ok(groups) = admin.inner().fetch_group_list(None, REQUEST) else {
            return;
        };
        let names = groups.groups().iter().map(rdkafka::groups::GroupInfo::name);
        let ours: Vec<&str> = names
            .filter(|name| name.starts_with(&self.prefix))
            .collect();
        if !ours.is_empty() {
            let options = AdminOptions::new().operation_timeout(Some(REQUEST));
            let _ = wait(admin.delete_groups(&ours, &options));
        }
    }
}

/// A producer with settings for throughput.
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
        let partition = (*sent % partitions as u64) as i32;
        deliver(
            producer,
            topic,
            partition,
            Some(key.as_bytes()),
            Some(&value),
        );
        *sent += 1;
    }
    producer.poll(Duration::ZERO);
}

fn deliver(
    producer: &BaseProducer,
    topic: &str,
    partition: i32,
    key: Option<&[u8]>,
    value: Option<&[u8]>,
) {
    let mut record: BaseRecord<'_, [u8], [u8]> = BaseRecord::to(topic).partition(partition);
    if let Some(key) = key {
        record = record.key(key);
    }
    if let Some(value) = value {
        record = record.payload(value);
    }
    loop {
        match producer.send(record) {
            Ok(()) => return,
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                record = back;
                producer.poll(Duration::from_millis(5));
            }
            Err((error, _)) => panic!("{error}"),
        }
    }
}

/// Waits for all deliveries. rdkafka's `flush` always polls for 100 ms.
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
