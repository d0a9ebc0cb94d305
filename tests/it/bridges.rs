//! Webhook bridges: the signatures that senders publish as examples, and what the other tests of bridges need.

use omnilink::{
    base::{clock::Millis, id::Tenant},
    bridges::{Outcome, Received, Refusal, Request, Source, receive},
    envelope::{Data, Rfc3339, TimeSource},
};
use serde_json::{Value, json};

/// What most requests here are signed for: 2023-11-14T22:13:20Z.
pub const NOW: i64 = 1_700_000_000_000;

pub type Header = (String, Vec<u8>);

pub fn source(definition: &Value) -> Source {
    let parsed = Source::parse(definition.to_string().as_bytes());
    parsed.unwrap_or_else(|faults| panic!("{definition}: {faults:#?}"))
}

pub fn headers(pairs: &[(&str, &str)]) -> Vec<Header> {
    let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), value.as_bytes().to_vec());
    pairs.iter().map(owned).collect()
}

pub fn send_at(
    source: &Source,
    headers: &[Header],
    body: &[u8],
    now: i64,
) -> Result<Outcome, Refusal> {
    let headers: Vec<_> = headers.iter().map(|(n, v)| (&**n, &**v)).collect();
    let request = Request {
        headers: &headers,
        body,
        by_token: !source.dialect.signs(),
        now: Millis(now),
    };
    receive(source, &Tenant::new("acme").unwrap(), &request)
}

pub fn received(outcome: Result<Outcome, Refusal>) -> Received {
    match outcome {
        Ok(Outcome::Event(received)) => *received,
        other => panic!("{other:?}"),
    }
}

pub fn send(source: &Source, pairs: &[(&str, &str)], body: &str) -> Result<Outcome, Refusal> {
    send_at(source, &headers(pairs), body.as_bytes(), NOW)
}

pub fn code(outcome: Result<Outcome, Refusal>) -> String {
    match outcome {
        Err(refusal) => format!("{} {}", refusal.status(), refusal.code),
        Ok(outcome) => panic!("{outcome:?}"),
    }
}

/// An event as JSON, as far as dialects decide it.
pub fn shown(received: &Received) -> Value {
    let event = &received.parsed.event;
    let data: Value = match &event.data {
        Data::Json(text) => serde_json::from_str(text).unwrap(),
        other => panic!("{other:?}"),
    };
    let mut shown =
        json!({ "id": event.id, "source": event.source, "type": event.kind, "data": data });
    if let Some(entity) = &event.entity {
        shown["entity"] = json!([entity.kind, entity.external_id, entity.display_name]);
    }
    if let Some(correlation_id) = &event.correlation_id {
        shown["correlation"] = json!(correlation_id);
    }
    if event.time_source == TimeSource::Producer {
        shown["time"] = json!(Rfc3339(event.time).to_string());
    }
    shown
}

pub fn same_event(a: &Received, b: &Received) -> bool {
    a.identity == b.identity && a.parsed.body_hash.is_same(&b.parsed.body_hash)
}

fn slack() -> Source {
    source(
        &json!({ "name": "slack", "dialect": "hmac", "secrets": ["8f742231b10e8888abcd99yyyzzz85a5"], "hmac": {
        "header": "X-Slack-Signature", "algorithm": "sha256", "encoding": "hex", "prefix": "v0=",
        "signed": "v0:{timestamp}:{body}", "timestamp_header": "X-Slack-Request-Timestamp",
        "id": "/event_id", "type": "/event/type" } }),
    )
}

