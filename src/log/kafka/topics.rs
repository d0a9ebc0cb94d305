//! Which topics there are: their ids and partition counts, asked for by one thread for all lanes of the process.
//!
//! librdkafka reads on at the same offset when a topic was deleted and made again under its name (its FIXME in
//! `rd_kafka_topic_metadata_update`), so whoever reads asks for the id. That need not be for each batch: a fetch that meets
//! the deleted topic is an error, after which librdkafka rests for `fetch.error.backoff.ms`. An answer that is younger than
//! this rest therefore says which topic the records in hand are of.

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
use rdkafka::consumer::{BaseConsumer, Consumer};

use super::{
    REQUEST,
    ffi::{Answer, describe_topics},
};
use crate::log::{Described, LogError, TopicId, error::way_out, partition_for};

/// How often all topics are looked at.
const PERIOD: Duration = Duration::from_secs(2);
/// How long librdkafka rests after a failed fetch. Answers about ids hang on it.
pub(super) const FETCH_ERROR_BACKOFF: Duration = Duration::from_millis(50);
/// An answer of this age is good for records in hand…
const FRESH: Duration = Duration::from_millis(30);
/// … and at this age the next one is asked for, so that a busy lane never waits.
const RENEW: Duration = Duration::from_millis(15);
/// How long a poll waits for an answer before it leaves the records to the next.
const PATIENCE: Duration = Duration::from_millis(200);

/// The partitions in use of topics that were provisioned, whatever somebody has added to them.
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
    /// How many read each topic.
    readers: BTreeMap<Arc<str>, usize>,
    /// The newest answer for each topic, and when its question was asked.
    topics: HashMap<Arc<str>, (u64, Described)>,
}

/// What is known of topics. One for each [`super::KafkaLog`].
pub(super) struct Topics {
    /// So begin topics whose partitions are not configured: a topology's state has those of its source.
    follows_source: String,
    asker: Arc<BaseConsumer>,
    counts: RwLock<Arc<Counts>>,
    seen: Mutex<Seen>,
    answered: Condvar,
    /// Goes up when a topic's id changes.
    changes: AtomicU64,
    /// When the last question was asked that was answered, in microseconds since `base`. 0: none was.
    asked: AtomicU64,
    base: Instant,
    kick: Sender<()>,
    kicked: Receiver<()>,
    watching: AtomicBool,
}

impl Topics {
    pub(super) fn new(asker: &Arc<BaseConsumer>, prefix: &str) -> Arc<Self> {
        let (kick, kicked) = bounded(1);
        Arc::new(Self {
            follows_source: format!("{prefix}state.topology."),
            asker: Arc::clone(asker),
            counts: RwLock::default(),
            seen: Mutex::default(),
            answered: Condvar::new(),
            changes: AtomicU64::new(0),
            asked: AtomicU64::new(0),
            base: Instant::now(),
            kick,
            kicked,
            watching: AtomicBool::new(false),
        })
    }

    /// Asks now, on the caller's thread. A topic that is missing, or that cannot be asked for, is left out.
    pub(super) fn describe(&self, topics: &[&str]) -> Result<HashMap<String, Described>, LogError> {
        let asked = self.now();
        let answers = describe_topics(self.asker.client(), topics, REQUEST)?;
        let is = |(name, answer)| match answer {
            Answer::Is(described) => Some((name, described)),
            Answer::Missing | Answer::Unknown => None,
        };
        let found = answers.into_iter().filter_map(is).collect();
        self.learn(&found, asked);
        Ok(found)
    }

    /// Notes how many partitions of a topic are used.
    pub(super) fn configured(&self, topics: impl IntoIterator<Item = (Arc<str>, u32)>) {
        let mut counts = self.counts.write();
        let mut new = Counts::clone(&counts);
        new.extend(topics);
        *counts = Arc::new(new);
    }

    pub(super) fn counts(&self) -> Arc<Counts> {
        Arc::clone(&self.counts.read())
    }

    /// What is wrong with the partition counts of topics that were provisioned.
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

