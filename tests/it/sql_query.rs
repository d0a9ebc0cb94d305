//! The builtin tool `sql_query` on a real Postgres: what it returns, and what it refuses.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use omnilink::{
    base::id::Tenant,
    config::QueryLogin,
    runs::StepCommand,
    store::grants::{self, Grant},
};
use serde_json::json;

use crate::support::{
    database_tools::{Bench, call},
    projections::Database,
};

#[test]
fn a_query_gives_rows_and_binds_values() {
    let Some(bench) = Bench::queries() else {
        return;
    };
    let mut calls = bench.start(&bench.config("sql_query", &[]));
    let sql = "SELECT id, customer, total, paid, at, tags FROM orders WHERE customer = $1 AND total > $2 AND paid = $3 \
               AND ($4::text IS NULL OR customer = $4) AND tags @> $5 ORDER BY id -- the dearest";
    let result = calls.query(sql, &json!(["ann", 9.5, true, null, { "a": 1 }]));
    let output = result
        .output
        .unwrap_or_else(|| panic!("{:?}", result.error));
    assert_eq!(
        output.value(),
        json!({
            "rows": [{
                "id": 1, "customer": "ann", "total": 10.5, "paid": true, "at": "2026-01-31T12:00:00+00:00", "tags": { "a": 1, "b": 2 }
            }],
            "count": 1
        })
    );
    let of = "SELECT id FROM orders WHERE customer = $1 ORDER BY id LIMIT $2;";
    assert_eq!(
        calls.rows(of, &json!(["ann", 5])),
        json!([{ "id": 1 }, { "id": 3 }])
    );
    assert_eq!(calls.rows(of, &json!(["ann", 1])), json!([{ "id": 1 }]));
    // A value is a value, whatever is in it.
    for hostile in [
        "ann' OR '1'='1",
        "'; DELETE FROM orders; --",
        "$2",
        "\\' OR 1=1",
    ] {
        assert_eq!(calls.rows(of, &json!([hostile, 5])), json!([]), "{hostile}");
    }
    // The same statement with values of other kinds.
    let echo = "SELECT $1 AS x";
    for value in [
        json!("a"),
        json!(7),
        json!(0.5),
        json!(true),
        json!([1, "b"]),
        json!(null),
    ] {
        assert_eq!(calls.rows(echo, &json!([value])), json!([{ "x": value }]));
    }
    assert_eq!(calls.rows("TABLE orders LIMIT 0", &json!([])), json!([]));
}

#[test]
fn rows_bytes_and_time_are_bounded() {
    let Some(bench) = Bench::queries() else {
        return;
    };
    let more = [
        ("tools.sql_query.max_rows", "3"),
        ("tools.sql_query.timeout_s", "1"),
    ];
    let mut calls = bench.start(&bench.config("sql_query", &more));
    let all = calls.rows("SELECT generate_series(1, 3) AS n", &json!([]));
    assert_eq!(all, json!([{ "n": 1 }, { "n": 2 }, { "n": 3 }]));
    let many = calls.error("SELECT generate_series(1, 100000000) AS n");
    assert_eq!((&*many.code, many.retryable), ("too_many_rows", false));
    let exact = 128 * 1024 - r#"{"rows":[{"x":""}],"count":1}"#.len();
    let fits = format!("SELECT repeat('x', {exact}) AS x");
    assert_eq!(calls.rows(&fits, &json!([])).as_array().unwrap().len(), 1);
    for large in [
        format!("SELECT repeat('x', {}) AS x", exact + 1),
        // Together.
        "SELECT repeat('x', 60000) AS x FROM generate_series(1, 3)".to_owned(),
        "SELECT repeat('x', 5000000) AS x FROM generate_series(1, 3)".to_owned(),
    ] {
        assert_eq!(calls.error(&large).code, "output_too_large");
    }
    let began = Instant::now();
    let slow = calls.error("SELECT 1 AS x FROM pg_sleep(30)");
    assert_eq!((&*slow.code, slow.retryable), ("query_timeout", true));
    // It cannot give itself more.
    let patient =
        "SELECT set_config('statement_timeout', '0', false) AS x, pg_sleep(30) IS NULL AS y";
    assert_eq!(calls.error(patient).code, "query_timeout");
    assert!(began.elapsed() < Duration::from_secs(15));
}

