//! A private Postgres server in the data directory, run from the installed binaries: the default if `postgres.url` is empty.
//!
//! - [`binaries`] finds the installed programs, [`cluster`] creates the data files once, [`server`] runs the process.
//! - The server listens on a Unix socket in its directory and on loopback, with a generated password (file mode 0600).
//! - The server never outlives OmniLink: a supervising shell holds the other end of a pipe, and stops the server when the pipe
//!   closes, whatever ends OmniLink. If a server is left over nevertheless, the next start stops it, after taking the lock of the
//!   directory.
//! - A server that dies while OmniLink runs is restarted.

mod binaries;
mod cluster;
mod leftover;
mod server;

use std::{
    io,
    path::{Path, PathBuf},
    process::Child,
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};

use parking_lot::Mutex;
use sqlx::{Connection, PgConnection, postgres::PgConnectOptions};

use self::{binaries::Binaries, cluster::Cluster, server::Lifeline};
use super::store::Store;

/// The time limit for a started server to accept connections: after a crash it first replays its write-ahead log.
const READY_TIMEOUT: Duration = Duration::from_mins(1);
/// The time limit for an orderly shutdown.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);
const DATABASE: &str = "omnilink";
const SUPERUSER: &str = "omnilink";

/// Why the embedded Postgres cannot be started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EmbeddedError {
    /// Postgres is not installed. The caller continues without projections.
    #[error(
        "no Postgres is installed here (looked in PATH, /usr/lib/postgresql and the like); `apt install postgresql`, or set postgres.url, \
         to have events as rows"
    )]
    NoBinaries,
    /// The data files belong to a major version that is not installed.
    #[error("the data in {} was created by Postgres {version}, which is no longer installed: install it, or delete the directory \
             (everything in it is rebuilt from the log)", .path.display())]
    OtherVersion {
        /// The directory.
        path: PathBuf,
        /// The major version that created it.
        version: String,
    },
    /// OmniLink runs as root, which Postgres refuses, and there is no other user to run the server as.
    #[error(
        "Postgres does not run as root, and there is no user `postgres` on this machine: create one, or set postgres.url"
    )]
    NoUser,
    /// Another OmniLink process holds the lock of the directory.
    #[error("{} is in use by another OmniLink process", .0.display())]
    InUse(PathBuf),
    /// The user `postgres` cannot enter the directory.
    #[error("the user `postgres` cannot enter {}: give it execute permission on all parent directories, or move the directory", .0.display())]
    Inaccessible(PathBuf),
    /// A program of Postgres failed.
    #[error("{program} failed: {output}")]
    Failed {
        /// The program, such as `initdb`.
        program: &'static str,
        /// The last lines of its output.
        output: String,
    },
    /// A file or process operation failed.
    #[error("{action}: {cause}")]
    Io {
        /// What was attempted.
        action: String,
        /// Why it failed.
        cause: io::Error,
    },
    /// The server runs, and connecting or creating the database failed.
    #[error("the embedded Postgres: {0}")]
    Sql(#[from] super::store::StoreError),
}

/// Adds to an I/O error what was attempted.
fn io_error(action: impl Into<String>) -> impl FnOnce(io::Error) -> EmbeddedError {
    let action = action.into();
    move |cause| EmbeddedError::Io { action, cause }
}

/// A running private server. Dropping it stops the server without waiting; [`Embedded::stop`] waits.
#[derive(Debug)]
pub struct Embedded {
    cluster: Arc<Cluster>,
    /// `None` once the server is stopping: the supervisor then does not restart it.
    lifeline: Arc<Mutex<Option<Lifeline>>>,
    /// Receives a message when the supervisor ends. The mutex makes this type `Sync`.
    stopped: Mutex<mpsc::Receiver<()>>,
}

/// The major version that [`Embedded::start`] would use; `None` if no Postgres is installed.
pub fn available() -> Option<u32> {
    Binaries::find_all().first().map(|binaries| binaries.major)
}

impl Embedded {
    /// Starts the server of `data_dir`, and creates its files on first use. Returns when the server accepts connections: usually within
    /// a second, up to a minute after a crash.
    pub async fn start(data_dir: &Path) -> Result<Self, EmbeddedError> {
        let data_dir = data_dir.to_owned();
        let started = tokio::task::spawn_blocking(move || Self::start_blocking(&data_dir))
            .await
            .map_err(|e| io_error("starting Postgres")(io::Error::other(e)))??;
        started.create_database().await?;
        Ok(started)
    }

