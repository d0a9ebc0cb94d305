//! A producer that sends all partitions of a broker in one request. It has a thread for each broker, and one for metadata.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    io::Error,
    mem::take,
    sync::Arc,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use kafka_protocol::{error::ResponseError, messages::ProduceResponse};
use parking_lot::{Condvar, Mutex, MutexGuard};

use super::{
    super::{
        error::KafkaError,
        topics::Topics,
        wire::{
            self, Closer, Connection,
            batch::{self, Fields, ProducerId, Within},
        },
    },
    Answer, Call, KafkaOptions,
    queues::{Batch, Ended, Queues},
};
use crate::{
    base::clock::{Clock, SystemClock},
    chaos::{Bug, pause, planted},
    log::{LogError, Output, ThreadError, Unavailable},
    state::{Changes, StateStore},
};

/// The first and the longest pause between two requests for metadata, and after a lost connection.
const FIRST: Duration = Duration::from_millis(20);
const LONGEST: Duration = Duration::from_secs(1);
/// How often deadlines are checked.
const LOOK: Duration = Duration::from_millis(500);

struct Shared {
    queues: Mutex<Queues>,
    /// Notified when metadata is needed, or on close.
    wanted: Condvar,
    bootstrap: Vec<String>,
    client: String,
    /// The connections in use.
    links: Mutex<BTreeMap<i32, Closer>>,
}

/// The idempotent producer. Dropping it fails the records that are not acknowledged.
pub(in super::super) struct Direct {
    topics: Arc<Topics>,
    shared: Arc<Shared>,
    metadata_thread: Option<JoinHandle<()>>,
}

impl Direct {
    pub(super) fn new(options: &KafkaOptions, topics: &Arc<Topics>) -> Result<Self, LogError> {
        let shared = Arc::new(Shared {
            queues: Mutex::default(),
            wanted: Condvar::new(),
            bootstrap: wire::bootstrap(options),
            client: format!("omnilink-{}", options.node),
            links: Mutex::default(),
        });
        let there = Arc::clone(&shared);
        let metadata_thread = std::thread::Builder::new()
            .name("producer".into())
            .spawn(move || there.run_metadata())
            .map_err(|e| ThreadError::new("producer", e))?;
        Ok(Self {
            topics: Arc::clone(topics),
            shared,
            metadata_thread: Some(metadata_thread),
        })
    }

    pub(super) fn append<T: Into<Output>>(
        &self,
        records: Vec<T>,
        state: Option<(StateStore, Changes)>,
        answer: Answer,
    ) {
        let call = Arc::new(Call::of(records.len(), state, answer));
        let mut refused = Vec::new();
        let counts = self.topics.counts();
        let mut queues = self.shared.queues.lock();
        queues.counts = counts;
        for (index, append) in records.into_iter().enumerate() {
            if let Err(error) = queues.push(append.into(), &call, index) {
                refused.push((index, error));
            }
        }
        if queues.stale {
            self.shared.wanted.notify_all();
        }
        drop(queues);
        for (index, error) in refused {
            call.done(index, Err(error));
        }
        call.handed_over();
    }
}

impl Drop for Direct {
    fn drop(&mut self) {
        let mut ended = Ended::default();
        self.shared.queues.lock().close(&mut ended);
        self.shared.links.lock().clear();
        self.shared.wanted.notify_all();
        ended.notify();
        if let Some(metadata_thread) = self.metadata_thread.take() {
            // The panic of a thread has been reported.
            let _ = metadata_thread.join();
        }
    }
}