#[test]
fn only_reading_what_was_granted_is_possible() {
    let Some(bench) = Bench::queries() else {
        return;
    };
    let admin = bench.database.options.get_username().to_owned();
    let mut calls = bench.start(&bench.config("sql_query", &[]));
    let become_admin = format!("SELECT set_config('role', '{admin}', false) AS x");
    let log_in = format!("SELECT set_config('session_authorization', '{admin}', false) AS x");
    for (sql, code) in [
        ("DELETE FROM orders RETURNING id", "not_a_query"),
        (
            "WITH d AS (DELETE FROM orders RETURNING id) SELECT id FROM d",
            "not_a_query",
        ),
        ("SELECT id INTO copied FROM orders", "not_a_query"),
        ("SET ROLE postgres", "not_a_query"),
        ("RESET ROLE", "not_a_query"),
        ("COMMIT", "not_a_query"),
        ("SHOW server_version", "not_a_query"),
        ("COPY orders TO PROGRAM 'id'", "not_a_query"),
        ("SELECT nextval('numbers') AS x", "write_refused"),
        ("SELECT id FROM orders FOR UPDATE", "write_refused"),
        (&become_admin, "permission_denied"),
        (&log_in, "permission_denied"),
        ("SELECT secret FROM hidden", "permission_denied"),
        (
            "SELECT pg_read_file('/etc/passwd') AS x",
            "permission_denied",
        ),
        ("SELECT 1 AS x; DELETE FROM orders", "postgres_42601"),
        // Out of the brackets around it.
        (
            "SELECT 1 AS x) AS a; DELETE FROM orders; --",
            "postgres_42601",
        ),
        ("SELECT 1 AS x) AS a, (SELECT 2 AS y", "postgres_42601"),
        ("SELECT 1 AS x /*", "postgres_42601"),
        ("SELECT 1 AS x, 2 AS x", "duplicate_column"),
        ("SELECT $1 AS x", "invalid_input"),
        ("SELECT 1 AS x \u{0}", "invalid_input"),
        ("SELECT nope FROM orders", "postgres_42703"),
    ] {
        let error = calls.error(sql);
        assert_eq!(
            (&*error.code, error.retryable),
            (code, false),
            "{sql}: {error:?}"
        );
        assert!(!error.message.contains("password"), "{error:?}");
    }
    let database = &bench.database;
    assert_eq!(database.number("SELECT count(*) FROM orders"), 3);
    assert_eq!(database.text("SELECT is_called FROM numbers"), "false");

    // What a query sets is gone with it, also what outlives transactions.
    let sets = "SELECT set_config('search_path', 'nowhere', false) AS a, set_config('timezone', 'Asia/Tokyo', false) AS b, \
                pg_advisory_lock(7) IS NULL AS c";
    calls.rows(sets, &json!([]));
    let now = calls.rows(
        "SELECT count(*) AS n, current_setting('timezone') AS zone FROM orders",
        &json!([]),
    );
    assert_eq!(now, json!([{ "n": 3, "zone": "UTC" }]));
    let locks = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 7 \
                 AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
    assert_eq!(database.number(locks), 0);
}

#[test]
fn a_login_that_could_become_more_is_refused() {
    let Some(bench) = Bench::new(Database::new(), &["q"], "") else {
        return;
    };
    let config = bench.config(
        "sql_query",
        &[("tools.sql_query.url", &bench.database.url())],
    );
    let error = bench.start(&config).error("SELECT 1 AS x");
    assert_eq!((&*error.code, error.retryable), ("unsafe_login", false));
    let login = &bench.logins[0];
    let mut calls = bench.start(&bench.config("sql_query", &[]));
    for role in ["omnilink_service", "pg_read_server_files"] {
        bench.database.run(&format!("GRANT {role} TO {login}"));
        let error = calls.error("SELECT 1 AS x");
        assert_eq!(error.code, "unsafe_login");
        assert!(error.message.contains(role), "{error:?}");
        bench.database.run(&format!("REVOKE {role} FROM {login}"));
    }
    assert_eq!(calls.rows("SELECT 1 AS x", &json!([])), json!([{ "x": 1 }]));
}

#[test]
fn a_run_reads_only_its_own_tenant() {
    let tenants = ["acme", "beta"];
    let rows = tenants.map(|tenant| {
        format!("INSERT INTO omnilink.entities VALUES ('{tenant}', 'order', '1', NULL, '{{}}', 1, 'x', now());")
    });
    let Some(bench) = Bench::new(Database::new(), &["a", "b"], &rows.concat()) else {
        return;
    };
    let [acme, beta] = &bench.logins[..] else {
        panic!("two logins");
    };
    bench
        .database
        .run(&format!("GRANT omnilink_reader TO {acme}, {beta}"));
    let grant = |to: &[(&str, &str)]| {
        let grants = to.iter().map(|(role, tenant)| Grant {
            role: (*role).to_owned(),
            tenant: (*tenant).to_owned(),
        });
        let store = bench.database.store();
        let replaced = async { grants::replace(&store, &grants.collect::<Vec<_>>()).await };
        bench.database.runtime.block_on(replaced).unwrap();
    };
    let sql = "SELECT tenant FROM omnilink.entities";
    let mut calls = bench.start(&bench.config("sql_query", &[]));
    assert_eq!(calls.rows(sql, &json!([])), json!([]));
    grant(&[(acme, "acme"), (beta, "beta")]);
    assert_eq!(calls.rows(sql, &json!([])), json!([{ "tenant": "acme" }]));
    // A query could set the tenant back, so the login must not see another one.
    grant(&[(acme, "acme"), (acme, "beta"), (beta, "beta")]);
    let error = calls.error(sql);
    assert_eq!(
        (&*error.code, error.retryable),
        ("tenants_not_separated", false)
    );
    drop(calls);

    grant(&[(acme, "acme"), (beta, "beta")]);
    let mut config = bench.config("sql_query", &[]);
    let urls = [("acme", acme), ("beta", beta)].map(|(tenant, login)| {
        let url = bench.config("sql_query", &[("tools.sql_query.url", &bench.url(login))]);
        match url.database_tools.sql_query.login {
            Some(QueryLogin::All(url)) => (Tenant::new(tenant).unwrap(), url),
            other => panic!("{other:?}"),
        }
    });
    config.database_tools.sql_query.login = Some(QueryLogin::ByTenant(BTreeMap::from(urls)));
    let mut calls = bench.start(&config);
    let commands = ["acme", "beta", "gamma"].map(|tenant| StepCommand {
        tenant: tenant.into(),
        ..call("sql_query", &json!({ "sql": sql }))
    });
    let results = calls.results(&commands);
    for (result, tenant) in results.iter().zip(tenants) {
        let rows = result.output.as_ref().unwrap().value()["rows"].clone();
        assert_eq!(rows, json!([{ "tenant": tenant }]));
    }
    assert_eq!(
        results[2].error.as_ref().unwrap().code,
        "tool_not_configured"
    );
}
