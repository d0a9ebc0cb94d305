//! A temporary database on the Postgres of `OMNILINK_TEST_POSTGRES`.
#![allow(dead_code, reason = "not every bench uses all of it")]

use sqlx::{AssertSqlSafe, Connection, PgConnection, postgres::PgConnectOptions};

use crate::machine;

/// A database that is dropped at the end.
pub struct Database {
    name: String,
    pub url: String,
    pub options: PgConnectOptions,
    admin: PgConnectOptions,
}

impl Database {
    /// Creates an empty database; `None` without a Postgres.
    pub fn new() -> Option<Self> {
        let url = std::env::var("OMNILINK_TEST_POSTGRES").ok()?;
        let admin: PgConnectOptions = url.parse().unwrap();
        let name = format!("bench{}", uuid::Uuid::now_v7().simple());
        let (server, _) = url.rsplit_once('/').unwrap();
        let database = Self {
            url: format!("{server}/{name}"),
            options: admin.clone().database(&name),
            admin,
            name,
        };
        execute(
            &database.admin,
            &format!("CREATE DATABASE {}", database.name),
        );
        Some(database)
    }

    /// Runs SQL in it with the login of the URL.
    pub fn run(&self, sql: &str) {
        execute(&self.options, sql);
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let sql = format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name);
        execute(&self.admin, &sql);
    }
}

fn execute(options: &PgConnectOptions, sql: &str) {
    wait(async {
        let mut connection = PgConnection::connect_with(options).await.unwrap();
        sqlx::raw_sql(AssertSqlSafe(sql))
            .execute(&mut connection)
            .await
            .unwrap();
    });
}

fn wait<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(future)
}

/// The postmaster process, if it runs on this machine.
pub async fn postmaster(connection: &mut PgConnection) -> Option<u32> {
    let backend: i32 = sqlx::query_scalar("SELECT pg_backend_pid()")
        .fetch_one(connection)
        .await
        .unwrap();
    machine::parent(backend as u32).filter(|pid| machine::name(*pid) == "postgres")
}
