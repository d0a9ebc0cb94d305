//! Connections to Postgres, and migrations.

use omnilink::store::{Class, Session, Store, StoreError};
use sqlx::{Connection, PgConnection};

use crate::support::projections::Database;

#[test]
fn an_empty_database_is_migrated_once() {
    let Some(database) = Database::empty() else {
        return;
    };
    let store = database.store();
    database.runtime.block_on(async {
        let pending = store.pending().await.unwrap();
        assert!(pending.len() >= 2, "{pending:?}");
        // Several at the same time: one of them runs the migrations.
        let all = futures_util::future::join_all((0..4).map(|_| store.migrate())).await;
        let all: Vec<_> = all.into_iter().map(Result::unwrap).collect();
        assert_eq!(
            all.iter().map(|m| m.ran.len()).sum::<usize>(),
            pending.len()
        );
        assert_eq!(all.iter().map(|m| m.partitions.len()).sum::<usize>(), 2);
        assert!(store.pending().await.unwrap().is_empty());
        assert!(store.migrate().await.unwrap().ran.is_empty());
        store.health().await.unwrap();
    });
    let owners = database.texts(
        "SELECT DISTINCT c.relowner::regrole FROM pg_class c WHERE c.relnamespace = 'omnilink'::regnamespace",
    );
    assert_eq!(owners, ["omnilink_service"]);
    // A released migration must not change.
    database.run("UPDATE omnilink.migrations SET checksum = 'x' WHERE version = 2");
    let error = database.runtime.block_on(store.migrate()).unwrap_err();
    assert!(
        matches!(error, StoreError::Changed("0002_events_and_entities")),
        "{error}"
    );
    assert_eq!(error.class(), Class::Fatal);
}

/// The tables of migrations 0004 and 0005 that 0009 replaces, and the indexes that it drops.
const BEFORE_RUN_HISTORY: &str = "
    DROP VIEW omnilink.run_events, omnilink.orchestration_requests;
    DROP TABLE omnilink.run_history;
    DROP INDEX omnilink.audit_log_run;
    CREATE INDEX audit_log_at ON omnilink.audit_log (at);
    CREATE INDEX rejections_at ON omnilink.rejections (at);
    CREATE TABLE omnilink.run_events (tenant text COLLATE \"C\" NOT NULL, run_id text COLLATE \"C\" NOT NULL, seq bigint NOT NULL,
      type text NOT NULL, at timestamptz NOT NULL, record jsonb NOT NULL, PRIMARY KEY (tenant, run_id, seq));
    CREATE TABLE omnilink.orchestration_requests (id text);
    ALTER TABLE omnilink.run_events OWNER TO omnilink_service;
    ALTER TABLE omnilink.orchestration_requests OWNER TO omnilink_service;
    DELETE FROM omnilink.migrations WHERE version = 9";

#[test]
fn histories_are_migrated_into_fewer_rows() {
    let Some(database) = Database::new() else {
        return;
    };
    database.run(BEFORE_RUN_HISTORY);
    // Two runs of 150 records, the second without its 70th.
    database.run(
        "INSERT INTO omnilink.run_events SELECT 'acme', run, seq, 't' || seq, 'epoch'::timestamptz + seq * interval '1 second', \
           jsonb_build_object('n', seq, 'text', run) \
         FROM generate_series(1, 150) seq, unnest(ARRAY['a', 'b']) run WHERE NOT (run = 'b' AND seq = 70)",
    );
    let all = "SELECT row_to_json(e)::text FROM omnilink.run_events e ORDER BY run_id, seq";
    let before = database.texts(all);
    let ran = database
        .runtime
        .block_on(database.store().migrate())
        .unwrap()
        .ran;
    assert_eq!(ran, ["0009_run_history"]);
    assert_eq!(database.texts(all), before);
    let rows = database.texts(
        "SELECT run_id || first_seq || '+' || cardinality(records) FROM omnilink.run_history ORDER BY run_id, first_seq",
    );
    let expected = [
        "a1+64", "a65+64", "a129+22", "b1+64", "b65+5", "b71+59", "b130+21",
    ];
    assert_eq!(rows, expected);
}

