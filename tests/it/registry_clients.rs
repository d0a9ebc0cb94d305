//! Schema registries with real clients: Python and kcat read the system's topics, and a node reads an external registry.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use omnilink::log::{Cleanup, TopicSpec};
use serde_json::{Value, json};

use crate::support::{
    LogKind, TestLog, append,
    command::{Folder, Up, get as get_raw, omnilink, output},
    env_or_skip,
    schema_registry::{Mode, TestRegistry},
};

/// A node on Kafka, and an external schema registry.
struct Fixture {
    test_log: TestLog,
    dir: Folder,
    up: Up,
    external: TestRegistry,
    orders: String,
}

impl Fixture {
    fn new() -> Option<Self> {
        Self::with("", &[])
    }

    /// With another registry URL, and environment variables.
    fn with(registry: &str, env: &[(&str, &str)]) -> Option<Self> {
        let brokers = env_or_skip("OMNILINK_TEST_KAFKA")?;
        let test_log = TestLog::new(LogKind::Kafka)?;
        let dir = Folder::new();
        let external = TestRegistry::start();
        let orders = format!("f{}orders", test_log.prefix);
        let topic = TopicSpec {
            name: orders.as_str().into(),
            partitions: 2,
            cleanup: Cleanup::Keep,
        };
        test_log.open("admin").provision(&[topic], true).unwrap();
        let file = format!(
            r#"
name: orders
source: {{ topic: {orders}, codec: avro, tenant: acme }}
steps:
  - map: |
      . = {{ "id": to_string!(.id), "source": "/shop", "type": "order." + downcase!(.state), "time": .at,
            "entity": {{ "type": "order", "external_id": to_string!(.id) }}, "data": . }}
  - route: [ {{ to: ingress }} ]
"#
        );
        std::fs::create_dir(dir.path().join("topologies")).unwrap();
        std::fs::write(dir.path().join("topologies/orders.yaml"), file).unwrap();
        let config = format!(
            "kafka: {{ brokers: [\"{brokers}\"] }}\ntopics: {{ prefix: \"{}\", partitions: 2, replication_factor: 1 }}\n\
             schema_registry: {{ url: \"{}\" }}\nsecret_key: AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n",
            test_log.prefix,
            if registry.is_empty() {
                &external.url
            } else {
                registry
            }
        );
        std::fs::write(dir.path().join("omnilink.yaml"), config).unwrap();
        let (code, _, error) = output(
            omnilink(dir.path(), &["keys", "create", "--first"]).args(["--data-dir", "data"]),
        );
        assert_eq!(code, 0, "{error}");
        let up = Up::start_env(dir.path(), &["--without", "projections"], env);
        Some(Self {
            test_log,
            dir,
            up,
            external,
            orders,
        })
    }