    /// Looks at these topics from now on.
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
            let (weak, kicked) = (Arc::downgrade(self), self.kicked.clone());
            std::thread::Builder::new()
                .name("kafka-topics".into())
                .spawn(move || run(&weak, &kicked))
                .map_err(|e| LogError::Fatal(format!("cannot start a thread: {e}")))?;
        }
        Ok(watched)
    }

    fn kick(&self) {
        match self.kick.try_send(()) {
            // One that waits does for both.
            Ok(()) | Err(TrySendError::Full(()) | TrySendError::Disconnected(())) => {}
        }
    }

    fn look(&self) {
        let counts = self.counts();
        let names: Vec<Arc<str>> = {
            let seen = self.seen.lock();
            let read = seen.readers.keys();
            read.chain(counts.keys()).map(Arc::clone).collect()
        };
        let names: Vec<&str> = names.iter().map(|name| &**name).collect();
        let asked = self.now();
        match self.describe(&names) {
            Ok(_) => self.asked.store(asked, Ordering::Release),
            // What is read meanwhile waits for the next answer; readiness says that the brokers are away.
            Err(error) => tracing::debug!(%error, "the topics cannot be looked at"),
        }
        // Under the lock, so that nobody who is about to wait misses it.
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
                // Two questions were under way, and this answer is the older one.
                Some((newest, _)) if *newest > asked => continue,
                Some(known) => Some(std::mem::replace(known, (asked, *described)).1),
                None => {
                    let name = Arc::from(&**name);
                    seen.topics.insert(name, (asked, *described));
                    None
                }
            };
            if before.is_some_and(|before| before.id != described.id) {
                tracing::warn!(topic = %name, "the topic was deleted and made again");
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

    /// How old the last answer is.
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

    /// Waits until a question that was asked `FRESH` before now, or later, is answered. False: not in time.
    fn is_fresh(&self) -> bool {
        let age = self.age();
        if age.is_some_and(|age| age < RENEW) {
            return true;
        }
        self.kick();
        if age.is_some_and(|age| age < FRESH) {
            return true;
        }
        let needed = self.base.elapsed().saturating_sub(FRESH).as_micros() as u64;
        let deadline = Instant::now() + PATIENCE;
        let mut seen = self.seen.lock();
        while self.asked.load(Ordering::Acquire) <= needed {
            if self.answered.wait_until(&mut seen, deadline).timed_out() {
                return false;
            }
            if self.asked.load(Ordering::Acquire) <= needed {
                self.kick();
            }
        }
        true
    }
}

/// Looks at all topics now and then, and when somebody waits for it, until the log is dropped.
fn run(topics: &Weak<Topics>, kicked: &Receiver<()>) {
    loop {
        let _ = kicked.recv_timeout(PERIOD);
        let Some(topics) = topics.upgrade() else {
            return;
        };
        topics.look();
        if topics.age().is_none_or(|age| age > PERIOD) {
            drop(topics);
            // The brokers do not answer: whoever waits asks again, and not without a pause.
            std::thread::sleep(FRESH);
        }
    }
}

/// The topics that somebody reads, and which ones they were when positions in them were taken.
pub(super) struct Watched {
    of: Arc<Topics>,
    names: Vec<Arc<str>>,
    ids: Vec<Option<TopicId>>,
    /// The changes that were seen.
    changes: u64,
}

impl Watched {
    /// A position in a topic is taken; it is this one. An error if positions of other partitions were taken in another one:
    /// all of them must be taken anew.
    pub(super) fn is(&mut self, topic: usize, id: Option<TopicId>) -> Result<(), LogError> {
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
        // It may have changed since it was asked for.
        self.changes = u64::MAX;
        Ok(())
    }

    pub(super) fn id(&self, topic: usize) -> Option<TopicId> {
        self.ids[topic]
    }

    pub(super) fn topics(&self) -> &Topics {
        &self.of
    }

    /// Asks for these topics and one more, now.
    pub(super) fn describe(
        &self,
        topic: usize,
        and: Option<&str>,
    ) -> Result<(Option<Described>, Option<Described>), LogError> {
        let name = &*self.names[topic];
        let asked: Vec<&str> = std::iter::once(name).chain(and).collect();
        let found = self.of.describe(&asked)?;
        let other = and.and_then(|and| found.get(and).copied());
        Ok((found.get(name).copied(), other))
    }

    /// Whether a topic was made again since positions in it were taken, by what is known now.
    pub(super) fn check(&mut self) -> Result<(), LogError> {
        let changes = self.of.changes.load(Ordering::Acquire);
        if changes == self.changes {
            return Ok(());
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
        drop(seen);
        self.changes = changes;
        Ok(())
    }

    /// Whether records that were just polled are of the topics that positions were taken in. False: nobody can say yet,
    /// so they must wait.
    pub(super) fn confirm(&mut self) -> Result<bool, LogError> {
        if self.ids.iter().all(Option::is_none) {
            return Ok(true);
        }
        if !self.of.is_fresh() {
            return Ok(false);
        }
        self.check()?;
        Ok(true)
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
