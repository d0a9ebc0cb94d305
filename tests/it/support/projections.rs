//! Fixtures for projections: a database for one test, and an in-memory log whose partitions the test assigns.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use omnilink::{
    base::{
        clock::{Clock, Millis, SystemClock},
        id::Tenant,
    },
    envelope::{Data, Entity, Event, TimeSource, avro},
    log::{
        Acknowledged, Append, Fetched, Lane, Log, LogError, OffsetRange, Output, Polled, Position,
        Reader, Record, Source, TopicSpec, Work, partition_for,
    },
    projections::{Projector, Setup},
    state,
    store::Store,
    stream::progress::Progress,
};
use parking_lot::{Condvar, Mutex};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, PgConnection, postgres::PgConnectOptions};
use tokio::runtime::Runtime;

use crate::support::{env_or_skip, port::Node, wait_until};

pub const EVENTS: &str = "t.events";
pub const DLQ: &str = "t.dlq";
pub const INGRESS: &str = "t.ingress";
pub const PARTITIONS: u32 = 4;

/// A database for one test, dropped at the end, and a runtime.
pub struct Database {
    pub name: String,
    pub runtime: Runtime,
    pub admin: PgConnectOptions,
    pub options: PgConnectOptions,
}

impl Database {
    /// An empty database; `None` without a Postgres.
    pub fn empty() -> Option<Self> {
        // The projector's log helps to understand a failure.
        let _ = tracing_subscriber::fmt()
            .with_test_writer()
            .with_max_level(tracing::Level::WARN)
            .try_init();
        let admin: PgConnectOptions = env_or_skip("OMNILINK_TEST_POSTGRES")?.parse().unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let name = format!("t{}", uuid::Uuid::now_v7().simple());
        let database = Self {
            options: admin.clone().database(&name),
            admin,
            runtime,
            name,
        };
        database.admin(&format!("CREATE DATABASE {}", database.name));
        Some(database)
    }

    /// A migrated database; `None` without a Postgres.
    pub fn new() -> Option<Self> {
        let database = Self::empty()?;
        database
            .runtime
            .block_on(database.store().migrate())
            .unwrap();
        Some(database)
    }

    /// Its URL, for `postgres.url`.
    pub fn url(&self) -> String {
        let mut url = self.options.to_url_lossy();
        // Parameters that only sqlx knows.
        url.set_query(None);
        url.to_string()
    }

    pub fn store(&self) -> Store {
        Store::with_options(self.options.clone())
    }

    /// Runs SQL on the server, outside of this database.
    pub fn admin(&self, sql: &str) {
        self.runtime.block_on(async {
            let mut connection = PgConnection::connect_with(&self.admin).await.unwrap();
            sqlx::raw_sql(AssertSqlSafe(sql))
                .execute(&mut connection)
                .await
                .unwrap();
        });
    }

    /// Runs SQL in this database, as the superuser.
    pub fn run(&self, sql: &str) {
        self.runtime.block_on(async {
            let mut connection = PgConnection::connect_with(&self.options).await.unwrap();
            sqlx::raw_sql(AssertSqlSafe(sql))
                .execute(&mut connection)
                .await
                .unwrap();
        });
    }

    /// The first column of all rows, as text.
    pub fn texts(&self, sql: &str) -> Vec<String> {
        self.runtime.block_on(async {
            let mut connection = PgConnection::connect_with(&self.options).await.unwrap();
            sqlx::query_scalar::<_, Option<String>>(AssertSqlSafe(format!(
                "SELECT x::text FROM ({sql}) AS q(x)"
            )))
            .fetch_all(&mut connection)
            .await
            .unwrap()
            .into_iter()
            .map(|text| text.unwrap_or_else(|| "NULL".to_owned()))
            .collect()
        })
    }

    /// The first column of all rows of a statement that cannot be a sub-select, such as EXPLAIN.
    pub fn texts_of(&self, statement: &str) -> Vec<String> {
        self.runtime.block_on(async {
            let mut connection = PgConnection::connect_with(&self.options).await.unwrap();
            sqlx::query_scalar::<_, String>(AssertSqlSafe(statement.to_owned()))
                .fetch_all(&mut connection)
                .await
                .unwrap()
        })
    }

