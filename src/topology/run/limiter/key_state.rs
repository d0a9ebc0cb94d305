//! The state of one key of a rate limit, and its row in the store.
//!
//! | bytes | field |
//! |---|---|
//! | 8, 8 | the numbers of the first deferred record, and of the next one to be deferred |
//! | 8 | when the timer is due, in milliseconds; `i64::MIN`: there is no timer |
//! | … | the times of admissions ([`Times::encode`]) |
//! | 8 | the number of the first journal row that is not included; absent in rows of versions without a journal |

use bytes::Bytes;

use crate::topology::syntax::model::{Over, RateLimit};
use crate::{
    base::{clock::Millis, id::Identity},
    limits::Times,
    state::{CodecError, Value},
};

/// The longest transaction of an earlier owner, in milliseconds: the log aborts longer ones.
const MAX_COMMIT_MS: i64 = 10_000;
/// The memory of a key without its admissions, in units of one admission.
const KEY_WEIGHT: usize = 8;

/// The state of one key.
#[derive(Clone, Default)]
pub(super) struct KeyState {
    pub(super) times: Times,
    /// The numbers of the first deferred record, and of the next one to be deferred.
    pub(super) head: u64,
    pub(super) tail: u64,
    /// When its timer is due. There is a timer as long as an admission is in the window.
    pub(super) timer: Option<Millis>,
    /// It will be written when the transaction closes.
    pub(super) changed: bool,
    /// Its row includes the journal rows before this number.
    pub(super) flushed_to: u64,
    /// The journal rows from this number on do not concern it.
    pub(super) journaled_to: u64,
    /// The number of the newest admissions that belong to the open transaction; their records leave when it commits.
    pub(super) leaving: u32,
    /// It was loaded from the store: the records of its newest admissions may have left later than at the stored time.
    pub(super) read_back: bool,
}

impl KeyState {
    /// Its memory, in units of one admission.
    pub(super) fn weight(&self) -> usize {
        KEY_WEIGHT + self.times.len()
    }

    /// Counts an admission in the open transaction; its record leaves when the transaction commits.
    pub(super) fn leave(&mut self, id: Identity, leaving: &mut Vec<Identity>) {
        if self.leaving == 0 {
            leaving.push(id);
        }
        self.leaving += 1;
    }

    /// After loading: moves the newest admissions to the latest time at which their records may have left.
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

    /// Corrects a time that was derived from admissions in the open transaction, whose records leave a little later.
    pub(super) fn after_commit(&self, at: Millis, commits: &CommitTimes) -> Millis {
        match self.leaving {
            0 => at,
            _ => Millis(at.0.saturating_add(commits.last)),
        }
    }

    /// Whether the journal has admissions that its row does not include.
    pub(super) fn is_pending(&self) -> bool {
        self.journaled_to > self.flushed_to
    }

    /// Marks it to be written when the transaction closes.
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

/// The durations, in milliseconds, from the time of a transaction to the end of its commit.
#[derive(Clone, Copy, Default)]
pub(super) struct CommitTimes {
    /// When this limiter's first transaction began: rows with earlier times were written before it was loaded.
    pub(super) opened: Option<Millis>,
    last: i64,
    longest: i64,
}

impl CommitTimes {
    /// Notes the duration of a transaction.
    pub(super) fn took(&mut self, ms: i64) {
        self.last = ms.max(0);
        self.longest = self.longest.max(self.last);
    }

    /// The latest time at which a record that was admitted at `at`, by a row loaded from the store, may have left. If another owner wrote
    /// the row, that is [`MAX_COMMIT_MS`] later, but before the partition was opened; otherwise it is later by the longest commit since.
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
