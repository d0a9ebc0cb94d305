//! Schema migrations: SQL files, run in order, each once, under an advisory lock.

use std::time::Duration;

use sqlx::{Connection, PgConnection, Row};

use super::{Session, Store, StoreError, months};
use crate::base::hex::hex;

/// A file of `migrations/`, embedded in the binary.
struct Migration {
    version: i32,
    name: &'static str,
    sql: &'static str,
}

macro_rules! migration {
    ($version:literal, $name:literal) => {
        Migration {
            version: $version,
            name: $name,
            sql: include_str!(concat!("../../migrations/", $name, ".sql")),
        }
    };
}

/// The first creates the roles and runs as the login; the others run as the owner of the tables.
const MIGRATIONS: &[Migration] = &[
    migration!(1, "0001_roles"),
    migration!(2, "0002_events_and_entities"),
    migration!(3, "0003_topic_ids"),
    migration!(4, "0004_audit_and_controls"),
    migration!(5, "0005_runs"),
    migration!(6, "0006_tasks"),
    migration!(7, "0007_runs_retry_of"),
    migration!(8, "0008_tasks_sealed"),
    migration!(9, "0009_run_history"),
    migration!(10, "0010_tasks_idempotency_key"),
];

/// The key of the advisory lock that serializes migrations of a database: `omnilink` in ASCII.
const LOCK: i64 = 0x6f6d_6e69_6c69_6e6b;

/// What [`Store::migrate`] did.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Migrated {
    /// The names of the migrations that were run, in order.
    pub ran: Vec<&'static str>,
    /// The names of the partitions of `events` that were created.
    pub partitions: Vec<String>,
}

pub(super) async fn run(store: &Store) -> Result<Migrated, StoreError> {
    // Roles belong to the whole server, but the lock to one database: concurrent migrations of two databases may still conflict.
    let mut attempt = 0;
    loop {
        match run_once(store).await {
            Err(e) if attempt < 5 && e.sqlstate().is_some_and(|s| s == "XX000" || s == "23505") => {
                attempt += 1;
                tokio::time::sleep(Duration::from_millis(50 << attempt)).await;
            }
            other => return other,
        }
    }
}

async fn run_once(store: &Store) -> Result<Migrated, StoreError> {
    let mut connection = store.connect(Session::Login).await?;
    let connection = &mut connection;
    let (number, version) = sqlx::query_as::<_, (i32, String)>(
        "SELECT current_setting('server_version_num')::int, current_setting('server_version')",
    )
    .fetch_one(&mut *connection)
    .await?;
    if number < 150_000 {
        return Err(StoreError::TooOld(version));
    }
    sqlx::raw_sql("SET lock_timeout = '60s'; SET client_min_messages = warning")
        .execute(&mut *connection)
        .await?;
    let mut done = Migrated::default();
    for migration in MIGRATIONS {
        // Each migration has its own transaction, which takes the lock before it checks whether the migration was applied.
        let mut transaction = connection.begin().await?;
        sqlx::query("SELECT pg_advisory_xact_lock($1)")
            .bind(LOCK)
            .execute(&mut *transaction)
            .await?;
        if applied(&mut transaction, migration).await? {
            continue;
        }
        if migration.version > 1 {
            sqlx::raw_sql("SET LOCAL ROLE omnilink_service")
                .execute(&mut *transaction)
                .await?;
        }
        if let Err(e) = sqlx::raw_sql(migration.sql)
            .execute(&mut *transaction)
            .await
        {
            drop(transaction);
            return Err(explain(connection, e.into()).await);
        }
        record(&mut transaction, migration).await?;
        transaction.commit().await?;
        done.ran.push(migration.name);
    }
    sqlx::raw_sql("RESET lock_timeout; SET ROLE omnilink_service")
        .execute(&mut *connection)
        .await?;
    done.partitions =
        months::ensure_ahead(connection, months::EVENTS, crate::base::clock::SystemClock).await?;
    Ok(done)
}

pub(super) async fn pending(store: &Store) -> Result<Vec<&'static str>, StoreError> {
    let mut connection = store.connect(Session::Login).await?;
    let mut missing = Vec::new();
    for migration in MIGRATIONS {
        if !applied(&mut connection, migration).await? {
            missing.push(migration.name);
        }
    }
    Ok(missing)
}

async fn applied(connection: &mut PgConnection, migration: &Migration) -> Result<bool, StoreError> {
    let exists =
        sqlx::query_scalar::<_, bool>("SELECT to_regclass('omnilink.migrations') IS NOT NULL")
            .fetch_one(&mut *connection)
            .await?;
    if !exists {
        return Ok(false);
    }
    let row = sqlx::query("SELECT checksum FROM omnilink.migrations WHERE version = $1")
        .bind(migration.version)
        .fetch_optional(&mut *connection)
        .await?;
    match row {
        None => Ok(false),
        Some(row) if row.try_get::<String, _>(0)? == checksum(migration.sql) => Ok(true),
        Some(_) => Err(StoreError::Changed(migration.name)),
    }
}

async fn record(connection: &mut PgConnection, migration: &Migration) -> Result<(), StoreError> {
    sqlx::raw_sql(
        "SET LOCAL ROLE omnilink_service; \
         CREATE TABLE IF NOT EXISTS omnilink.migrations (version integer PRIMARY KEY, name text NOT NULL, \
         checksum text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now())",
    )
    .execute(&mut *connection)
    .await?;
    sqlx::query("INSERT INTO omnilink.migrations (version, name, checksum) VALUES ($1, $2, $3)")
        .bind(migration.version)
        .bind(migration.name)
        .bind(checksum(migration.sql))
        .execute(&mut *connection)
        .await?;
    Ok(())
}

fn checksum(sql: &str) -> String {
    use sha2::{Digest, Sha256};
    // Line endings may differ between checkouts.
    hex(&Sha256::digest(sql.replace('\r', "")))
}

/// Replaces a "permission denied" error by one that says which privileges the login needs.
async fn explain(connection: &mut PgConnection, error: StoreError) -> StoreError {
    if error.sqlstate().as_deref() != Some("42501") {
        return error;
    }
    let login = sqlx::query_scalar::<_, String>("SELECT session_user::text")
        .fetch_one(connection)
        .await
        .unwrap_or_default();
    StoreError::Privileges {
        login,
        cause: error.to_string(),
    }
}
