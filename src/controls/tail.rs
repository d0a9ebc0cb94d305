//! The thread that reads `controls`.
//!
//! A read is complete when everything below the end that the partition had when the read began has been taken in: the reader
//! came past that end, or met the partition's end after that. Silence says nothing: a slow broker is silent, too.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use super::{Controls, upkeep::Upkeep};
use crate::log::{LogError, Reader, ThreadError, Unavailable};

/// How long a read waits for records; records that come end it at once.
const WAIT: Duration = Duration::from_millis(250);
/// Pause before a reader that failed is built again.
const PAUSE: Duration = Duration::from_millis(500);
/// A reader that stops short of the end for so long, and does not say that it met it, is built again.
const SILENCE: Duration = Duration::from_secs(30);

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
            .map_err(|e| ThreadError::new("controls", e))?;
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
    let mut upkeep = Upkeep::default();
    while !stop.load(Ordering::Relaxed) {
        if let Err(error) = follow(controls, &mut upkeep, stop) {
            tracing::warn!(%error, "`controls` cannot be read; trying again");
            std::thread::sleep(PAUSE);
        }
    }
}

/// Reads on from where this node is, until an error or the end of the process.
fn follow(controls: &Controls, upkeep: &mut Upkeep, stop: &AtomicBool) -> Result<(), LogError> {
    let mut reader = controls.log.reader_uncommitted(&controls.topic)?;
    reader.assign(0, *controls.read.borrow())?;
    while !stop.load(Ordering::Relaxed) {
        // A wait without records says nothing about whether the log can be reached; its end does.
        let began = controls.elapsed();
        let end = controls.log.high_watermark(&controls.topic, 0)?;
        let read = *controls.read.borrow();
        if end < read {
            tracing::error!(
                end,
                read,
                "`controls` is shorter than what was read of it: it was made anew or cut off, and is read from its start"
            );
            controls.forget();
            *upkeep = Upkeep::default();
            reader.assign(0, 0)?;
        }
        if read_to(controls, reader.as_mut(), end, stop)? {
            // Before anyone may write: what upgrades a topic comes before what is new on it.
            upkeep.run(controls);
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
    mut end: u64,
    stop: &AtomicBool,
) -> Result<bool, LogError> {
    let mut records = Vec::new();
    let mut heard = Instant::now();
    let mut asked_again = false;
    while !stop.load(Ordering::Relaxed) {
        reader.poll(WAIT, &mut records)?;
        if !records.is_empty() {
            heard = Instant::now();
        }
        controls.apply(&records);
        records.clear();
        let read = *controls.read.borrow();
        if read >= end {
            return Ok(true);
        }
        if reader.at_end(0) {
            if asked_again {
                // Compaction has left nothing between here and the end.
                controls.read.send_replace(end);
                return Ok(true);
            }
            // It may have met the end before `end` was that far: it has to meet it again.
            asked_again = true;
            end = end.max(controls.log.high_watermark(&controls.topic, 0)?);
            reader.assign(0, read)?;
        } else if heard.elapsed() > SILENCE {
            return Err(LogError::Unavailable(Unavailable::NoRecord {
                of: format!("`{}`/0 from offset {read} to {end}", controls.topic),
                within: SILENCE,
            }));
        }
    }
    Ok(false)
}
