//! The server process: started so that it ends when OmniLink does, whatever ends OmniLink.

use std::{
    fs,
    path::Path,
    process::{Child, ChildStdin, Stdio},
    thread,
    time::{Duration, Instant},
};

use super::{EmbeddedError, READY_TIMEOUT, cluster::Cluster, io_error, leftover::end_leftover};

/// A shell script that runs the server, and shuts it down when the pipe on standard input closes. The kernel closes the pipe when
/// OmniLink ends, even by `SIGKILL`.
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

/// The write end of the pipe. Dropping it shuts the server down.
#[derive(Debug)]
pub(super) struct Lifeline {
    _pipe: ChildStdin,
}

/// Starts the server and waits until it accepts connections.
pub(super) fn start(cluster: &Cluster) -> Result<(Child, Lifeline), EmbeddedError> {
    let deadline = Instant::now() + READY_TIMEOUT;
    loop {
        end_leftover(&cluster.data(), super::STOP_TIMEOUT);
        let (mut child, lifeline) = spawn(cluster)?;
        if wait_until_ready(cluster, &mut child, deadline)? {
            return Ok((child, lifeline));
        }
        let output = cluster.log_tail();
        // Child processes of a killed server take a moment to exit, and hold its shared memory until then.
        let is_transient =
            output.contains("shared memory block") || output.contains("postmaster.pid");
        if !is_transient || Instant::now() > deadline {
            return Err(EmbeddedError::Failed {
                program: "postgres",
                output,
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
            "the process has no standard input",
        ))),
    }
}

/// A directory, quoted as an element of a list setting.
fn quoted(directory: &Path) -> String {
    if directory.as_os_str().is_empty() {
        return String::new();
    }
    format!(
        "\"{}\"",
        directory.display().to_string().replace('"', "\"\"")
    )
}

/// Returns true once the server accepts connections, false if it ended first.
fn wait_until_ready(
    cluster: &Cluster,
    child: &mut Child,
    deadline: Instant,
) -> Result<bool, EmbeddedError> {
    loop {
        // The eighth line of the pid file is the server's state. `end_leftover` has removed the file of an earlier server.
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
                output: format!(
                    "it is not ready after {} s\n{}",
                    READY_TIMEOUT.as_secs(),
                    cluster.log_tail()
                ),
            });
        }
        thread::sleep(Duration::from_millis(5));
    }
}
