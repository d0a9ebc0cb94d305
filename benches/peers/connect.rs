//! Kafka Connect with Debezium's JDBC sink: events from Kafka as rows in a table like `events`.

use std::{
    cell::Cell,
    path::Path,
    time::{Duration, Instant},
};

use sqlx::{Connection, PgConnection};
use tokio::runtime::Runtime;

use crate::{
    disk,
    drain::{Drain, Drained},
    java::{self, Differs, Java, Kit},
    machine::Peak,
    postgres::Database,
};

const DEADLINE: Duration = Duration::from_mins(10);
/// Time without new rows after which rows are counted.
const QUIET: Duration = Duration::from_millis(300);

/// A table like OmniLink's `events`, without partitions. Connect's position columns replace ours.
const TABLE: &str = "DROP TABLE IF EXISTS peer;
CREATE TABLE peer (
  tenant text NOT NULL, id text NOT NULL, source text NOT NULL, type text NOT NULL, subject text, entity_type text,
  entity_id text, correlation_id text, causation_id text, time timestamptz NOT NULL, time_source text NOT NULL,
  received_at timestamptz NOT NULL, data jsonb, data_base64 bytea, extensions jsonb NOT NULL,
  __connect_topic text, __connect_partition integer, __connect_offset bigint
);
ALTER TABLE peer ALTER COLUMN data SET COMPRESSION lz4;
CREATE INDEX ON peer USING brin (time) WITH (pages_per_range = 32);";
const KEY: &str =
    "ALTER TABLE peer ADD PRIMARY KEY (__connect_topic, __connect_partition, __connect_offset)";

pub struct Connect<'a> {
    pub kit: &'a Kit,
    pub runtime: &'a Runtime,
    pub database: &'a Database,
    pub brokers: &'a str,
    pub topic: &'a str,
    pub events: usize,
    /// Each run has its own consumer group.
    pub runs: Cell<u32>,
}

impl Connect<'_> {
    /// Processes the topic; returns the peak memory in MB. Each event has at least one row: after a rebalance some are written
    /// again.
    pub fn drain(&self, differs: &Differs) -> (Drained, f64) {
        let dir = disk::scratch();
        let sink = java::settings("sink.properties", differs);
        self.database.run(TABLE);
        if java::value(&sink, "primary.key.mode") == "kafka" {
            self.database.run(KEY);
        }
        self.database.run("CHECKPOINT");
        let mut connection = self
            .runtime
            .block_on(PgConnection::connect_with(&self.database.options))
            .unwrap();
        let mut drain = Drain::begin();
        let mut java = self.start(differs, sink, dir.path());
        let peak = Peak::watch(java.pid());
        let mut changed = (0, Instant::now());
        let mut rows = 0;
        drain.watch(DEADLINE, || {
            java.check();
            let size = self.ask(&mut connection, "SELECT pg_relation_size('peer')");
            if size != changed.0 {
                changed = (size, Instant::now());
            }
            let all = size > 0 && changed.1.elapsed() > QUIET && {
                changed.1 = Instant::now();
                rows = self.ask(&mut connection, "SELECT count(*) FROM peer") as usize;
                rows >= self.events && {
                    let ids = "SELECT count(DISTINCT id) FROM peer";
                    self.ask(&mut connection, ids) as usize == self.events
                }
            };
            (vec![size as u64], all)
        });
        if rows > self.events {
            println!("    {} rows came twice", rows - self.events);
        }
        (drain.end(self.events), peak.end())
    }

    fn start(&self, differs: &Differs, sink: Vec<(String, String)>, dir: &Path) -> Java {
        let url = &self.database.url;
        let url = url.strip_prefix("postgres://").expect("a URL of Postgres");
        let (login, place) = url.rsplit_once('@').expect("a login");
        let (user, password) = login.split_once(':').expect("a password");
        let behind = java::value(&sink, "peer.url").to_owned();
        let run = self.runs.get();
        self.runs.set(run + 1);
        let mut sink = sink;
        sink.extend(
            [
                ("topics", self.topic),
                (
                    "consumer.override.group.id",
                    &format!("{}.connect{run}", self.topic),
                ),
                ("collection.name.format", "peer"),
                (
                    "connection.url",
                    &format!("jdbc:postgresql://{place}{behind}"),
                ),
                ("connection.username", user),
                ("connection.password", password),
            ]
            .map(|(name, value)| (name.to_owned(), value.to_owned())),
        );
        let offsets = dir.join("offsets");
        let worker = Differs::default()
            .with("bootstrap.servers", self.brokers)
            .with("listeners", format!("http://127.0.0.1:{}", free_port()))
            .with("offset.storage.file.filename", offsets.to_str().unwrap());
        let worker = java::settings("worker.properties", &worker);
        let worker = java::write(&worker, &dir.join("worker.properties"));
        let sink = java::write(&sink, &dir.join("sink.properties"));
        Java::start(self.kit, differs, "ConnectPeer", &[&worker, &sink], dir)
    }

    fn ask(&self, connection: &mut PgConnection, query: &'static str) -> i64 {
        let query = sqlx::query_scalar::<_, i64>(query);
        self.runtime.block_on(query.fetch_one(connection)).unwrap()
    }
}

/// Connect always opens a port.
fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}
