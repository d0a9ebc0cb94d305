//! Whole nodes carry runs out: `Prefer: wait` on starts, also on those of other nodes and those that came before, restarts, and
//! controls that hold a run.

use std::{
    io::{Read, Write},
    net::TcpStream,
    path::Path,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::support::{
    LogKind, TestLog,
    command::{Folder, Up, get, omnilink, output},
    env_or_skip,
    projections::Database,
    wait_until,
};

/// A node with two workflows.
fn folder() -> Folder {
    let folder = Folder::new();
    let workflows = folder.path().join("workflows");
    std::fs::create_dir(&workflows).unwrap();
    let add = "name: add\nversion: '1.0.0'\nparams: { type: object, required: [n] }\nplan:\n  steps:\n    - { id: a, tool: noop, input: { n: '{{ params.n + 1 }}' } }\n    - { id: b, tool: noop, input: { n: '{{ steps.a.output.n * 2 }}' }, depends_on: [a] }\n  output: { n: '{{ steps.b.output.n }}' }\n";
    let slow = "name: slow\nversion: '1.0.0'\nplan:\n  steps:\n    - { id: a, tool: wait, input: { for_s: 8 } }\n";
    let endless = "name: endless\nversion: '1.0.0'\nplan:\n  steps:\n    - { id: a, tool: wait, input: { signal: go, timeout_s: 600 } }\n";
    for (name, text) in [("add", add), ("slow", slow), ("endless", endless)] {
        std::fs::write(workflows.join(format!("{name}.yaml")), text).unwrap();
    }
    folder
}

fn up(folder: &Folder) -> Up {
    Up::start_with(folder.path(), &["--without", "projections"])
}

fn admin(folder: &Path) -> String {
    let key = std::fs::read_to_string(folder.join("data/admin.key")).unwrap();
    key.trim().to_owned()
}

/// Starts a workflow; returns the status, the head and the body.
fn post(up: &Up, folder: &Folder, headers: &[&str], body: &Value) -> (u16, String, Value) {
    let mut stream = TcpStream::connect(up.url.trim_start_matches("http://")).unwrap();
    let body = body.to_string();
    let headers = headers.join("\r\n");
    write!(
        stream,
        "POST /v1/workflows HTTP/1.1\r\nHost: omnilink\r\nConnection: close\r\nContent-Type: application/json\r\nAuthorization: Bearer {}\r\n{headers}\r\nContent-Length: {}\r\n\r\n{body}",
        admin(folder.path()),
        body.len()
    )
    .unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).unwrap();
    let (head, body) = response.split_once("\r\n\r\n").unwrap();
    let status = head[9..12].parse().unwrap();
    (
        status,
        head.to_lowercase(),
        serde_json::from_str(body).unwrap(),
    )
}

fn start(name: &str, input: &Value) -> Value {
    json!({ "id": "1", "source": "/test", "type": "test", "workflow": { "name": name }, "input": input })
}

#[test]
fn a_start_that_waits_is_answered_with_its_run() {
    let folder = folder();
    let node = up(&folder);
    let wait = ["Idempotency-Key: k1", "Prefer: wait=20"];
    let (status, head, run) = post(&node, &folder, &wait, &start("add", &json!({ "n": 4 })));
    assert_eq!(status, 200, "{run}");
    assert!(head.contains("preference-applied: wait"), "{head}");
    assert_eq!(run["status"], "succeeded");
    assert_eq!(run["output"], json!({ "n": 10 }));
    assert_eq!(
        run["workflow"],
        json!({ "name": "add", "version": "1.0.0" })
    );
    assert_eq!(run["steps"][1]["output"], json!({ "n": 10 }));
    assert_eq!(run["steps"][1]["attempts"], 1);
    let id = run["run_id"].as_str().unwrap();
    assert!(head.contains(&format!("location: /v1/runs/{id}")), "{head}");

    // A run that takes longer than the client waits.
    let wait = ["Idempotency-Key: k2", "Prefer: wait=1"];
    let began = Instant::now();
    let (status, _, accepted) = post(&node, &folder, &wait, &start("slow", &json!({})));
    assert_eq!(status, 202, "{accepted}");
    assert!(began.elapsed() >= Duration::from_secs(1));
    let slow = accepted["results"][0]["run_id"]
        .as_str()
        .unwrap()
        .to_owned();
    // Killed, and asked again: the run goes on, and the same start waits for it.
    drop(node);
    let node = up(&folder);
    let wait = ["Idempotency-Key: k2", "Prefer: wait=20"];
    let (status, _, run) = post(&node, &folder, &wait, &start("slow", &json!({})));
    assert_eq!(status, 200, "{run}");
    assert_eq!(run["run_id"], slow);
    assert!(
        began.elapsed() >= Duration::from_secs(8),
        "{:?}",
        began.elapsed()
    );
    assert_eq!(node.stop(), 0);
}