/// docs.slack.dev/authentication/verifying-requests-from-slack
#[test]
fn slack_s_published_example() {
    let body = "token=xyzz0WbapA4vBCDEFasx0q6G&team_id=T1DC2JH3J&team_domain=testteamnow&channel_id=G8PSS9T3V&channel_name=foobar&user_id=U2CERLKJA&user_name=roadrunner&command=%2Fwebhook-collect&text=&response_url=https%3A%2F%2Fhooks.slack.com%2Fcommands%2FT1DC2JH3J%2F397700885554%2F96rGlfmibIGlgcZRskXaIFfN&trigger_id=398738663015.47445629121.803a0bc887a14d10d2c447fce8b6703c";
    let headers = headers(&[
        ("Content-Type", "application/x-www-form-urlencoded"),
        ("X-Slack-Request-Timestamp", "1531420618"),
        (
            "X-Slack-Signature",
            "v0=a2114d57b48eac39b9ad189dd8316235a7b4a8d21a10bd27519666489c69b503",
        ),
    ]);
    let at = |now: i64| send_at(&slack(), &headers, body.as_bytes(), now);
    let event = shown(&received(at(1_531_420_618_000)));
    assert_eq!(event["type"], "webhook.slack");
    assert_eq!(event["source"], "/webhooks/acme/slack");
    assert_eq!(event["data"]["command"], "/webhook-collect");
    assert_eq!(event["data"]["text"], "");
    assert_eq!(event["id"].as_str().unwrap().len(), 64);
    received(at(1_531_420_918_000));
    received(at(1_531_420_318_000));
    assert_eq!(code(at(1_531_420_918_001)), "401 stale_timestamp");
    assert_eq!(code(at(1_531_420_317_999)), "401 stale_timestamp");
}

#[test]
fn slack_s_challenge_is_answered_when_it_is_signed() {
    let body = r#"{"token":"t","challenge":"3eZbrw1aBm2rZgRNFdxV2595E9CY3gmdALWMmHkvFXO7tYXAYM8P","type":"url_verification"}"#;
    let sign = |body: &str| {
        let signed = format!("v0:1700000000:{body}");
        format!(
            "v0={}",
            hmac_sha256(b"8f742231b10e8888abcd99yyyzzz85a5", signed.as_bytes())
        )
    };
    let time = ("x-slack-request-timestamp", "1700000000");
    let signature = sign(body);
    let outcome = send(&slack(), &[time, ("x-slack-signature", &signature)], body);
    let challenge = "3eZbrw1aBm2rZgRNFdxV2595E9CY3gmdALWMmHkvFXO7tYXAYM8P";
    assert_eq!(outcome, Ok(Outcome::Challenge(challenge.into())));
    let unsigned = send(&slack(), &[time, ("x-slack-signature", "v0=00")], body);
    assert_eq!(code(unsigned), "401 invalid_signature");
    let body = r#"{"type":"event_callback","event_id":"Ev1","event":{"type":"app_mention"}}"#;
    let signature = sign(body);
    let event = received(send(
        &slack(),
        &[time, ("x-slack-signature", &signature)],
        body,
    ));
    assert_eq!(shown(&event)["id"], "Ev1");
    assert_eq!(shown(&event)["type"], "app_mention");
}

/// docs.github.com/en/webhooks/using-webhooks/validating-webhook-deliveries
#[test]
fn github_s_published_example() {
    let github = source(
        &json!({ "name": "g", "dialect": "github", "secrets": ["It's a Secret to Everybody"] }),
    );
    let good = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";
    let event = ("x-github-event", "push");
    let delivery = ("x-github-delivery", "d");
    let hello = |pairs: &[(&str, &str)]| code(send(&github, pairs, "Hello, World!"));
    // The signature is good, and then the body is no JSON.
    let signature = ("X-Hub-Signature-256", good);
    assert_eq!(hello(&[signature, event, delivery]), "400 invalid_payload");
    assert_eq!(hello(&[event, delivery]), "401 missing_signature");
    for bad in [&good[7..], "sha256=", &good[..70], "sha1=x"] {
        let signature = ("X-Hub-Signature-256", bad);
        assert_eq!(
            hello(&[signature, event, delivery]),
            "401 invalid_signature"
        );
    }
    assert_eq!(hello(&[signature, delivery]), "400 missing_header");
    assert_eq!(hello(&[signature, event]), "400 missing_header");
    assert_eq!(
        hello(&[signature, event, delivery, delivery]),
        "400 invalid_header"
    );
}

