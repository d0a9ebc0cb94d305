//! What is known of one key of a rate limit, and its row.
//!
//! | bytes | hold |
//! |---|---|
//! | 8, 8 | numbers of the first record that waits, and of the next one that will |
//! | 8 | when its timer is due; the smallest number: there is none |
//! | … | the times of admissions ([`Times::encode`]) |
//! | 8 | the first row of the journal that is not contained; rows from before there was a journal lack this |

use bytes::Bytes;

use crate::topology::syntax::model::{Over, RateLimit};
use crate::{
    base::{clock::Millis, id::Identity},
    limits::Times,
    state::{CodecError, Value},
};

/// How long a transaction of an earlier owner may have gone on: the log ends it then.
const MAX_COMMIT_MS: i64 = 10_000;
/// What a key weighs in memory, in admissions.
const KEY_WEIGHT: usize = 8;

/// One key.
#[derive(Clone, Default)]
pub(super) struct KeyState {
    pub(super) times: Times,
    /// The number of the first record that waits, and of the next one that will.
    pub(super) head: u64,
    pub(super) tail: u64,
    /// When its timer is due: there is one as long as an admission counts.
    pub(super) timer: Option<Millis>,
    /// It is written when the transaction closes.
    pub(super) changed: bool,
    /// Its row contains the rows of the journal before this number.
    pub(super) flushed_to: u64,
    /// The rows of the journal from this number on have nothing of it.
    pub(super) journaled_to: u64,
    /// How many of the newest admissions belong to the open transaction and leave with it.
    pub(super) leaving: u32,
    /// It was read back from the store: its newest admissions may have left later than it says.
    pub(super) read_back: bool,
}

impl KeyState {
    /// In admissions.
    pub(super) fn weight(&self) -> usize {
        KEY_WEIGHT + self.times.len()
    }

    /// One more is admitted in the open transaction, and leaves with it.
    pub(super) fn leave(&mut self, id: Identity, leaving: &mut Vec<Identity>) {
        if self.leaving == 0 {
            leaving.push(id);
        }
        self.leaving += 1;
    }

    /// What was read back counts as late as it may have left.
    pub(super) fn postpone_read_back(
        &mut self,
        limit: &RateLimit,
        now: Millis,
        commits: &CommitTimes,
    ) {
        if std::mem::take(&mut self.read_back)
            && limit.over == Over::Defer
            && let Some(newest) = self.times.newest()
        {
            let count = self.times.newest_count();
            self.times
                .postpone_newest(count, commits.latest(newest, now));
        }
    }

    /// A time that follows from what was admitted at the open transaction's time, which leaves a little later.
    pub(super) fn after_commit(&self, at: Millis, commits: &CommitTimes) -> Millis {
        match self.leaving {
            0 => at,
            _ => Millis(at.0.saturating_add(commits.last)),
        }
    }

    /// The journal has something that its row does not contain.
    pub(super) fn is_pending(&self) -> bool {
        self.journaled_to > self.flushed_to
    }

    /// Has it written when the transaction closes.
    pub(super) fn change(&mut self, id: Identity, changed: &mut Vec<Identity>) {
        if !std::mem::replace(&mut self.changed, true) {
            changed.push(id);
        }
    }
}

impl Value for KeyState {
    fn to_row(&self, out: &mut Vec<u8>) -> Result<Bytes, CodecError> {
        for number in [self.head, self.tail] {
            out.extend_from_slice(&number.to_be_bytes());
        }
        let timer = self.timer.map_or(i64::MIN, |at| at.0);
        out.extend_from_slice(&timer.to_be_bytes());
        self.times.encode(out);
        out.extend_from_slice(&self.flushed_to.to_be_bytes());
        Ok(Bytes::copy_from_slice(out))
    }

    fn from_row(row: Bytes) -> Result<Self, CodecError> {
        let cut = || CodecError::new("it ends too soon");
        let mut rest = &row[..];
        let mut number = || -> Result<[u8; 8], CodecError> {
            let (first, more) = rest.split_first_chunk::<8>().ok_or_else(cut)?;
            rest = more;
            Ok(*first)
        };
        let (head, tail) = (u64::from_be_bytes(number()?), u64::from_be_bytes(number()?));
        let timer = i64::from_be_bytes(number()?);
        let times = Times::decode(&mut rest).map_err(|_| cut())?;
        let flushed_to = rest
            .first_chunk()
            .map_or(0, |bytes| u64::from_be_bytes(*bytes));
        Ok(Self {
            head,
            tail,
            timer: (timer != i64::MIN).then_some(Millis(timer)),
            times,
            changed: false,
            flushed_to,
            journaled_to: 0,
            leaving: 0,
            read_back: true,
        })
    }
}

/// How long it takes from a transaction's time until all of it has left.
#[derive(Clone, Copy, Default)]
pub(super) struct CommitTimes {
    /// When this limiter's first transaction began: rows with earlier times were written before it was loaded.
    pub(super) opened: Option<Millis>,
    last: i64,
    longest: i64,
}

impl CommitTimes {
    /// A transaction took so many milliseconds.
    pub(super) fn took(&mut self, ms: i64) {
        self.last = ms.max(0);
        self.longest = self.longest.max(self.last);
    }

    /// The latest time at which what was counted at `at`, and then read back from the store, may have left: [`MAX_COMMIT_MS`]
    /// later if another owner wrote it, though before the partition was opened, or as late as the longest commit since.
    fn latest(&self, at: Millis, now: Millis) -> Millis {
        let opened = self.opened.unwrap_or(now);
        let (most, end) = if at < opened {
            (MAX_COMMIT_MS, opened)
        } else {
            (self.longest, now)
        };
        Millis(at.0.saturating_add(most)).min(end).max(at)
    }
}
