//! Postgres: connections, migrations, the embedded server, and the binary COPY form.
//!
//! Nothing here knows what a projection is; `projections/` does.

mod copy;
mod error;
pub mod grants;
mod migrate;
pub mod months;
mod nodelay;

use std::{
    str::FromStr,
    sync::{Arc, OnceLock},
    time::Duration,
};

pub use copy::{CopyRows, jsonb_text, storable_json, storable_text};
pub use error::{Class, StoreError};
pub use migrate::Migrated;
use sqlx::{
    Connection, PgConnection, PgPool,
    postgres::{PgConnectOptions, PgPoolOptions},
};

/// The role that owns all tables; connections act as it.
pub const SERVICE_ROLE: &str = "omnilink_service";
/// The role that is granted to readers' logins.
pub const READER_ROLE: &str = "omnilink_reader";

/// Connections that answer requests: few, for each costs the server a process.
const POOL: u32 = 4;
/// How long anyone waits for a connection.
const ACQUIRE: Duration = Duration::from_secs(5);

/// Postgres, as OmniLink's own login. Cheap to clone; connects when first used.
#[derive(Clone, Debug)]
pub struct Store {
    options: PgConnectOptions,
    /// Made in the runtime that first asks.
    pool: Arc<OnceLock<PgPool>>,
}

/// How one connection of its own behaves: what is set when it is made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Session {
    /// As the login itself, with the server's own settings: for migrations.
    Login,
    /// As the owner of the tables; statements end after 30 s.
    Service,
    /// As [`Session::Service`], for a projection: commits without waiting for the disk, since rows and position vanish
    /// together, and a transaction that stands still for 5 s is ended, since a stopped process must not hold up the next owner.
    Projection,
    /// As [`Session::Service`], without a limit on statements: for a rebuild and for moving rows.
    Maintenance,
}

impl Session {
    fn setup(self) -> &'static str {
        // One round trip. Planner settings: statements join a list of keys with a table by its primary key, and must
        // go on doing so when the statistics of a young table say that reading all of it is cheaper.
        match self {
            Self::Login => "",
            // Before the migrations there is no role to act as.
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
    /// For a URL such as `postgres://user:password@host:5432/omnilink`. Does not connect.
    pub fn new(url: &str) -> Result<Self, StoreError> {
        if !["postgres://", "postgresql://"]
            .iter()
            .any(|scheme| url.starts_with(scheme))
        {
            return Err(StoreError::Url("it must begin with postgres://".to_owned()));
        }
        let options =
            PgConnectOptions::from_str(url).map_err(|e| StoreError::Url(e.to_string()))?;
        Ok(Self::with(options))
    }

    /// For given options. Does not connect.
    pub fn with(options: PgConnectOptions) -> Self {
        let options =
            sqlx::ConnectOptions::disable_statement_logging(options.application_name("omnilink"));
        Self {
            options,
            pool: Arc::default(),
        }
    }

    /// The shared connections, as the owner of the tables. To be called within the runtime.
    pub fn pool(&self) -> &PgPool {
        self.pool.get_or_init(|| {
            PgPoolOptions::new()
                .max_connections(POOL)
                .acquire_timeout(ACQUIRE)
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

    /// A connection of one's own.
    pub async fn connect(&self, session: Session) -> Result<PgConnection, StoreError> {
        let name = match session {
            Session::Projection => PROJECTION_NAME,
            _ => "omnilink",
        };
        let options = self.options.clone().application_name(name);
        let connecting = async {
            let mut connection = PgConnection::connect_with(&options).await?;
            if options.get_socket().is_none() {
                let port = options.get_port();
                // It reads a folder of /proc.
                let _ = tokio::task::spawn_blocking(move || nodelay::set(port)).await;
            }
            if !session.setup().is_empty() {
                sqlx::raw_sql(session.setup())
                    .execute(&mut connection)
                    .await?;
            }
            Ok(connection)
        };
        tokio::time::timeout(ACQUIRE, connecting)
            .await
            .map_err(|_| StoreError::Deadline("connecting"))?
    }

    /// Brings the schema up to date, and makes the partitions of this month and the next.
    pub async fn migrate(&self) -> Result<Migrated, StoreError> {
        migrate::run(self).await
    }

    /// The migrations that are still to be run; for a start that may not run them.
    pub async fn pending(&self) -> Result<Vec<&'static str>, StoreError> {
        migrate::pending(self).await
    }

    /// Whether Postgres answers now; for readiness.
    pub async fn health(&self) -> Result<(), StoreError> {
        let asking = async {
            // A pool without a connection would try until its deadline, and then not say why it had none.
            if let Some(mut connection) = self.pool().try_acquire() {
                sqlx::raw_sql("SELECT 1").execute(&mut *connection).await?;
            } else {
                self.connect(Session::Login).await?.close().await?;
            }
            Ok(())
        };
        tokio::time::timeout(Duration::from_secs(2), asking)
            .await
            .map_err(|_| StoreError::Deadline("asking for an answer"))?
    }

    /// Closes the shared connections.
    pub async fn close(&self) {
        // A connection that hangs is not waited for.
        if let Some(pool) = self.pool.get() {
            let _ = tokio::time::timeout(Duration::from_secs(2), pool.close()).await;
        }
    }
}

/// The `application_name` of a projection's connections: by it, the next owner knows whom it may end.
pub(crate) const PROJECTION_NAME: &str = "omnilink projection";
