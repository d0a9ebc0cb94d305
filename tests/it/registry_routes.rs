//! The read-only schema registry: its paths and codes, and that others' clients read OmniLink's topics with nothing of ours.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use hyper::{Method, StatusCode};
use omnilink::{
    envelope::schemas,
    log::{Cleanup, TopicSpec},
};
use serde_json::{Value, json};

use crate::{
    cli::{Folder, Up, get as get_raw, omnilink, output},
    port_node::{Answer, Node},
    registry_bed::{Mode, TestRegistry},
    support::{Bed, Kind, append, part},
};

const MEDIA: &str = "application/vnd.schemaregistry.v1+json";

async fn get(node: &Node, path: &str) -> Answer {
    // No key: schemas are no secret.
    node.call(Method::GET, path, &[], "").await
}

#[tokio::test(flavor = "multi_thread")]
async fn schemas_and_subjects() {
    let node = Node::start().await;
    let good = async |path: &str| {
        let answer = get(&node, path).await;
        assert_eq!(answer.status, StatusCode::OK, "{path}: {}", answer.text);
        assert_eq!(answer.headers["content-type"], MEDIA);
        answer.json()
    };
    let parsed = |text: &Value| serde_json::from_str::<Value>(text.as_str().unwrap()).unwrap();
    let id = schemas::EVENTS.id;
    assert_eq!(id, (1 << 30) + 1);
    let by_id = good(&format!("/schemas/ids/{id}?format=serialized&subject=x")).await;
    let text: Value = serde_json::from_str(schemas::EVENTS.text).unwrap();
    assert_eq!(parsed(&by_id["schema"]), text);
    assert_eq!(good(&format!("/schemas/ids/{id}/schema")).await, text);
    assert_eq!(
        good(&format!("/schemas/ids/{id}/subjects")).await,
        json!(["t.events-value"])
    );
    assert_eq!(
        good(&format!("/schemas/ids/{id}/versions")).await,
        json!([{ "subject": "t.events-value", "version": 1 }])
    );
    assert_eq!(good("/schemas/types").await, json!(["AVRO"]));
    assert_eq!(
        good("/subjects?deleted=true&subjectPrefix=%3A*%3A").await,
        json!([
            "t.ingress-value",
            "t.events-value",
            "t.controls-value",
            "t.rekey-value"
        ])
    );
    assert_eq!(good("/subjects/t.events-value/versions").await, json!([1]));
    for version in ["1", "latest", "-1", "latest?normalize=false"] {
        let found = good(&format!("/subjects/t.events-value/versions/{version}")).await;
        assert_eq!(
            (&found["subject"], &found["version"], &found["id"]),
            (&json!("t.events-value"), &json!(1), &json!(id))
        );
        assert_eq!(parsed(&found["schema"]), text);
    }
    let path = "/subjects/t.events-value/versions/1/schema";
    assert_eq!(good(path).await, text);
    // The topics in between steps have one schema.
    let rekey = good("/subjects/t.rekey.orders.2-value/versions/latest").await;
    assert_eq!(rekey["id"], schemas::REKEY.id);
    let all = good("/schemas").await;
    assert_eq!(all.as_array().unwrap().len(), schemas::ALL.len());

    let refused = [
        ("/schemas/ids/5", 404, 40403),
        ("/schemas/ids/5/subjects", 404, 40403),
        ("/schemas/ids/5/versions", 404, 40403),
        ("/schemas/ids/x", 404, 40403),
        ("/schemas/ids/99999999999999999999", 404, 40403),
        ("/subjects/t.dlq-value/versions", 404, 40401),
        ("/subjects/events-value/versions/1", 404, 40401),
        ("/subjects/t.events-key/versions/latest", 404, 40401),
        ("/subjects/-value/versions/latest", 404, 40401),
        ("/subjects/t.-value/versions/latest", 404, 40401),
        ("/subjects/%e2%80%ae/versions", 404, 40401),
        ("/subjects/t.events-value/versions/2", 404, 40402),
        ("/subjects/t.events-value/versions/2/schema", 404, 40402),
        (
            "/subjects/t.events-value/versions/2/referencedby",
            404,
            40402,
        ),
        ("/subjects/t.events-value/versions/0", 422, 42202),
        ("/subjects/t.events-value/versions/-2", 422, 42202),
        ("/subjects/t.events-value/versions/new", 422, 42202),
        ("/config/t.dlq-value", 404, 40408),
        ("/mode/t.dlq-value", 404, 40409),
        ("/subjects/t.events-value", 405, 405),
        ("/subjects/t.events-value/nothing", 404, 404),
        ("/subjects/%ff/versions", 404, 404),
        ("/schemas/nothing", 404, 404),
        ("/contexts/nothing", 404, 404),
        ("/compatibility", 404, 404),
    ];
    for (path, status, error_code) in refused {
        is_refused(&get(&node, path).await, path, status, error_code);
    }
}