impl Shared {
    /// Keeps metadata up to date, and a thread for each broker.
    fn run_metadata(self: &Arc<Self>) {
        let mut workers: BTreeMap<i32, JoinHandle<()>> = BTreeMap::new();
        let mut link = None;
        let mut attempt = 0;
        loop {
            let mut ended = Ended::default();
            let mut queues = self.queues.lock();
            if !queues.stale && !queues.closing {
                self.wanted.wait_for(&mut queues, LOOK);
                attempt = 0;
            }
            if queues.closing {
                drop(queues);
                for (_, worker) in workers {
                    // The panic of a thread has been reported.
                    let _ = worker.join();
                }
                return;
            }
            queues.expire(Instant::now(), &mut ended);
            let stale = queues.stale;
            let names = queues.names();
            drop(queues);
            ended.notify();
            if !stale {
                continue;
            }
            if let Err(error) = self.ask_metadata(&mut link, &names) {
                link = None;
                tracing::warn!(%error, "cannot get metadata from Kafka");
            }
            let brokers: Vec<i32> = self.queues.lock().brokers.keys().copied().collect();
            for broker in brokers {
                if let Entry::Vacant(vacant) = workers.entry(broker) {
                    match self.worker(broker) {
                        Ok(worker) => drop(vacant.insert(worker)),
                        Err(error) => tracing::error!(%error, "a thread cannot be started"),
                    }
                }
            }
            // If the metadata are still stale, they are requested again after a pause.
            self.back_off(attempt, |queues| queues.closing || !queues.stale);
            attempt += 1;
        }
    }

    fn ask_metadata(&self, link: &mut Option<Connection>, names: &[Arc<str>]) -> Result<(), Error> {
        if link.is_none() {
            *link = Some(self.connect_any()?);
        }
        let Some(link) = link else { return Ok(()) };
        let metadata = link.metadata(names, false)?;
        let mut ended = Ended::default();
        self.queues.lock().update_metadata(&metadata, &mut ended);
        ended.notify();
        Ok(())
    }

    /// Connects to the first broker that accepts.
    fn connect_any(&self) -> Result<Connection, Error> {
        let queues = self.queues.lock();
        let mut addresses: Vec<_> = queues.brokers.values().map(|b| b.address.clone()).collect();
        drop(queues);
        addresses.extend(self.bootstrap.iter().cloned());
        let mut last = Error::other("no broker is given");
        for address in addresses {
            match Connection::open(&address, &self.client) {
                Ok(link) => return Ok(link),
                Err(error) => last = Error::other(format!("{address}: {error}")),
            }
        }
        Err(last)
    }

    fn worker(self: &Arc<Self>, broker: i32) -> Result<JoinHandle<()>, Error> {
        let shared = Arc::clone(self);
        std::thread::Builder::new()
            .name(format!("producer-{broker}"))
            .spawn(move || shared.serve(broker))
    }

    /// Sends the batches for one broker.
    fn serve(&self, broker: i32) {
        let mut link = None;
        let mut attempt = 0;
        let mut ended = Ended::default();
        while let Some(address) = self.wait(broker, &mut ended) {
            match self.send_ready(broker, &address, &mut link, &mut ended) {
                Ok(()) => attempt = 0,
                Err(error) => {
                    take(&mut ended).notify();
                    tracing::warn!(%address, %error, "sending to Kafka failed; retrying");
                    link = None;
                    self.links.lock().remove(&broker);
                    self.queues.lock().stale = true;
                    self.wanted.notify_all();
                    self.back_off(attempt, |queues| queues.closing);
                    attempt += 1;
                }
            }
        }
    }

    /// Waits until there is work for a broker. `None`: the log is closing.
    fn wait(&self, broker: i32, ended: &mut Ended) -> Option<String> {
        let mut queues = self.queues.lock();
        if !queues.has_work(broker) {
            MutexGuard::unlocked(&mut queues, || take(ended).notify());
        }
        while !queues.closing && !queues.has_work(broker) {
            let of = queues.brokers.get_mut(&broker)?;
            of.idle = true;
            let more = Arc::clone(&of.more);
            more.wait(&mut queues);
        }
        if queues.closing {
            return None;
        }
        Some(queues.brokers.get(&broker)?.address.clone())
    }

