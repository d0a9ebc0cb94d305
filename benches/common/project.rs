//! One run of the projector, from its start until the whole topic is committed.
#![allow(dead_code, reason = "not every bench uses all of it")]

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use omnilink::{
    base::clock::SystemClock,
    log::Log,
    projections::{PROJECTION, Projector, Setup},
    store::{Session, Store},
    stream::progress::Progress,
};
use sqlx::{PgConnection, Row as _};
use tokio::runtime::Handle;

use crate::{
    copy,
    machine::{self, Cpu},
};

const POLL: Duration = Duration::from_millis(20);
const DEADLINE: Duration = Duration::from_mins(10);

/// The parameters of a run.
pub struct Run<'a> {
    pub runtime: &'a Handle,
    pub store: &'a Store,
    pub log: &'a Arc<dyn Log>,
    pub topic: &'a Arc<str>,
    pub dlq: &'a Arc<str>,
    pub brokers: &'a str,
    /// The number of events and entities in the topic.
    pub events: usize,
    pub entities: usize,
    pub lanes: usize,
}

pub struct Projected {
    /// From the start of the projector to the last commit.
    pub seconds: f64,
    /// From the start to the first observed commit: joining the group, taking over partitions, the first batch.
    pub first: f64,
    /// The number of events committed by then.
    pub at_first: u64,
    /// Processor time of the projector's backends in Postgres, in microseconds.
    pub server: f64,
    /// Processor time by part, in microseconds.
    pub parts: BTreeMap<&'static str, f64>,
}

impl Run<'_> {
    /// Empties the tables, projects the topic, and checks the number of rows.
    pub fn project(&self) -> Projected {
        let mut connection = self.connect();
        self.runtime.block_on(copy::empty(&mut connection));
        let ends = self.ends();
        let cpu = self.cpu(&mut connection);
        let setup = Setup {
            store: self.store.clone(),
            log: Arc::clone(self.log),
            topic: Arc::clone(self.topic),
            dlq: Arc::clone(self.dlq),
            clock: Arc::new(SystemClock),
            runtime: self.runtime.clone(),
            progress: Arc::<Progress>::default(),
        };
        let start = Instant::now();
        let projector = Projector::start(&setup, self.lanes).unwrap();
        let mut first = None;
        loop {
            let positions = self.positions(&mut connection);
            let seconds = start.elapsed().as_secs_f64();
            let done: u64 = positions.values().sum();
            if done > 0 {
                first.get_or_insert((seconds, done));
            }
            if ends.iter().all(|(p, end)| positions.get(p) == Some(end)) {
                // Before its threads and connections are gone.
                let parts = cpu.used();
                let server = self.backends(&mut connection);
                drop(projector);
                self.check(&mut connection);
                let (first, at_first) = first.unwrap_or((seconds, done));
                return Projected {
                    seconds,
                    first,
                    at_first,
                    server,
                    parts,
                };
            }
            let trouble = setup.progress.trouble();
            assert!(start.elapsed() < DEADLINE, "{positions:?} {trouble:?}");
            std::thread::sleep(POLL);
        }
    }

    pub fn connect(&self) -> PgConnection {
        self.runtime
            .block_on(self.store.connect(Session::Service))
            .unwrap()
    }

    fn ends(&self) -> BTreeMap<u32, u64> {
        let partitions = 0..self.log.partitions(self.topic).unwrap();
        let end = |p| self.log.offset_range(self.topic, p).unwrap().end;
        partitions
            .map(|p| (p, end(p)))
            .filter(|(_, end)| *end > 0)
            .collect()
    }

    fn positions(&self, connection: &mut PgConnection) -> BTreeMap<u32, u64> {
        let query = sqlx::query(
            "SELECT log_partition, next FROM omnilink.projection_offsets WHERE projection = $1",
        )
        .bind(PROJECTION);
        let rows = self.runtime.block_on(query.fetch_all(connection)).unwrap();
        rows.iter()
            .map(|row| (row.get::<i32, _>(0) as u32, row.get::<i64, _>(1) as u64))
            .collect()
    }

    fn cpu(&self, connection: &mut PgConnection) -> Cpu {
        let mut others = Vec::new();
        others.extend(machine::broker(self.brokers).map(|pid| ("Kafka", pid)));
        let postmaster = self
            .runtime
            .block_on(crate::postgres::postmaster(connection));
        others.extend(postmaster.map(|pid| ("Postgres, all of it", pid)));
        Cpu::of(std::process::id(), part, others)
    }

    /// Processor time of the projector's backends, which stay the same during a run.
    fn backends(&self, connection: &mut PgConnection) -> f64 {
        let query = sqlx::query_scalar::<_, i32>(
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'omnilink projection'",
        );
        let pids = self.runtime.block_on(query.fetch_all(connection)).unwrap();
        pids.into_iter()
            .map(|pid| machine::process_cpu(pid as u32))
            .sum()
    }

    fn check(&self, connection: &mut PgConnection) {
        for (table, expected) in [("events", self.events), ("entities", self.entities)] {
            let query = format!("SELECT count(*) FROM omnilink.{table}");
            let query = sqlx::query_scalar::<_, i64>(sqlx::AssertSqlSafe(query));
            let count = self
                .runtime
                .block_on(query.fetch_one(&mut *connection))
                .unwrap();
            assert_eq!(count, expected as i64, "rows of {table}");
        }
        let counted = "SELECT sum(version)::bigint FROM omnilink.entities";
        let counted = sqlx::query_scalar::<_, i64>(counted);
        let counted = self.runtime.block_on(counted.fetch_one(connection));
        assert_eq!(counted.unwrap(), self.events as i64, "versions");
    }
}

/// The part of this process to which a thread belongs.
fn part(thread: &str) -> &'static str {
    match thread {
        t if t.starts_with("project") => "projector: lanes",
        t if t.starts_with("sql") => "projector: connections",
        t if t.starts_with("rdk") => "librdkafka",
        _ => "the bench",
    }
}
