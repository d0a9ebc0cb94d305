//! Event schemas: at the port, in admission, on a running node, in `check` and in the topology step `validate`.

use std::{fs, path::Path, sync::Arc};

use hyper::StatusCode;
use omnilink::{
    admission::Admission,
    envelope::avro,
    event_schemas::{EventSchemas, load},
    log::{Record, header, topics::Names},
};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{
    TestLog, append,
    command::{Folder, Up, errors, omnilink, output},
    on_both_logs,
    port::Node,
    read_all, wait_until,
};

on_both_logs!(an_event_that_does_not_fit_is_a_dead_letter);

const PAID: &str = r#"{"type": "object", "required": ["total"], "properties": {"total": {"type": "number", "minimum": 0}}}"#;

fn put(dir: &Path, name: &str, text: &str) {
    let path = dir.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

fn schemas(files: &[(&str, &str)]) -> EventSchemas {
    let dir = TempDir::new().unwrap();
    for (name, text) in files {
        put(dir.path(), name, text);
    }
    EventSchemas::new(load(dir.path()).ok().unwrap())
}

fn event(id: &str, kind: &str, data: &Value) -> Value {
    json!({ "specversion": "1.0", "id": id, "source": "/shop", "type": kind, "data": data })
}

#[tokio::test(flavor = "multi_thread")]
async fn the_port_refuses_data_that_does_not_fit() {
    let node = Node::start().await;
    let dir = TempDir::new().unwrap();
    put(dir.path(), "order.paid.json", PAID);
    put(dir.path(), "order.gone.json", "true");
    put(dir.path(), "order.*.json", r#"{"type": "object"}"#);
    node.event_schemas.replace(load(dir.path()).ok().unwrap());

    let bad = node
        .post(&event("1", "order.paid", &json!({ "total": -1 })))
        .await;
    assert_eq!(bad.status, StatusCode::BAD_REQUEST);
    let problem = bad.json();
    assert_eq!(problem["code"], "invalid_payload");
    assert_eq!(
        problem["detail"],
        "`/data/total` does not fit the schema `order.paid.json`: value is less than the minimum of 0"
    );
    // The refusal did not use up the identity.
    let good = event("1", "order.paid", &json!({ "total": 1 }));
    assert_eq!(node.post(&good).await.status, StatusCode::ACCEPTED);

    let batch = json!([
        event("2", "order.paid", &json!({})),
        event("3", "order.sent", &json!([])),
        event("4", "order.sent", &json!({})),
        event("5", "stock.counted", &json!([])),
        json!({ "specversion": "1.0", "id": "6", "source": "/shop", "type": "order.sent" }),
        json!({ "specversion": "1.0", "id": "7", "source": "/shop", "type": "order.sent", "data_base64": "AAAA" }),
        json!({ "specversion": "1.0", "id": "8", "source": "/shop", "type": "order.gone" }),
        json!({ "specversion": "1.0", "id": "9", "source": "/shop", "type": "order.gone", "data_base64": "AAAA" }),
        event("1", "order.paid", &json!({ "total": 1 })),
    ]);
    let bearer = node.bearer();
    let headers = [
        ("authorization", bearer.as_str()),
        ("content-type", "application/cloudevents-batch+json"),
    ];
    let answer = node
        .call(
            hyper::Method::POST,
            "/v1/events",
            &headers,
            batch.to_string(),
        )
        .await;
    assert_eq!(answer.status, StatusCode::ACCEPTED);
    let answer = answer.json();
    let statuses: Vec<&str> = answer["results"]
        .as_array()
        .unwrap()
        .iter()
        .map(|result| result["status"].as_str().unwrap())
        .collect();
    let (ok, no) = ("ingested", "invalid");
    assert_eq!(statuses, [no, no, ok, ok, no, no, ok, ok, "duplicate"]);
    let message = |index: usize| {
        answer["results"][index]["error"]["message"]
            .as_str()
            .unwrap()
    };
    assert!(
        message(0).starts_with("`/data` does not fit"),
        "{}",
        message(0)
    );
    assert!(message(4).ends_with("there is no data"), "{}", message(4));
    assert!(
        message(5).ends_with("the data is not JSON"),
        "{}",
        message(5)
    );
}

fn an_event_that_does_not_fit_is_a_dead_letter(test_log: TestLog) {
    let log = test_log.open("a");
    let names = Names::new(&test_log.prefix);
    log.provision(&names.specs(4), true).unwrap();
    let schemas = Arc::new(schemas(&[("order.paid.json", PAID)]));
    let admission = Admission::new(&names, 4, 3_600_000, false).with_event_schemas(schemas.clone());
    let lane = test_log.start_lane(&log, admission, &Arc::default());
    let record = |body: &Value, content_type: &str| Record {
        key: None,
        value: Some(body.to_string().into()),
        headers: vec![
            ("omnilink-tenant".into(), Some("acme".into())),
            ("content-type".into(), Some(content_type.to_owned().into())),
        ],
    };
    let (one, many) = (
        "application/cloudevents+json",
        "application/cloudevents-batch+json",
    );
    let bad = event("1", "order.paid", &json!({ "total": "1" }));
    let other = event("2", "order.paid", &json!({}));
    let batch = json!([event("3", "order.paid", &json!({ "total": 3 })), other]);
    let sent = vec![record(&bad, one), record(&batch, many)];
    append(&*log, &names.ingress, sent).unwrap();
    let dead = read_all(&*log, &names.dlq, 2);
    let mut seen = Vec::new();
    for letter in &dead {
        let text = |name: &str| {
            let value = header(&letter.record.headers, name).unwrap();
            std::str::from_utf8(value).unwrap().to_owned()
        };
        assert_eq!(text("omnilink.dlq.code"), "invalid_payload");
        let value: Value = serde_json::from_slice(letter.record.value.as_ref().unwrap()).unwrap();
        seen.push((value["id"].clone(), text("omnilink.dlq.message")));
    }
    seen.sort_by_key(|(id, _)| id.to_string());
    assert_eq!(seen[0].0, "1");
    assert!(
        seen[0].1.contains("`/data/total` does not fit"),
        "{}",
        seen[0].1
    );
    // Of a batch the item alone.
    assert_eq!(seen[1].0, "2");
    let ids = |count| -> Vec<String> {
        let events = read_all(&*log, &names.events, count);
        let id = |value: &bytes::Bytes| avro::decode_event(value).unwrap().0.id.into_owned();
        events
            .iter()
            .map(|event| id(event.record.value.as_ref().unwrap()))
            .collect()
    };
    assert_eq!(ids(1), ["3"]);
    // The dead letter did not use up the identity. Other schemas hold for what comes from now on, and change nothing that is admitted.
    schemas.replace(load(Path::new("no/such/folder")).ok().unwrap());
    append(&*log, &names.ingress, vec![record(&bad, one)]).unwrap();
    let mut admitted = ids(2);
    admitted.sort();
    assert_eq!(admitted, ["1", "3"]);
    lane.stop();
}

#[test]
fn check_and_up_show_what_is_wrong() {
    let dir = TempDir::new().unwrap();
    let run = |args: &[&str]| output(&mut omnilink(dir.path(), args));
    put(dir.path(), "event-schemas/order.paid.json", PAID);
    assert_eq!(run(&["check"]).1, "1 file checked, no errors\n");
    put(
        dir.path(),
        "event-schemas/order.sent.json",
        "{\n  \"properties\": {\n    \"at\": { \"type\": \"strin\" },\n    \"to\": { \"$ref\": \"https://example.com/a.json\" }\n  }\n}\n",
    );
    put(dir.path(), "event-schemas/x*y.json", "true");
    let (code, text, error) = run(&["check"]);
    assert_eq!(code, 1);
    assert!(
        text.contains("event-schemas/order.sent.json:3:21: error: \"strin\" is not valid"),
        "{text}"
    );
    assert!(text.contains("^^^^^^^"), "{text}");
    assert!(
        text.contains("event-schemas/x*y.json:1:1: error: `*` can only be at the end"),
        "{text}"
    );
    assert!(error.contains("2 errors in 2 files"), "{error}");
    let (code, _, error) = run(&["up", "--listen", "127.0.0.1:0"]);
    assert_eq!(code, 1);
    assert!(error.contains("2 errors in the event schemas"), "{error}");
    assert!(!dir.path().join("data").exists());
    // One error hides the other of this file no longer.
    put(
        dir.path(),
        "event-schemas/order.sent.json",
        "{ \"$ref\": \"https://example.com/a.json\" }",
    );
    let (_, text, _) = run(&["check"]);
    assert!(
        text.contains("order.sent.json:1:11: error: `https://example.com/a.json` is not in this folder, and references to a network are not followed"),
        "{text}"
    );
}

#[test]
fn a_hangup_reads_the_schemas_again() {
    let dir = Folder::new();
    put(dir.path(), "event-schemas/order.paid.json", PAID);
    let up = Up::start_with(dir.path(), &["--without", "projections"]);
    let hang_up = || {
        let pid = rustix::process::Pid::from_child(&up.child);
        rustix::process::kill_process(pid, rustix::process::Signal::HUP).unwrap();
    };
    let send = |id: &str| {
        let line = event(id, "order.paid", &json!({ "sum": 1 })).to_string();
        put(dir.path(), "events.jsonl", &line);
        let args = ["send", "events.jsonl", "--data-dir", "data"];
        let mut command = omnilink(dir.path(), &args);
        output(command.env("OMNILINK_URL", &up.url))
    };
    let (code, text, error) = send("1");
    assert_eq!(code, 1, "{text}{error}");
    assert!(
        error.contains("/data") && error.contains("order.paid.json"),
        "{error}"
    );
    // A bad set keeps the one before.
    put(dir.path(), "event-schemas/order.paid.json", "{\"type\": 1}");
    hang_up();
    wait_until("the errors", || {
        errors(dir.path()).contains("those before stay in force")
    });
    assert!(errors(dir.path()).contains("order.paid.json:1:10: error:"));
    assert_eq!(send("1").0, 1);
    put(
        dir.path(),
        "event-schemas/order.paid.json",
        "{\"required\": [\"sum\"]}",
    );
    hang_up();
    wait_until("the reload", || {
        errors(dir.path()).contains("the event schemas were read again")
    });
    let (code, text, error) = send("1");
    assert_eq!(code, 0, "{text}{error}");
    drop(up);
}

#[test]
fn a_topology_with_a_changed_schema_starts_again() {
    let dir = TempDir::new().unwrap();
    put(dir.path(), "topologies/schemas/a.json", PAID);
    put(
        dir.path(),
        "topologies/a.yaml",
        "name: a\nsource: { topic: in, tenant: acme }\nsteps:\n  - validate: { schema: schemas/a.json }\n  - route: [ { to: out } ]\ntests:\n  - name: t\n    given: [ { total: 1 }, { total: -1 } ]\n    then:\n      out: [ { total: 1 } ]\n      dlq: [ { code: invalid_payload, message: \"`/total` does not fit the schema `a.json`: value is less than the minimum of 0\" } ]\n",
    );
    let run = |args: &[&str]| output(&mut omnilink(dir.path(), args));
    let (code, text, error) = run(&["test"]);
    assert_eq!(code, 0, "{text}{error}");
    let (_, graph, _) = run(&["graph"]);
    assert!(graph.contains("<b>a</b><br/>validate → route"), "{graph}");

    let up = Up::start_with(dir.path(), &["--without", "projections"]);
    let hang_up = || {
        let pid = rustix::process::Pid::from_child(&up.child);
        rustix::process::kill_process(pid, rustix::process::Signal::HUP).unwrap();
    };
    hang_up();
    wait_until("the reload", || errors(dir.path()).contains("kept=1"));
    put(dir.path(), "topologies/schemas/a.json", "true");
    hang_up();
    wait_until("the restart", || {
        errors(dir.path()).contains("started=[\"a\"]")
    });
    drop(up);
}
