//! The producer with injected broker errors: acknowledged records are in the log once and in order.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use omnilink::log::{
    Acknowledged, Append, Log, LogError, Output, Record,
    kafka::{KafkaLog, KafkaOptions},
};
use rdkafka::{
    ClientConfig, Message, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    mocking::MockCluster,
    producer::DefaultProducerContext,
    types::{RDKafkaApiKey, RDKafkaRespErr as Code},
};

const TOPIC: &str = "in";
const PARTITIONS: i32 = 4;
const DEADLINE: Duration = Duration::from_mins(1);

type Cluster = MockCluster<'static, DefaultProducerContext>;

fn cluster(brokers: i32) -> Cluster {
    let cluster = Cluster::new(brokers).unwrap();
    cluster.create_topic(TOPIC, PARTITIONS, brokers).unwrap();
    cluster
}

fn connect(cluster: &Cluster, properties: &[(&str, &str)]) -> KafkaLog {
    let owned = |(k, v): &(&str, &str)| ((*k).to_owned(), (*v).to_owned());
    let options = KafkaOptions {
        brokers: cluster.bootstrap_servers(),
        node: "a".into(),
        properties: properties.iter().map(owned).collect(),
        ..KafkaOptions::default()
    };
    KafkaLog::connect_stateless(options).unwrap()
}

/// The n-th record, with one of ten keys.
fn numbered(n: usize) -> Append {
    Append {
        topic: TOPIC.into(),
        record: Record {
            key: Some(Bytes::from(format!("key-{}", n % 10))),
            value: Some(Bytes::from(n.to_string())),
            headers: vec![
                ("h".into(), None),
                ("h".into(), Some(Bytes::from_static(b"2"))),
            ],
        },
    }
}

/// All records of the topic: partition, offset, number.
fn records(cluster: &Cluster, expected: usize) -> Vec<(i32, i64, usize)> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", cluster.bootstrap_servers())
        .set("group.id", "g")
        .set("enable.partition.eof", "true")
        .create()
        .unwrap();
    let mut list = TopicPartitionList::new();
    for partition in 0..PARTITIONS {
        list.add_partition_offset(TOPIC, partition, Offset::Beginning)
            .unwrap();
    }
    consumer.assign(&list).unwrap();
    let mut found = Vec::new();
    let mut ended = 0;
    let start = Instant::now();
    // Reads on to the end of every partition: there must be no further records.
    while ended < PARTITIONS || found.len() < expected {
        assert!(start.elapsed() < DEADLINE, "{} of {expected}", found.len());
        match consumer.poll(Duration::from_millis(100)) {
            Some(Ok(message)) => {
                let value = std::str::from_utf8(message.payload().unwrap()).unwrap();
                let number = value.parse().unwrap();
                found.push((message.partition(), message.offset(), number));
            }
            Some(Err(rdkafka::error::KafkaError::PartitionEOF(_))) => ended += 1,
            Some(Err(error)) => panic!("{error}"),
            None => {}
        }
    }
    found
}

