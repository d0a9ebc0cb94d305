//! The ids and partition counts of topics, polled by one thread for all lanes of the process.
//!
//! If a topic is deleted and recreated, librdkafka continues in the new one at the same offset (its FIXME in
//! `rd_kafka_topic_metadata_update`), so topic ids must be polled. A thread describes all topics in one request: every [`IDLE`], and
//! every [`BUSY`] while records arrive. Readers compare a counter; they wait for an answer only if the last one is older than
//! [`TRUSTED`], that is, if the brokers do not answer. Then records are held back, and commits wait.
//!
//! A gap remains: a topic that is deleted, recreated and filled beyond the position, all between two answers, is read from that position
//! until the next answer. Commits in between have the id of the old topic, so their positions do not count, and the new topic is read
//! from its start. No record is missed; those that were read in between are processed twice, which `dedupe` filters.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use parking_lot::{Condvar, Mutex, RwLock};
use rdkafka::{
    consumer::{BaseConsumer, Consumer},
    error::{KafkaError, RDKafkaErrorCode},
};

use super::{
    REQUEST,
    classify::Doing,
    ffi::{Answer, describe_topics},
};
use crate::log::{
    Described, LogError, ThreadError, TopicId, TopicWatch, error::way_out, partition_for,
};

/// The interval between requests while no records arrive.
const IDLE: Duration = Duration::from_millis(500);
/// The shortest interval while records arrive.
const BUSY: Duration = Duration::from_millis(100);
/// How old the last answer may be for records to be returned.
const TRUSTED: Duration = Duration::from_secs(1);
/// How long a call waits for an answer.
const ANSWER_WAIT: Duration = Duration::from_millis(200);
/// The interval after a request without an answer.
const UNANSWERED: Duration = Duration::from_millis(50);
const ASKING: &str = "asking for the ids of topics";

/// The number of partitions in use of each provisioned topic: the configured number, even if more were added.
pub(super) type Counts = HashMap<Arc<str>, u32>;

/// The partition of a record in a topic of which the first `count` partitions are used.
pub(super) fn partition_among(key: Option<&[u8]>, count: u32) -> u32 {
    key.map_or_else(
        || rand::random_range(0..count),
        |key| partition_for(key, count),
    )
}

#[derive(Default)]
struct Seen {
    /// The number of readers of each topic.
    readers: BTreeMap<Arc<str>, usize>,
    /// The newest answer for each topic, and when it was requested.
    topics: HashMap<Arc<str>, (u64, Described)>,
}

/// The known topics. One for each [`super::KafkaLog`].
pub(super) struct Topics {
    /// The prefix of the changelogs of topologies, whose partition counts follow those of the source and are not configured.
    follows_source: String,
    asker: Arc<BaseConsumer>,
    counts: RwLock<Arc<Counts>>,
    seen: Mutex<Seen>,
    answered: Condvar,
    /// Counts changes of topic ids.
    changes: AtomicU64,
    /// Whether the last request was not answered.
    unanswered: AtomicBool,
    /// When the last answer was requested, in microseconds since `base`. 0: there was none yet.
    asked: AtomicU64,
    base: Instant,
    wake: Sender<()>,
    woken: Receiver<()>,
    watching: AtomicBool,
}

impl Topics {
    pub(super) fn new(asker: &Arc<BaseConsumer>, prefix: &str) -> Arc<Self> {
        let (wake, woken) = bounded(1);
        Arc::new(Self {
            follows_source: format!("{prefix}state.topology."),
            asker: Arc::clone(asker),
            counts: RwLock::default(),
            seen: Mutex::default(),
            answered: Condvar::new(),
            changes: AtomicU64::new(0),
            unanswered: AtomicBool::new(false),
            asked: AtomicU64::new(0),
            base: Instant::now(),
            wake,
            woken,
            watching: AtomicBool::new(false),
        })
    }

    /// Describes topics now, on the caller's thread. Missing topics, and those that cannot be described, are left out.
    pub(super) fn describe(&self, topics: &[&str]) -> Result<HashMap<String, Described>, LogError> {
        self.describe_within(topics, REQUEST)
    }

