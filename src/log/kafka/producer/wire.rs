//! A plain connection to a broker, and the three requests that appending needs.
//!
//! Their versions are those of Kafka 2.4, which every broker since knows.

use std::{
    io::{Error, ErrorKind, Read, Write},
    net::{Shutdown, TcpStream, ToSocketAddrs},
    sync::Arc,
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use kafka_protocol::{
    messages::{
        ApiKey, InitProducerIdRequest, InitProducerIdResponse, MetadataRequest, MetadataResponse,
        ProduceRequest, ProduceResponse, RequestHeader, ResponseHeader, TopicName,
        metadata_request::MetadataRequestTopic,
        produce_request::{PartitionProduceData, TopicProduceData},
    },
    protocol::{Decodable, Encodable, HeaderVersion, StrBytes},
};

use super::{batch::ProducerId, queues::Batch};

const CONNECT: Duration = Duration::from_secs(3);
/// How long a broker may take to answer. A produce request waits for the replicas.
const ANSWER: Duration = Duration::from_secs(10);
const PRODUCE: i16 = 8;
const METADATA: i16 = 8;
const INIT_PRODUCER_ID: i16 = 2;
/// The largest response that is read. A length prefix beyond it means that the peer does not speak Kafka's protocol.
const LARGEST: usize = 64 << 20;

/// A connection with one request on its way at a time.
pub(super) struct Connection {
    stream: TcpStream,
    client: StrBytes,
    correlation: i32,
    buffer: BytesMut,
}

/// Ends a connection from another thread, so that whoever waits for its answer stops.
pub(super) struct Disconnected(TcpStream);

impl Drop for Disconnected {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.shutdown(Shutdown::Both);
    }
}

impl Connection {
    /// Connects to `host:port`.
    pub(super) fn open(address: &str, client: &str) -> Result<Self, Error> {
        let mut last = Error::new(ErrorKind::NotFound, format!("`{address}` has no address"));
        for address in address.to_socket_addrs()? {
            match TcpStream::connect_timeout(&address, CONNECT) {
                Ok(stream) => {
                    stream.set_nodelay(true)?;
                    stream.set_read_timeout(Some(ANSWER))?;
                    stream.set_write_timeout(Some(ANSWER))?;
                    return Ok(Self {
                        stream,
                        client: StrBytes::from_string(client.to_owned()),
                        correlation: 0,
                        buffer: BytesMut::new(),
                    });
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    pub(super) fn cut(&self) -> Result<Disconnected, Error> {
        Ok(Disconnected(self.stream.try_clone()?))
    }

    /// Where the partitions of these topics are led.
    pub(super) fn metadata(&mut self, topics: &[Arc<str>]) -> Result<MetadataResponse, Error> {
        let named = |topic: &Arc<str>| MetadataRequestTopic::default().with_name(Some(name(topic)));
        let request = MetadataRequest::default()
            .with_topics(Some(topics.iter().map(named).collect()))
            .with_allow_auto_topic_creation(false);
        self.ask(ApiKey::Metadata, METADATA, &request)
    }

    /// A producer's number, by which a broker knows what it has already.
    pub(super) fn init_producer_id(&mut self) -> Result<ProducerId, Error> {
        let request = InitProducerIdRequest::default()
            .with_transactional_id(None)
            .with_transaction_timeout_ms(i32::MAX);
        let answer: InitProducerIdResponse =
            self.ask(ApiKey::InitProducerId, INIT_PRODUCER_ID, &request)?;
        if answer.error_code != 0 {
            let code = answer.error_code;
            return Err(Error::other(format!("no producer id: error {code}")));
        }
        Ok(ProducerId {
            id: answer.producer_id.0,
            epoch: answer.producer_epoch,
        })
    }

    /// Sends batches, encoded already, of one topic after the other.
    pub(super) fn send(&mut self, batches: &[Batch], names: &[Arc<str>]) -> Result<(), Error> {
        let mut topics: Vec<TopicProduceData> = Vec::new();
        let mut last = None;
        for batch in batches {
            if last.replace(batch.topic) != Some(batch.topic) {
                topics.push(TopicProduceData::default().with_name(name(&names[batch.topic])));
            }
            let data = PartitionProduceData::default()
                .with_index(batch.partition as i32)
                .with_records(Some(batch.bytes.clone()));
            if let Some(topic) = topics.last_mut() {
                topic.partition_data.push(data);
            }
        }
        let request = ProduceRequest::default()
            .with_acks(-1)
            .with_timeout_ms(ANSWER.as_millis() as i32)
            .with_topic_data(topics);
        self.request(ApiKey::Produce, PRODUCE, &request)
    }

    /// The answer to [`Connection::send`]: it comes when all replicas in sync have the batches.
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
        self.correlation = self.correlation.wrapping_add(1);
        let header = RequestHeader::default()
            .with_request_api_key(key as i16)
            .with_request_api_version(version)
            .with_correlation_id(self.correlation)
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
        // One large request must not hold its memory for ever.
        if self.buffer.capacity() > 1 << 20 {
            self.buffer = BytesMut::new();
        }
        Ok(())
    }

    fn answer<A: Decodable + HeaderVersion>(&mut self, version: i16) -> Result<A, Error> {
        let mut length = [0; 4];
        self.stream.read_exact(&mut length)?;
        let length = u32::from_be_bytes(length) as usize;
        if length > LARGEST {
            return Err(Error::new(
                ErrorKind::InvalidData,
                "the peer does not speak Kafka's protocol",
            ));
        }
        let mut answer = vec![0; length];
        self.stream.read_exact(&mut answer)?;
        let mut answer = Bytes::from(answer);
        let invalid = |error| Error::new(ErrorKind::InvalidData, error);
        let header = ResponseHeader::decode(&mut answer, A::header_version(version))
            .map_err(|error| Error::new(ErrorKind::InvalidData, error))?;
        if header.correlation_id != self.correlation {
            let text = "the answer is another request's";
            return Err(Error::new(ErrorKind::InvalidData, text));
        }
        A::decode(&mut answer, version).map_err(invalid)
    }
}

fn name(topic: &Arc<str>) -> TopicName {
    TopicName(StrBytes::from_string(topic.to_string()))
}
