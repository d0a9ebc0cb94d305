//! A cheap HTTP/1.1 load generator, because it shares the cores with the server: keep-alive connections on one thread,
//! prepared requests, responses that are parsed without copying.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use memchr::memmem;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{machine::thread_cpu, request::Request};

#[derive(Clone, Copy)]
pub enum Until {
    Seconds(f64),
    /// After this many requests.
    Requests(u64),
}

/// What is sent.
#[derive(Clone, Copy)]
pub enum What {
    Events {
        /// Events per request.
        batch: usize,
        /// The number of entities, used round robin.
        entities: u64,
    },
    /// Starts of this workflow, answered when the run has ended.
    Runs(&'static str),
    /// Starts of this workflow with params of 1 KiB, answered when they are accepted.
    Parked(&'static str),
    Goals(Goals),
}

/// Goals, sent round robin.
#[derive(Clone, Copy)]
pub struct Goals {
    /// Without characters that JSON escapes.
    pub texts: &'static [String],
    /// Whether they are answered when their run has ended.
    pub wait: bool,
}

impl What {
    /// Items per request.
    fn items(self) -> usize {
        match self {
            Self::Events { batch, .. } => batch,
            Self::Runs(_) | Self::Parked(_) | Self::Goals(_) => 1,
        }
    }

    /// The status of an accepted request.
    fn status(self) -> &'static [u8] {
        match self {
            Self::Events { .. } | Self::Parked(_) | Self::Goals(Goals { wait: false, .. }) => {
                b"202"
            }
            Self::Runs(_) | Self::Goals(Goals { wait: true, .. }) => b"200",
        }
    }
}

pub struct Plan {
    pub address: SocketAddr,
    pub key: String,
    pub connections: usize,
    pub what: What,
    pub until: Until,
    /// Requests per second of all connections together; as fast as they are answered without it.
    pub rate: Option<f64>,
    /// Counts accepted items while it runs.
    pub accepted: Arc<AtomicU64>,
}

#[derive(Default)]
pub struct Outcome {
    pub accepted: u64,
    /// Requests.
    pub refused: u64,
    /// Goals whose run has ended and had its plan from the cache.
    pub from_cache: u64,
    pub seconds: f64,
    /// Latencies of responses in microseconds, sorted.
    latencies: Vec<u32>,
    /// CPU time of the load generator, in microseconds.
    pub cpu: f64,
}

impl Outcome {
    pub fn per_second(&self) -> f64 {
        self.accepted as f64 / self.seconds
    }

    /// In milliseconds.
    pub fn percentile(&self, share: f64) -> f64 {
        let last = self.latencies.len().saturating_sub(1);
        let index = ((self.latencies.len() as f64 * share) as usize).min(last);
        f64::from(self.latencies.get(index).copied().unwrap_or_default()) / 1000.0
    }

