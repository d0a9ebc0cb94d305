//! Servers that a killed process left running.

use std::{
    fs,
    io::Read,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};

/// Ends a server that runs on these files, whose lock we hold: one that a killed process left. It may be stopping by itself
/// already; after `patience` it is killed. Returns when it is gone and its pid file with it.
pub(super) fn end_leftover(data: &Path, patience: Duration) {
    let file = data.join("postmaster.pid");
    let Some(pid) = fs::read_to_string(&file)
        .ok()
        .and_then(|text| text.lines().next()?.trim().parse().ok())
        .and_then(Pid::from_raw)
    else {
        return;
    };
    if !is_server(pid, data) {
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
            if !is_server(pid, data) {
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
