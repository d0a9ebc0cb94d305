//! `rate_limit`: a sliding window for each key in the keyed state, and the records that wait for it, first in, first out.
//!
//! | table | letter | key | holds |
//! |---|---|---|---|
//! | `KEYS` | `l` | id | one key: its admissions, which records wait, and when its timer is due ([`key_state`]) |
//! | `WAITING` | `q` | id, number | a record that waits |
//! | `JOURNAL` | `j` | number | the admissions of a transaction that are not in the keys' rows yet ([`journal`]) |
//!
//! The timer of a key (`policy 0x00 id`) admits what waits, and drops the row when nothing in it counts any more.
//!
//! # Which time counts
//!
//! With `over: reject` it is the time at which the record was appended to the limiter's input: a lane that was away turns nothing
//! away that came in time.
//!
//! With `over: defer` it is the time at which the record leaves, whether it waited or not: no window of the times at which records
//! leave has more than the limit, however long the lane was away. A record leaves at some time between the transaction's
//! [`Context::now`] and its commit. It is counted at the former, and in memory at the latter once that is known
//! ([`Limiter::committed`]). Rows read back from the store do not say how long the commit of the newest admissions took:
//! they count as late as they may have left ([`key_state::CommitTimes`]).

mod journal;
mod key_cache;
mod key_state;
#[cfg(test)]
mod tests;

use bytes::Bytes;

use self::{
    journal::{Admission, Journal},
    key_cache::KeyCache,
    key_state::{CommitTimes, KeyState},
};
use crate::topology::syntax::model::{Over, RateLimit};
use crate::{
    base::{clock::Millis, id::Identity},
    limits::{Limit, Times},
    state::{Space, StateError, StateStore, Table},
    stream::{Context, Rejected},
};

const KEYS: Table<Identity, KeyState> = Table::new("rate limits", b'l');
const WAITING: Table<(Identity, u64), Bytes> = Table::new("records that wait for a limit", b'q');

/// Records of one key that may wait.
const MAX_WAITING: u64 = 1000;
/// Records of one key that one firing of its timer admits: the rest follows in the next transaction.
const FIRE_RECORDS: usize = 100;
/// Bytes of records after which one firing admits no more.
const FIRE_BYTES: usize = 8 << 20;

/// How much a partition keeps.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// A transaction with fewer admissions than this writes the keys' rows at once, and no row of the journal.
    journal_row_min: usize,
    /// Admissions in the journal.
    journal_max: usize,
    /// What the keys in memory that were used recently may weigh ([`KeyCache`]).
    cache_max: usize,
}

pub(crate) const BOUNDS: Bounds = Bounds {
    journal_row_min: 64,
    journal_max: 32_768,
    cache_max: 1 << 18,
};

/// What becomes of a record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Verdict {
    Pass,
    /// It waits in the state.
    Deferred,
    /// It is over the limit; there may be room at this time.
    Throttled(Millis),
}

/// The keys of one partition. What is in memory follows from the state: it is made anew after an abort.
pub(crate) struct Limiter {
    bounds: Bounds,
    keys: KeyCache,
    journal: Journal,
    /// Admissions of the open transaction.
    admitted: Vec<Admission>,
    /// Keys of which it changed more than that.
    changed: Vec<Identity>,
    /// Keys with admissions that leave with the open transaction, and when it began.
    leaving: Vec<Identity>,
    began: Millis,
    commits: CommitTimes,
}

fn timer_key(policy: &str, id: &Identity) -> Bytes {
    let mut key = Vec::with_capacity(policy.len() + 17);
    key.extend_from_slice(policy.as_bytes());
    key.push(0);
    key.extend_from_slice(&id.0);
    key.into()
}

/// The policy and the key of a timer.
pub(crate) fn parse_timer(key: &[u8]) -> Option<(&str, Identity)> {
    let at = key.len().checked_sub(17)?;
    let (policy, rest) = key.split_at(at);
    let id = rest.strip_prefix(&[0])?.try_into().ok()?;
    Some((std::str::from_utf8(policy).ok()?, Identity(id)))
}

