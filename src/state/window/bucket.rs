//! The hashes of a stretch of time: the recent ones in memory, the others in sorted runs on disk.

use std::sync::{
    Arc,
    mpsc::{Receiver, TryRecvError, sync_channel},
};

use bytes::Bytes;

use super::{
    ID, WindowOptions,
    group::{self, Group},
    rows::{BEGUN_RUN, HASHES, RUN, page_key, row_key},
    run::{self, Recent, Run, Sorted},
};
use crate::{
    base::id::Identity,
    state::{Changes, Probe, Space},
};

/// Transactions that may be under way at once: after so many more, what a transaction wrote can be read.
pub(super) const UNDER_WAY: usize = 64;

#[derive(Default)]
pub(super) struct Bucket {
    pub(super) recent: Recent,
    /// Sequences of the rows that `recent` came from.
    pub(super) rows: Vec<u64>,
    sealing: Option<Sealing>,
    pub(super) runs: Vec<Run>,
    /// Each for several runs.
    pub(super) groups: Vec<Arc<Group>>,
}

/// Hashes on their way from memory to a run.
struct Sealing {
    number: u64,
    /// Sequences of the rows that they came from.
    rows: Vec<u64>,
    step: Step,
}

enum Step {
    Sorting(Arc<Recent>, Receiver<Sorted>),
    /// The last of the bucket's runs, of which so many pages are written.
    Writing(usize),
    /// All is written; its pages stay in memory for so many more transactions.
    Settling(usize),
}

impl Bucket {
    /// Whether hashes are on their way to a run.
    pub(super) fn is_sealing(&self) -> bool {
        self.sealing.is_some()
    }

    /// The payload of a hash, if it is in memory. `on_disk` gets the runs and pages that may have it otherwise, newest first.
    pub(super) fn locate(
        &self,
        id: &Identity,
        probe: &Probe,
        payload: usize,
        mut on_disk: impl FnMut(u64, u32),
    ) -> Option<[u8; ID]> {
        if let Some(kept) = self.recent.get(id) {
            return Some(*kept);
        }
        if let Some(Step::Sorting(hashes, _)) = self.sealing.as_ref().map(|s| &s.step)
            && let Some(kept) = hashes.get(id)
        {
            return Some(*kept);
        }
        let groups = self.groups.iter().enumerate().rev();
        for (n, _) in groups.filter(|(_, group)| group.may_contain(probe)) {
            let runs = self.runs[group::runs(n, self.runs.len())].iter();
            for run in runs.rev().filter(|run| run.may_contain(probe)) {
                for page in run.pages_of(id) {
                    let Some(bytes) = run.pages.get(page) else {
                        on_disk(run.number, page as u32);
                        continue;
                    };
                    if let Some(kept) = run::find(bytes, id, payload) {
                        return Some(kept);
                    }
                }
            }
        }
        None
    }

    /// Begins to rewrite the recent hashes as the sorted run `number`; `here`: and sorts them on this thread.
    pub(super) fn seal(&mut self, number: u64, options: &WindowOptions, here: bool) {
        // What `load` reads back is committed before anyone looks.
        self.settle(UNDER_WAY);
        let groups = self.groups.len();
        if self.runs.len() == group::first(groups) {
            self.groups.push(Group::new(groups, options.seal_at));
        }
        let hashes = Arc::new(std::mem::take(&mut self.recent));
        let payload = options.payload;
        let (give, sorted) = sync_channel(1);
        let job = {
            let (hashes, group) = (Arc::clone(&hashes), self.groups.last().cloned());
            // Nobody waits for it any more when the window is gone.
            move || drop(give.send(Sorted::of(&hashes, payload, group.as_deref())))
        };
        self.sealing = Some(Sealing {
            number,
            rows: std::mem::take(&mut self.rows),
            step: Step::Sorting(hashes, sorted),
        });
        if here {
            job();
        } else if let Err(error) = std::thread::Builder::new()
            .name("window-sort".into())
            .spawn(job)
        {
            // The job went with it: it is begun again below.
            tracing::warn!(%error, "no thread to sort a window's hashes: it is done here");
        }
        self.take_sorted(payload, here);
    }