    fn describe_within(
        &self,
        topics: &[&str],
        limit: Duration,
    ) -> Result<HashMap<String, Described>, LogError> {
        let asked = self.now();
        let answers = self.ask(topics, limit).doing(ASKING)?;
        let is = |(name, answer)| match answer {
            Answer::Is(described) => Some((name, described)),
            Answer::Missing | Answer::Unknown => None,
        };
        let found = answers.into_iter().filter_map(is).collect();
        self.learn(&found, asked);
        Ok(found)
    }

    /// Describes topics within `limit`; a request without an answer is repeated once after [`TRUSTED`]. While librdkafka waits for a
    /// controller that does not answer, it reconnects without pause, which uses a whole core (`rd_kafka_admin_worker` is called at every
    /// change of a broker's state, and expedites the next connection). After an unanswered request, a metadata request therefore waits
    /// for the brokers: it has a backoff.
    fn ask(&self, topics: &[&str], limit: Duration) -> Result<HashMap<String, Answer>, KafkaError> {
        let deadline = Instant::now() + limit;
        let mut wait = TRUSTED;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if self.unanswered.load(Ordering::Acquire) {
                let topic = topics.first().copied();
                self.asker.client().fetch_metadata(topic, left)?;
            }
            let answers = describe_topics(self.asker.client(), topics, left.min(wait));
            self.unanswered.store(answers.is_err(), Ordering::Release);
            match answers {
                Err(error) if is_unanswered(&error) && Instant::now() < deadline => wait = limit,
                answers => return answers,
            }
        }
    }

    /// Sets the number of partitions in use of these topics.
    pub(super) fn configured(&self, topics: impl IntoIterator<Item = (Arc<str>, u32)>) {
        let mut counts = self.counts.write();
        let mut new = Counts::clone(&counts);
        new.extend(topics);
        *counts = Arc::new(new);
    }

    pub(super) fn counts(&self) -> Arc<Counts> {
        Arc::clone(&self.counts.read())
    }

    /// Describes provisioned topics with a wrong partition count.
    pub(super) fn troubles(&self) -> Vec<String> {
        let (counts, seen) = (self.counts(), self.seen.lock());
        let mut troubles: Vec<String> = counts
            .iter()
            .filter_map(|(topic, expected)| {
                let (_, described) = seen.topics.get(topic)?;
                self.count_trouble(topic, *expected, described)
            })
            .collect();
        troubles.sort_unstable();
        troubles
    }

    /// Polls the ids of these topics from now on.
    pub(super) fn watch<'a>(
        self: &Arc<Self>,
        topics: impl Iterator<Item = &'a str>,
    ) -> Result<Watched, LogError> {
        let names: Vec<Arc<str>> = topics.map(Arc::from).collect();
        {
            let mut seen = self.seen.lock();
            for name in &names {
                *seen.readers.entry(Arc::clone(name)).or_default() += 1;
            }
        }
        let watched = Watched {
            ids: vec![None; names.len()],
            changes: self.changes.load(Ordering::Acquire),
            of: Arc::clone(self),
            names,
        };
        if !self.watching.swap(true, Ordering::AcqRel) {
            let (weak, woken) = (Arc::downgrade(self), self.woken.clone());
            std::thread::Builder::new()
                .name("kafka-topics".into())
                .spawn(move || run(&weak, &woken))
                .map_err(|e| ThreadError::new("kafka-topics", e))?;
        }
        Ok(watched)
    }

    fn wake(&self) {
        match self.wake.try_send(()) {
            // A pending wake-up is enough.
            Ok(()) | Err(TrySendError::Full(()) | TrySendError::Disconnected(())) => {}
        }
    }

    fn refresh(&self) {
        let counts = self.counts();
        let names: Vec<Arc<str>> = {
            let seen = self.seen.lock();
            let read = seen.readers.keys();
            read.chain(counts.keys()).map(Arc::clone).collect()
        };
        let names: Vec<&str> = names.iter().map(|name| &**name).collect();
        let asked = self.now();
        // A later answer would be too old.
        match self.describe_within(&names, TRUSTED) {
            Ok(_) => self.asked.store(asked, Ordering::Release),
            // Records wait for the next answer; readiness reports that the brokers do not answer.
            Err(error) => tracing::debug!(%error, "the topics cannot be described"),
        }
        // Under the lock, so that a thread that is about to wait does not miss it.
        let _seen = self.seen.lock();
        self.answered.notify_all();
    }

    fn count_trouble(&self, topic: &str, expected: u32, described: &Described) -> Option<String> {
        let found = described.partitions;
        let trouble = found != expected && !topic.starts_with(&self.follows_source);
        trouble.then(|| {
            format!(
                "topic `{topic}` has {found} partitions, but {expected} are configured; {}",
                way_out(topic, expected, found, false)
            )
        })
    }

    /// In microseconds since `base`; never 0.
    fn now(&self) -> u64 {
        (self.base.elapsed().as_micros() as u64).max(1)
    }

    fn learn(&self, found: &HashMap<String, Described>, asked: u64) {
        let counts = self.counts();
        let mut seen = self.seen.lock();
        for (name, described) in found {
            let before = match seen.topics.get_mut(&**name) {
                // Of two concurrent requests, this answer is the older one.
                Some((newest, _)) if *newest > asked => continue,
                Some(known) => Some(std::mem::replace(known, (asked, *described)).1),
                None => {
                    let name = Arc::from(&**name);
                    seen.topics.insert(name, (asked, *described));
                    None
                }
            };
            if before.is_some_and(|before| before.id != described.id) {
                tracing::warn!(topic = %name, "the topic was deleted and recreated");
                self.changes.fetch_add(1, Ordering::AcqRel);
            }
            let trouble = |of: &Described| self.count_trouble(name, *counts.get(&**name)?, of);
            if let Some(detail) = trouble(described)
                && before.as_ref().and_then(trouble).is_none()
            {
                tracing::error!(topic = %name, %detail, "a topic has another number of partitions than configured");
            }
        }
    }

    /// The age of the last answer; `None`: there was none yet.
    fn age(&self) -> Option<Duration> {
        match self.asked.load(Ordering::Acquire) {
            0 => None,
            asked => Some(
                self.base
                    .elapsed()
                    .saturating_sub(Duration::from_micros(asked)),
            ),
        }
    }

    /// Whether the last answer is recent enough. Otherwise requests another one, and waits for it up to [`ANSWER_WAIT`].
    fn is_trusted(&self) -> bool {
        let trusted = || self.age().is_some_and(|age| age < TRUSTED);
        if self.age().is_none_or(|age| age > BUSY) {
            self.wake();
        }
        if trusted() {
            return true;
        }
        let deadline = Instant::now() + ANSWER_WAIT;
        let mut seen = self.seen.lock();
        while !trusted() {
            if self.answered.wait_until(&mut seen, deadline).timed_out() {
                return trusted();
            }
        }
        true
    }
}

