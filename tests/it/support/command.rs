//! The binary as tests run it.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::Path,
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// The `omnilink` binary, run in `dir` without the settings of the environment.
pub fn omnilink(dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_omnilink"));
    command.current_dir(dir).args(args).env_remove("RUST_LOG");
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("OMNILINK") {
            command.env_remove(name);
        }
    }
    command
}

/// Runs a command; returns its exit code, standard output and standard error.
pub fn output(command: &mut Command) -> (i32, String, String) {
    let Output {
        status,
        stdout,
        stderr,
    } = command.stdin(Stdio::null()).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (status.code().unwrap(), text(stdout), text(stderr))
}

/// A temporary folder. As root, the embedded Postgres puts its data elsewhere and links to it: that is removed as well.
pub struct Folder(TempDir);

impl Folder {
    pub fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Ok(elsewhere) = std::fs::read_link(self.path().join("data/postgres")) {
            let _ = std::fs::remove_dir_all(elsewhere);
        }
    }
}

/// A running `omnilink up`.
pub struct Up {
    pub child: Child,
    pub url: String,
    pub banner: String,
}

impl Up {
    pub fn start(dir: &Path) -> Self {
        Self::start_with(dir, &[])
    }

    pub fn start_with(dir: &Path, more: &[&str]) -> Self {
        Self::start_env(dir, more, &[])
    }

    pub fn start_env(dir: &Path, more: &[&str], env: &[(&str, &str)]) -> Self {
        let mut child = omnilink(
            dir,
            &["up", "--listen", "127.0.0.1:0", "--data-dir", "data"],
        )
        .args(more)
        .envs(env.iter().copied())
        .stdout(Stdio::piped())
        .stderr(std::fs::File::create(dir.join("up.err")).unwrap())
        .spawn()
        .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut banner = String::new();
        while !banner.contains("/metrics") {
            let line = lines
                .next()
                .unwrap_or_else(|| panic!("{}", errors(dir)))
                .unwrap();
            banner.push_str(&line);
            banner.push('\n');
        }
        let at = banner.find("listens on ").unwrap() + "listens on ".len();
        let url = banner[at..].split_whitespace().next().unwrap().to_owned();
        Self { child, url, banner }
    }

    pub fn signal(&self) {
        self.send(Signal::TERM);
    }

    pub fn send(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Stops a node of this folder, which must end well, and have reported no error.
    pub async fn stop_well(self, folder: &Path) {
        let code = tokio::task::spawn_blocking(move || self.stop()).await;
        assert_eq!(code.unwrap(), 0);
        let errors = std::fs::read_to_string(folder.join("up.err")).unwrap();
        assert!(!errors.contains("ERROR"), "{errors}");
    }

    pub fn stop(mut self) -> i32 {
        self.signal();
        let began = Instant::now();
        let status = self.child.wait().unwrap();
        assert!(began.elapsed() < Duration::from_secs(10));
        status.code().unwrap()
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends a GET request; returns the whole response as text.
pub fn get(url: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(url.trim_start_matches("http://")).unwrap();
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: omnilink\r\nConnection: close\r\n\r\n"
    )
    .unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).unwrap();
    response
}

/// What a node that [`Up`] started in `dir` wrote to standard error.
pub fn errors(dir: &Path) -> String {
    std::fs::read_to_string(dir.join("up.err")).unwrap()
}
