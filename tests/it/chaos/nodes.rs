//! Nodes: `omnilink up` processes, which are killed and restarted.

use std::{
    fs::File,
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};

use parking_lot::{Mutex, RwLock};
use rustix::process::{Pid, Signal, kill_process};

use super::{parts::Parts, plan::Plan};
use crate::support::{LogKind, cpu_time};

const BINARY: &str = env!("CARGO_BIN_EXE_omnilink");
/// Time limit for the start of a node, which may have to wait for the broker.
const START: Duration = Duration::from_secs(90);
/// Time limit for a stop; a node drains for 10 s.
const STOP: Duration = Duration::from_secs(20);

pub struct Nodes {
    dir: PathBuf,
    settings: Vec<(String, String)>,
    all: RwLock<Vec<Node>>,
    /// When the last process was started.
    spawned: Mutex<Instant>,
}

struct Node {
    dir: PathBuf,
    child: Mutex<Option<Child>>,
    address: RwLock<String>,
}

impl Nodes {
    pub fn new(dir: &Path, plan: &Plan, parts: &Parts) -> Self {
        let mut settings = vec![
            ("OMNILINK__POSTGRES__URL".to_owned(), parts.postgres.clone()),
            (
                "OMNILINK_CHAOS_BUG".to_owned(),
                plan.bug.unwrap_or_default().to_owned(),
            ),
            // Workers fail for a moment only, and runs have deadlines.
            ("OMNILINK__BREAKER__OPEN_S".to_owned(), "1".to_owned()),
        ];
        if !parts.redis.is_empty() {
            settings.push(("OMNILINK__REDIS__URL".to_owned(), parts.redis.clone()));
        }
        if plan.kind == LogKind::Kafka {
            settings.push(("OMNILINK__KAFKA__BROKERS".to_owned(), parts.brokers.clone()));
            // Of 32 bytes, the same on all nodes.
            let secret = "Y2hhb3MgY2hhb3MgY2hhb3MgY2hhb3MgY2hhb3MgY2g=";
            settings.push(("OMNILINK__SECRET_KEY".to_owned(), secret.to_owned()));
            // With a bug the faults of the plan are to find it.
            if plan.bug.is_none() {
                settings.push(("OMNILINK_CHAOS_LOST_ANSWERS".to_owned(), "40".to_owned()));
            }
        }
        Self {
            dir: dir.to_owned(),
            settings,
            all: RwLock::default(),
            spawned: Mutex::new(Instant::now()),
        }
    }

    /// A setting of all nodes that start from now on.
    pub fn set(&mut self, name: &str, value: &str) {
        self.settings.push((name.to_owned(), value.to_owned()));
    }

    fn command(&self, data: &Path, arguments: &[&str]) -> Command {
        let mut command = Command::new(BINARY);
        // Without the settings of the environment.
        for (name, _) in std::env::vars() {
            if name.starts_with("OMNILINK_") {
                command.env_remove(name);
            }
        }
        command
            .args(arguments)
            .current_dir(&self.dir)
            .env("OMNILINK__DATA_DIR", data)
            .envs(self.settings.iter().cloned())
            .stdin(Stdio::null());
        command
    }

    /// The folder of the first node.
    pub fn first_dir(&self) -> PathBuf {
        self.dir.join("node-0")
    }

    /// Creates the first key on Kafka, before the first node starts.
    pub fn make_key(&self) {
        let made = self
            .command(&self.first_dir(), &["keys", "create", "--first"])
            .output()
            .unwrap();
        assert!(
            made.status.success(),
            "omnilink keys create --first: {}",
            String::from_utf8_lossy(&made.stderr)
        );
    }

    /// The admin key, once the first node or [`Nodes::make_key`] has created it.
    pub fn key(&self) -> String {
        let key = std::fs::read_to_string(self.first_dir().join("admin.key")).unwrap();
        key.trim().to_owned()
    }

    /// Adds a node and starts it.
    pub fn add(&self) -> usize {
        let index = self.all.read().len();
        let dir = self.dir.join(format!("node-{index}"));
        std::fs::create_dir_all(&dir).unwrap();
        self.all.write().push(Node {
            dir,
            child: Mutex::default(),
            address: RwLock::default(),
        });
        self.start(index);
        index
    }

    pub fn len(&self) -> usize {
        self.all.read().len()
    }

    /// The address for a client's `attempt`-th try; `None` if no node has one yet.
    pub fn address(&self, attempt: usize) -> Option<String> {
        let nodes = self.all.read();
        let node = nodes.get(attempt % nodes.len().max(1))?;
        let address = node.address.read().clone();
        (!address.is_empty()).then_some(address)
    }

