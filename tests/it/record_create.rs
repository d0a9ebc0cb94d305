//! The builtin tool `record_create` on a real Postgres: one row, whatever fails. And what it has in common with `sql_query`.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Method, Request};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use omnilink::{
    base::clock::{Clock, SystemClock},
    controls::EmergencyChange,
    runs::StepCommand,
};
use serde_json::{Value, json};

use crate::support::{
    command::{Folder, Up, omnilink, output},
    database_tools::{Bench, TABLES, call},
    pages::blocks,
    port::{Mode, Node},
    projections::Database,
    wait_until,
    worker::{send, start_all, step, told},
};

#[test]
fn safe_mode_lets_queries_go_and_holds_records() {
    let Some(bench) = Bench::queries() else {
        return;
    };
    let calls = bench.start(&bench.config("sql_query", &[]));
    let query = call("sql_query", &json!({ "sql": "SELECT 1 AS x" }));
    let record = call("record_create", &json!({ "table": "t", "values": {} }));
    let node = &calls.node;
    bench.database.runtime.block_on(async {
        let listed = node
            .request(Method::GET, "/v1/tools", &node.admin, &Value::Null)
            .await
            .json();
        let shown = |name: &str| {
            let mut items = listed["items"].as_array().unwrap().iter();
            let tool = items.find(|tool| tool["name"] == name).unwrap();
            ["kind", "lane", "worker"].map(|field| tool[field].clone())
        };
        assert_eq!(shown("sql_query"), ["read", "safe", "builtin"]);
        assert_eq!(shown("record_create"), ["write", "safe", "builtin"]);
        let change = EmergencyChange {
            safe_mode: Some(true),
            reason: "test".into(),
            ..EmergencyChange::default()
        };
        let now = SystemClock.now();
        let changed = node.controls.change_emergency(&change, "ann", now);
        changed.await.unwrap();
        send(node, &[query.clone(), record.clone()]).await;
        let told = told(node, 2).await;
        let of = |command: &StepCommand| {
            let mut told = told.iter();
            told.find(|told| told.step() == command.step_id).unwrap()
        };
        assert!(of(&query).result().output.is_some());
        assert_eq!(of(&record).held().reason, "safe_mode");
    });
}

#[test]
fn a_record_is_made_once_however_often_it_is_called() {
    let Some(bench) = Bench::leads() else {
        return;
    };
    let config = bench.config("record_create", &[("tools.record_create.tables", TABLES)]);
    let mut calls = bench.start(&config);
    let name = "Robert'); DROP TABLE crm.leads; --";
    let values = json!({ "Name": name, "born": "2001-02-03", "extra": { "a": [1] } });
    let first = call(
        "record_create",
        &json!({ "table": "crm.leads", "values": values }),
    );
    let again = StepCommand {
        attempt: 2,
        ..first.clone()
    };
    let other = call(
        "record_create",
        &json!({ "table": "crm.leads", "values": { "Name": "Ann", "amount": null } }),
    );
    let mut results = calls.results(std::slice::from_ref(&first));
    results.extend(calls.results(&[again, other]));
    let outputs: Vec<_> = results
        .iter()
        .map(|r| r.output.clone().unwrap_or_else(|| panic!("{:?}", r.error)))
        .collect();
    assert_eq!(outputs[0].text(), outputs[1].text());
    let row = outputs[0].value();
    for (column, value) in [
        ("Name", json!(name)),
        ("omnilink_key", json!(first.idempotency_key)),
        ("tenant", json!("acme")),
        ("amount", json!(1.0)),
        ("born", json!("2001-02-03")),
        ("extra", json!({ "a": [1] })),
    ] {
        assert_eq!(row[column], value, "{column}");
    }
    assert!(row["made_at"].as_str().unwrap().ends_with("+00:00"));
    assert_eq!(outputs[2].value()["amount"], Value::Null);
    assert_ne!(outputs[2].value()["id"], row["id"]);
    assert_eq!(bench.database.number("SELECT count(*) FROM crm.leads"), 2);
}

