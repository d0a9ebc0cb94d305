//! What all nodes share about identities, in Redis: one that another node has in flight, or has seen.
//!
//! `{prefix}idempotency:{identity}` holds a state (`f` in flight, `d` durable), the body's hash, and when it was
//! reserved. Without Redis each node goes by its own window, and admission still takes each event once.

use std::{sync::Arc, time::Duration};

use parking_lot::RwLock;
use redis::{Client, RedisError, aio::MultiplexedConnection};
use tokio::task::JoinHandle;

use super::idempotency::{AGAIN_AFTER, Verdict};
use crate::{
    clock::Millis, config::SecretUrl, envelope::BodyHash, id::Identity, telemetry::PartStatus,
};

/// An answer of Redis must be there within this time; else the request goes on without it.
const ANSWER: Duration = Duration::from_millis(250);
/// Connecting, and the pause before the next try.
const CONNECT: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(500);
/// A connection is looked at this often.
const LOOK: Duration = Duration::from_secs(1);

const IN_FLIGHT: u8 = b'f';
const DURABLE: u8 = b'd';

/// The other nodes, by way of Redis. Dropping it closes the connection.
pub struct Nodes {
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

struct Shared {
    client: Client,
    prefix: String,
    window: Duration,
    connection: RwLock<Option<MultiplexedConnection>>,
    /// Why there is none; never a URL.
    trouble: RwLock<String>,
}

impl Nodes {
    /// Connects in the background, and again whenever the connection is lost. The error says what is wrong with the URL.
    pub fn start(url: &SecretUrl, prefix: &str, window: Duration) -> Result<Self, RedisError> {
        let shared = Arc::new(Shared {
            client: Client::open(url.expose())?,
            prefix: format!("{prefix}idempotency:"),
            window,
            connection: RwLock::new(None),
            trouble: RwLock::new("not connected yet".into()),
        });
        let task = tokio::spawn(Arc::clone(&shared).keep_connected());
        Ok(Self { shared, task })
    }

    /// For `/readyz`.
    pub fn probe(&self) -> impl Fn() -> PartStatus + Send + Sync + 'static {
        let shared = Arc::clone(&self.shared);
        move || match &*shared.connection.read() {
            Some(_) => PartStatus::ok(""),
            None => PartStatus::degraded(format!(
                "each node goes by its own window: {}",
                shared.trouble.read()
            )),
        }
    }

    /// Judges identities that are new on this node, in order, and reserves those that are new everywhere.
    pub(super) async fn reserve(&self, ids: &[(Identity, BodyHash)], now: Millis) -> Vec<Verdict> {
        let mut pipe = redis::pipe();
        for (id, body) in ids {
            pipe.cmd("SET")
                .arg(self.shared.key(id))
                .arg(&value(IN_FLIGHT, body, now)[..])
                .arg("NX")
                .arg("GET")
                .arg("PX")
                .arg(self.shared.window_ms());
        }
        let found = self.shared.ask::<Vec<Option<Vec<u8>>>>(&pipe).await;
        let Some(found) = found.filter(|found| found.len() == ids.len()) else {
            return vec![Verdict::New; ids.len()];
        };
        // One that was in flight for too long is ours now; it stays marked so until it is durable.
        ids.iter()
            .zip(found)
            .map(|((_, body), found)| found.map_or(Verdict::New, |found| judge(&found, body, now)))
            .collect()
    }

    /// These are durable: tells the other nodes, in the background.
    pub(super) fn confirm(&self, ids: Vec<(Identity, BodyHash)>, now: Millis) {
        let shared = Arc::clone(&self.shared);
        tokio::spawn(async move {
            let mut pipe = redis::pipe();
            for (id, body) in &ids {
                pipe.cmd("SET")
                    .arg(shared.key(id))
                    .arg(&value(DURABLE, body, now)[..])
                    .arg("PX")
                    .arg(shared.window_ms())
                    .ignore();
            }
            // Without the answer it stays in flight there, and is appended again: admission takes it once.
            let _: Option<()> = shared.ask(&pipe).await;
        });
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Shared {
    fn key(&self, id: &Identity) -> String {
        format!("{}{id}", self.prefix)
    }

    fn window_ms(&self) -> u64 {
        self.window.as_millis() as u64
    }

    async fn ask<T: redis::FromRedisValue>(&self, pipe: &redis::Pipeline) -> Option<T> {
        let mut connection = self.connection.read().clone()?;
        match tokio::time::timeout(ANSWER, pipe.query_async(&mut connection)).await {
            Ok(Ok(found)) => Some(found),
            Ok(Err(error)) => {
                self.lost(error.category());
                None
            }
            Err(_) => {
                self.lost("no answer in time");
                None
            }
        }
    }

    fn lost(&self, why: &str) {
        if self.connection.write().take().is_some() {
            tracing::warn!(why, "redis is left out until it answers again");
        }
        why.clone_into(&mut self.trouble.write());
    }

    async fn keep_connected(self: Arc<Self>) {
        loop {
            let connected = self.connection.read().clone();
            let Some(mut connection) = connected else {
                let connect = self.client.get_multiplexed_async_connection();
                match tokio::time::timeout(CONNECT, connect).await {
                    Ok(Ok(connection)) => {
                        *self.connection.write() = Some(connection);
                        tracing::info!("redis is connected");
                    }
                    Ok(Err(error)) => error.category().clone_into(&mut self.trouble.write()),
                    Err(_) => "no connection in time".clone_into(&mut self.trouble.write()),
                }
                tokio::time::sleep(PAUSE).await;
                continue;
            };
            tokio::time::sleep(LOOK).await;
            let ping = redis::cmd("PING");
            match tokio::time::timeout(CONNECT, ping.query_async::<()>(&mut connection)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => self.lost(error.category()),
                Err(_) => self.lost("no answer in time"),
            }
        }
    }
}

fn value(state: u8, body: &BodyHash, now: Millis) -> [u8; 25] {
    let mut value = [0; 25];
    value[0] = state;
    value[1..17].copy_from_slice(&body.stored());
    value[17..].copy_from_slice(&now.0.to_be_bytes());
    value
}

/// What is there already. What cannot be read is of a later version: this node goes by its own window.
fn judge(found: &[u8], body: &BodyHash, now: Millis) -> Verdict {
    let Some((state, rest)) = found.split_first() else {
        return Verdict::New;
    };
    let (Some((seen, since)), Some(_)) = (rest.split_first_chunk::<16>(), rest.get(..24)) else {
        return Verdict::New;
    };
    let since = since
        .first_chunk()
        .map_or(0, |bytes| i64::from_be_bytes(*bytes));
    match *state {
        _ if !body.matches(seen) => Verdict::Mismatch,
        DURABLE => Verdict::Duplicate,
        IN_FLIGHT if now.0 - since < AGAIN_AFTER.as_millis() as i64 => Verdict::InFlight,
        _ => Verdict::New,
    }
}
