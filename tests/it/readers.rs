//! `/v1/readers`, `omnilink readers`, and the table `reader_grants` that is derived from them.

use std::{sync::Arc, time::Duration};

use hyper::{Method, StatusCode};
use omnilink::{
    base::{
        clock::{Clock, SystemClock},
        id::{Login, Tenant},
    },
    controls::{Controls, SecretKeys, Tail},
    log::{Append, Cleanup, Log},
    projections::{ControlledTable, ControlledTables},
    store::{Store, grants},
    stream::progress::Progress,
};
use serde_json::{Value, json};

use crate::{
    rls::Readers,
    support::{
        LogKind, TestLog,
        command::{Folder, Up, omnilink, output},
        port::{Mode, Node, Response, scopes},
        read_all, wait_until,
    },
};

async fn grant(node: &Node, key: &str, body: &Value) -> Response {
    node.request(Method::POST, "/v1/readers", key, body).await
}

async fn revoke(node: &Node, key: &str, rest: &str) -> Response {
    let path = format!("/v1/readers/{rest}");
    node.request(Method::DELETE, &path, key, &Value::Null).await
}

async fn list(node: &Node, key: &str, query: &str) -> Response {
    let path = format!("/v1/readers{query}");
    node.request(Method::GET, &path, key, &Value::Null).await
}

