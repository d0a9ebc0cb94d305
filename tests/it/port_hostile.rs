//! Hostile clients against a running node: meanwhile requests of others are answered, and memory stays bounded.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Request, StatusCode, header::AUTHORIZATION};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use omnilink::api::{Method, ROUTES};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::Semaphore,
    task::JoinSet,
    time::{MissedTickBehavior, interval, sleep, timeout},
};

use crate::support::{
    command::{Folder, Up},
    frames::{self, CONTINUATION, DATA, END_HEADERS, HEADERS, RST_STREAM, frame, hello},
    tls::{Made, connect, http2},
};

/// Requests a second of the client that is not hostile.
const RATE: u64 = 50;
/// Generous, for a debug build beside other tests on two cores, which the attackers share.
const P99: Duration = Duration::from_secs(1);
/// Pause of an attacker between connections, so that its own encryption does not take all of the machine.
const ATTACK_PAUSE: Duration = Duration::from_millis(50);
const RSS_MIB: u64 = 400;

/// Each connection takes a file, here and in the node.
fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let maximum = getrlimit(Resource::Nofile).maximum;
    let limit = Rlimit {
        current: maximum,
        maximum,
    };
    setrlimit(Resource::Nofile, limit).unwrap();
}

/// The resident memory of a process, in MiB.
fn rss(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .unwrap();
    line.split_whitespace()
        .nth(1)
        .unwrap()
        .parse::<u64>()
        .unwrap()
        / 1024
}

fn key(dir: &Path) -> String {
    let text = std::fs::read_to_string(dir.join("data/admin.key")).unwrap();
    text.trim().to_owned()
}