/// Appends `count` records and calls `inject` before each. All must be acknowledged and be in the log once, in order, at the
/// acknowledged offsets. Before record `idle_at` no request is in flight: the mock broker knows a repeated request by its
/// sequence number only from a transactional producer, so a broker must not close a connection that has a request on it.
fn append_with_faults(
    cluster: &Cluster,
    log: &KafkaLog,
    count: usize,
    idle_at: Option<usize>,
    mut inject: impl FnMut(usize),
) {
    let mut in_flight = Vec::new();
    let mut positions_of = BTreeMap::new();
    let mut acknowledge = |in_flight: &mut Vec<(usize, Acknowledged)>| {
        for (n, response) in in_flight.drain(..) {
            let at = response.blocking_recv().unwrap().unwrap()[0];
            positions_of.insert(n, (at.partition as i32, at.offset as i64));
        }
    };
    for n in 0..count {
        if idle_at == Some(n) {
            acknowledge(&mut in_flight);
        }
        inject(n);
        in_flight.push((n, log.append(vec![numbered(n)], None)));
        if n % 7 == 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    acknowledge(&mut in_flight);
    let found = records(cluster, count);
    assert_eq!(found.len(), count, "records are in the log more than once");
    let mut last: BTreeMap<i32, usize> = BTreeMap::new();
    for (partition, offset, number) in found {
        assert_eq!(positions_of[&number], (partition, offset));
        let before = last.insert(partition, number);
        assert!(before < Some(number), "{before:?} before {number}");
    }
}

#[test]
fn retriable_broker_errors_are_retried() {
    let cluster = cluster(1);
    let log = connect(&cluster, &[]);
    append_with_faults(&cluster, &log, 500, Some(400), |n| {
        let errors: &[Code] = match n {
            50 => &[Code::RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION; 3],
            150 => &[Code::RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS],
            250 => &[Code::RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE; 2],
            350 => &[Code::RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT],
            // The broker closes the connection without a response.
            400 => &[Code::RD_KAFKA_RESP_ERR__TRANSPORT; 2],
            _ => return,
        };
        cluster.request_errors(RDKafkaApiKey::Produce, errors);
    });
}

#[test]
fn leaders_move_and_brokers_fail() {
    let cluster = cluster(3);
    let log = connect(&cluster, &[]);
    append_with_faults(&cluster, &log, 600, Some(300), |n| match n {
        100 => (0..PARTITIONS).for_each(|p| cluster.partition_leader(TOPIC, p, Some(2)).unwrap()),
        200 => cluster.partition_leader(TOPIC, 1, Some(3)).unwrap(),
        300 => cluster.broker_down(2).unwrap(),
        301 => std::thread::sleep(Duration::from_millis(300)),
        310 => (0..PARTITIONS).for_each(|p| cluster.partition_leader(TOPIC, p, Some(1)).unwrap()),
        500 => cluster.broker_up(2).unwrap(),
        _ => {}
    });
}

#[test]
fn a_permanent_error_fails_one_append_and_later_ones_succeed() {
    let cluster = cluster(1);
    let log = connect(&cluster, &[]);
    let append = |n| log.append(vec![numbered(n)], None).blocking_recv().unwrap();
    append(0).unwrap();
    cluster.request_errors(
        RDKafkaApiKey::Produce,
        &[Code::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED],
    );
    let error = append(1).unwrap_err();
    assert!(
        matches!(&error, LogError::Unavailable(why) if why.to_string().contains(TOPIC)),
        "{error}"
    );
    append(2).unwrap();
    let mut numbers: Vec<usize> = records(&cluster, 2).iter().map(|found| found.2).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, [0, 2]);
}

#[test]
fn a_missing_topic_is_unknown() {
    let cluster = cluster(1);
    cluster
        .topic_error("nowhere", Code::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART)
        .unwrap();
    let log = connect(&cluster, &[]);
    let mut append = numbered(0);
    append.topic = Arc::from("nowhere");
    let error = log.append(vec![append], None).blocking_recv().unwrap();
    assert!(
        matches!(&error, Err(LogError::UnknownTopic(name)) if name == "nowhere"),
        "{error:?}"
    );
}

#[test]
fn properties_are_passed_to_librdkafka() {
    let cluster = cluster(1);
    // A property that only librdkafka knows; it rejects wrong values.
    let log = connect(&cluster, &[("socket.keepalive.enable", "true")]);
    append_with_faults(&cluster, &log, 50, None, |_| {});
    let wrong = KafkaOptions {
        brokers: cluster.bootstrap_servers(),
        properties: [("socket.keepalive.enable".to_owned(), "perhaps".to_owned())].into(),
        ..KafkaOptions::default()
    };
    assert!(KafkaLog::connect_stateless(wrong).is_err());
}

#[test]
fn both_producers_append_to_the_partitions_that_records_name() {
    for properties in [&[][..], &[("socket.keepalive.enable", "true")]] {
        let cluster = cluster(2);
        let log = connect(&cluster, properties);
        let append = |partition, n| {
            let Append { topic, record } = numbered(n);
            let output = Output {
                topic,
                partition: Some(partition),
                record,
            };
            log.append_to(vec![output], None).blocking_recv().unwrap()
        };
        for n in 0..8 {
            let partition = (n % 4) as u32;
            assert_eq!(append(partition, n).unwrap()[0].partition, partition);
        }
        let missing = append(4, 8).unwrap_err();
        assert!(matches!(missing, LogError::UnknownTopic(_)), "{missing}");
        let found = records(&cluster, 8);
        assert!(
            found
                .iter()
                .all(|(partition, _, n)| *partition == *n as i32 % 4)
        );
        assert_eq!(found.len(), 8);
    }
}
