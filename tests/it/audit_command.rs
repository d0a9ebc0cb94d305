//! The audit log from a request to the command line, on a running node.

use serde_json::Value;
use sqlx::ConnectOptions;

use crate::support::{
    command::{Folder, Up, omnilink, output},
    projections::Database,
    wait_until,
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
    wait_until("the entry", || !items(&listed).is_empty());
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
    assert_eq!(items(&listed).len(), 1);
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
