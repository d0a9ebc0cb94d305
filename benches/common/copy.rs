//! The limit of the projector: its rows, copied into the same tables by one connection.
#![allow(dead_code, reason = "not every bench uses all of it")]

use std::time::Instant;

use futures_util::TryStreamExt;
use omnilink::store::{Session, Store};
use sqlx::PgConnection;

use crate::machine;

const EVENTS: &str = "tenant, id, source, type, subject, entity_type, entity_id, correlation_id, causation_id, \
     time, time_source, received_at, data, data_base64, extensions, log_partition, log_offset";
const ENTITIES: &str = "tenant, entity_type, external_id, display_name, state, version, last_event_id, last_event_at, deleted_at";
/// Bytes per message to the server.
const MESSAGE: usize = 64 << 10;

/// Rows of both tables in the form of `COPY … (FORMAT binary)`.
pub struct Tables {
    events: Vec<u8>,
    entities: Vec<u8>,
}

/// The duration, and the processor time of the server process in microseconds.
#[derive(Clone, Copy)]
pub struct Took {
    pub seconds: f64,
    pub server: f64,
}

impl Tables {
    /// Reads all rows: events in table order, entities by key, which is the fastest order to copy them in.
    pub async fn read(connection: &mut PgConnection) -> Self {
        let events = format!("SELECT {EVENTS} FROM omnilink.events");
        let entities = format!(
            "SELECT {ENTITIES} FROM omnilink.entities ORDER BY tenant, entity_type, external_id"
        );
        Self {
            events: copy_out(connection, &events).await,
            entities: copy_out(connection, &entities).await,
        }
    }

    /// Total size of both tables, in bytes.
    pub fn bytes(&self) -> usize {
        self.events.len() + self.entities.len()
    }

    /// Empties the tables and copies the events, and the entities too if asked, in one transaction.
    pub async fn write(&self, store: &Store, entities: bool) -> Took {
        // The settings of the projector's connections.
        let mut connection = store.connect(Session::Projection).await.unwrap();
        empty(&mut connection).await;
        let backend: i32 = sqlx::query_scalar("SELECT pg_backend_pid()")
            .fetch_one(&mut connection)
            .await
            .unwrap();
        let before = machine::process_cpu(backend as u32);
        let start = Instant::now();
        run(&mut connection, "BEGIN").await;
        copy_in(&mut connection, &format!("events ({EVENTS})"), &self.events).await;
        if entities {
            let table = format!("entities ({ENTITIES})");
            copy_in(&mut connection, &table, &self.entities).await;
        }
        run(&mut connection, "COMMIT").await;
        Took {
            seconds: start.elapsed().as_secs_f64(),
            server: machine::process_cpu(backend as u32) - before,
        }
    }
}

/// Deletes all rows and positions.
pub async fn empty(connection: &mut PgConnection) {
    let tables = "TRUNCATE omnilink.events, omnilink.entities, omnilink.projection_offsets";
    run(connection, tables).await;
}

async fn run(connection: &mut PgConnection, sql: &'static str) {
    sqlx::raw_sql(sql).execute(connection).await.unwrap();
}

async fn copy_out(connection: &mut PgConnection, query: &str) -> Vec<u8> {
    let statement = format!("COPY ({query}) TO STDOUT (FORMAT binary)");
    let mut parts = connection.copy_out_raw(&statement).await.unwrap();
    let mut all = Vec::new();
    while let Some(part) = parts.try_next().await.unwrap() {
        all.extend_from_slice(&part);
    }
    all
}

async fn copy_in(connection: &mut PgConnection, table: &str, rows: &[u8]) {
    let statement = format!("COPY omnilink.{table} FROM STDIN (FORMAT binary)");
    let mut copy = connection.copy_in_raw(&statement).await.unwrap();
    for part in rows.chunks(MESSAGE) {
        copy.send(part).await.unwrap();
    }
    copy.finish().await.unwrap();
}
