//! An HTTP/1.1 load generator that costs little: keep-alive connections on one thread, requests patched into a prepared text.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// Events about `entities` entities, about 500 bytes each.
pub struct Shape {
    pub batch: usize,
    pub entities: u64,
}

pub struct Plan {
    pub address: SocketAddr,
    pub key: String,
    pub connections: usize,
    pub shape: Shape,
    /// `None`: as fast as it goes; else requests a second over all connections.
    pub rate: Option<f64>,
    pub seconds: f64,
    /// In front of ids, so that runs do not repeat each other.
    pub run: String,
}

#[derive(Default)]
pub struct Outcome {
    pub accepted: u64,
    pub refused: u64,
    pub seconds: f64,
    /// Of answers, in microseconds, sorted.
    pub latencies: Vec<u32>,
    pub cpu_us: f64,
}

impl Outcome {
    pub fn per_second(&self) -> f64 {
        self.accepted as f64 / self.seconds
    }

    pub fn percentile(&self, p: f64) -> f64 {
        let index = ((self.latencies.len() as f64 * p) as usize)
            .min(self.latencies.len().saturating_sub(1));
        f64::from(self.latencies.get(index).copied().unwrap_or_default()) / 1000.0
    }
}

pub fn event(run: &str, n: u64, entities: u64) -> String {
    let entity = n % entities;
    format!(
        r#"{{"specversion":"1.0","id":"{run}-{n}","source":"/bench/shop","type":"order.updated","entity":{{"type":"order","external_id":"{entity}"}},"data":{{"order_id":{entity},"sequence":{n},"status":"paid","customer":{{"name":"Jane Q. Public","email":"jane@example.com","city":"Lyon"}},"lines":[{{"sku":"A-1001","quantity":2,"price":19.95}},{{"sku":"B-2002","quantity":1,"price":5.5}}],"total":45.4,"currency":"EUR","note":"Please leave the parcel with the neighbours if nobody is at home. Thank you."}}}}"#
    )
}

fn request(plan: &Plan, n: u64, out: &mut Vec<u8>) {
    use std::io::Write;
    let body = if plan.shape.batch == 1 {
        event(&plan.run, n, plan.shape.entities)
    } else {
        let first = n * plan.shape.batch as u64;
        let items: Vec<_> = (0..plan.shape.batch as u64)
            .map(|i| event(&plan.run, first + i, plan.shape.entities))
            .collect();
        format!("[{}]", items.join(","))
    };
    write!(
        out,
        "POST /v1/events HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        plan.key,
        body.len()
    )
    .unwrap();
}

/// Reads one answer; true for a 2xx.
async fn answer(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> std::io::Result<bool> {
    buffer.clear();
    loop {
        if stream.read_buf(buffer).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        let Some(head) = memchr::memmem::find(buffer, b"\r\n\r\n") else {
            continue;
        };
        let text = String::from_utf8_lossy(&buffer[..head]).to_ascii_lowercase();
        let length: usize = text
            .lines()
            .find_map(|l| l.strip_prefix("content-length:"))
            .and_then(|l| l.trim().parse().ok())
            .unwrap_or(0);
        if buffer.len() >= head + 4 + length {
            return Ok(buffer.get(9) == Some(&b'2'));
        }
    }
}

/// Runs a plan on this thread and its own runtime.
pub fn run(plan: Plan) -> Outcome {
    let plan = Arc::new(plan);
    let next = Arc::new(AtomicU64::new(0));
    let stop = Arc::new(AtomicBool::new(false));
    let before = thread_cpu();
    let start = Instant::now();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let mut outcome = Outcome::default();
    runtime.block_on(async {
        let mut tasks = Vec::new();
        for lane in 0..plan.connections {
            let (plan, next, stop) = (Arc::clone(&plan), Arc::clone(&next), Arc::clone(&stop));
            tasks.push(tokio::spawn(async move {
                let mut stream = TcpStream::connect(plan.address).await.unwrap();
                stream.set_nodelay(true).unwrap();
                let (mut text, mut buffer) = (Vec::new(), Vec::new());
                let mut mine = Outcome::default();
                let mut due = Instant::now() + Duration::from_micros(lane as u64 * 137);
                while !stop.load(Ordering::Relaxed) {
                    if let Some(rate) = plan.rate {
                        due += Duration::from_secs_f64(plan.connections as f64 / rate);
                        tokio::time::sleep_until(due.into()).await;
                    }
                    text.clear();
                    request(&plan, next.fetch_add(1, Ordering::Relaxed), &mut text);
                    let sent = Instant::now();
                    stream.write_all(&text).await.unwrap();
                    if answer(&mut stream, &mut buffer).await.unwrap() {
                        mine.accepted += plan.shape.batch as u64;
                    } else {
                        if mine.refused == 0 {
                            eprintln!("refused: {}", String::from_utf8_lossy(&buffer));
                        }
                        mine.refused += 1;
                    }
                    mine.latencies.push(sent.elapsed().as_micros() as u32);
                }
                mine
            }));
        }
        tokio::time::sleep(Duration::from_secs_f64(plan.seconds)).await;
        stop.store(true, Ordering::Relaxed);
        for task in tasks {
            let mine = task.await.unwrap();
            outcome.accepted += mine.accepted;
            outcome.refused += mine.refused;
            outcome.latencies.extend(mine.latencies);
        }
    });
    outcome.seconds = start.elapsed().as_secs_f64();
    outcome.cpu_us = thread_cpu() - before;
    outcome.latencies.sort_unstable();
    outcome
}

fn thread_cpu() -> f64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    stat.split(' ')
        .next()
        .and_then(|n| n.parse::<f64>().ok())
        .unwrap_or_default()
        / 1000.0
}

/// One request on a connection of one's own; panics unless it is accepted.
pub fn post_once(stream: &mut std::net::TcpStream, key: &str, body: &str) {
    use std::io::{Read, Write};
    write!(
        stream,
        "POST /v1/events HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {key}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    let mut answer = [0; 4096];
    let length = stream.read(&mut answer).unwrap();
    let text = String::from_utf8_lossy(&answer[..length]);
    assert!(text.starts_with("HTTP/1.1 202"), "{text}");
}
