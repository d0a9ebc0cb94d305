//! Postgres: connections, migrations, monthly partitions, tables that follow `controls`, the audit log, runs, tasks, and the binary `COPY` format.

pub mod audit;
mod copy;
pub mod emergency;
mod error;
pub mod exposure;
pub mod grants;
pub mod integrations;
pub mod keys;
mod migrate;
pub mod months;
mod nodelay;
pub mod runs;
pub mod sealed;
pub mod task_counts;
pub mod tasks;

use std::{
    str::FromStr,
    sync::{Arc, OnceLock},
    time::Duration,
};

pub use copy::{CopyRows, jsonb_text, storable_json, storable_text, surely_jsonb};
pub use error::{Class, StoreError};
pub use migrate::Migrated;
use sqlx::{
    Connection, PgConnection, PgPool,
    postgres::{PgConnectOptions, PgPoolOptions},
};

use crate::base::clock::Millis;

/// The role that owns all tables. Connections act as this role.
pub const SERVICE_ROLE: &str = "omnilink_service";
/// The role that is granted to readers' logins.
pub const READER_ROLE: &str = "omnilink_reader";

/// The size of the shared pool: small, because each connection costs the server a process.
const POOL_SIZE: u32 = 4;
/// The time limit for getting a connection.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);

/// A Postgres server, accessed with OmniLink's own login. Cheap to clone; connects on first use.
#[derive(Clone, Debug)]
pub struct Store {
    options: PgConnectOptions,
    /// Created on first use, and bound to the runtime of that call.
    pool: Arc<OnceLock<PgPool>>,
}

/// The role and settings of a dedicated connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Session {
    /// The login itself, with the server's own settings: for migrations.
    Login,
    /// The owner of the tables; statements time out after 30 s.
    Service,
    /// The owner of the tables, for a projection. Commits do not wait for the disk (`synchronous_commit = off`): after a crash of the
    /// server rows and offsets are lost together, and are projected again. A transaction that is idle for 5 s is ended, so that a
    /// stopped process cannot block the next owner of the partition.
    Projection,
    /// The owner of the tables, without a statement timeout: for a rebuild and for moving rows.
    Maintenance,
}

impl Session {
    fn setup(self) -> &'static str {
        // All settings in one round trip. The planner settings of a projection: its statements join a list of keys with a table by
        // the primary key, and must do so even if the statistics of a small table suggest that a sequential scan is cheaper.
        match self {
            Self::Login => "",
            // The role does not exist before the first migration.
            Self::Service => {
                "SELECT set_config('role', rolname, false) FROM pg_roles WHERE rolname = 'omnilink_service'; \
                 SET statement_timeout = '30s'"
            }
            Self::Projection => {
                "SET ROLE omnilink_service; SET statement_timeout = '60s'; SET lock_timeout = '15s'; \
                 SET synchronous_commit = off; SET idle_in_transaction_session_timeout = '5s'; \
                 SET tcp_keepalives_idle = 5; SET tcp_keepalives_interval = 2; SET tcp_keepalives_count = 3; \
                 SET plan_cache_mode = force_generic_plan; SET enable_seqscan = off; SET enable_hashjoin = off; \
                 SET enable_mergejoin = off; SET enable_bitmapscan = off; SET jit = off"
            }
            Self::Maintenance => "SET ROLE omnilink_service; SET lock_timeout = '2s'",
        }
    }
}

impl Store {
    /// A store for a URL such as `postgres://user:password@host:5432/omnilink`. Does not connect.
    pub fn new(url: &str) -> Result<Self, StoreError> {
        if !["postgres://", "postgresql://"]
            .iter()
            .any(|scheme| url.starts_with(scheme))
        {
            return Err(StoreError::Url("it must begin with postgres://".to_owned()));
        }
        let options =
            PgConnectOptions::from_str(url).map_err(|e| StoreError::Url(e.to_string()))?;
        Ok(Self::with_options(options))
    }

    /// A store for the given connection options. Does not connect.
    pub fn with_options(options: PgConnectOptions) -> Self {
        let options =
            sqlx::ConnectOptions::disable_statement_logging(options.application_name("omnilink"));
        Self {
            options,
            pool: Arc::default(),
        }
    }

    /// The shared connection pool, acting as the owner of the tables. Must be called within a Tokio runtime.
    pub fn pool(&self) -> &PgPool {
        self.pool.get_or_init(|| {
            PgPoolOptions::new()
                .max_connections(POOL_SIZE)
                .acquire_timeout(ACQUIRE_TIMEOUT)
                .idle_timeout(Duration::from_mins(1))
                .after_connect(|connection, _| {
                    Box::pin(async move {
                        sqlx::raw_sql(Session::Service.setup())
                            .execute(connection)
                            .await?;
                        Ok(())
                    })
                })
                .connect_lazy_with(self.options.clone())
        })
    }

    /// Opens a dedicated connection. Times out after 5 s.
    pub async fn connect(&self, session: Session) -> Result<PgConnection, StoreError> {
        let name = match session {
            Session::Projection => PROJECTION_APPLICATION,
            _ => "omnilink",
        };
        let options = self.options.clone().application_name(name);
        let connecting = async {
            let mut connection = PgConnection::connect_with(&options).await?;
            if options.get_socket().is_none() {
                let port = options.get_port();
                // On a blocking thread, because it reads /proc.
                let _ = tokio::task::spawn_blocking(move || nodelay::set(port)).await;
            }
            if !session.setup().is_empty() {
                sqlx::raw_sql(session.setup())
                    .execute(&mut connection)
                    .await?;
            }
            Ok(connection)
        };
        tokio::time::timeout(ACQUIRE_TIMEOUT, connecting)
            .await
            .map_err(|_| StoreError::Timeout("connecting"))?
    }

    /// Runs the missing migrations, and creates the partitions of this month and the next.
    pub async fn migrate(&self) -> Result<Migrated, StoreError> {
        migrate::run(self).await
    }

    /// The names of the migrations that have not been run.
    pub async fn pending(&self) -> Result<Vec<&'static str>, StoreError> {
        migrate::pending(self).await
    }

    /// Checks that Postgres answers within 2 s.
    pub async fn health(&self) -> Result<(), StoreError> {
        let check = async {
            // A pool without a connection would retry until its timeout, and then not report why it cannot connect.
            if let Some(mut connection) = self.pool().try_acquire() {
                sqlx::raw_sql("SELECT 1").execute(&mut *connection).await?;
            } else {
                self.connect(Session::Login).await?.close().await?;
            }
            Ok(())
        };
        tokio::time::timeout(Duration::from_secs(2), check)
            .await
            .map_err(|_| StoreError::Timeout("checking that it is up"))?
    }

    /// Closes the shared pool. Waits at most 2 s.
    pub async fn close(&self) {
        // Do not wait for a connection that hangs.
        if let Some(pool) = self.pool.get() {
            let _ = tokio::time::timeout(Duration::from_secs(2), pool.close()).await;
        }
    }
}

/// The `application_name` of a projection's connections: it marks the sessions that the next owner of a partition may terminate.
pub(crate) const PROJECTION_APPLICATION: &str = "omnilink projection";

/// Microseconds since 1970, as rows have them.
fn micros(at: Millis) -> i64 {
    at.0.saturating_mul(1000)
}