fn event(url: &str, key: &str, id: usize) -> Request<Full<Bytes>> {
    let body = format!(r#"{{"id":"{id}","source":"/normal","type":"t","data":{{"n":{id}}}}}"#);
    Request::post(format!("{url}/v1/events"))
        .header(AUTHORIZATION, format!("Bearer {key}"))
        .header("content-type", "application/json")
        .body(Full::new(body.into()))
        .unwrap()
}

/// Sends [`RATE`] requests a second on schedule, whatever the answers take, until `stop`. Checks how long they took, each from when
/// it was due.
async fn normal_load(
    what: &str,
    pid: u32,
    stop: Arc<AtomicBool>,
    mut send: impl FnMut(usize) -> tokio::task::JoinHandle<StatusCode>,
) {
    let mut due = interval(Duration::from_micros(1_000_000 / RATE));
    due.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut sent = JoinSet::new();
    let mut peak = 0;
    while !stop.load(Ordering::Relaxed) {
        let due = due.tick().await;
        let answer = send(sent.len());
        sent.spawn(async move {
            let status = timeout(Duration::from_secs(20), answer).await;
            (
                status.expect("an answer within 20 s").unwrap(),
                due.elapsed(),
            )
        });
        peak = peak.max(rss(pid));
    }
    let mut took = Vec::new();
    while let Some(answer) = sent.join_next().await {
        let (status, elapsed) = answer.unwrap();
        assert_eq!(status, StatusCode::ACCEPTED);
        took.push(elapsed);
    }
    took.sort();
    let p99 = took[took.len() * 99 / 100];
    eprintln!(
        "{what}: {} requests, p50 {:?}, p99 {p99:?}, max {:?}; {peak} MiB at most",
        took.len(),
        took[took.len() / 2],
        took[took.len() - 1]
    );
    assert!(took.len() > 200, "{}", took.len());
    assert!(p99 < P99, "p99 {p99:?}");
    assert!(peak < RSS_MIB, "{peak} MiB");
}

/// Sends these bytes; returns the status line that comes back.
async fn status_of(address: &str, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    // The answer may come before all of it was sent.
    let _ = stream.write_all(request).await;
    let mut answer = vec![0; 1024];
    let length = timeout(Duration::from_secs(15), stream.read(&mut answer)).await;
    let length = length.expect("an answer").unwrap_or(0);
    let text = String::from_utf8_lossy(&answer[..length]).into_owned();
    text.lines().next().unwrap_or_default().to_owned()
}

/// Brackets 100,000 deep to every route that takes a body. None but a refusal comes back.
async fn nested(address: &str, key: &str) {
    for open in ["[", "{\"a\":"] {
        let body = open.repeat(100_000);
        for route in ROUTES {
            if route.method != Method::Post || route.body.is_empty() {
                continue;
            }
            let request = format!(
                "POST {} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\nContent-Type: application/json\r\n\
                 Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
                route.example_path(),
                body.len()
            );
            let status = status_of(address, request.as_bytes()).await;
            // Empty: the connection was reset under what was still being sent.
            let refused = [
                "",
                "HTTP/1.1 400",
                "HTTP/1.1 413",
                "HTTP/1.1 404",
                "HTTP/1.1 422",
            ];
            assert!(
                refused.iter().any(|r| status.starts_with(r))
                    && (status.is_empty() || status.len() > 9),
                "{}: {status}",
                route.path
            );
        }
    }
}

/// Too many headers, and heads that are too large.
async fn large_heads(address: &str) {
    let many = "a: b\r\n".repeat(5_000);
    let large = format!("a: {}\r\n", "b".repeat(1 << 20));
    let medium = format!("a: {}\r\n", "b".repeat(30_000)).repeat(2);
    for headers in [many, large, medium] {
        let request = format!("GET /healthz HTTP/1.1\r\nHost: x\r\n{headers}\r\n");
        let status = status_of(address, request.as_bytes()).await;
        let refused = status.is_empty() || status.starts_with("HTTP/1.1 431");
        assert!(refused, "{status}");
    }
}

#[test]
fn idle_dripping_and_malformed_requests_disturb_nobody() {
    raise_file_limit();
    let dir = Folder::new();
    let up = Up::start_with(dir.path(), &["--without", "projections"]);
    let (key, url, pid) = (key(dir.path()), up.url.clone(), up.child.id());
    let address = url.strip_prefix("http://").unwrap().to_owned();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let stop = Arc::<AtomicBool>::default();
        let client: Client<HttpConnector, Full<Bytes>> =
            Client::builder(TokioExecutor::new()).build_http();
        let normal = tokio::spawn(normal_load("HTTP/1.1", pid, stop.clone(), {
            let (key, url) = (key.clone(), url.clone());
            move |id| {
                let answer = client.request(event(&url, &key, id));
                tokio::spawn(async move {
                    let answer = answer.await.unwrap();
                    let status = answer.status();
                    answer.into_body().collect().await.unwrap();
                    status
                })
            }
        }));
        let mut idle = Vec::new();
        let mut dripping = Vec::new();
        for _ in 0..1_000 {
            idle.push(TcpStream::connect(&address).await.unwrap());
            let mut stream = TcpStream::connect(&address).await.unwrap();
            stream.write_all(b"GET /healthz HTTP/1.1\r\nX: ").await.unwrap();
            dripping.push(stream);
        }
        // Bodies of 10 MB that are announced and never come.
        let mut announced = Vec::new();
        for path in ["/v1/events", "/v1/keys"].repeat(50) {
            let mut stream = TcpStream::connect(&address).await.unwrap();
            let head = format!(
                "POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\nContent-Type: application/json\r\n\
                 Content-Length: 10000000\r\n\r\n"
            );
            stream.write_all(head.as_bytes()).await.unwrap();
            announced.push(stream);
        }
        let malformed = tokio::spawn({
            let (address, key) = (address.clone(), key.clone());
            async move {
                nested(&address, &key).await;
                large_heads(&address).await;
            }
        });
        for _ in 0..8 {
            for stream in &mut dripping {
                stream.write_all(b"y").await.unwrap();
            }
            sleep(Duration::from_secs(1)).await;
        }
        malformed.await.unwrap();
        for mut stream in announced {
            let mut answer = vec![0; 1024];
            let length = timeout(Duration::from_secs(15), stream.read(&mut answer)).await;
            let length = length.expect("an answer").unwrap();
            let text = String::from_utf8_lossy(&answer[..length]);
            let refused = text.starts_with("HTTP/1.1 413") || text.starts_with("HTTP/1.1 408");
            assert!(refused, "{text}");
        }
        stop.store(true, Ordering::Relaxed);
        normal.await.unwrap();
        drop((idle, dripping));
    });
    assert_eq!(up.stop(), 0);
}