#[test]
fn the_kill_switch_holds_runs_and_lifting_it_lets_them_go_on() {
    let folder = folder();
    let node = up(&folder);
    let wait = ["Idempotency-Key: k1", "Prefer: wait=1"];
    let (status, ..) = post(&node, &folder, &wait, &start("slow", &json!({})));
    assert_eq!(status, 202);
    let set = |on: &str| {
        let args = ["controls", "set", "--kill-switch", on, "--reason", "test"];
        let mut command = omnilink(folder.path(), &args);
        let command = command.args(["--data-dir", "data"]);
        let (code, out, error) = output(command.env("OMNILINK_URL", &node.url));
        assert_eq!(code, 0, "{out}{error}");
    };
    set("on");
    let (status, _, problem) = post(
        &node,
        &folder,
        &["Idempotency-Key: k2"],
        &start("add", &json!({ "n": 1 })),
    );
    assert_eq!(
        (status, &problem["code"]),
        (503, &json!("omnilink_disabled"))
    );
    set("off");
    let wait = ["Idempotency-Key: k2", "Prefer: wait=20"];
    let (status, _, run) = post(&node, &folder, &wait, &start("add", &json!({ "n": 1 })));
    assert_eq!(
        (status, &run["status"]),
        (200, &json!("succeeded")),
        "{run}"
    );
    let wait = ["Idempotency-Key: k1", "Prefer: wait=20"];
    let (status, _, run) = post(&node, &folder, &wait, &start("slow", &json!({})));
    assert_eq!(
        (status, &run["status"]),
        (200, &json!("succeeded")),
        "{run}"
    );
}

/// Configures nodes on a Postgres of their own; on Kafka too, where a log is named.
fn configure(folder: &Folder, database: &Database, log: Option<&TestLog>) {
    let mut config = json!({ "postgres": { "url": database.url() } });
    if let Some(log) = log {
        config["kafka"] = json!({ "brokers": [env_or_skip("OMNILINK_TEST_KAFKA").unwrap()] });
        config["topics"] =
            json!({ "prefix": log.prefix, "partitions": 2, "replication_factor": 1 });
        config["secret_key"] = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=".into();
    }
    std::fs::write(folder.path().join("omnilink.yaml"), config.to_string()).unwrap();
}

fn wait_for_postgres(node: &Up) {
    wait_until("Postgres is in use", || {
        let response = get(&node.url, "/readyz");
        let (_, body) = response.split_once("\r\n\r\n").unwrap();
        let ready: Value = serde_json::from_str(body).unwrap();
        ready["parts"]["postgres"]["status"] == "ok"
    });
}

#[test]
fn the_same_start_again_is_answered_with_the_run_that_has_ended() {
    let Some(database) = Database::empty() else {
        return;
    };
    let folder = folder();
    configure(&folder, &database, None);
    let node = Up::start_with(folder.path(), &[]);
    wait_for_postgres(&node);
    let wait = ["Idempotency-Key: k1", "Prefer: wait=30"];
    let add = start("add", &json!({ "n": 4 }));
    let (status, _, first) = post(&node, &folder, &wait, &add);
    assert_eq!(status, 200, "{first}");
    let began = Instant::now();
    let (status, head, again) = post(&node, &folder, &wait, &add);
    assert_eq!(status, 200, "{again}");
    assert!(head.contains("preference-applied: wait"), "{head}");
    for field in ["run_id", "status", "output", "steps"] {
        assert_eq!(again[field], first[field], "{field}");
    }
    // Not the whole wait: the row comes within a second.
    assert!(
        began.elapsed() < Duration::from_secs(10),
        "{:?}",
        began.elapsed()
    );
    assert_eq!(node.stop(), 0);
}

#[test]
fn a_start_waits_for_a_run_that_another_node_carries_out() {
    let (Some(database), Some(test_log)) = (Database::empty(), TestLog::new(LogKind::Kafka)) else {
        return;
    };
    let folder = folder();
    configure(&folder, &database, Some(&test_log));
    let mut first = omnilink(folder.path(), &["keys", "create", "--first"]);
    let (code, _, error) = output(first.args(["--data-dir", "data"]));
    assert_eq!(code, 0, "{error}");
    let port = Up::start_with(folder.path(), &["--without", "sagas"]);
    let other = self::folder();
    configure(&other, &database, Some(&test_log));
    let runs = Up::start_with(other.path(), &[]);
    wait_for_postgres(&port);
    wait_for_postgres(&runs);
    let wait = ["Idempotency-Key: k1", "Prefer: wait=50"];
    let add = start("add", &json!({ "n": 4 }));
    for _ in 0..2 {
        let (status, _, run) = post(&port, &folder, &wait, &add);
        assert_eq!(
            (status, &run["status"], &run["output"]),
            (200, &json!("succeeded"), &json!({ "n": 10 })),
            "{run}"
        );
    }
    assert_eq!(runs.stop(), 0);
    assert_eq!(port.stop(), 0);
}

#[test]
fn a_node_that_stops_answers_those_that_wait() {
    let folder = folder();
    let mut node = up(&folder);
    let answered = std::thread::scope(|scope| {
        let waits = scope.spawn(|| {
            let wait = ["Idempotency-Key: k1", "Prefer: wait=60"];
            post(&node, &folder, &wait, &start("endless", &json!({})))
        });
        std::thread::sleep(Duration::from_secs(1));
        let began = Instant::now();
        node.signal();
        let (status, _, accepted) = waits.join().unwrap();
        assert_eq!(status, 202, "{accepted}");
        assert_eq!(accepted["results"][0]["status"], "queued");
        began.elapsed()
    });
    assert!(answered < Duration::from_secs(5), "{answered:?}");
    assert_eq!(node.child.wait().unwrap().code(), Some(0));
}
