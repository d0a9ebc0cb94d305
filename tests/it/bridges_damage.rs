//! Damaged requests through every dialect: none of them panics, and none is more than a refusal; a signature holds for its own
//! bytes alone.
//!
//! `OMNILINK_TEST_MUTATIONS` says how many for each dialect (20,000); `scripts/fuzz port` sends a million.

use omnilink::bridges::{Outcome, Source};
use proptest::prelude::*;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::json;

use crate::{
    bridges::{Header, NOW, headers, hmac_sha256, send_at, source},
    bridges_senders::{github, odoo_request},
    port_mutations::rounds,
};

/// A source, and how its sender signs a body.
struct Sender {
    source: Source,
    body: Vec<u8>,
    sign: fn(&[u8]) -> Vec<Header>,
}

fn signed(header: &str, prefix: &str, text: &[u8]) -> (String, String) {
    (
        header.into(),
        format!("{prefix}{}", hmac_sha256(b"secret", text)),
    )
}

fn with(signature: (String, String), more: &[(&str, &str)]) -> Vec<Header> {
    let mut all = headers(more);
    all.push((signature.0, signature.1.into_bytes()));
    all
}

fn timed(before: &str, body: &[u8]) -> Vec<u8> {
    [before.as_bytes(), body].concat()
}

fn senders() -> Vec<Sender> {
    let of =
        |dialect: &str| source(&json!({ "name": "s", "dialect": dialect, "secrets": ["secret"] }));
    let ipai = br#"{"event_type":"a","aggregate_type":"b","aggregate_id":0,"payload":{"x":[1.5,null,"\u00e9"]},"correlation_id":"c"}"#;
    let mapping = r#". = { "type": to_string(.body.event_type) ?? "none", "data": .body, "time": .body.time }"#;
    vec![
        Sender {
            source: of("ipai"),
            body: ipai.to_vec(),
            sign: |body| {
                let signature = signed("x-ipai-signature", "", &timed("1700000000000.", body));
                with(signature, &[("x-ipai-timestamp", "1700000000000"), ("x-idempotency-key", "k")])
            },
        },
        Sender {
            source: of("ipai-body"),
            body: ipai.to_vec(),
            sign: |body| with(signed("x-ipai-signature", "sha256=", body), &[]),
        },
        Sender {
            source: source(&json!({ "name": "s", "dialect": "ipai-body", "secrets": ["secret"], "mapping": mapping })),
            body: ipai.to_vec(),
            sign: |body| with(signed("x-ipai-signature", "sha256=", body), &[]),
        },
        Sender {
            source: source(&json!({ "name": "s", "dialect": "odoo-native", "odoo": { "many2one": ["partner_id"] } })),
            body: odoo_request("17.0").1,
            sign: |_| headers(&[("content-type", "application/json")]),
        },
        Sender {
            // The key is `secret`.
            source: source(&json!({ "name": "s", "dialect": "standard-webhooks", "secrets": ["whsec_c2VjcmV0"] })),
            body: br#"{"type":"a","timestamp":"2025-01-31T12:00:00Z","data":{"x":1}}"#.to_vec(),
            sign: |body| {
                use base64::{Engine, engine::general_purpose::STANDARD};
                let (header, hex) = signed("webhook-signature", "", &timed("i.1700000000.", body));
                let bytes: Vec<u8> = (0..32).map(|n| u8::from_str_radix(&hex[2 * n..2 * n + 2], 16).unwrap()).collect();
                let signature = (header, format!("v1,{}", STANDARD.encode(bytes)));
                with(signature, &[("webhook-id", "i"), ("webhook-timestamp", "1700000000")])
            },
        },
        Sender {
            source: github(),
            body: br#"{"action":"opened","issue":{"node_id":"I_1","title":"t"},"repository":{"id":1,"full_name":"a/b"}}"#.to_vec(),
            sign: |body| {
                let signature = signed("x-hub-signature-256", "sha256=", body);
                with(signature, &[("x-github-event", "issues"), ("x-github-delivery", "d")])
            },
        },
        Sender {
            source: of("stripe"),
            body: br#"{"id":"evt_1","type":"a.b","created":1699999999,"pending_webhooks":1,"data":{"object":{"id":"ch_1","object":"charge"}}}"#.to_vec(),
            sign: |body| with(signed("stripe-signature", "t=1700000000,v1=", &timed("1700000000.", body)), &[]),
        },
        Sender {
            source: source(&json!({ "name": "s", "dialect": "hmac", "secrets": ["secret"], "hmac": {
                "header": "X-Slack-Signature", "algorithm": "sha256", "encoding": "hex", "prefix": "v0=",
                "signed": "v0:{timestamp}:{body}", "timestamp_header": "X-Slack-Request-Timestamp",
                "id": "/events/0/id", "type": "/events/0/type" } })),
            body: br#"{"type":"url","challenge":"c","events":[{"id":7,"type":"t"}]}"#.to_vec(),
            sign: |body| {
                let signature = signed("x-slack-signature", "v0=", &timed("v0:1700000000:", body));
                with(signature, &[("x-slack-request-timestamp", "1700000000")])
            },
        },
    ]
}

