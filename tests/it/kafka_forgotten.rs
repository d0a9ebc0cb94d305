//! Transactions that the brokers have forgotten: their coordinator takes them for ended, a partition does not.

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use kafka_protocol::{
    messages::{
        ApiKey, IncrementalAlterConfigsRequest, IncrementalAlterConfigsResponse,
        InitProducerIdRequest, InitProducerIdResponse, ProduceRequest, ProduceResponse,
        RequestHeader, ResponseHeader, TopicName, TransactionalId,
        incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig},
        produce_request::{PartitionProduceData, TopicProduceData},
    },
    protocol::{Decodable, Encodable, HeaderVersion, StrBytes},
    records::{
        Compression, NO_PARTITION_LEADER_EPOCH, Record, RecordBatchEncoder, RecordEncodeOptions,
        TimestampType,
    },
};
use omnilink::{
    log::{Class, Cleanup, Lane, Log, Polled, Transaction},
    state::{Changes, Space},
};

use crate::support::{LogKind, TestLog, append, poll_records, record, wait_for_assignment};

const WAIT: Duration = Duration::from_secs(20);

/// A connection to the only broker, for requests that client libraries do not offer.
struct Broker(TcpStream);

impl Broker {
    fn connect(test_log: &TestLog) -> Self {
        let brokers = test_log.client();
        let stream = TcpStream::connect(brokers.get("bootstrap.servers").unwrap()).unwrap();
        stream.set_read_timeout(Some(WAIT)).unwrap();
        Self(stream)
    }

    fn ask<Q: Encodable + HeaderVersion, A: Decodable + HeaderVersion>(
        &mut self,
        key: ApiKey,
        version: i16,
        request: &Q,
    ) -> A {
        let mut bytes = BytesMut::zeroed(4);
        RequestHeader::default()
            .with_request_api_key(key as i16)
            .with_request_api_version(version)
            .with_client_id(Some(StrBytes::from_static_str("test")))
            .encode(&mut bytes, Q::header_version(version))
            .unwrap();
        request.encode(&mut bytes, version).unwrap();
        let length = (bytes.len() - 4) as u32;
        bytes[..4].copy_from_slice(&length.to_be_bytes());
        self.0.write_all(&bytes).unwrap();
        let mut length = [0; 4];
        self.0.read_exact(&mut length).unwrap();
        let mut answer = vec![0; u32::from_be_bytes(length) as usize];
        self.0.read_exact(&mut answer).unwrap();
        let mut answer = Bytes::from(answer);
        ResponseHeader::decode(&mut answer, A::header_version(version)).unwrap();
        A::decode(&mut answer, version).unwrap()
    }

    /// Whether partitions ask the coordinator before they accept the first record of a transaction.
    fn verify_transactions(&mut self, verify: bool) {
        let config = AlterableConfig::default()
            .with_name(StrBytes::from_static_str(
                "transaction.partition.verification.enable",
            ))
            .with_value(Some(StrBytes::from_string(verify.to_string())));
        let broker = AlterConfigsResource::default()
            .with_resource_type(4)
            .with_configs(vec![config]);
        let request = IncrementalAlterConfigsRequest::default().with_resources(vec![broker]);
        let answer: IncrementalAlterConfigsResponse =
            self.ask(ApiKey::IncrementalAlterConfigs, 0, &request);
        assert_eq!(answer.responses[0].error_code, 0, "{answer:?}");
    }

