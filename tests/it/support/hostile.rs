//! Hostile clients, and the one beside them whose requests must be answered all the same. Also for `scripts/bench hostile`.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Request, StatusCode, header::AUTHORIZATION};
use omnilink::api::{Method, ROUTES};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::Semaphore,
    task::{JoinHandle, JoinSet},
    time::{MissedTickBehavior, interval, timeout},
};
use tokio_rustls::client::TlsStream;

use super::{
    frames::{self, CONTINUATION, DATA, END_HEADERS, HEADERS, RST_STREAM, frame, hello},
    tls::{Made, connect},
};

/// Requests a second of the client that is not hostile.
pub const RATE: u64 = 50;
/// How many connections an attacker holds open.
pub const CONNECTIONS: usize = 1_000;

/// Each connection takes a file, here and in the node.
pub fn raise_file_limit() {
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
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let kib = line.unwrap().split_whitespace().nth(1).unwrap();
    kib.parse::<u64>().unwrap() / 1024
}

/// An event of the client that is not hostile.
pub fn event(url: &str, key: &str, id: usize) -> Request<Full<Bytes>> {
    let body = format!(r#"{{"id":"{id}","source":"/normal","type":"t","data":{{"n":{id}}}}}"#);
    Request::post(format!("{url}/v1/events"))
        .header(AUTHORIZATION, format!("Bearer {key}"))
        .header("content-type", "application/json")
        .body(Full::new(body.into()))
        .unwrap()
}

/// How the requests went that were sent beside the attacks.
pub struct Normal {
    /// How long each took, from when it was due; the shortest first.
    pub took: Vec<Duration>,
    /// The most resident memory of the node meanwhile, in MiB.
    pub peak: u64,
}

impl Normal {
    /// The time within which this share of the requests was answered.
    pub fn percentile(&self, percent: usize) -> Duration {
        self.took[self.took.len() * percent / 100]
    }
}

/// Sends [`RATE`] requests a second on schedule, whatever the answers take, until `stop`. All must be accepted.
pub async fn normal_load(
    pid: u32,
    stop: Arc<AtomicBool>,
    mut send: impl FnMut(usize) -> JoinHandle<StatusCode>,
) -> Normal {
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
    Normal { took, peak }
}

/// Connections on which nothing is sent.
pub async fn idle(address: &str) -> Vec<TcpStream> {
    let mut all = Vec::new();
    for _ in 0..CONNECTIONS {
        all.push(TcpStream::connect(address).await.unwrap());
    }
    all
}

/// Connections on which a head begins; [`drip`] goes on with it.
pub async fn dripping(address: &str) -> Vec<TcpStream> {
    let mut all = idle(address).await;
    for stream in &mut all {
        let begin = b"GET /healthz HTTP/1.1\r\nX: ";
        stream.write_all(begin).await.unwrap();
    }
    all
}

/// One byte more on each.
pub async fn drip(streams: &mut [TcpStream]) {
    for stream in streams {
        // It may have been closed: the head takes too long.
        let _ = stream.write_all(b"y").await;
    }
}

/// 100 bodies of 10 MB that are announced and never come.
pub async fn announced(address: &str, key: &str) -> Vec<TcpStream> {
    let mut all = Vec::new();
    for path in ["/v1/events", "/v1/keys"].repeat(50) {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\nContent-Type: application/json\r\n\
             Content-Length: 10000000\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        all.push(stream);
    }
    all
}

/// Each announced body was refused.
pub async fn are_refused(announced: Vec<TcpStream>) {
    for mut stream in announced {
        let mut answer = vec![0; 1024];
        let length = timeout(Duration::from_secs(15), stream.read(&mut answer)).await;
        let length = length.expect("an answer").unwrap();
        let text = String::from_utf8_lossy(&answer[..length]);
        let refused = text.starts_with("HTTP/1.1 413") || text.starts_with("HTTP/1.1 408");
        assert!(refused, "{text}");
    }
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
pub async fn nested(address: &str, key: &str) {
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
pub async fn large_heads(address: &str) {
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

/// Connections in HTTP/2 with four requests each whose bodies never end.
pub async fn endless_bodies(
    made: &Made,
    address: SocketAddr,
    key: &str,
) -> Vec<TlsStream<TcpStream>> {
    let connector = made.connector("h2");
    let at_once = Arc::new(Semaphore::new(32));
    let mut opening = JoinSet::new();
    for _ in 0..CONNECTIONS {
        let (connector, key, at_once) = (connector.clone(), key.to_owned(), at_once.clone());
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
    opening.join_all().await
}

/// Requests that are reset as soon as they are sent (CVE-2023-44487). The connection is closed.
pub async fn rapid_reset(made: &Made, address: SocketAddr, key: &str) {
    let mut bytes = hello();
    for id in (1..4_000).step_by(2) {
        let headers = frames::post("/v1/events", key);
        bytes.extend(frame(HEADERS, END_HEADERS, id, &headers));
        bytes.extend(frame(RST_STREAM, 0, id, &8_u32.to_be_bytes()));
    }
    assert!(ends(made, address, &bytes).await, "rapid reset is served");
}

/// A block of headers that never ends (CVE-2024-27983). The connection is closed.
pub async fn endless_head(made: &Made, address: SocketAddr) {
    let mut bytes = [hello(), frame(HEADERS, 0, 1, &[0x82])].concat();
    for _ in 0..500 {
        // A literal header without indexing: the name `a`, a value of 8 bytes.
        let header = [&[0x00, 1, b'a', 8][..], b"bbbbbbbb"].concat();
        bytes.extend(frame(CONTINUATION, 0, 1, &header.repeat(1_000)));
    }
    assert!(ends(made, address, &bytes).await, "an endless head is read");
}

/// One header of 4,000 bytes in the table of the connection, named 16,000 times with a byte each: 64 MB when written out, like a
/// billion laughs. The connection ends when its client ends it, at the latest.
pub async fn header_bomb(made: &Made, address: SocketAddr) {
    let mut stream = made.connect(address, "h2").await;
    // A literal with indexing: the name `a`, a value whose length takes three bytes (RFC 7541, 5.1: 4,000 - 127 = 3,873).
    let mut head = vec![0x83, 0x87, 0x40, 1, b'a', 0x7f, 0xa1, 0x1e];
    head.extend([b'b'; 4_000]);
    // The first entry after the 61 of the static table.
    head.extend([0xbe; 12_000]);
    let mut bytes = [hello(), frame(HEADERS, 0, 1, &head)].concat();
    bytes.extend(frame(CONTINUATION, END_HEADERS, 1, &[0xbe; 4_000]));
    let _ = stream.write_all(&bytes).await;
    let _ = stream.shutdown().await;
    assert!(closed(&mut stream).await, "a bomb of headers is held");
}

/// Sends these bytes on a connection of its own; returns whether the other end closes it, within 15 s.
async fn ends(made: &Made, address: SocketAddr, bytes: &[u8]) -> bool {
    let mut stream = made.connect(address, "h2").await;
    // It is closed while this is sent.
    let _ = stream.write_all(bytes).await;
    closed(&mut stream).await
}

/// Reads until the other end closes; returns whether it did, within 15 s.
async fn closed(stream: &mut TlsStream<TcpStream>) -> bool {
    let mut read = vec![0; 16 * 1024];
    let until_closed = async { while matches!(stream.read(&mut read).await, Ok(n) if n > 0) {} };
    timeout(Duration::from_secs(15), until_closed).await.is_ok()
}