/// Changes, adds, takes out or repeats some bytes.
pub fn damage(bytes: &mut Vec<u8>, random: &mut StdRng) {
    const INTERESTING: &[&[u8]] = &[
        b"",
        b"\"",
        b"{",
        b"}",
        b"[",
        b"]",
        b":",
        b",",
        b"\\",
        b"\\u0000",
        b"\\ud800",
        b"\0",
        b"\xff",
        b"\xc3",
        b"null",
        b"false",
        b"0",
        b"-",
        b"1e400",
        b"99999999999999999999",
        b"=",
        b".",
        b"+",
        b"%",
        b"&",
        b" ",
        b"\r\n",
        b"type",
        b"id",
    ];
    for _ in 0..random.random_range(1..4) {
        let at = random.random_range(0..=bytes.len());
        let end = bytes.len().min(at + random.random_range(0..6));
        let piece = INTERESTING[random.random_range(0..INTERESTING.len())];
        match random.random_range(0..5) {
            0 if at < bytes.len() => bytes[at] ^= 1 << random.random_range(0..8),
            1 => bytes.truncate(at),
            2 => {
                let repeated = bytes[at..end].repeat(random.random_range(1..200));
                bytes.splice(at..at, repeated);
            }
            _ => {
                bytes.splice(at..end, piece.iter().copied());
            }
        }
    }
}

#[test]
fn damaged_requests_are_refused_or_good_events() {
    std::thread::scope(|scope| {
        for (n, sender) in senders().into_iter().enumerate() {
            scope.spawn(move || damaged(&sender, n as u64));
        }
    });
}

fn damaged(sender: &Sender, seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    let rounds = rounds();
    let mut seen = [0_u64; 4];
    for round in 0..rounds {
        let mut body = sender.body.clone();
        // Signed after the damage every other time, so that what is behind the signature is met as well.
        let mut request = if round % 2 == 0 {
            damage(&mut body, &mut random);
            (sender.sign)(&body)
        } else {
            (sender.sign)(&sender.body)
        };
        match round % 4 {
            0 => {}
            1 => damage(&mut body, &mut random),
            _ => {
                let which = random.random_range(0..request.len());
                damage(&mut request[which].1, &mut random);
            }
        }
        if round % 16 == 0 {
            let form = b"application/x-www-form-urlencoded".to_vec();
            request.retain(|(name, _)| name != "content-type");
            request.push(("content-type".into(), form));
        }
        match send_at(&sender.source, &request, &body, NOW) {
            Ok(Outcome::Event(received)) => {
                received.parsed.event.check().unwrap();
                seen[0] += 1;
            }
            Ok(Outcome::Challenge(_)) => seen[1] += 1,
            Err(refusal) if refusal.status() == 401 => seen[2] += 1,
            Err(refusal) => {
                assert_eq!(refusal.status(), 400, "{refusal}");
                assert!(!refusal.message.contains("secret"), "{refusal}");
                seen[3] += 1;
            }
        }
    }
    let dialect = sender.source.dialect.name();
    assert!(seen[0] > 0 && seen[3] > 0, "{dialect}: {seen:?}");
    assert!(
        !sender.source.dialect.signs() || seen[2] > rounds / 8,
        "{dialect}: {seen:?}"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn a_changed_byte_is_refused(which in 0..8_usize, at in any::<prop::sample::Index>(), with in 1..=255_u8) {
        let sender = &senders()[which];
        let request = (sender.sign)(&sender.body);
        let mut body = sender.body.clone();
        prop_assert!(send_at(&sender.source, &request, &body, NOW).is_ok());
        body[at.index(sender.body.len())] ^= with;
        let outcome = send_at(&sender.source, &request, &body, NOW);
        if sender.source.dialect.signs() {
            prop_assert_eq!(outcome.unwrap_err().status(), 401);
        }
        // The other way round: a signature that is one byte off.
        let mut request = request;
        let Some((_, signature)) = request.iter_mut().find(|(name, _)| name.contains("signature")) else {
            return Ok(());
        };
        let at = at.index(signature.len());
        signature[at] ^= with;
        // In `hmac` the case of hexadecimal digits does not count.
        prop_assume!(with != 0x20 || sender.source.dialect.name() != "hmac");
        let outcome = send_at(&sender.source, &request, &sender.body, NOW);
        prop_assert_eq!(outcome.unwrap_err().status(), 401);
    }
}
