//! One connection to Redis, shared by all who ask over it: commands of many tasks go out in batches, and answers come back in order.
//!
//! A failure or an answer that is late takes the connection out of use at once, so that nobody else waits for it; it is made
//! anew in the background, with pauses that double. What must be there before the connection is used, and what is to be looked
//! at while it is, is a [`Check`].

use std::{future::Future, sync::Arc, time::Duration};

use parking_lot::RwLock;
use redis::{
    Client, Cmd, ErrorKind, FromRedisValue, IntoConnectionInfo, RedisError, ServerErrorKind,
    io::tcp::TcpSettings,
};
use tokio::{sync::Notify, task::JoinHandle, time::Instant};

pub use redis::aio::MultiplexedConnection;

use crate::{base::backoff::Backoff, config::SecretUrl};

/// How long things may take.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// Connecting, and a [`Check`].
    pub connect: Duration,
    /// Pauses between two tries to connect.
    pub pause: Backoff,
    /// The connection is checked this often.
    pub check: Duration,
}

/// What is asked of a new connection before it is used, and again from time to time.
pub trait Check: Send + Sync + 'static {
    /// `new`: the connection was just made, perhaps to another server than the one before.
    fn check(
        &self,
        connection: &mut MultiplexedConnection,
        new: bool,
    ) -> impl Future<Output = Result<(), RedisError>> + Send;
}

/// Asks for nothing but an answer.
pub struct Ping;

impl Check for Ping {
    async fn check(
        &self,
        connection: &mut MultiplexedConnection,
        _: bool,
    ) -> Result<(), RedisError> {
        redis::cmd("PING").query_async(connection).await
    }
}

/// Why a command has no answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NoAnswer {
    /// There is no connection, or there is none any more.
    Down,
    /// The server does not know the script: `EVAL` brings it along.
    NoScript,
}

/// The connection. Cheap to clone.
#[derive(Clone)]
pub struct RedisConnection(Arc<Inner>);

/// Keeps a connection open until it is dropped.
pub struct KeptOpen(JoinHandle<()>);

impl Drop for KeptOpen {
    fn drop(&mut self) {
        self.0.abort();
    }
}

struct Inner {
    client: Client,
    timing: Timing,
    /// With its number: what goes wrong on one connection says nothing of the next.
    open: RwLock<Option<(u64, MultiplexedConnection)>>,
    /// Why it is not; never a URL.
    trouble: RwLock<String>,
    lost: Notify,
}

impl RedisConnection {
    /// Connects in the background, and again whenever the connection is lost. The error says what is wrong with the URL.
    pub fn open(
        url: &SecretUrl,
        timing: Timing,
        check: impl Check,
    ) -> Result<(Self, KeptOpen), RedisError> {
        // Commands are small, and many are on their way at once: none waits for another's acknowledgement.
        let tcp = TcpSettings::default().set_nodelay(true);
        let info = url.expose().into_connection_info()?.set_tcp_settings(tcp);
        let inner = Arc::new(Inner {
            client: Client::open(info)?,
            timing,
            open: RwLock::new(None),
            trouble: RwLock::new("not connected yet".into()),
            lost: Notify::new(),
        });
        let task = tokio::spawn(Arc::clone(&inner).keep_open(check));
        Ok((Self(inner), KeptOpen(task)))
    }

    /// Whether there is a connection.
    pub fn is_open(&self) -> bool {
        self.0.open.read().is_some()
    }

    /// Why there is no connection; `None`: there is one.
    pub fn trouble(&self) -> Option<String> {
        (!self.is_open()).then(|| self.0.trouble.read().clone())
    }

    /// Sends commands together. `None`: there was no answer until then, or no good one; the connection is lost.
    pub async fn pipeline<T: FromRedisValue>(
        &self,
        commands: &redis::Pipeline,
        until: Instant,
    ) -> Option<T> {
        let (number, mut connection) = self.0.open.read().clone()?;
        let answer = tokio::time::timeout_at(until, commands.query_async(&mut connection));
        self.0.judge(number, answer.await).ok()
    }

    /// Sends one command.
    pub async fn command<T: FromRedisValue>(
        &self,
        command: &Cmd,
        until: Instant,
    ) -> Result<T, NoAnswer> {
        let connection = self.0.open.read().clone();
        let (number, mut connection) = connection.ok_or(NoAnswer::Down)?;
        let answer = tokio::time::timeout_at(until, command.query_async(&mut connection));
        self.0.judge(number, answer.await)
    }
}

impl Inner {
    fn judge<T>(
        &self,
        number: u64,
        answer: Result<Result<T, RedisError>, tokio::time::error::Elapsed>,
    ) -> Result<T, NoAnswer> {
        match answer {
            Ok(Ok(found)) => return Ok(found),
            Ok(Err(error)) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
                return Err(NoAnswer::NoScript);
            }
            Ok(Err(error)) => self.lose(number, error.category()),
            Err(_) => self.lose(number, "no answer in time"),
        }
        Err(NoAnswer::Down)
    }

    fn lose(&self, number: u64, why: &str) {
        let mut open = self.open.write();
        if open.take_if(|(open, _)| *open == number).is_some() {
            why.clone_into(&mut self.trouble.write());
            self.lost.notify_one();
            drop(open);
            tracing::warn!(why, "redis is left out until it answers again");
        }
    }

    async fn keep_open(self: Arc<Self>, check: impl Check) {
        let mut attempt = 0;
        let mut connections = 0;
        loop {
            let open = self.open.read().clone();
            let Some((number, mut connection)) = open else {
                match tokio::time::timeout(self.timing.connect, self.connect(&check)).await {
                    Ok(Ok(connection)) => {
                        attempt = 0;
                        connections += 1;
                        *self.open.write() = Some((connections, connection));
                        tracing::info!("redis is connected");
                        continue;
                    }
                    Ok(Err(error)) => error.category().clone_into(&mut self.trouble.write()),
                    Err(_) => "no connection in time".clone_into(&mut self.trouble.write()),
                }
                tokio::time::sleep(self.timing.pause.pause(attempt)).await;
                attempt = attempt.saturating_add(1);
                continue;
            };
            let early = tokio::time::timeout(self.timing.check, self.lost.notified());
            if early.await.is_ok() {
                // A server that was just lost is rarely back at once.
                drop(connection);
                tokio::time::sleep(self.timing.pause.pause(attempt)).await;
                continue;
            }
            let asked = check.check(&mut connection, false);
            match tokio::time::timeout(self.timing.connect, asked).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => self.lose(number, error.category()),
                Err(_) => self.lose(number, "no answer in time"),
            }
        }
    }

    async fn connect(&self, check: &impl Check) -> Result<MultiplexedConnection, RedisError> {
        let mut connection = self.client.get_multiplexed_async_connection().await?;
        check.check(&mut connection, true).await?;
        Ok(connection)
    }
}
