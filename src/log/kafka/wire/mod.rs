//! Plaintext connections to a broker, with the requests for appends and transactions.
//!
//! The request versions are those of Kafka 2.5, which all later brokers support.

pub(super) mod batch;

use std::{
    io::{Error, ErrorKind, Read, Write},
    net::{Shutdown, TcpStream, ToSocketAddrs},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use kafka_protocol::{
    error::ResponseError,
    messages::{
        AddOffsetsToTxnRequest, AddOffsetsToTxnResponse, AddPartitionsToTxnRequest,
        AddPartitionsToTxnResponse, ApiKey, EndTxnRequest, EndTxnResponse, FindCoordinatorRequest,
        FindCoordinatorResponse, GroupId, InitProducerIdRequest, InitProducerIdResponse,
        MetadataRequest, MetadataResponse, ProduceRequest, ProduceResponse, RequestHeader,
        ResponseHeader, TopicName, TransactionalId, TxnOffsetCommitRequest,
        TxnOffsetCommitResponse,
        add_partitions_to_txn_request::AddPartitionsToTxnTopic,
        metadata_request::MetadataRequestTopic,
        produce_request::{PartitionProduceData, TopicProduceData},
    },
    protocol::{Decodable, Encodable, HeaderVersion, StrBytes},
};

use self::batch::ProducerId;
use super::KafkaOptions;
use crate::chaos::loses_answer;

const CONNECT: Duration = Duration::from_secs(3);
/// Time limit of an answer. A produce request waits for the replicas.
const ANSWER: Duration = Duration::from_secs(10);
/// How often a waiting caller checks the stop flag.
const STOP_CHECK: Duration = Duration::from_millis(250);
/// Time limit of an answer once the stop flag is set.
const STOPPING: Duration = Duration::from_secs(3);
const PRODUCE: i16 = 8;
const METADATA: i16 = 8;
const FIND_COORDINATOR: i16 = 2;
/// The first version with the previous id and epoch of the producer.
const INIT_PRODUCER_ID: i16 = 3;
const ADD_PARTITIONS: i16 = 1;
const ADD_OFFSETS: i16 = 1;
/// The first version with the group member that commits.
const COMMIT_OFFSETS: i16 = 3;
const END: i16 = 1;
/// The largest response that is read, in bytes. A larger length prefix means that the peer does not implement Kafka's protocol.
const LARGEST: usize = 64 << 20;

/// Prefixes of properties that concern neither connections nor producing, so that these connections may ignore them.
const IGNORED: [&str; 10] = [
    "auto.",
    "check.crcs",
    "client.rack",
    "coordinator.",
    "fetch.",
    "group.",
    "heartbeat.",
    "max.poll.",
    "queued.",
    "session.",
];

/// Whether these connections can be used, which is so unless a property concerns connections (TLS, SASL) or producing.
pub(super) fn is_usable(options: &KafkaOptions) -> bool {
    let ignored = |name: &String| IGNORED.iter().any(|begin| name.starts_with(begin));
    options.properties.keys().all(ignored)
}

/// The `host:port` of the bootstrap brokers.
pub(super) fn bootstrap(options: &KafkaOptions) -> Vec<String> {
    options.brokers.split(',').map(with_port).collect()
}

/// A connection. Answers arrive in the order of the requests, several of which may be in flight.
pub(super) struct Connection {
    stream: TcpStream,
    client: StrBytes,
    /// Time limit of an answer.
    patience: Duration,
    /// Asks the user of this connection to stop: the time limit is then [`STOPPING`].
    stop: Arc<AtomicBool>,
    /// The correlation ids of the last request, and of the last answer.
    requested: i32,
    answered: i32,
    buffer: BytesMut,
}

/// The type of a coordinator, as in `FindCoordinator` requests.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Coordinates {
    Group = 0,
    Transaction = 1,
}

/// A transactional id with its producer, as in requests.
#[derive(Clone, Debug)]
pub(super) struct TransactionOf {
    pub(super) id: StrBytes,
    pub(super) producer: ProducerId,
}

/// A topic, and items for its partitions.
pub(super) type OfTopic<T> = (Arc<str>, Vec<T>);

/// Closes a connection from another thread when dropped, so that a call that waits for an answer fails.
pub(super) struct Closer(TcpStream);

impl Drop for Closer {
    fn drop(&mut self) {
        // It may be closed already.
        let _ = self.0.shutdown(Shutdown::Both);
    }
}