/// Reads until the other end closes; returns whether it did, within 15 s.
async fn closes(stream: &mut (impl AsyncReadExt + Unpin)) -> bool {
    let mut read = vec![0; 16 * 1024];
    let until_closed = async { while matches!(stream.read(&mut read).await, Ok(n) if n > 0) {} };
    timeout(Duration::from_secs(15), until_closed).await.is_ok()
}

#[test]
fn attacks_on_http2_disturb_nobody() {
    raise_file_limit();
    let dir = Folder::new();
    let made = Made::new();
    made.write(dir.path());
    std::fs::write(
        dir.path().join("omnilink.yaml"),
        "tls: { cert: cert.pem, key: key.pem }\n",
    )
    .unwrap();
    let up = Up::start_with(dir.path(), &["--without", "projections"]);
    let (key, pid) = (key(dir.path()), up.child.id());
    let address = up.url.strip_prefix("https://").unwrap().parse().unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let stop = Arc::<AtomicBool>::default();
        // 1,000 connections with four requests each whose bodies never end.
        let connector = made.connector("h2");
        let at_once = Arc::new(Semaphore::new(32));
        let mut opening = JoinSet::new();
        for _ in 0..1_000 {
            let (connector, key, at_once) = (connector.clone(), key.clone(), at_once.clone());
            opening.spawn(async move {
                let _permit = at_once.acquire().await.unwrap();
                let mut stream = connect(&connector, address).await.unwrap();
                let mut bytes = hello();
                for id in [1, 3, 5, 7] {
                    let headers = frames::post("/v1/keys", &key);
                    bytes.extend(frame(HEADERS, END_HEADERS, id, &headers));
                    bytes.extend(frame(DATA, 0, id, &[b' '; 8 * 1024]));
                }
                stream.write_all(&bytes).await.unwrap();
                stream
            });
        }
        let mut held = Vec::new();
        while let Some(stream) = opening.join_next().await {
            held.push(stream.unwrap());
        }
        let (client, _) = http2(made.connect(address, "h2").await).await;
        let normal = tokio::spawn(normal_load("HTTP/2", pid, stop.clone(), {
            let key = key.clone();
            move |id| {
                let mut client = client.clone();
                let answer = client.send_request(event("https://localhost", &key, id));
                tokio::spawn(async move { answer.await.unwrap().status() })
            }
        }));
        let began = Instant::now();
        let mut rounds = 0;
        while began.elapsed() < Duration::from_secs(7) {
            rounds += 1;
            // Rapid reset: requests that are reset as soon as they are sent.
            for _ in 0..10 {
                sleep(ATTACK_PAUSE).await;
                let mut stream = made.connect(address, "h2").await;
                let mut bytes = hello();
                for id in (1..4_000).step_by(2) {
                    let headers = frames::post("/v1/events", &key);
                    bytes.extend(frame(HEADERS, END_HEADERS, id, &headers));
                    bytes.extend(frame(RST_STREAM, 0, id, &8_u32.to_be_bytes()));
                }
                // It is closed while this is sent.
                let _ = stream.write_all(&bytes).await;
                assert!(closes(&mut stream).await, "rapid reset is served");
            }
            // A block of headers that never ends.
            for _ in 0..10 {
                sleep(ATTACK_PAUSE).await;
                let mut stream = made.connect(address, "h2").await;
                let mut bytes = [hello(), frame(HEADERS, 0, 1, &[0x82])].concat();
                for _ in 0..500 {
                    // A literal header without indexing: the name `a`, a value of 8 bytes.
                    let header = [&[0x00, 1, b'a', 8][..], b"bbbbbbbb"].concat();
                    bytes.extend(frame(CONTINUATION, 0, 1, &header.repeat(1_000)));
                }
                let _ = stream.write_all(&bytes).await;
                assert!(closes(&mut stream).await, "an endless head is read");
            }
        }
        eprintln!("{rounds} times 10 connections with rapid resets and 10 with endless heads");
        stop.store(true, Ordering::Relaxed);
        normal.await.unwrap();
        drop(held);
    });
    assert_eq!(up.stop(), 0);
}
