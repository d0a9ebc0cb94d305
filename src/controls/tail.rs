//! The thread that reads `controls`.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use super::Controls;
use crate::log::{LogError, Reader};

/// How long a read waits for records; records that come end it at once.
const WAIT: Duration = Duration::from_millis(250);
/// Pause before a reader that failed is built again.
const PAUSE: Duration = Duration::from_millis(500);
/// A read that stops short of the end, with this many waits in a row empty, has met a gap: compaction or an aborted
/// transaction removed what was there.
const EMPTY_READS: u32 = 4;

/// The running thread. Dropping it stops it.
pub struct Tail {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Tail {
    pub(super) fn start(controls: Arc<Controls>) -> Result<Self, LogError> {
        let stop = Arc::new(AtomicBool::new(false));
        let thread = std::thread::Builder::new()
            .name("controls".into())
            .spawn({
                let stop = Arc::clone(&stop);
                move || run(&controls, &stop)
            })
            .map_err(|e| LogError::Fatal(format!("cannot start a thread: {e}")))?;
        Ok(Self {
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for Tail {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has said why.
            let _ = thread.join();
        }
    }
}

fn run(controls: &Controls, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        if let Err(error) = follow(controls, stop) {
            tracing::warn!(%error, "`controls` cannot be read; trying again");
            std::thread::sleep(PAUSE);
        }
    }
}

/// Reads on from where this node is, until an error or the end of the process.
fn follow(controls: &Controls, stop: &AtomicBool) -> Result<(), LogError> {
    let mut reader = controls.log.reader(&controls.topic)?;
    reader.assign(0, *controls.read.borrow())?;
    while !stop.load(Ordering::Relaxed) {
        // A wait without records says nothing about whether the log can be reached; its end does.
        let began = controls.elapsed();
        let end = controls.log.watermarks(&controls.topic, 0)?.end;
        if read_to(controls, reader.as_mut(), end, stop)? {
            // 0 means never.
            controls.heartbeat.store(began.max(1), Ordering::Relaxed);
        }
    }
    Ok(())
}

/// Reads up to `end` and then waits a little for more. False if it was stopped on the way.
fn read_to(
    controls: &Controls,
    reader: &mut dyn Reader,
    end: u64,
    stop: &AtomicBool,
) -> Result<bool, LogError> {
    let mut records = Vec::new();
    let mut empty = 0;
    while !stop.load(Ordering::Relaxed) {
        reader.poll(WAIT, &mut records)?;
        empty = if records.is_empty() { empty + 1 } else { 0 };
        controls.apply(&records);
        records.clear();
        if *controls.read.borrow() >= end || empty >= EMPTY_READS {
            return Ok(true);
        }
    }
    Ok(false)
}