/// Whether the brokers did not answer in time.
fn is_unanswered(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(
            RDKafkaErrorCode::OperationTimedOut
                | RDKafkaErrorCode::RequestTimedOut
                | RDKafkaErrorCode::BrokerTransportFailure
        )
    )
}

/// Polls all topics until the log is dropped.
fn run(topics: &Weak<Topics>, woken: &Receiver<()>) {
    while let Some(topics) = topics.upgrade() {
        topics.refresh();
        let answered = topics.age().is_some_and(|age| age < TRUSTED);
        drop(topics);
        if answered {
            // An error means that the interval has passed.
            let _ = woken.recv_timeout(IDLE);
        } else {
            std::thread::sleep(UNANSWERED);
        }
    }
}

/// The topics of a reader, with the ids to which its positions belong.
pub(super) struct Watched {
    of: Arc<Topics>,
    names: Vec<Arc<str>>,
    ids: Vec<Option<TopicId>>,
    /// [`Topics::changes`] at the last check.
    changes: u64,
}

impl Watched {
    /// Sets the id of the topic to which a position belongs. Fails if positions of other partitions belong to a topic with another id:
    /// then all of them must be resolved again.
    pub(super) fn set_id(&mut self, topic: usize, id: Option<TopicId>) -> Result<(), LogError> {
        if let (Some(was), Some(is)) = (self.ids[topic], id)
            && was != is
        {
            return Err(LogError::Recreated {
                topic: self.names[topic].to_string(),
                was,
                is,
            });
        }
        self.ids[topic] = id.or(self.ids[topic]);
        // Forces a check: the id may have changed since it was requested.
        self.changes = u64::MAX;
        Ok(())
    }

    pub(super) fn id(&self, topic: usize) -> Option<TopicId> {
        self.ids[topic]
    }

