//! Events into a topic: CloudEvents in structured mode under the key that they have on `events`, so that each entity keeps its order.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::oneshot::error::TryRecvError;

use super::{Sink, SinkError};
use crate::{
    base::clock::Millis,
    envelope::{Event, Place, kafka::TENANT_HEADER, write_line},
    log::{
        Acknowledged, Append, Fetched, Log, LogError, Record, Unavailable, record_size,
        topics::Names,
    },
};

/// What gathers before it is appended.
const PIECE: usize = 500;
const PIECE_BYTES: usize = 1 << 20;
/// Appends that may wait for their confirmation.
const UNDER_WAY: usize = 4;
/// How long one may take.
const CONFIRM: Duration = Duration::from_secs(35);

/// Appends events to a topic that is none of the system's.
pub struct IntoTopic<'a> {
    log: &'a dyn Log,
    from: Arc<str>,
    topic: Arc<str>,
    piece: Vec<Append>,
    bytes: usize,
    under_way: VecDeque<Acknowledged>,
    /// What the topic takes; `None`: to be asked.
    limit: Option<usize>,
    too_large: u64,
}

impl<'a> IntoTopic<'a> {
    /// The topic must be there. The system's own are refused: they would fill themselves.
    pub fn new(log: &'a dyn Log, names: &Names, topic: &str) -> Result<Self, LogError> {
        if names.is_own(topic) {
            return Err(LogError::OwnTopic {
                topic: topic.to_owned(),
                prefix: names.prefix.to_string(),
            });
        }
        // A broker may make topics that are written to.
        log.partitions(topic)?;
        Ok(Self {
            log,
            from: Arc::clone(&names.events),
            topic: topic.into(),
            piece: Vec::new(),
            bytes: 0,
            under_way: VecDeque::new(),
            limit: None,
            too_large: 0,
        })
    }

    fn send(&mut self) -> Result<(), SinkError> {
        if !self.piece.is_empty() {
            let piece = std::mem::take(&mut self.piece);
            self.bytes = 0;
            self.limit = None;
            self.under_way.push_back(self.log.append(piece, None));
        }
        self.wait_for(UNDER_WAY)
    }

    /// Until no more than `left` are under way.
    fn wait_for(&mut self, left: usize) -> Result<(), SinkError> {
        let began = Instant::now();
        while self.under_way.len() > left
            && let Some(first) = self.under_way.front_mut()
        {
            match first.try_recv() {
                Ok(done) => {
                    done?;
                    self.under_way.pop_front();
                }
                Err(TryRecvError::Closed) => {
                    return Err(LogError::from(Unavailable::Closing).into());
                }
                Err(TryRecvError::Empty) if began.elapsed() > CONFIRM => {
                    let late = Unavailable::NotConfirmed {
                        what: "what is replayed",
                        within: CONFIRM,
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
        let place = Place {
            topic: &self.from,
            partition: record.partition,
            offset: record.offset,
        };
        let mut value = Vec::with_capacity(1024);
        write_line(event, Some(place), &mut value);
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
                partition = place.partition, offset = place.offset, size, limit, topic = %self.topic,
                "an event is larger than the topic takes; it is left out"
            );
            self.too_large += 1;
            return Ok(());
        }
        self.bytes += size;
        self.piece.push(Append {
            topic: Arc::clone(&self.topic),
            record,
        });
        if self.piece.len() >= PIECE || self.bytes >= PIECE_BYTES {
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
        self.wait_for(0)
    }
}
