//! Zeros ahead of the store's journal, so that a sync has only data to write.
//!
//! The store makes a journal as a file of 64 MiB without blocks. A sync after a write into it waits until the file system has
//! recorded the new blocks too: on ext4 0.20 ms in place of 0.14 for 15 KB (`docs/decisions/0001-embedded-store.md`). Zeros are
//! therefore written ahead of the store, a few hundred kilobytes at a time; the next sync writes them with its data.
//!
//! Zeros go only where the file has no blocks, which reads as zeros anyway, and only while no commit is under way: the content of a
//! file never changes. A journal that is continued after a start has no such part, because the store cuts it to what is written and
//! appends.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use parking_lot::{Mutex, RwLock, RwLockReadGuard};
use rustix::fs::{SeekFrom, seek};

use super::journal::newest;

/// How much is written at a time, in bytes. With more, commits that wait for it take longer; with less, there are more of them.
const AHEAD: usize = 256 << 10;
static ZEROS: [u8; AHEAD] = [0; AHEAD];

pub(super) struct Ahead {
    dir: PathBuf,
    /// Held shared by each commit, and exclusively while zeros are written.
    commits: RwLock<()>,
    journal: Mutex<Journal>,
}

#[derive(Default)]
struct Journal {
    newest: Option<(PathBuf, File)>,
    /// About how many bytes may be committed before zeros are written again.
    left: usize,
}

impl Ahead {
    pub(super) fn new(dir: &Path) -> Self {
        Self {
            dir: dir.to_owned(),
            commits: RwLock::default(),
            journal: Mutex::default(),
        }
    }

    /// To be held during every commit.
    pub(super) fn committing(&self) -> RwLockReadGuard<'_, ()> {
        self.commits.read()
    }

    /// Makes room for a commit of about `bytes`, which is to be synced. The estimate only decides when, never where.
    pub(super) fn make_room(&self, bytes: usize) {
        let mut journal = self.journal.lock();
        if let Some(left) = journal.left.checked_sub(bytes) {
            journal.left = left;
            return;
        }
        journal.left = AHEAD;
        let _alone = self.commits.write();
        if let Err(error) = journal.write_zeros(&self.dir) {
            // Commits are slower without. What is wrong with the disk, they say themselves.
            tracing::debug!(%error, "no zeros were written ahead of the journal");
        }
    }
}

impl Journal {
    fn write_zeros(&mut self, dir: &Path) -> io::Result<()> {
        let Some(path) = newest(dir)? else {
            return Ok(());
        };
        if self.newest.as_ref().is_none_or(|(known, _)| *known != path) {
            let file = OpenOptions::new().write(true).open(&path)?;
            self.newest = Some((path, file));
        }
        let Some((_, file)) = &self.newest else {
            return Ok(());
        };
        let length = file.metadata()?.len();
        let hole = seek(file, SeekFrom::Hole(0))?;
        let count = length.saturating_sub(hole).min(AHEAD as u64) as usize;
        file.write_all_at(&ZEROS[..count], hole)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;
    use crate::state::{Changes, Space, StateStore, disk::DiskStore};

    fn space(thread: u32) -> Space {
        Space::new("t", thread)
    }

    fn batch(store: &DiskStore, thread: u32, n: usize, bytes: usize) -> fjall::OwnedWriteBatch {
        let mut changes = Changes::default();
        changes.put(&space(thread), format!("k{n:06}"), vec![n as u8 | 1; bytes]);
        let mut batch = store.database.batch();
        store.stage(&mut batch, &changes);
        batch
    }

    /// Commits `count` values, each synced, beside a thread that commits others without a sync; returns how many those were.
    fn commit(store: &DiskStore, from: usize, count: usize, bytes: usize) -> usize {
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let unsynced = scope.spawn(|| {
                let mut n = 0;
                while !stop.load(Ordering::Relaxed) {
                    store.commit(batch(store, 1, from + n, 100)).unwrap();
                    n += 1;
                    std::thread::yield_now();
                }
                n
            });
            for n in from..from + count {
                let batch = batch(store, 0, n, bytes);
                // An estimate that is much too low: zeros are written late, and nowhere else.
                store.commit_synced(batch, bytes / 3).unwrap();
            }
            stop.store(true, Ordering::Relaxed);
            unsynced.join().unwrap()
        })
    }

    fn assert_whole(dir: &Path, thread: u32, numbers: impl Iterator<Item = usize>, bytes: usize) {
        let store = StateStore::open(dir).unwrap();
        for n in numbers {
            let key = format!("k{n:06}");
            let value = store.get(&space(thread), key.as_bytes()).unwrap();
            assert_eq!(value.as_deref(), Some(&vec![n as u8 | 1; bytes][..]), "{n}");
        }
    }

    #[test]
    fn zeros_are_written_ahead_of_the_newest_journal() {
        let dir = tempfile::tempdir().unwrap();
        let store = DiskStore::open(dir.path()).unwrap();
        store.commit_synced(batch(&store, 0, 0, 100), 100).unwrap();
        let path = newest(dir.path()).unwrap().unwrap();
        let file = File::open(&path).unwrap();
        assert_eq!(seek(&file, SeekFrom::Hole(0)).unwrap(), AHEAD as u64);
        for n in 1..40 {
            let batch = batch(&store, 0, n, 10_000);
            store.commit_synced(batch, 10_000).unwrap();
        }
        assert_eq!(seek(&file, SeekFrom::Hole(0)).unwrap(), 2 * AHEAD as u64);
    }

    #[test]
    fn values_are_whole_after_starts_and_in_several_journals() {
        let dir = tempfile::tempdir().unwrap();
        let (bytes, count) = (20_000, 4_000);
        let store = DiskStore::open(dir.path()).unwrap();
        let journal = newest(dir.path()).unwrap();
        assert!(journal.is_some());
        let first = commit(&store, 0, count, bytes);
        assert_ne!(newest(dir.path()).unwrap(), journal, "there is another one");
        drop(store);
        assert_whole(dir.path(), 0, 0..count, bytes);
        assert_whole(dir.path(), 1, 0..first, 100);
        // The journal is continued at its end.
        let store = DiskStore::open(dir.path()).unwrap();
        let second = commit(&store, count, 100, bytes);
        drop(store);
        assert_whole(dir.path(), 0, 0..count + 100, bytes);
        assert_whole(dir.path(), 1, count..count + second, 100);
    }
}