impl RateLimit {
    pub(crate) fn as_limit(&self) -> Limit {
        Limit {
            limit: self.limit,
            window_ms: self.window_ms,
        }
    }
}

impl Limiter {
    /// Reads back what the journal has.
    pub(crate) fn load(
        store: &StateStore,
        space: &Space,
        bounds: Bounds,
    ) -> Result<Self, StateError> {
        let mut keys = KeyCache::default();
        let journal = Journal::load(store, space, bounds.journal_max, |number, (id, at)| {
            let key = keys.key(id, |id| KEYS.get(store, space, id))?;
            // Without a timer nothing of it counts any more.
            if number >= key.flushed_to && key.timer.is_some() {
                key.times.add(at);
                key.journaled_to = number + 1;
                key.read_back = true;
            }
            Ok(())
        })?;
        Ok(Self {
            bounds,
            keys,
            journal,
            admitted: Vec::new(),
            changed: Vec::new(),
            leaving: Vec::new(),
            began: Millis(0),
            commits: CommitTimes::default(),
        })
    }

    /// Judges a record that was appended at `appended`; `record` is what is kept of it should it wait.
    pub(crate) fn judge<E: From<StateError> + From<Rejected>>(
        &mut self,
        id: Identity,
        limit: &RateLimit,
        appended: Millis,
        cx: &mut Context<'_>,
        record: impl FnOnce() -> Result<Bytes, E>,
    ) -> Result<Verdict, E> {
        let sliding = limit.as_limit();
        self.begin(cx.now());
        let key = self.keys.key(id, |id| cx.get(&KEYS, id))?;
        let now = match limit.over {
            Over::Reject => appended,
            Over::Defer => cx.now(),
        };
        key.postpone_read_back(limit, now, &self.commits);
        let refused = if key.head == key.tail {
            key.times.admit(sliding, now).err()
        } else {
            // Those who wait come first.
            Some(key.times.next_free(sliding).unwrap_or(now).max(now))
        };
        let Some(at) = refused else {
            if limit.over == Over::Defer {
                key.leave(id, &mut self.leaving);
            }
            if key.timer.is_none() {
                key.change(id, &mut self.changed);
                set_timer(key, key.times.empty_at(sliding), limit, &id, cx);
            } else if let Some(at) = key.times.newest() {
                self.admitted.push((id, at));
            }
            self.keys.weight += 1;
            return Ok(Verdict::Pass);
        };
        if limit.over == Over::Reject || key.tail - key.head >= MAX_WAITING {
            return Ok(Verdict::Throttled(at));
        }
        cx.try_put(&WAITING, &(id, key.tail), &record()?)?;
        key.tail += 1;
        key.change(id, &mut self.changed);
        let due = key.after_commit(at, &self.commits);
        if key.timer.is_none_or(|timer| timer > due) {
            set_timer(key, Some(due), limit, &id, cx);
        }
        Ok(Verdict::Deferred)
    }

    /// A key's timer has fired: the records that may go on now, in order, with their numbers. `last`: none behind this number.
    pub(crate) fn fire(
        &mut self,
        id: Identity,
        limit: &RateLimit,
        now: Millis,
        last: Option<u64>,
        cx: &mut Context<'_>,
    ) -> Result<Vec<(u64, Bytes)>, StateError> {
        let sliding = limit.as_limit();
        self.begin(now);
        let key = self.keys.key(id, |id| cx.get(&KEYS, id))?;
        key.postpone_read_back(limit, now, &self.commits);
        key.timer = None;
        key.change(id, &mut self.changed);
        let (mut admitted, mut bytes) = (Vec::new(), 0);
        while key.head < key.tail
            && admitted.len() < FIRE_RECORDS
            && bytes < FIRE_BYTES
            && last.is_none_or(|last| key.head <= last)
            && key.times.admit(sliding, now).is_ok()
        {
            key.leave(id, &mut self.leaving);
            let number = key.head;
            if let Some(record) = take_first(key, id, cx)? {
                bytes += record.len();
                admitted.push((number, record));
            }
        }
        let due = if key.head < key.tail {
            let free = key.times.next_free(sliding).filter(|at| *at > now);
            Some(free.map_or(now, |at| key.after_commit(at, &self.commits)))
        } else {
            key.times.empty_at(sliding).filter(|at| *at > now)
        };
        if due.is_none() {
            key.times = Times::default();
            key.leaving = 0;
        }
        set_timer(key, due, limit, &id, cx);
        self.keys.weight += admitted.len();
        Ok(admitted)
    }