    pub(super) fn topics(&self) -> &Topics {
        &self.of
    }

    /// Describes these topics now. `None`: the topic is missing, or cannot be described.
    pub(super) fn describe(&self) -> Result<Vec<Option<Described>>, LogError> {
        let names: Vec<&str> = self.names.iter().map(|name| &**name).collect();
        let found = self.of.describe(&names)?;
        Ok(names
            .into_iter()
            .map(|name| found.get(name).copied())
            .collect())
    }

    /// Fails if, by the last answer, a topic was recreated since its positions were resolved.
    pub(super) fn check(&mut self) -> Result<(), LogError> {
        self.changes = self.verify()?;
        Ok(())
    }

    /// As [`Self::check`], without updating the counter; returns its current value.
    pub(super) fn verify(&self) -> Result<u64, LogError> {
        let changes = self.of.changes.load(Ordering::Acquire);
        if changes == self.changes {
            return Ok(changes);
        }
        let seen = self.of.seen.lock();
        for (name, was) in self.names.iter().zip(&self.ids) {
            let is = seen.topics.get(name).and_then(|(_, now)| now.id);
            if let (Some(was), Some(is)) = (*was, is)
                && was != is
            {
                return Err(LogError::Recreated {
                    topic: name.to_string(),
                    was,
                    is,
                });
            }
        }
        Ok(changes)
    }

    /// As [`Self::check`], with a recent answer, for which it waits up to [`ANSWER_WAIT`]. False: the brokers do not answer, so polled
    /// records and commits must wait.
    pub(super) fn confirm(&mut self) -> Result<bool, LogError> {
        // Brokers before Kafka 2.8 have no topic ids.
        let known = self.ids.iter().any(Option::is_some);
        if known && !self.of.is_trusted() {
            return Ok(false);
        }
        self.check()?;
        Ok(true)
    }
}

/// Of the first of its topics.
impl TopicWatch for Watched {
    fn current(&self) -> Option<TopicId> {
        let seen = self.of.seen.lock();
        let (_, described) = seen.topics.get(self.names.first()?)?;
        described.id
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        let mut seen = self.of.seen.lock();
        for name in &self.names {
            if let Some(readers) = seen.readers.get_mut(name) {
                *readers -= 1;
                if *readers == 0 {
                    seen.readers.remove(name);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use rdkafka::ClientConfig;

    use super::*;

    #[test]
    fn records_wait_only_for_brokers_that_do_not_answer_and_another_topic_is_an_error() {
        // No broker listens there.
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", "127.0.0.1:1")
            .set("group.id", "g");
        let asker: Arc<BaseConsumer> = Arc::new(config.create().unwrap());
        let topics = Topics::new(&asker, "");
        let mut watched = topics.watch(["in"].into_iter()).unwrap();
        // Brokers without topic ids: there is nothing to wait for.
        assert!(watched.confirm().unwrap());
        let id = |n| TopicId::from_bytes([n; 16]);
        watched.set_id(0, id(1)).unwrap();
        assert!(!watched.confirm().unwrap());
        let answer = |n, asked| {
            let partitions = 1;
            let described = Described {
                id: id(n),
                partitions,
            };
            topics.learn(&HashMap::from([("in".to_owned(), described)]), asked);
            topics.asked.store(asked, Ordering::Release);
        };
        answer(1, topics.now());
        let begun = Instant::now();
        assert!(watched.confirm().unwrap());
        assert!(begun.elapsed() < ANSWER_WAIT, "it has not waited");
        assert!(watched.verify().is_ok());
        answer(2, topics.now());
        assert!(matches!(
            watched.verify(),
            Err(LogError::Recreated { was, is, .. }) if Some(was) == id(1) && Some(is) == id(2)
        ));
        assert!(watched.confirm().is_err());
        // Positions of other partitions belong to the old topic.
        assert!(watched.set_id(0, id(2)).is_err());
        // An older answer that arrives late is ignored.
        let mut anew = topics.watch(["in"].into_iter()).unwrap();
        anew.set_id(0, id(2)).unwrap();
        topics.learn(
            &HashMap::from([(
                "in".to_owned(),
                Described {
                    id: id(1),
                    partitions: 1,
                },
            )]),
            1,
        );
        assert!(anew.confirm().unwrap());
    }
}
