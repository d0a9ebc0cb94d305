//! The only thread that writes: it commits everything that is pending in one synced, atomic batch, and then wakes the waiting callers.

use std::time::{Duration, Instant};

use super::{Shared, catalogue::batch_key, sequencer::Commit};
use crate::{
    chaos::{Bug, pause, planted},
    log::LogError,
};

/// How often the free space is measured while there is something to write.
const DISK_INTERVAL: Duration = Duration::from_millis(100);
/// What the store's journal adds to a key and its value, in bytes.
const ITEM_BYTES: usize = 24;

pub(super) fn run(shared: &Shared) {
    let mut measured = Instant::now();
    loop {
        let commit = {
            let mut sequencer = shared.sequencer.lock();
            while sequencer.idle() {
                // While the disk is full, appends are refused, so nothing else would measure its free space again.
                shared
                    .gathered
                    .wait_for(&mut sequencer, Duration::from_secs(1));
                if shared.full.load(std::sync::atomic::Ordering::Relaxed) {
                    shared.measure_disk();
                }
            }
            match sequencer.take() {
                Some(commit) => commit,
                None => return,
            }
        };
        if measured.elapsed() > DISK_INTERVAL {
            shared.measure_disk();
            measured = Instant::now();
        }
        if planted(Bug::AnswerBeforeDurable) {
            pause();
        }
        match write(shared, &commit) {
            Ok(()) => {
                shared.sequencer.lock().durable_now(&commit);
                for (answer, positions) in commit.pending.waiters {
                    // The caller may have stopped waiting.
                    let _ = answer.send(Ok(positions));
                }
            }
            Err(error) => {
                // It is unknown what was written. Nothing more is accepted; the process ends, and the next start recovers.
                tracing::error!(%error, "the log cannot be written");
                let mut sequencer = shared.sequencer.lock();
                sequencer.fail(&error);
                let rest = sequencer.take();
                drop(sequencer);
                let waiters = commit.pending.waiters.into_iter();
                for (answer, _) in waiters.chain(rest.into_iter().flat_map(|c| c.pending.waiters)) {
                    let _ = answer.send(Err(error.clone()));
                }
                return;
            }
        }
    }
}

fn write(shared: &Shared, commit: &Commit) -> Result<(), LogError> {
    let mut batch = shared.store.database.batch();
    let mut bytes = 0;
    for (slot, records) in &commit.batches {
        let key = batch_key(*slot, records.base);
        let stored = records.stored();
        bytes += key.len() + stored.len();
        batch.insert(&shared.batches, key, stored);
    }
    for changes in &commit.pending.state {
        bytes += changes.bytes();
        shared.store.stage(&mut batch, changes);
    }
    for (row, value) in &commit.pending.positions {
        bytes += row.len() + value.len();
        batch.insert(&shared.store.meta, row.as_slice(), value.as_slice());
    }
    bytes += batch.len() * ITEM_BYTES;
    Ok(shared.store.commit_synced(batch, bytes)?)
}