/// Login and tenant of each item.
fn items(list: &Value) -> Vec<(&str, &str)> {
    let items = list["items"].as_array().unwrap().iter();
    items
        .map(|i| (i["login"].as_str().unwrap(), i["tenant"].as_str().unwrap()))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_is_granted_listed_and_revoked() {
    let node = Node::start().await;
    let admin = node.admin.clone();
    let asked = json!({ "login": "analyst" });
    let response = grant(&node, &admin, &asked).await;
    assert_eq!(response.status, StatusCode::CREATED, "{}", response.text);
    let made = response.json();
    assert_eq!(
        (&made["login"], &made["tenant"], &made["granted_by"]),
        (&json!("analyst"), &json!("acme"), &json!("tester"))
    );
    assert!(made["granted_at"].as_str().unwrap().ends_with('Z'));
    assert_eq!(grant(&node, &admin, &asked).await.status, StatusCode::OK);

    // A name that must be escaped in a path, and one that differs only by case.
    for login in ["a/b \"c\"%", "Analyst"] {
        let body = json!({ "login": login, "tenant": "beta" });
        assert_eq!(
            grant(&node, &admin, &body).await.status,
            StatusCode::CREATED
        );
    }
    let all = list(&node, &admin, "").await.json();
    let newest_first = [
        ("Analyst", "beta"),
        ("a/b \"c\"%", "beta"),
        ("analyst", "acme"),
    ];
    assert_eq!(items(&all), newest_first);
    assert_eq!(
        revoke(&node, &admin, "a%2Fb%20%22c%22%25?tenant=beta")
            .await
            .status,
        StatusCode::NO_CONTENT
    );
    let again = revoke(&node, &admin, "a%2Fb%20%22c%22%25?tenant=beta").await;
    assert_eq!(again.status, StatusCode::NOT_FOUND);
    assert_eq!(again.code(), "not_found");

    // Also after a restart.
    let node = Node::start_in(node.stop().await).await;
    let all = list(&node, &admin, "").await.json();
    assert_eq!(items(&all), [("Analyst", "beta"), ("analyst", "acme")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_admin_grants_its_own_tenant_and_an_operator_any() {
    let node = Node::start().await;
    let admin = node.key("acme", scopes(&["admin"])).await;
    let operator = node.key("acme", scopes(&["operator"])).await;
    let writer = node.key("acme", scopes(&["events:*"])).await;
    let to = |login: &str, tenant: &str| json!({ "login": login, "tenant": tenant });
    // key, body, status, code
    let cases: Vec<(&str, Value, u16, &str)> = vec![
        (&writer, to("analyst", "acme"), 403, "permission_denied"),
        (&admin, to("analyst", "beta"), 403, "permission_denied"),
        (&operator, to("analyst", "no/name"), 400, "invalid_payload"),
        (&admin, to("", "acme"), 400, "missing_login"),
        (&admin, json!({}), 400, "missing_login"),
        (&admin, to("a\u{0}", "acme"), 400, "invalid_payload"),
        (&admin, to(&"x".repeat(64), "acme"), 400, "invalid_payload"),
        (
            &admin,
            json!({ "login": "a", "role": "b" }),
            400,
            "invalid_payload",
        ),
    ];
    for (key, body, status, code) in cases {
        let response = grant(&node, key, &body).await;
        assert_eq!(
            (response.status.as_u16(), response.code().as_str()),
            (status, code),
            "{body}: {}",
            response.text
        );
    }
    let nobody = node.call(Method::GET, "/v1/readers", &[], "").await;
    assert_eq!(nobody.code(), "unauthorized");
    for (key, tenant) in [(&admin, "acme"), (&operator, "beta")] {
        let response = grant(&node, key, &to("analyst", tenant)).await;
        assert_eq!(response.status, StatusCode::CREATED, "{}", response.text);
    }

    // An admin lists the grants of its own tenant, an operator all or those of a tenant.
    let seen = async |key: &str, query: &str| {
        let all = list(&node, key, query).await.json();
        let items = items(&all);
        items
            .iter()
            .map(|(_, t)| (*t).to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(seen(&admin, "").await, ["acme"]);
    assert_eq!(seen(&operator, "").await, ["beta", "acme"]);
    assert_eq!(seen(&operator, "?tenant=beta").await, ["beta"]);
    for (key, query, code) in [
        (&admin, "?tenant=beta", "permission_denied"),
        (&writer, "", "permission_denied"),
        (&admin, "?limit=0", "invalid_payload"),
        (&admin, "?cursor=x", "invalid_payload"),
        (&admin, "?colour=red", "invalid_payload"),
    ] {
        assert_eq!(list(&node, key, query).await.code(), code, "{query}");
    }

    let cases = [
        (&writer, "analyst", "permission_denied"),
        (&admin, "analyst?tenant=beta", "permission_denied"),
        (&admin, "somebody", "not_found"),
        (&operator, "analyst?tenant=gamma", "not_found"),
        (&admin, "analyst?colour=red", "invalid_payload"),
    ];
    for (key, rest, code) in cases {
        assert_eq!(revoke(&node, key, rest).await.code(), code, "{rest}");
    }
    assert_eq!(
        revoke(&node, &operator, "analyst?tenant=beta").await.status,
        StatusCode::NO_CONTENT
    );
    assert_eq!(seen(&operator, "").await, ["acme"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_come_in_pages() {
    let node = Node::start().await;
    for n in 0..5 {
        let response = grant(&node, &node.admin, &json!({ "login": format!("r{n}") })).await;
        assert_eq!(response.status, StatusCode::CREATED);
    }
    let mut seen = Vec::new();
    let mut query = "?limit=2".to_owned();
    loop {
        let page = list(&node, &node.admin, &query).await.json();
        let names = items(&page);
        assert!(names.len() <= 2);
        seen.extend(names.iter().map(|(login, _)| (*login).to_owned()));
        // A revocation between two pages does not shift the next page.
        if seen.len() == 2 {
            let ended = revoke(&node, &node.admin, "r3").await;
            assert_eq!(ended.status, StatusCode::NO_CONTENT);
        }
        match page["next_cursor"].as_str() {
            Some(cursor) => query = format!("?limit=2&cursor={cursor}"),
            None => break,
        }
    }
    assert_eq!(seen, ["r4", "r3", "r2", "r1", "r0"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn write_access_to_the_topic_grants_nothing() {
    let node = Node::start().await;
    let response = grant(&node, &node.admin, &json!({ "login": "analyst" })).await;
    assert_eq!(response.status, StatusCode::CREATED);
    let (log, topic) = (node.log.clone(), node.names.controls.to_string());
    let records = tokio::task::spawn_blocking(move || read_all(log.as_ref(), &topic, 2))
        .await
        .unwrap();
    // A grant for another login, with the body and the seal of a valid one.
    let mut forged = records.last().unwrap().record.clone();
    assert_eq!(forged.key.as_deref(), Some(&b"acme/reader/analyst"[..]));
    forged.key = Some("acme/reader/mallory".into());
    let append = Append {
        topic: node.names.controls.clone(),
        record: forged,
    };
    node.log.append(vec![append], None).await.unwrap().unwrap();
    // A later record has been read, so it has been read as well.
    grant(&node, &node.admin, &json!({ "login": "last" })).await;
    let all = list(&node, &node.admin, "").await.json();
    assert_eq!(items(&all), [("last", "acme"), ("analyst", "acme")]);
}

/// A node's controls, and their projection to a database.
struct Follower {
    controls: Arc<Controls>,
    progress: Arc<Progress>,
    _grants: ControlledTables,
    _tail: Tail,
}

impl Follower {
    fn start(readers: &Readers, test_log: &TestLog, node: &str, store: Store) -> Self {
        let log = test_log.open(node);
        log.provision(&[test_log.spec("controls", 1, Cleanup::Compact)], true)
            .unwrap();
        let secrets = SecretKeys::open_or_create(test_log.dir.path()).unwrap();
        let topic = test_log.topic("controls").into();
        let (controls, tail) = Controls::start(log, topic, secrets).unwrap();
        let runtime = &readers.database.runtime;
        assert!(runtime.block_on(controls.wait_readable(Duration::from_secs(20))));
        let progress = Arc::<Progress>::default();
        let table = ControlledTable::reader_grants(&controls);
        let tables = [(table, Arc::clone(&progress))];
        let grants = ControlledTables::start(runtime.handle(), &store, tables);
        Self {
            controls,
            progress,
            _grants: grants,
            _tail: tail,
        }
    }

    fn grant(&self, readers: &Readers, login: &str, tenant: &str) {
        let tenant = Tenant::new(tenant).unwrap();
        let login = Login::new(login).unwrap();
        let now = SystemClock.now();
        let granting = self.controls.grant_reader(tenant, login, "test", now);
        readers.database.runtime.block_on(granting).unwrap();
    }

    fn revoke(&self, readers: &Readers, tenant: &str) {
        let tenant = Tenant::new(tenant).unwrap();
        let login = Login::new(&readers.login).unwrap();
        let now = SystemClock.now();
        let revoking = self.controls.revoke_reader(&tenant, &login, "test", now);
        readers.database.runtime.block_on(revoking).unwrap();
    }
}

#[test]
fn the_table_follows_controls_on_the_embedded_log() {
    the_table_follows(LogKind::Local);
}

#[test]
fn the_table_follows_controls_on_kafka() {
    the_table_follows(LogKind::Kafka);
}

fn the_table_follows(kind: LogKind) {
    let (Some(readers), Some(test_log)) = (Readers::new(""), TestLog::new(kind)) else {
        return;
    };
    let login = readers.login.clone();
    let start = |node: &str| Follower::start(&readers, &test_log, node, readers.database.store());
    let sees = |tenants: &[&str]| {
        wait_until(&format!("{tenants:?}"), || readers.seen() == tenants);
    };
    let one = start("one");
    sees(&[]);
    // A login that does not exist does no harm.
    one.grant(&readers, "nobody is called so", "acme");
    one.grant(&readers, &login, "acme");
    sees(&["acme"]);
    one.grant(&readers, &login, "beta");
    sees(&["acme", "beta"]);
    one.revoke(&readers, "acme");
    sees(&["beta"]);
    // Manual changes of the table are reverted.
    readers.database.run(&format!(
        "INSERT INTO omnilink.reader_grants VALUES ('{login}', 'gamma'); \
         DELETE FROM omnilink.reader_grants WHERE tenant = 'beta'"
    ));
    one.grant(&readers, "somebody", "gamma");
    sees(&["beta"]);

    // The next start reads the whole topic, including revocations.
    drop(one);
    readers
        .database
        .run("INSERT INTO omnilink.reader_grants VALUES ('x', 'acme'); DELETE FROM omnilink.reader_grants WHERE tenant = 'beta'");
    let one = start("one");
    sees(&["beta"]);
    assert_eq!(
        readers
            .database
            .number("SELECT count(*) FROM omnilink.reader_grants"),
        3
    );
    one.revoke(&readers, "beta");
    sees(&[]);
    assert_eq!(one.progress.trouble(), None);
}

/// Several nodes write the same grants at the same time.
#[test]
fn several_nodes_agree() {
    let (Some(readers), Some(test_log)) = (Readers::new(""), TestLog::new(LogKind::Kafka)) else {
        return;
    };
    let nodes: Vec<_> = ["one", "two", "three"]
        .map(|node| Follower::start(&readers, &test_log, node, readers.database.store()))
        .into();
    let tenants = ["acme", "beta", "gamma"];
    for round in 0..5 {
        for (node, tenant) in nodes.iter().zip(tenants) {
            node.grant(&readers, &readers.login, tenant);
            node.grant(&readers, &format!("r{round}"), tenant);
        }
        nodes[round % 3].revoke(&readers, tenants[(round + 1) % 3]);
    }
    // All nodes have read all records.
    let expected: Vec<_> = tenants.into_iter().filter(|t| *t != "gamma").collect();
    assert_eq!(tenants[(4 + 1) % 3], "gamma");
    wait_until("the last word", || {
        nodes
            .iter()
            .all(|n| n.controls.readers(None).len() == 5 * 3 + 2)
    });
    wait_until("the table", || readers.seen() == expected);
    // No node overwrites it with an older set.
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(readers.seen(), expected);
}

#[test]
fn grants_wait_for_an_unavailable_postgres() {
    let (Some(readers), Some(test_log)) = (Readers::new(""), TestLog::new(LogKind::Local)) else {
        return;
    };
    let database = &readers.database;
    let node = Follower::start(&readers, &test_log, "one", database.store());
    node.grant(&readers, &readers.login, "acme");
    wait_until("acme", || readers.seen() == ["acme"]);

    let name = &database.name;
    database.admin(&format!("ALTER DATABASE {name} ALLOW_CONNECTIONS false"));
    database.admin(&format!(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"
    ));
    node.revoke(&readers, "acme");
    node.grant(&readers, &readers.login, "beta");
    wait_until("it says so", || node.progress.trouble().is_some());
    database.admin(&format!("ALTER DATABASE {name} ALLOW_CONNECTIONS true"));
    wait_until("beta", || readers.seen() == ["beta"]);
    wait_until("it works", || node.progress.trouble().is_none());
    let listed = database.runtime.block_on(grants::list(&database.store()));
    assert_eq!(listed.unwrap().len(), 1);
}

/// An old state may contain grants that have been revoked since.
#[test]
fn a_node_that_cannot_read_controls_writes_nothing() {
    let Some(readers) = Readers::new("") else {
        return;
    };
    let database = &readers.database;
    let node = database.runtime.block_on(async {
        let node = Node::start().await;
        let body = json!({ "login": readers.login });
        let response = grant(&node, &node.admin, &body).await;
        assert_eq!(response.status, StatusCode::CREATED);
        node
    });
    node.log.set_mode(Mode::Unavailable);
    wait_until("controls cannot be read", || !node.controls.readable());
    let progress = Arc::<Progress>::default();
    let table = ControlledTable::reader_grants(&node.controls);
    let tables = [(table, Arc::clone(&progress))];
    let _grants = ControlledTables::start(database.runtime.handle(), &database.store(), tables);
    wait_until("it says so", || progress.trouble().is_some());
    assert!(readers.seen().is_empty());
    node.log.set_mode(Mode::Works);
    wait_until("acme", || readers.seen() == ["acme"]);
    wait_until("it works", || progress.trouble().is_none());
}

#[test]
fn from_the_command_line_to_the_rows() {
    let Some(readers) = Readers::new("") else {
        return;
    };
    let dir = Folder::new();
    let dir = dir.path();
    let url = {
        use sqlx::ConnectOptions;
        readers.database.options.to_url_lossy()
    };
    std::fs::write(
        dir.join("omnilink.yaml"),
        format!("postgres: {{ url: '{url}' }}\n"),
    )
    .unwrap();
    let login = readers.login.as_str();
    let up = Up::start_with(dir, &[]);
    let ask = |up: &Up, args: &[&str]| {
        let mut command = omnilink(dir, args);
        output(
            command
                .env("OMNILINK_URL", &up.url)
                .args(["--data-dir", "data"]),
        )
    };
    let parsed = |(code, out, error): (i32, String, String)| -> Value {
        assert_eq!(code, 0, "{error}");
        serde_json::from_str(&out).unwrap()
    };
    let made = parsed(ask(&up, &["readers", "grant", login, "acme", "--json"]));
    assert_eq!(
        (&made["login"], &made["tenant"], &made["granted_by"]),
        (&json!(login), &json!("acme"), &json!("admin"))
    );
    let (code, out, note) = ask(&up, &["readers", "grant", "Not yet", "beta"]);
    assert_eq!((code, out.as_str()), (0, ""));
    assert!(
        note.contains("GRANT omnilink_reader TO \"Not yet\""),
        "{note}"
    );
    wait_until("acme", || readers.seen() == ["acme"]);

    let listed = parsed(ask(&up, &["readers", "list", "--json"]));
    assert_eq!(items(&listed), [("Not yet", "beta"), (login, "acme")]);
    let page = parsed(ask(&up, &["readers", "list", "--limit", "1", "--json"]));
    let cursor = page["next_cursor"].as_str().unwrap();
    let rest = parsed(ask(&up, &["readers", "list", "--cursor", cursor, "--json"]));
    assert_eq!(items(&rest), [(login, "acme")]);
    let (_, table, _) = ask(&up, &["readers", "list", "--tenant", "beta"]);
    assert!(
        table.starts_with("LOGIN ") && table.contains("\nNot yet  beta"),
        "{table}"
    );
    let (code, _, error) = ask(&up, &["readers", "revoke", login, "beta"]);
    assert_eq!(code, 1);
    assert!(
        error.contains("404") && error.contains("not_found"),
        "{error}"
    );

    // Neither a stop nor a start changes the table.
    assert_eq!(up.stop(), 0);
    assert_eq!(readers.seen(), ["acme"]);
    let up = Up::start_with(dir, &[]);
    let revoked = parsed(ask(&up, &["readers", "revoke", login, "acme", "--json"]));
    assert_eq!(
        revoked,
        json!({ "login": login, "tenant": "acme", "status": "revoked" })
    );
    wait_until("nothing", || readers.seen().is_empty());
    assert_eq!(up.stop(), 0);
}
