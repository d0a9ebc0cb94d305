//! The read-only schema registry of the port: its paths and error codes.

use hyper::{Method, StatusCode};
use omnilink::envelope::schemas;
use serde_json::{Value, json};

use crate::support::port::{Node, Response};

const MEDIA: &str = "application/vnd.schemaregistry.v1+json";

async fn get(node: &Node, path: &str) -> Response {
    // Without a key: schemas are public.
    node.call(Method::GET, path, &[], "").await
}

#[tokio::test(flavor = "multi_thread")]
async fn schemas_and_subjects() {
    let node = Node::start().await;
    let good = async |path: &str| {
        let response = get(&node, path).await;
        assert_eq!(response.status, StatusCode::OK, "{path}: {}", response.text);
        assert_eq!(response.headers["content-type"], MEDIA);
        response.json()
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
            "t.rekey-value",
            "t.audit-value",
            "t.commands-value",
            "t.runs-value",
            "t.steps-value",
            "t.goals-value",
            "t.plans-value"
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
    // The internal topics between steps share one schema.
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

/// Whether the response has only the fields of a registry error.
fn is_refused(response: &Response, about: &str, status: u16, error_code: u32) {
    assert_eq!(
        response.status.as_u16(),
        status,
        "{about}: {}",
        response.text
    );
    assert_eq!(response.headers["content-type"], MEDIA, "{about}");
    let body = response.json();
    assert_eq!(body["error_code"], error_code, "{about}: {body}");
    assert!(
        body["message"].as_str().unwrap().len() > 10,
        "{about}: {body}"
    );
    assert_eq!(body.as_object().unwrap().len(), 2, "{about}: {body}");
}

/// Requests of kcat, AKHQ, Redpanda Console and Confluent's clients apart from schemas.
#[tokio::test(flavor = "multi_thread")]
async fn the_registry_is_in_read_only_mode() {
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
        let response = get(&node, path).await;
        assert_eq!(response.status, StatusCode::OK, "{path}: {}", response.text);
        assert_eq!(response.headers["content-type"], MEDIA, "{path}");
        assert_eq!(response.json(), expected, "{path}");
    }
    let with_max = format!("/schemas/ids/{}?fetchMaxId=true", schemas::EVENTS.id);
    let highest = schemas::ALL.iter().map(|schema| schema.id).max().unwrap();
    assert_eq!(get(&node, &with_max).await.json()["maxId"], highest);
    let latest = get(&node, "/schemas?latestOnly=true&subjectPrefix=t.events").await;
    assert_eq!(latest.json().as_array().unwrap().len(), 1);

    // The lookup of a schema, and registering one that exists.
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
    // One more field with a default is compatible; another type is not.
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
        let response = node.call(called, path, &[], body.to_owned()).await;
        is_refused(&response, &format!("{method} {path}"), status, error_code);
    }
    let large = "x".repeat(1 << 20);
    let response = post("/subjects/t.events-value", &large).await;
    is_refused(&response, "a large body", 413, 413);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_port_accepts_the_agents_format() {
    let node = Node::start().await;
    let agent = |id: &str| {
        json!({ "eventId": id, "eventType": "odoo:expense.submitted", "source": "odoo-agent", "payload": { "a": 1 },
                "tenantId": "elsewhere", "schemaVersion": "1.0.0" })
    };
    let response = node.post(&agent("1")).await;
    assert_eq!(
        response.result(0)["status"],
        "ingested",
        "{}",
        response.text
    );
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
    let response = node.post(&mixed).await;
    let status = |index: usize| {
        response.result(index)["status"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    assert_eq!(
        [status(0), status(1), status(2)],
        ["ingested", "ingested", "invalid"]
    );
    assert_eq!(response.result(2)["error"]["code"], "missing_type");
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
