//! The windows and requests in flight of all nodes, in Redis: one script decides a group, by Redis's clock.
//!
//! Each node reports once a second that it is alive, and learns how many nodes are and whether the server lost its data, which shows in
//! its run id and in a marker that is lost together with the data.

mod leases;
#[cfg(test)]
mod tests;

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use parking_lot::{Mutex, RwLock};
use redis::{Cmd, RedisError};
use tokio::time::Instant;

use self::leases::Leases;
use super::ask::{Group, Room, Run, Verdict};
use crate::{
    base::backoff::Backoff,
    config::SecretUrl,
    redis_connection::{Check, KeptOpen, MultiplexedConnection, NoAnswer, RedisConnection, Timing},
};

const TAKE: &str = include_str!("take.lua");
const HEARTBEAT: &str = include_str!("heartbeat.lua");

/// The interval of a node's heartbeats.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(1);
/// A node without a heartbeat for this long counts as gone.
const NODE_TIMEOUT: Duration = Duration::from_secs(5);
const PAUSE: Backoff = Backoff {
    first: Duration::from_millis(50),
    max: Duration::from_secs(2),
};

/// The state that the nodes share.
pub(super) struct Shared {
    redis: RedisConnection,
    _open: KeptOpen,
    prefix: String,
    report: Arc<LastReport>,
    leases: Arc<Leases>,
}

/// The state of Redis.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Backend {
    Down,
    Up {
        /// If it lost its data: since when it has kept what it was given.
        lost: Option<Instant>,
    },
}

/// The last report of Redis.
struct LastReport {
    nodes: AtomicU32,
    lost: RwLock<Option<Instant>>,
    /// The run id of the server; empty before the first answer.
    run: Mutex<String>,
    /// The hash of [`TAKE`].
    script: OnceLock<String>,
}

/// One decision, with its time by Redis's clock in microseconds.
#[derive(Debug)]
struct ScriptAnswer {
    #[cfg_attr(not(test), expect(dead_code, reason = "tests compare it with a model"))]
    at: i64,
    verdict: Verdict,
}

impl Shared {
    /// Connects in the background. `lapse` is how long a request of a node that died still counts as in flight.
    pub(super) fn open(url: &SecretUrl, prefix: &str, lapse: Duration) -> Result<Self, RedisError> {
        let prefix = format!("{prefix}limits:");
        let node = format!("{:016x}", rand::random::<u64>());
        let report = Arc::new(LastReport {
            nodes: AtomicU32::new(1),
            lost: RwLock::new(None),
            run: Mutex::default(),
            script: OnceLock::new(),
        });
        let leases = Arc::new(Leases::new(&prefix, &node, lapse));
        let timing = Timing {
            connect: HEARTBEAT_INTERVAL,
            pause: PAUSE,
            check: HEARTBEAT_INTERVAL,
        };
        let heartbeat = Heartbeat {
            prefix: prefix.clone(),
            node,
            report: Arc::clone(&report),
            leases: Arc::clone(&leases),
        };
        let (redis, open) = RedisConnection::open(url, timing, heartbeat)?;
        leases.start(redis.clone());
        Ok(Self {
            redis,
            _open: open,
            prefix,
            report,
            leases,
        })
    }

    pub(super) fn backend(&self) -> Backend {
        if self.redis.is_open() {
            let lost = *self.report.lost.read();
            Backend::Up { lost }
        } else {
            Backend::Down
        }
    }

    /// Why Redis is not used; `None` if it is.
    pub(super) fn trouble(&self) -> Option<String> {
        self.redis.trouble()
    }

    /// The number of live nodes in Redis's last report, including this one.
    pub(super) fn nodes(&self) -> u32 {
        self.report.nodes.load(Ordering::Relaxed)
    }

    pub(super) fn leases(&self) -> &Arc<Leases> {
        &self.leases
    }

    /// Takes what a group asks for, or what is available. `binds` are the windows that may refuse; the others only count. `owed` is what
    /// was admitted without Redis. `None` if Redis is down, which may or may not have recorded it.
    pub(super) async fn take(
        &self,
        group: &Group,
        runs: &[Run],
        binds: &[bool],
        owed: &[u32],
        lease: u64,
        until: Instant,
    ) -> Option<Verdict> {
        let decided = self.decide(group, runs, binds, owed, lease, until).await?;
        Some(decided.verdict)
    }

