//! Replay into a topic: CloudEvents in structured mode, with the same keys as on `events`, so that each entity's order is kept.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::oneshot::error::TryRecvError;

use super::{Sink, SinkError};
use crate::{
    base::clock::Millis,
    envelope::{Event, RecordPosition, kafka::TENANT_HEADER, write_line},
    log::{
        Acknowledged, Append, Fetched, Log, LogError, Record, Unavailable, record_size,
        topics::Names,
    },
};

/// A batch is appended at this many records…
const BATCH_RECORDS: usize = 500;
/// … or at this many bytes.
const BATCH_BYTES: usize = 1 << 20;
/// The most appends that wait for confirmation.
const MAX_IN_FLIGHT: usize = 4;
/// The time limit for a confirmation.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(35);

/// A sink that appends events to a topic of the user.
pub struct IntoTopic<'a> {
    log: &'a dyn Log,
    from: Arc<str>,
    topic: Arc<str>,
    batch: Vec<Append>,
    bytes: usize,
    in_flight: VecDeque<Acknowledged>,
    /// The topic's limit on the size of a record; `None`: to be requested from the log.
    limit: Option<usize>,
    too_large: u64,
}

impl<'a> IntoTopic<'a> {
    /// A sink for a topic, which must exist. OmniLink's own topics are refused: the replayed events would be processed again.
    pub fn new(log: &'a dyn Log, names: &Names, topic: &str) -> Result<Self, LogError> {
        if names.is_own(topic) {
            return Err(LogError::OwnTopic {
                topic: topic.to_owned(),
                prefix: names.prefix.to_string(),
            });
        }
        // Fails if the topic does not exist. Without this check a broker may create it on the first write.
        log.partitions(topic)?;
        Ok(Self {
            log,
            from: Arc::clone(&names.events),
            topic: topic.into(),
            batch: Vec::new(),
            bytes: 0,
            in_flight: VecDeque::new(),
            limit: None,
            too_large: 0,
        })
    }

    fn send(&mut self) -> Result<(), SinkError> {
        if !self.batch.is_empty() {
            let batch = std::mem::take(&mut self.batch);
            self.bytes = 0;
            self.limit = None;
            self.in_flight.push_back(self.log.append(batch, None));
        }
        self.wait_until_in_flight(MAX_IN_FLIGHT)
    }

    /// Waits until at most `max` appends are in flight.
    fn wait_until_in_flight(&mut self, max: usize) -> Result<(), SinkError> {
        let began = Instant::now();
        while self.in_flight.len() > max
            && let Some(first) = self.in_flight.front_mut()
        {
            match first.try_recv() {
                Ok(done) => {
                    done?;
                    self.in_flight.pop_front();
                }
                Err(TryRecvError::Closed) => {
                    return Err(LogError::from(Unavailable::Closing).into());
                }
                Err(TryRecvError::Empty) if began.elapsed() > CONFIRM_TIMEOUT => {
                    let late = Unavailable::NotConfirmed {
                        what: "what is replayed",
                        within: CONFIRM_TIMEOUT,
                        advice: None,
                    };
                    return Err(LogError::from(late).into());
                }
                Err(TryRecvError::Empty) => std::thread::sleep(Duration::from_millis(1)),
            }
        }
        Ok(())
    }
}

impl Sink for IntoTopic<'_> {
    fn event(
        &mut self,
        record: &Fetched,
        event: &Event<'_>,
        _received_at: Millis,
    ) -> Result<(), SinkError> {
        let position = RecordPosition {
            topic: &self.from,
            partition: record.partition,
            offset: record.offset,
        };
        let mut value = Vec::with_capacity(1024);
        write_line(event, Some(position), &mut value);
        let header = |name: &str, value: &str| (name.to_owned(), Some(value.to_owned().into()));
        let record = Record {
            key: record.record.key.clone(),
            value: Some(value.into()),
            headers: vec![
                header(
                    "content-type",
                    "application/cloudevents+json; charset=utf-8",
                ),
                header(TENANT_HEADER, event.tenant.as_str()),
            ],
        };
        let size = record_size(&record);
        let limit = *self
            .limit
            .get_or_insert_with(|| self.log.record_limit(&self.topic));
        if size > limit {
            tracing::warn!(
                partition = position.partition, offset = position.offset, size, limit, topic = %self.topic,
                "an event exceeds the topic's size limit and is skipped"
            );
            self.too_large += 1;
            return Ok(());
        }
        self.bytes += size;
        self.batch.push(Append {
            topic: Arc::clone(&self.topic),
            record,
        });
        if self.batch.len() >= BATCH_RECORDS || self.bytes >= BATCH_BYTES {
            self.send()?;
        }
        Ok(())
    }

    fn too_large(&self) -> u64 {
        self.too_large
    }

    fn idle(&mut self) -> Result<(), SinkError> {
        self.send()
    }

    fn finish(&mut self) -> Result<(), SinkError> {
        self.send()?;
        self.wait_until_in_flight(0)
    }
}