    pub fn note(&self) -> String {
        format!(
            "answers: p50 {:.2} ms, p99 {:.2} ms, {} refused",
            self.percentile(0.5),
            self.percentile(0.99),
            self.refused
        )
    }
}

/// Parses responses.
struct Responses {
    head: memmem::Finder<'static>,
    length: memmem::Finder<'static>,
    from_cache: memmem::Finder<'static>,
    buffer: Vec<u8>,
}

impl Responses {
    fn new() -> Self {
        Self {
            head: memmem::Finder::new(b"\r\n\r\n"),
            // As hyper writes it, in both servers.
            length: memmem::Finder::new(b"\r\ncontent-length: "),
            from_cache: memmem::Finder::new(br#""source":"cache""#),
            buffer: Vec::with_capacity(16 << 10),
        }
    }

    /// Reads one; whether it has this status.
    async fn next(&mut self, stream: &mut TcpStream, status: &[u8]) -> std::io::Result<bool> {
        self.buffer.clear();
        let mut whole = None;
        loop {
            if stream.read_buf(&mut self.buffer).await? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            if whole.is_none() {
                whole = self.whole();
            }
            if whole.is_some_and(|whole| self.buffer.len() >= whole) {
                return Ok(self.buffer.get(9..12) == Some(status));
            }
        }
    }

    /// Whether the run in the last response had its plan from the cache.
    fn is_from_cache(&self) -> bool {
        self.from_cache.find(&self.buffer).is_some()
    }

    /// The length of the response, once its head is complete.
    fn whole(&self) -> Option<usize> {
        let head = self.head.find(&self.buffer)?;
        let at = self.length.find(&self.buffer[..head]);
        let at = at.expect("every answer has a length") + self.length.needle().len();
        let digits = self.buffer[at..].iter().take_while(|b| b.is_ascii_digit());
        let length = digits.fold(0, |n, digit| n * 10 + usize::from(digit - b'0'));
        Some(head + 4 + length)
    }
}

/// Runs a plan on this thread.
pub fn run(plan: Plan) -> Outcome {
    let plan = Arc::new(plan);
    // A prefix of ids.
    let run: Arc<str> = uuid::Uuid::now_v7().simple().to_string().into();
    let next = Arc::new(AtomicU64::new(0));
    let stop = Arc::new(AtomicBool::new(false));
    // Only one refusal is printed, because there can be thousands.
    let said = Arc::new(AtomicBool::new(false));
    let before = thread_cpu();
    let start = Instant::now();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let mut outcome = Outcome::default();
    runtime.block_on(async {
        let mut tasks = Vec::new();
        for _ in 0..plan.connections {
            let (plan, run) = (Arc::clone(&plan), Arc::clone(&run));
            let (next, stop) = (Arc::clone(&next), Arc::clone(&stop));
            let said = Arc::clone(&said);
            tasks.push(tokio::spawn(async move {
                drive(&plan, &run, &next, &stop, &said).await
            }));
        }
        if let Until::Seconds(seconds) = plan.until {
            tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
            stop.store(true, Ordering::Relaxed);
        }
        for task in tasks {
            let mine = task.await.unwrap();
            outcome.accepted += mine.accepted;
            outcome.refused += mine.refused;
            outcome.from_cache += mine.from_cache;
            outcome.latencies.extend(mine.latencies);
        }
    });
    outcome.seconds = start.elapsed().as_secs_f64();
    outcome.cpu = thread_cpu() - before;
    outcome.latencies.sort_unstable();
    outcome
}

/// One connection.
async fn drive(
    plan: &Plan,
    run: &str,
    next: &AtomicU64,
    stop: &AtomicBool,
    said: &AtomicBool,
) -> Outcome {
    let mut stream = TcpStream::connect(plan.address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let mut request = Request::new(&plan.key, run, plan.what);
    let items = plan.what.items() as u64;
    let mut answers = Responses::new();
    let mut mine = Outcome::default();
    let last = match plan.until {
        Until::Seconds(_) => u64::MAX,
        Until::Requests(count) => count,
    };
    let began = tokio::time::Instant::now();
    while !stop.load(Ordering::Relaxed) {
        let n = next.fetch_add(1, Ordering::Relaxed);
        if n >= last {
            break;
        }
        if let Some(rate) = plan.rate {
            tokio::time::sleep_until(began + Duration::from_secs_f64(n as f64 / rate)).await;
        }
        let text = request.number(n);
        let sent = Instant::now();
        stream.write_all(text).await.unwrap();
        if answers.next(&mut stream, plan.what.status()).await.unwrap() {
            mine.accepted += items;
            plan.accepted.fetch_add(items, Ordering::Relaxed);
            if matches!(plan.what, What::Goals(_)) {
                mine.from_cache += u64::from(answers.is_from_cache());
            }
        } else {
            if !said.swap(true, Ordering::Relaxed) {
                let answer = &answers.buffer[..answers.buffer.len().min(600)];
                eprintln!("refused, the first: {}", String::from_utf8_lossy(answer));
            }
            mine.refused += 1;
        }
        mine.latencies.push(sent.elapsed().as_micros() as u32);
    }
    mine
}

/// Sends one request on its own connection; returns the whole response.
pub fn once(address: SocketAddr, path: &str) -> std::io::Result<String> {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// Posts JSON on its own connection, with further headers; returns the whole response.
pub fn post_to(
    address: SocketAddr,
    key: &str,
    path: &str,
    headers: &str,
    body: &str,
) -> std::io::Result<String> {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_mins(1)))?;
    write!(
        stream,
        "POST {path} HTTP/1.1\r\nHost: bench\r\nConnection: close\r\nAuthorization: Bearer {key}\r\n\
         Content-Type: application/json\r\n{headers}Content-Length: {}\r\n\r\n{body}",
        body.len()
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// Posts one event on an open connection; panics unless it is accepted.
pub fn post(stream: &mut std::net::TcpStream, key: &str, body: &str) {
    use std::io::{Read, Write};
    let request = format!(
        "POST /v1/events HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {key}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).unwrap();
    // Such a small response arrives in one read.
    let mut answer = [0; 4096];
    let length = stream.read(&mut answer).unwrap();
    let text = String::from_utf8_lossy(&answer[..length]);
    assert!(text.starts_with("HTTP/1.1 202"), "{text}");
}
