//! Connections of the builtin tools to a Postgres, each with a login of its own, and what errors of it mean for a call.
//!
//! A session cannot leave its login: `SET ROLE`, `RESET ROLE` and `set_config('role', …)` reach only roles that were granted to it. So a
//! login that could become more than a reader of what is granted ([`CHECK`]) is refused.

use std::{
    str::FromStr,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use sqlx::{
    ConnectOptions, Connection, PgConnection,
    postgres::{PgConnectOptions, PgDatabaseError},
};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::answer::{Answer, Failed};
use crate::{
    config::SecretUrl,
    store::{Class, StoreError},
};

/// The most connections of a login, and so the most calls that use it at one time, on each node.
pub(super) const CONNECTIONS: usize = 8;
/// The time limit for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A connection that was idle for longer is closed.
const IDLE_MAX: Duration = Duration::from_mins(1);
/// An older connection is closed: a new one checks what the login may become now.
const AGE_MAX: Duration = Duration::from_mins(5);
/// How long a call is waited for beyond the time limit that the server itself keeps.
const GRACE: Duration = Duration::from_secs(2);
/// The most characters of a message that are kept.
const MESSAGE_MAX: usize = 1_000;

/// A role that the login is, or may become, and that could read or do more than was granted to it; and whether it reads OmniLink's own
/// tables, which show it the tenants of `reader_grants`.
const CHECK: &str = "SELECT (SELECT rolname::text FROM pg_roles WHERE pg_has_role(session_user, oid, 'MEMBER') AND ( \
       rolsuper OR rolbypassrls OR rolreplication OR rolname IN ('omnilink_service', 'pg_read_server_files', \
         'pg_write_server_files', 'pg_execute_server_program')) ORDER BY rolname LIMIT 1), \
     EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
       WHERE n.nspname = 'omnilink' AND c.relname = 'reader_grants' AND has_schema_privilege(session_user, n.oid, 'USAGE') \
         AND has_table_privilege(session_user, c.oid, 'SELECT'))";

/// The connections of one login.
pub(super) struct Connections {
    options: PgConnectOptions,
    seats: Semaphore,
    idle: Mutex<Vec<Idle>>,
}

struct Idle {
    since: Instant,
    session: Session,
}

struct Session {
    connection: PgConnection,
    since: Instant,
    /// Whether the login reads OmniLink's own tables.
    is_reader: bool,
}

/// A transaction that has begun. Dropping it closes its connection, which rolls it back.
pub(super) struct Begun<'c> {
    of: &'c Connections,
    session: Session,
    _seat: SemaphorePermit<'c>,
}

impl Connections {
    /// With the login of a URL. Does not connect.
    pub(super) fn new(url: &SecretUrl, tool: &str) -> Result<Self, sqlx::Error> {
        let options = PgConnectOptions::from_str(url.expose())?
            .application_name(&format!("omnilink {tool}"))
            // A statement that is cached by its text would keep the types of its first parameters.
            .statement_cache_capacity(0);
        Ok(Self {
            options: options.disable_statement_logging(),
            seats: Semaphore::new(CONNECTIONS),
            idle: Mutex::default(),
        })
    }