    /// Leaves a record of a transaction in partition 0 of each topic that the coordinator does not know of.
    fn forget_transaction(&mut self, id: &str, records: &[(String, &'static str)]) {
        let request = InitProducerIdRequest::default()
            .with_transactional_id(Some(TransactionalId(StrBytes::from_string(id.to_owned()))))
            .with_transaction_timeout_ms(10_000);
        let producer: InitProducerIdResponse = self.ask(ApiKey::InitProducerId, 2, &request);
        assert_eq!(producer.error_code, 0);
        self.verify_transactions(false);
        for (topic, value) in records {
            let record = Record {
                transactional: true,
                control: false,
                delete_horizon: false,
                partition_leader_epoch: NO_PARTITION_LEADER_EPOCH,
                producer_id: producer.producer_id.0,
                producer_epoch: producer.producer_epoch,
                timestamp_type: TimestampType::Creation,
                offset: 0,
                sequence: 0,
                timestamp: 1_800_000_000_000,
                key: Some(Bytes::from_static(b"key")),
                value: Some(Bytes::from_static(value.as_bytes())),
                headers: kafka_protocol::indexmap::IndexMap::new(),
            };
            let mut batch = BytesMut::new();
            let options = RecordEncodeOptions {
                version: 2,
                compression: Compression::None,
            };
            RecordBatchEncoder::encode(&mut batch, [&record], &options).unwrap();
            let partition = PartitionProduceData::default()
                .with_index(0)
                .with_records(Some(batch.freeze()));
            let topic = TopicProduceData::default()
                .with_name(TopicName(StrBytes::from_string(topic.clone())))
                .with_partition_data(vec![partition]);
            let request = ProduceRequest::default()
                .with_transactional_id(Some(TransactionalId(StrBytes::from_string(id.to_owned()))))
                .with_acks(-1)
                .with_timeout_ms(10_000)
                .with_topic_data(vec![topic]);
            let deadline = Instant::now() + WAIT;
            loop {
                let answer: ProduceResponse = self.ask(ApiKey::Produce, 8, &request);
                let partition = &answer.responses[0].partition_responses[0];
                if partition.error_code == 0 {
                    break;
                }
                // The configuration is not in force at once.
                let too_late = Instant::now() > deadline;
                assert!(partition.error_code == 48 && !too_late, "{partition:?}");
                std::thread::sleep(Duration::from_millis(100));
            }
        }
        self.verify_transactions(true);
    }
}

fn lane(test_log: &TestLog, log: &dyn Log) -> Box<dyn Lane> {
    log.lane("p", &[test_log.topic("in")]).unwrap()
}

/// Runs a lane on node `a` that commits `first` once and stops.
fn previous_owner(test_log: &TestLog) {
    let log = test_log.open("a");
    append(&*log, &test_log.topic("in"), vec![record("k", "1")]).unwrap();
    let mut previous = lane(test_log, &*log);
    wait_for_assignment(&mut *previous);
    poll_records(&mut *previous, 1);
    let mut state = Changes::default();
    state.put(&Space::new("p", 0), "key", "first".to_owned());
    previous
        .commit(Transaction {
            outputs: vec![],
            state,
            positions: vec![(0, 0, 1)],
        })
        .unwrap();
}

#[test]
fn a_transaction_that_the_brokers_have_forgotten_is_aborted() {
    let Some(test_log) = TestLog::new(LogKind::Kafka) else {
        return;
    };
    let specs = [
        test_log.spec("in", 1, Cleanup::Keep),
        test_log.spec("state.p", 1, Cleanup::Compact),
    ];
    test_log.open("admin").provision(&specs, true).unwrap();
    previous_owner(&test_log);
    let topics = [test_log.topic("state.p"), test_log.topic("in")];
    let records = topics.clone().map(|topic| (topic, "never"));
    Broker::connect(&test_log).forget_transaction(&test_log.topic("p-a-0"), &records);

    let log = test_log.open("b");
    let mut new_owner = lane(&test_log, &*log);
    let deadline = Instant::now() + WAIT;
    let (topic, partition) = loop {
        assert!(Instant::now() < deadline, "no partition is assigned");
        let polled = new_owner.poll(Duration::from_millis(50), &mut Vec::new());
        if let Polled::Assigned(partitions) = polled.unwrap() {
            break partitions[0];
        }
    };
    let error = new_owner.open(topic, partition).unwrap_err();
    assert_eq!(error.class(), Class::Retriable, "{error}");
    // It was aborted meanwhile.
    new_owner.open(topic, partition).unwrap();
    let value = new_owner.state().get(&Space::new("p", 0), b"key").unwrap();
    assert_eq!(value.as_deref(), Some(&b"first"[..]));
    append(&*log, &topics[1], vec![record("k", "2")]).unwrap();
    let values: Vec<_> = poll_records(&mut *new_owner, 1)
        .into_iter()
        .map(|fetched| fetched.record.value.unwrap())
        .collect();
    assert_eq!(values, ["2"]);
}