    pub fn text(&self, sql: &str) -> String {
        self.texts(sql).concat()
    }

    pub fn number(&self, sql: &str) -> i64 {
        self.text(sql).parse().unwrap()
    }

    /// A projector's setup on this database and a log.
    pub fn setup(&self, log: &Arc<MemoryLog>) -> Setup {
        Setup {
            store: self.store(),
            log: Arc::clone(log) as Arc<dyn Log>,
            topic: EVENTS.into(),
            dlq: DLQ.into(),
            clock: Arc::new(SystemClock),
            runtime: self.runtime.handle().clone(),
            progress: Arc::new(Progress::default()),
        }
    }

    /// A projector's setup on this database, for a topic of a node.
    pub fn setup_on(&self, node: &Node, topic: &Arc<str>) -> Setup {
        Setup {
            store: self.store(),
            log: node.log.clone(),
            topic: topic.clone(),
            dlq: node.names.dlq.clone(),
            clock: Arc::new(SystemClock),
            runtime: self.runtime.handle().clone(),
            progress: Arc::new(Progress::default()),
        }
    }

    /// The number of rows of `events`.
    pub fn rows(&self) -> i64 {
        self.number("SELECT count(*) FROM omnilink.events")
    }

    /// Starts a projector that owns all partitions.
    pub fn start_projector(&self, log: &Arc<MemoryLog>) -> Projector {
        let member = log.members();
        let projector = Projector::start(&self.setup(log), 1).unwrap();
        log.notify(member, Polled::Assigned(all_partitions()));
        projector
    }

    /// Each event is one row, and each entity's version is the number of its events.
    pub fn assert_exactly_once(&self, log: &MemoryLog) {
        assert_eq!(
            self.number("SELECT count(*) FROM omnilink.events"),
            log.events() as i64
        );
        assert_eq!(
            self.number("SELECT count(DISTINCT (log_partition, log_offset)) FROM omnilink.events"),
            log.events() as i64
        );
        // The state's `n` is that of the last event, and the version their number.
        let wrong = self.number(
            "SELECT count(*) FROM omnilink.entities e FULL JOIN \
             (SELECT tenant, entity_type, entity_id, count(*) AS events, \
                     (array_agg(data -> 'n' ORDER BY log_partition, log_offset DESC))[1] AS n \
              FROM omnilink.events WHERE entity_type IS NOT NULL GROUP BY 1, 2, 3) v \
             ON e.tenant = v.tenant AND e.entity_type = v.entity_type AND e.external_id = v.entity_id \
             WHERE e.version IS DISTINCT FROM v.events OR e.state -> 'n' IS DISTINCT FROM v.n",
        );
        assert_eq!(wrong, 0, "entities differ from their events");
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        if !std::thread::panicking() || std::env::var_os("OMNILINK_TEST_KEEP").is_none() {
            self.admin(&format!(
                "DROP DATABASE IF EXISTS {} WITH (FORCE)",
                self.name
            ));
        }
    }
}