    async fn decide(
        &self,
        group: &Group,
        runs: &[Run],
        binds: &[bool],
        owed: &[u32],
        lease: u64,
        until: Instant,
    ) -> Option<ScriptAnswer> {
        let command = |mut command: Cmd| {
            self.arguments(&mut command, group, runs, binds, owed, lease);
            command
        };
        let mut answer: Result<Vec<i64>, _> = Err(NoAnswer::NoScript);
        if let Some(script) = self.report.script.get() {
            let mut cmd = redis::cmd("EVALSHA");
            cmd.arg(script);
            answer = self.redis.command(&command(cmd), until).await;
        }
        if answer == Err(NoAnswer::NoScript) {
            let mut cmd = redis::cmd("EVAL");
            cmd.arg(TAKE);
            answer = self.redis.command(&command(cmd), until).await;
        }
        read(&answer.ok()?, runs, group.windows.len())
    }

    fn arguments(
        &self,
        command: &mut Cmd,
        group: &Group,
        runs: &[Run],
        binds: &[bool],
        owed: &[u32],
        lease: u64,
    ) {
        let in_flight = group.in_flight.as_ref();
        command.arg(group.windows.len() + usize::from(in_flight.is_some()));
        let keys = group.windows.iter().map(|window| &window.key);
        for key in keys.chain(in_flight.map(|wanted| &wanted.key)) {
            command.arg(format!("{}{key}", self.prefix));
        }
        command
            .arg(group.windows.len())
            .arg(runs.len())
            .arg(in_flight.map_or(0, |wanted| wanted.limit))
            .arg(self.leases.lapse().as_micros() as u64)
            .arg(self.leases.name(lease));
        for ((window, binds), owed) in group.windows.iter().zip(binds).zip(owed) {
            command
                .arg(window.policy.limit)
                .arg(u64::from(window.policy.window_s) * 1_000_000)
                .arg(*owed)
                .arg(u8::from(*binds))
                .arg(window.of);
        }
        for run in runs {
            command.arg(run.of).arg(run.count);
        }
    }
}

/// Parses the answer of [`TAKE`]; `None` if it is of another version.
fn read(answer: &[i64], runs: &[Run], windows: usize) -> Option<ScriptAnswer> {
    let [at, taken, _held, rest @ ..] = answer else {
        return None;
    };
    let at = *at;
    if *taken == 0 {
        let verdict = Verdict::Busy;
        return Some(ScriptAnswer { at, verdict });
    }
    if rest.len() != runs.len() + 3 * windows {
        return None;
    }
    let (granted, rooms) = rest.split_at(runs.len());
    let ms = |us: i64| us.max(0).cast_unsigned().div_ceil(1000);
    let runs = runs.iter().zip(granted).map(|(run, count)| Run {
        of: run.of,
        count: *count as u32,
    });
    let rooms = rooms.chunks_exact(3).map(|room| Room {
        remaining: room[0] as u32,
        wait_ms: ms(room[1]),
        full_ms: ms(room[2]),
    });
    let verdict = Verdict::Granted {
        runs: runs.collect(),
        rooms: rooms.collect(),
    };
    Some(ScriptAnswer { at, verdict })
}

/// Reports that this node is alive, and reads the state.
struct Heartbeat {
    prefix: String,
    node: String,
    report: Arc<LastReport>,
    leases: Arc<Leases>,
}

impl Check for Heartbeat {
    async fn check(
        &self,
        connection: &mut MultiplexedConnection,
        new: bool,
    ) -> Result<(), RedisError> {
        let known = self.report.run.lock().clone();
        let mut run = known.clone();
        if new {
            let info: String = redis::cmd("INFO")
                .arg("server")
                .query_async(connection)
                .await?;
            let line = info.lines().find_map(|line| line.strip_prefix("run_id:"));
            line.unwrap_or("-").trim().clone_into(&mut run);
            let mut load = redis::cmd("SCRIPT");
            load.arg("LOAD").arg(TAKE);
            let hash: String = load.query_async(connection).await?;
            // The same script has the same hash on every server.
            let _ = self.report.script.set(hash);
            if let Some(renewals) = self.leases.renewals() {
                renewals.query_async::<()>(connection).await?;
            }
        }
        let mut beat = redis::cmd("EVAL");
        beat.arg(HEARTBEAT)
            .arg(2)
            // A tenant's name has no slash.
            .arg(format!("{}{{/nodes}}:live", self.prefix))
            .arg(format!("{}{{/nodes}}:marker", self.prefix))
            .arg(&self.node)
            .arg(NODE_TIMEOUT.as_micros() as u64)
            .arg(&run)
            .arg(&known);
        let (now, nodes, since, lost): (i64, u32, i64, u8) = beat.query_async(connection).await?;
        let age = Duration::from_micros((now - since).max(0).cast_unsigned());
        self.report.nodes.store(nodes.max(1), Ordering::Relaxed);
        // The time is before this machine started; no window reaches back that far.
        let at = Instant::now().checked_sub(age).filter(|_| lost != 0);
        *self.report.lost.write() = at;
        *self.report.run.lock() = run;
        Ok(())
    }
}