/// A login that owns its database and is not a superuser; `attributes` decide whether it may create roles.
fn login(database: &Database, attributes: &str) -> (String, Store) {
    let login = format!("m_{}", database.name);
    database.admin(&format!(
        "CREATE ROLE {login} LOGIN PASSWORD 'x' NOSUPERUSER {attributes}; ALTER DATABASE {} OWNER TO {login}",
        database.name
    ));
    let store = Store::with_options(database.options.clone().username(&login).password("x"));
    (login, store)
}

fn drop_login(database: &Database, login: &str) {
    database.admin(&format!(
        "ALTER DATABASE {} OWNER TO CURRENT_USER",
        database.name
    ));
    database.run(&format!("DROP OWNED BY {login}"));
    database.admin(&format!("DROP ROLE {login}"));
}

#[test]
fn a_login_with_createrole_can_migrate() {
    let Some(database) = Database::empty() else {
        return;
    };
    let (login, store) = login(&database, "CREATEROLE");
    // Roles belong to the whole server, so they exist after the first of these tests. Since Postgres 16 only the login that
    // created a role may grant it.
    database.admin(&format!(
        "DO $$ BEGIN IF current_setting('server_version_num')::int >= 160000 \
         AND EXISTS (SELECT FROM pg_roles WHERE rolname = 'omnilink_service') THEN \
         EXECUTE 'GRANT omnilink_service TO {login} WITH ADMIN TRUE, SET FALSE, INHERIT FALSE'; END IF; END $$"
    ));
    database.runtime.block_on(async {
        store.migrate().await.unwrap();
        let mut connection = store.connect(Session::Service).await.unwrap();
        let who =
            sqlx::query_as::<_, (String, String)>("SELECT session_user::text, current_user::text")
                .fetch_one(&mut connection)
                .await
                .unwrap();
        assert_eq!(who, (login.clone(), "omnilink_service".to_owned()));
        connection.close().await.unwrap();
    });
    drop_login(&database, &login);
}

#[test]
fn a_login_without_createrole_gets_instructions() {
    let Some(database) = Database::empty() else {
        return;
    };
    // Creates the roles with another login.
    drop(Database::new());
    let (login, store) = login(&database, "NOCREATEROLE");
    let error = database.runtime.block_on(store.migrate()).unwrap_err();
    assert!(
        matches!(&error, StoreError::Privileges { login: l, .. } if *l == login),
        "{error}"
    );
    assert!(
        error.to_string().contains("GRANT omnilink_service TO"),
        "{error}"
    );
    // The instructions in the message work.
    database.admin(&format!("GRANT omnilink_service TO {login}"));
    database.runtime.block_on(store.migrate()).unwrap();
    drop_login(&database, &login);
}

#[test]
fn errors_are_classified() {
    let Some(database) = Database::new() else {
        return;
    };
    let store = database.store();
    let run = |sql: &'static str| {
        let failed = database.runtime.block_on(async {
            let mut connection = PgConnection::connect_with(&database.options).await.unwrap();
            sqlx::raw_sql(sql)
                .execute(&mut connection)
                .await
                .unwrap_err()
        });
        StoreError::from(failed).class()
    };
    assert_eq!(run("SELECT 'x'::int"), Class::Rejected);
    assert_eq!(
        run("INSERT INTO omnilink.reader_grants VALUES ('a', NULL)"),
        Class::Rejected
    );
    assert_eq!(run("SELECT * FROM omnilink.nothing"), Class::Fatal);
    assert_eq!(
        run("SET statement_timeout = 1; SELECT pg_sleep(1)"),
        Class::Retriable
    );
    assert_eq!(
        run("SELECT pg_terminate_backend(pg_backend_pid())"),
        Class::Retriable
    );
    let nobody = Store::new("postgres://nobody:x@127.0.0.1:1/nothing").unwrap();
    let error = database.runtime.block_on(nobody.health()).unwrap_err();
    assert_eq!(error.class(), Class::Retriable, "{error}");
    let wrong = Store::with_options(database.options.clone().password("wrong"));
    let error = database
        .runtime
        .block_on(wrong.connect(Session::Service))
        .unwrap_err();
    assert_eq!(error.class(), Class::Fatal, "{error}");
    assert!(Store::new("mysql://x").is_err());
    database.runtime.block_on(store.close());
}