/// The vectors in `libraries/` of github.com/standard-webhooks/standard-webhooks.
#[test]
fn standard_webhooks_published_examples() {
    let of = |secrets: Value| {
        source(&json!({ "name": "s", "dialect": "standard-webhooks", "secrets": secrets }))
    };
    let vectors = [
        (
            "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD",
            "msg_27UH4WbU6Z5A5EzD8u03UvzRbpk",
            "1649367553",
            r#"{"email":"test@example.com","username":"test_user"}"#,
            "v1,tZ1I4/hDygAJgO5TYxiSd6Sd0kDW6hPenDe+bTa3Kkw=",
        ),
        (
            "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
            "msg_p5jXN8AQM9LWM0D4loKWxJek",
            "1614265330",
            r#"{"test": 2432232314}"#,
            "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
        ),
    ];
    for (secret, id, time, body, signature) in vectors {
        let source = of(json!(["whsec_b2xk", secret]));
        let now = time.parse::<i64>().unwrap() * 1000;
        let at = |signature: &str, now: i64| {
            let headers = headers(&[
                ("Webhook-Id", id),
                ("Webhook-Timestamp", time),
                ("Webhook-Signature", signature),
            ]);
            code(send_at(&source, &headers, body.as_bytes(), now))
        };
        // It is good; these bodies have no type.
        assert_eq!(at(signature, now), "400 missing_type");
        let several = format!("v1a,xx v1,AAAA {signature}");
        assert_eq!(at(&several, now), "400 missing_type");
        assert_eq!(
            at(&signature.replace("v1,", "v2,"), now),
            "401 invalid_signature"
        );
        assert_eq!(at("v1,", now), "401 invalid_signature");
        assert_eq!(at(signature, now + 300_001), "401 stale_timestamp");
    }
    let source = of(json!(["whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"]));
    let none = send(
        &source,
        &[("webhook-signature", "v1,x"), ("webhook-timestamp", "1")],
        "",
    );
    assert_eq!(code(none), "400 missing_header");
}

/// Stripe publishes no vector: this signature was made by another program (Python's `hmac`).
#[test]
fn stripe() {
    let stripe =
        source(&json!({ "name": "s", "dialect": "stripe", "secrets": ["whsec_test_secret"] }));
    let body = r#"{"id":"evt_1","object":"event","type":"charge.succeeded","created":1699999999,"pending_webhooks":2,"data":{"object":{"id":"ch_1","object":"charge","amount":100}}}"#;
    let v1 = "4a9655bb3012c8592158ad1f59485612fc8ba33d6cb446a1365f01cd6528e140";
    let send = |header: &str, body: &str| send(&stripe, &[("Stripe-Signature", header)], body);
    let zeros = "0".repeat(64);
    let first = received(send(&format!("t=1700000000,v1={zeros},v1={v1},v0=x"), body));
    let expected = json!({ "id": "evt_1", "source": "/webhooks/acme/s", "type": "stripe.charge.succeeded",
        "entity": ["charge", "ch_1", null], "time": "2023-11-14T22:13:19Z", "data": serde_json::from_str::<Value>(body).unwrap() });
    assert_eq!(shown(&first), expected);
    // A retry while fewer endpoints wait is the same event, and another amount is not.
    let retry = |body: &str| {
        let v1 = hmac_sha256(
            b"whsec_test_secret",
            format!("1700000100.{body}").as_bytes(),
        );
        received(send(&format!("t=1700000100,v1={v1}"), body))
    };
    assert!(same_event(
        &first,
        &retry(&body.replace("_webhooks\":2", "_webhooks\":1"))
    ));
    assert!(!same_event(&first, &retry(&body.replace("100", "101"))));
    for (header, expected) in [
        (format!("v1={v1}"), "401 missing_timestamp"),
        (
            format!("t=1700000000,t=1700000000,v1={v1}"),
            "401 missing_timestamp",
        ),
        (format!("t=1700000000,v0={v1}"), "401 missing_signature"),
        (format!("t=1700000001,v1={v1}"), "401 invalid_signature"),
        (format!("t=x,v1={v1}"), "401 invalid_timestamp"),
        (format!("t=1699999699,v1={v1}"), "401 stale_timestamp"),
    ] {
        assert_eq!(code(send(&header, body)), expected, "{header}");
    }
}