    /// Begins a transaction for the tenant of a run, with a time limit for each of its statements.
    pub(super) async fn begin(
        &self,
        begin: &'static str,
        tenant: &str,
        timeout: Duration,
    ) -> Result<Begun<'_>, Answer> {
        let seat = self.seats.acquire().await;
        let seat = seat.map_err(|_| no_connection("the node stops".to_owned()))?;
        let mut begun = Begun {
            session: self.session(begin).await?,
            of: self,
            _seat: seat,
        };
        let settings = "SELECT set_config('omnilink.tenant', $1, true), set_config('statement_timeout', $2, true), \
             set_config('idle_in_transaction_session_timeout', '30s', true)";
        sqlx::query(settings)
            .bind(tenant)
            .bind(format!("{}ms", timeout.as_millis().max(1)))
            .persistent(false)
            .execute(begun.connection())
            .await
            .map_err(|error| of_error(error, Effect::None))?;
        Ok(begun)
    }

    /// A connection on which a transaction has begun.
    async fn session(&self, begin: &'static str) -> Result<Session, Answer> {
        while let Some(mut session) = self.take_idle() {
            // One that was lost meanwhile is passed over.
            let begun = sqlx::raw_sql(begin).execute(&mut session.connection);
            if begun.await.is_ok() {
                return Ok(session);
            }
        }
        let mut session = self.connect().await?;
        sqlx::raw_sql(begin)
            .execute(&mut session.connection)
            .await
            .map_err(|error| of_error(error, Effect::None))?;
        Ok(session)
    }

    fn take_idle(&self) -> Option<Session> {
        let mut idle = self.idle.lock();
        idle.retain(|one| one.since.elapsed() < IDLE_MAX);
        idle.pop().map(|one| one.session)
    }

    async fn connect(&self) -> Result<Session, Answer> {
        let connecting = async {
            let mut connection = PgConnection::connect_with(&self.options).await?;
            let check = sqlx::query_as::<_, (Option<String>, bool)>(CHECK);
            let (role, is_reader) = check.fetch_one(&mut connection).await?;
            let session = Session {
                connection,
                since: Instant::now(),
                is_reader,
            };
            Ok::<_, sqlx::Error>((session, role))
        };
        match tokio::time::timeout(CONNECT_TIMEOUT, connecting).await {
            Err(_) => Err(no_connection(
                "Postgres did not answer in time while connecting".to_owned(),
            )),
            Ok(Err(error)) => Err(no_connection(StoreError::from(error).to_string())),
            Ok(Ok((session, None))) => Ok(session),
            Ok(Ok((_, Some(role)))) => {
                let message = format!(
                    "the login of the tool is `{role}`, or may become it, which can do more than read and add what was granted: give the tool a login of its own"
                );
                Err(Failed::permanent("unsafe_login", message).into())
            }
        }
    }
}

impl Begun<'_> {
    pub(super) fn connection(&mut self) -> &mut PgConnection {
        &mut self.session.connection
    }

    /// Whether the login reads OmniLink's own tables.
    pub(super) fn is_reader(&self) -> bool {
        self.session.is_reader
    }

    /// Ends the transaction with these statements, and keeps the connection.
    pub(super) async fn end(mut self, statements: &'static str) -> Result<(), sqlx::Error> {
        sqlx::raw_sql(statements).execute(self.connection()).await?;
        let session = self.session;
        if session.since.elapsed() < AGE_MAX {
            let since = Instant::now();
            self.of.idle.lock().push(Idle { since, session });
        }
        Ok(())
    }
}

/// Whether a call that got no answer may have had an effect.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Effect {
    None,
    Possible,
}

/// Carries out a call whose statement has this time limit.
pub(super) async fn within<T>(
    timeout: Duration,
    effect: Effect,
    call: impl Future<Output = Result<T, Answer>>,
) -> Result<T, Answer> {
    match tokio::time::timeout(CONNECT_TIMEOUT + timeout + GRACE, call).await {
        Ok(result) => result,
        Err(_) => Err(no_answer("Postgres did not answer in time", effect)),
    }
}

/// What an error means for a call.
pub(super) fn of_error(error: sqlx::Error, effect: Effect) -> Answer {
    let error = StoreError::from(error);
    let Some(sqlstate) = error.sqlstate() else {
        return no_answer(error.to_string(), effect);
    };
    let message: String = error.to_string().chars().take(MESSAGE_MAX).collect();
    let code = match &*sqlstate {
        "57014" => "query_timeout".to_owned(),
        "25006" => return Failed::permanent("write_refused", message).into(),
        "42501" => return Failed::permanent("permission_denied", message).into(),
        other => format!("postgres_{other}"),
    };
    // Resources, shutdown, system, internal: not this call's fault.
    let trouble = ["53", "57P", "58", "XX"];
    let trouble = trouble.iter().any(|class| sqlstate.starts_with(class));
    let failed = if error.class() == Class::Retriable {
        Failed::retryable(&code, message)
    } else {
        Failed::permanent(&code, message)
    };
    Answer {
        trouble,
        ..failed.into()
    }
}

/// The SQLSTATE of an error of the server.
pub(super) fn sqlstate(error: &sqlx::Error) -> Option<&str> {
    let error = error.as_database_error()?;
    Some(error.try_downcast_ref::<PgDatabaseError>()?.code())
}

fn no_connection(message: String) -> Answer {
    Answer {
        trouble: true,
        ..Failed::retryable("no_connection", message).into()
    }
}

fn no_answer(message: impl Into<String>, effect: Effect) -> Answer {
    let failed = Failed {
        answered: effect == Effect::None,
        ..Failed::retryable("no_answer", message)
    };
    Answer {
        trouble: true,
        ..failed.into()
    }
}
