//! What can go wrong with Postgres, and what to do about it.

/// What the caller does about an error.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Class {
    /// Do the same again after a pause: the server is away, busy or restarting, or another transaction was in the way.
    Retriable,
    /// A row is not acceptable, and will not be the next time.
    Rejected,
    /// Someone must do something: a wrong password, a missing right, a missing table.
    Fatal,
}

/// An error of Postgres.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// `postgres.url` is not one.
    #[error("postgres.url: {0}")]
    Url(String),
    /// The server's answer, or the lack of one.
    #[error("{}", describe(.0))]
    Sql(#[from] sqlx::Error),
    /// No answer in time.
    #[error("Postgres did not answer in time while {0}")]
    Deadline(&'static str),
    /// The rights of the login do not suffice for the migrations.
    #[error(
        "the login `{login}` of postgres.url cannot migrate: {cause}. Give it CREATEROLE and CREATE on the database, or run once as \
             a superuser: CREATE ROLE omnilink_service NOLOGIN; CREATE ROLE omnilink_reader NOLOGIN; \
             GRANT omnilink_service TO \"{login}\"; CREATE SCHEMA omnilink AUTHORIZATION omnilink_service"
    )]
    Rights {
        /// Who we are.
        login: String,
        /// The server's words.
        cause: String,
    },
    /// A migration that was run here differs from the one in this binary.
    #[error(
        "migration `{0}` was run here with other contents: this database was made by an unreleased version"
    )]
    Changed(&'static str),
    /// Migrations are missing, and this start may not run them.
    #[error("the database lacks migrations ({}): `omnilink migrate` runs them", .0.join(", "))]
    Behind(Vec<&'static str>),
    /// The server is too old.
    #[error("Postgres {0} is too old: 14 or later is needed")]
    TooOld(String),
}

impl StoreError {
    /// What to do about it.
    pub fn class(&self) -> Class {
        match self {
            Self::Sql(e) => class_of(e),
            Self::Deadline(_) => Class::Retriable,
            Self::Url(_)
            | Self::Rights { .. }
            | Self::Changed(_)
            | Self::Behind(_)
            | Self::TooOld(_) => Class::Fatal,
        }
    }

    /// The SQLSTATE, when the server gave one.
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
            // Lost connections show as I/O, TLS, protocol or pool errors.
            _ => Class::Retriable,
        };
    };
    let code = e.code().unwrap_or_default();
    match code.as_ref() {
        // Statement time-out, read-only after a failover, lock time-out.
        "57014" | "25006" | "55P03" => Class::Retriable,
        // Wrong password, no such database, no such right.
        "57P04" => Class::Fatal,
        code => match code.get(..2).unwrap_or_default() {
            // Connection, transaction rollback, resources, operator intervention, system, internal
            // ("tuple concurrently updated").
            "08" | "40" | "53" | "57" | "58" | "XX" | "25" => Class::Retriable,
            // Data, integrity, program limits.
            "22" | "23" | "54" => Class::Rejected,
            _ => Class::Fatal,
        },
    }
}

/// The server's message with its SQLSTATE and detail, or the client's.
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
