//! A private Postgres in the data directory, from the machine's own binaries: the default when `postgres.url` is empty.
//!
//! - [`binaries`] finds the programs, [`cluster`] makes the files once, [`server`] runs the process.
//! - It listens on a Unix socket in its folder and on loopback, with a password of its own (mode 0600).
//! - It ends with us: a shell between us and it holds the other end of a pipe, and stops it when the pipe closes, however we
//!   end. A server that is left over all the same is stopped by the next start, which alone holds the lock of the folder.
//! - A server that dies while we live is started again.

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

/// How long a server may take to answer after it was started: it may have to redo the log after a crash.
const READY: Duration = Duration::from_mins(1);
/// How long a server may take to stop in good order.
const STOP: Duration = Duration::from_secs(10);
const DATABASE: &str = "omnilink";
const SUPERUSER: &str = "omnilink";

/// Why there is no embedded Postgres.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EmbeddedError {
    /// No programs: the caller goes on without projections.
    #[error(
        "no Postgres is installed here (looked in PATH, /usr/lib/postgresql and the like); `apt install postgresql`, or set postgres.url, \
         to have events as rows"
    )]
    NoBinaries,
    /// The files were made by another major version.
    #[error("the data in {} were made by Postgres {made}, which is not installed any more: install it, or delete the folder \
             (all of it is made anew from the log)", .path.display())]
    OtherVersion {
        /// The folder.
        path: PathBuf,
        /// The version that made it.
        made: String,
    },
    /// Postgres refuses to run as root.
    #[error(
        "Postgres does not run as root, and there is no user `postgres` on this machine: make one, or set postgres.url"
    )]
    NoUser,
    /// Another process of ours uses it.
    #[error("{} is in use by another OmniLink", .0.display())]
    InUse(PathBuf),
    /// The user `postgres` cannot enter the folder.
    #[error("the user `postgres` cannot enter {}: give it execute permission on all folders above, or move it", .0.display())]
    OutOfReach(PathBuf),
    /// A program failed; its last words.
    #[error("{program} failed: {words}")]
    Failed {
        /// Which.
        program: &'static str,
        /// The end of what it printed.
        words: String,
    },
    /// A file or process operation.
    #[error("{what}: {cause}")]
    Io {
        /// What was tried.
        what: String,
        /// Why not.
        cause: io::Error,
    },
    /// It runs and does not let us in.
    #[error("the embedded Postgres: {0}")]
    Sql(#[from] super::store::StoreError),
}

/// Adds to an I/O error what was tried.
fn io_error(what: impl Into<String>) -> impl FnOnce(io::Error) -> EmbeddedError {
    let what = what.into();
    move |cause| EmbeddedError::Io { what, cause }
}

/// A running private server. Dropping it stops the server without waiting; [`Embedded::stop`] waits.
#[derive(Debug)]
pub struct Embedded {
    cluster: Arc<Cluster>,
    /// `None` once it is to stop: who watches the server then does not start it again.
    lifeline: Arc<Mutex<Option<Lifeline>>>,
    /// In a lock, so that a reference to the server can cross threads.
    ended: Mutex<mpsc::Receiver<()>>,
}

/// The version of the binaries that [`Embedded::start`] would use, if there are any.
pub fn available() -> Option<u32> {
    Binaries::find_all().first().map(|binaries| binaries.major)
}

impl Embedded {
    /// Starts the server of `data_dir`, making it first where there is none. Blocks for up to a minute after a crash, for
    /// a second at first use, else for a moment.
    pub async fn start(data_dir: &Path) -> Result<Self, EmbeddedError> {
        let data_dir = data_dir.to_owned();
        let started = tokio::task::spawn_blocking(move || Self::start_blocking(&data_dir))
            .await
            .map_err(|e| io_error("starting Postgres")(io::Error::other(e)))??;
        started.make_database().await?;
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
        let (tell, ended) = mpsc::channel();
        let started = Self {
            cluster: Arc::clone(&cluster),
            lifeline: Arc::clone(&lifeline),
            ended: Mutex::new(ended),
        };
        thread::Builder::new()
            .name("postgres".to_owned())
            .spawn(move || {
                watch(&cluster, &lifeline, child);
                // Nobody may be waiting any more.
                let _ = tell.send(());
            })
            .map_err(io_error("starting a thread"))?;
        Ok(started)
    }

    /// How OmniLink connects: by the Unix socket.
    pub fn options(&self) -> PgConnectOptions {
        self.options_of(DATABASE)
    }

    /// A handle to it.
    pub fn store(&self) -> Store {
        Store::with(self.options())
    }

    /// The URL for people and other programs on this machine, password included: by loopback.
    pub fn url(&self) -> String {
        let (password, port) = (&self.cluster.password, self.cluster.port);
        format!("postgres://{SUPERUSER}:{password}@127.0.0.1:{port}/{DATABASE}")
    }

    /// Where its files lie.
    pub fn home(&self) -> &Path {
        &self.cluster.home
    }

    /// Stops it in good order; after [`STOP`] by force. Blocks.
    pub fn stop(self) {
        self.lifeline.lock().take();
        if self.ended.lock().recv_timeout(STOP).is_err() {
            tracing::warn!("the embedded Postgres did not stop in time: killed");
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

    async fn make_database(&self) -> Result<(), EmbeddedError> {
        let making = async {
            let mut connection = PgConnection::connect_with(&self.options_of("postgres")).await?;
            let there = sqlx::query_scalar::<_, bool>(
                "SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)",
            )
            .bind(DATABASE)
            .fetch_one(&mut connection)
            .await?;
            if !there {
                sqlx::raw_sql("CREATE DATABASE omnilink")
                    .execute(&mut connection)
                    .await?;
            }
            connection.close().await
        };
        tokio::time::timeout(READY, making)
            .await
            .map_err(|_| super::store::StoreError::Deadline("making the database"))?
            .map_err(super::store::StoreError::from)?;
        Ok(())
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        self.lifeline.lock().take();
    }
}

/// Waits for the server's end and starts it again unless it was to end.
fn watch(cluster: &Cluster, lifeline: &Mutex<Option<Lifeline>>, mut child: Child) {
    let mut pause = Duration::from_millis(100);
    loop {
        let began = std::time::Instant::now();
        let status = child.wait();
        if lifeline.lock().is_none() {
            return;
        }
        tracing::warn!(status = ?status, "the embedded Postgres ended; starting it again");
        if began.elapsed() > READY {
            pause = Duration::from_millis(100);
        }
        loop {
            match server::start(cluster) {
                Ok((started, line)) => {
                    let mut lifeline = lifeline.lock();
                    if lifeline.is_none() {
                        drop(line);
                        let mut started = started;
                        let _ = started.wait();
                        return;
                    }
                    *lifeline = Some(line);
                    child = started;
                    break;
                }
                Err(error) => {
                    tracing::error!(%error, "the embedded Postgres does not start");
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
