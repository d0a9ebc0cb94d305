//! Stopping a server that an earlier, killed process left running.

use std::{
    fs,
    io::Read,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};

/// Stops a server that still runs on the data directory `data`, and removes its pid file. The caller holds the lock of the directory,
/// so the server must be a leftover, which may already be stopping. If a fast shutdown takes longer than `timeout`, the server is
/// killed. Does nothing if no server runs.
pub(super) fn end_leftover(data: &Path, timeout: Duration) {
    let file = data.join("postmaster.pid");
    let Some(pid) = fs::read_to_string(&file)
        .ok()
        .and_then(|text| text.lines().next()?.trim().parse().ok())
        .and_then(Pid::from_raw)
    else {
        return;
    };
    if !is_server(pid, data) {
        // The pid of the dead server may have been reused by another process, and then Postgres would refuse to start.
        let _ = fs::remove_file(&file);
        return;
    }
    tracing::info!(
        pid = pid.as_raw_nonzero().get(),
        "stopping an embedded Postgres that was left running"
    );
    // Postgres's fast shutdown, then its immediate shutdown, then a kill.
    let steps = [
        (Signal::INT, timeout),
        (Signal::QUIT, Duration::from_secs(3)),
        (Signal::KILL, Duration::from_secs(5)),
    ];
    for (signal, wait) in steps {
        // The process may already have ended.
        let _ = kill_process(pid, signal);
        let deadline = Instant::now() + wait;
        while Instant::now() < deadline {
            if !is_server(pid, data) {
                let _ = fs::remove_file(&file);
                return;
            }
            thread::sleep(Duration::from_millis(10));
        }
    }
}

/// Whether the process is alive and is a server on the data directory. A zombie is not alive.
fn is_server(pid: Pid, data: &Path) -> bool {
    if test_kill_process(pid).is_err() {
        return false;
    }
    let process = Path::new("/proc").join(pid.as_raw_nonzero().to_string());
    if !Path::new("/proc/self").exists() {
        // Not Linux: the command line cannot be checked.
        return true;
    }
    let mut command = Vec::new();
    // A zombie's command line is empty, so it is not a server; neither is a process whose command line cannot be read.
    let _ = fs::File::open(process.join("cmdline")).and_then(|mut f| f.read_to_end(&mut command));
    let data = data.as_os_str().as_encoded_bytes();
    command.split(|b| *b == 0).any(|argument| argument == data)
}
