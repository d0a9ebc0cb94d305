//! The thread that checks the clock and starts what is due.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use parking_lot::Mutex;

use super::Cron;
use crate::{
    base::{backoff::Backoff, threads},
    controls::Controls,
    log::{LogError, ThreadError},
};

/// Time between two checks. Short, because the clock may be set and the files may be reloaded at any time.
const POLL_INTERVAL: Duration = Duration::from_millis(250);
/// Each node waits a random time up to this before it starts what is due, so that usually only one appends the start.
const JITTER_MAX: Duration = Duration::from_millis(400);
const BACKOFF: Backoff = Backoff {
    first: Duration::from_millis(500),
    max: Duration::from_secs(10),
};

/// The running thread. Dropping it stops it.
pub struct Running {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    /// The error of the last attempt to start what is due.
    trouble: Mutex<Option<String>>,
}

impl Cron {
    /// Starts the thread. While the kill switch is on it starts nothing; times that pass meanwhile count as missed, and
    /// `catch_up` applies to them.
    pub fn run(self, controls: Arc<Controls>) -> Result<Running, LogError> {
        let shared = Arc::<Shared>::default();
        let thread = std::thread::Builder::new()
            .name("cron".into())
            .spawn({
                let shared = Arc::clone(&shared);
                move || poll(self, &controls, &shared)
            })
            .map_err(|e| ThreadError::new("cron", e))?;
        Ok(Running {
            shared,
            thread: Some(thread),
        })
    }
}

impl Running {
    /// A function that returns the error of the last attempt to start what is due; `None` if it succeeded.
    pub fn trouble(&self) -> impl Fn() -> Option<String> + Send + Sync + 'static {
        let shared = Arc::clone(&self.shared);
        move || shared.trouble.lock().clone()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            threads::join(thread);
        }
    }
}

fn poll(mut cron: Cron, controls: &Controls, shared: &Shared) {
    let mut attempt = 0;
    while !shared.stop.load(Ordering::Relaxed) {
        let held = !controls.readable() || controls.kill_switch();
        if held || !cron.is_due() {
            std::thread::sleep(POLL_INTERVAL);
            continue;
        }
        std::thread::sleep(JITTER_MAX.mul_f64(rand::random()));
        match cron.start_due() {
            Ok(_) => {
                attempt = 0;
                *shared.trouble.lock() = None;
            }
            Err(error) => {
                tracing::warn!(%error, "workflows that are due were not started; trying again");
                *shared.trouble.lock() = Some(format!("retrying: {error}"));
                pause(BACKOFF.pause(attempt), &shared.stop);
                attempt += 1;
            }
        }
    }
}

/// Sleeps, but returns early if the thread is to stop.
fn pause(left: Duration, stop: &AtomicBool) {
    let mut left = left;
    while !left.is_zero() && !stop.load(Ordering::Relaxed) {
        let part = left.min(POLL_INTERVAL);
        std::thread::sleep(part);
        left -= part;
    }
}
