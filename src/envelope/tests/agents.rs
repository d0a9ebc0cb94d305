use super::*;
use crate::envelope::{Body, parse, parse_batch};

const FULL: &str = r#"{"eventId":"e-1","correlationId":"c","idempotencyKey":"k","tenantId":"other",
    "eventType":"odoo:expense.submitted","payload":{"a":[1.50]},"timestamp":"2025-01-31T12:00:00Z","source":"odoo-agent",
    "target":"finance","trace":{"traceId":"0AF7651916CD43DD8448EB211C80319C","spanId":"b7ad6b7169203331","parentSpanId":"p"},
    "schemaVersion":"1.0.0","entity":{"type":"expense","external_id":"7"}}"#;

fn agents(body: &str) -> Result<Parsed<'_>, Invalid> {
    match parse(body.as_bytes(), 50, &acme(), NOW)? {
        Body::One(parsed) => Ok(parsed),
        Body::Batch(items) => panic!("{items:?}"),
    }
}

fn extensions(event: &Event<'_>) -> serde_json::Value {
    serde_json::from_str(&event.extensions).unwrap()
}

#[test]
fn all_members_of_the_agents_form_are_kept() {
    let event = agents(FULL).unwrap().event;
    event.check().unwrap();
    assert_eq!(
        (&*event.id, &*event.source, &*event.kind),
        ("e-1", "odoo-agent", "odoo:expense.submitted")
    );
    // The tenant is the key's.
    assert_eq!(event.tenant, acme());
    assert_eq!(event.data, Data::Json(r#"{"a":[1.50]}"#.into()));
    assert_eq!(
        (event.time, event.time_source),
        (1_738_324_800_000_000, TimeSource::Producer)
    );
    assert_eq!(event.correlation_id.as_deref(), Some("c"));
    assert_eq!(event.idempotency_key.as_deref(), Some("k"));
    assert_eq!(event.entity.as_ref().unwrap().external_id, "7");
    assert_eq!(
        extensions(&event),
        serde_json::json!({
            "tenantid": "other", "target": "finance", "schemaversion": "1.0.0", "parentspanid": "p",
            "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        })
    );
}

#[test]
fn both_spellings_and_null_are_accepted() {
    let snake = r#"{"event_id":"e","event_type":"a:b.c","source":"s","payload":null,"correlation_id":"c","causation_id":"d",
        "idempotency_key":null,"trace":null,"target":null,"entity":null}"#;
    let event = agents(snake).unwrap().event;
    assert_eq!(event.data, Data::Json("null".into()));
    assert_eq!(
        (
            event.correlation_id.as_deref(),
            event.causation_id.as_deref()
        ),
        (Some("c"), Some("d"))
    );
    assert_eq!(event.time_source, TimeSource::Receiver);
    assert_eq!(event.extensions, "{}");
}

#[test]
fn ids_that_are_not_of_w3c_stay_as_they_are() {
    let body = |trace: &str| {
        format!(r#"{{"eventId":"e","eventType":"t","source":"s","payload":1,"trace":{trace}}}"#)
    };
    let text = body(r#"{"traceId":"t-1","spanId":"b7ad6b7169203331"}"#);
    let event = agents(&text).unwrap().event;
    assert_eq!(
        extensions(&event),
        serde_json::json!({ "traceid": "t-1", "spanid": "b7ad6b7169203331" })
    );
    // What is given outright counts.
    let text = body(
        r#"{"traceId":"0af7651916cd43dd8448eb211c80319c","spanId":"b7ad6b7169203331","traceparent":"tp"}"#,
    );
    let event = agents(&text).unwrap().event;
    assert_eq!(
        extensions(&event),
        serde_json::json!({ "traceparent": "tp" })
    );
}

#[test]
fn errors_use_the_member_names_of_the_form() {
    let with =
        |more: &str| format!(r#"{{"eventId":"e","eventType":"t","source":"s","payload":1{more}}}"#);
    let cases = [
        (
            r#"{"eventId":"e","source":"s","payload":1}"#.into(),
            "missing_type",
            "eventType",
        ),
        (
            r#"{"eventId":"","source":"s","payload":1}"#.into(),
            "missing_id",
            "eventId",
        ),
        (
            r#"{"eventId":"e","eventType":"t","source":"s"}"#.into(),
            "missing_data",
            "payload",
        ),
        (
            r#"{"eventId":"e","eventType":"t","source":"s","specVersion":"1.0"}"#.into(),
            "missing_data",
            "payload",
        ),
        (
            r#"{"eventId":"e\u0000","eventType":"t","source":"s","payload":1}"#.into(),
            "invalid_payload",
            "U+0000",
        ),
        (
            r#"{"eventId":"e","eventType":"t","payload":1}"#.into(),
            "missing_source",
            "source",
        ),
        (
            with(r#","event_id":"f""#),
            "invalid_payload",
            "two spellings",
        ),
        (with(r#","Payload":2"#), "invalid_payload", "two spellings"),
        (with(r#","type":"t""#), "invalid_payload", "eventType"),
        (with(r#","data":1"#), "invalid_payload", "payload"),
        (with(r#","metadata":{}"#), "invalid_payload", "metadata"),
        (
            with(r#","timestamp":"yesterday""#),
            "invalid_payload",
            "RFC 3339",
        ),
        (
            with(r#","schemaVersion":"2.0.0""#),
            "invalid_payload",
            "schemaVersion",
        ),
        (with(r#","trace":7"#), "invalid_payload", "trace"),
        (
            with(r#","omnilinkKind":"command""#),
            "unsupported_kind",
            "events",
        ),
        (
            with(r#","omnilinkTenant":"x""#),
            "invalid_payload",
            "reserved",
        ),
    ];
    for (body, code, says) in cases {
        let error = agents(&body).expect_err(&body);
        assert_eq!(error.code, code, "{body}: {error}");
        assert!(error.message.contains(says), "{body}: {error}");
    }
    // CloudEvents have their own rules.
    let both = r#"{"specversion":"1.0","eventId":"e","id":"1","source":"/s","type":"t","data":1}"#;
    refused(agents(both), "invalid_payload", "both");
    refused(
        structured(FULL, Form::CloudEvents),
        "invalid_payload",
        "strict",
    );
}

#[test]
fn a_batch_may_hold_both_dialects() {
    let plain = minimal("");
    for body in [
        format!("[{FULL},{plain},{{\"eventId\":7}}]"),
        format!("{{\"events\":[{FULL},{plain},{{\"eventId\":7}}]}}"),
    ] {
        let items = parse_batch(body.as_bytes(), Form::OmniLink, 50, &acme(), NOW).unwrap();
        let ids: Vec<_> = items
            .iter()
            .map(|item| item.parsed.as_ref().map(|p| p.event.id.to_string()))
            .collect();
        assert_eq!(ids[0].as_ref().unwrap(), "e-1");
        assert_eq!(ids[1].as_ref().unwrap(), "1");
        assert_eq!(ids[2].as_ref().unwrap_err().code, "invalid_payload");
        assert_eq!(items[0].raw, FULL.as_bytes());
        // The order of members and white space do not tell bodies apart.
        let hash = items[0].parsed.as_ref().unwrap().body_hash;
        assert_eq!(Ok(hash.of_all()), canonical_hash(FULL.as_bytes()));
        // A retry may have another time and trace.
        let again = FULL
            .replace("12:00:00Z", "12:00:05Z")
            .replace("0AF76519", "1BF76519");
        let again = agents(&again).unwrap().body_hash;
        assert!(again.is_same(&hash) && again.of_all() != hash.of_all());
    }
}