/// In the registry's own words, and no others.
fn is_refused(answer: &Answer, about: &str, status: u16, error_code: u32) {
    assert_eq!(answer.status.as_u16(), status, "{about}: {}", answer.text);
    assert_eq!(answer.headers["content-type"], MEDIA, "{about}");
    let body = answer.json();
    assert_eq!(body["error_code"], error_code, "{about}: {body}");
    assert!(
        body["message"].as_str().unwrap().len() > 10,
        "{about}: {body}"
    );
    assert_eq!(body.as_object().unwrap().len(), 2, "{about}: {body}");
}

/// What kcat, AKHQ, Redpanda Console and Confluent's clients ask for beside schemas.
#[tokio::test(flavor = "multi_thread")]
async fn a_registry_in_read_only_mode() {
    let node = Node::start().await;
    let answers = [
        ("/", json!({})),
        (
            "/config",
            json!({ "compatibilityLevel": "BACKWARD_TRANSITIVE" }),
        ),
        (
            "/config/t.events-value",
            json!({ "compatibilityLevel": "BACKWARD_TRANSITIVE" }),
        ),
        (
            "/config/new?defaultToGlobal=true",
            json!({ "compatibilityLevel": "BACKWARD_TRANSITIVE" }),
        ),
        ("/mode", json!({ "mode": "READONLY" })),
        ("/mode/t.events-value", json!({ "mode": "READONLY" })),
        ("/mode/:.:", json!({ "mode": "READONLY" })),
        ("/contexts", json!(["."])),
        ("/subjects/?subjectPrefix=t.e", json!(["t.events-value"])),
        ("/subjects?deletedOnly=true", json!([])),
        (
            "/subjects?offset=1&limit=2",
            json!(["t.events-value", "t.controls-value"]),
        ),
        ("/subjects/:.:t.events-value/versions/", json!([1])),
        (
            "/subjects/t.events-value/versions/1/referencedby",
            json!([]),
        ),
    ];
    for (path, expected) in answers {
        let answer = get(&node, path).await;
        assert_eq!(answer.status, StatusCode::OK, "{path}: {}", answer.text);
        assert_eq!(answer.headers["content-type"], MEDIA, "{path}");
        assert_eq!(answer.json(), expected, "{path}");
    }
    let with_max = format!("/schemas/ids/{}?fetchMaxId=true", schemas::EVENTS.id);
    let highest = schemas::ALL.iter().map(|schema| schema.id).max().unwrap();
    assert_eq!(get(&node, &with_max).await.json()["maxId"], highest);
    let latest = get(&node, "/schemas?latestOnly=true&subjectPrefix=t.events").await;
    assert_eq!(latest.json().as_array().unwrap().len(), 1);

    // The look-up, and what registers a schema that is there.
    let events = schemas::EVENTS;
    let mut lines = events.text.lines().map(str::trim);
    let same =
        json!({ "schema": lines.by_ref().collect::<String>(), "references": [] }).to_string();
    let other = json!({ "schema": "\"int\"" }).to_string();
    let post =
        async |path: &str, body: &str| node.call(Method::POST, path, &[], body.to_owned()).await;
    for path in [
        "/subjects/t.events-value",
        "/subjects/t.events-value?normalize=true&deleted=true",
    ] {
        let found = post(path, &same).await;
        assert_eq!(found.status, StatusCode::OK, "{}", found.text);
        let found = found.json();
        assert_eq!(
            (&found["subject"], &found["version"], &found["id"]),
            (&json!("t.events-value"), &json!(1), &json!(events.id))
        );
        assert_eq!(found["schema"], events.text);
    }
    let registered = post("/subjects/t.events-value/versions", &same).await;
    assert_eq!(
        registered.json(),
        json!({ "id": events.id }),
        "{}",
        registered.text
    );
    let rekey = json!({ "schema": schemas::REKEY.text }).to_string();
    let found = post("/subjects/t.rekey.orders-value", &rekey).await;
    assert_eq!(
        found.json()["subject"],
        "t.rekey.orders-value",
        "{}",
        found.text
    );
    // A field more, with a default: it could follow. Another type could not.
    let mut grown: Value = serde_json::from_str(events.text).unwrap();
    let field = json!({ "name": "more", "type": ["null", "string"], "default": null });
    grown["fields"].as_array_mut().unwrap().push(field);
    let grown = json!({ "schema": grown.to_string() }).to_string();
    let judge = "/compatibility/subjects/t.events-value/versions";
    for path in [judge.to_owned(), format!("{judge}/latest?verbose=true")] {
        for (body, compatible) in [(&grown, true), (&same, true), (&other, false)] {
            let found = post(&path, body).await;
            assert_eq!(
                found.json()["is_compatible"],
                compatible,
                "{path}: {}",
                found.text
            );
        }
    }
    let refused = [
        ("POST", "/subjects/t.events-value", &*other, 404, 40403),
        ("POST", "/subjects/t.none-value", &same, 404, 40401),
        (
            "POST",
            "/subjects/t.events-value",
            r#"{"schema":"{"}"#,
            422,
            42201,
        ),
        (
            "POST",
            "/subjects/t.events-value",
            r#"{"schema":""}"#,
            422,
            42201,
        ),
        (
            "POST",
            "/subjects/t.events-value",
            r#"{"schema":"x","schemaType":"JSON"}"#,
            404,
            40403,
        ),
        ("POST", "/subjects/t.events-value", "no JSON", 400, 400),
        (
            "POST",
            "/subjects/t.events-value/versions",
            &other,
            422,
            42205,
        ),
        ("POST", "/subjects/t.new-value/versions", &same, 422, 42205),
        (
            "POST",
            "/compatibility/subjects/t.new-value/versions/1",
            &same,
            404,
            40401,
        ),
        (
            "POST",
            "/compatibility/subjects/t.events-value/versions/9",
            &same,
            404,
            40402,
        ),
        ("DELETE", "/subjects/t.events-value", "", 422, 42205),
        (
            "DELETE",
            "/subjects/t.events-value/versions/latest?permanent=true",
            "",
            422,
            42205,
        ),
        ("DELETE", "/subjects/t.none-value", "", 404, 40401),
        (
            "DELETE",
            "/subjects/t.events-value/versions/7",
            "",
            404,
            40402,
        ),
        ("PUT", "/config", r#"{"compatibility":"NONE"}"#, 422, 42205),
        (
            "PUT",
            "/config/t.events-value",
            r#"{"compatibility":"NONE"}"#,
            422,
            42205,
        ),
        ("DELETE", "/config/t.events-value", "", 422, 42205),
        ("PUT", "/mode", r#"{"mode":"READWRITE"}"#, 422, 42205),
        (
            "PUT",
            "/mode/t.events-value?force=true",
            r#"{"mode":"IMPORT"}"#,
            422,
            42205,
        ),
        ("DELETE", "/mode/t.events-value", "", 422, 42205),
        ("PUT", "/schemas/ids/5", "{}", 405, 405),
        ("POST", "/schemas", "{}", 405, 405),
        ("PATCH", "/subjects/t.events-value", "{}", 405, 405),
        ("POST", "/subjects/x/y/z", "{}", 404, 404),
        ("DELETE", "/schemas/nothing", "", 404, 404),
    ];
    for (method, path, body, status, error_code) in refused {
        let called = Method::from_bytes(method.as_bytes()).unwrap();
        let answer = node.call(called, path, &[], body.to_owned()).await;
        is_refused(&answer, &format!("{method} {path}"), status, error_code);
    }
    let large = "x".repeat(1 << 20);
    let answer = post("/subjects/t.events-value", &large).await;
    is_refused(&answer, "a large body", 413, 413);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_agents_form_at_the_port() {
    let node = Node::start().await;
    let agent = |id: &str| {
        json!({ "eventId": id, "eventType": "odoo:expense.submitted", "source": "odoo-agent", "payload": { "a": 1 },
                "tenantId": "elsewhere", "schemaVersion": "1.0.0" })
    };
    let answer = node.post(&agent("1")).await;
    assert_eq!(answer.result(0)["status"], "ingested", "{}", answer.text);
    assert_eq!(
        node.post(&agent("1")).await.result(0)["status"],
        "duplicate"
    );
    let mut changed = agent("1");
    changed["payload"] = json!(2);
    assert_eq!(node.post(&changed).await.code(), "idempotency_mismatch");
    let mut none = agent("3");
    none.as_object_mut().unwrap().remove("eventType");
    let mixed = json!([agent("2"), { "id": "own", "source": "/s", "type": "t", "data": 1 }, none]);
    let answer = node.post(&mixed).await;
    let status = |index: usize| answer.result(index)["status"].as_str().unwrap().to_owned();
    assert_eq!(
        [status(0), status(1), status(2)],
        ["ingested", "ingested", "invalid"]
    );
    assert_eq!(answer.result(2)["error"]["code"], "missing_type");
    let ingress = crate::support::read_all(&*node.log, &node.names.ingress, 3);
    let kinds: Vec<_> = ingress
        .iter()
        .map(|f| {
            let value = f.record.value.as_ref().unwrap();
            let event = omnilink::envelope::avro::decode_ingress(value).unwrap();
            assert_eq!(event.tenant.as_str(), "acme");
            event.kind.to_string()
        })
        .collect();
    assert_eq!(
        kinds
            .iter()
            .filter(|k| *k == "odoo:expense.submitted")
            .count(),
        2
    );
    assert_eq!(ingress.len(), 3);
}

/// A node on Kafka, and a registry of somebody else's.
struct Bench {
    bed: Bed,
    dir: Folder,
    up: Up,
    others: TestRegistry,
    orders: String,
}

impl Bench {
    fn new() -> Option<Self> {
        Self::with("", &[])
    }

    /// With another registry than its own, and further variables.
    fn with(registry: &str, env: &[(&str, &str)]) -> Option<Self> {
        let brokers = part("OMNILINK_TEST_KAFKA")?;
        let bed = Bed::new(Kind::Kafka)?;
        let dir = Folder::new();
        let others = TestRegistry::start();
        let orders = format!("f{}orders", bed.prefix);
        let topic = TopicSpec {
            name: orders.as_str().into(),
            partitions: 2,
            cleanup: Cleanup::Keep,
        };
        bed.open("maker").provision(&[topic], true).unwrap();
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
            bed.prefix,
            if registry.is_empty() {
                &others.url
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
            bed,
            dir,
            up,
            others,
            orders,
        })
    }

    fn python(python: &str, script: &str, registry: &str, topic: &str, count: usize) -> Vec<Value> {
        let brokers = part("OMNILINK_TEST_KAFKA").unwrap();
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
        let brokers = part("OMNILINK_TEST_KAFKA").unwrap();
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

    /// Waits until so many events were admitted.
    fn admitted(&self, count: usize) {
        let log = self.bed.open("reader");
        let deadline = Instant::now() + Duration::from_mins(1);
        let mut found = 0;
        while found < count {
            assert!(
                Instant::now() < deadline,
                "{found} of {count} events: {}",
                crate::cli::errors(self.dir.path())
            );
            found = crate::support::read_all(&*log, &self.bed.topic("events"), count).len();
        }
    }
}

#[test]
fn python_reads_our_topics_and_we_read_what_python_writes() {
    let Some(python) = part("OMNILINK_TEST_PYTHON") else {
        return;
    };
    let Some(bench) = Bench::new() else {
        return;
    };
    bench.send(10);
    Bench::python(&python, "write.py", &bench.others.url, &bench.orders, 5);
    bench.admitted(15);
    let url = bench.up.url.clone();
    for topic in ["ingress", "events"] {
        let read = Bench::python(&python, "read.py", &url, &bench.bed.topic(topic), 15);
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
    let controls = Bench::python(&python, "read.py", &url, &bench.bed.topic("controls"), 2);
    // The record that says since when records have versions comes before the first key's.
    let key = |at: usize| controls[at]["key"].as_str().unwrap();
    assert_eq!(key(0), "-/upgrade/versions");
    assert!(key(1).starts_with("default/"), "{controls:?}");
    assert_eq!(bench.up.stop(), 0);
}

#[test]
fn kcat_reads_our_topics() {
    let Some(kcat) = part("OMNILINK_TEST_KCAT") else {
        return;
    };
    let Some(bench) = Bench::new() else {
        return;
    };
    bench.send(10);
    bench.admitted(10);
    for topic in ["ingress", "events"] {
        let read = bench.kcat(&kcat, &bench.bed.topic(topic), 10);
        assert_eq!(read.len(), 10);
        let sent = read.iter().find(|value| value["id"] == "s3");
        let sent = sent.unwrap_or_else(|| panic!("{read:#?}"));
        assert_eq!(sent["entity_id"], json!({ "string": "3" }), "{sent}");
    }
    assert_eq!(bench.up.stop(), 0);
}

/// Waits until `/readyz` says so of its parts; it answers 200 all along.
fn ready(up: &Up, holds: impl Fn(&Value) -> bool) -> Value {
    let deadline = Instant::now() + Duration::from_mins(1);
    loop {
        let answer = get_raw(&up.url, "/readyz");
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        let body = answer.split("\r\n\r\n").nth(1).unwrap();
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
fn readiness_shows_a_registry_that_is_away() {
    let Some(bench) = Bench::new() else {
        return;
    };
    let status = |parts: &Value, part: &str| parts[part]["status"].as_str().unwrap().to_owned();
    ready(&bench.up, |parts| {
        status(parts, "schema_registry") == "ok" && status(parts, "topologies") == "ok"
    });
    bench.others.set(Mode::Down);
    let schema = bench.others.register("o", ORDER, &json!({}));
    let log = bench.bed.open("writer");
    append(&*log, &bench.orders, vec![order(schema)]).unwrap();
    let parts = ready(&bench.up, |parts| {
        status(parts, "schema_registry") == "degraded" && status(parts, "topologies") == "degraded"
    });
    let detail = parts["schema_registry"]["detail"].as_str().unwrap();
    assert!(
        detail.contains("503") && detail.contains(&bench.others.url),
        "{detail}"
    );
    let detail = parts["topologies"]["detail"].as_str().unwrap();
    assert!(
        detail.contains(&format!("topology.orders: waiting: schema {schema}")),
        "{detail}"
    );
    // Intake does not wait for it.
    bench.send(3);
    bench.admitted(3);
    bench.others.set(Mode::Works);
    bench.admitted(4);
    ready(&bench.up, |parts| {
        status(parts, "schema_registry") == "ok" && status(parts, "topologies") == "ok"
    });
    // It stops as fast while it waits.
    bench.others.set(Mode::Hangs);
    append(&*log, &bench.orders, vec![order(schema + 1)]).unwrap();
    ready(&bench.up, |parts| status(parts, "topologies") == "degraded");
    assert_eq!(bench.up.stop(), 0);
}

/// What `openssl s_server -WWW` serves: files as they lie. A certificate of its own authority, which the node is told to trust.
struct TlsServer {
    child: std::process::Child,
    url: String,
    authority: String,
}

impl TlsServer {
    /// `None`: there is no openssl here.
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
fn a_registry_behind_https_is_asked_as_well() {
    let files = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(files.path().join("schemas/ids")).unwrap();
    let answer = json!({ "schema": ORDER }).to_string();
    std::fs::write(files.path().join("schemas/ids/7"), answer).unwrap();
    let Some(server) = TlsServer::start(files.path()) else {
        return;
    };
    let Some(bench) = Bench::with(&server.url, &[("SSL_CERT_FILE", &server.authority)]) else {
        return;
    };
    let log = bench.bed.open("writer");
    append(&*log, &bench.orders, vec![order(7)]).unwrap();
    bench.admitted(1);
    assert_eq!(bench.up.stop(), 0);
}
