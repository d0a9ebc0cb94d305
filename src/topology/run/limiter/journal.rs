//! Admissions whose keys' rows are not written yet: one row for all of a transaction, in place of one for each key.
//!
//! A transaction with many admissions touches nearly as many keys. It adds them to the journal; when that has become long, the keys
//! of its oldest row are written, each once for all that came meanwhile, and the row is deleted. Each key's row says which rows of
//! the journal it contains. The last row always stays, so that numbers never begin anew.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::{
    base::{clock::Millis, id::Identity},
    state::{CodecError, Space, StateError, StateStore, Table, Value},
    stream::Context,
};

const JOURNAL: Table<u64, Row> = Table::new("journal of rate limits", b'j');

/// Rows of the journal.
const ROWS: usize = 256;
/// Admissions in one of them: a record of the changelog has 1 MB at most.
const ROW_ADMISSIONS: usize = 16_384;
/// Bytes of an admission: the key's id and a time.
const ADMISSION_BYTES: usize = 24;

/// An admission of a key.
pub(super) type Admission = (Identity, Millis);

/// Admissions, one after the other.
struct Row(Bytes);

impl Row {
    fn of(admissions: &[Admission]) -> Self {
        let mut row = Vec::with_capacity(admissions.len() * ADMISSION_BYTES);
        for (id, at) in admissions {
            row.extend_from_slice(&id.0);
            row.extend_from_slice(&at.0.to_be_bytes());
        }
        Self(row.into())
    }

    fn admissions(&self) -> impl Iterator<Item = Admission> {
        let (admissions, _) = self.0.as_chunks::<ADMISSION_BYTES>();
        admissions.iter().map(|admission| {
            let (mut id, mut at) = ([0; 16], [0; 8]);
            id.copy_from_slice(&admission[..16]);
            at.copy_from_slice(&admission[16..]);
            (Identity(id), Millis(i64::from_be_bytes(at)))
        })
    }
}

impl Value for Row {
    fn to_row(&self, _: &mut Vec<u8>) -> Result<Bytes, CodecError> {
        Ok(self.0.clone())
    }

    fn from_row(row: Bytes) -> Result<Self, CodecError> {
        Ok(Self(row))
    }
}

/// The journal of one partition.
pub(super) struct Journal {
    /// Admissions that it may have.
    max: usize,
    /// Numbers and keys, oldest first.
    rows: VecDeque<(u64, Vec<Identity>)>,
    admissions: usize,
    next: u64,
}

impl Journal {
    /// Reads it back; `each` gets each admission with its row's number, oldest first.
    pub(super) fn load(
        store: &StateStore,
        space: &Space,
        max: usize,
        mut each: impl FnMut(u64, Admission) -> Result<(), StateError>,
    ) -> Result<Self, StateError> {
        let mut journal = Self {
            max,
            rows: VecDeque::new(),
            admissions: 0,
            next: 0,
        };
        for stored in JOURNAL.scan(store, space) {
            let (number, row) = stored?;
            for admission in row.admissions() {
                each(number, admission)?;
            }
            journal.keep(number, row.admissions().map(|(id, _)| id).collect());
        }
        Ok(journal)
    }

    fn keep(&mut self, number: u64, keys: Vec<Identity>) {
        self.admissions += keys.len();
        self.rows.push_back((number, keys));
        self.next = number + 1;
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.admissions
    }

    /// The number after the last: a key's row that is written now contains all before it.
    pub(super) fn next(&self) -> u64 {
        self.next
    }

    /// Adds the admissions of a transaction.
    pub(super) fn add(&mut self, admissions: &[Admission], cx: &mut Context<'_>) {
        for admissions in admissions.chunks(ROW_ADMISSIONS) {
            cx.put(&JOURNAL, &self.next, &Row::of(admissions));
            let keys = admissions.iter().map(|(id, _)| *id).collect();
            self.keep(self.next, keys);
        }
    }

    /// Takes the oldest row away where there are too many, but for the last: all its keys are to be written.
    pub(super) fn take_oldest(&mut self, cx: &mut Context<'_>) -> Option<(u64, Vec<Identity>)> {
        let long = self.admissions > self.max || self.rows.len() > ROWS;
        if !long || self.rows.len() < 2 {
            return None;
        }
        let (number, keys) = self.rows.pop_front()?;
        self.admissions -= keys.len();
        cx.delete(&JOURNAL, &number);
        Some((number, keys))
    }
}
