//! The audit log from a request to the command line, on a running node.

use omnilink::audit::Entry;
use serde_json::{Value, json};
use sqlx::ConnectOptions;

use crate::{
    dlq::letter,
    support::{
        LogKind, TestLog, append,
        command::{Folder, Up, omnilink, output},
        env_or_skip,
        projections::Database,
        read_all, record, wait_until,
    },
};

#[test]
fn from_a_request_to_the_command_line() {
    let Some(database) = Database::empty() else {
        return;
    };
    let dir = Folder::new();
    let dir = dir.path();
    let url = database.options.to_url_lossy();
    let yaml = format!("postgres: {{ url: '{url}' }}\naudit: {{ retention_days: 30 }}\n");
    std::fs::write(dir.join("omnilink.yaml"), yaml).unwrap();
    let up = Up::start_with(dir, &[]);
    let ask = |args: &[&str]| {
        let mut command = omnilink(dir, args);
        output(
            command
                .env("OMNILINK_URL", &up.url)
                .args(["--data-dir", "data"]),
        )
    };
    let items = |args: &[&str]| -> Vec<Value> {
        let (code, out, error) = ask(args);
        assert_eq!(code, 0, "{error}");
        let list: Value = serde_json::from_str(&out).unwrap();
        list["items"].as_array().unwrap().clone()
    };
    let (code, _, error) = ask(&[
        "keys",
        "create",
        "--name",
        "shop",
        "--permission",
        "events:write",
    ]);
    assert_eq!(code, 0, "{error}");
    wait_until("Postgres is in use", || ask(&["audit", "--json"]).0 == 0);
    let listed = [
        "audit",
        "--action",
        "key.created",
        "--since",
        "1h",
        "--json",
    ];
    // That of the first key, which the node has created, and this one.
    wait_until("the entries", || items(&listed).len() == 2);
    assert_eq!(items(&listed)[1]["principal"], "omnilink");
    let entry = &items(&listed)[0];
    assert_eq!(entry["action"], "key.created");
    assert_eq!(entry["principal"], "admin");
    assert_eq!(entry["detail"]["name"], "shop");
    let (_, table, _) = ask(&["audit", "--principal", "admin"]);
    assert!(
        table.starts_with("AT ") && table.contains("key.created"),
        "{table}"
    );
    assert!(items(&["audit", "--principal", "nobody", "--json"]).is_empty());
    assert!(items(&["audit", "--until", "1h", "--json"]).is_empty());
    wait_until("the keys", || {
        database.number("SELECT count(*) FROM omnilink.api_keys WHERE revoked_at IS NULL") == 2
    });

    let (code, out, error) = ask(&["rebuild", "audit", "odoo", "--json"]);
    assert_eq!(code, 0, "{error}");
    assert!(out.contains("\"status\":\"done\""), "{out}");
    assert_eq!(items(&listed).len(), 2);
    // The rebuild is an entry of the whole installation.
    let rebuilds = [
        "audit",
        "--tenant",
        "-",
        "--action",
        "rebuild.started",
        "--json",
    ];
    wait_until("the rebuild", || items(&rebuilds).len() == 1);
    let (code, _, error) = ask(&["rebuild", "api_keys"]);
    assert_eq!(code, 1);
    assert!(error.contains("follows the topic `controls`"), "{error}");

    let topics = items(&["topics", "list", "--json"]);
    let audit = topics
        .iter()
        .find(|t| t["name"] == "omnilink.audit")
        .unwrap();
    assert!(audit["cleanup"].as_str().unwrap().contains("30"), "{audit}");
    let processors: Vec<Value> = items(&["lag", "--json"]);
    for name in ["events", "runs", "audit", "odoo", "odoo.dlq"] {
        assert!(
            processors.iter().any(|item| item["processor"] == name),
            "{name}"
        );
    }
    let (_, out, _) = ask(&["doctor", "--json"]);
    let checks: Value = serde_json::from_str(&out).unwrap();
    let check = |name: &str| {
        let all = checks["items"].as_array().unwrap();
        all.iter().find(|c| c["check"] == name).unwrap()["status"].clone()
    };
    assert_eq!(
        (check("rights"), check("clock")),
        ("ok".into(), "ok".into()),
        "{out}"
    );
    assert_eq!(up.stop(), 0);
}

#[test]
fn commands_on_the_log_itself_leave_the_same_entries() {
    let Some(test_log) = TestLog::new(LogKind::Kafka) else {
        return;
    };
    let folder = Folder::new();
    let dir = folder.path();
    let config = json!({
        "kafka": { "brokers": [env_or_skip("OMNILINK_TEST_KAFKA").unwrap()] },
        "topics": { "prefix": test_log.prefix, "partitions": 1, "replication_factor": 1 },
        "secret_key": "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
    });
    std::fs::write(dir.join("omnilink.yaml"), config.to_string()).unwrap();
    let run = |args: &[&str]| {
        let mut command = omnilink(dir, args);
        let command = command.args(["--data-dir", "data"]).env("USER", "ann");
        let (code, out, error) = output(command);
        assert_eq!(code, 0, "{args:?} {out}{error}");
        assert!(!error.contains("audit log"), "{error}");
    };
    let copy = format!("copy-{}", test_log.prefix.trim_end_matches('.'));
    run(&["topics", "create"]);
    run(&["keys", "create", "--first"]);
    run(&["topics", "create", &copy, "--partitions", "1"]);
    let log = test_log.open("reader");
    let (dlq, events) = (test_log.topic("dlq"), test_log.topic("events"));
    let lost = letter(
        record("k", "{}"),
        &test_log.topic("ingress"),
        0,
        "missing_tenant",
    );
    append(&*log, &dlq, vec![lost]).unwrap();
    run(&["dlq", "show", "0:0"]);
    run(&["dlq", "redrive", "0:0"]);
    run(&["replay", "--json"]);
    let into = format!("topic:{copy}");
    run(&[
        "replay", "--tenant", "acme", "--type", "a", "--type", "b.*", "--into", &into,
    ]);

    let entries = read_all(&*log, &test_log.topic("audit"), 6);
    let entries: Vec<_> = entries
        .iter()
        .map(|fetched| Entry::decode(fetched.record.value.as_deref().unwrap()).unwrap())
        .collect();
    for entry in &entries {
        let principal = entry.principal.as_deref().unwrap();
        assert!(principal.starts_with("cli:ann@"), "{principal}");
        assert!(principal.len() > "cli:ann@".len() && entry.outcome == "ok");
    }
    // Each topic of the system, then the others.
    let of_topics = entries.iter().filter(|e| e.action == "topic.created");
    assert!(of_topics.count() > 10);
    let last: Vec<_> = entries[entries.len() - 6..]
        .iter()
        .map(|e| (&*e.action, &*e.tenant, e.resource_id.as_deref().unwrap()))
        .collect();
    let key = last[0].2;
    assert_eq!(
        last,
        [
            ("key.created", "default", key),
            ("topic.created", "-", &*copy),
            ("letter.read", "-", "0:0"),
            ("letter.redriven", "-", &*dlq),
            ("event.replayed", "-", &*events),
            ("event.copied", "acme", &*copy),
        ]
    );
    let detail: Value = serde_json::from_str(&entries.last().unwrap().detail).unwrap();
    assert_eq!(detail, json!({ "tenant": "acme", "type": ["a", "b.*"] }));
}
