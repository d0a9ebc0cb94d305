//! The port, end to end: a real `omnilink up` in a process of its own, loaded over loopback.

use std::{
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use crate::{
    load::{self, Outcome, Plan, Shape},
    machine,
    report::Row,
};

/// A bare axum answer to the same requests: the limit of this machine.
pub fn bare(address: &str) {
    use axum::{Router, body::Bytes, http::StatusCode, routing::post};
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let answer = |body: Bytes| async move {
            let text = r#"{"request_id":"0123456789abcdef","results":[{"status":"ingested","record_id":"01234567-89ab-cdef-0123-456789abcdef","index":0}]}"#;
            (StatusCode::ACCEPTED, if body.is_empty() { "" } else { text })
        };
        let app = Router::new().route("/v1/events", post(answer));
        let listener = tokio::net::TcpListener::bind(address).await.unwrap();
        axum::serve(listener, app).await.unwrap();
    });
}

fn free_port() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
}

fn wait_for(address: SocketAddr) {
    let deadline = Instant::now() + Duration::from_mins(1);
    while TcpStream::connect(address).is_err() {
        assert!(Instant::now() < deadline, "{address} does not answer");
        std::thread::sleep(Duration::from_millis(20));
    }
}

struct Server {
    child: Child,
    address: SocketAddr,
    key: String,
    dir: tempfile::TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        // An orderly stop, so that an embedded Postgres stops as well.
        let _ = Command::new("kill")
            .arg(self.child.id().to_string())
            .status();
        let _ = self.child.wait();
    }
}

fn binary() -> std::path::PathBuf {
    // target/release/deps/omnilink-…  →  target/release/omnilink
    let exe = std::env::current_exe().unwrap();
    exe.parent()
        .and_then(Path::parent)
        .unwrap()
        .join("omnilink")
}

fn bare_server() -> Server {
    let address = free_port();
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["bare", &address.to_string()])
        .spawn()
        .unwrap();
    wait_for(address);
    Server {
        child,
        address,
        key: "omni.none.none".into(),
        dir: tempfile::tempdir().unwrap(),
    }
}

fn up(log: &str, projections: bool) -> Server {
    let dir = tempfile::tempdir_in(
        std::env::var("OMNILINK_BENCH_DIR").unwrap_or_else(|_| "/var/tmp".into()),
    )
    .unwrap();
    let address = free_port();
    let mut command = Command::new(binary());
    command
        .arg("up")
        .env("OMNILINK__LISTEN", address.to_string())
        .env("OMNILINK__DATA_DIR", dir.path())
        .stdout(Stdio::null())
        .stderr(std::fs::File::create(std::env::temp_dir().join("omnilink-bench.log")).unwrap());
    if !projections {
        command.args(["--without", "projections"]);
    }
    if log == "kafka" {
        let brokers =
            std::env::var("OMNILINK_TEST_KAFKA").expect("OMNILINK_TEST_KAFKA: scripts/stack start");
        let prefix = format!("bench{}.", uuid::Uuid::now_v7().simple());
        command
            .env("OMNILINK__KAFKA__BROKERS", brokers)
            .env("OMNILINK__TOPICS__PREFIX", prefix)
            .env(
                "OMNILINK__SECRET_KEY",
                "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=",
            );
    }
    let child = command.spawn().unwrap();
    wait_for(address);
    let file = dir.path().join("admin.key");
    if log == "kafka" {
        let made = Command::new(binary())
            .args(["keys", "create", "--first", "--tenant", "default", "--json"])
            .env("OMNILINK__LISTEN", address.to_string())
            .env("OMNILINK__DATA_DIR", dir.path())
            .env(
                "OMNILINK__KAFKA__BROKERS",
                std::env::var("OMNILINK_TEST_KAFKA").unwrap(),
            )
            .env("OMNILINK_URL", format!("http://{address}"))
            .output()
            .unwrap();
        assert!(
            made.status.success() || file.exists(),
            "{}",
            String::from_utf8_lossy(&made.stderr)
        );
    }
    let deadline = Instant::now() + Duration::from_secs(20);
    while !file.exists() {
        assert!(Instant::now() < deadline, "no admin.key");
        std::thread::sleep(Duration::from_millis(20));
    }
    let key = std::fs::read_to_string(file).unwrap().trim().to_owned();
    Server {
        child,
        address,
        key,
        dir,
    }
}

