//! Damaged and made-up bodies through every route that takes one: each gets an answer of the contract, and none is a server error.
//!
//! `OMNILINK_TEST_MUTATIONS` says how many for each route and form (20,000); `scripts/fuzz port` runs a million.

use std::{
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Method, Request, client::conn::http1, header::CONTENT_TYPE};
use hyper_util::rt::TokioIo;
use omnilink::api::{ROUTES, problem::OVERLOADED};
use rand::{RngExt, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use serde_json::{Value, json};
use tokio::net::TcpStream;

use crate::{api, support::port::Node};

const SEED: u64 = 0x006f_6d6e_696c_696e;
/// Connections at once: appends of several requests become one commit.
const CONNECTIONS: u64 = 32;
/// Every so many answers are held against the whole document, which takes longer than the answer.
const CHECKED: u64 = 50;

/// Stands in a seed for the number of the request, so that not every event has the id of another.
const NUMBER: &str = "NUMBER";

/// A way to send a body.
struct Target {
    method: Method,
    path: String,
    content_type: String,
    headers: Vec<(&'static str, &'static str)>,
    seeds: Vec<Vec<u8>>,
}

/// What breaks parsers, as JSON values and as bytes.
const VALUES: &[&str] = &[
    "null",
    "true",
    "0",
    "-0",
    "-1",
    "1e400",
    "1e-400",
    "9007199254740993",
    "18446744073709551616",
    "0.1e-999999999",
    "\"\"",
    "\"\\u0000\"",
    "\"\\ud800\"",
    "\"\\ufeff\"",
    "[]",
    "{}",
    "[[[[]]]]",
    "{\"\":\"\"}",
    "\"0000-00-00T00:00:00Z\"",
    "\"9999-12-31T23:59:60Z\"",
    "\"*\"",
    "\"topic:x\"",
    "\"../../etc/passwd\"",
    "\"a b\"",
];
const BYTES: &[&[u8]] = &[
    b"{",
    b"}",
    b"[",
    b"]",
    b"\"",
    b":",
    b",",
    b"\\",
    b"\0",
    b"\xff",
    b"\xc0\x80",
    b"\xed\xa0\x80",
    b"\xef\xbb\xbf",
    b"\\u0000",
    b"\\ud800",
    b"[[[[[[[[",
    b"1e999",
    b"\r\n\r\n",
    b"/*",
    b"NaN",
];

/// One mutation of the text.
fn damage(rng: &mut StdRng, bytes: &mut Vec<u8>, other: &[u8]) {
    let at = rng.random_range(0..=bytes.len());
    let end = (at + rng.random_range(0..32)).min(bytes.len());
    match rng.random_range(0..8) {
        0 if at < bytes.len() => bytes[at] ^= 1 << rng.random_range(0..8),
        1 => bytes.truncate(at),
        2 => drop(bytes.drain(at..end)),
        3 => {
            let copy = bytes[at..end].to_vec();
            bytes.splice(at..at, copy.repeat(rng.random_range(1..4)));
        }
        4 => {
            let from = rng.random_range(0..=other.len());
            let to = (from + rng.random_range(0..256)).min(other.len());
            bytes.splice(at..end, other[from..to].iter().copied());
        }
        5 => drop(bytes.splice(at..end, VALUES.choose(rng).unwrap().bytes())),
        6 => {
            let depth = rng.random_range(1..2_000);
            bytes.splice(at..at, b"[".repeat(depth));
        }
        _ => drop(bytes.splice(at..at, BYTES.choose(rng).unwrap().iter().copied())),
    }
}

/// Another value in place of one somewhere in the document; a member may go, or come twice under a similar name.
fn replace(rng: &mut StdRng, value: &mut Value) {
    let odd = |rng: &mut StdRng| serde_json::from_str(VALUES.choose(rng).unwrap());
    match value {
        Value::Object(members) if !members.is_empty() && rng.random_range(0..6) > 0 => {
            let name = members
                .keys()
                .nth(rng.random_range(0..members.len()))
                .cloned()
                .unwrap();
            match rng.random_range(0..8) {
                0 => drop(members.remove(&name)),
                1 => {
                    let copy = members[&name].clone();
                    members.insert(format!("{name}x"), copy);
                }
                _ => replace(rng, members.get_mut(&name).unwrap()),
            }
        }
        Value::Array(items) if !items.is_empty() && rng.random_range(0..6) > 0 => {
            let at = rng.random_range(0..items.len());
            replace(rng, &mut items[at]);
        }
        value => {
            if let Ok(odd) = odd(rng) {
                *value = odd;
            }
        }
    }
}

fn mutated(rng: &mut StdRng, seeds: &[Vec<u8>]) -> Vec<u8> {
    let seed = seeds.choose(rng).unwrap();
    let parsed = if rng.random_bool(0.4) {
        serde_json::from_slice::<Value>(seed).ok()
    } else {
        None
    };
    if let Some(mut value) = parsed {
        for _ in 0..rng.random_range(1..4) {
            replace(rng, &mut value);
        }
        return value.to_string().into_bytes();
    }
    let mut bytes = seed.clone();
    for _ in 0..rng.random_range(1..5) {
        let other = seeds.choose(rng).unwrap();
        damage(rng, &mut bytes, other);
    }
    bytes
}

/// With the number of the request in place of [`NUMBER`].
fn numbered(mut body: Vec<u8>, number: &str) -> Bytes {
    while let Some(at) = memchr::memmem::find(&body, NUMBER.as_bytes()) {
        body.splice(at..at + NUMBER.len(), number.bytes());
    }
    body.into()
}

/// Bodies of real webhooks, the smaller ones; none if they are not on this machine.
fn real_bodies() -> Vec<Value> {
    let root = std::env::var("OMNILINK_SHARED_DATA").unwrap_or_else(|_| "../shared/data".into());
    let mut files: Vec<_> = fs::read_dir(Path::new(&root).join("github-webhooks"))
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|folder| fs::read_dir(folder.path()).ok())
        .flatten()
        .flatten()
        .map(|file| file.path())
        .collect();
    files.sort();
    let texts = files
        .iter()
        .filter_map(|file| fs::read_to_string(file).ok());
    let bodies: Vec<_> = texts
        .filter(|text| text.len() < 8_000)
        .filter_map(|text| serde_json::from_str(&text).ok())
        .take(20)
        .collect();
    if bodies.is_empty() {
        eprintln!(
            "SKIPPED: real bodies, because there is no {root}/github-webhooks (OMNILINK_SHARED_DATA)"
        );
    }
    bodies
}

