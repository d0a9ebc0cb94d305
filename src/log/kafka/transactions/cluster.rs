//! Connections to the leaders of partitions, and to coordinators, which are looked up again when they have moved.

use std::{
    collections::{BTreeMap, HashMap, btree_map::Entry},
    io,
    sync::{Arc, atomic::AtomicBool},
    time::{Duration, Instant},
};

use kafka_protocol::{error::ResponseError, protocol::StrBytes};
use rand::seq::SliceRandom;

use super::{
    super::{
        KafkaOptions,
        wire::{self, Connection, Coordinates},
    },
    Stopping,
};

/// The first and the longest pause before a request is repeated.
const FIRST: Duration = Duration::from_millis(1);
const LONGEST: Duration = Duration::from_millis(100);
/// Time limits of an answer, and of that to a produce request, which waits for the replicas. Both are shorter than a step of a
/// transaction, so that a lost request is repeated within the step.
const ANSWER: Duration = Duration::from_secs(3);
const PRODUCED: Duration = Duration::from_secs(5);
/// The longest pause while a coordinator still ends the previous transaction, which takes a few milliseconds.
const LONGEST_BEFORE: Duration = Duration::from_millis(2);
/// How long the partition count of a topic is cached.
const FRESH: Duration = Duration::from_secs(10);

/// Pauses between attempts, with jitter, until a deadline.
pub(super) struct Attempts {
    deadline: Instant,
    pause: Duration,
}

impl Attempts {
    pub(super) fn within(limit: Duration) -> Self {
        Self {
            deadline: Instant::now() + limit,
            pause: FIRST,
        }
    }

    /// Pauses. `false`: the deadline has passed, or the lane stops.
    pub(super) fn pause(&mut self, longest: Duration, stopping: &Stopping) -> bool {
        let now = Instant::now();
        if now >= self.deadline || stopping.gives_up(now) {
            return false;
        }
        std::thread::sleep(self.pause.mul_f64(rand::random_range(0.5..=1.0)));
        self.pause = (self.pause * 2).min(longest);
        true
    }

    /// Resets the backoff.
    pub(super) fn progress(&mut self) {
        self.pause = FIRST;
    }
}

/// Why a request was given up.
#[derive(Debug)]
pub(super) enum Unanswered {
    Refused(ResponseError),
    Lost(io::Error),
}

struct Leaders {
    of: Vec<Option<i32>>,
    asked: Instant,
}

/// The known brokers, leaders and connections.
pub(super) struct Cluster {
    client: String,
    bootstrap: Vec<String>,
    stop: Arc<AtomicBool>,
    brokers: BTreeMap<i32, String>,
    topics: HashMap<Arc<str>, Leaders>,
    /// The connections to leaders, by broker id.
    links: BTreeMap<i32, Connection>,
}

impl Cluster {
    pub(super) fn new(options: &KafkaOptions) -> Self {
        Self {
            client: format!("omnilink-{}", options.node),
            bootstrap: wire::bootstrap(options),
            stop: Arc::default(),
            brokers: BTreeMap::new(),
            topics: HashMap::new(),
            links: BTreeMap::new(),
        }
    }

    /// Sets the stop flag of new connections, and closes the existing ones.
    pub(super) fn stop_with(&mut self, stop: Arc<AtomicBool>) {
        self.stop = stop;
        self.links.clear();
    }

    fn open(&self, address: &str, patience: Duration) -> Result<Connection, io::Error> {
        Connection::open_with(address, &self.client, patience, &self.stop)
            .map_err(|error| io::Error::new(error.kind(), format!("{address}: {error}")))
    }

