//! Servers of Redis that a test kills and starts again, and what the limiter's script does on them.

use std::{
    io::{BufRead, BufReader, ErrorKind, Write},
    net::{TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use omnilink::config::{Config, SecretUrl, Sources};
use parking_lot::Mutex;
use tempfile::TempDir;

pub fn url(text: &str) -> SecretUrl {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("omnilink.yaml");
    std::fs::write(&file, format!("redis: {{ url: \"{text}\" }}")).unwrap();
    let sources = Sources {
        file: Some(file),
        ..Sources::default()
    };
    Config::load(&sources).unwrap().redis_url.unwrap()
}

/// A server of Redis of the test's own, without persistence.
pub struct Server {
    dir: TempDir,
    pub port: u16,
    settings: &'static [&'static str],
    process: Option<Child>,
}

impl Server {
    /// `None`: there is no `redis-server` here.
    pub fn start(settings: &'static [&'static str]) -> Option<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let mut server = Self {
            dir: TempDir::new().unwrap(),
            port,
            settings,
            process: None,
        };
        if !server.up() {
            eprintln!("SKIPPED: there is no redis-server");
            return None;
        }
        Some(server)
    }

    /// `false`: there is no `redis-server` here.
    pub fn up(&mut self) -> bool {
        let started = Command::new("redis-server")
            .args(["--port", &self.port.to_string()])
            .args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
            .args(["--enable-debug-command", "yes"])
            .args(self.settings)
            .current_dir(self.dir.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let Ok(process) = started else { return false };
        self.process = Some(process);
        let client = redis::Client::open(self.url()).unwrap();
        let answers = || {
            let mut redis = client.get_connection()?;
            redis::cmd("PING").query::<()>(&mut redis)
        };
        for _ in 0..500 {
            if answers().is_ok() {
                return true;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("redis-server does not answer");
    }

    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/", self.port)
    }

    pub fn ask<T: redis::FromRedisValue>(&self, command: &redis::Cmd) -> T {
        let client = redis::Client::open(self.url()).unwrap();
        command
            .query(&mut client.get_connection().unwrap())
            .unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Items that the limiter's script let into a window.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Admission {
    /// The key of the window.
    pub window: String,
    /// The time that the script used: Redis's, in microseconds since 1970.
    pub at: i64,
    pub count: u64,
}

/// Records all admissions on a server, over its restarts.
pub struct Admissions {
    seen: Arc<Mutex<Vec<Admission>>>,
    connections: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Admissions {
    pub fn record(server: &Server) -> Self {
        let port = server.port;
        let mut recorder = Self {
            seen: Arc::default(),
            connections: Arc::default(),
            stop: Arc::default(),
            thread: None,
        };
        let seen = Arc::clone(&recorder.seen);
        let connections = Arc::clone(&recorder.connections);
        let stop = Arc::clone(&recorder.stop);
        recorder.thread = Some(std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                // It ends when the server does.
                let _ = monitor(port, &seen, &connections, &stop);
                std::thread::sleep(Duration::from_millis(2));
            }
        }));
        recorder.wait_for(1);
        recorder
    }

    /// Waits until it has connected so many times: once more after each restart.
    pub fn wait_for(&self, connections: usize) {
        super::wait_until("the recorder is connected", || {
            self.connections.load(Ordering::Relaxed) >= connections
        });
    }

    /// Ends the record and returns it.
    pub fn finish(mut self) -> Vec<Admission> {
        self.end();
        std::mem::take(&mut self.seen.lock())
    }

    fn end(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Admissions {
    fn drop(&mut self) {
        self.end();
    }
}

/// Follows one connection until it ends.
fn monitor(
    port: u16,
    seen: &Mutex<Vec<Admission>>,
    connections: &AtomicUsize,
    stop: &AtomicBool,
) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_millis(100)))?;
    stream.write_all(b"MONITOR\r\n")?;
    let mut lines = BufReader::new(stream);
    let mut line = Vec::new();
    loop {
        match lines.read_until(b'\n', &mut line) {
            Ok(0) => return Ok(()),
            Ok(_) => {
                let text = String::from_utf8_lossy(&line);
                if text.starts_with("+OK") {
                    connections.fetch_add(1, Ordering::Relaxed);
                }
                seen.lock().extend(admission(&text));
                line.clear();
            }
            // What was read so far stays in `line`.
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                if stop.load(Ordering::Relaxed) {
                    return Ok(());
                }
            }
            Err(e) => return Err(e),
        }
    }
}

/// The admission in a line of `MONITOR`: the script appends `TIME COUNT SUM` to the list of a window.
fn admission(line: &str) -> Option<Admission> {
    let (_, arguments) = line.trim_end().split_once(" lua] \"RPUSH\" ")?;
    let (window, entry) = arguments.split_once(' ')?;
    let mut numbers = entry.trim_matches('"').split(' ');
    Some(Admission {
        window: window.trim_matches('"').to_owned(),
        at: numbers.next()?.parse().ok()?,
        count: numbers.next()?.parse().ok()?,
    })
}