    /// Starts a node and waits until it listens. Restarts it if it exits, as it does while the broker is down.
    pub fn start(&self, index: usize) {
        let deadline = Instant::now() + START;
        let nodes = self.all.read();
        let node = &nodes[index];
        loop {
            let (mut child, listens) = self.spawn(node);
            match listens.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(address) => {
                    *node.address.write() = address;
                    *node.child.lock() = Some(child);
                    return;
                }
                Err(mpsc::RecvTimeoutError::Disconnected) => {
                    drop(child.wait());
                    assert!(
                        Instant::now() < deadline,
                        "node {index} does not start\n{}",
                        node.log_tail()
                    );
                    std::thread::sleep(Duration::from_millis(300));
                }
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    drop(child.kill());
                    drop(child.wait());
                    panic!(
                        "node {index} does not listen after {START:?}\n{}",
                        node.log_tail()
                    );
                }
            }
        }
    }

    fn spawn(&self, node: &Node) -> (Child, mpsc::Receiver<String>) {
        let log = |name: &str| {
            let mut options = File::options();
            options.create(true).append(true);
            options.open(node.dir.join(name)).unwrap()
        };
        let mut out = log("stdout.log");
        *self.spawned.lock() = Instant::now();
        let mut child = self
            .command(&node.dir, &["up", "--listen", "127.0.0.1:0"])
            .stdout(Stdio::piped())
            .stderr(log("stderr.log"))
            .spawn()
            .unwrap();
        // For `scripts/chaos`, in case this process is killed.
        std::fs::write(node.dir.join("pid"), child.id().to_string()).unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let (tell, listens) = mpsc::channel();
        // Ends with the process.
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                if let Some((_, address)) = line.split_once("listens on http://") {
                    drop(tell.send(address.trim().to_owned()));
                }
                drop(writeln!(out, "{line}"));
            }
        });
        (child, listens)
    }

    /// When the last process was started.
    pub fn spawned(&self) -> Instant {
        *self.spawned.lock()
    }

    /// Starts the stopped nodes.
    pub fn start_all(&self) {
        for index in 0..self.len() {
            let idle = self.all.read()[index].child.lock().is_none();
            if idle {
                self.start(index);
            }
        }
    }

    /// Starts a stopped node, and kills it after this many milliseconds.
    pub fn start_and_kill(&self, milliseconds: u64) {
        let nodes = self.all.read();
        let Some(node) = nodes.iter().find(|node| node.child.lock().is_none()) else {
            return;
        };
        let (mut child, _) = self.spawn(node);
        std::thread::sleep(Duration::from_millis(milliseconds));
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// SIGKILL.
    pub fn kill(&self, index: usize) {
        if let Some(mut child) = self.all.read()[index].child.lock().take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// The processor time of a node since it was started. `None`: it has exited.
    pub fn cpu_time(&self, index: usize) -> Option<Duration> {
        let all = self.all.read();
        let mut child = all[index].child.lock();
        let child = child.as_mut()?;
        let runs = child.try_wait().unwrap().is_none();
        runs.then(|| cpu_time(&child.id().to_string()))
    }

    pub fn signal(&self, index: usize, signal: Signal) {
        if let Some(child) = &*self.all.read()[index].child.lock() {
            let pid = Pid::from_raw(child.id() as i32).unwrap();
            kill_process(pid, signal).unwrap();
        }
    }

    /// Removes and returns nodes that exited by themselves, with the end of their logs.
    pub fn ended(&self) -> Vec<(usize, String)> {
        let mut ended = Vec::new();
        for (index, node) in self.all.read().iter().enumerate() {
            let mut child = node.child.lock();
            if let Some(running) = &mut *child
                && let Some(status) = running.try_wait().unwrap()
            {
                *child = None;
                ended.push((
                    index,
                    format!(
                        "node {index} ended by itself ({status})\n{}",
                        node.log_tail()
                    ),
                ));
            }
        }
        ended
    }

    /// Stops all nodes gracefully; returns those that did not exit with 0 in time.
    pub fn stop(&self) -> Vec<String> {
        for index in 0..self.len() {
            self.signal(index, Signal::TERM);
        }
        let deadline = Instant::now() + STOP;
        let mut bad = Vec::new();
        for (index, node) in self.all.read().iter().enumerate() {
            let Some(mut child) = node.child.lock().take() else {
                continue;
            };
            let status = loop {
                match child.try_wait().unwrap() {
                    Some(status) => break Some(status),
                    None if Instant::now() > deadline => break None,
                    None => std::thread::sleep(Duration::from_millis(20)),
                }
            };
            match status {
                Some(status) if status.success() => {}
                Some(status) => bad.push(format!(
                    "node {index} stopped with {status}\n{}",
                    node.log_tail()
                )),
                None => {
                    drop(child.kill());
                    drop(child.wait());
                    bad.push(format!(
                        "node {index} did not stop within {STOP:?}\n{}",
                        node.log_tail()
                    ));
                }
            }
        }
        bad
    }
}

impl Nodes {
    /// What the nodes say about their readiness.
    pub fn readiness(&self) -> String {
        let ask = |index| -> std::io::Result<String> {
            let address = self.address(index).unwrap_or_default();
            let mut stream = TcpStream::connect(address)?;
            stream.set_read_timeout(Some(Duration::from_secs(5)))?;
            write!(
                stream,
                "GET /readyz HTTP/1.1\r\nHost: n\r\nConnection: close\r\n\r\n"
            )?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer)
        };
        let all: Vec<_> = (0..self.len())
            .map(|index| format!("{:?}", ask(index)))
            .collect();
        all.join("\n")
    }

    /// The last warnings and errors in the logs of the nodes, for a run that found something.
    pub fn errors(&self) -> String {
        let mut all = Vec::new();
        for index in 0..self.len() {
            let file = self.dir.join(format!("node-{index}")).join("stderr.log");
            let text = std::fs::read_to_string(&file).unwrap_or_default();
            let bad = |line: &&str| {
                (line.contains("ERROR") || line.contains("WARN"))
                    && !line.contains("AllBrokersDown")
                    && !line.contains("Connection refused")
            };
            let lines: Vec<_> = text.lines().filter(bad).collect();
            let last = &lines[lines.len().saturating_sub(60)..];
            all.push(format!("node {index}:\n{}", last.join("\n")));
        }
        all.join("\n")
    }
}

impl Node {
    /// The end of its log.
    fn log_tail(&self) -> String {
        let text = std::fs::read_to_string(self.dir.join("stderr.log")).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(12)..].join("\n")
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        for index in 0..self.len() {
            // SIGKILL also ends a stopped process.
            self.kill(index);
        }
    }
}
