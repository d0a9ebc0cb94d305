//! The system under test: `omnilink up` in its own process, with its own data.

use std::{
    cell::RefCell,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use crate::{
    disk,
    kafka::Scratch,
    load::{self, Goals, Outcome, Plan, Until, What},
    machine::{self, Cpu},
    postgres::Database,
    rows::Rows,
};

const START: Duration = Duration::from_mins(2);
const DATA_DIR: &str = "OMNILINK__DATA_DIR";
/// Connections of the load generator.
pub const CONNECTIONS: usize = 64;
/// The default number of entities.
pub const ENTITIES: u64 = 10_000;

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Log {
    Local,
    Kafka,
}

impl Log {
    pub fn name(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Kafka => "kafka",
        }
    }
}

pub fn free_port() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
}

/// Waits until `path` returns a 2xx status.
pub fn wait_for(address: SocketAddr, path: &str, child: &mut Child) {
    let deadline = Instant::now() + START;
    while !load::once(address, path).is_ok_and(|answer| answer.starts_with("HTTP/1.1 2")) {
        if let Some(status) = child.try_wait().unwrap() {
            panic!("it ended ({status}); see {}", log_file().display());
        }
        assert!(Instant::now() < deadline, "{address} does not answer");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Waits until a node has made the first key: its port listens by then, and answers soon.
fn wait_for_key(settings: &[(&'static str, String)], child: &mut Child) {
    let dir = settings.iter().find(|(name, _)| *name == DATA_DIR).unwrap();
    let file = Path::new(&dir.1).join("admin.key");
    let deadline = Instant::now() + START;
    while !file.exists() {
        if let Some(status) = child.try_wait().unwrap() {
            panic!("it ended ({status}); see {}", log_file().display());
        }
        assert!(Instant::now() < deadline, "it makes no key");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The log file of the process.
fn log_file() -> PathBuf {
    std::env::temp_dir().join("omnilink-bench.log")
}

fn binary() -> PathBuf {
    // target/release/deps/port-…  →  target/release/omnilink
    let exe = std::env::current_exe().unwrap();
    exe.parent()
        .and_then(Path::parent)
        .unwrap()
        .join("omnilink")
}

/// Fields are dropped in this order, after the process has stopped.
pub struct Server {
    child: Child,
    pub address: SocketAddr,
    pub key: String,
    /// Events accepted since the data were created.
    accepted: Arc<AtomicU64>,
    rows: RefCell<Option<Rows>>,
    /// On Kafka if `OMNILINK_TEST_POSTGRES` is set; otherwise the embedded Postgres is used.
    database: Option<Database>,
    scratch: Option<Scratch>,
    /// Settings of its own, beside those of every server.
    more: Vec<(&'static str, String)>,
    dir: tempfile::TempDir,
}

impl Server {
    /// Starts with empty data; `None` without Kafka.
    pub fn up(log: Log, projections: bool) -> Option<Self> {
        Self::up_with(log, projections, &[])
    }

    /// With settings that win over its own.
    pub fn up_with(log: Log, projections: bool, more: &[(&'static str, String)]) -> Option<Self> {
        let (scratch, database) = match log {
            Log::Local => (None, None),
            Log::Kafka => (Some(Scratch::new()?), Database::new()),
        };
        let address = free_port();
        let dir = disk::scratch();
        let mut settings = settings(address, dir.path(), scratch.as_ref(), database.as_ref());
        settings.extend_from_slice(more);
        if log == Log::Kafka {
            // The first key is created before the node starts, because both use the same data directory.
            let made = command(&settings)
                .args(["keys", "create", "--first"])
                .output()
                .unwrap();
            let why = String::from_utf8_lossy(&made.stderr);
            assert!(made.status.success(), "keys create --first: {why}");
        }
        let child = start(&settings, address, projections);
        let key = std::fs::read_to_string(dir.path().join("admin.key")).unwrap();
        Some(Self {
            child,
            address,
            key: key.trim().to_owned(),
            accepted: Arc::default(),
            rows: RefCell::new(None),
            database,
            scratch,
            more: more.to_vec(),
            dir,
        })
    }

    /// Restarts it with the same data.
    pub fn restart(&mut self, projections: bool) {
        self.rows.replace(None);
        self.stop();
        self.child = start(&self.settings(), self.address, projections);
    }

    /// Kills it without notice and starts it with the same data; returns when the process runs.
    pub fn kill(&mut self, projections: bool) {
        self.rows.replace(None);
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.child = spawn(&self.settings(), projections);
    }

    fn settings(&self) -> Vec<(&'static str, String)> {
        let (scratch, database) = (self.scratch.as_ref(), self.database.as_ref());
        let mut settings = settings(self.address, self.dir.path(), scratch, database);
        settings.extend(self.more.iter().cloned());
        settings
    }

    /// Makes a key with scopes, in JSON.
    pub fn made_key(&self, scopes: &str) -> String {
        let file = self.dir.path().join("scopes.json");
        std::fs::write(&file, scopes).unwrap();
        let made = command(&self.settings())
            .args(["keys", "create", "--name", "bench", "--json", "--scopes"])
            .arg(&file)
            .output()
            .unwrap();
        let why = String::from_utf8_lossy(&made.stderr);
        assert!(made.status.success(), "keys create: {why}");
        let made: serde_json::Value = serde_json::from_slice(&made.stdout).unwrap();
        made["key"].as_str().unwrap().to_owned()
    }

    fn stop(&mut self) {
        // A graceful stop, so that an embedded Postgres stops as well.
        let id = self.child.id().to_string();
        let _ = Command::new("kill").arg(id).status();
        let _ = self.child.wait();
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn resident_mb(&self) -> f64 {
        machine::resident_mb(self.pid())
    }

    /// The size of its own data on disk, in MB.
    pub fn data_mb(&self) -> f64 {
        folder_mb(self.dir.path())
    }

    /// Events accepted since the data were created.
    pub fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed)
    }

    /// Counts an event that was posted separately.
    pub fn count_one(&self) {
        self.accepted.fetch_add(1, Ordering::Relaxed);
    }

    /// Runs the load generator.
    pub fn drive(&self, batch: usize, entities: u64, until: Until) -> Outcome {
        load::run(self.plan(batch, entities, until))
    }

    /// Starts runs of a workflow with this many connections, each of which waits for its run.
    pub fn drive_runs(&self, workflow: &'static str, connections: usize, until: Until) -> Outcome {
        load::run(self.runs_plan(workflow, connections, until))
    }

    /// Sends goals over this many connections.
    pub fn goals_plan(&self, goals: Goals, connections: usize, until: Until) -> Plan {
        Plan {
            connections,
            what: What::Goals(goals),
            ..self.plan(1, ENTITIES, until)
        }
    }

    /// Starts this many runs that last.
    pub fn park(&self, workflow: &'static str, runs: u64) -> Outcome {
        load::run(Plan {
            what: What::Parked(workflow),
            ..self.plan(1, ENTITIES, Until::Requests(runs))
        })
    }

    /// The plan of such a load.
    pub fn runs_plan(&self, workflow: &'static str, connections: usize, until: Until) -> Plan {
        Plan {
            connections,
            what: What::Runs(workflow),
            ..self.plan(1, ENTITIES, until)
        }
    }

    /// The plan of the load.
    pub fn plan(&self, batch: usize, entities: u64, until: Until) -> Plan {
        Plan {
            address: self.address,
            key: self.key.clone(),
            connections: CONNECTIONS,
            what: What::Events { batch, entities },
            until,
            rate: None,
            accepted: Arc::clone(&self.accepted),
        }
    }

    /// The sum of a metric over all lines with this prefix; 0 without any.
    pub fn metric(&self, begins: &str) -> f64 {
        let page = load::once(self.address, "/metrics").unwrap();
        page.lines()
            .filter(|line| line.starts_with(begins))
            .filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok())
            .sum()
    }

    /// Events written into Postgres since the process started.
    pub fn projected(&self) -> u64 {
        self.metric("omnilink_projection_events_total") as u64
    }

    /// Events that admission has processed since the process started.
    pub fn admitted(&self) -> u64 {
        self.metric("omnilink_admission_records_total") as u64
    }

    /// Queries its Postgres.
    pub fn rows<T>(&self, ask: impl FnOnce(&mut Rows) -> T) -> T {
        let mut rows = self.rows.borrow_mut();
        let rows = rows.get_or_insert_with(|| match &self.database {
            Some(database) => Rows::at(&database.url),
            None => Rows::embedded(self.dir.path()),
        });
        ask(rows)
    }

    /// The URL of its Postgres.
    pub fn database_url(&self) -> String {
        self.rows(|rows| rows.url.clone())
    }

    /// Starts to measure processor time by part; with `rows`, also of a Postgres that is not its child.
    pub fn cpu(&self, rows: bool) -> Cpu {
        let mut others = Vec::new();
        if let Some(scratch) = &self.scratch {
            others.extend(machine::broker(&scratch.brokers).map(|pid| ("Kafka", pid)));
        }
        if rows && self.database.is_some() {
            others.extend(self.rows(Rows::postmaster).map(|pid| ("Postgres", pid)));
        }
        Cpu::of(self.pid(), part, others)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

fn settings(
    address: SocketAddr,
    dir: &Path,
    scratch: Option<&Scratch>,
    database: Option<&Database>,
) -> Vec<(&'static str, String)> {
    let mut all = vec![
        ("OMNILINK__LISTEN", address.to_string()),
        (DATA_DIR, dir.display().to_string()),
    ];
    if let Some(scratch) = scratch {
        all.push(("OMNILINK__KAFKA__BROKERS", scratch.brokers.clone()));
        all.push(("OMNILINK__TOPICS__PREFIX", scratch.prefix.clone()));
        let secret = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";
        all.push(("OMNILINK__SECRET_KEY", secret.to_owned()));
    }
    if let Some(database) = database {
        all.push(("OMNILINK__POSTGRES__URL", database.url.clone()));
    }
    all
}

fn command(settings: &[(&'static str, String)]) -> Command {
    let mut command = Command::new(binary());
    // Without the settings of the environment.
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("OMNILINK_") {
            command.env_remove(name);
        }
    }
    command
        .envs(settings.iter().map(|(k, v)| (k, v)))
        .stdin(Stdio::null());
    command
}

fn spawn(settings: &[(&'static str, String)], projections: bool) -> Child {
    let mut command = command(settings);
    command.arg("up");
    if !projections {
        command.args(["--without", "projections"]);
    }
    let words = std::fs::File::options()
        .create(true)
        .append(true)
        .open(log_file())
        .unwrap();
    command.stdout(Stdio::null()).stderr(words).spawn().unwrap()
}

/// Starts the process; returns when it is ready.
fn start(settings: &[(&'static str, String)], address: SocketAddr, projections: bool) -> Child {
    let mut child = spawn(settings, projections);
    if settings
        .iter()
        .any(|(name, _)| name.starts_with("OMNILINK__TLS__"))
    {
        // `wait_for` speaks no TLS.
        wait_for_key(settings, &mut child);
    } else {
        wait_for(address, "/readyz", &mut child);
    }
    child
}

/// The part of the system to which a thread belongs.
fn part(thread: &str) -> &'static str {
    match thread {
        "log-commit" => "log: commit",
        t if t.starts_with("lane-admissi") => "admission",
        t if t.starts_with("lane-saga") => "saga",
        t if t.starts_with("effect-worker") => "workers: records",
        t if t.starts_with("effect-planner") => "planner: requests",
        "plans" => "planner: cached plans",
        t if t.starts_with("embed") => "embedder",
        t if t.starts_with("project") => "projector",
        t if t.starts_with("fjall") || t.starts_with("log-upkeep") => "log: upkeep",
        t if t.starts_with("rdk") => "librdkafka",
        t if t.starts_with("producer") => "producer",
        _ => "port and runtime",
    }
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