#[test]
fn what_the_configuration_does_not_name_is_refused() {
    let Some(bench) = Bench::leads() else {
        return;
    };
    bench.database.run("CREATE TABLE crm.other (k text UNIQUE)");
    let tables = r#"[
        { "name": "crm.leads", "columns": ["Name", "amount", "born"], "key": "omnilink_key", "tenant": "tenant", "returning": ["id", "Name"] },
        { "name": "crm.other", "columns": ["x"], "key": "k" }]"#;
    let config = bench.config("record_create", &[("tools.record_create.tables", tables)]);
    let mut calls = bench.start(&config);
    for (table, values, code) in [
        ("crm.none", json!({}), "unknown_table"),
        ("crm.leads; --", json!({}), "unknown_table"),
        (
            "crm.leads",
            json!({ "omnilink_key": "k", "Name": "a" }),
            "unknown_column",
        ),
        (
            "crm.leads",
            json!({ "tenant": "beta", "Name": "a" }),
            "unknown_column",
        ),
        (
            "crm.leads",
            json!({ "Name\") VALUES ('x'); --": 1 }),
            "unknown_column",
        ),
        ("crm.leads", json!({ "amount": 1 }), "postgres_23502"),
        (
            "crm.leads",
            json!({ "Name": "a", "born": "never" }),
            "postgres_22007",
        ),
        (
            "crm.leads",
            json!({ "Name": "a", "amount": 1e30 }),
            "postgres_22003",
        ),
        ("crm.other", json!({}), "permission_denied"),
    ] {
        let result = calls.record(&json!({ "table": table, "values": values }));
        let error = result.error.unwrap_or_else(|| panic!("{table} {values}"));
        assert_eq!((&*error.code, error.retryable), (code, false), "{error:?}");
    }
    assert_eq!(bench.database.number("SELECT count(*) FROM crm.leads"), 0);
    let made = calls.record(&json!({ "table": "crm.leads", "values": { "Name": "a" } }));
    let made = made.output.unwrap().value();
    let members: Vec<_> = made.as_object().unwrap().keys().collect();
    assert_eq!(members, ["Name", "id"]);
    let query = calls.query("SELECT 1 AS x", &json!([]));
    assert_eq!(query.error.unwrap().code, "tool_not_configured");
}

#[test]
fn a_record_whose_result_was_lost_in_a_crash_is_made_once() {
    let Some(bench) = Bench::leads() else {
        return;
    };
    let config = bench.config("record_create", &[("tools.record_create.tables", TABLES)]);
    let outer = &bench.database.runtime;
    let node = outer.block_on(Node::start());
    let input = json!({ "table": "crm.leads", "values": { "Name": "Ann" } });
    let call = step(
        "a",
        "record_create",
        &json!({ "builtin": "record_create" }),
        &input,
    );
    outer.block_on(send(&node, &[call]));
    node.log.set_mode(Mode::Fails);
    let life = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let running = {
        let _in = life.enter();
        start_all(&node, &[], Duration::ZERO, &config.database_tools)
    };
    let count = "SELECT count(*) FROM crm.leads";
    wait_until("the record is there", || bench.database.number(count) == 1);
    // The process dies before the result is in the log.
    drop(running);
    drop(life);
    node.log.set_mode(Mode::Works);
    let running = {
        let _in = outer.enter();
        start_all(&node, &[], Duration::from_secs(1), &config.database_tools)
    };
    let results = outer.block_on(told(&node, 1));
    let made = results[0].result().output.as_ref().unwrap().value();
    assert_eq!(made["id"], 1);
    assert_eq!(bench.database.number(count), 1);
    drop(running);
}

#[test]
fn a_lost_connection_is_tried_again() {
    let Some(bench) = Bench::leads() else {
        return;
    };
    let config = bench.config("record_create", &[("tools.record_create.tables", TABLES)]);
    let mut calls = bench.start(&config);
    let input = json!({ "table": "crm.leads", "values": { "Name": "Ann" } });
    assert!(calls.record(&input).output.is_some());
    let end = format!(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usename = '{}'",
        bench.logins[0]
    );
    // One that was idle is replaced.
    assert_eq!(bench.database.number(&end), 1);
    assert!(calls.record(&input).output.is_some());

    // One that waits for another transaction in the middle of the call.
    let mut holder = bench.database.runtime.block_on(async {
        use sqlx::Connection;
        let mut holder = sqlx::PgConnection::connect_with(&bench.database.options)
            .await
            .unwrap();
        let lock = "BEGIN; LOCK TABLE crm.leads IN ACCESS EXCLUSIVE MODE";
        sqlx::raw_sql(lock).execute(&mut holder).await.unwrap();
        holder
    });
    let call = call("record_create", &input);
    bench
        .database
        .runtime
        .block_on(send(&calls.node, std::slice::from_ref(&call)));
    let waits = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE usename = '{}' AND wait_event_type = 'Lock'",
        bench.logins[0]
    );
    wait_until("the call waits", || bench.database.number(&waits) == 1);
    bench.database.number(&end);
    calls.sent += 1;
    let told = bench
        .database
        .runtime
        .block_on(told(&calls.node, calls.sent));
    let lost = told
        .iter()
        .find(|told| told.step() == call.step_id)
        .unwrap();
    assert!(lost.result().error.as_ref().unwrap().retryable, "{lost:?}");
    bench.database.runtime.block_on(async {
        sqlx::raw_sql("ROLLBACK")
            .execute(&mut holder)
            .await
            .unwrap();
    });
    let again = StepCommand { attempt: 2, ..call };
    assert!(calls.results(&[again])[0].output.is_some());

    // A server that is not there.
    drop(calls);
    let none = ("tools.record_create.url", "postgres://a:b@127.0.0.1:1/x");
    let config = bench.config(
        "record_create",
        &[("tools.record_create.tables", TABLES), none],
    );
    let error = bench.start(&config).record(&input).error.unwrap();
    assert_eq!((&*error.code, error.retryable), ("no_connection", true));
}