    /// Sends a request to a random broker: one that hangs, or is partitioned from the others, may still accept connections.
    fn ask_any<T>(
        &self,
        ask: impl FnOnce(&mut Connection) -> Result<T, io::Error>,
    ) -> Result<T, io::Error> {
        let mut addresses: Vec<_> = self.brokers.values().chain(&self.bootstrap).collect();
        addresses.shuffle(&mut rand::rng());
        let mut last = io::Error::other("no broker is given");
        for address in addresses {
            match self.open(address, ANSWER) {
                Ok(mut link) => return ask(&mut link),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// Requests the leaders of the partitions of topics. Forgets a topic that does not exist; with `make`, brokers create it if their
    /// configuration allows that.
    pub(super) fn refresh(&mut self, topics: &[Arc<str>], make: bool) -> Result<(), io::Error> {
        let asked = Instant::now();
        let metadata = self.ask_any(|link| link.metadata(topics, make))?;
        self.brokers = metadata
            .brokers
            .iter()
            .map(|broker| (broker.node_id.0, format!("{}:{}", broker.host, broker.port)))
            .collect();
        for topic in topics {
            self.topics.remove(topic);
            let mut found = metadata.topics.iter();
            let Some(found) = found.find(|of| of.name.as_ref().is_some_and(|n| **n == **topic))
            else {
                continue;
            };
            if found.error_code != 0 || found.partitions.is_empty() {
                continue;
            }
            let mut of = vec![None; found.partitions.len()];
            for partition in &found.partitions {
                if let Some(place) = of.get_mut(partition.partition_index as usize) {
                    *place = (partition.leader_id.0 >= 0).then_some(partition.leader_id.0);
                }
            }
            self.topics.insert(Arc::clone(topic), Leaders { of, asked });
        }
        Ok(())
    }

    /// The partition count of a topic, if it is cached.
    pub(super) fn partitions(&self, topic: &str) -> Option<u32> {
        let leaders = self.topics.get(topic)?;
        (leaders.asked.elapsed() < FRESH).then_some(leaders.of.len() as u32)
    }

    pub(super) fn leader(&self, topic: &str, partition: u32) -> Option<i32> {
        let leaders = self.topics.get(topic)?;
        *leaders.of.get(partition as usize)?
    }

    /// The connection to a leader.
    pub(super) fn link(&mut self, broker: i32) -> Result<&mut Connection, io::Error> {
        if !self.links.contains_key(&broker) {
            let Some(address) = self.brokers.get(&broker) else {
                return Err(io::Error::other("the leader has no address"));
            };
            let opened = self.open(address, PRODUCED)?;
            self.links.insert(broker, opened);
        }
        match self.links.entry(broker) {
            Entry::Occupied(link) => Ok(link.into_mut()),
            Entry::Vacant(_) => Err(io::Error::other("the leader has no connection")),
        }
    }

    /// Closes the connection to a leader.
    pub(super) fn close(&mut self, broker: i32) {
        self.links.remove(&broker);
    }
}

/// The coordinator of a transactional id or of a group.
pub(super) struct Coordinator {
    of: Coordinates,
    pub(super) key: StrBytes,
    link: Option<Connection>,
    /// A request without an answer may still arrive.
    pub(super) lost: bool,
}

impl Coordinator {
    pub(super) fn new(of: Coordinates, key: &str) -> Self {
        Self {
            of,
            key: StrBytes::from_string(key.to_owned()),
            link: None,
            lost: false,
        }
    }

    /// The connection, if it is open.
    pub(super) fn link(&mut self) -> Option<&mut Connection> {
        self.link.as_mut()
    }

    /// Closes the connection, which may have unread answers.
    pub(super) fn close(&mut self) {
        self.link = None;
    }

    /// Repeats a request until there is a final answer or the time limit has passed. A request without an answer may still arrive:
    /// [`Coordinator::lost`].
    pub(super) fn ask<T>(
        &mut self,
        cluster: &mut Cluster,
        stopping: &Stopping,
        limit: Duration,
        mut request: impl FnMut(&mut Connection) -> Result<Result<T, ResponseError>, io::Error>,
    ) -> Result<T, Unanswered> {
        let mut attempts = Attempts::within(limit);
        loop {
            let mut longest = LONGEST;
            let failed = match self.try_ask(cluster, &mut request) {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(ResponseError::ConcurrentTransactions)) => {
                    longest = LONGEST_BEFORE;
                    Unanswered::Refused(ResponseError::ConcurrentTransactions)
                }
                Ok(Err(error)) => {
                    if matches!(
                        error,
                        ResponseError::NotCoordinator | ResponseError::CoordinatorNotAvailable
                    ) {
                        self.link = None;
                    }
                    if !error.is_retriable() {
                        return Err(Unanswered::Refused(error));
                    }
                    Unanswered::Refused(error)
                }
                Err(error) => {
                    self.link = None;
                    Unanswered::Lost(error)
                }
            };
            if !attempts.pause(longest, stopping) {
                return Err(failed);
            }
        }
    }

    fn try_ask<T>(
        &mut self,
        cluster: &mut Cluster,
        request: &mut impl FnMut(&mut Connection) -> Result<Result<T, ResponseError>, io::Error>,
    ) -> Result<Result<T, ResponseError>, io::Error> {
        let link = if let Some(link) = &mut self.link {
            link
        } else {
            let (of, key) = (self.of, &self.key);
            let address = match cluster.ask_any(|link| link.find_coordinator(of, key))? {
                Ok(address) => address,
                Err(error) => return Ok(Err(error)),
            };
            self.link.insert(cluster.open(&address, ANSWER)?)
        };
        let answer = request(link);
        self.lost |= answer.is_err();
        answer
    }
}
