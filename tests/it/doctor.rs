//! `omnilink doctor` and other servers: Redis, and who is notified.

use std::net::TcpListener;

use serde_json::{Value, json};

use crate::support::{
    command::{Folder, omnilink, output},
    redis::Server,
};

/// Status and detail of a check, each time that it was made.
fn examine(config: &Value, check: &str) -> Vec<(String, String)> {
    let folder = Folder::new();
    let file = folder.path().join("omnilink.yaml");
    std::fs::write(file, config.to_string()).unwrap();
    let (_, out, error) = output(&mut omnilink(folder.path(), &["doctor", "--json"]));
    assert!(!out.contains("hush"), "{out}");
    let found: Value = serde_json::from_str(&out).unwrap_or_else(|e| panic!("{e}: {out}{error}"));
    let items = found["items"].as_array().unwrap().iter();
    items
        .filter(|item| item["check"] == check)
        .map(|item| {
            let text = |name: &str| item[name].as_str().unwrap().to_owned();
            (text("status"), text("detail"))
        })
        .collect()
}

#[test]
fn commands_that_redis_refuses_are_named() {
    let Some(server) = Server::start(&[]) else {
        return;
    };
    let client = redis::Client::open(format!("redis://127.0.0.1:{}", server.port)).unwrap();
    let mut connection = client.get_connection().unwrap();
    let mut user = |name: &str, rules: &[&str]| {
        let mut command = redis::cmd("ACL");
        command.arg("SETUSER").arg(name);
        command.arg(&["on", ">hush", "~*", "+@all"]).arg(rules);
        let () = command.query(&mut connection).unwrap();
        let url = format!("redis://{name}:hush@127.0.0.1:{}", server.port);
        examine(&json!({ "redis": { "url": url } }), "redis")
    };
    assert_eq!(user("all", &[]), [("ok".to_owned(), String::new())]);
    let found = user("few", &["-eval", "-set"]);
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].0, "failed");
    assert!(found[0].1.contains("may not use EVAL, SET,"), "{found:?}");
    // It has left nothing behind.
    let keys: i64 = redis::cmd("DBSIZE").query(&mut connection).unwrap();
    assert_eq!(keys, 0);
}

#[test]
fn servers_of_notifications_are_reached() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let open = listener.local_addr().unwrap().port();
    // Nobody listens there any more.
    let closed = {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().port()
    };
    let item = |port: u16| {
        let url = format!("http://user:hush@127.0.0.1:{port}/hush");
        let webhook = json!({ "url": url, "secret": "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIz" });
        json!({ "on": ["dlq"], "to": { "webhook": webhook } })
    };
    let of = |ports: &[u16]| {
        let items: Vec<_> = ports.iter().map(|port| item(*port)).collect();
        examine(&json!({ "notify": items }), "notify")
    };
    assert_eq!(
        of(&[open, open]),
        [("ok".to_owned(), "1 servers accept connections".to_owned())]
    );
    let found = of(&[open, closed]);
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].0, "warning");
    let place = format!("127.0.0.1:{closed} does not accept connections");
    assert!(found[0].1.starts_with(&place), "{found:?}");
}