    /// Sends one produce request with all ready batches, and handles the response.
    fn send_ready(
        &self,
        broker: i32,
        address: &str,
        link: &mut Option<Connection>,
        ended: &mut Ended,
    ) -> Result<(), Error> {
        let link = if let Some(link) = link {
            link
        } else {
            let opened = Connection::open(address, &self.client)?;
            self.links.lock().insert(broker, opened.closer()?);
            link.insert(opened)
        };
        let producer = self.producer(link)?;
        let mut queues = self.queues.lock();
        let mut batches = queues.take(broker, producer);
        let names = queues.names();
        drop(queues);
        if batches.is_empty() {
            return Ok(());
        }
        if planted(Bug::AnswerBeforeDurable) {
            pause();
        }
        let now = SystemClock.now();
        for batch in batches.iter_mut().filter(|batch| batch.bytes.is_empty()) {
            let room = batch.records().map(batch::size).sum();
            let numbered = (batch.producer, batch.sequence);
            let fields = batch.records().map(Fields::from);
            batch.bytes = batch::encode(fields, room, numbered, Within::Nothing, now);
        }
        let sending = batches
            .iter()
            .map(|batch| (&names[batch.topic], batch.partition, batch.bytes.clone()));
        let sent = link.send(None, sending);
        // Earlier calls are answered while the broker works.
        take(ended).notify();
        let answer = sent.and_then(|()| link.sent());
        let mut queues = self.queues.lock();
        let result = match answer {
            Ok(answer) => {
                settle(&mut queues, batches, &names, &answer, ended);
                Ok(())
            }
            Err(error) => {
                for batch in batches {
                    queues.retry(batch);
                }
                Err(error)
            }
        };
        if queues.stale {
            self.wanted.notify_all();
        }
        result
    }

    fn producer(&self, link: &mut Connection) -> Result<ProducerId, Error> {
        if let Some(producer) = self.queues.lock().producer {
            return Ok(producer);
        }
        let new = link.init_producer_id(None, None)?;
        let new = new.map_err(|error| Error::other(format!("no producer id: {error}")))?;
        // Two threads may request one concurrently: the first answer is used.
        Ok(*self.queues.lock().producer.get_or_insert(new))
    }

    /// A pause that doubles with each attempt, with jitter, and ends early.
    fn back_off(&self, attempt: u32, over: impl Fn(&Queues) -> bool) {
        let pause = FIRST.saturating_mul(1 << attempt.min(10)).min(LONGEST);
        let until = Instant::now() + pause.mul_f64(rand::random_range(0.5..=1.0));
        let mut queues = self.queues.lock();
        while !over(&queues) && !self.wanted.wait_until(&mut queues, until).timed_out() {}
    }
}

/// Handles the result of each batch in a produce response.
fn settle(
    queues: &mut Queues,
    batches: Vec<Batch>,
    names: &[Arc<str>],
    answer: &ProduceResponse,
    ended: &mut Ended,
) {
    for batch in batches {
        let of_topic = answer
            .responses
            .iter()
            .find(|t| *t.name.0 == *names[batch.topic]);
        let found = of_topic.and_then(|topic| {
            let mut partitions = topic.partition_responses.iter();
            partitions.find(|p| p.index == batch.partition as i32)
        });
        let Some(found) = found else {
            queues.retry(batch);
            continue;
        };
        match ResponseError::try_from_code(found.error_code) {
            None => queues.delivered(batch, found.base_offset as u64, ended),
            Some(ResponseError::MessageTooLarge | ResponseError::RecordListTooLarge) => {
                queues.too_large(batch, ended);
            }
            Some(error) if error.is_retriable() => {
                tracing::debug!(%error, topic = &*names[batch.topic], batch.partition, "a batch is sent again");
                queues.retry(batch);
            }
            Some(error) => {
                let refused = KafkaError::Refused {
                    topic: Arc::clone(&names[batch.topic]),
                    partition: batch.partition,
                    source: error,
                };
                let error = Unavailable::Kafka(Arc::new(refused)).into();
                queues.failed(batch, error, ended);
            }
        }
    }
}