/// Event `n` of an entity, with `n` in its data.
pub fn event(n: usize, entity: &str) -> Event<'static> {
    Event {
        tenant: Tenant::new("acme").unwrap(),
        id: format!("e{n}").into(),
        source: "/shop".into(),
        kind: "order.paid".into(),
        subject: None,
        entity: Some(Entity {
            kind: "order".into(),
            external_id: entity.to_owned().into(),
            display_name: None,
        }),
        correlation_id: None,
        causation_id: None,
        time: 1_700_000_000_000_000 + n as i64,
        time_source: TimeSource::Producer,
        data: Data::Json(format!(r#"{{"n":{n},"k{}":{n}}}"#, n % 3).into()),
        extensions: "{}".into(),
        tombstone: false,
        idempotency_key: None,
    }
}

/// A log in memory.
#[derive(Default)]
pub struct MemoryLog {
    topics: Mutex<BTreeMap<String, Vec<Vec<Fetched>>>>,
    appended: Condvar,
    /// The assignment changes that each source has not polled yet, in the order in which the sources were opened.
    members: Mutex<Vec<Arc<Mutex<VecDeque<Polled>>>>>,
    /// Whether polls fail.
    pub down: AtomicBool,
    this: Weak<Self>,
}

impl MemoryLog {
    pub fn new() -> Arc<Self> {
        Arc::new_cyclic(|this| Self {
            this: this.clone(),
            ..Self::default()
        })
    }

    /// Appends an event with the receive time `at`.
    pub fn add_at(&self, event: &Event<'_>, at: Millis) {
        let mut value = Vec::new();
        avro::encode_event(event, at, &mut value);
        self.add_raw(event.record_key().as_bytes(), value);
    }

    pub fn add(&self, event: &Event<'_>) {
        self.add_at(event, SystemClock.now());
    }

    /// Appends events `from..to`, about 10 for each entity.
    pub fn add_many(&self, from: usize, to: usize) {
        for n in from..to {
            self.add(&event(n, &format!("o{}", n * 7 % (to / 10).max(1))));
        }
    }

    pub fn add_raw(&self, key: &[u8], value: Vec<u8>) {
        self.put(EVENTS, key, Some(value.into()), Vec::new());
    }

    fn put(
        &self,
        topic: &str,
        key: &[u8],
        value: Option<Bytes>,
        headers: omnilink::log::Headers,
    ) -> Position {
        let mut topics = self.topics.lock();
        let partitions = topics
            .entry(topic.to_owned())
            .or_insert_with(|| vec![Vec::new(); PARTITIONS as usize]);
        let partition = partition_for(key, PARTITIONS);
        let records = &mut partitions[partition as usize];
        let offset = records.len() as u64;
        records.push(Fetched {
            topic: 0,
            partition,
            offset,
            timestamp: SystemClock.now(),
            record: Record {
                key: Some(Bytes::copy_from_slice(key)),
                value,
                headers,
            },
        });
        self.appended.notify_all();
        Position { partition, offset }
    }

    /// All records of a topic.
    pub fn records(&self, topic: &str) -> Vec<Fetched> {
        self.topics
            .lock()
            .get(topic)
            .map(|p| p.concat())
            .unwrap_or_default()
    }

    pub fn events(&self) -> usize {
        self.records(EVENTS).len()
    }

    /// Removes all records, like a log that lost its data.
    pub fn clear(&self) {
        self.topics.lock().clear();
    }

    /// The number of sources that were opened.
    pub fn members(&self) -> usize {
        self.members.lock().len()
    }

    /// Delivers a change of the assignment to a source.
    pub fn notify(&self, member: usize, polled: Polled) {
        wait_until("a source is opened", || self.members() > member);
        self.members.lock()[member].lock().push_back(polled);
        self.appended.notify_all();
    }
}

pub fn all_partitions() -> Vec<(usize, u32)> {
    (0..PARTITIONS).map(|p| (0, p)).collect()
}

struct MemoryReader {
    log: Arc<MemoryLog>,
    topic: String,
    at: BTreeMap<u32, u64>,
    notifications: Arc<Mutex<VecDeque<Polled>>>,
}

impl MemoryReader {
    fn read(&self, wait: Duration, out: &mut Vec<Fetched>) -> BTreeMap<u32, u64> {
        let mut at = self.at.clone();
        let deadline = Instant::now() + wait;
        let mut topics = self.log.topics.lock();
        loop {
            for (partition, next) in &mut at {
                let records = topics
                    .get(&self.topic)
                    .map_or(&[][..], |t| &t[*partition as usize]);
                let new = records.iter().skip(*next as usize).take(3_000);
                let before = out.len();
                out.extend(new.cloned());
                *next += (out.len() - before) as u64;
            }
            if !out.is_empty() || !self.notifications.lock().is_empty() {
                return at;
            }
            if self
                .log
                .appended
                .wait_until(&mut topics, deadline)
                .timed_out()
            {
                return at;
            }
        }
    }
}

impl Reader for MemoryReader {
    fn at_end(&self, partition: u32) -> bool {
        let end = self.log.offset_range(&self.topic, partition).unwrap().end;
        self.at.get(&partition).is_some_and(|at| *at >= end)
    }

    fn assign(&mut self, partition: u32, offset: u64) -> Result<(), LogError> {
        self.at.insert(partition, offset);
        Ok(())
    }

    fn poll(&mut self, wait: Duration, out: &mut Vec<Fetched>) -> Result<(), LogError> {
        self.at = self.read(wait, out);
        Ok(())
    }
}

impl Source for MemoryReader {
    fn poll(&mut self, wait: Duration, out: &mut Vec<Fetched>) -> Result<Polled, LogError> {
        if self.log.down.load(Ordering::Relaxed) {
            return Err(LogError::Stateless);
        }
        if let Some(polled) = self.notifications.lock().pop_front() {
            return Ok(polled);
        }
        self.at = self.read(wait, out);
        Ok(Polled::Records)
    }

    fn open(&mut self, partition: u32, offset: u64) -> Result<(), LogError> {
        let end = self.log.offset_range(&self.topic, partition)?.end;
        if offset > end {
            return Err(LogError::OutOfRange {
                topic: self.topic.clone(),
                partition,
                offset,
                start: 0,
                end,
            });
        }
        self.at.insert(partition, offset);
        Ok(())
    }

    fn release(&mut self, partitions: &[(usize, u32)]) -> Result<(), LogError> {
        for (_, partition) in partitions {
            self.at.remove(partition);
        }
        Ok(())
    }
}

impl Log for MemoryLog {
    fn provision(&self, _: &[TopicSpec], _: bool) -> Result<(), LogError> {
        Ok(())
    }

    fn partitions(&self, _: &str) -> Result<u32, LogError> {
        Ok(PARTITIONS)
    }

    fn append(&self, records: Vec<Append>, _: Option<state::Changes>) -> Acknowledged {
        let (sender, acknowledged) = tokio::sync::oneshot::channel();
        let positions = records
            .into_iter()
            .map(|a| {
                self.put(
                    &a.topic,
                    a.record.key.as_deref().unwrap_or_default(),
                    a.record.value,
                    a.record.headers,
                )
            })
            .collect();
        let _ = sender.send(Ok(positions));
        acknowledged
    }

    fn append_to(&self, _: Vec<Output>, _: Option<state::Changes>) -> Acknowledged {
        unreachable!("projections name no partitions")
    }

    fn reader(&self, topic: &str) -> Result<Box<dyn Reader>, LogError> {
        Ok(Box::new(MemoryReader {
            log: self.this.upgrade().unwrap(),
            topic: topic.to_owned(),
            at: BTreeMap::new(),
            notifications: Arc::default(),
        }))
    }

    fn source(&self, _: &str, topic: &str) -> Result<Box<dyn Source>, LogError> {
        let notifications = Arc::new(Mutex::new(VecDeque::new()));
        self.members.lock().push(Arc::clone(&notifications));
        Ok(Box::new(MemoryReader {
            log: self.this.upgrade().unwrap(),
            topic: topic.to_owned(),
            at: BTreeMap::new(),
            notifications,
        }))
    }

    fn offset_range(&self, topic: &str, partition: u32) -> Result<OffsetRange, LogError> {
        let topics = self.topics.lock();
        let end = topics
            .get(topic)
            .map_or(0, |t| t[partition as usize].len() as u64);
        Ok(OffsetRange { start: 0, end })
    }

    fn lane(&self, _: &str, _: &[String]) -> Result<Box<dyn Lane>, LogError> {
        unreachable!("projections use no lanes")
    }

    fn work(&self, _: &str, _: &str) -> Result<Box<dyn Work>, LogError> {
        unreachable!("projections use no effects")
    }

    fn offset_at(&self, _: &str, _: u32, _: Millis) -> Result<u64, LogError> {
        unreachable!("projections do not look up times")
    }

    fn committed(&self, _: &str, _: &str, _: u32) -> Result<Option<u64>, LogError> {
        Ok(None)
    }

    fn health(&self) -> Result<(), LogError> {
        Ok(())
    }
}
