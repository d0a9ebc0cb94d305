//! A Kafka admin client, for changes behind OmniLink's back.

use std::time::{Duration, Instant};

use omnilink::log::{Log, Record};

/// A client that administers the broker without OmniLink: it creates, deletes, grows and truncates topics.
pub struct KafkaAdmin(pub(super) rdkafka::ClientConfig);

type Admin = rdkafka::admin::AdminClient<rdkafka::client::DefaultClientContext>;

impl KafkaAdmin {
    fn admin<T>(&self, ask: impl AsyncFnOnce(&Admin) -> T) -> T {
        let admin: Admin = self.0.create().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        runtime.unwrap().block_on(ask(&admin))
    }

    /// Creates a topic; retries while the broker is still deleting one of the same name.
    pub fn create_topic(&self, topic: &str, partitions: i32) {
        use rdkafka::admin::{AdminOptions, NewTopic, TopicReplication};
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let new = NewTopic::new(topic, partitions, TopicReplication::Fixed(-1));
            let created = self.admin(async |admin| {
                admin
                    .create_topics([&new], &AdminOptions::new())
                    .await
                    .unwrap()
                    .remove(0)
            });
            if created.is_ok() {
                return;
            }
            assert!(Instant::now() < deadline, "{created:?}");
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

    /// Deletes a topic and creates it again. Returns when the broker has done so; until then it accepts records for the deleted one.
    pub fn recreate_topic(&self, log: &dyn Log, topic: &str, partitions: i32) {
        let id = || log.describe(topic).unwrap().and_then(|d| d.id);
        let before = id();
        self.delete(topic);
        self.create_topic(topic, partitions);
        let deadline = Instant::now() + Duration::from_secs(30);
        while id().is_none_or(|id| Some(id) == before) {
            assert!(Instant::now() < deadline, "{topic} is not recreated");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Adds partitions. Returns when the broker shows them.
    pub fn add_partitions(&self, topic: &str, partitions: usize) {
        use rdkafka::{
            admin::{AdminOptions, NewPartitions},
            consumer::{BaseConsumer, Consumer},
        };
        let new = NewPartitions::new(topic, partitions);
        self.admin(async |admin| {
            let result = admin.create_partitions([&new], &AdminOptions::new()).await;
            result.unwrap().remove(0).unwrap();
        });
        let consumer: BaseConsumer = self.0.create().unwrap();
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let found = consumer.fetch_metadata(Some(topic), Duration::from_secs(5));
            if found.is_ok_and(|found| found.topics()[0].partitions().len() == partitions) {
                return;
            }
            assert!(Instant::now() < deadline, "{topic} does not grow");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Deletes all records before an offset, as retention does.
    pub fn delete_records_before(&self, topic: &str, partition: i32, offset: i64) {
        let mut list = rdkafka::TopicPartitionList::new();
        list.add_partition_offset(topic, partition, rdkafka::Offset::Offset(offset))
            .unwrap();
        let options = rdkafka::admin::AdminOptions::new();
        self.admin(async |admin| drop(admin.delete_records(&list, &options).await.unwrap()));
    }

    /// Commits a group's offset, as `kafka-consumer-groups --reset-offsets` does.
    pub fn commit_offset(&self, group: &str, topic: &str, partition: i32, offset: i64) {
        use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
        let mut config = self.0.clone();
        let consumer: BaseConsumer = config.set("group.id", group).create().unwrap();
        let mut list = rdkafka::TopicPartitionList::new();
        list.add_partition_offset(topic, partition, rdkafka::Offset::Offset(offset))
            .unwrap();
        consumer.commit(&list, CommitMode::Sync).unwrap();
    }

    /// Produces records to given partitions.
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