fn targets() -> Vec<Target> {
    let real = real_bodies();
    let text = |value: Value| value.to_string().into_bytes();
    let cloud_event = |data: &Value| json!({ "specversion": "1.0", "id": NUMBER, "source": "/github", "type": "github.push", "data": data });
    let mut targets = Vec::new();
    for route in ROUTES {
        let method: Method = route.method.name().parse().unwrap();
        for content in route.body {
            let mut seeds: Vec<Vec<u8>> = content
                .example
                .iter()
                .map(|e| e.as_bytes().to_vec())
                .collect();
            if route.path == "/v1/events" {
                let real = real.iter().map(cloud_event);
                seeds.extend(real.map(|event| match content.media {
                    "application/cloudevents-batch+json" => text(json!([event, event])),
                    _ => text(event),
                }));
            }
            targets.push(Target {
                method: method.clone(),
                path: route.example_path(),
                content_type: content.media.to_owned(),
                headers: Vec::new(),
                seeds,
            });
        }
        if route.path == "/v1/events" {
            let mut seeds: Vec<_> = real.iter().map(|body| text(body.clone())).collect();
            seeds.push(br#"{"total":9.5}"#.to_vec());
            targets.push(Target {
                method,
                path: route.path.to_owned(),
                content_type: "application/json".to_owned(),
                headers: vec![
                    ("ce-specversion", "1.0"),
                    ("ce-id", NUMBER),
                    ("ce-source", "/github"),
                    ("ce-type", "github.push"),
                ],
                seeds,
            });
        }
    }
    targets
}

/// Sends mutations until `left` is used up, on one connection after the other.
async fn send(
    node: Arc<Node>,
    target: Arc<Target>,
    mut rng: StdRng,
    left: Arc<AtomicU64>,
) -> [u64; 2] {
    let mut client: Option<http1::SendRequest<Full<Bytes>>> = None;
    let mut counts = [0; 2];
    loop {
        let Ok(number) =
            left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1))
        else {
            return counts;
        };
        let number_text = number.to_string();
        let body = numbered(mutated(&mut rng, &target.seeds), &number_text);
        let mut request = Request::builder()
            .method(&target.method)
            .uri(&target.path)
            .header("host", "omnilink")
            .header("authorization", node.bearer())
            .header(CONTENT_TYPE, &target.content_type);
        for (name, value) in &target.headers {
            let value = if *value == NUMBER {
                &number_text
            } else {
                *value
            };
            request = request.header(*name, value);
        }
        let request = request.body(Full::new(body.clone())).unwrap();
        // A refused body that is still being sent ends the connection.
        if client.as_mut().is_none_or(|client| client.is_closed()) {
            let stream = TcpStream::connect(node.address).await.unwrap();
            let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
            tokio::spawn(connection);
            client = Some(sender);
        }
        let about = || format!("{} {}: {:?}", target.method, target.path, body);
        let sender = client.as_mut().unwrap();
        if sender.ready().await.is_err() {
            client = None;
            continue;
        }
        let answer = sender.send_request(request).await;
        let answer = answer.unwrap_or_else(|e| panic!("no answer: {e}: {}", about()));
        let (head, answer) = answer.into_parts();
        let answer = answer
            .collect()
            .await
            .unwrap_or_else(|e| panic!("broken off: {e}: {}", about()));
        let answer = String::from_utf8(answer.to_bytes().to_vec()).unwrap();
        let status = head.status.as_u16();
        if status >= 500 {
            let code = serde_json::from_str::<Value>(&answer)
                .ok()
                .map(|a| a["code"].clone());
            // This node has no Postgres, and carries out no runs.
            let expected = [OVERLOADED.code, "postgres_unavailable", "feature_disabled"];
            let expected = code.is_some_and(|code| expected.iter().any(|e| code == *e));
            assert!(status == 503 && expected, "{status} {answer}: {}", about());
        }
        if number % CHECKED == 0 {
            api::check(
                &target.method,
                &target.path,
                head.status,
                &head.headers,
                &answer,
            );
        }
        counts[usize::from(status >= 400)] += 1;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn mutated_bodies_are_never_a_server_error() {
    let count = std::env::var("OMNILINK_TEST_MUTATIONS").ok();
    let count: u64 = count.map_or(20_000, |count| count.parse().unwrap());
    for (index, target) in targets().into_iter().enumerate() {
        // A node for each, so that what one route makes does not slow the next.
        let node = Arc::new(Node::start().await);
        let began = std::time::Instant::now();
        let target = Arc::new(target);
        let left = Arc::new(AtomicU64::new(count));
        let senders: Vec<_> = (0..CONNECTIONS)
            .map(|connection| {
                let rng = StdRng::seed_from_u64(SEED ^ ((index as u64) << 32) ^ connection);
                tokio::spawn(send(node.clone(), target.clone(), rng, left.clone()))
            })
            .collect();
        let (mut good, mut refused) = (0, 0);
        for sender in senders {
            let [g, r] = sender.await.unwrap();
            good += g;
            refused += r;
        }
        eprintln!(
            "{} {} {}: {good} accepted, {refused} refused in {:.1?}",
            target.method,
            target.path,
            target.content_type,
            began.elapsed()
        );
        assert!(good + refused > count * 9 / 10);
        // Most are damaged; some get through, or nothing but the parser was tried.
        assert!(refused > 0, "{}", target.path);
        assert_eq!(
            node.call(Method::GET, "/healthz", &[], "").await.status,
            200
        );
    }
}