    fn start_blocking(data_dir: &Path) -> Result<Self, EmbeddedError> {
        let found = Binaries::find_all();
        if found.is_empty() {
            return Err(EmbeddedError::NoBinaries);
        }
        let cluster = Arc::new(Cluster::open(data_dir, &found)?);
        let (child, lifeline) = server::start(&cluster)?;
        let lifeline = Arc::new(Mutex::new(Some(lifeline)));
        let (sender, stopped) = mpsc::channel();
        let started = Self {
            cluster: Arc::clone(&cluster),
            lifeline: Arc::clone(&lifeline),
            stopped: Mutex::new(stopped),
        };
        thread::Builder::new()
            .name("postgres".to_owned())
            .spawn(move || {
                supervise(&cluster, &lifeline, child);
                // The receiver is gone if nobody waits.
                let _ = sender.send(());
            })
            .map_err(io_error("starting a thread"))?;
        Ok(started)
    }

    /// The options for OmniLink's own connections: over the Unix socket where possible.
    pub fn options(&self) -> PgConnectOptions {
        self.options_of(DATABASE)
    }

    /// A store that connects with [`Self::options`].
    pub fn store(&self) -> Store {
        Store::with_options(self.options())
    }

    /// The URL for other programs on this machine, over loopback. It contains the password.
    pub fn url(&self) -> String {
        let (password, port) = (&self.cluster.password, self.cluster.port);
        format!("postgres://{SUPERUSER}:{password}@127.0.0.1:{port}/{DATABASE}")
    }

    /// The directory of its files.
    pub fn home(&self) -> &Path {
        &self.cluster.home
    }

    /// Shuts the server down, and kills it if that takes longer than [`STOP_TIMEOUT`]. Blocks.
    pub fn stop(self) {
        self.lifeline.lock().take();
        if self.stopped.lock().recv_timeout(STOP_TIMEOUT).is_err() {
            tracing::warn!("the embedded Postgres did not stop in time and is killed");
            leftover::end_leftover(&self.cluster.data(), Duration::ZERO);
        }
    }

    fn options_of(&self, database: &str) -> PgConnectOptions {
        let options = PgConnectOptions::new_without_pgpass()
            .host("127.0.0.1")
            .port(self.cluster.port)
            .username(SUPERUSER)
            .password(&self.cluster.password)
            .database(database);
        match &self.cluster.socket_dir {
            Some(dir) => options.socket(dir),
            None => options,
        }
    }

    async fn create_database(&self) -> Result<(), EmbeddedError> {
        let creating = async {
            let mut connection = PgConnection::connect_with(&self.options_of("postgres")).await?;
            let exists = sqlx::query_scalar::<_, bool>(
                "SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)",
            )
            .bind(DATABASE)
            .fetch_one(&mut connection)
            .await?;
            if !exists {
                sqlx::raw_sql("CREATE DATABASE omnilink")
                    .execute(&mut connection)
                    .await?;
            }
            connection.close().await
        };
        tokio::time::timeout(READY_TIMEOUT, creating)
            .await
            .map_err(|_| super::store::StoreError::Timeout("creating the database"))?
            .map_err(super::store::StoreError::from)?;
        Ok(())
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        self.lifeline.lock().take();
    }
}

/// Restarts the server whenever it ends, until the lifeline is taken.
fn supervise(cluster: &Cluster, lifeline: &Mutex<Option<Lifeline>>, mut child: Child) {
    let mut pause = Duration::from_millis(100);
    loop {
        let started_at = std::time::Instant::now();
        let status = child.wait();
        if lifeline.lock().is_none() {
            return;
        }
        tracing::warn!(status = ?status, "the embedded Postgres ended; restarting it");
        if started_at.elapsed() > READY_TIMEOUT {
            pause = Duration::from_millis(100);
        }
        loop {
            match server::start(cluster) {
                Ok((mut restarted, new_lifeline)) => {
                    let mut lifeline = lifeline.lock();
                    if lifeline.is_none() {
                        drop(new_lifeline);
                        let _ = restarted.wait();
                        return;
                    }
                    *lifeline = Some(new_lifeline);
                    child = restarted;
                    break;
                }
                Err(error) => {
                    tracing::error!(%error, "the embedded Postgres cannot be restarted; retrying");
                    thread::sleep(pause);
                    pause = (pause * 2).min(Duration::from_secs(5));
                    if lifeline.lock().is_none() {
                        return;
                    }
                }
            }
        }
    }
}