/// Follows `docs/database-tools.md`.
#[test]
fn the_page_is_right() {
    let Some(mut bench) = Bench::new(Database::empty(), &[], "") else {
        return;
    };
    let blocks = blocks("docs/database-tools.md", "## Set them up");
    let of = |language: &str| -> Vec<&String> {
        let of = blocks.iter().filter(|(of, _)| of == language);
        of.map(|(_, text)| text).collect()
    };
    let (sql, yaml) = (of("sql"), of("yaml"));
    let logins = ["q", "w"].map(|name| format!("{}_{name}", bench.database.name));
    let sql = sql[0]
        .replace("omnilink_queries", &logins[0])
        .replace("omnilink_records", &logins[1])
        .replace("change me", "x");
    bench.database.run(&sql);
    bench.logins = logins.to_vec();
    bench
        .database
        .run("INSERT INTO crm.customers VALUES ('a@example.com', 'Ann', 'bob')");

    let dir = Folder::new();
    std::fs::write(dir.path().join("omnilink.yaml"), yaml[0]).unwrap();
    std::fs::create_dir(dir.path().join("workflows")).unwrap();
    std::fs::write(dir.path().join("workflows/lead.yaml"), yaml[1]).unwrap();
    let urls = [&bench.logins[0], &bench.logins[1]].map(|login| bench.url(login));
    let env = [("QUERIES_URL", &*urls[0]), ("RECORDS_URL", &*urls[1])];
    let (code, out, error) = output(omnilink(dir.path(), &["check"]).envs(env));
    assert_eq!(code, 0, "{out}{error}");
    let (_, out, _) = output(omnilink(dir.path(), &["config"]).envs(env));
    assert!(
        out.contains("env:QUERIES_URL") && !out.contains(":x@"),
        "{out}"
    );

    let up = Up::start_env(dir.path(), &["--without", "projections"], &env);
    let key = std::fs::read_to_string(dir.path().join("data/admin.key")).unwrap();
    let start = |id: &str, email: &str| -> Value {
        let body = json!({ "id": id, "source": "/shop", "type": "lead", "workflow": { "name": "lead" }, "input": { "email": email } });
        let request = Request::post(format!("{}/v1/workflows", up.url))
            .header("authorization", format!("Bearer {}", key.trim()))
            .header("content-type", "application/json")
            .header("idempotency-key", id)
            .header("prefer", "wait=30")
            .body(Full::new(Bytes::from(body.to_string())))
            .unwrap();
        bench.database.runtime.block_on(async {
            let client = Client::builder(TokioExecutor::new()).build_http();
            let response = client.request(request).await.unwrap();
            let body = response.into_body().collect().await.unwrap().to_bytes();
            serde_json::from_slice(&body).unwrap()
        })
    };
    let known = start("1", "a@example.com");
    assert_eq!(known["status"], "succeeded", "{known}");
    assert_eq!(known["output"]["id"], 1);
    let unknown = start("2", "'; DROP TABLE crm.leads; --");
    assert_eq!(unknown["status"], "succeeded", "{unknown}");
    let leads =
        "SELECT string_agg(concat_ws('|', tenant, email, owner), ' ' ORDER BY id) FROM crm.leads";
    assert_eq!(
        bench.database.text(leads),
        "default|a@example.com|bob default|'; DROP TABLE crm.leads; --|nobody"
    );
    assert_eq!(up.stop(), 0);
}
