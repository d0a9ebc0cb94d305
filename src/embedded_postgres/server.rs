//! The server's process: started so that it ends with us, stopped, and taken over when it is left from before.

use std::{
    fs,
    io::Read,
    path::Path,
    process::{Child, ChildStdin, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};

use super::{EmbeddedError, READY, cluster::Cluster, io_error};

/// Runs the server and waits for it; stops it in good order when the pipe on its input closes, which happens when
/// OmniLink ends, in whatever way.
const GUARD: &str = r#"
exec 3<&0 </dev/null
"$@" 3<&- &
server=$!
{ read -r _ <&3; kill -INT "$server"; } 2>/dev/null &
guard=$!
exec 3<&-
wait "$server"
status=$?
kill "$guard" 2>/dev/null
exit "$status"
"#;

/// Our end of the pipe: the server stops when it is dropped.
#[derive(Debug)]
pub(super) struct Lifeline {
    _pipe: ChildStdin,
}

/// Starts the server and waits until it answers.
pub(super) fn start(cluster: &Cluster) -> Result<(Child, Lifeline), EmbeddedError> {
    let deadline = Instant::now() + READY;
    loop {
        end_leftover(cluster, super::STOP);
        let (mut child, lifeline) = spawn(cluster)?;
        if wait_until_ready(cluster, &mut child, deadline)? {
            return Ok((child, lifeline));
        }
        let words = cluster.last_words();
        // Children of a killed server need moments to notice, and hold its shared memory until then.
        let passing = words.contains("shared memory block") || words.contains("postmaster.pid");
        if !passing || Instant::now() > deadline {
            return Err(EmbeddedError::Failed {
                program: "postgres",
                words,
            });
        }
        thread::sleep(Duration::from_millis(100));
    }
}

fn spawn(cluster: &Cluster) -> Result<(Child, Lifeline), EmbeddedError> {
    let log = cluster
        .log()
        .map_err(io_error("opening the log of Postgres"))?;
    let errors = log
        .try_clone()
        .map_err(io_error("opening the log of Postgres"))?;
    let sockets = cluster.socket_dir.as_deref().unwrap_or(Path::new(""));
    let mut child = cluster
        .command("/bin/sh")
        .args(["-c", GUARD, "postgres-guard"])
        .arg(cluster.binaries.program("postgres"))
        .arg("-D")
        .arg(cluster.data())
        .args([
            "-p",
            &cluster.port.to_string(),
            "-c",
            "listen_addresses=127.0.0.1",
            "-c",
        ])
        .arg(format!("unix_socket_directories={}", quoted(sockets)))
        .stdin(Stdio::piped())
        .stdout(log)
        .stderr(errors)
        .spawn()
        .map_err(io_error("starting Postgres"))?;
    match child.stdin.take() {
        Some(pipe) => Ok((child, Lifeline { _pipe: pipe })),
        None => Err(io_error("starting Postgres")(std::io::Error::other(
            "it has no input",
        ))),
    }
}

/// A folder as an element of a list setting.
fn quoted(folder: &Path) -> String {
    if folder.as_os_str().is_empty() {
        return String::new();
    }
    format!("\"{}\"", folder.display().to_string().replace('"', "\"\""))
}

/// True once it answers, false when it ended first.
fn wait_until_ready(
    cluster: &Cluster,
    child: &mut Child,
    deadline: Instant,
) -> Result<bool, EmbeddedError> {
    loop {
        // The eighth line of the pid file is the state; the file is written anew by each start, after the old was removed.
        let ready = fs::read_to_string(cluster.data().join("postmaster.pid")).is_ok_and(|text| {
            text.lines()
                .nth(7)
                .is_some_and(|state| state.trim() == "ready")
        });
        if ready {
            return Ok(true);
        }
        if child
            .try_wait()
            .map_err(io_error("waiting for Postgres"))?
            .is_some()
        {
            return Ok(false);
        }
        if Instant::now() > deadline {
            return Err(EmbeddedError::Failed {
                program: "postgres",
                words: format!(
                    "it does not answer after {} s\n{}",
                    READY.as_secs(),
                    cluster.last_words()
                ),
            });
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// Ends a server that runs on these files, whose lock we hold: one that a killed process left. It may be stopping by itself
/// already; after `patience` it is killed. Returns when it is gone and its pid file with it.
pub(super) fn end_leftover(cluster: &Cluster, patience: Duration) {
    let file = cluster.data().join("postmaster.pid");
    let Some(pid) = fs::read_to_string(&file)
        .ok()
        .and_then(|text| text.lines().next()?.trim().parse().ok())
        .and_then(Pid::from_raw)
    else {
        return;
    };
    if !is_server(pid, &cluster.data()) {
        // The id of a dead server may be another process's by now; Postgres would refuse to start.
        let _ = fs::remove_file(&file);
        return;
    }
    tracing::info!(
        pid = pid.as_raw_nonzero().get(),
        "taking over a Postgres that was left running"
    );
    // Fast shutdown, then the immediate one, then the end.
    let steps = [
        (Signal::INT, patience),
        (Signal::QUIT, Duration::from_secs(3)),
        (Signal::KILL, Duration::from_secs(5)),
    ];
    for (signal, wait) in steps {
        // It may be gone already.
        let _ = kill_process(pid, signal);
        let deadline = Instant::now() + wait;
        while Instant::now() < deadline {
            if !is_server(pid, &cluster.data()) {
                let _ = fs::remove_file(&file);
                return;
            }
            thread::sleep(Duration::from_millis(10));
        }
    }
}

/// Whether a process lives and is a server on these files. One that has ended and that nobody has collected does not live.
fn is_server(pid: Pid, data: &Path) -> bool {
    if test_kill_process(pid).is_err() {
        return false;
    }
    let process = Path::new("/proc").join(pid.as_raw_nonzero().to_string());
    if !Path::new("/proc/self").exists() {
        // Not Linux: no way to look closer.
        return true;
    }
    let mut command = Vec::new();
    // Unreadable or empty (a zombie's is): not a server.
    let _ = fs::File::open(process.join("cmdline")).and_then(|mut f| f.read_to_end(&mut command));
    let data = data.as_os_str().as_encoded_bytes();
    command.split(|b| *b == 0).any(|argument| argument == data)
}
