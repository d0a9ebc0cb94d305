//! Repairs the store's newest journal after a power loss.
//!
//! A write that was torn before it was synced, and so never acknowledged, makes the store refuse to open
//! (`docs/decisions/0001-embedded-store.md`). It is set aside in a file of its own. Damage with a whole batch behind it is not a torn
//! tail: that is left alone, and refused.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use xxhash_rust::xxh3::Xxh3;

/// What ends a batch (the journal's format, version 3).
const TRAILER: &[u8] = b"FJL\x03";
const START: u8 = 1;
const ITEM: u8 = 2;
const END: u8 = 3;
const CLEAR: u8 = 4;

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let taken = self.bytes.get(self.at..self.at.checked_add(length)?)?;
        self.at += length;
        Some(taken)
    }
}

/// The end of the batch that starts at `at`, if it is whole and its checksum is right.
fn batch(bytes: &[u8], at: usize) -> Option<usize> {
    let mut reader = Reader { bytes, at };
    if reader.take(1)? != [START] {
        return None;
    }
    let count = u32::from_le_bytes(reader.take(4)?.try_into().ok()?);
    reader.take(8)?;
    let mut checksum = Xxh3::new();
    for _ in 0..count {
        let tag = reader.take(1)?;
        checksum.update(tag);
        match tag[0] {
            ITEM => {
                let head = reader.take(20)?;
                checksum.update(head);
                let key = u16::from_le_bytes(head[10..12].try_into().ok()?) as usize;
                let value = u32::from_le_bytes(head[16..20].try_into().ok()?) as usize;
                checksum.update(reader.take(key + value)?);
            }
            CLEAR => checksum.update(reader.take(8)?),
            _ => return None,
        }
    }
    if reader.take(1)? != [END] {
        return None;
    }
    let sum = u64::from_le_bytes(reader.take(8)?.try_into().ok()?);
    (reader.take(4)? == TRAILER && sum == checksum.digest()).then_some(reader.at)
}

pub(super) fn newest(dir: &Path) -> io::Result<Option<PathBuf>> {
    let mut newest: Option<(u64, PathBuf)> = None;
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        entries => entries?,
    };
    for entry in entries {
        let path = entry?.path();
        let number = path
            .file_stem()
            .and_then(|s| s.to_str())
            .and_then(|s| s.parse().ok());
        if path.extension().is_some_and(|x| x == "jnl")
            && let Some(number) = number
            && newest.as_ref().is_none_or(|(n, _)| number > *n)
        {
            newest = Some((number, path));
        }
    }
    Ok(newest.map(|(_, path)| path))
}

/// Sets a torn last batch aside; says how many bytes it had.
pub(super) fn cut_torn_tail(dir: &Path) -> io::Result<Option<u64>> {
    let Some(path) = newest(dir)? else {
        return Ok(None);
    };
    let bytes = fs::read(&path)?;
    let mut good = 0;
    while let Some(end) = batch(&bytes, good) {
        good = end;
    }
    let tail = &bytes[good..];
    // The file is longer than what is written: the rest is zeros.
    let Some(last) = tail.iter().rposition(|byte| *byte != 0) else {
        return Ok(None);
    };
    let follows = |at: usize| batch(tail, at + TRAILER.len()).is_some();
    if memchr::memmem::find_iter(tail, TRAILER).any(follows) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!(
                "{} is damaged before its last write; restore the data directory from a copy",
                path.display()
            ),
        ));
    }
    fs::write(path.with_extension("jnl.torn"), &tail[..=last])?;
    let file = fs::OpenOptions::new().write(true).open(&path)?;
    file.set_len(good as u64)?;
    file.sync_all()?;
    fs::File::open(dir)?.sync_all()?;
    Ok(Some(last as u64 + 1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::{Changes, Space, StateStore};

    fn fill(dir: &Path) {
        let store = StateStore::open(dir).unwrap();
        for n in 0..20 {
            let mut changes = Changes::default();
            changes.put(&Space::new("t", 0), format!("k{n}"), vec![7; 1000]);
            store.apply(&changes, &[]).unwrap();
        }
    }

    fn count(dir: &Path) -> usize {
        let store = StateStore::open(dir).unwrap();
        store.scan(&Space::new("t", 0), b"k").count()
    }

    #[test]
    fn a_torn_tail_is_cut_and_older_damage_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        fill(dir.path());
        assert_eq!(cut_torn_tail(dir.path()).unwrap(), None);
        let path = newest(dir.path()).unwrap().unwrap();
        let whole = fs::read(&path).unwrap();
        let mut end = 0;
        let mut ends = vec![0];
        while let Some(next) = batch(&whole, end) {
            end = next;
            ends.push(end);
        }
        let last = ends[ends.len() - 2];
        // A hole in the last write.
        let mut torn = whole.clone();
        torn[last + 300..last + 600].fill(0);
        fs::write(&path, &torn).unwrap();
        assert!(cut_torn_tail(dir.path()).unwrap().is_some());
        assert_eq!(count(dir.path()), 19);
        // The same in an earlier one.
        let mut damaged = whole.clone();
        damaged[ends[5] + 300] ^= 1;
        fs::write(&path, &damaged).unwrap();
        assert!(cut_torn_tail(dir.path()).is_err());
        fs::write(&path, &whole).unwrap();
        assert_eq!(count(dir.path()), 20);
    }
}
