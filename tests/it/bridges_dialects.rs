//! The dialects of Odoo's bridge, rotation, mappings, and definitions of sources.

use omnilink::{
    base::{
        clock::Millis,
        id::{Identity, Tenant},
    },
    bridges::{Request, Source, Window, receive},
    envelope::{DIALECT, Data},
};
use serde_json::{Value, json};

use crate::bridges::{
    NOW, code, headers, hmac_sha256, received, same_event, send, send_at, shown, source,
};

#[test]
fn ipai_is_checked_in_its_order() {
    let ipai = source(&json!({ "name": "odoo", "dialect": "ipai", "secrets": ["secret"] }));
    let body = r#"{"event_type":"expense.submitted","aggregate_type":"expense","aggregate_id":0}"#;
    let time = ("x-ipai-timestamp", "1700000000000");
    let signature = (
        "x-ipai-signature",
        "a31e8de99e9e716d3c26645bbb13a2a0d1ff37901f0a30a9319fffec39528f50",
    );
    let first = received(send(&ipai, &[time, signature], body));
    let expected = json!({ "id": "dd70cda4cab7662268544bcd654e710fed1250a5c492d65723b9ab08ad928519",
        "source": "/webhooks/acme/odoo", "type": "expense.submitted", "entity": ["expense", "0", null],
        "data": serde_json::from_str::<Value>(body).unwrap() });
    assert_eq!(shown(&first), expected);
    assert_eq!(first.window, Window::Events);
    assert_eq!(first.identity, first.parsed.event.identity());

    let signed =
        |time: &str, body: &str| hmac_sha256(b"secret", format!("{time}.{body}").as_bytes());
    let body = r#"{"event_type":"a","aggregate_type":"b","aggregate_id":"c","payload":{"x":1.50},"correlation_id":"any text"}"#;
    // The timestamp may be seconds, and a retry with a new one is the same event under the same key.
    let with = |time: &str, more: &[(&str, &str)]| {
        let signature = signed(time, body);
        let mut all = vec![
            ("X-IPAI-Timestamp", time),
            ("X-IPAI-Signature", &*signature),
            ("x-idempotency-key", "k"),
        ];
        all.extend_from_slice(more);
        received(send(&ipai, &all, body))
    };
    let first = with("1700000000", &[]);
    assert_eq!(
        shown(&first),
        json!({ "id": "k", "source": "/webhooks/acme/odoo", "type": "a", "entity": ["b", "c", null],
        "data": { "x": 1.5 }, "correlation": "any text" })
    );
    assert!(matches!(&first.parsed.event.data, Data::Json(text) if text == r#"{"x":1.50}"#));
    assert!(same_event(&first, &with("1700000000001", &[])));
    assert_eq!(
        shown(&with("1700000000", &[("x-correlation-id", "h")]))["correlation"],
        "h"
    );

    let upper = signature.1.to_uppercase();
    let prefixed = format!("sha256={}", signature.1);
    let nothing: &[(&str, &str)] = &[];
    for (headers, body, expected) in [
        (nothing, "{", "401 missing_signature"),
        (&[signature], "{", "401 missing_timestamp"),
        (
            &[("x-ipai-timestamp", "x"), ("x-ipai-signature", "bad")],
            "{",
            "401 invalid_timestamp",
        ),
        (
            &[
                ("x-ipai-timestamp", "1699999699999"),
                ("x-ipai-signature", "bad"),
            ],
            "{",
            "401 stale_timestamp",
        ),
        (
            &[time, ("x-ipai-signature", "bad")],
            "{",
            "401 invalid_signature",
        ),
        (
            &[time, ("x-ipai-signature", &upper)],
            body,
            "401 invalid_signature",
        ),
        (
            &[time, ("x-ipai-signature", &prefixed)],
            body,
            "401 invalid_signature",
        ),
        (
            &[time, ("x-ipai-signature", &signed(time.1, "{"))],
            "{",
            "400 invalid_payload",
        ),
        (
            &[time, ("x-ipai-signature", &signed(time.1, "[]"))],
            "[]",
            "400 invalid_payload",
        ),
        (
            &[time, ("x-ipai-signature", &signed(time.1, "{}"))],
            "{}",
            "400 missing_event_type",
        ),
    ] {
        assert_eq!(code(send(&ipai, headers, body)), expected);
    }
    for (body, expected) in [
        (
            r#"{"event_type":"a","aggregate_id":1}"#,
            "400 missing_aggregate_type",
        ),
        (
            r#"{"event_type":"a","aggregate_type":"b","aggregate_id":false}"#,
            "400 missing_aggregate_id",
        ),
        (
            r#"{"event_type":"a","aggregate_type":"b","aggregate_id":""}"#,
            "400 missing_aggregate_id",
        ),
        (
            r#"{"event_type":"a","aggregate_type":"b","aggregate_id":[1]}"#,
            "400 invalid_payload",
        ),
        (
            r#"{"event_type":"a","aggregate_type":"b","aggregate_id":"\u0000"}"#,
            "400 invalid_payload",
        ),
    ] {
        assert_eq!(
            code(send(
                &ipai,
                &[time, ("x-ipai-signature", &signed(time.1, body))],
                body
            )),
            expected
        );
    }
}

/// By it the projection of `odoo.webhook_events` knows the event; no sender and no mapping chooses it.
#[test]
fn an_event_of_odoo_says_its_dialect() {
    let dialect = |definition: Value, headers: &[(&str, &str)], body: &str| {
        let event = received(send(&source(&definition), headers, body))
            .parsed
            .event;
        let extensions: Value = serde_json::from_str(&event.extensions).unwrap();
        extensions[DIALECT].clone()
    };
    let native = r#"{"_model":"res.partner","_id":1,"_action":"saved","webhookdialect":"x"}"#;
    let definition = json!({ "name": "odoo", "dialect": "odoo-native" });
    assert_eq!(dialect(definition, &[], native), "odoo-native");
    let mapped = json!({ "name": "odoo", "dialect": "odoo-native",
        "mapping": r#". = { "type": "t", "webhookdialect": "x", "data": 1 }"# });
    assert_eq!(dialect(mapped, &[], native), "odoo-native");
    let signed = hmac_sha256(b"secret", b"{}");
    let definition = json!({ "name": "hub", "dialect": "github", "secrets": ["secret"] });
    let signature = format!("sha256={signed}");
    let headers = [
        ("x-hub-signature-256", &*signature),
        ("x-github-event", "ping"),
        ("x-github-delivery", "d"),
    ];
    assert_eq!(dialect(definition, &headers, "{}"), Value::Null);
}

#[test]
fn ipai_body_is_deduped_by_hash_and_id() {
    let source = source(&json!({ "name": "odoo", "dialect": "ipai-body", "secrets": ["secret"] }));
    let body = r#"{"event_type":"expense.submitted","aggregate_type":"expense","aggregate_id":0}"#;
    let good = "5de7f834e57c8558c8395f61580d2b0ddcbc1072fd45d11dbbd178449f50bfe3";
    let signature = format!("sha256={good}");
    let at = |now| {
        send_at(
            &source,
            &headers(&[("X-IPAI-Signature", &signature)]),
            body.as_bytes(),
            now,
        )
    };
    let (first, later) = (received(at(NOW)), received(at(NOW + 86_400_000)));
    assert!(same_event(&first, &later));
    assert_eq!(
        code(send(&source, &[("x-ipai-signature", good)], body)),
        "401 invalid_signature"
    );
    let with_id = body.replacen('{', r#"{"id":"own","#, 1);
    let signature = format!("sha256={}", hmac_sha256(b"secret", with_id.as_bytes()));
    let own = received(send(&source, &[("x-ipai-signature", &signature)], &with_id));
    assert_eq!(own.parsed.event.id, "own");
}

#[test]
fn a_rotated_secret_counts_until_its_overlap_ends() {
    let mut source = source(&json!({ "name": "o", "dialect": "ipai-body", "secrets": ["old"] }));
    source.secrets = source.secrets.rotated("new", Millis(NOW), 60);
    let body = r#"{"event_type":"a","aggregate_type":"b","aggregate_id":1}"#;
    let at = |secret: &str, now| {
        let signature = format!("sha256={}", hmac_sha256(secret.as_bytes(), body.as_bytes()));
        send_at(
            &source,
            &headers(&[("x-ipai-signature", &signature)]),
            body.as_bytes(),
            now,
        )
    };
    received(at("new", NOW));
    received(at("old", NOW + 59_999));
    assert_eq!(code(at("old", NOW + 60_000)), "401 invalid_signature");
    received(at("new", NOW + 60_000));
}

#[test]
fn a_mapping_makes_the_envelope() {
    let of = |mapping: &str| {
        source(
            &json!({ "name": "odoo", "dialect": "ipai-body", "secrets": ["secret"], "mapping": mapping }),
        )
    };
    let body = r#"{"model":"asset","action":"overdue","record_id":12345678901234567890,"changes":{"n":1.10}}"#;
    let signature = format!("sha256={}", hmac_sha256(b"secret", body.as_bytes()));
    let pairs = [
        ("X-IPAI-Signature", &*signature),
        ("X-Trace", "a"),
        ("x-trace", "b"),
    ];
    let run = |mapping: &str| send(&of(mapping), &pairs, body);
    let event = received(run(
        r#". = { "type": string!(.body.model) + "." + string!(.body.action), "source": "/mine", "correlationid": .headers."x-trace",
              "entity": { "type": .body.model, "external_id": to_string!(.body.record_id) }, "data": .body.changes }"#,
    ));
    assert_eq!(shown(&event)["source"], "/webhooks/acme/odoo");
    assert_eq!(shown(&event)["type"], "asset.overdue");
    assert_eq!(shown(&event)["correlation"], "a, b");
    assert_eq!(
        shown(&event)["entity"],
        json!(["asset", "12345678901234567890", null])
    );
    assert_eq!(event.parsed.event.id.len(), 64);
    let own = r#". = { "id": "mine", "type": "t", "data": null }"#;
    assert_eq!(received(run(own)).parsed.event.id, "mine");
    for (mapping, expected) in [
        (r#". = { "data": 1 }"#, "400 missing_type"),
        (r#". = { "type": "t" }"#, "400 missing_data"),
        (r#". = "text""#, "400 invalid_payload"),
        (
            r#". = { "type": "t", "data": 1, "omnilinkx": "y" }"#,
            "400 invalid_payload",
        ),
        (r#"abort "not wanted""#, "400 vrl_abort"),
        (
            ". = { \"type\": string!(.body.nothing), \"data\": 1 }",
            "400 vrl_error",
        ),
    ] {
        assert_eq!(code(run(mapping)), expected, "{mapping}");
    }
}

#[test]
fn who_does_not_sign_is_let_in_by_the_token_alone() {
    let odoo = source(&json!({ "name": "o", "dialect": "odoo-native" }));
    let request = Request {
        headers: &[],
        body: br#"{"_model":"m","_id":1,"_action":"a(#1)"}"#,
        by_token: false,
        now: Millis(NOW),
    };
    let tenant = Tenant::new("acme").unwrap();
    assert_eq!(
        code(receive(&odoo, &tenant, &request)),
        "404 unknown_source"
    );
    let by_token = Request {
        by_token: true,
        ..request
    };
    let event = received(receive(&odoo, &tenant, &by_token));
    assert_ne!(event.identity, Identity([0; 16]));
}

#[test]
fn all_that_is_wrong_with_a_definition_is_told() {
    let faults = |definition: Value| -> Vec<String> {
        let faults = Source::parse(definition.to_string().as_bytes()).unwrap_err();
        faults
            .iter()
            .map(|fault| format!("{} {}", fault.pointer, fault.code))
            .collect()
    };
    assert_eq!(faults(json!([])), [" invalid_payload"]);
    assert_eq!(
        faults(
            json!({ "name": "a/b", "dialect": "hmac", "secrets": ["", "env:X", 7], "odoo": {}, "x": 1,
            "mapping": ".a = nothing(1)\n.b = ", "hmac": { "header": "a b", "algorithm": "md5", "signed": "{timestamp}.{body}",
            "tolerance_s": 0, "id": "id", "id_header": "x", "type": 1, "y": 2 } })
        ),
        [
            "/x invalid_payload",
            "/name invalid_payload",
            "/odoo invalid_payload",
            "/hmac/y invalid_payload",
            "/hmac/header invalid_payload",
            "/hmac/algorithm invalid_payload",
            "/hmac/encoding missing_encoding",
            "/hmac/signed invalid_payload",
            "/hmac/tolerance_s invalid_payload",
            "/hmac/tolerance_s invalid_payload",
            "/hmac/id invalid_payload",
            "/hmac/id invalid_payload",
            "/hmac/type invalid_payload",
            "/secrets/2 invalid_payload",
            "/secrets/0 invalid_payload",
            "/secrets/1 reference_not_allowed",
            "/mapping invalid_payload",
            "/mapping invalid_payload",
        ]
    );
    assert_eq!(
        faults(json!({ "name": "..", "dialect": "githab", "secrets": "x" })),
        [
            "/name invalid_payload",
            "/dialect invalid_payload",
            "/secrets invalid_payload"
        ]
    );
    assert_eq!(
        faults(json!({})),
        [
            "/name missing_name",
            "/dialect missing_dialect",
            "/secrets missing_secrets"
        ]
    );
    assert_eq!(
        faults(
            json!({ "name": "s", "dialect": "standard-webhooks", "secrets": ["whsec_?"], "hmac": {} })
        ),
        ["/hmac invalid_payload", "/secrets/0 invalid_payload"]
    );
    assert_eq!(
        faults(json!({ "name": "s", "dialect": "hmac", "secrets": ["x"] })),
        ["/hmac missing_hmac"]
    );
    assert_eq!(
        faults(
            json!({ "name": "o", "dialect": "odoo-native", "secrets": ["x"], "odoo": { "booleans": "a" } })
        ),
        ["/odoo/booleans invalid_payload", "/secrets invalid_payload"]
    );
    assert_eq!(
        faults(
            json!({ "name": "o", "dialect": "github", "secrets": ["x"], "mapping": ".type = %topic" })
        ),
        ["/mapping invalid_payload"]
    );
    let twice = Source::parse(br#"{"name":"a","name":"b","dialect":"github","secrets":["x"]}"#);
    assert!(twice.unwrap_err()[0].message.contains("duplicate name"));
}
