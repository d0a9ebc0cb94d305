//! Servers of Redis that a test kills and starts again.

use std::{
    net::TcpListener,
    process::{Child, Command, Stdio},
    time::Duration,
};

use omnilink::config::{Config, SecretUrl, Sources};
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
