//! The server's process: started so that it ends with us, stopped, and taken over when it is left from before.

use std::{
    fs,
    path::Path,
    process::{Child, ChildStdin, Stdio},
    thread,
    time::{Duration, Instant},
};

use super::{EmbeddedError, READY, cluster::Cluster, io_error, leftover::end_leftover};

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
        end_leftover(&cluster.data(), super::STOP);
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
