//! The thread that reads `controls`.
//!
//! A read is complete when all records below the high watermark that the partition had when the read began are applied: the
//! reader's position is past it, or the reader reported the end of the partition after that. A poll without records proves
//! nothing, because the broker may be slow.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use super::{Controls, upkeep::Upkeep};
use crate::{
    base::threads,
    log::{FollowedTopic, LogError, Reader, ThreadError, Unavailable},
};

/// Longest wait of a poll for records.
const POLL_WAIT: Duration = Duration::from_millis(250);
/// Pause before a failed reader is replaced.
const PAUSE: Duration = Duration::from_millis(500);
/// A reader that gets no record for this long before the end, and does not report the end, is replaced.
const READ_TIMEOUT: Duration = Duration::from_secs(30);

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
            threads::join(thread);
        }
    }
}

fn run(controls: &Controls, stop: &AtomicBool) {
    let mut upkeep = Upkeep::default();
    let mut topic = FollowedTopic::new("controls", &controls.topic);
    while !stop.load(Ordering::Relaxed) {
        if let Err(error) = follow(controls, (&mut upkeep, &mut topic), stop) {
            tracing::warn!(%error, "`controls` cannot be read; trying again");
            std::thread::sleep(PAUSE);
        }
    }
}

/// Reads the topic to its end.
pub(super) fn read_once(controls: &Controls) -> Result<(), LogError> {
    let mut reader = controls.log.reader_uncommitted(&controls.topic)?;
    reader.assign(0, 0)?;
    let end = controls.log.high_watermark(&controls.topic, 0)?;
    read_to(controls, reader.as_mut(), end, &AtomicBool::new(false)).map(drop)
}

/// Reads from the node's position on, until an error or `stop`, or until all that was read is forgotten.
fn follow(
    controls: &Controls,
    (upkeep, topic): (&mut Upkeep, &mut FollowedTopic),
    stop: &AtomicBool,
) -> Result<(), LogError> {
    let mut reader = controls.log.reader_uncommitted(&controls.topic)?;
    reader.assign(0, *controls.read.borrow())?;
    while !stop.load(Ordering::Relaxed) {
        let began = controls.elapsed();
        if topic.is_recreated(&*controls.log)? {
            forget(controls, upkeep);
            return Ok(());
        }
        // A poll without records does not show whether the log can be reached; reading the high watermark does.
        let end = controls.log.high_watermark(&controls.topic, 0)?;
        let read = *controls.read.borrow();
        if end < read {
            tracing::error!(
                end,
                read,
                "`controls` is shorter than what was read of it: it was recreated or truncated, and is read from its start"
            );
            forget(controls, upkeep);
            return Ok(());
        }
        if read_to(controls, reader.as_mut(), end, stop)? {
            // Before the heartbeat allows changes: the upgrade of a topic comes before new records.
            upkeep.run(controls);
            // 0 means that no read has completed.
            controls.heartbeat.store(began.max(1), Ordering::Relaxed);
        }
    }
    Ok(())
}

/// Forgets all that was read: the next reader begins at the start.
fn forget(controls: &Controls, upkeep: &mut Upkeep) {
    controls.reset();
    *upkeep = Upkeep::default();
}

/// Reads up to `end`. Returns false if it was stopped before.
fn read_to(
    controls: &Controls,
    reader: &mut dyn Reader,
    mut end: u64,
    stop: &AtomicBool,
) -> Result<bool, LogError> {
    let mut records = Vec::new();
    let mut last_record = Instant::now();
    let mut rechecked = false;
    while !stop.load(Ordering::Relaxed) {
        reader.poll(POLL_WAIT, &mut records)?;
        if !records.is_empty() {
            last_record = Instant::now();
        }
        controls.apply(&records);
        records.clear();
        let read = *controls.read.borrow();
        if read >= end {
            return Ok(true);
        }
        if reader.at_end(0) {
            if rechecked {
                // Compaction has removed all records between here and the end.
                controls.read.send_replace(end);
                return Ok(true);
            }
            // The reader may have reported an end before `end`: it has to report it again.
            rechecked = true;
            end = end.max(controls.log.high_watermark(&controls.topic, 0)?);
            reader.assign(0, read)?;
        } else if last_record.elapsed() > READ_TIMEOUT {
            return Err(LogError::Unavailable(Unavailable::NoRecord {
                of: format!("`{}`/0 from offset {read} to {end}", controls.topic),
                within: READ_TIMEOUT,
            }));
        }
    }
    Ok(false)
}
