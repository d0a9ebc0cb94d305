//! Admissions whose keys' rows are not written yet: one row for all of a transaction, in place of one for each key.
//!
//! A transaction with many admissions touches nearly as many keys. It notes them in the journal; when that has become long, the keys
//! of its oldest row are written, each once for all that came meanwhile, and the row goes. Each key's row says which of the
//! journal it reflects. The last row always stays, so that numbers never begin anew.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::{
    base::{clock::Millis, id::Identity},
    state::{Space, StateError, StateStore},
    stream::{Context, transform::row},
};

/// Rows of the journal.
const ROWS: usize = 256;
/// Admissions in one of them: a record of the changelog has 1 MB at most.
const IN_A_ROW: usize = 16_384;
/// Bytes of an admission.
const ENTRY: usize = 24;

/// An admission, by the key.
pub(crate) type Entry = (Identity, Millis);

/// The journal of one partition.
pub(crate) struct Journal {
    /// Admissions that it may have.
    most: usize,
    /// Number and keys, oldest first.
    rows: VecDeque<(u64, Vec<Identity>)>,
    entries: usize,
    next: u64,
}

fn key(number: u64) -> Vec<u8> {
    let mut key = vec![b'j'];
    key.extend_from_slice(&number.to_be_bytes());
    key
}

fn damaged() -> StateError {
    StateError::damaged("a row of the journal of limits")
}

impl Journal {
    /// Reads it back; each admission is told with its row's number, oldest first.
    pub(crate) fn load(
        store: &StateStore,
        space: &Space,
        most: usize,
        mut told: impl FnMut(u64, Entry) -> Result<(), StateError>,
    ) -> Result<Self, StateError> {
        let mut journal = Self {
            most,
            rows: VecDeque::new(),
            entries: 0,
            next: 0,
        };
        for stored in store.scan(space, &row(b"j")) {
            let (key, value) = stored?;
            let number = key.last_chunk().ok_or_else(damaged)?;
            let number = u64::from_be_bytes(*number);
            let mut keys = Vec::with_capacity(value.len() / ENTRY);
            for entry in value.chunks_exact(ENTRY) {
                let (id, at) = entry.split_first_chunk::<16>().ok_or_else(damaged)?;
                let at = at.try_into().map_err(|_| damaged())?;
                keys.push(Identity(*id));
                told(number, (Identity(*id), Millis(i64::from_be_bytes(at))))?;
            }
            journal.keep(number, keys);
        }
        Ok(journal)
    }

    fn keep(&mut self, number: u64, keys: Vec<Identity>) {
        self.entries += keys.len();
        self.rows.push_back((number, keys));
        self.next = number + 1;
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.entries
    }

    /// The number after the last: a key's row that is written now reflects all before it.
    pub(crate) fn next(&self) -> u64 {
        self.next
    }

    /// Adds the admissions of a transaction.
    pub(crate) fn add(&mut self, entries: &[Entry], cx: &mut Context<'_>) {
        for entries in entries.chunks(IN_A_ROW) {
            let mut value = Vec::with_capacity(entries.len() * ENTRY);
            for (id, at) in entries {
                value.extend_from_slice(&id.0);
                value.extend_from_slice(&at.0.to_be_bytes());
            }
            cx.put(&key(self.next), Bytes::from(value));
            let keys = entries.iter().map(|(id, _)| *id).collect();
            self.keep(self.next, keys);
        }
    }

    /// Takes the oldest row away where there are too many, but for the last: all its keys are to be written.
    pub(crate) fn fold(&mut self, cx: &mut Context<'_>) -> Option<(u64, Vec<Identity>)> {
        let long = self.entries > self.most || self.rows.len() > ROWS;
        if !long || self.rows.len() < 2 {
            return None;
        }
        let (number, keys) = self.rows.pop_front()?;
        self.entries -= keys.len();
        cx.delete(&key(number));
        Some((number, keys))
    }
}
