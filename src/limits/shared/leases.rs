//! Leases in Redis for the requests in flight of this node: renewed while the requests last, and released at their end. The leases of a
//! node that died expire.

use std::{
    collections::HashMap,
    fmt::Write,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    time::{Instant, MissedTickBehavior, interval},
};

use crate::redis_connection::RedisConnection;

const RENEW: &str = include_str!("renew.lua");

/// The time limit for answers of Redis that no request waits for.
const ANSWER: Duration = Duration::from_millis(500);
/// How often failed releases are retried; they are dropped when they have expired.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);
/// The maximum number of leases released together.
const BATCH: usize = 1_000;

pub(in crate::limits) struct Leases {
    prefix: String,
    node: String,
    lapse: Duration,
    next: AtomicU64,
    /// The requests in flight, with their keys.
    live: Mutex<HashMap<u64, String>>,
    ended: UnboundedSender<Ended>,
    /// Set until the task is started.
    ends: Mutex<Option<UnboundedReceiver<Ended>>>,
}

struct Ended {
    key: String,
    lease: u64,
    at: Instant,
}

impl Leases {
    pub(super) fn new(prefix: &str, node: &str, lapse: Duration) -> Self {
        let (ended, ends) = unbounded_channel();
        Self {
            prefix: prefix.to_owned(),
            node: node.to_owned(),
            lapse,
            next: AtomicU64::new(0),
            live: Mutex::default(),
            ended,
            ends: Mutex::new(Some(ends)),
        }
    }

    /// Starts renewing and releasing, until these leases are dropped.
    pub(super) fn start(self: &Arc<Self>, redis: RedisConnection) {
        if let Some(ends) = self.ends.lock().take() {
            tokio::spawn(keep(Arc::downgrade(self), self.lapse, redis, ends));
        }
    }

    pub(in crate::limits) fn lapse(&self) -> Duration {
        self.lapse
    }

    pub(super) fn name(&self, lease: u64) -> String {
        format!("{}:{lease}", self.node)
    }

    pub(in crate::limits) fn next(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// A request is in flight; its lease is renewed from now on.
    pub(in crate::limits) fn begin(&self, lease: u64, key: &str) {
        self.live.lock().insert(lease, key.to_owned());
    }

    /// The request has ended, or Redis may have created a lease that nobody holds.
    pub(in crate::limits) fn end(&self, lease: u64, key: &str) {
        self.live.lock().remove(&lease);
        // Without the task there is no runtime any more, and the lease expires.
        let _ = self.ended.send(Ended {
            key: key.to_owned(),
            lease,
            at: Instant::now(),
        });
    }

    /// The commands that renew all leases; `None` if there are none.
    pub(super) fn renewals(&self) -> Option<redis::Pipeline> {
        let live = self.live.lock();
        if live.is_empty() {
            return None;
        }
        let mut by_key: HashMap<&str, Vec<u64>> = HashMap::new();
        for (lease, key) in &*live {
            by_key.entry(key).or_default().push(*lease);
        }
        let mut pipe = redis::pipe();
        for (key, leases) in by_key {
            let command = pipe.cmd("EVAL").arg(RENEW).arg(1);
            command
                .arg(self.key(key))
                .arg(self.lapse.as_micros() as u64);
            for lease in leases {
                command.arg(self.name(lease));
            }
            command.ignore();
        }
        Some(pipe)
    }

    fn key(&self, key: &str) -> String {
        let mut whole = String::with_capacity(self.prefix.len() + key.len());
        // Writing to a `String` cannot fail.
        let _ = write!(whole, "{}{key}", self.prefix);
        whole
    }
}

async fn keep(
    leases: std::sync::Weak<Leases>,
    lapse: Duration,
    redis: RedisConnection,
    mut ends: UnboundedReceiver<Ended>,
) {
    let mut retry = interval(RETRY_INTERVAL);
    let mut renew = interval(lapse / 3);
    retry.set_missed_tick_behavior(MissedTickBehavior::Delay);
    renew.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut waiting: Vec<Ended> = Vec::new();
    loop {
        let mut renews = false;
        tokio::select! {
            ended = ends.recv() => {
                let Some(ended) = ended else { return };
                waiting.push(ended);
                while let Ok(ended) = ends.try_recv() {
                    waiting.push(ended);
                }
            }
            _ = retry.tick() => waiting.retain(|ended| ended.at.elapsed() < lapse),
            _ = renew.tick() => renews = true,
        }
        let Some(leases) = leases.upgrade() else {
            return;
        };
        if renews && let Some(renewals) = leases.renewals() {
            let _: Option<()> = redis.pipeline(&renewals, Instant::now() + ANSWER).await;
        }
        while !waiting.is_empty() && redis.is_open() {
            let mut pipe = redis::pipe();
            let from = waiting.len().saturating_sub(BATCH);
            for ended in &waiting[from..] {
                pipe.cmd("ZREM")
                    .arg(leases.key(&ended.key))
                    .arg(leases.name(ended.lease))
                    .ignore();
            }
            let done: Option<()> = redis.pipeline(&pipe, Instant::now() + ANSWER).await;
            if done.is_some() {
                waiting.truncate(from);
            }
        }
    }
}
