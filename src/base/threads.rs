//! Waiting for threads, with a deadline.

use std::{
    thread::JoinHandle,
    time::{Duration, Instant},
};

/// How long a thread that was asked to stop may take. Longer than any call of a log or of Postgres is waited for.
const STOP_LIMIT: Duration = Duration::from_secs(45);
const POLL: Duration = Duration::from_millis(1);

/// Waits until a thread that was asked to stop has ended. A thread that has not ended after 45 s is logged and left behind, so
/// that a call that never returns cannot hold up a shutdown.
pub(crate) fn join(thread: JoinHandle<()>) {
    join_within(thread, STOP_LIMIT);
}

/// Waits until a thread has ended, for `limit` at most; then it is logged and left behind. Returns whether it ended.
pub(crate) fn join_within(thread: JoinHandle<()>, limit: Duration) -> bool {
    let deadline = Instant::now() + limit;
    while !thread.is_finished() {
        if Instant::now() >= deadline {
            let name = thread.thread().name().unwrap_or_default();
            tracing::error!(
                thread = name,
                ?limit,
                "a thread does not stop and is left behind"
            );
            return false;
        }
        std::thread::sleep(POLL);
    }
    // The panic hook has reported a panic.
    let _ = thread.join();
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_never_ends_is_left_behind() {
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || {
            let _ = stopped.recv();
        });
        assert!(!join_within(thread, Duration::from_millis(20)));
        drop(stop);
        assert!(join_within(std::thread::spawn(|| {}), STOP_LIMIT));
    }
}