fn drive(
    server: &Server,
    connections: usize,
    batch: usize,
    entities: u64,
    rate: Option<f64>,
    seconds: f64,
) -> Outcome {
    load::run(Plan {
        address: server.address,
        key: server.key.clone(),
        connections,
        shape: Shape { batch, entities },
        rate,
        seconds,
        run: uuid::Uuid::now_v7().simple().to_string(),
    })
}

pub fn drive_only(address: &str, key: &str, connections: &str, batch: &str, seconds: &str) {
    let outcome = load::run(Plan {
        address: address.parse().unwrap(),
        key: key.to_owned(),
        connections: connections.parse().unwrap(),
        shape: Shape {
            batch: batch.parse().unwrap(),
            entities: 10_000,
        },
        rate: None,
        seconds: seconds.parse().unwrap(),
        run: uuid::Uuid::now_v7().simple().to_string(),
    });
    println!(
        "{:.0} events/s, p99 {:.2} ms",
        outcome.per_second(),
        outcome.percentile(0.99)
    );
}

/// Which part of the system a thread belongs to.
fn part(thread: &str) -> &'static str {
    match thread {
        "log-commit" => "log: commit",
        "lane-admission" | "lane-admissio" => "admission",
        t if t.starts_with("project") => "projector",
        t if t.starts_with("fjall") || t.starts_with("log-upkeep") => "log: upkeep",
        t if t.starts_with("rdk") => "librdkafka",
        _ => "port and runtime",
    }
}

fn measured(
    server: &Server,
    name: &str,
    limit: f64,
    connections: usize,
    batch: usize,
    seconds: f64,
) {
    drive(server, connections, batch, 10_000, None, 2.0);
    let pid = server.child.id();
    let before = machine::cpu_by_thread(pid);
    let tree = machine::cpu_of_tree(pid);
    let outcome = drive(server, connections, batch, 10_000, None, seconds);
    Row::new(name, outcome.per_second(), "ev/s")
        .against(limit, "bare axum")
        .note(format!(
            "p50 {:.2} ms, p99 {:.2} ms, {} refused",
            outcome.percentile(0.5),
            outcome.percentile(0.99),
            outcome.refused
        ))
        .print();
    let mut parts = std::collections::BTreeMap::<&str, f64>::new();
    let mut own = 0.0;
    for (thread, after) in machine::cpu_by_thread(pid) {
        let used = after - before.get(&thread).copied().unwrap_or_default();
        own += used;
        *parts.entry(part(&thread)).or_default() += used;
    }
    parts.insert(
        "children (Postgres)",
        (machine::cpu_of_tree(pid) - tree - own).max(0.0),
    );
    parts.insert("load generator", outcome.cpu_us);
    for (part, used) in parts {
        println!(
            "    {part:<22} {:>6.2} us CPU an event",
            used / outcome.accepted.max(1) as f64
        );
    }
    Row::new(
        format!("{name}: resident memory"),
        machine::resident_mb(pid),
        "MB",
    )
    .print();
}

pub fn run(which: &[&str]) {
    let log = which.first().copied().unwrap_or("local");
    let what = which.get(1).copied().unwrap_or("all");
    let limit = {
        let server = bare_server();
        drive(&server, 64, 1, 1000, None, 1.0);
        let outcome = drive(&server, 64, 1, 1000, None, 4.0);
        Row::new("bare axum answer, c=64", outcome.per_second(), "req/s")
            .note(format!(
                "p99 {:.2} ms, {:.1} us CPU of the load generator each",
                outcome.percentile(0.99),
                outcome.cpu_us / outcome.accepted as f64
            ))
            .print();
        outcome.per_second()
    };
    if what == "all" || what == "accept" {
        let server = up(log, false);
        Row::new(
            format!("{log}: resident memory idle"),
            machine::resident_mb(server.child.id()),
            "MB",
        )
        .print();
        measured(
            &server,
            &format!("{log}: accept-only, single, c=64"),
            limit,
            64,
            1,
            8.0,
        );
        measured(
            &server,
            &format!("{log}: accept-only, batches of 50, c=16"),
            limit,
            16,
            50,
            8.0,
        );
        println!("    data directory: {:.0} MB", folder_mb(server.dir.path()));
    }
    if what == "all" || what == "sustained" {
        sustained(log, limit);
    }
    if what == "all" || what == "latency" {
        latency(log);
    }
}

