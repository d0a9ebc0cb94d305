//! Webhooks through the port: `POST /v1/webhooks/{tenant}/{source}`, `POST /v1/hooks/{token}`, aliases.

use std::{process::Command, sync::Arc, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use hyper::{Method, StatusCode};
use omnilink::{
    api::ROUTES,
    base::clock::{Clock, ManualClock, Millis, SystemClock},
    config::{Alias, Config, Sources},
    envelope::{Data, avro::decode_ingress},
};
use rand::{SeedableRng, rngs::StdRng};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use crate::{
    audit::entries,
    bridges::{NOW, hmac_sha256},
    bridges_damage::damage,
    bridges_senders::{github_bodies, odoo_request},
    integrations::created,
    port_nodes::Cluster,
    support::{
        pages::has,
        port::{Mode, Node, Response},
        read_all, wait_until,
    },
};

async fn start_at(now: Millis) -> (Node, Arc<ManualClock>) {
    let clock = Arc::new(ManualClock::at(now));
    let node = Node::start_at(TempDir::new().unwrap(), None, clock.clone()).await;
    (node, clock)
}

async fn send(node: &Node, path: &str, headers: &[(&str, &str)], body: &str) -> Response {
    node.call(Method::POST, path, headers, body.to_owned())
        .await
}

/// Sends a body as `ipai` signs it at [`NOW`].
async fn ipai(node: &Node, path: &str, secret: &str, key: &str, body: &str) -> Response {
    let time = NOW.to_string();
    let signature = hmac_sha256(secret.as_bytes(), format!("{time}.{body}").as_bytes());
    let headers = [
        ("content-type", "application/json"),
        ("user-agent", "odoo/17"),
        ("x-ipai-timestamp", &time),
        ("x-ipai-signature", &signature),
        ("x-idempotency-key", key),
    ];
    send(node, path, &headers, body).await
}

/// Type, id and data of the events on `ingress`, in the order of their ids.
async fn events(node: &Node, at_least: usize) -> Vec<Value> {
    let (log, topic) = (node.log.clone(), node.names.ingress.to_string());
    let records = tokio::task::spawn_blocking(move || read_all(log.as_ref(), &topic, at_least))
        .await
        .unwrap();
    let mut events: Vec<_> = records
        .iter()
        .map(|fetched| {
            let event = decode_ingress(fetched.record.value.as_deref().unwrap()).unwrap();
            let Data::Json(data) = &event.data else {
                panic!("{event:?}")
            };
            let data: Value = serde_json::from_str(data).unwrap();
            json!({ "tenant": event.tenant.as_str(), "id": event.id, "source": event.source, "type": event.kind, "data": data })
        })
        .collect();
    events.sort_by_key(|event| event["id"].to_string());
    events
}

const EXPENSE: &str = r#"{"event_type":"expense.submitted","aggregate_type":"expense","aggregate_id":57,"payload":{"total":12.5}}"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_signed_request_is_an_event_once() {
    let (node, _) = start_at(Millis(NOW)).await;
    let body = json!({ "name": "odoo", "dialect": "ipai", "secrets": ["s"] });
    let made = created(&node, &body).await;
    let url = made["url"].as_str().unwrap();
    let first = ipai(&node, url, "s", "k-1", EXPENSE).await;
    assert_eq!(first.status, StatusCode::ACCEPTED, "{}", first.text);
    assert_eq!(first.result(0)["status"], "ingested");
    // The same again, as another spelling of the same JSON, and by the path that the sender always had.
    let spelled = EXPENSE.replace(':', ": ");
    for (path, body) in [(url, EXPENSE), (url, &spelled), ("/odoo-webhook", EXPENSE)] {
        let again = ipai(&node, path, "s", "k-1", body).await;
        assert_eq!(again.status, StatusCode::OK, "{}", again.text);
        assert_eq!(again.result(0)["status"], "duplicate");
        assert_eq!(again.result(0)["duplicate"], true);
        assert_eq!(again.result(0)["record_id"], first.result(0)["record_id"]);
    }
    let other = EXPENSE.replace("12.5", "13");
    let mismatch = ipai(&node, url, "s", "k-1", &other).await;
    assert_eq!(mismatch.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(mismatch.code(), "idempotency_mismatch");
    let second = ipai(&node, "/odoo-webhook", "s", "k-2", &other).await;
    assert_eq!(second.status, StatusCode::ACCEPTED);
    assert_eq!(
        events(&node, 2).await,
        [("k-1", 12.5), ("k-2", 13.0)].map(|(id, total)| json!({ "tenant": "acme", "id": id, "source": "/webhooks/acme/odoo",
            "type": "expense.submitted", "data": { "total": if id == "k-1" { json!(total) } else { json!(13) } } }))
    );
    // Once an hour the audit log says that the source is in use.
    let received: Vec<_> = entries(&node, 3).await;
    let received: Vec<_> = received
        .iter()
        .filter(|e| e.action == "source.received")
        .collect();
    assert_eq!(received.len(), 1);
    assert_eq!(received[0].resource_id.as_deref(), made["id"].as_str());
    assert_eq!((&*received[0].tenant, received[0].at), ("acme", NOW * 1000));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_is_a_duplicate_after_a_restart() {
    let (node, clock) = start_at(Millis(NOW)).await;
    let body = json!({ "name": "odoo", "dialect": "ipai", "secrets": ["s"] });
    created(&node, &body).await;
    let path = "/v1/webhooks/acme/odoo";
    let first = ipai(&node, path, "s", "k", EXPENSE).await;
    let node = Node::start_at(node.stop().await, None, clock.clone()).await;
    let again = ipai(&node, path, "s", "k", EXPENSE).await;
    assert_eq!(again.status, StatusCode::OK, "{}", again.text);
    assert_eq!(again.result(0)["record_id"], first.result(0)["record_id"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_unknown_has_one_answer() {
    let (node, _) = start_at(Millis(NOW)).await;
    created(
        &node,
        &json!({ "name": "signed", "dialect": "ipai", "secrets": ["s"] }),
    )
    .await;
    let native = created(
        &node,
        &json!({ "name": "native", "dialect": "odoo-native" }),
    )
    .await;
    let token = native["token"].as_str().unwrap();
    let mistyped = format!("/v1/hooks/{}x", &token[..token.len() - 1]);
    let mut answers = Vec::new();
    for path in [
        "/v1/webhooks/acme/none",
        "/v1/webhooks/none/signed",
        &mistyped,
    ] {
        let answer = ipai(&node, path, "s", "k", EXPENSE).await;
        assert_eq!(
            (answer.status.as_u16(), &*answer.code()),
            (404, "unknown_source")
        );
        let mut body = answer.json();
        body["request_id"].take();
        answers.push(body);
    }
    answers.dedup();
    assert_eq!(answers.len(), 1);
    // A source that does not sign is reached by its token alone.
    let answer = ipai(&node, "/v1/webhooks/acme/native", "s", "k", EXPENSE).await;
    assert_eq!(answer.code(), "unknown_source");
    for path in [
        "/v1/webhooks/acme",
        "/v1/webhooks/acme/a/b",
        "/v1/hooks/a/b",
    ] {
        assert_eq!(
            ipai(&node, path, "s", "k", EXPENSE).await.code(),
            "not_found"
        );
    }
    let records = entries(&node, 6).await;
    let rejected: Vec<_> = records
        .iter()
        .filter(|e| e.action == "webhook.rejected")
        .collect();
    let mut of: Vec<_> = rejected
        .iter()
        .map(|entry| (entry.tenant.as_str(), entry.resource_id.as_deref().unwrap()))
        .collect();
    of.sort_unstable();
    assert_eq!(
        of,
        [
            ("-", "acme/none"),
            ("-", "none/signed"),
            ("-", "token"),
            ("acme", "native")
        ]
    );
    assert!(!format!("{records:?}").contains(&token[..token.len() - 1]));
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_are_recorded_and_limited_and_a_good_signature_passes() {
    let (node, clock) = start_at(Millis(NOW)).await;
    let path = "/v1/webhooks/acme/odoo";
    let body = json!({ "name": "odoo", "dialect": "ipai", "secrets": ["s"] });
    created(&node, &body).await;
    for n in 0..30 {
        let answer = ipai(&node, path, "wrong", "k", EXPENSE).await;
        assert_eq!(answer.code(), "invalid_signature", "{n}");
    }
    let answer = ipai(&node, path, "wrong", "k", EXPENSE).await;
    assert_eq!(answer.status, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(answer.code(), "rate_limit_exceeded");
    assert_eq!(answer.headers["retry-after"], "60");
    assert!(answer.headers.contains_key("ratelimit-policy"));
    assert_eq!(ipai(&node, path, "s", "k", EXPENSE).await.status, 202);
    // Another source, or address, has a limit of its own; a wrong body is no failure of a signature.
    assert_eq!(
        ipai(&node, "/v1/webhooks/acme/x", "s", "k", "")
            .await
            .status,
        404
    );
    let signature = hmac_sha256(b"wrong", format!("{NOW}.{EXPENSE}").as_bytes());
    let time = NOW.to_string();
    let elsewhere = [
        ("x-forwarded-for", "198.51.100.7"),
        ("x-ipai-timestamp", &*time),
        ("x-ipai-signature", &*signature),
    ];
    assert_eq!(
        send(&node, path, &elsewhere, EXPENSE).await.code(),
        "invalid_signature"
    );
    assert_eq!(
        ipai(&node, path, "s", "k2", "[]").await.code(),
        "invalid_payload"
    );
    clock.advance(60_000);
    assert_eq!(
        ipai(&node, path, "wrong", "k", EXPENSE).await.code(),
        "invalid_signature"
    );

    let records = entries(&node, 35).await;
    let rejected: Vec<_> = records
        .iter()
        .filter(|e| e.action == "webhook.rejected")
        .collect();
    // Of those in the first minute: 30 of the address, one of the other address, one of the unknown source.
    assert_eq!(rejected.len(), 33);
    let entry = rejected[0];
    assert_eq!((&*entry.tenant, &*entry.outcome), ("acme", "denied"));
    assert_eq!(entry.resource_type.as_deref(), Some("source"));
    assert_eq!(entry.address.as_deref(), Some("127.0.0.1"));
    assert_eq!(entry.user_agent.as_deref(), Some("odoo/17"));
    let detail: Value = serde_json::from_str(&entry.detail).unwrap();
    let hash = Sha256::digest(EXPENSE);
    let hash = hash
        .iter()
        .fold(String::new(), |hex, byte| format!("{hex}{byte:02x}"));
    assert_eq!(
        (&detail["source"], &detail["code"], &detail["body_hash"]),
        (&json!("odoo"), &json!("invalid_signature"), &json!(hash))
    );
    assert_eq!(detail["body_head"], STANDARD.encode(EXPENSE));
    let addresses = rejected
        .iter()
        .filter(|e| e.address.as_deref() == Some("198.51.100.7"));
    assert_eq!(addresses.count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn sizes_encodings_forms_and_challenges() {
    let (node, _) = start_at(Millis(NOW)).await;
    let slack = json!({ "name": "slack", "dialect": "hmac", "secrets": ["s"], "hmac": {
        "header": "X-Slack-Signature", "algorithm": "sha256", "encoding": "hex", "prefix": "v0=",
        "signed": "v0:{timestamp}:{body}", "timestamp_header": "X-Slack-Request-Timestamp", "id": "/event_id" } });
    created(&node, &slack).await;
    let path = "/v1/webhooks/acme/slack";
    let seconds = (NOW / 1000).to_string();
    let slack = async |media: &str, more: &[(&str, &str)], body: &str| {
        let signature = hmac_sha256(b"s", format!("v0:{seconds}:{body}").as_bytes());
        let signature = format!("v0={signature}");
        let mut headers = vec![
            ("content-type", media),
            ("x-slack-signature", &*signature),
            ("x-slack-request-timestamp", &*seconds),
        ];
        headers.extend(more);
        send(&node, path, &headers, body).await
    };
    let body = r#"{"type":"url_verification","challenge":"3eZbrw1aBm2r"}"#;
    let challenge = slack("application/json", &[], body).await;
    assert_eq!(
        (challenge.status.as_u16(), &*challenge.text),
        (200, "3eZbrw1aBm2r")
    );
    assert_eq!(
        challenge.headers["content-type"],
        "text/plain; charset=utf-8"
    );
    let form = "application/x-www-form-urlencoded";
    let command = slack(form, &[], "command=%2Fdeploy&text=to+prod").await;
    assert_eq!(command.status, StatusCode::ACCEPTED, "{}", command.text);
    assert_eq!(
        events(&node, 1).await[0]["data"],
        json!({ "command": "/deploy", "text": "to prod" })
    );
    let compressed = slack("application/json", &[("content-encoding", "gzip")], "{}").await;
    assert_eq!(compressed.status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    assert_eq!(compressed.code(), "unsupported_content_encoding");
    let large = format!("{{\"a\":\"{}\"}}", "x".repeat(256 * 1024));
    assert_eq!(
        slack("application/json", &[], &large).await.code(),
        "payload_too_large"
    );
    // It fits to the byte.
    let large = format!("{{\"a\":\"{}\"}}", "x".repeat(256 * 1024 - 8));
    assert_eq!(slack("application/json", &[], &large).await.status, 202);
    let get = node.call(Method::GET, path, &[], "").await;
    assert_eq!(get.code(), "method_not_allowed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_without_an_id_is_a_duplicate_for_ten_seconds() {
    let (node, clock) = start_at(Millis(NOW)).await;
    let native = created(
        &node,
        &json!({ "name": "native", "dialect": "odoo-native" }),
    )
    .await;
    let path = native["url"].as_str().unwrap();
    let (_, body) = odoo_request("19.0");
    let body = String::from_utf8(body).unwrap();
    let post = async || send(&node, path, &[], &body).await;
    let first = post().await;
    assert_eq!(first.status, StatusCode::ACCEPTED, "{}", first.text);
    clock.advance(9_999);
    let again = post().await;
    assert_eq!(again.status, StatusCode::OK);
    assert_eq!(again.result(0)["record_id"], first.result(0)["record_id"]);
    clock.advance(1);
    let later = post().await;
    assert_eq!(later.status, StatusCode::ACCEPTED, "{}", later.text);
    assert_ne!(later.result(0)["record_id"], first.result(0)["record_id"]);
    assert_eq!(events(&node, 2).await.len(), 2);

    // While the first is being written the second is told to come again.
    clock.advance(10_000);
    node.log.set_mode(Mode::Held);
    let mut held = std::pin::pin!(post());
    let waited = tokio::time::timeout(Duration::from_millis(300), &mut held).await;
    assert!(waited.is_err());
    let second = post().await;
    assert_eq!(second.code(), "idempotency_in_flight");
    assert_eq!(second.headers["retry-after"], "1");
    node.log.set_mode(Mode::Works);
    let first = held.await;
    assert_eq!(first.status, StatusCode::ACCEPTED, "{}", first.text);
    assert_eq!(
        post().await.result(0)["record_id"],
        first.result(0)["record_id"]
    );

    // What could not be written is new again.
    clock.advance(10_000);
    node.log.set_mode(Mode::Fails);
    let failed = post().await;
    assert_eq!(
        (failed.status.as_u16(), &*failed.code()),
        (503, "log_unavailable")
    );
    node.log.set_mode(Mode::Works);
    let mut status = failed.status;
    for _ in 0..100 {
        if status != StatusCode::SERVICE_UNAVAILABLE {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        status = post().await.status;
    }
    assert_eq!(status, StatusCode::ACCEPTED);
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_share_bodies_without_an_id() {
    let Some(Cluster { a, b, .. }) = Cluster::start().await else {
        return;
    };
    let native = json!({ "name": "native", "dialect": "odoo-native" });
    let (on_a, on_b) = (created(&a, &native).await, created(&b, &native).await);
    let body = r#"{"_model":"m","_id":1,"_action":"a"}"#;
    let path = |made: &Value| made["url"].as_str().unwrap().to_owned();
    let first = send(&a, &path(&on_a), &[], body).await;
    assert_eq!(first.status, StatusCode::ACCEPTED);
    let mut again = send(&b, &path(&on_b), &[], body).await;
    for _ in 0..100 {
        if again.status != StatusCode::CONFLICT {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
        again = send(&b, &path(&on_b), &[], body).await;
    }
    assert_eq!(again.status, StatusCode::OK, "{}", again.text);
    assert_eq!(again.result(0)["record_id"], first.result(0)["record_id"]);
    // What could not be written is new on the other node too.
    let body = r#"{"_model":"m","_id":2,"_action":"a"}"#;
    a.log.set_mode(Mode::Fails);
    assert_eq!(send(&a, &path(&on_a), &[], body).await.status, 503);
    let mut status = StatusCode::CONFLICT;
    for _ in 0..100 {
        if status != StatusCode::CONFLICT {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
        status = send(&b, &path(&on_b), &[], body).await.status;
    }
    assert_eq!(status, StatusCode::ACCEPTED);
}

#[tokio::test(flavor = "multi_thread")]
async fn github_s_bodies_become_events_and_damaged_ones_no_more_than_a_refusal() {
    let Some(bodies) = github_bodies() else {
        return;
    };
    let node = Node::start().await;
    created(
        &node,
        &json!({ "name": "github", "dialect": "github", "secrets": ["secret"] }),
    )
    .await;
    let post = async |event: &str, delivery: &str, body: Vec<u8>| {
        let signature = format!("sha256={}", hmac_sha256(b"secret", &body));
        let headers = [
            ("content-type", "application/json"),
            ("x-github-event", event),
            ("x-github-delivery", delivery),
            ("x-hub-signature-256", &signature),
        ];
        let path = "/v1/webhooks/acme/github";
        node.call(Method::POST, path, &headers, body).await
    };
    for (n, (event, body)) in bodies.iter().enumerate() {
        let answer = post(event, &n.to_string(), body.clone()).await;
        assert_eq!(
            answer.status,
            StatusCode::ACCEPTED,
            "{event}: {}",
            answer.text
        );
    }
    let events = events(&node, bodies.len()).await;
    assert_eq!(events.len(), bodies.len());
    for event in &events {
        let n: usize = event["id"].as_str().unwrap().parse().unwrap();
        let sent: Value = serde_json::from_slice(&bodies[n].1).unwrap();
        assert_eq!(event["data"], sent);
    }
    let mut random = StdRng::seed_from_u64(1);
    let mut seen = [0; 2];
    for n in 0..600 {
        let (event, body) = &bodies[n % bodies.len()];
        let mut body = body.clone();
        damage(&mut body, &mut random);
        let answer = post(event, &format!("damaged-{n}"), body).await;
        match answer.status.as_u16() {
            202 => seen[0] += 1,
            400 => seen[1] += 1,
            status => panic!("{status}: {}", answer.text),
        }
    }
    assert!(seen.iter().all(|count| *count > 20), "{seen:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_library_of_standard_webhooks_signs_what_is_taken() {
    let python = std::env::var("OMNILINK_TEST_PYTHON").unwrap_or_else(|_| "python3".into());
    if !has(&python, &["-c", "import standardwebhooks"]) {
        return;
    }
    let node = Node::start().await;
    let secret = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
    let body = json!({ "name": "billing", "dialect": "standard-webhooks", "secrets": [secret] });
    let made = created(&node, &body).await;
    let url = format!("http://{}{}", node.address, made["url"].as_str().unwrap());
    let script = format!("{}/tests/clients/webhook.py", env!("CARGO_MANIFEST_DIR"));
    let run = move || Command::new(python).args([&script, &url, secret]).output();
    let run = tokio::task::spawn_blocking(run).await.unwrap().unwrap();
    let statuses = String::from_utf8(run.stdout).unwrap();
    let error = String::from_utf8_lossy(&run.stderr);
    assert_eq!(statuses, "202\n200\n401\n401\n401\n", "{error}");
    let event = &events(&node, 1).await[0];
    assert_eq!(
        (&event["id"], &event["type"]),
        (&json!("msg_1"), &json!("invoice.paid"))
    );
    assert_eq!(event["data"], json!({ "id": "in_1", "note": "Zoë" }));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_answer_while_the_log_or_the_controls_are_away() {
    let (node, _) = start_at(SystemClock.now()).await;
    let native = created(
        &node,
        &json!({ "name": "native", "dialect": "odoo-native" }),
    )
    .await;
    let path = native["url"].as_str().unwrap();
    node.log.set_mode(Mode::Unavailable);
    let controls = node.controls.clone();
    tokio::task::spawn_blocking(move || wait_until("controls unreadable", || !controls.readable()))
        .await
        .unwrap();
    let body = r#"{"_model":"m","_id":1,"_action":"a"}"#;
    let answer = send(&node, path, &[], body).await;
    assert_eq!(
        (answer.status.as_u16(), &*answer.code()),
        (503, "log_unavailable")
    );
    assert_eq!(answer.headers["retry-after"], "5");
}

#[test]
fn no_route_has_the_path_of_an_alias() {
    for route in ROUTES {
        let path = route.example_path();
        assert!(Alias::parse(&path, "acme/odoo").is_err(), "{path}");
    }
}

#[test]
fn aliases_are_settings() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("omnilink.yaml");
    let load = |yaml: &str, env: &[(&str, &str)]| {
        std::fs::write(&file, yaml).unwrap();
        let sources = Sources {
            file: Some(file.clone()),
            env: env
                .iter()
                .map(|(n, v)| ((*n).into(), (*v).into()))
                .collect(),
            ..Sources::default()
        };
        Config::load(&sources).map_err(|e| e.to_string())
    };
    let yaml = "webhooks:\n  aliases: { /odoo-webhook: acme/odoo, /api/hook: beta/x }\n";
    let config = load(yaml, &[]).unwrap();
    assert_eq!(config.aliases.len(), 2);
    assert_eq!(
        config.redacted()["webhooks"]["aliases"],
        json!({ "/odoo-webhook": "acme/odoo", "/api/hook": "beta/x" })
    );
    assert!(config.webhooks_dir.ends_with("webhooks"));
    let variable = "OMNILINK__WEBHOOKS__ALIASES";
    let config = load(yaml, &[(variable, "{ /x: acme/y }")]).unwrap();
    assert_eq!(config.aliases, [Alias::parse("/x", "acme/y").unwrap()]);
    let wrong = load("webhooks:\n  aliases: { /v1/events: acme/odoo }\n", &[]).unwrap_err();
    assert!(
        wrong.ends_with(
            ":2:3: `webhooks.aliases`: `/v1/events` is the path of a route of OmniLink's own"
        ),
        "{wrong}"
    );
    for wrong in ["[]", "{ /x: 1 }", "{ /x: acme }", "{ x: acme/odoo }"] {
        assert!(
            load(&format!("webhooks: {{ aliases: {wrong} }}"), &[]).is_err(),
            "{wrong}"
        );
    }
}