    fn begin(&mut self, now: Millis) {
        self.began = now;
        self.commits.opened.get_or_insert(now);
    }

    /// The transaction was committed: what it admitted had left by `now`.
    pub(crate) fn committed(&mut self, now: Millis) {
        if self.leaving.is_empty() {
            return;
        }
        self.commits.took(now.0.saturating_sub(self.began.0));
        for id in self.leaving.drain(..) {
            if let Some(key) = self.keys.in_memory(&id) {
                let count = std::mem::take(&mut key.leaving);
                key.times.postpone_newest(count as usize, now);
            }
        }
    }

    /// Takes all that waits for a key whose policy is gone, and forgets the key.
    pub(crate) fn remove(
        &mut self,
        id: Identity,
        cx: &mut Context<'_>,
    ) -> Result<Vec<Bytes>, StateError> {
        let key = self.keys.key(id, |id| cx.get(&KEYS, id))?;
        key.change(id, &mut self.changed);
        let mut waiting = Vec::new();
        while key.head < key.tail {
            waiting.extend(take_first(key, id, cx)?);
        }
        *key = KeyState {
            changed: true,
            ..KeyState::default()
        };
        Ok(waiting)
    }

    /// Adds the transaction's admissions to the journal, and marks the keys of the rows that leave it as changed.
    fn write_journal(&mut self, cx: &mut Context<'_>) {
        if self.admitted.len() < self.bounds.journal_row_min {
            for (id, _) in self.admitted.drain(..) {
                if let Some(key) = self.keys.in_memory(&id) {
                    key.change(id, &mut self.changed);
                }
            }
        }
        self.journal.add(&self.admitted, cx);
        for (id, _) in self.admitted.drain(..) {
            if let Some(key) = self.keys.in_memory(&id) {
                key.journaled_to = self.journal.next();
            }
        }
        while let Some((number, ids)) = self.journal.take_oldest(cx) {
            for id in ids {
                let Some(key) = self.keys.in_memory(&id) else {
                    continue;
                };
                if key.is_pending() && key.flushed_to <= number {
                    key.change(id, &mut self.changed);
                }
            }
        }
    }

    /// Writes the keys that changed: one row each, however many records there were.
    pub(crate) fn close(&mut self, cx: &mut Context<'_>) {
        self.write_journal(cx);
        for id in self.changed.drain(..) {
            let Some(key) = self.keys.in_memory(&id) else {
                continue;
            };
            key.changed = false;
            key.flushed_to = self.journal.next();
            if key.times.is_empty() && key.head == key.tail {
                cx.delete(&KEYS, &id);
            } else {
                cx.put(&KEYS, &id, key);
            }
        }
        self.keys.shrink(self.bounds.cache_max);
    }
}

/// Takes the first record that waits; `None`: there is no such row.
fn take_first(
    key: &mut KeyState,
    id: Identity,
    cx: &mut Context<'_>,
) -> Result<Option<Bytes>, StateError> {
    let row = (id, key.head);
    key.head += 1;
    let record = cx.get(&WAITING, &row)?;
    if record.is_some() {
        cx.delete(&WAITING, &row);
    }
    Ok(record)
}

fn set_timer(
    key: &mut KeyState,
    due: Option<Millis>,
    limit: &RateLimit,
    id: &Identity,
    cx: &mut Context<'_>,
) {
    let name = timer_key(&limit.policy.value, id);
    if let Some(before) = key.timer.take_if(|before| Some(*before) != due) {
        cx.cancel_timer(name.clone(), before);
    }
    key.timer = due;
    if let Some(due) = due {
        cx.set_timer(name, due);
    }
}