    fn python(python: &str, script: &str, registry: &str, topic: &str, count: usize) -> Vec<Value> {
        let brokers = env_or_skip("OMNILINK_TEST_KAFKA").unwrap();
        let script = format!("{}/tests/clients/{script}", env!("CARGO_MANIFEST_DIR"));
        let mut command = Command::new(python);
        command.args([&script, &brokers, registry, topic, &count.to_string()]);
        let (code, out, error) = output(&mut command);
        assert_eq!(code, 0, "{script}: {error}{out}");
        out.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    fn kcat(&self, kcat: &str, topic: &str, count: usize) -> Vec<Value> {
        let brokers = env_or_skip("OMNILINK_TEST_KAFKA").unwrap();
        let mut command = Command::new(kcat);
        let registry = &self.up.url;
        command.args([
            "-b",
            &brokers,
            "-C",
            "-t",
            topic,
            "-s",
            "value=avro",
            "-r",
            registry,
            "-q",
            "-e",
        ]);
        command.args([
            "-X",
            "isolation.level=read_committed",
            "-o",
            "beginning",
            "-c",
            &count.to_string(),
        ]);
        let (code, out, error) = output(&mut command);
        assert_eq!(code, 0, "kcat: {error}{out}");
        out.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    fn send(&self, count: usize) {
        let lines: Vec<String> = (0..count)
            .map(|n| {
                json!({ "id": format!("s{n}"), "source": "/s", "type": "t", "data": { "n": n, "ä": [1.50, null] },
                        "entity": { "type": "order", "external_id": n.to_string() } })
                .to_string()
            })
            .collect();
        std::fs::write(self.dir.path().join("events.jsonl"), lines.join("\n")).unwrap();
        let mut command = omnilink(
            self.dir.path(),
            &["send", "events.jsonl", "--data-dir", "data"],
        );
        let (code, out, error) = output(command.env("OMNILINK_URL", &self.up.url));
        assert_eq!(code, 0, "{out}{error}");
    }

    /// Waits until this many events are admitted.
    fn wait_until_admitted(&self, count: usize) {
        let log = self.test_log.open("reader");
        let deadline = Instant::now() + Duration::from_mins(1);
        let mut found = 0;
        while found < count {
            assert!(
                Instant::now() < deadline,
                "{found} of {count} events: {}",
                crate::support::command::errors(self.dir.path())
            );
            found = crate::support::read_all(&*log, &self.test_log.topic("events"), count).len();
        }
    }
}

#[test]
fn python_reads_system_topics_and_its_records_are_admitted() {
    let Some(python) = env_or_skip("OMNILINK_TEST_PYTHON") else {
        return;
    };
    let Some(fixture) = Fixture::new() else {
        return;
    };
    fixture.send(10);
    Fixture::python(
        &python,
        "write.py",
        &fixture.external.url,
        &fixture.orders,
        5,
    );
    fixture.wait_until_admitted(15);
    let url = fixture.up.url.clone();
    for topic in ["ingress", "events"] {
        let read = Fixture::python(&python, "read.py", &url, &fixture.test_log.topic(topic), 15);
        let value = |id: &str| {
            let found = read.iter().find(|r| r["value"]["id"] == id);
            found.unwrap_or_else(|| panic!("{id} in {read:#?}")).clone()
        };
        let sent = value("s3");
        assert_eq!(sent["key"], "default/order/3");
        assert_eq!(sent["value"]["data"], r#"{"n":3,"ä":[1.5,null]}"#);
        let order = value("0");
        assert_eq!(order["key"], "acme/order/0");
        assert_eq!(order["value"]["type"], "order.paid");
        let data: Value = serde_json::from_str(order["value"]["data"].as_str().unwrap()).unwrap();
        assert_eq!(
            data,
            json!({ "id": 0, "state": "PAID", "total": "1234567890.50", "at": "2025-01-31T12:00:00.000001Z", "tags": { "weight": 0.5 },
                    "lines": [{ "sku": "ä", "state": null }, { "sku": "b", "state": "OPEN" }], "note": "first" })
        );
    }
    let controls = Fixture::python(
        &python,
        "read.py",
        &url,
        &fixture.test_log.topic("controls"),
        2,
    );
    // The record that marks the upgrade to versions comes before that of the first key.
    let key = |at: usize| controls[at]["key"].as_str().unwrap();
    assert_eq!(key(0), "-/upgrade/versions");
    assert!(key(1).starts_with("default/"), "{controls:?}");
    assert_eq!(fixture.up.stop(), 0);
}

#[test]
fn kcat_reads_system_topics() {
    let Some(kcat) = env_or_skip("OMNILINK_TEST_KCAT") else {
        return;
    };
    let Some(fixture) = Fixture::new() else {
        return;
    };
    fixture.send(10);
    fixture.wait_until_admitted(10);
    for topic in ["ingress", "events"] {
        let read = fixture.kcat(&kcat, &fixture.test_log.topic(topic), 10);
        assert_eq!(read.len(), 10);
        let sent = read.iter().find(|value| value["id"] == "s3");
        let sent = sent.unwrap_or_else(|| panic!("{read:#?}"));
        assert_eq!(sent["entity_id"], json!({ "string": "3" }), "{sent}");
    }
    assert_eq!(fixture.up.stop(), 0);
}

/// Waits until the parts in `/readyz` satisfy a condition; its status is always 200.
fn wait_for_parts(up: &Up, holds: impl Fn(&Value) -> bool) -> Value {
    let deadline = Instant::now() + Duration::from_mins(1);
    loop {
        let response = get_raw(&up.url, "/readyz");
        assert!(response.starts_with("HTTP/1.1 200"), "{response}");
        let body = response.split("\r\n\r\n").nth(1).unwrap();
        let parts = serde_json::from_str::<Value>(body).unwrap()["parts"].clone();
        if holds(&parts) {
            return parts;
        }
        assert!(Instant::now() < deadline, "{parts}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

const ORDER: &str = r#"{"type":"record","name":"O","fields":[{"name":"id","type":"int"},{"name":"state","type":"string"},{"name":"at","type":"string"}]}"#;

fn order(schema: u32) -> omnilink::log::Record {
    let datum = b"\x02\x08PAID\x282025-01-31T12:00:00Z";
    omnilink::log::Record {
        key: Some("k".into()),
        value: Some([&[0], &schema.to_be_bytes()[..], datum].concat().into()),
        headers: Vec::new(),
    }
}

#[test]
fn readiness_shows_an_unavailable_registry() {
    let Some(fixture) = Fixture::new() else {
        return;
    };
    let status = |parts: &Value, part: &str| parts[part]["status"].as_str().unwrap().to_owned();
    wait_for_parts(&fixture.up, |parts| {
        status(parts, "schema_registry") == "ok" && status(parts, "topologies") == "ok"
    });
    fixture.external.set_mode(Mode::Down);
    let schema = fixture.external.register("o", ORDER, &json!({}));
    let log = fixture.test_log.open("writer");
    append(&*log, &fixture.orders, vec![order(schema)]).unwrap();
    let parts = wait_for_parts(&fixture.up, |parts| {
        status(parts, "schema_registry") == "degraded" && status(parts, "topologies") == "degraded"
    });
    let detail = parts["schema_registry"]["detail"].as_str().unwrap();
    assert!(
        detail.contains("503") && detail.contains(&fixture.external.url),
        "{detail}"
    );
    let detail = parts["topologies"]["detail"].as_str().unwrap();
    assert!(
        detail.contains(&format!("topology.orders: waiting: schema {schema}")),
        "{detail}"
    );
    // The port accepts events without it.
    fixture.send(3);
    fixture.wait_until_admitted(3);
    fixture.external.set_mode(Mode::Works);
    fixture.wait_until_admitted(4);
    wait_for_parts(&fixture.up, |parts| {
        status(parts, "schema_registry") == "ok" && status(parts, "topologies") == "ok"
    });
    // It stops quickly while it waits.
    fixture.external.set_mode(Mode::Hangs);
    append(&*log, &fixture.orders, vec![order(schema + 1)]).unwrap();
    wait_for_parts(&fixture.up, |parts| {
        status(parts, "topologies") == "degraded"
    });
    assert_eq!(fixture.up.stop(), 0);
}

/// Files served by `openssl s_server -WWW`, with a certificate of a private authority that the node trusts.
struct TlsServer {
    child: std::process::Child,
    url: String,
    authority: String,
}

impl TlsServer {
    /// `None` without openssl.
    fn start(dir: &std::path::Path) -> Option<Self> {
        let script = "set -e
            openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj '/CN=test CA' -keyout ca.key -out ca.pem
            openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=localhost -keyout key.pem -out request.pem
            printf 'subjectAltName=DNS:localhost,IP:127.0.0.1\\n' > extensions
            openssl x509 -req -in request.pem -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile extensions -out cert.pem";
        if Command::new("openssl").arg("version").output().is_err() {
            eprintln!("SKIPPED: there is no openssl (scripts/install tls)");
            return None;
        }
        let mut made = Command::new("sh");
        let (code, out, error) = output(made.args(["-c", script]).current_dir(dir));
        assert_eq!(code, 0, "{out}{error}");
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = port.local_addr().unwrap();
        drop(port);
        let child = Command::new("openssl")
            .args([
                "s_server",
                "-WWW",
                "-quiet",
                "-accept",
                &address.to_string(),
            ])
            .args(["-cert", "cert.pem", "-key", "key.pem"])
            .current_dir(dir)
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        Some(Self {
            child,
            url: format!("https://localhost:{}", address.port()),
            authority: dir.join("ca.pem").display().to_string(),
        })
    }
}

impl Drop for TlsServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_registry_can_use_https() {
    let files = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(files.path().join("schemas/ids")).unwrap();
    let response = json!({ "schema": ORDER }).to_string();
    std::fs::write(files.path().join("schemas/ids/7"), response).unwrap();
    let Some(server) = TlsServer::start(files.path()) else {
        return;
    };
    let Some(fixture) = Fixture::with(&server.url, &[("SSL_CERT_FILE", &server.authority)]) else {
        return;
    };
    let log = fixture.test_log.open("writer");
    append(&*log, &fixture.orders, vec![order(7)]).unwrap();
    fixture.wait_until_admitted(1);
    assert_eq!(fixture.up.stop(), 0);
}