/// Neither publishes a vector: these were made by another program (Python's `hmac`).
#[test]
fn alchemy_shopify_and_sha1() {
    let of = |name: &str, secret: &str, hmac: Value| {
        source(&json!({ "name": name, "dialect": "hmac", "secrets": [secret], "hmac": hmac }))
    };
    let alchemy = of(
        "alchemy",
        "whsec_test",
        json!({ "header": "X-Alchemy-Signature", "algorithm": "sha256",
        "encoding": "hex", "signed": "body", "id": "/id", "type": "/type" }),
    );
    let body = r#"{"webhookId":"wh_127lzhz0dfwwimwe","id":"whevt_55i2al4sc2ivp1m8","createdAt":"2022-12-05T23:43:16.379Z","type":"ADDRESS_ACTIVITY","event":{}}"#;
    let signature = "956727f091872add2fa243d97ea3de4f40de03775732a510d07e8b40e6ae68f2";
    for written in [signature, &signature.to_uppercase()] {
        let event = shown(&received(send(
            &alchemy,
            &[("x-alchemy-signature", written)],
            body,
        )));
        assert_eq!(event["id"], "whevt_55i2al4sc2ivp1m8");
        assert_eq!(event["type"], "ADDRESS_ACTIVITY");
    }

    let shopify = of(
        "shopify",
        "shop-secret",
        json!({ "header": "X-Shopify-Hmac-Sha256", "algorithm": "sha256",
        "encoding": "base64", "signed": "body", "id_header": "X-Shopify-Webhook-Id", "type_header": "X-Shopify-Topic" }),
    );
    let signature = (
        "X-Shopify-Hmac-SHA256",
        "plW8VGqq0nDMIEhDqaNNW99asdUCy7EIqLZVcQwtAZ0=",
    );
    let topic = ("X-Shopify-Topic", "orders/create");
    let id = ("X-Shopify-Webhook-Id", "b54557e4");
    let event = shown(&received(send(
        &shopify,
        &[signature, topic, id],
        r#"{"id":1}"#,
    )));
    assert_eq!(
        event,
        json!({ "id": "b54557e4", "source": "/webhooks/acme/shopify", "type": "orders/create", "data": { "id": 1 } })
    );
    assert_eq!(
        code(send(&shopify, &[signature, topic], r#"{"id":1}"#)),
        "400 missing_header"
    );
    assert_eq!(
        code(send(&shopify, &[signature, id], r#"{"id":1}"#)),
        "400 missing_header"
    );

    let sha1 = of(
        "old",
        "secret",
        json!({ "header": "X-Sig", "algorithm": "sha1", "encoding": "hex", "signed": "body" }),
    );
    let event = received(send(
        &sha1,
        &[("x-sig", "5d61605c3feea9799210ddcb71307d4ba264225f")],
        "{}",
    ));
    assert_eq!(shown(&event)["type"], "webhook.old");
}

/// In hexadecimal; what the tests sign with is not what is tested.
pub fn hmac_sha256(key: &[u8], text: &[u8]) -> String {
    use sha2::{Digest, Sha256};
    let mut block = [0; 64];
    block[..key.len()].copy_from_slice(key);
    let pad = |with: u8| block.map(|byte| byte ^ with);
    let inner = Sha256::new()
        .chain_update(pad(0x36))
        .chain_update(text)
        .finalize();
    let outer = Sha256::new()
        .chain_update(pad(0x5c))
        .chain_update(inner)
        .finalize();
    outer
        .iter()
        .fold(String::new(), |hex, byte| format!("{hex}{byte:02x}"))
}
