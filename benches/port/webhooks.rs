//! The latency of answers to webhooks at 500 per second, with Postgres and while it cannot be reached. In an open loop: a request
//! counts from when it was due, so a slow answer delays no other one out of sight.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::{
    load,
    report::{Row, percentile},
    server::{Log, Server},
};

const PACE: Duration = Duration::from_millis(2);
const WARM_UP: usize = 2_000;
const COUNT: usize = 32_000;
/// Connections, used round robin.
const CONNECTIONS: usize = 32;
const SECRET: &str = "a long random text";
/// A port on which nothing listens.
const NO_POSTGRES: &str = "postgres://nobody@127.0.0.1:9/none";

/// `None` without Kafka.
pub fn measure(log: Log) -> Option<()> {
    let with = Server::up(log, true)?;
    report(&with, &format!("{}: webhook", log.name()));
    drop(with);
    let url = ("OMNILINK__POSTGRES__URL", NO_POSTGRES.to_owned());
    let without = Server::up_with(log, true, &[url])?;
    report(
        &without,
        &format!("{}: webhook without Postgres", log.name()),
    );
    Some(())
}

fn report(server: &Server, name: &str) {
    let body = format!(r#"{{"name":"bench","dialect":"ipai-body","secrets":["{SECRET}"]}}"#);
    let mut stream = TcpStream::connect(server.address).unwrap();
    let bearer = format!("Authorization: Bearer {}\r\n", server.key);
    let answer = post(&mut stream, "/v1/integrations", &bearer, &body);
    assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
    let tenant = answer.split("/v1/webhooks/").nth(1).unwrap();
    let tenant = tenant.split('/').next().unwrap();
    let path = format!("/v1/webhooks/{tenant}/bench");

    let start = Instant::now() + Duration::from_millis(100);
    let posting: Vec<_> = (0..CONNECTIONS)
        .map(|first| {
            let (address, path) = (server.address, path.clone());
            std::thread::spawn(move || send(address, &path, first, start))
        })
        .collect();
    let mut taken = Vec::with_capacity(COUNT);
    for one in posting {
        taken.append(&mut one.join().unwrap());
    }
    for (share, title) in [(0.5, "p50"), (0.99, "p99"), (0.999, "p99.9")] {
        let value = percentile(taken.clone(), share);
        Row::new(format!("{name} at 500/s, {title}"), value, "ms").print();
    }
    // The node is as well as before.
    assert!(load::once(server.address, "/healthz").is_ok());
}

/// Sends its share on schedule; returns milliseconds from when each was due.
fn send(address: SocketAddr, path: &str, first: usize, start: Instant) -> Vec<f64> {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_nodelay(true).unwrap();
    let mut taken = Vec::new();
    for n in (first..COUNT).step_by(CONNECTIONS) {
        let body = format!(
            r#"{{"id":"{n}","event_type":"expense.submitted","aggregate_type":"expense","aggregate_id":{},"payload":{{"name":"Taxi to the airport","total":12.5,"employee":"Jane Q. Public","sequence":{n}}}}}"#,
            n % 10_000
        );
        let mut mac = Hmac::<Sha256>::new_from_slice(SECRET.as_bytes()).unwrap();
        mac.update(body.as_bytes());
        let digest = mac.finalize().into_bytes();
        let hex = digest
            .iter()
            .fold(String::new(), |hex, byte| format!("{hex}{byte:02x}"));
        let signature = format!("X-IPAI-Signature: sha256={hex}\r\n");
        let due = start + PACE * n as u32;
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        let answer = post(&mut stream, path, &signature, &body);
        if n >= WARM_UP {
            taken.push(due.elapsed().as_secs_f64() * 1000.0);
        }
        assert!(answer.starts_with("HTTP/1.1 202"), "{answer}");
    }
    taken
}

fn post(stream: &mut TcpStream, path: &str, header: &str, body: &str) -> String {
    let request = format!(
        "POST {path} HTTP/1.1\r\nHost: bench\r\n{header}Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).unwrap();
    // Such a small response arrives in one read.
    let mut answer = [0; 4096];
    let length = stream.read(&mut answer).unwrap();
    String::from_utf8_lossy(&answer[..length]).into_owned()
}
