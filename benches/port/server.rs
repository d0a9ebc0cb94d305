//! The system that is measured: a real `omnilink up` in a process of its own, with data of its own.

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
    load::{self, Outcome, Plan, Until},
    machine::{self, Cpu},
    postgres::Database,
    rows::Rows,
};

const START: Duration = Duration::from_mins(2);
/// Connections of the load generator.
pub const CONNECTIONS: usize = 64;
/// Entities that events are about, unless a part says otherwise.
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

/// Waits until `path` is answered with a 2xx.
pub fn wait_for(address: SocketAddr, path: &str, child: &mut Child) {
    let deadline = Instant::now() + START;
    while !load::once(address, path).is_ok_and(|answer| answer.starts_with("HTTP/1.1 2")) {
        if let Some(status) = child.try_wait().unwrap() {
            panic!("it ended ({status}); see {}", words().display());
        }
        assert!(Instant::now() < deadline, "{address} does not answer");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Where the process says what it has to say.
fn words() -> PathBuf {
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
    /// Events accepted since the data are there.
    accepted: Arc<AtomicU64>,
    rows: RefCell<Option<Rows>>,
    /// On Kafka, where `OMNILINK_TEST_POSTGRES` names a server; else the embedded Postgres is used.
    database: Option<Database>,
    scratch: Option<Scratch>,
    dir: tempfile::TempDir,
}

impl Server {
    /// Starts with empty data. `None`: there is no Kafka.
    pub fn up(log: Log, projections: bool) -> Option<Self> {
        let (scratch, database) = match log {
            Log::Local => (None, None),
            Log::Kafka => (Some(Scratch::new()?), Database::new()),
        };
        let address = free_port();
        let dir = disk::scratch();
        let settings = settings(address, dir.path(), scratch.as_ref(), database.as_ref());
        if log == Log::Kafka {
            // The first key is made before the first node starts: both want the same data directory.
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
            dir,
        })
    }

    /// Stops it and starts it again on the same data.
    pub fn restart(&mut self, projections: bool) {
        self.rows.replace(None);
        self.stop();
        let (scratch, database) = (self.scratch.as_ref(), self.database.as_ref());
        let settings = settings(self.address, self.dir.path(), scratch, database);
        self.child = start(&settings, self.address, projections);
    }

    fn stop(&mut self) {
        // An orderly stop, so that an embedded Postgres stops as well.
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

    /// What it has written to disk itself.
    pub fn data_mb(&self) -> f64 {
        folder_mb(self.dir.path())
    }

    /// Events accepted since the data are there.
    pub fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed)
    }

    /// Counts an event that was posted by hand.
    pub fn count_one(&self) {
        self.accepted.fetch_add(1, Ordering::Relaxed);
    }

    /// Loads it.
    pub fn drive(&self, batch: usize, entities: u64, until: Until) -> Outcome {
        load::run(self.plan(batch, entities, until))
    }

    /// How to load it.
    pub fn plan(&self, batch: usize, entities: u64, until: Until) -> Plan {
        Plan {
            address: self.address,
            key: self.key.clone(),
            connections: CONNECTIONS,
            batch,
            entities,
            until,
            accepted: Arc::clone(&self.accepted),
        }
    }

    /// The sum of a counter or gauge of `/metrics` over all lines that begin so; 0 where there are none.
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

    /// Events that admission has looked at since the process started.
    pub fn admitted(&self) -> u64 {
        self.metric("omnilink_admission_records_total") as u64
    }

    /// Asks its Postgres.
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

    /// Processor time by part from now on; with `rows`, of a Postgres that is not its child as well.
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
        ("OMNILINK__DATA_DIR", dir.display().to_string()),
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
    // Not the settings of whoever runs the bench.
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

fn start(settings: &[(&'static str, String)], address: SocketAddr, projections: bool) -> Child {
    let mut command = command(settings);
    command.arg("up");
    if !projections {
        command.args(["--without", "projections"]);
    }
    let words = std::fs::File::options()
        .create(true)
        .append(true)
        .open(words())
        .unwrap();
    let mut child = command.stdout(Stdio::null()).stderr(words).spawn().unwrap();
    wait_for(address, "/readyz", &mut child);
    child
}

/// Which part of the system a thread belongs to.
fn part(thread: &str) -> &'static str {
    match thread {
        "log-commit" => "log: commit",
        t if t.starts_with("lane-admissi") => "admission",
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