impl Connection {
    /// Connects to `host:port`.
    pub(super) fn open(address: &str, client: &str) -> Result<Self, Error> {
        Self::open_with(address, client, ANSWER, &Arc::default())
    }

    /// As [`Self::open`], with a time limit of answers, and a stop flag that shortens it.
    pub(super) fn open_with(
        address: &str,
        client: &str,
        patience: Duration,
        stop: &Arc<AtomicBool>,
    ) -> Result<Self, Error> {
        let mut last = Error::new(ErrorKind::NotFound, format!("`{address}` has no address"));
        for address in address.to_socket_addrs()? {
            match TcpStream::connect_timeout(&address, CONNECT) {
                Ok(stream) => {
                    stream.set_nodelay(true)?;
                    stream.set_read_timeout(Some(STOP_CHECK))?;
                    stream.set_write_timeout(Some(patience))?;
                    return Ok(Self {
                        stream,
                        client: StrBytes::from_string(client.to_owned()),
                        patience,
                        stop: Arc::clone(stop),
                        requested: 0,
                        answered: 0,
                        buffer: BytesMut::new(),
                    });
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// A handle with which another thread can close the connection.
    pub(super) fn closer(&self) -> Result<Closer, Error> {
        Ok(Closer(self.stream.try_clone()?))
    }

    /// The leaders of the partitions of these topics. With `make`, brokers create missing topics if their configuration allows that.
    pub(super) fn metadata(
        &mut self,
        topics: &[Arc<str>],
        make: bool,
    ) -> Result<MetadataResponse, Error> {
        let named = |topic: &Arc<str>| MetadataRequestTopic::default().with_name(Some(name(topic)));
        let request = MetadataRequest::default()
            .with_topics(Some(topics.iter().map(named).collect()))
            .with_allow_auto_topic_creation(make);
        self.ask(ApiKey::Metadata, METADATA, &request)
    }

    /// Gets a producer id, by which brokers detect duplicates. With a transactional id, its open transaction is aborted first. With the
    /// id and epoch that the producer has had (`had`), this fails if another producer has fenced it.
    pub(super) fn init_producer_id(
        &mut self,
        transactional: Option<(&StrBytes, Duration)>,
        had: Option<ProducerId>,
    ) -> Result<Result<ProducerId, ResponseError>, Error> {
        let timeout = transactional.map_or(i32::MAX, |(_, timeout)| timeout.as_millis() as i32);
        let had = had.unwrap_or(ProducerId { id: -1, epoch: -1 });
        let request = InitProducerIdRequest::default()
            .with_transactional_id(transactional.map(|(id, _)| TransactionalId(id.clone())))
            .with_transaction_timeout_ms(timeout)
            .with_producer_id(had.id.into())
            .with_producer_epoch(had.epoch);
        let answer: InitProducerIdResponse =
            self.ask(ApiKey::InitProducerId, INIT_PRODUCER_ID, &request)?;
        Ok(refused(answer.error_code).map(|()| ProducerId {
            id: answer.producer_id.0,
            epoch: answer.producer_epoch,
        }))
    }

    /// The address of a coordinator.
    pub(super) fn find_coordinator(
        &mut self,
        of: Coordinates,
        key: &StrBytes,
    ) -> Result<Result<String, ResponseError>, Error> {
        let request = FindCoordinatorRequest::default()
            .with_key(key.clone())
            .with_key_type(of as i8);
        let answer: FindCoordinatorResponse =
            self.ask(ApiKey::FindCoordinator, FIND_COORDINATOR, &request)?;
        Ok(refused(answer.error_code).map(|()| format!("{}:{}", answer.host, answer.port)))
    }

    /// Adds partitions and the offsets of a group to a transaction.
    pub(super) fn add_to_transaction(
        &mut self,
        of: &TransactionOf,
        partitions: &[OfTopic<i32>],
        group: Option<&StrBytes>,
    ) -> Result<Result<(), ResponseError>, Error> {
        let topic = |(topic, partitions): &OfTopic<i32>| {
            AddPartitionsToTxnTopic::default()
                .with_name(name(topic))
                .with_partitions(partitions.clone())
        };
        let request = AddPartitionsToTxnRequest::default()
            .with_v3_and_below_transactional_id(TransactionalId(of.id.clone()))
            .with_v3_and_below_producer_id(of.producer.id.into())
            .with_v3_and_below_producer_epoch(of.producer.epoch)
            .with_v3_and_below_topics(partitions.iter().map(topic).collect());
        // One round trip for both.
        if !partitions.is_empty() {
            self.request(ApiKey::AddPartitionsToTxn, ADD_PARTITIONS, &request)?;
        }
        if let Some(group) = group {
            let request = AddOffsetsToTxnRequest::default()
                .with_transactional_id(TransactionalId(of.id.clone()))
                .with_producer_id(of.producer.id.into())
                .with_producer_epoch(of.producer.epoch)
                .with_group_id(GroupId(group.clone()));
            self.request(ApiKey::AddOffsetsToTxn, ADD_OFFSETS, &request)?;
        }
        let mut codes = Vec::new();
        if !partitions.is_empty() {
            let answer: AddPartitionsToTxnResponse = self.answer(ADD_PARTITIONS)?;
            for topic in answer.results_by_topic_v3_and_below {
                let partitions = topic.results_by_partition.into_iter();
                codes.extend(partitions.map(|partition| partition.partition_error_code));
            }
        }
        if group.is_some() {
            let answer: AddOffsetsToTxnResponse = self.answer(ADD_OFFSETS)?;
            codes.push(answer.error_code);
        }
        Ok(first_refused(codes))
    }

    /// Sends the offsets of a group within a transaction.
    pub(super) fn send_offsets(&mut self, offsets: &TxnOffsetCommitRequest) -> Result<(), Error> {
        self.request(ApiKey::TxnOffsetCommit, COMMIT_OFFSETS, offsets)
    }

    /// The answer to [`Connection::send_offsets`].
    pub(super) fn offsets_sent(&mut self) -> Result<Result<(), ResponseError>, Error> {
        let answer: TxnOffsetCommitResponse = self.answer(COMMIT_OFFSETS)?;
        let partitions = answer.topics.into_iter().flat_map(|topic| topic.partitions);
        Ok(first_refused(
            partitions.map(|partition| partition.error_code),
        ))
    }

    /// Commits or aborts a transaction. Idempotent.
    pub(super) fn end_transaction(
        &mut self,
        of: &TransactionOf,
        commit: bool,
    ) -> Result<Result<(), ResponseError>, Error> {
        let request = EndTxnRequest::default()
            .with_transactional_id(TransactionalId(of.id.clone()))
            .with_producer_id(of.producer.id.into())
            .with_producer_epoch(of.producer.epoch)
            .with_committed(commit);
        let answer: EndTxnResponse = self.ask(ApiKey::EndTxn, END, &request)?;
        Ok(refused(answer.error_code))
    }

    /// Sends encoded batches, each with its topic and partition. The batches of a topic must be adjacent.
    pub(super) fn send<'a>(
        &mut self,
        transactional: Option<&StrBytes>,
        batches: impl Iterator<Item = (&'a Arc<str>, u32, Bytes)>,
    ) -> Result<(), Error> {
        let mut topics: Vec<TopicProduceData> = Vec::new();
        let mut last: Option<&Arc<str>> = None;
        for (topic, partition, bytes) in batches {
            if last.replace(topic) != Some(topic) {
                topics.push(TopicProduceData::default().with_name(name(topic)));
            }
            let data = PartitionProduceData::default()
                .with_index(partition as i32)
                .with_records(Some(bytes));
            if let Some(topic) = topics.last_mut() {
                topic.partition_data.push(data);
            }
        }
        let request = ProduceRequest::default()
            .with_transactional_id(transactional.map(|id| TransactionalId(id.clone())))
            .with_acks(-1)
            .with_timeout_ms(self.patience.as_millis() as i32)
            .with_topic_data(topics);
        self.request(ApiKey::Produce, PRODUCE, &request)
    }

    /// The answer to [`Connection::send`], which is sent when all in-sync replicas have the batches.
    pub(super) fn sent(&mut self) -> Result<ProduceResponse, Error> {
        self.answer(PRODUCE)
    }

    fn ask<Q: Encodable + HeaderVersion, A: Decodable + HeaderVersion>(
        &mut self,
        key: ApiKey,
        version: i16,
        request: &Q,
    ) -> Result<A, Error> {
        self.request(key, version, request)?;
        self.answer(version)
    }

    fn request<Q: Encodable + HeaderVersion>(
        &mut self,
        key: ApiKey,
        version: i16,
        request: &Q,
    ) -> Result<(), Error> {
        self.requested = self.requested.wrapping_add(1);
        let header = RequestHeader::default()
            .with_request_api_key(key as i16)
            .with_request_api_version(version)
            .with_correlation_id(self.requested)
            .with_client_id(Some(self.client.clone()));
        self.buffer.clear();
        self.buffer.extend_from_slice(&[0; 4]);
        header
            .encode(&mut self.buffer, Q::header_version(version))
            .and_then(|()| request.encode(&mut self.buffer, version))
            .map_err(Error::other)?;
        let length = (self.buffer.len() - 4) as u32;
        self.buffer[..4].copy_from_slice(&length.to_be_bytes());
        self.stream.write_all(&self.buffer)?;
        // Frees the memory of a large request.
        if self.buffer.capacity() > 1 << 20 {
            self.buffer = BytesMut::new();
        }
        Ok(())
    }

    /// Fills a buffer.
    fn read(&mut self, buffer: &mut [u8]) -> Result<(), Error> {
        let began = Instant::now();
        let mut filled = 0;
        while filled < buffer.len() {
            match self.stream.read(&mut buffer[filled..]) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(read) => filled += read,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) =>
                {
                    let stops = self.stop.load(Ordering::Relaxed);
                    let patience = if stops { STOPPING } else { self.patience };
                    if began.elapsed() >= patience.min(self.patience) {
                        return Err(ErrorKind::TimedOut.into());
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn answer<A: Decodable + HeaderVersion>(&mut self, version: i16) -> Result<A, Error> {
        self.answered = self.answered.wrapping_add(1);
        if loses_answer() {
            return Err(ErrorKind::ConnectionReset.into());
        }
        let mut length = [0; 4];
        self.read(&mut length)?;
        let length = u32::from_be_bytes(length) as usize;
        if length > LARGEST {
            return Err(Error::new(
                ErrorKind::InvalidData,
                "the peer does not implement Kafka's protocol",
            ));
        }
        let mut answer = vec![0; length];
        self.read(&mut answer)?;
        let mut answer = Bytes::from(answer);
        let invalid = |error| Error::new(ErrorKind::InvalidData, error);
        let header = ResponseHeader::decode(&mut answer, A::header_version(version))
            .map_err(|error| Error::new(ErrorKind::InvalidData, error))?;
        if header.correlation_id != self.answered {
            let text = "the answer belongs to another request";
            return Err(Error::new(ErrorKind::InvalidData, text));
        }
        A::decode(&mut answer, version).map_err(invalid)
    }
}

/// The error of an error code; 0 is no error.
fn refused(code: i16) -> Result<(), ResponseError> {
    match ResponseError::try_from_code(code) {
        None => Ok(()),
        Some(error) => Err(error),
    }
}

/// The first error, of the most severe kind: not retriable, then retriable, then `OperationNotAttempted`.
fn first_refused(codes: impl IntoIterator<Item = i16>) -> Result<(), ResponseError> {
    let errors = codes.into_iter().filter_map(|code| refused(code).err());
    let rank = |error: &ResponseError| match error {
        ResponseError::OperationNotAttempted => 2,
        error => u8::from(error.is_retriable()),
    };
    errors.min_by_key(rank).map_or(Ok(()), Err)
}

/// Adds Kafka's default port if there is none.
fn with_port(address: &str) -> String {
    let address = address.trim();
    let address = address.strip_prefix("PLAINTEXT://").unwrap_or(address);
    if address.contains(':') {
        address.to_owned()
    } else {
        format!("{address}:9092")
    }
}

fn name(topic: &Arc<str>) -> TopicName {
    TopicName(StrBytes::from_string(topic.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_several_errors_one_that_is_not_retriable_counts() {
        let code = |error: ResponseError| error.code();
        let moved = code(ResponseError::NotCoordinator);
        let skipped = code(ResponseError::OperationNotAttempted);
        let fenced = code(ResponseError::InvalidProducerEpoch);
        assert_eq!(first_refused([0, 0]), Ok(()));
        assert_eq!(
            first_refused([0, skipped, moved]),
            Err(ResponseError::NotCoordinator)
        );
        assert_eq!(
            first_refused([moved, skipped, fenced]),
            Err(ResponseError::InvalidProducerEpoch)
        );
    }
}