/// Rows in `omnilink.events`, by the embedded Postgres of the server.
struct Rows {
    runtime: tokio::runtime::Runtime,
    connection: sqlx::PgConnection,
}

impl Rows {
    fn of(server: &Server) -> Self {
        use sqlx::Connection;
        let file = server.dir.path().join("postgres.url");
        let deadline = Instant::now() + Duration::from_mins(1);
        while !file.exists() {
            assert!(Instant::now() < deadline, "no Postgres");
            std::thread::sleep(Duration::from_millis(50));
        }
        let url = std::fs::read_to_string(file).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let connection = runtime
            .block_on(sqlx::PgConnection::connect(url.trim()))
            .unwrap();
        Self {
            runtime,
            connection,
        }
    }

    fn projected(&mut self) -> i64 {
        let query = sqlx::query_scalar(
            "SELECT coalesce(sum(next), 0)::bigint FROM omnilink.projection_offsets",
        );
        self.runtime
            .block_on(query.fetch_one(&mut self.connection))
            .unwrap()
    }

    fn has_entity(&mut self, id: &str) -> bool {
        let query = sqlx::query_scalar("SELECT EXISTS (SELECT FROM omnilink.entities WHERE tenant = 'default' AND entity_type = 'probe' AND external_id = $1)").bind(id);
        self.runtime
            .block_on(query.fetch_one(&mut self.connection))
            .unwrap()
    }
}

/// As fast as it goes for a minute, with rows; the lag must not grow. If it does, what was projected is what was sustained.
fn sustained(log: &str, limit: f64) {
    let seconds = std::env::var("OMNILINK_BENCH_SECONDS")
        .ok()
        .and_then(|s| s.parse().ok())
        .unwrap_or(60.0);
    let server = up(log, true);
    let mut rows = Rows::of(&server);
    let before = rows.projected();
    measured(
        &server,
        &format!("{log}: sustained into Postgres, single, c=64"),
        limit,
        64,
        1,
        seconds,
    );
    let at_end = rows.projected();
    std::thread::sleep(Duration::from_millis(100));
    let started = Instant::now();
    let mut last = (at_end, Instant::now());
    while last.1.elapsed() < Duration::from_secs(2) && started.elapsed() < Duration::from_mins(2) {
        let now = rows.projected();
        if now > last.0 {
            last = (now, Instant::now());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Row::new(
        format!("{log}: rows still missing at the end"),
        (last.0 - at_end) as f64,
        "rows",
    )
    .note(format!("of {}", last.0 - before))
    .print();
}

/// From the request's first byte to a row that others see, at 100 a second.
fn latency(log: &str) {
    let server = up(log, true);
    let mut rows = Rows::of(&server);
    let run = uuid::Uuid::now_v7().simple().to_string();
    let mut stream = TcpStream::connect(server.address).unwrap();
    stream.set_nodelay(true).unwrap();
    let mut taken: Vec<f64> = Vec::new();
    let mut due = Instant::now();
    for n in 0..1500 {
        due += Duration::from_millis(10);
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        let id = format!("{run}-{n}");
        let body = format!(
            r#"{{"id":"{id}","source":"/probe","type":"probe.sent","entity":{{"type":"probe","external_id":"{id}"}},"data":{{"n":{n}}}}}"#
        );
        let sent = Instant::now();
        load::post_once(&mut stream, &server.key, &body);
        while !rows.has_entity(&id) {
            assert!(sent.elapsed() < Duration::from_secs(20), "no row");
        }
        if n >= 300 {
            taken.push(sent.elapsed().as_secs_f64() * 1000.0);
        }
    }
    taken.sort_by(f64::total_cmp);
    let at = |p: f64| taken[(taken.len() as f64 * p) as usize];
    Row::new(format!("{log}: HTTP to row at 100/s, p50"), at(0.5), "ms").print();
    Row::new(format!("{log}: HTTP to row at 100/s, p99"), at(0.99), "ms").print();
}

fn folder_mb(path: &Path) -> f64 {
    let mut bytes = 0;
    let mut folders = vec![path.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            match entry.metadata() {
                Ok(m) if m.is_dir() => folders.push(entry.path()),
                Ok(m) => bytes += m.len(),
                Err(_) => {}
            }
        }
    }
    bytes as f64 / 1e6
}
