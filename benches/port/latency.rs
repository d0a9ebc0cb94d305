//! The latency from the first byte of a request to a row that other connections see, at 100 per second.

use std::{
    collections::HashMap,
    net::{SocketAddr, TcpStream},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use crate::{
    load,
    report::{Row, percentile},
    rows::Rows,
    server::Server,
};

const PACE: Duration = Duration::from_millis(10);
const WARM_UP: usize = 300;
const COUNT: usize = 1_500;
/// Time between two queries, which limits the resolution.
const POLL_INTERVAL: Duration = Duration::from_micros(250);
const STALL_TIMEOUT: Duration = Duration::from_secs(20);

/// Connections, used round robin, so that one slow response does not delay the next event.
const CONNECTIONS: usize = 8;

/// Entities without a row yet, and when their event was due.
type Waiting = Arc<Mutex<HashMap<String, Instant>>>;

pub struct Latency {
    /// In milliseconds.
    pub p50: f64,
    pub p99: f64,
}

pub fn measure(server: &Server, name: &str) -> Latency {
    let mut rows = Rows::at(&server.database_url());
    let run = uuid::Uuid::now_v7().simple().to_string();
    let waiting: Waiting = Arc::default();
    let start = Instant::now() + PACE;
    let posting: Vec<_> = (0..CONNECTIONS)
        .map(|first| {
            let (waiting, run) = (Arc::clone(&waiting), run.clone());
            let (address, key) = (server.address, server.key.clone());
            std::thread::spawn(move || post(address, &key, &run, first, start, &waiting))
        })
        .collect();
    let mut taken = Vec::new();
    let mut seen = 0;
    let mut last = Instant::now();
    while seen < COUNT {
        let ids: Vec<String> = waiting.lock().unwrap().keys().cloned().collect();
        if !ids.is_empty() {
            let found = rows.found(&ids);
            let now = Instant::now();
            for id in found {
                let due = waiting.lock().unwrap().remove(&id).unwrap();
                let n: usize = id.rsplit_once('-').unwrap().1.parse().unwrap();
                if n >= WARM_UP {
                    taken.push((now - due).as_secs_f64() * 1000.0);
                }
                (seen, last) = (seen + 1, now);
                server.count_one();
            }
        }
        assert!(last.elapsed() < STALL_TIMEOUT, "no row");
        std::thread::sleep(POLL_INTERVAL);
    }
    for one in posting {
        one.join().unwrap();
    }
    let latency = Latency {
        p50: percentile(taken.clone(), 0.5),
        p99: percentile(taken, 0.99),
    };
    Row::new(
        format!("{name}: HTTP to row at 100/s, p50"),
        latency.p50,
        "ms",
    )
    .print();
    Row::new(
        format!("{name}: HTTP to row at 100/s, p99"),
        latency.p99,
        "ms",
    )
    .print();
    latency
}

/// Posts its share of the events on schedule.
fn post(
    address: SocketAddr,
    key: &str,
    run: &str,
    first: usize,
    start: Instant,
    waiting: &Waiting,
) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_nodelay(true).unwrap();
    for n in (first..COUNT).step_by(CONNECTIONS) {
        let due = start + PACE * n as u32;
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        let id = format!("{run}-{n}");
        let body = format!(
            r#"{{"id":"{id}","source":"/probe","type":"probe.sent","entity":{{"type":"probe","external_id":"{id}"}},"data":{{"n":{n}}}}}"#
        );
        // An event delayed by the previous one counts from its scheduled time.
        waiting.lock().unwrap().insert(id, due);
        load::post(&mut stream, key, &body);
    }
}
