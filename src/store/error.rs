//! Errors of Postgres, and how the caller handles them.

/// How the caller handles an error.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Class {
    /// Retry after a pause: the server is down, busy or restarting, or the transaction conflicted with another.
    Retriable,
    /// The row is invalid, and a retry would fail in the same way.
    Rejected,
    /// An operator must act: a wrong password, a missing privilege, a missing table.
    Fatal,
}

/// An error of Postgres.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// `postgres.url` is malformed.
    #[error("postgres.url: {0}")]
    Url(String),
    /// The server returned an error, or the connection failed.
    #[error("{}", describe(.0))]
    Sql(#[from] sqlx::Error),
    /// The server did not answer in time; the text says what was attempted.
    #[error("Postgres did not answer in time while {0}")]
    Timeout(&'static str),
    /// The login lacks privileges that the migrations need.
    #[error(
        "the login `{login}` of postgres.url cannot migrate: {cause}. Give it CREATEROLE and CREATE on the database, or run once as \
             a superuser: CREATE ROLE omnilink_service NOLOGIN; CREATE ROLE omnilink_reader NOLOGIN; \
             GRANT omnilink_service TO \"{login}\"; CREATE SCHEMA omnilink AUTHORIZATION omnilink_service; \
             CREATE SCHEMA odoo AUTHORIZATION omnilink_service"
    )]
    Privileges {
        /// The login of `postgres.url`.
        login: String,
        /// The server's error.
        cause: String,
    },
    /// A migration that this database has already run differs from the one in this binary.
    #[error(
        "migration `{0}` was run on this database with different contents: an unreleased version created the database"
    )]
    Changed(&'static str),
    /// Migrations are missing, and this process may not run them.
    #[error("the database lacks migrations ({}): `omnilink migrate` runs them", .0.join(", "))]
    Behind(Vec<&'static str>),
    /// The server is older than Postgres 15, the first with views that check the rights of whoever reads them.
    #[error("Postgres {0} is too old: 15 or later is needed")]
    TooOld(String),
}

impl StoreError {
    /// How the caller handles it.
    pub fn class(&self) -> Class {
        match self {
            Self::Sql(e) => class_of(e),
            Self::Timeout(_) => Class::Retriable,
            Self::Url(_)
            | Self::Privileges { .. }
            | Self::Changed(_)
            | Self::Behind(_)
            | Self::TooOld(_) => Class::Fatal,
        }
    }

    /// The SQLSTATE, if the server returned one.
    pub fn sqlstate(&self) -> Option<String> {
        match self {
            Self::Sql(sqlx::Error::Database(e)) => e.code().map(std::borrow::Cow::into_owned),
            _ => None,
        }
    }
}

fn class_of(error: &sqlx::Error) -> Class {
    let sqlx::Error::Database(e) = error else {
        return match error {
            sqlx::Error::Configuration(_) | sqlx::Error::InvalidArgument(_) => Class::Fatal,
            // A lost connection shows up as an I/O, TLS, protocol or pool error.
            _ => Class::Retriable,
        };
    };
    let code = e.code().unwrap_or_default();
    match code.as_ref() {
        // Statement timeout, read-only after a failover, lock timeout.
        "57014" | "25006" | "55P03" => Class::Retriable,
        // The database was dropped.
        "57P04" => Class::Fatal,
        code => match code.get(..2).unwrap_or_default() {
            // Connection, transaction rollback, resources, operator intervention, system, internal
            // ("tuple concurrently updated"), transaction state.
            "08" | "40" | "53" | "57" | "58" | "XX" | "25" => Class::Retriable,
            // Data, integrity, program limits.
            "22" | "23" | "54" => Class::Rejected,
            // Authentication, privileges, missing objects, syntax.
            _ => Class::Fatal,
        },
    }
}

/// The server's message with detail and SQLSTATE, or the client's message.
fn describe(error: &sqlx::Error) -> String {
    match error {
        sqlx::Error::Database(e) => {
            let detail = e
                .try_downcast_ref::<sqlx::postgres::PgDatabaseError>()
                .and_then(sqlx::postgres::PgDatabaseError::detail)
                .map(|d| format!(": {d}"))
                .unwrap_or_default();
            format!(
                "Postgres: {}{detail} ({})",
                e.message(),
                e.code().unwrap_or_default()
            )
        }
        sqlx::Error::Io(e) => format!("Postgres does not answer: {e}"),
        sqlx::Error::PoolTimedOut => "Postgres does not answer: no connection in time".to_owned(),
        other => format!("Postgres: {other}"),
    }
}