    /// Takes the sorted run in, if it is there, or once it is.
    pub(super) fn take_sorted(&mut self, payload: usize, wait: bool) {
        let Some(sealing) = &mut self.sealing else {
            return;
        };
        let Step::Sorting(hashes, sorted) = &sealing.step else {
            return;
        };
        let sort = || Sorted::of(hashes, payload, self.groups.last().map(|group| &**group));
        let sorted = match sorted.try_recv() {
            Ok(sorted) => sorted,
            Err(TryRecvError::Empty) if !wait => return,
            // The thread is gone, or was never there.
            Err(TryRecvError::Disconnected) => sort(),
            Err(TryRecvError::Empty) => sorted.recv().unwrap_or_else(|_| sort()),
        };
        sealing.step = Step::Writing(0);
        self.runs.push(Run::new(sealing.number, sorted));
    }

    /// Writes up to `most` pages of the run that is under way, and, when that was the last, what makes it whole. `number` is the
    /// bucket's.
    pub(super) fn write(&mut self, number: u32, most: usize, space: &Space, changes: &mut Changes) {
        let (Some(sealing), Some(run)) = (&mut self.sealing, self.runs.last()) else {
            return;
        };
        let Step::Writing(done) = &mut sealing.step else {
            return;
        };
        let begun = row_key(BEGUN_RUN, number, run.number);
        if *done == 0 {
            let pages = Bytes::copy_from_slice(&(run.pages.len() as u32).to_be_bytes());
            changes.upkeep(space, begun.clone(), Some(pages));
        }
        let upto = run.pages.len().min(done.saturating_add(most));
        for (page, bytes) in run.pages[*done..upto].iter().enumerate() {
            let key = page_key(number, run.number, (*done + page) as u32);
            changes.upkeep(space, key, Some(bytes.clone()));
        }
        *done = upto;
        if upto < run.pages.len() {
            return;
        }
        let head = row_key(RUN, number, run.number);
        changes.upkeep(space, head, Some(run.head()));
        changes.upkeep(space, begun, None);
        for sequence in &sealing.rows {
            changes.upkeep(space, row_key(HASHES, number, *sequence), None);
        }
        sealing.rows = Vec::new();
        sealing.step = Step::Settling(UNDER_WAY);
    }

    /// Lets go of the newest run's pages when `transactions` more are enough: from then on the store is read.
    pub(super) fn settle(&mut self, transactions: usize) {
        let Some(Sealing {
            step: Step::Settling(left),
            ..
        }) = &mut self.sealing
        else {
            return;
        };
        *left = left.saturating_sub(transactions);
        if *left == 0 {
            self.sealing = None;
            if let Some(run) = self.runs.last_mut() {
                run.pages = Vec::new();
            }
        }
    }

    /// Removes its rows from this node, those of new hashes from the changelog as well where `logged` says so.
    pub(super) fn remove(self, number: u32, logged: bool, space: &Space, changes: &mut Changes) {
        let sealing = self.sealing.into_iter();
        let rows = sealing.flat_map(|sealing| {
            changes.upkeep(space, row_key(BEGUN_RUN, number, sealing.number), None);
            sealing.rows
        });
        let rows: Vec<u64> = rows.chain(self.rows).collect();
        for sequence in rows {
            let key = row_key(HASHES, number, sequence);
            if logged {
                changes.delete(space, key);
            } else {
                changes.upkeep(space, key, None);
            }
        }
        for run in self.runs {
            changes.upkeep(space, row_key(RUN, number, run.number), None);
            for page in 0..run.fences.len() {
                let key = page_key(number, run.number, page as u32);
                changes.upkeep(space, key, None);
            }
        }
    }
}
